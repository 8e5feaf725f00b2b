//! The six dimensions, their weights, and what passes.
//!
//! A score is a number of 0..=100, rounded half to even. The weighted overall is summed in f64 from 0.0 in the
//! order of [`Dimension::ALL`]: exact arithmetic or another order gives another integer for about 0.5 % of all
//! score vectors, and some of those lie at the pass line.

use std::ops::Index;

use serde::{Deserialize, Serialize};

/// What a clip is scored on. The order is the order of summing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Does the clip begin with the conditioning frame?
    FirstFrameFidelity,
    /// Does it show what the prompt asks for?
    PromptAdherence,
    /// Is the motion plausible and smooth?
    MotionQuality,
    /// Do subjects, shapes and light stay what they are?
    TemporalConsistency,
    /// Is every picture clear and free of artefacts?
    VisualQuality,
    /// Are framing and camera movement as they should be?
    CameraComposition,
}

impl Dimension {
    /// All of them, in the order of summing.
    pub const ALL: [Self; 6] = [
        Self::FirstFrameFidelity,
        Self::PromptAdherence,
        Self::MotionQuality,
        Self::TemporalConsistency,
        Self::VisualQuality,
        Self::CameraComposition,
    ];

    /// Its name in prompts, answers and records.
    pub fn key(self) -> &'static str {
        match self {
            Self::FirstFrameFidelity => "first_frame_fidelity",
            Self::PromptAdherence => "prompt_adherence",
            Self::MotionQuality => "motion_quality",
            Self::TemporalConsistency => "temporal_consistency",
            Self::VisualQuality => "visual_quality",
            Self::CameraComposition => "camera_composition",
        }
    }

    /// Its share of the weighted overall; the six make 1.
    pub fn weight(self) -> f64 {
        match self {
            Self::FirstFrameFidelity | Self::PromptAdherence => 0.25,
            Self::MotionQuality => 0.15,
            Self::TemporalConsistency => 0.20,
            Self::VisualQuality => 0.10,
            Self::CameraComposition => 0.05,
        }
    }

    /// Whether a low score fails the clip whatever the overall is.
    pub fn is_critical(self) -> bool {
        matches!(
            self,
            Self::FirstFrameFidelity | Self::PromptAdherence | Self::TemporalConsistency
        )
    }
}

impl std::fmt::Display for Dimension {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.key())
    }
}

/// A number as a score: rounded half to even, cut to 0..=100. `None` for what is no number.
pub fn clamp(value: f64) -> Option<u8> {
    (!value.is_nan()).then(|| value.round_ties_even().clamp(0.0, 100.0) as u8)
}

/// Six scores of 0..=100, indexed by [`Dimension`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Scores([u8; 6]);

impl Scores {
    /// Of six numbers in the order of [`Dimension::ALL`]; more than 100 becomes 100.
    pub fn new(scores: [u8; 6]) -> Self {
        Self(scores.map(|score| score.min(100)))
    }

    /// Asks for every score in turn.
    pub fn of(mut score: impl FnMut(Dimension) -> u8) -> Self {
        Self::new(Dimension::ALL.map(&mut score))
    }

    /// One score.
    pub fn get(&self, dimension: Dimension) -> u8 {
        self.0[dimension as usize]
    }

    /// All of them, in the order of [`Dimension::ALL`].
    pub fn to_array(self) -> [u8; 6] {
        self.0
    }

    /// Dimensions with their scores.
    pub fn iter(&self) -> impl Iterator<Item = (Dimension, u8)> + '_ {
        Dimension::ALL.into_iter().zip(self.0)
    }

    /// The weighted overall, summed as the module says.
    pub fn weighted(&self) -> u8 {
        let sum = self.iter().fold(0.0f64, |sum, (dimension, score)| {
            sum + f64::from(score) * dimension.weight()
        });
        // Six numbers of at most 100 have a sum.
        clamp(sum).unwrap_or(0)
    }

    /// The least critical score.
    pub fn critical_floor(&self) -> u8 {
        let critical = self.iter().filter(|(dimension, _)| dimension.is_critical());
        critical.map(|(_, score)| score).min().unwrap_or(0)
    }
}

impl Index<Dimension> for Scores {
    type Output = u8;

    fn index(&self, dimension: Dimension) -> &u8 {
        &self.0[dimension as usize]
    }
}

/// As records hold them: an object of six names, all there.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    first_frame_fidelity: u8,
    prompt_adherence: u8,
    motion_quality: u8,
    temporal_consistency: u8,
    visual_quality: u8,
    camera_composition: u8,
}

