//! What a local judge's scores say about the remote judge's decision.
//!
//! ```text
//! pairs ──► method by n ──► map: overall score → chance of a remote pass     isotonic or Platt
//!                      └──► six maps: local score → remote score             isotonic, for the floors
//!       ──► five folds by task ──► Brier, ECE and kappa of clips that were held out
//! ```
//!
//! A calibration belongs to one local judge, one remote judge and one choice of frames; [`table`] keeps it and refuses
//! it for any other. Formulas and limits: docs/judge-agreement.md.

mod drift;
mod folds;
mod isotonic;
mod platt;
pub mod table;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use drift::{Drift, FALL, Point, WINDOW, course, drift};
pub use folds::{FOLDS, OutOfFold, out_of_fold};
pub use isotonic::{Isotonic, MOST_KNOTS};
pub use platt::Platt;

use super::rubric::Dimension;
use super::statistics::pairs::Pair;
use super::statistics::{Undefined, finite};

/// Clips from which on a Platt curve is fitted.
pub const ENOUGH_FOR_PLATT: usize = 50;
/// Clips from which on an isotonic map is fitted.
pub const ENOUGH_FOR_ISOTONIC: usize = 200;
/// Clips of each class that an isotonic map needs.
pub const ENOUGH_OF_EACH: usize = 40;
/// Chance of a remote pass from which on a calibrated local judge lets a clip pass.
pub const PASS_CHANCE: f64 = 0.5;
/// Least score in a critical dimension, on the remote judge's scale.
pub const CRITICAL_FLOOR: f64 = 50.0;

/// How scores become chances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// A non-decreasing function without a form.
    Isotonic,
    /// A logistic curve.
    Platt,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Isotonic => "isotonic",
            Self::Platt => "platt",
        })
    }
}

/// Why nothing can be calibrated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Fewer clips with both verdicts than [`ENOUGH_FOR_PLATT`].
    TooFew(usize),
    /// The figures do not allow it.
    Undefined(Undefined),
    /// Clips that the local judge finds better pass less often.
    Reversed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew(n) => write!(
                f,
                "{n} clips have both verdicts; {ENOUGH_FOR_PLATT} are needed for a Platt curve, \
                 {ENOUGH_FOR_ISOTONIC} with {ENOUGH_OF_EACH} of each class for an isotonic map. Judge more clips \
                 with both judges."
            ),
            Self::Undefined(reason) => write!(
                f,
                "the verdicts cannot be calibrated: {reason}. Clips that pass and clips that fail are needed, with \
                 different local scores."
            ),
            Self::Reversed => f.write_str(
                "clips that the local judge finds better pass less often with the remote judge: this local judge \
                 says nothing about it.",
            ),
        }
    }
}

impl From<Undefined> for Refusal {
    fn from(reason: Undefined) -> Self {
        Self::Undefined(reason)
    }
}

/// The method for `n` clips of which `passed` pass. An isotonic map has no form to hold on to: it needs clips, and
/// enough of the rarer class.
///
/// # Errors
/// [`Refusal`] when there are too few clips, or of one class only.
pub fn method_for(n: usize, passed: usize) -> Result<Method, Refusal> {
    let rarer = passed.min(n.saturating_sub(passed));
    if n < ENOUGH_FOR_PLATT {
        Err(Refusal::TooFew(n))
    } else if rarer == 0 {
        Err(Undefined::OneClass.into())
    } else if n >= ENOUGH_FOR_ISOTONIC && rarer >= ENOUGH_OF_EACH {
        Ok(Method::Isotonic)
    } else {
        Ok(Method::Platt)
    }
}

/// Overall score to chance of a remote pass.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Map {
    /// Without a form.
    Isotonic(Isotonic),
    /// A logistic curve.
    Platt(Platt),
}

