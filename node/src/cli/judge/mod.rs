//! `leoma-node judge`: does a clip pass?
//!
//! Exit codes differ from those of the other commands: 0 passes, 1 fails, 2 no verdict; 130 interrupted.

mod batch;
mod bench;
mod calibrate;
mod one;
mod options;
mod pairs;
mod prompt;
mod remote;
mod report;
mod source;
mod text;
mod verify;
mod weights;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, FromArgMatches, Subcommand, ValueEnum};
use leoma_models::Fault;

use super::config::settings_of;
use super::layers::{Failure, Origins};
use super::units::Seconds;
use crate::Error;
use crate::judge::log::Log;
use crate::judge::page;
use crate::judge::side::Bench;
use crate::judge::verdict::{NoVerdict, fault_name};
use crate::media::MediaError;
use crate::media::publish::Pending;

const AFTER_HELP: &str = "\
Exit codes of these commands:
  0    it passes; of `batch`: every clip has a verdict; of `verify`: the bundle holds; of `prompt`: there is one
  1    it fails; of `verify`: the bundle does not hold
  2    no verdict (of `batch`: on some clip): bad input, no key, a refusal, a spent budget, the network; standard
       output says which
  130  interrupted

No verdict says nothing about a clip, unless it says that the fault is the artifact's.";

/// Longest time for judges, far from what clocks cannot add.
const MAX_DEADLINE: Duration = Duration::from_secs(86_400);

/// Options of `judge` itself, or one of its subcommands.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = AFTER_HELP
)]
pub(super) struct JudgeArgs {
    #[command(subcommand)]
    command: Option<JudgeCommand>,
    #[command(flatten)]
    one: one::OneArgs,
}

#[derive(Debug, Subcommand)]
enum JudgeCommand {
    /// Judge the clips of many tasks, as the subnet stores them; goes on where it was stopped.
    #[command(after_help = AFTER_HELP)]
    Batch(Box<batch::BatchArgs>),
    /// Say how far the local judge agrees with the remote one, from a log of their verdicts.
    Report(report::ReportArgs),
    /// Learn from a log what the local judge's scores say about the remote judge's decision.
    Calibrate(calibrate::CalibrateArgs),
    /// Show what the signals see of damages done on purpose, and what they cost on this machine.
    Bench(bench::BenchArgs),
    /// Check an evidence bundle offline: everything in it that can be made again is made again.
    #[command(after_help = AFTER_HELP)]
    Verify(verify::VerifyArgs),
    /// Have a prompt written that describes a clip, as the subnet makes its tasks.
    #[command(after_help = AFTER_HELP)]
    Prompt(Box<prompt::PromptArgs>),
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// How a judgement is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum JudgementFormat {
    /// For people, at a terminal.
    Text,
    /// For programs.
    Json,
    /// A page that needs nothing else, with the frames.
    Html,
}

impl From<Format> for JudgementFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

pub(super) fn run(args: JudgeArgs, origins: &Origins) -> Result<ExitCode> {
    let done = match args.command {
        Some(JudgeCommand::Batch(args)) => batch::run(&args, origins),
        Some(JudgeCommand::Report(args)) => report::run(&args),
        Some(JudgeCommand::Calibrate(args)) => calibrate::run(&args),
        Some(JudgeCommand::Bench(args)) => bench::run(&args),
        Some(JudgeCommand::Verify(args)) => verify::run(&args),
        Some(JudgeCommand::Prompt(args)) => prompt::run(*args, origins),
        None => one::run(args.one, origins),
    };
    // What could not be judged is one case here, whosever fault it is.
    done.or_else(|error| match super::explain(&error) {
        130 => Ok(ExitCode::from(130)),
        _ => Ok(ExitCode::from(2)),
    })
}

/// The judges that `judge` would ask with this line and the log that it would write, for those who judge without being
/// that command: the options that the line lacks come from the same variables and the same table of the configuration
/// file.
///
/// # Errors
/// As the command would end with.
pub(super) fn judges(line: &[OsString], config: Option<&Path>) -> Result<(Bench, Option<Log>)> {
    let resolved = settings_of(line, config)?;
    let args = one::OneArgs::from_arg_matches(resolved.leaf()).map_err(Failure::from)?;
    let log = args.log.as_deref().map(Log::new);
    Ok((args.options.bench(&resolved.origins())?, log))
}

/// The time of `--deadline`.
///
/// # Errors
/// [`Error`] for more than a day.
fn deadline(time: &Seconds) -> Result<Duration, Error> {
    if time.0 > MAX_DEADLINE {
        return Err(Error::caller(
            "deadline",
            "is more than a day; write a time such as 90s or 10m",
        ));
    }
    Ok(time.0)
}

/// The file appears only when it is whole.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), MediaError> {
    let mut pending = Pending::beside(path)?;
    let written = pending.file().write_all(bytes);
    written.map_err(|error| pending.error(error))?;
    pending.publish()?;
    Ok(())
}

/// Prints that there is no verdict.
fn print_none(none: &NoVerdict, format: impl Into<JudgementFormat>) -> Result<ExitCode> {
    let text = match format.into() {
        JudgementFormat::Text => {
            format!("no verdict: {none} (fault: {})\n", fault_name(none.fault))
        }
        JudgementFormat::Json => format!("{}\n", serde_json::json!({"no_verdict": none})),
        JudgementFormat::Html => page::nothing(none),
    };
    super::output(text.as_bytes())?;
    Ok(ExitCode::from(2))
}

/// Warnings go to stderr, so that data stays data.
#[allow(clippy::print_stderr)]
fn warn(warnings: &[String]) {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
}

/// Nothing of this kind is ever a fault of the clip.
fn local(reason: crate::judge::verdict::Reason, message: impl Into<String>) -> NoVerdict {
    NoVerdict::new("input", reason, Fault::Local, message)
}
