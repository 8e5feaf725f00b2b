//! `leoma-node judge prompt`: the prompt of a task, written from a clip.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::remote::RemoteArgs;
use super::{Format, print_none, source, warn};
use crate::cli::layers::Origins;
use crate::cli::units::Seconds;
use crate::judge::input::show;
use crate::judge::sampling::FrameRule;
use crate::judge::verdict::{NoVerdict, Reason};

/// A clip, and who is asked about it.
#[derive(Debug, Args)]
pub(super) struct PromptArgs {
    /// The clip.
    #[arg(long, value_name = "FILE")]
    video: PathBuf,
    /// The subnet's task that the clip is for: the budget of a task counts by it.
    #[arg(long, value_name = "ID")]
    task_id: Option<String>,
    /// Time for the answer.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "90s",
        env = "LEOMA_NODE_JUDGE_DEADLINE"
    )]
    deadline: Seconds,
    #[command(flatten)]
    remote: RemoteArgs,
    /// Form of the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(args: PromptArgs, origins: &Origins) -> Result<ExitCode> {
    let deadline = super::deadline(&args.deadline)?;
    let remote = match args.remote.remote(origins)? {
        Ok(remote) => remote,
        Err(none) => return print_none(&none, args.format),
    };
    warn(&remote.warnings());
    let written = source::frames(&args.video).and_then(|clip| {
        let frames = show(&clip.frames, clip.fps, FrameRule::default()).map_err(|error| {
            NoVerdict::new("input", Reason::Internal, error.fault(), error.to_string())
        })?;
        remote.write_prompt(&frames, args.task_id.as_deref(), deadline)
    });
    let written = match written {
        Ok(written) => written,
        Err(none) => return print_none(&none, args.format),
    };
    if written.cut {
        warn(&[
            "the prompt ends at the limit of tokens, perhaps in the middle of a sentence"
                .to_owned(),
        ]);
    }
    let text = match args.format {
        Format::Text => format!("{}\n", written.text),
        Format::Json => format!("{}\n", serde_json::to_string(&written)?),
    };
    crate::cli::output(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