impl Map {
    /// By this method, for points (local overall, remote pass).
    ///
    /// # Errors
    /// [`Refusal`] when the points do not allow it.
    pub fn fit(method: Method, points: &[(f64, bool)]) -> Result<Self, Refusal> {
        let passed = points.iter().filter(|point| point.1).count();
        if passed == 0 || passed == points.len() {
            return Err(Undefined::OneClass.into());
        }
        match method {
            Method::Isotonic => {
                // Where a falling curve would be refused, what rises nearest to it is level: it says nothing either.
                let gain = gain(points, passed)?;
                if gain <= 0.0 {
                    return Err(Refusal::Reversed);
                }
                // n clips show no chance that is nearer to 0 or 1 than half a clip.
                let margin = 0.5 / points.len() as f64;
                let points: Vec<(f64, f64)> = points
                    .iter()
                    .map(|&(x, is_pass)| (x, f64::from(u8::from(is_pass))))
                    .collect();
                Ok(Self::Isotonic(Isotonic::fit(
                    &points,
                    (margin, 1.0 - margin),
                )?))
            }
            Method::Platt => {
                let curve = Platt::fit(points)?;
                if curve.slope <= 0.0 {
                    return Err(Refusal::Reversed);
                }
                Ok(Self::Platt(curve))
            }
        }
    }

    /// The method.
    pub fn method(&self) -> Method {
        match self {
            Self::Isotonic(_) => Method::Isotonic,
            Self::Platt(_) => Method::Platt,
        }
    }

    /// The chance at an overall score.
    pub fn at(&self, overall: f64) -> f64 {
        match self {
            Self::Isotonic(map) => map.at(overall),
            Self::Platt(curve) => curve.at(overall),
        }
    }
}

/// Mean local score of clips that pass less that of clips that fail: it has the sign of a Platt curve's slope.
fn gain(points: &[(f64, bool)], passed: usize) -> Result<f64, Undefined> {
    let first = points.first().map(|point| point.0);
    if points.iter().all(|point| Some(point.0) == first) {
        return Err(Undefined::Constant);
    }
    let sum = |is_pass: bool| {
        let scores = points.iter().filter(|point| point.1 == is_pass);
        scores.map(|point| point.0).sum::<f64>()
    };
    let failed = points.len() - passed;
    finite(sum(true) / passed as f64 - sum(false) / failed as f64)
}

/// A local judge on the remote judge's scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// Overall score to chance.
    pub map: Map,
    /// Local score to remote score, by the place of the dimension; none where too few clips have the score.
    pub keys: [Option<Isotonic>; 6],
}

impl Calibration {
    /// By this method, for clips with both verdicts; others are passed over.
    ///
    /// # Errors
    /// [`Refusal`] when the clips do not allow it.
    pub fn fit(method: Method, pairs: &[&Pair]) -> Result<Self, Refusal> {
        let points: Vec<(f64, bool)> = pairs
            .iter()
            .filter_map(|pair| Some((pair.local_overall?, pair.remote_pass)))
            .collect();
        let map = Map::fit(method, &points)?;
        let keys = std::array::from_fn(|place| {
            let points: Vec<(f64, f64)> = pairs
                .iter()
                .filter_map(|pair| Some(((*pair.local.get(place)?)?, *pair.remote.get(place)?)))
                .collect();
            // In a fold a fifth of the clips is missing.
            let enough = points.len() >= ENOUGH_FOR_PLATT - ENOUGH_FOR_PLATT / FOLDS;
            enough.then(|| Isotonic::fit(&points, (0.0, 100.0)).ok())?
        });
        Ok(Self { map, keys })
    }

    /// A local score of a dimension on the remote judge's scale.
    pub fn score(&self, dimension: Dimension, local: f64) -> Option<f64> {
        let map = self.keys.get(dimension as usize)?.as_ref()?;
        Some(map.at(local))
    }

