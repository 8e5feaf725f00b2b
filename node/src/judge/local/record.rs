//! What the signals say about an input, and the record of it that a verdict carries.
//!
//! The record is enough to close the gates again and to cap the scores again, so a bundle can be checked without the
//! clip ([`Record::of`]); with the clip the signals are measured again.

use std::collections::BTreeMap;
use std::time::Instant;

use leoma_models::{Error, Fault};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::judge::clip::Clip;
use crate::judge::embeddings::{EmbeddingSignal, EmbeddingSignals, Embeddings};
use crate::judge::input::JudgeInput;
use crate::judge::rubric::{Dimension, Rules, Scores};
use crate::judge::signals::gates::{
    Circumstances, GateHit, GateId, asks_for_stillness, cap, evaluate,
};
use crate::judge::signals::opinion::{Assessment, assess, assess_no_clip};
use crate::judge::signals::thresholds::Thresholds;
use crate::judge::signals::{SignalId, Signals, SignalsError};
use crate::judge::verdict::{NoVerdict, Reason};

/// The table of limits in use.
pub(super) const LIMITS: Thresholds = Thresholds::V1;

/// What the signals say about an input.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Signals, gates that closed, and what follows.
    pub assessment: Assessment,
    /// What CLIP and DINOv2 see, where they look and the clip is one.
    pub embeddings: Option<EmbeddingSignals>,
    /// What measuring took, in milliseconds.
    pub millis: u64,
}

impl Seen {
    /// Measures the whole clip, at its own frame rate, also with `embeddings` where there are some. A clip that is none
    /// by its maker's fault closes the gate that fails it. `go_on` is asked between frames.
    ///
    /// # Errors
    /// [`NoVerdict`] in the name of `judge` when what the caller gave cannot be measured, the models fail, or `go_on`
    /// says no.
    pub fn of(
        judge: &str,
        input: &JudgeInput,
        rules: &Rules,
        embeddings: Option<&Embeddings>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Self, NoVerdict> {
        let start = Instant::now();
        if !go_on() {
            return Err(failed(judge, &Error::Cancelled));
        }
        let clip = Clip {
            frames: &input.frames,
            fps: rate(input),
            first: &input.first,
        };
        let found = embeddings
            .map(|models| models.measure(&clip, &input.prompt))
            .transpose();
        let known = found.as_ref().ok().and_then(Option::as_ref);
        let dino_first = known.and_then(|found| found.get(EmbeddingSignal::DinoFirst));
        let (assessment, embeddings) =
            match assess(&clip, &input.prompt, dino_first, &LIMITS, rules, go_on) {
                Ok(assessment) => (assessment, found.map_err(|error| failed(judge, &error))?),
                Err(SignalsError::Cancelled) => return Err(failed(judge, &Error::Cancelled)),
                // What is wrong with the clip goes before what models say about it.
                Err(error) if error.fault() == Fault::Artifact => {
                    (assess_no_clip(&format!("video: {error}"), rules), None)
                }
                Err(error) => {
                    let message = error.to_string();
                    return Err(NoVerdict::new(judge, Reason::Input, error.fault(), message));
                }
            };
        Ok(Self {
            assessment,
            embeddings,
            millis: millis(start),
        })
    }

    /// Whether a gate closed that fails the clip without asking anybody.
    pub fn is_hard_fail(&self) -> bool {
        self.assessment
            .hits
            .iter()
            .any(|hit| hit.gate.is_hard_fail())
    }

    /// Whether there is writing over the clip that the conditioning image does not have; `None` where nobody could
    /// look.
    pub fn has_writing(&self) -> Option<bool> {
        let hits = &self.assessment.hits;
        let signals = self.assessment.signals.as_ref()?;
        signals.get(SignalId::Overlay)?;
        Some(hits.iter().any(|hit| hit.gate == GateId::Overlay))
    }

    /// What each closed gate says, for people.
    pub fn reasons(&self) -> Vec<String> {
        let hits = self.assessment.hits.iter();
        hits.map(|hit| hit.reason.clone()).collect()
    }

    /// The record of it.
    pub fn record(&self) -> Record {
        let Assessment {
            signals,
            hits,
            opinion,
        } = &self.assessment;
        let values = signals.iter().flat_map(Signals::iter);
        Record {
            limits_version: LIMITS.version,
            signals: values
                // JSON has no infinite numbers: an exact copy has no noise to compare its signal with.
                .filter(|(_, value)| value.is_finite())
                .map(|(id, value)| (id.key().to_owned(), value))
                .collect(),
            camera: signals
                .as_ref()
                .map(|signals| signals.camera.class.key().to_owned()),
            gates: hits
                .iter()
                .map(|hit| (hit.gate.key().to_owned(), hit.reason.clone()))
                .collect(),
            statement: opinion.statement.clone(),
            embeddings: self.embeddings.clone(),
            signals_millis: self.millis,
        }
    }
}

/// Signals and gates as a verdict's details hold them, beside what else its judge records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the table of limits.
    pub limits_version: u32,
    /// Value by name of signal.
    pub signals: BTreeMap<String, f64>,
    /// What the camera does; nothing is judged by it.
    pub camera: Option<String>,
    /// Why it closed, by name of gate.
    pub gates: BTreeMap<String, String>,
    /// What signals alone would say.
    pub statement: String,
    /// What CLIP and DINOv2 see, where they looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<EmbeddingSignals>,
    /// What measuring took.
    pub signals_millis: u64,
}

