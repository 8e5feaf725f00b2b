//! The verdict log: one JSON line for every judgement, and the frames of those where the judges disagree.
//!
//! Agreement, calibration and drift are computed from it (`judge report`, `judge calibrate`). Its form is published
//! in `docs/schemas/judge-log-line.schema.json`; a new field does not change `version`, so readers pass over what
//! they do not know.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::canonical;
use super::evidence::Tool;
use super::input::{JudgeInput, ShownFrame};
use super::profile::Configuration;
use super::rubric::Dimension;
use super::side::Judgement;
use super::verdict::Verdict;
use crate::media::MediaError;
use crate::media::publish::Pending;

/// Version of the form of lines.
pub const VERSION: u32 = 1;
/// Critical scores that lie further apart are an item.
const CRITICAL_APART: u8 = 30;
/// Overall scores that lie further apart are an item.
const OVERALL_APART: u8 = 20;

/// One judgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// [`VERSION`].
    pub version: u32,
    /// When it was judged, RFC 3339.
    pub at: String,
    /// The same in seconds since 1970, for programs.
    pub unix: f64,
    /// The program.
    pub tool: Tool,
    /// The subnet's task: clips of one task are not independent of each other.
    pub task_id: Option<String>,
    /// Who made the clip.
    pub miner: Option<String>,
    /// Digest of the video file.
    pub video_sha256: String,
    /// What the clip was to show.
    pub prompt: String,
    /// Digest of the prompt.
    pub prompt_sha256: String,
    /// 0, or the number of the repetition: the same clip asked about once more, to see how far the remote judge
    /// agrees with itself.
    pub repeat: u32,
    /// What was said and decided.
    pub judgement: Judgement,
    /// Where the judges disagree.
    pub disagreements: Vec<Disagreement>,
    /// Digests of the frames that were shown, in the order of time; the names of the files in the folder of frames.
    pub frames: Vec<String>,
    /// Digest of the evidence bundle, where one was written.
    pub evidence_sha256: Option<String>,
}

/// A point on which two judges disagree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Disagreement {
    /// One passes the clip, the other does not.
    Pass {
        /// What the remote judge says.
        remote: bool,
        /// What the local judge says.
        local: bool,
    },
    /// A critical score.
    Critical {
        /// Which.
        dimension: Dimension,
        /// The remote judge's.
        remote: u8,
        /// The local judge's.
        local: u8,
    },
    /// The overall score.
    Overall {
        /// The remote judge's.
        remote: u8,
        /// The local judge's.
        local: u8,
    },
}

/// Where two verdicts disagree by so much that somebody should look.
pub fn disagreements(remote: &Verdict, local: &Verdict) -> Vec<Disagreement> {
    let mut found = Vec::new();
    if remote.pass != local.pass {
        found.push(Disagreement::Pass {
            remote: remote.pass,
            local: local.pass,
        });
    }
    for dimension in Dimension::ALL.into_iter().filter(|d| d.is_critical()) {
        let (a, b) = (remote.scores[dimension], local.scores[dimension]);
        let judged = !remote.unjudged.contains(&dimension) && !local.unjudged.contains(&dimension);
        if judged && a.abs_diff(b) > CRITICAL_APART {
            found.push(Disagreement::Critical {
                dimension,
                remote: a,
                local: b,
            });
        }
    }
    if remote.overall.abs_diff(local.overall) > OVERALL_APART {
        found.push(Disagreement::Overall {
            remote: remote.overall,
            local: local.overall,
        });
    }
    found
}

impl Line {
    /// Of a judgement that was made now.
    pub fn new(input: &JudgeInput, shown: &[ShownFrame], judgement: Judgement) -> Self {
        let verdict = |outcome: &Option<super::verdict::Outcome>| {
            outcome
                .as_ref()
                .and_then(|outcome| outcome.verdict())
                .cloned()
        };
        let now = crate::time::now_unix();
        let both = verdict(&judgement.remote).zip(verdict(&judgement.local));
        Self {
            version: VERSION,
            at: crate::time::rfc3339(now),
            unix: now,
            tool: Tool::default(),
            task_id: input.task_id.clone(),
            miner: None,
            video_sha256: input.video_sha256.clone(),
            prompt: input.prompt.clone(),
            prompt_sha256: canonical::sha256(input.prompt.as_bytes()),
            repeat: 0,
            disagreements: both
                .map_or_else(Vec::new, |(remote, local)| disagreements(&remote, &local)),
            judgement,
            frames: shown
                .iter()
                .map(|frame| frame.jpeg_sha256.clone())
                .collect(),
            evidence_sha256: None,
        }
    }
}