impl Serialize for Scores {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [ff, pa, mq, tc, vq, cc] = self.0;
        Named {
            first_frame_fidelity: ff,
            prompt_adherence: pa,
            motion_quality: mq,
            temporal_consistency: tc,
            visual_quality: vq,
            camera_composition: cc,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Scores {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = Named::deserialize(deserializer)?;
        let scores = [
            named.first_frame_fidelity,
            named.prompt_adherence,
            named.motion_quality,
            named.temporal_consistency,
            named.visual_quality,
            named.camera_composition,
        ];
        match scores.iter().find(|score| **score > 100) {
            None => Ok(Self(scores)),
            Some(score) => Err(serde::de::Error::custom(format!(
                "a score is at most 100, not {score}"
            ))),
        }
    }
}

/// What passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Least overall score.
    pub pass_overall: u8,
    /// Least score in every critical dimension.
    pub pass_critical: u8,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            pass_overall: 75,
            pass_critical: 50,
        }
    }
}

impl Rules {
    /// Whether a clip with this overall and these scores passes.
    pub fn passes(&self, overall: u8, scores: &Scores) -> bool {
        overall >= self.pass_overall && scores.critical_floor() >= self.pass_critical
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn halves_go_to_even_and_ends_hold() {
        for (value, score) in [
            (74.5, 74),
            (75.5, 76),
            (49.5, 50),
            (88.6, 89),
            (-3.0, 0),
            (-0.4, 0),
            (100.4, 100),
            (1e300, 100),
            (f64::NEG_INFINITY, 0),
        ] {
            assert_eq!(clamp(value), Some(score), "{value}");
        }
        assert_eq!(clamp(f64::NAN), None);
    }

    #[test]
    fn weights_make_one_and_three_are_critical() {
        let sum: f64 = Dimension::ALL.iter().map(|d| d.weight()).sum();
        assert!((sum - 1.0).abs() < 1e-15, "{sum}");
        let critical: Vec<_> = Dimension::ALL
            .into_iter()
            .filter(|d| d.is_critical())
            .collect();
        assert_eq!(
            critical,
            [
                Dimension::FirstFrameFidelity,
                Dimension::PromptAdherence,
                Dimension::TemporalConsistency
            ]
        );
        for (index, dimension) in Dimension::ALL.into_iter().enumerate() {
            assert_eq!(dimension as usize, index);
            let text = serde_json::to_string(&dimension).unwrap();
            assert_eq!(text, format!("\"{}\"", dimension.key()));
        }
    }

    #[test]
    fn the_order_of_summing_decides_cases_at_the_pass_line() {
        // Python: sum in schema order from 0.0 makes 74.50000000000001; in the order of the table of weights,
        // with consistency before motion, it makes 74.5 and would fail.
        for scores in [
            [87, 76, 58, 77, 55, 83],
            [93, 82, 79, 54, 54, 54],
            [94, 67, 93, 52, 67, 64],
        ] {
            let scores = Scores::new(scores);
            assert_eq!(scores.weighted(), 75, "{scores:?}");
            let table = [0, 1, 3, 2, 4, 5].map(|i| Dimension::ALL[i]);
            let other = table.iter().fold(0.0f64, |sum, dimension| {
                sum + f64::from(scores[*dimension]) * dimension.weight()
            });
            assert_eq!(clamp(other), Some(74), "{scores:?}");
        }
        assert_eq!(Scores::new([90, 90, 70, 60, 60, 20]).weighted(), 74);
        for same in [0, 50, 75, 100] {
            assert_eq!(Scores::new([same; 6]).weighted(), same);
        }
    }

    #[test]
    fn edges_of_passing() {
        let rules = Rules::default();
        assert!(rules.passes(100, &Scores::new([50, 50, 0, 50, 0, 0])));
        assert!(rules.passes(75, &Scores::new([50; 6])));
        assert!(!rules.passes(74, &Scores::new([100; 6])));
        for critical in 0..3 {
            let mut scores = [100; 6];
            scores[[0, 1, 3][critical]] = 49;
            assert!(!rules.passes(100, &Scores::new(scores)), "{scores:?}");
        }
        assert!(!rules.passes(10, &Scores::new([90; 6])));
    }

    #[test]
    fn records_name_every_dimension() {
        let scores = Scores::new([1, 2, 3, 4, 5, 100]);
        let text = serde_json::to_string(&scores).unwrap();
        assert_eq!(serde_json::from_str::<Scores>(&text).unwrap(), scores);
        assert!(serde_json::from_str::<Scores>(&text.replace("100", "101")).is_err());
        assert!(serde_json::from_str::<Scores>("{}").is_err());
        assert_eq!(Scores::of(|d| d as u8)[Dimension::CameraComposition], 5);
    }
}
