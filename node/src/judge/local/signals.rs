//! The local judge without weights: it fails what cannot pass, and abstains from everything else.

use std::time::{Duration, Instant};

use leoma_models::Fault;
use serde_json::{Map, Value, json};

use super::record::{LIMITS, Seen, millis};
use crate::judge::embeddings::Embeddings;
use crate::judge::input::JudgeInput;
use crate::judge::profile::{Configuration, Profile};
use crate::judge::rubric::{Dimension, Rules, Scores};
use crate::judge::sampling::FrameRule;
use crate::judge::side::Judge;
use crate::judge::verdict::{NoVerdict, Outcome, Reason, Usage, Verdict};

/// Its name in records.
pub const SIGNALS_ID: &str = "signals";

/// Signals and gates as a judge.
#[derive(Debug)]
pub struct SignalsJudge {
    configuration: Configuration,
    embeddings: Option<Embeddings>,
}

impl SignalsJudge {
    /// Judges by these rules. `frames` are those of the remote judge, for the record: signals look at all of them.
    pub fn new(rules: Rules, frames: FrameRule) -> Self {
        Self {
            configuration: Configuration {
                profile: Profile::Whitepaper,
                model: format!("limits-{}", LIMITS.version),
                rules,
                frames,
                asks: json!({"limits": limits()}),
            },
            embeddings: None,
        }
    }

    /// The same, looking with CLIP and DINOv2 as well.
    pub fn with_embeddings(mut self, embeddings: Option<Embeddings>) -> Self {
        if let Some(models) = &embeddings {
            models.configuration().add_to(&mut self.configuration);
        }
        self.embeddings = embeddings;
        self
    }
}

/// The table of limits by name.
pub(super) fn limits() -> Value {
    let entries = LIMITS.entries().into_iter();
    let fields: Map<_, _> = entries
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    Value::Object(fields)
}

impl Judge for SignalsJudge {
    fn id(&self) -> &str {
        SIGNALS_ID
    }

    fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    fn judge(&self, input: &JudgeInput, within: Duration) -> Outcome {
        let start = Instant::now();
        let go_on = || start.elapsed() < within;
        let rules = &self.configuration.rules;
        match Seen::of(SIGNALS_ID, input, rules, self.embeddings.as_ref(), &go_on) {
            Ok(seen) => opinion(SIGNALS_ID, &self.configuration, &seen, millis(start)),
            Err(none) => none.into(),
        }
    }
}

/// What follows from signals alone: a fail with the ceilings as scores, or no verdict.
pub(super) fn opinion(
    judge: &str,
    configuration: &Configuration,
    seen: &Seen,
    millis: u64,
) -> Outcome {
    let usage = Usage {
        millis,
        ..Usage::default()
    };
    let opinion = &seen.assessment.opinion;
    let details = json!(seen.record());
    if opinion.pass != Some(false) {
        let statement = opinion.statement.clone();
        let mut none = NoVerdict::new(judge, Reason::Abstains, Fault::Local, statement);
        none.usage = usage;
        none.details = Some(Box::new(details));
        return none.into();
    }
    let (scores, unjudged) = ceilings(&opinion.ceilings);
    let mut verdict = Verdict::of_scores(judge, configuration, scores);
    verdict.unjudged = unjudged;
    verdict.issues = seen.reasons();
    verdict.reasoning.clone_from(&opinion.statement);
    verdict.text_in_frames = seen.has_writing();
    verdict.usage = usage;
    verdict.details = details;
    verdict.into()
}

