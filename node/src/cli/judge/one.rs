//! `leoma-node judge`: one clip.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::options::Options;
use super::{JudgementFormat as Format, print_none, source, text, write_whole};
use crate::Error;
use crate::cli::layers::Origins;
use crate::judge::evidence::Evidence;
use crate::judge::input::JudgeInput;
use crate::judge::local::Dump;
use crate::judge::log::Log;
use crate::judge::side::{Bench, Judgement};

/// A clip and how it is judged.
#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// The clip.
    #[arg(long, value_name = "FILE", required = true)]
    video: Option<PathBuf>,
    /// The frame that it had to begin with (PNG, JPEG or WebP).
    #[arg(long, value_name = "FILE", required = true)]
    first_frame: Option<PathBuf>,
    /// What it was to show.
    #[arg(long, value_name = "TEXT", required = true)]
    prompt: Option<String>,
    /// The subnet's task that the clip belongs to: the budget of a task counts by it.
    #[arg(long, value_name = "ID")]
    task_id: Option<String>,
    #[command(flatten)]
    pub(super) options: Options,
    /// Form of the result.
    #[arg(long, value_enum, default_value_t = Format::Text, help_heading = "Output")]
    format: Format,
    /// File for the evidence bundle.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    evidence: Option<PathBuf>,
    /// File to which a line is added for every judgement, for `judge report` and `judge calibrate`.
    #[arg(
        long,
        value_name = "FILE",
        env = "LEOMA_NODE_JUDGE_LOG",
        help_heading = "Output"
    )]
    pub(super) log: Option<PathBuf>,
    /// File for the tensors that the local model's scores were made from (safetensors): pixel_values, grid, input_ids,
    /// position_ids, vision, logits and others. Needs --local-model.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    dump: Option<PathBuf>,
}

pub(super) fn run(args: OneArgs, origins: &Origins) -> Result<ExitCode> {
    // The parser has made sure of them; a layer cannot take them away again.
    let (Some(video), Some(first), Some(prompt)) = (&args.video, &args.first_frame, &args.prompt)
    else {
        return Err(Error::caller("video", "give --video, --first-frame and --prompt").into());
    };
    let dump = args.dump.as_deref().map(|path| Arc::new(Dump::new(path)));
    let bench = args.options.bench_with(origins, dump.as_ref())?;
    let input = match source::input(video, first, prompt, args.task_id.as_deref()) {
        Ok(input) => Arc::new(input),
        Err(none) => return print_none(&none, args.format),
    };
    let judgement = bench.judge(&input);
    let mut evidence = None;
    let written = write(&args, &input, &bench, &judgement, &mut evidence);
    let printed = match args.format {
        Format::Text => text::judgement(&judgement),
        Format::Json => {
            let object = json!({"judgement": judgement, "evidence_sha256": evidence});
            format!("{object}\n")
        }
        Format::Html => {
            let judges = bench.configurations(&judgement);
            crate::judge::page::page(&input, &judgement, &judges, evidence.as_deref())
        }
    };
    // It may have been paid for: a full disk must not take it away.
    crate::cli::output(printed.as_bytes())?;
    written?;
    if dump.is_some_and(|dump| !dump.is_written()) {
        let message =
            "was not written: the local model did not come to an end; its outcome says why";
        return Err(Error::caller("dump", message).into());
    }
    Ok(ExitCode::from(match judgement.decision.pass {
        Some(true) => 0,
        Some(false) => 1,
        None => 2,
    }))
}

/// Writes evidence and log, as far as that goes; `digest` becomes that of the evidence.
fn write(
    args: &OneArgs,
    input: &JudgeInput,
    bench: &Bench,
    judgement: &Judgement,
    digest: &mut Option<String>,
) -> Result<()> {
    let judges = bench.configurations(judgement);
    if let Some(path) = &args.evidence {
        let now = crate::time::now_rfc3339();
        let evidence =
            Evidence::new(input, &judges, judgement.clone(), now).map_err(Error::from)?;
        let bytes = evidence.to_bytes().map_err(Error::from)?;
        write_whole(path, &bytes).map_err(Error::from)?;
        *digest = Some(evidence.digest);
    }
    if let Some(path) = &args.log {
        Log::new(path)
            .record(input, &judges, judgement.clone(), |line| {
                line.evidence_sha256.clone_from(digest);
            })
            .map_err(Error::from)?;
    }
    Ok(())
}
