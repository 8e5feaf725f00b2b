//! `leoma-node judge verify`: an evidence bundle, checked offline.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use leoma_models::Fault;

use super::{Format, print_none, source};
use crate::judge::evidence::{CheckResult, Evidence, Media, verify};
use crate::judge::verdict::{NoVerdict, Reason};

/// No bundle is as large: a judgement has a few answers of at most 8 KiB.
const MAX_BYTES: u64 = 16 << 20;

/// A bundle, and what it is about.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The evidence bundle.
    #[arg(value_name = "EVIDENCE")]
    bundle: PathBuf,
    /// The clip: its frames and the requests are checked, too.
    #[arg(long, value_name = "FILE", requires = "first_frame")]
    video: Option<PathBuf>,
    /// The conditioning frame.
    #[arg(long, value_name = "FILE", requires = "video")]
    first_frame: Option<PathBuf>,
    /// Form of the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let bytes = match read(args) {
        Ok(bytes) => bytes,
        Err(none) => return print_none(&none, args.format),
    };
    let input = match (&args.video, &args.first_frame) {
        (Some(video), Some(first)) => {
            // A bundle that cannot be read fails by itself.
            let prompt = serde_json::from_slice::<Evidence>(&bytes)
                .map_or_else(|_| "-".to_owned(), |evidence| evidence.prompt.text);
            match source::input(video, first, &prompt, None) {
                Ok(input) => Some(input),
                Err(none) => return print_none(&none, args.format),
            }
        }
        _ => None,
    };
    let report = verify(&bytes, input.as_ref().map(|input| Media { input }));
    let text = match args.format {
        Format::Json => {
            let object = serde_json::json!({"holds": report.passed(), "checks": report.checks});
            format!("{object}\n")
        }
        Format::Text => {
            let mut text = String::new();
            for check in &report.checks {
                let line = match &check.result {
                    CheckResult::Passed => format!("ok       {}\n", check.name),
                    CheckResult::Failed(why) => format!("FAILED   {}: {why}\n", check.name),
                    CheckResult::Skipped(why) => format!("skipped  {}: {why}\n", check.name),
                };
                text.push_str(&line);
            }
            text.push_str(if report.passed() {
                "the bundle holds\n"
            } else {
                "the bundle does not hold\n"
            });
            text
        }
    };
    crate::cli::output(text.as_bytes())?;
    Ok(ExitCode::from(u8::from(!report.passed())))
}

fn read(args: &VerifyArgs) -> Result<Vec<u8>, NoVerdict> {
    use std::io::Read as _;
    let none = |why: String| {
        let message = format!("evidence: {}: {why}", args.bundle.display());
        NoVerdict::new("input", Reason::Input, Fault::Caller, message)
    };
    let mut bytes = Vec::new();
    std::fs::File::open(&args.bundle)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| none(error.to_string()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(none(format!(
            "has more than {MAX_BYTES} bytes, which no bundle has"
        )));
    }
    Ok(bytes)
}
