//! The `leoma-node` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    leoma_node::cli::run()
}
