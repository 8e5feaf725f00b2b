//! What a local model says about exactly the frames that the remote judge sees.
//!
//! A local verdict rests on more of the clip: frame 0 and the tail. A clip that goes wrong only there is failed by one
//! judge and passed by the other, and neither is mistaken. Agreement and calibration are about the judges, so they
//! compare these scores. The gates hold for them, too: they belong to the local judge.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::learned::LearnedJudge;
use super::readings::Readings;
use super::record::Record;
use crate::judge::input::JudgeInput;
use crate::judge::profile::Configuration;
use crate::judge::rubric::Scores;
use crate::judge::side::Judge;
use crate::judge::verdict::{Outcome, Verdict};

/// Where a verdict's details hold it.
const FIELD: &str = "same_frames";
/// Where that says that no model was asked.
const UNASKED: &str = "unasked";

/// Scores of the frames that the remote judge sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SameFrames {
    /// Their places in the clip.
    pub indices: Vec<usize>,
    /// What the model said.
    pub readings: Readings,
    /// What follows, under the gates.
    pub scores: Scores,
    /// The weighted sum.
    pub overall: u8,
    /// Whether the clip would pass by these alone.
    pub pass: bool,
    /// What asking took.
    pub millis: u64,
}

impl SameFrames {
    /// Of a verdict; `None` when its judge did not look at them apart.
    pub fn of(verdict: &Verdict) -> Option<Self> {
        Self::deserialize(verdict.details.get(FIELD)?).ok()
    }

    /// Whether a verdict's judge looks at them apart, but could not this time.
    pub fn are_missing(verdict: &Verdict) -> bool {
        verdict.details.get(FIELD).is_some() && !Self::are_judged(verdict)
    }

    /// Whether what compares with the remote judge's verdict is about its frames: their scores, or those of a clip that
    /// fails whatever its frames show.
    pub fn are_judged(verdict: &Verdict) -> bool {
        let field = verdict.details.get(FIELD);
        let unasked = field.is_some_and(|field| field.get(UNASKED).is_some());
        unasked || Self::of(verdict).is_some()
    }
}

/// A judge whose verdicts also say what their model says about the remote judge's frames.
pub struct Compared {
    judge: Arc<dyn Judge>,
    learned: Arc<LearnedJudge>,
}

impl fmt::Debug for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compared")
            .field("judge", &self.judge.id())
            .field("learned", &self.learned)
            .finish()
    }
}

impl Compared {
    /// `judge` judges, `learned` is the model that it rests on.
    pub fn new(judge: Arc<dyn Judge>, learned: Arc<LearnedJudge>) -> Self {
        Self { judge, learned }
    }

    fn compare(&self, input: &JudgeInput, verdict: &Verdict, left: Duration) -> Value {
        let took = Duration::from_millis(verdict.usage.millis);
        // The verdict is there already; it must not be lost to a comparison.
        if left < took.mul_f64(1.5) {
            return json!({"skipped": "no time is left before the deadline"});
        }
        let hits = Record::of(&verdict.details).and_then(|record| record.hits());
        // Without its gates it would be another judge's.
        let Some(hits) = hits else {
            return json!({"skipped": "the record of the gates cannot be read"});
        };
        match self.learned.on_remote_frames(input, &hits, left) {
            Ok(same) => json!(same),
            Err(none) => json!({"skipped": none.to_string()}),
        }
    }
}

impl Judge for Compared {
    fn id(&self) -> &str {
        self.judge.id()
    }

    fn configuration(&self) -> &Configuration {
        self.judge.configuration()
    }

    fn judge(&self, input: &JudgeInput, within: Duration) -> Outcome {
        let start = Instant::now();
        let mut outcome = self.judge.judge(input, within);
        if let Outcome::Verdict(verdict) = &mut outcome {
            let same = if verdict.details.get("readings").is_some() {
                let left = within.saturating_sub(start.elapsed());
                self.compare(input, verdict, left)
            } else {
                json!({UNASKED: "the clip is none: no model was asked"})
            };
            verdict.note(FIELD, same);
        }
        outcome
    }
}