/// A file of lines, and beside it a folder `FILE.frames`.
#[derive(Debug, Clone)]
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// The log at this path; nothing is opened yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Where the frames of disagreements are.
    pub fn frames(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".frames");
        name.into()
    }

    /// Adds the line of a judgement that was made now, with what `more` says about it. `judges` are the
    /// configurations of those who ran; the frames on record are those of the first.
    ///
    /// # Errors
    /// [`MediaError`] from the encoder or the folder.
    pub fn record(
        &self,
        input: &JudgeInput,
        judges: &[&Configuration],
        judgement: Judgement,
        more: impl FnOnce(&mut Line),
    ) -> Result<Line, MediaError> {
        let shown = match judges.first() {
            Some(configuration) => input.shown(configuration.frames)?,
            None => Arc::default(),
        };
        let mut line = Line::new(input, &shown, judgement);
        more(&mut line);
        self.append(&line, &shown)?;
        Ok(line)
    }

    /// Adds a line, and the frames where the judges disagree. Several processes may write to one log.
    ///
    /// # Errors
    /// [`MediaError`] from the folder.
    pub fn append(&self, line: &Line, shown: &[ShownFrame]) -> Result<(), MediaError> {
        if !line.disagreements.is_empty() {
            let folder = self.frames();
            std::fs::create_dir_all(&folder).map_err(|e| MediaError::writing(&folder, e))?;
            for frame in shown {
                let path = folder.join(format!("{}.jpg", frame.jpeg_sha256));
                // The name is the content.
                if !path.exists() {
                    let mut pending = Pending::beside(&path)?;
                    let written = pending.file().write_all(&frame.jpeg);
                    written.map_err(|e| pending.error(e))?;
                    pending.publish()?;
                }
            }
        }
        let mut text = canonical::of(line).map_err(|error| MediaError::Encode {
            message: format!("log: {error}"),
        })?;
        text.push('\n');
        let failed = |error| MediaError::writing(&self.path, error);
        let mut file = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(&self.path)
            .map_err(failed)?;
        // Lines can be longer than what a file system adds in one piece.
        file.lock().map_err(failed)?;
        // Whoever was killed while writing, or met a full disk, left half a line: it must not take this one with it.
        if !is_at_line_start(&mut file).map_err(failed)? {
            text.insert(0, '\n');
        }
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_data())
            .map_err(failed)
    }
}

/// Whether what is added to a file begins a line.
fn is_at_line_start(file: &mut File) -> std::io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::judge::profile::Profile;
    use crate::judge::rubric::{Rules, Scores};
    use crate::judge::sampling::FrameRule;
    use crate::judge::side::{Decision, Mode, Side};
    use crate::media::RgbImage8;

    fn verdict(scores: [u8; 6]) -> Verdict {
        let rules = Rules::default();
        let configuration =
            Configuration::remote(Profile::Subnet, "m", rules, FrameRule::default());
        Verdict::of_scores("test", &configuration, Scores::new(scores))
    }

    #[test]
    fn what_counts_as_a_disagreement() {
        let remote = verdict([80; 6]);
        let count = |scores| disagreements(&remote, &verdict(scores)).len();
        assert_eq!(count([80; 6]), 0);
        assert_eq!(count([77; 6]), 0);
        // 30 apart is not more than 30; a score that is not critical does not count alone.
        let other = verdict([80, 80, 40, 80, 80, 80]);
        assert_eq!(
            (disagreements(&remote, &other).len(), other.pass),
            (1, false)
        );
        let mut other = verdict([49, 80, 80, 80, 80, 80]);
        let found = disagreements(&remote, &other);
        assert_eq!(
            found,
            [
                Disagreement::Pass {
                    remote: true,
                    local: false
                },
                Disagreement::Critical {
                    dimension: Dimension::FirstFrameFidelity,
                    remote: 80,
                    local: 49
                },
            ]
        );
        other.unjudged.push(Dimension::FirstFrameFidelity);
        assert_eq!(disagreements(&remote, &other).len(), 1);
        let low = disagreements(&remote, &verdict([59; 6]));
        assert_eq!(
            low.last(),
            Some(&Disagreement::Overall {
                remote: 80,
                local: 59
            })
        );
    }

    #[test]
    fn lines_are_added_and_frames_kept_where_judges_disagree() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::new(&folder.path().join("log.jsonl"));
        let frame = || RgbImage8::new(16, 16, vec![9; 768]).unwrap();
        let clip = ((0..81).map(|_| frame()).collect(), (16, 1));
        let input =
            JudgeInput::new("0".repeat(64), clip, (frame(), vec![1]), "a".into(), None).unwrap();
        let shown = input.shown(FrameRule::default()).unwrap();
        for (local, kept) in [([80; 6], false), ([10; 6], true)] {
            let judgement = Judgement {
                mode: Mode::Shadow,
                remote: Some(verdict([80; 6]).into()),
                local: Some(verdict(local).into()),
                decision: Decision {
                    pass: Some(true),
                    by: Some(Side::Remote),
                    why: String::new(),
                },
            };
            let line = Line::new(&input, &shown, judgement);
            assert_eq!(line.disagreements.is_empty(), !kept);
            log.append(&line, &shown).unwrap();
            assert_eq!(log.frames().exists(), kept);
        }
        // Twelve equal frames are one file.
        assert_eq!(std::fs::read_dir(log.frames()).unwrap().count(), 1);
        let text = std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
        let lines: Vec<Line> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!((lines.len(), lines[1].frames.len()), (2, 12));

        // Half a line of somebody who was killed, in the middle of a character.
        let path = folder.path().join("log.jsonl");
        let half = [text.as_bytes(), b"{\"prompt\":\"\xc3"].concat();
        std::fs::write(&path, &half).unwrap();
        log.append(&lines[0], &shown).unwrap();
        log.append(&lines[0], &shown).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let read: Vec<_> = bytes
            .split(|byte| *byte == b'\n')
            .map(|line| serde_json::from_slice::<Line>(line).is_ok())
            .collect();
        assert_eq!(read, [true, true, false, true, true, false]);
    }
}