impl Record {
    /// From the details of a verdict; `None` when they hold no such record.
    pub fn of(details: &Value) -> Option<Self> {
        Self::deserialize(details).ok()
    }

    /// The gates that the record says were closed; `None` when one of them is not known here.
    pub fn hits(&self) -> Option<Vec<GateHit>> {
        let named = |key: &str| GateId::ALL.into_iter().find(|gate| gate.key() == key);
        let hits = self.gates.iter().map(|(key, reason)| {
            Some(GateHit {
                gate: named(key)?,
                reason: reason.clone(),
            })
        });
        hits.collect()
    }

    /// The gates that its signals close under a prompt; `None` when this program has another table of limits, or
    /// there are no signals since the clip is none.
    pub fn hits_again(&self, prompt: &str) -> Option<Vec<GateHit>> {
        if self.limits_version != LIMITS.version || self.signals.is_empty() {
            return None;
        }
        let values = SignalId::ALL
            .into_iter()
            .filter_map(|id| Some((id, *self.signals.get(id.key())?)));
        let known = Circumstances {
            still_is_asked_for: asks_for_stillness(prompt),
            dino_first: self
                .embeddings
                .as_ref()
                .and_then(|found| found.get(EmbeddingSignal::DinoFirst)),
        };
        Some(evaluate(&Signals::from_values(values), &known, &LIMITS))
    }
}

/// Scores under the gates that closed: each is lowered to its ceiling, none is raised.
pub fn capped(scores: Scores, hits: &[GateHit]) -> Scores {
    Scores::of(|dimension: Dimension| cap(hits, dimension, scores[dimension]))
}

/// Frames per second.
pub(super) fn rate(input: &JudgeInput) -> f64 {
    f64::from(input.fps.0) / f64::from(input.fps.1)
}

/// Why a model gave no answer. Only what is wrong with the clip itself is the clip's fault.
pub(super) fn failed(id: &str, error: &Error) -> NoVerdict {
    let (reason, fault) = match error {
        Error::Cancelled => {
            let message = "it was not done before the deadline";
            return NoVerdict::new(id, Reason::Deadline, Fault::Transient, message);
        }
        Error::Caller { field, .. } => match field.as_str() {
            "video" => (Reason::Input, Fault::Artifact),
            "prompt" | "image" | "first_frame" => (Reason::Input, Fault::Caller),
            _ => (Reason::Internal, Fault::Local),
        },
        Error::Artifact { .. } | Error::Io { .. } => (Reason::Weights, Fault::Local),
        _ => (Reason::Internal, Fault::Local),
    };
    NoVerdict::new(id, reason, fault, error.to_string())
}

