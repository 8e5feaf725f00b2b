//! `leoma-node judge report`: how far the local judge agrees with the remote one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::calibrate::read_table;
use super::pairs::{PairsArgs, pictures};
use crate::judge::report::{Form, Report};
use crate::judge::statistics::pairs::Selection;

const AFTER_HELP: &str = "\
Exit codes:
  0    the report is written
  1    it is written, with an alarm: kappa has fallen, or --calibration belongs to other judges
  2    bad input
  130  interrupted";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(in crate::cli) struct ReportArgs {
    #[command(flatten)]
    pairs: PairsArgs,
    /// Calibration to be held against the log: does it fit these judges, and do they still agree as they did?
    #[arg(long, value_name = "TABLE")]
    calibration: Option<PathBuf>,
    /// Form of the report; html is one page with drawings and the clips that disagree most.
    #[arg(long, value_enum, default_value_t = Format::Text, help_heading = "Report")]
    format: Format,
    /// File for the report, instead of the standard output.
    #[arg(long, short, value_name = "FILE", help_heading = "Report")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Html,
}

impl From<Format> for Form {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
            Format::Html => Self::Html,
        }
    }
}

pub(super) fn run(args: &ReportArgs) -> Result<ExitCode> {
    let table = args.calibration.as_deref().map(read_table).transpose()?;
    let (pairs, facts) = args.pairs.read()?;
    let selection = Selection::of(&pairs, args.pairs.wanted());
    let mut report = Report::of(&selection, facts, table.as_ref());
    if args.format == Format::Html {
        pictures(&mut report, &args.pairs.logs);
    }
    let text = report.render(args.format.into())?;
    match &args.output {
        None => super::super::output(text.as_bytes())?,
        Some(path) => super::write_whole(path, text.as_bytes())
            .with_context(|| format!("output: cannot write {}", path.display()))?,
    }
    Ok(ExitCode::from(u8::from(report.is_alarm())))
}