/// Ceilings as scores, and the dimensions that nobody looked at: those are taken to be perfect.
pub fn ceilings(ceilings: &[Option<u8>; 6]) -> (Scores, Vec<Dimension>) {
    let scores = Scores::new(ceilings.map(|ceiling| ceiling.unwrap_or(100)));
    let unseen = Dimension::ALL.into_iter().zip(ceilings);
    let unjudged = unseen.filter(|(_, ceiling)| ceiling.is_none());
    (scores, unjudged.map(|(dimension, _)| dimension).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::media::RgbImage8;

    /// A picture of stripes that move by `shift` pixels.
    fn frame(width: usize, height: usize, shift: usize) -> RgbImage8 {
        let pixels = (0..width * height).flat_map(|at| {
            let (x, y) = ((at % width + shift) % width, at / width);
            [(40 + 150 * (x / 7 % 2)) as u8, (3 * y) as u8, 90]
        });
        RgbImage8::new(width, height, pixels.collect()).unwrap()
    }

    fn judged(frames: Vec<RgbImage8>, first: RgbImage8) -> Outcome {
        judged_within(frames, first, Duration::from_secs(60))
    }

    fn judged_within(frames: Vec<RgbImage8>, first: RgbImage8, within: Duration) -> Outcome {
        let input = JudgeInput::new(
            "v".into(),
            (frames, (16, 1)),
            (first, vec![1]),
            "a dog runs".into(),
            None,
        );
        let judge = SignalsJudge::new(Rules::default(), FrameRule::default());
        judge.judge(&input.unwrap(), within)
    }

    #[test]
    fn damage_fails_and_all_else_is_left_open() {
        let moving: Vec<_> = (0..17).map(|n| frame(64, 48, n)).collect();
        let Outcome::NoVerdict(none) = judged(moving.clone(), frame(64, 48, 0)) else {
            panic!("signals pass nothing and this has no damage");
        };
        assert_eq!((none.reason, none.fault), (Reason::Abstains, Fault::Local));
        assert!(none.message.contains("no learned judge"));
        let record = none.details.unwrap();
        assert!(record["signals"]["mag"].as_f64().unwrap() > 0.0);

        // Another clip behind the ninth frame: a cut.
        let mut cut = moving;
        for frame in cut.iter_mut().skip(9) {
            let inverted = frame.data().iter().map(|v| 255 - v).collect();
            *frame = RgbImage8::new(64, 48, inverted).unwrap();
        }
        let outcome = judged(cut, frame(64, 48, 0));
        let verdict = outcome.verdict().unwrap();
        assert!(!verdict.pass);
        assert_eq!(verdict.scores[Dimension::TemporalConsistency], 45);
        assert_eq!(
            verdict.unjudged,
            [
                Dimension::PromptAdherence,
                Dimension::VisualQuality,
                Dimension::CameraComposition
            ]
        );
        assert!(verdict.details["gates"]["G_cut"].is_string());
        assert_eq!(verdict.judge, SIGNALS_ID);
    }

    #[test]
    fn nothing_is_measured_when_time_is_over() {
        let moving: Vec<_> = (0..17).map(|n| frame(64, 48, n)).collect();
        let outcome = judged_within(moving, frame(64, 48, 0), Duration::ZERO);
        let Outcome::NoVerdict(none) = outcome else {
            panic!("there was no time");
        };
        assert_eq!(
            (none.reason, none.fault),
            (Reason::Deadline, Fault::Transient)
        );
    }

    #[test]
    fn what_cannot_be_measured_says_whose_fault_it_is() {
        let frames = |side| (0..8).map(move |n| frame(side, side, n)).collect();
        // The clip is too small: that is its maker's, and it has no points.
        let outcome = judged(frames(24), frame(64, 48, 0));
        let verdict = outcome.verdict().unwrap();
        assert_eq!((verdict.scores, verdict.pass), (Scores::default(), false));
        assert!(verdict.unjudged.is_empty() && verdict.text_in_frames.is_none());
        // The conditioning image is too small: that is the caller's.
        let Outcome::NoVerdict(none) = judged(frames(64), frame(16, 16, 0)) else {
            panic!("nobody may be failed by it");
        };
        assert_eq!((none.reason, none.fault), (Reason::Input, Fault::Caller));
    }
}