    /// Whether the remote judge would let a clip pass: the chance reaches [`PASS_CHANCE`], and every critical score
    /// on its scale reaches [`CRITICAL_FLOOR`]. None when a critical score or its map is missing: then nothing can be
    /// said.
    pub fn passes(&self, overall: f64, scores: &[Option<f64>; 6]) -> Option<bool> {
        let mut passes = self.map.at(overall) >= PASS_CHANCE;
        for dimension in Dimension::ALL
            .into_iter()
            .filter(|dimension| dimension.is_critical())
        {
            let local = (*scores.get(dimension as usize)?)?;
            passes &= self.score(dimension, local)? >= CRITICAL_FLOOR;
        }
        Some(passes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_method_follows_from_the_counts() {
        let too_few = |n| Err(Refusal::TooFew(n));
        for (n, passed, expected) in [
            (49, 25, too_few(49)),
            (50, 25, Ok(Method::Platt)),
            (199, 100, Ok(Method::Platt)),
            (200, 100, Ok(Method::Isotonic)),
            (200, 40, Ok(Method::Isotonic)),
            (200, 39, Ok(Method::Platt)),
            (1000, 961, Ok(Method::Platt)),
            (300, 300, Err(Refusal::Undefined(Undefined::OneClass))),
            (300, 0, Err(Refusal::Undefined(Undefined::OneClass))),
            (0, 0, too_few(0)),
        ] {
            assert_eq!(method_for(n, passed), expected, "{n} {passed}");
        }
    }

    #[test]
    fn isotonic_chances_stay_half_a_clip_from_certainty() {
        let points: Vec<_> = (0..200).map(|i| (f64::from(i), i >= 100)).collect();
        let map = Map::fit(Method::Isotonic, &points).unwrap();
        assert_eq!((map.at(0.0), map.at(199.0)), (0.0025, 0.9975));
        assert_eq!(map.method(), Method::Isotonic);
    }

    #[test]
    fn a_judge_that_is_upside_down_is_refused() {
        let points: Vec<_> = (0..60).map(|i| (f64::from(i), i < 30)).collect();
        assert_eq!(Map::fit(Method::Platt, &points), Err(Refusal::Reversed));
        // Of more clips the isotonic map, which would be level but for its edges.
        let mut points: Vec<_> = (0..400).map(|i| (f64::from(i), i < 200)).collect();
        points.extend([(-1.0, false), (401.0, true)]);
        assert_eq!(Map::fit(Method::Isotonic, &points), Err(Refusal::Reversed));
        let level = vec![(70.0, true), (70.0, false)];
        assert_eq!(
            Map::fit(Method::Isotonic, &level),
            Err(Undefined::Constant.into())
        );
        let unknown = vec![(f64::NAN, true), (70.0, false)];
        assert_eq!(
            Map::fit(Method::Isotonic, &unknown),
            Err(Undefined::NotFinite.into())
        );
        for refusal in [
            Refusal::Reversed,
            Refusal::TooFew(3),
            Undefined::Constant.into(),
        ] {
            assert!(refusal.to_string().len() > 40);
        }
    }

    #[test]
    fn floors_hold_on_the_remote_scale() {
        let pairs: Vec<Pair> = (0..100)
            .map(|i| {
                let local = f64::from(i);
                Pair {
                    local: [Some(local); 6],
                    local_overall: Some(local),
                    // The remote judge gives half as much, and lets the better half pass.
                    remote: [local / 2.0; 6],
                    remote_pass: i >= 50,
                    ..Pair::default()
                }
            })
            .collect();
        let pairs: Vec<&Pair> = pairs.iter().collect();
        let calibration = Calibration::fit(Method::Platt, &pairs).unwrap();
        let score = calibration.score(Dimension::PromptAdherence, 80.0).unwrap();
        assert!((score - 40.0).abs() < 2.0, "{score}");
        // Likely, but no local score reaches 50 on the remote scale.
        assert!(calibration.map.at(95.0) > 0.9);
        assert_eq!(calibration.passes(95.0, &[Some(99.0); 6]), Some(false));
        assert_eq!(calibration.passes(5.0, &[Some(99.0); 6]), Some(false));
        let mut unknown = [Some(99.0); 6];
        unknown[Dimension::TemporalConsistency as usize] = None;
        assert_eq!(calibration.passes(95.0, &unknown), None);
    }
}
