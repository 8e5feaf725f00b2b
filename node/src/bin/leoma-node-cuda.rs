//! The `leoma-node` command, linked with CUDA.

use std::process::ExitCode;

fn main() -> ExitCode {
    leoma_node::cli::run()
}
