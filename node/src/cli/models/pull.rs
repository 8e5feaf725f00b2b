//! `leoma-node models pull`: a repository of the Hub, brought into the cache.

use std::time::Instant;

use anyhow::Result;
use clap::Args;
use indicatif::DecimalBytes;
use serde_json::json;

use crate::cli::generate::Format;
use crate::cli::hub::{Show, download, settings};
use crate::cli::units::Bytes;
use crate::hub::{PullOptions, RepoId, Revision, Selection};

#[derive(Debug, Args)]
pub(in crate::cli) struct PullArgs {
    /// Repository of the Hub: user/name.
    repo: String,
    /// Branch, tag or full commit.
    #[arg(long, value_name = "REVISION", default_value = "main")]
    revision: String,
    /// Only files whose path matches; `*` stands for `/` too. Repeat for more.
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// No files whose path matches; goes before --include. Repeat for more.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Also read what is there already, and fetch again what is not as the Hub says.
    #[arg(long)]
    verify: bool,
    /// Connections at a time.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        env = "LEOMA_NODE_HUB_CONNECTIONS"
    )]
    connections: usize,
    /// Room on the disk that a download leaves free.
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "1GiB",
        env = "LEOMA_NODE_HUB_KEEP_FREE_BYTES"
    )]
    keep_free_bytes: Bytes,
    /// No progress bar.
    #[arg(long, env = "LEOMA_NODE_NO_PROGRESS")]
    no_progress: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[allow(clippy::print_stdout, clippy::print_stderr)]
pub(super) fn run(args: &PullArgs) -> Result<()> {
    let start = Instant::now();
    let repo: RepoId = args.repo.parse()?;
    let revision: Revision = args.revision.parse()?;
    if !(1..=64).contains(&args.connections) {
        let message = format!("{} is not between 1 and 64", args.connections);
        return Err(crate::Error::caller("connections", message).into());
    }
    let options = PullOptions {
        selection: Selection::new(&args.include, &args.exclude)?,
        verify: args.verify,
        connections: args.connections,
        reserve_bytes: args.keep_free_bytes.0,
        ..PullOptions::default()
    };
    let show = Show::new(args.no_progress);
    let snapshot = download(&settings()?, &repo, &revision, &options, show)?;
    match args.format {
        Format::Json => println!("{}", json!(snapshot)),
        Format::Text => {
            println!("{}", snapshot.path.display());
            eprintln!(
                "{repo}@{}: {} files, {}; {} downloaded in {:.1} s",
                snapshot.commit,
                snapshot.files,
                DecimalBytes(snapshot.bytes),
                DecimalBytes(snapshot.downloaded_bytes),
                start.elapsed().as_secs_f64(),
            );
        }
    }
    Ok(())
}
