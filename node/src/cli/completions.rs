//! `leoma-node completions`: scripts for shells.

use anyhow::Result;
use clap::Args;
use clap_complete::{Shell, generate};

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    generate(
        args.shell,
        &mut super::definition(),
        "leoma-node",
        &mut script,
    );
    super::output(&script)
}
