//! The verdict logs that `report` and `calibrate` read.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::judge::bridge::pair_of_line;
use crate::judge::jpeg::data_url;
use crate::judge::report::{LogFacts, Problem, Report};
use crate::judge::statistics::pairs::{Pair, Wanted};
use crate::judge::statistics::read::Log;

/// Largest picture of a clip, in bytes: a frame of 1280x720 as JPEG has a tenth of it.
const MOST_PICTURE: u64 = 700 << 10;

/// Which verdicts are compared.
#[derive(Debug, Args)]
pub(super) struct PairsArgs {
    /// Verdict logs: JSON lines.
    #[arg(value_name = "LOG", required = true)]
    pub(super) logs: Vec<PathBuf>,
    /// Local judge by name; default: that of the newest clip with both verdicts.
    #[arg(long, value_name = "NAME")]
    local: Option<String>,
    /// Model of the remote judge by name; default: that of the newest clip with both verdicts.
    #[arg(long, value_name = "NAME")]
    remote_model: Option<String>,
}

impl PairsArgs {
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted {
            local_id: self.local.as_deref(),
            remote_model: self.remote_model.as_deref(),
        }
    }

    /// The pairs of all logs, and what else the logs hold.
    pub(super) fn read(&self) -> Result<(Vec<Pair>, LogFacts)> {
        let (mut pairs, mut facts) = (Vec::new(), LogFacts::default());
        for path in &self.logs {
            let log = read(path)?;
            facts.lines += log.lines;
            facts.without_verdicts += log.without_verdicts;
            facts.unusable += log.unusable;
            let name = (self.logs.len() > 1).then(|| path.display().to_string());
            let problems = log.problems.into_iter().map(|(line, reason)| Problem {
                log: name.clone(),
                line,
                reason,
            });
            facts.problems.extend(problems);
            pairs.extend(log.pairs);
        }
        Ok((pairs, facts))
    }
}

/// Puts the pictures of clips that disagree into their report, from the folders beside the logs. What is missing is
/// left out: frames are kept for some clips only, and may have been removed.
pub(super) fn pictures(report: &mut Report, logs: &[PathBuf]) {
    for clip in report.disagreements.iter_mut().take(Report::SHOWN_CLIPS) {
        for frame in &mut clip.pair.frames {
            if let Some(picture) = logs.iter().find_map(|log| picture(log, frame)) {
                *frame = picture;
            }
        }
    }
}

/// The picture of this digest in the folder of a log, as a data URL.
fn picture(log: &Path, digest: &str) -> Option<String> {
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_digest {
        return None;
    }
    let mut folder = log.as_os_str().to_owned();
    folder.push(".frames");
    let file = File::open(Path::new(&folder).join(format!("{digest}.jpg"))).ok()?;
    let mut bytes = Vec::new();
    file.take(MOST_PICTURE + 1).read_to_end(&mut bytes).ok()?;
    let fits = bytes.len() as u64 <= MOST_PICTURE;
    fits.then(|| data_url("image/jpeg", &bytes))
}

fn read(path: &Path) -> Result<Log> {
    let failed = || format!("LOG: cannot read {}", path.display());
    let file = File::open(path).with_context(failed)?;
    Log::read(BufReader::new(file), pair_of_line).with_context(failed)
}