/// Milliseconds since `start`.
pub(super) fn millis(start: Instant) -> u64 {
    start.elapsed().as_millis() as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::judge::embeddings::{open, tests::settings};
    use crate::media::RgbImage8;

    /// Stripes that move; behind another conditioning frame, where it is `wrong`.
    fn input(wrong: bool) -> JudgeInput {
        let frame = |shift: usize, invert: u8| {
            let pixels = (0..64 * 48).flat_map(|at| {
                let (x, y) = ((at % 64 + shift) % 64, at / 64);
                [(40 + 150 * (x / 7 % 2)) as u8, (3 * y) as u8, 90].map(|value| value ^ invert)
            });
            RgbImage8::new(64, 48, pixels.collect()).unwrap()
        };
        let clip = ((0..17).map(|n| frame(n, 0)).collect(), (16, 1));
        let first = frame(0, if wrong { 255 } else { 0 });
        let prompt = "a dog runs".to_owned();
        JudgeInput::new("v".into(), clip, (first, vec![1]), prompt, None).unwrap()
    }

    fn gates(hits: &[GateHit]) -> Vec<GateId> {
        hits.iter().map(|hit| hit.gate).collect()
    }

    #[test]
    fn what_dinov2_sees_takes_part_in_the_gate_of_the_first_frame() {
        let models = open(&settings()).unwrap().unwrap();
        let seen = |wrong, models| {
            Seen::of("test", &input(wrong), &Rules::default(), models, &|| true).unwrap()
        };
        let without = seen(true, None);
        assert!(without.embeddings.is_none());
        assert!(gates(&without.assessment.hits).contains(&GateId::First));
        assert_eq!(without.record().embeddings, None);
        for wrong in [true, false] {
            let found = seen(wrong, Some(&models));
            let values = found.embeddings.clone().unwrap();
            let dino_first = values.get(EmbeddingSignal::DinoFirst).unwrap();
            let closed = gates(&found.assessment.hits).contains(&GateId::First);
            assert_eq!(closed, wrong && dino_first < LIMITS.dino_first);
            // The record says the same again, read back from its text.
            let text = serde_json::to_string(&found.record()).unwrap();
            let record: Record = serde_json::from_str(&text).unwrap();
            assert!(record.embeddings.is_some());
            let again = record.hits_again("a dog runs").unwrap();
            assert_eq!(gates(&again), gates(&found.assessment.hits));
        }
    }

    #[test]
    fn a_record_with_a_known_likeness_keeps_the_gate_open() {
        let mut record = Seen::of("test", &input(true), &Rules::default(), None, &|| true)
            .unwrap()
            .record();
        let first = |record: &Record| {
            gates(&record.hits_again("a dog runs").unwrap()).contains(&GateId::First)
        };
        assert!(first(&record));
        for (value, closes) in [(0.9, false), (0.1, true)] {
            let key = EmbeddingSignal::DinoFirst.key().to_owned();
            record.embeddings = Some(EmbeddingSignals {
                values: [(key, value)].into(),
                ..EmbeddingSignals::default()
            });
            assert_eq!(first(&record), closes);
        }
    }

    #[test]
    fn a_model_that_fails_is_no_fault_of_the_clip() {
        for (error, reason, fault) in [
            (Error::caller("video", "x"), Reason::Input, Fault::Artifact),
            (
                Error::caller("first_frame", "x"),
                Reason::Input,
                Fault::Caller,
            ),
            (Error::caller("prompt", "x"), Reason::Input, Fault::Caller),
            (Error::artifact("dir", "x"), Reason::Weights, Fault::Local),
            (Error::local("x"), Reason::Internal, Fault::Local),
        ] {
            let none = failed("test", &error);
            assert_eq!((none.reason, none.fault), (reason, fault), "{error}");
        }
    }
}
