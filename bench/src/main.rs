//! The `leoma-bench` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    leoma_bench::main()
}
