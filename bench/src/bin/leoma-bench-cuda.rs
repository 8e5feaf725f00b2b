//! The `leoma-bench` command, linked with CUDA; `leoma-node bench` starts it for a CUDA device.

use std::process::ExitCode;

fn main() -> ExitCode {
    leoma_bench::main()
}
