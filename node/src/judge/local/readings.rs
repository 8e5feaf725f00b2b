//! What a local model said, as it is kept, and the scores that follow from it.
//!
//! Scores are computed from what is kept and from nothing else, so that they can be computed again.

use std::collections::BTreeMap;

use leoma_models::judge::unified::parse_answer;
use leoma_models::judge::{DigitReading, RubricRun, UnifiedRun};
use serde::{Deserialize, Serialize};

use crate::judge::rubric::{Dimension, Scores, clamp};
use crate::judge::verdict::kept;

/// The dimensions that UnifiedReward's three scores speak about, in the order of its answer.
const UNIFIED: [Dimension; 3] = [
    Dimension::PromptAdherence,
    Dimension::MotionQuality,
    Dimension::VisualQuality,
];

/// What a local model said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "profile", rename_all = "snake_case", deny_unknown_fields)]
pub enum Readings {
    /// To six questions.
    Rubric {
        /// Probabilities of the digits 1 to 5 behind each question.
        probabilities: BTreeMap<Dimension, [f64; 5]>,
    },
    /// In three lines.
    Unified {
        /// Its words.
        text: String,
        /// Mean digit at the first digit of each number, 1 to 5, and confidence there, 0 to 1.
        digits: Vec<(Option<f64>, Option<f64>)>,
    },
}

/// What follows from readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Six scores, before any gate.
    pub scores: Scores,
    /// Dimensions that the model is not asked about. Their scores are the mean of the others, by weight.
    pub unjudged: Vec<Dimension>,
    /// Dimensions that it was asked about and gave no digit for. Their scores are 0.
    pub unanswered: Vec<Dimension>,
    /// How sure it is, 0 to 100: the mean over the dimensions, by weight.
    pub confidence: Option<u8>,
}

impl Readings {
    /// Of the six questions.
    pub fn of_rubric(run: &RubricRun) -> Self {
        let probabilities = Dimension::ALL.into_iter().filter_map(|dimension| {
            let found = run.readings.iter().find(|one| one.key == dimension.key())?;
            Some((dimension, found.probabilities))
        });
        Self::Rubric {
            probabilities: probabilities.collect(),
        }
    }

    /// Of the three lines.
    pub fn of_unified(run: &UnifiedRun) -> Self {
        let scores = run.reading.scores.iter().flatten();
        Self::Unified {
            text: kept(&run.reading.text),
            digits: scores
                .map(|score| (score.expectation, score.confidence))
                .collect(),
        }
    }

    /// The scores; `None` when the model answered nothing that it was asked, so that it is none for this profile.
    pub fn read(&self) -> Option<Read> {
        match self {
            Self::Rubric { probabilities } => rubric(probabilities),
            Self::Unified { text, digits } => unified(text, digits),
        }
    }
}

fn rubric(probabilities: &BTreeMap<Dimension, [f64; 5]>) -> Option<Read> {
    let reading = |dimension| Some(DigitReading::new(*probabilities.get(&dimension)?));
    let answer = |dimension| reading(dimension).filter(DigitReading::is_answer);
    let unanswered: Vec<_> = Dimension::ALL
        .into_iter()
        .filter(|dimension| answer(*dimension).is_none())
        .collect();
    if unanswered.len() == Dimension::ALL.len() {
        return None;
    }
    let sure = Dimension::ALL.into_iter().map(|dimension| {
        dimension.weight() * reading(dimension).map_or(0.0, |reading| reading.confidence)
    });
    Some(Read {
        scores: Scores::of(|dimension| {
            let score = answer(dimension).map(|reading| reading.score());
            score.and_then(clamp).unwrap_or(0)
        }),
        unjudged: Vec::new(),
        unanswered,
        confidence: clamp(100.0 * sure.sum::<f64>()),
    })
}

fn unified(text: &str, digits: &[(Option<f64>, Option<f64>)]) -> Option<Read> {
    let values = parse_answer(text)?;
    let judged = UNIFIED.into_iter().zip(values);
    let judged: BTreeMap<_, _> = judged
        .map(|(dimension, value)| (dimension, 25.0 * (value - 1.0)))
        .collect();
    let weight: f64 = UNIFIED.into_iter().map(Dimension::weight).sum();
    let mean = |value: &dyn Fn(usize, Dimension) -> Option<f64>| {
        let mut places = UNIFIED.into_iter().enumerate();
        places.try_fold(0.0, |sum, (place, dimension)| {
            Some(sum + dimension.weight() / weight * value(place, dimension)?)
        })
    };
    let overall = mean(&|_, dimension| judged.get(&dimension).copied())?;
    let sure = mean(&|place, _| digits.get(place)?.1);
    Some(Read {
        scores: Scores::of(|dimension| {
            clamp(judged.get(&dimension).copied().unwrap_or(overall)).unwrap_or(0)
        }),
        unjudged: Dimension::ALL
            .into_iter()
            .filter(|dimension| !UNIFIED.contains(dimension))
            .collect(),
        unanswered: Vec::new(),
        confidence: sure.and_then(|sure| clamp(100.0 * sure)),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sure(digit: usize) -> [f64; 5] {
        std::array::from_fn(|place| if place + 1 == digit { 1.0 } else { 0.0 })
    }

    fn of(digits: [usize; 6]) -> Readings {
        let all = Dimension::ALL.into_iter().zip(digits.map(sure));
        Readings::Rubric {
            probabilities: all.collect(),
        }
    }

    #[test]
    fn digits_are_scores_and_silence_is_named() {
        let read = of([1, 2, 3, 4, 5, 5]).read().unwrap();
        assert_eq!(read.scores.to_array(), [0, 25, 50, 75, 100, 100]);
        assert_eq!((read.confidence, read.unanswered.len()), (Some(100), 0));
        // A digit of 0 is none.
        let read = of([5, 0, 5, 5, 5, 5]).read().unwrap();
        assert_eq!(read.scores[Dimension::PromptAdherence], 0);
        assert_eq!(read.unanswered, [Dimension::PromptAdherence]);
        assert_eq!(read.confidence, Some(75));
        assert_eq!(of([0; 6]).read(), None);
    }

    #[test]
    fn three_lines_are_three_scores_and_their_mean() {
        let readings = |text: &str| Readings::Unified {
            text: text.into(),
            digits: vec![(Some(4.0), Some(0.5)); 3],
        };
        let text = "Alignment Score (1-5): 4.2\nPhysics Score (1-5): 3\nStyle Score (1-5): 5";
        let read = readings(text).read().unwrap();
        // (.25 x 80 + .15 x 50 + .10 x 100) / .50 = 75
        assert_eq!(read.scores.to_array(), [75, 80, 50, 75, 100, 75]);
        assert_eq!(read.unjudged.len(), 3);
        assert_eq!(read.confidence, Some(50));
        assert_eq!(readings("Alignment Score (1-5): 4").read(), None);
    }

    #[test]
    fn a_record_survives_its_text() {
        let kept = of([1, 2, 3, 4, 5, 5]);
        let text = serde_json::to_string(&kept).unwrap();
        assert!(text.contains("\"first_frame_fidelity\":[1.0,0.0"), "{text}");
        assert_eq!(serde_json::from_str::<Readings>(&text).unwrap(), kept);
        assert!(serde_json::from_str::<Readings>("{\"profile\":\"other\"}").is_err());
    }
}
