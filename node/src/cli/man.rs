//! `leoma-node man`: manual pages.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_mangen::Man;

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Folder for the pages of all subcommands; without it the main page goes to stdout.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs) -> Result<()> {
    let mut definition = super::definition().disable_help_subcommand(true);
    definition.build();
    let Some(folder) = &args.out else {
        return super::output(page(&definition)?.1.as_bytes());
    };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{} cannot be made", folder.display()))?;
    let mut commands = vec![&definition];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands());
        let (name, text) = page(command)?;
        let path = folder.join(name);
        std::fs::write(&path, text)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    super::output(format!("{}\n", folder.display()).as_bytes())
}

/// File name and text of a page.
fn page(command: &Command) -> Result<(String, String)> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render(&mut page).context("the page cannot be made")?;
    let text = String::from_utf8(page).context("the page is no text")?;
    // The generator lets examples flow together; they are lines.
    let text = match text.split_once(".SH EXTRA\n") {
        Some((before, after)) => {
            let (extra, rest) = after.split_once(".SH").unwrap_or((after, ""));
            format!("{before}.SH EXAMPLES AND EXIT CODES\n.nf\n{extra}.fi\n.SH{rest}")
        }
        None => text,
    };
    Ok((man.get_filename(), text))
}
