//! A logistic curve through few points.
//!
//! **Source**: Platt 1999 for the targets, which pull the curve away from certainty; Lin, Lin and Weng 2007 for a
//! Newton iteration that neither overflows nor runs away.

use serde::{Deserialize, Serialize};

use crate::judge::statistics::{Undefined, finite};

/// Newton steps that are tried; ten are enough for any data that was seen.
const STEPS: usize = 100;
/// Share of the promised decrease that a step must bring.
const DECREASE: f64 = 1e-4;
/// Least part of a step that is tried.
const LEAST_STEP: f64 = 1e-10;

/// p = 1 / (1 + exp(-(slope · x + intercept))).
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
pub struct Platt {
    /// By how much the log odds rise for each point of the score.
    pub slope: f64,
    /// Log odds at a score of 0.
    pub intercept: f64,
}

impl Platt {
    /// The curve for points (score, passed).
    ///
    /// # Errors
    /// [`Undefined`] when there is one class only, or all scores are equal.
    pub fn fit(points: &[(f64, bool)]) -> Result<Self, Undefined> {
        if points.is_empty() {
            return Err(Undefined::NoData);
        }
        let passed = points.iter().filter(|point| point.1).count() as f64;
        let failed = points.len() as f64 - passed;
        if passed == 0.0 || failed == 0.0 {
            return Err(Undefined::OneClass);
        }
        let targets = ((passed + 1.0) / (passed + 2.0), 1.0 / (failed + 2.0));

        // With mean 0 and deviation 1 the two parameters hardly depend on each other, and a step serves both.
        let n = points.len() as f64;
        let mean = finite(points.iter().map(|point| point.0).sum::<f64>() / n)?;
        let variance = points
            .iter()
            .map(|point| (point.0 - mean).powi(2))
            .sum::<f64>()
            / n;
        let deviation = finite(variance.sqrt())?;
        if deviation == 0.0 {
            return Err(Undefined::Constant);
        }
        let points: Vec<(f64, f64)> = points
            .iter()
            .map(|&(x, passed)| {
                let target = if passed { targets.0 } else { targets.1 };
                ((x - mean) / deviation, target)
            })
            .collect();
        let (slope, intercept) = minimum(&points, ((passed + 1.0) / (failed + 1.0)).ln());
        Ok(Self {
            slope: finite(slope / deviation)?,
            intercept: finite(intercept - slope * mean / deviation)?,
        })
    }

    /// The probability at a score.
    pub fn at(&self, x: f64) -> f64 {
        logistic(self.slope * x + self.intercept)
    }
}

/// 1 / (1 + exp(-z)), without an overflow for either sign.
fn logistic(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        let e = z.exp();
        e / (1.0 + e)
    }
}

/// Cross entropy with targets (x, target), without an overflow.
fn loss(points: &[(f64, f64)], slope: f64, intercept: f64) -> f64 {
    points
        .iter()
        .map(|&(x, target)| {
            let z = slope * x + intercept;
            z.max(0.0) - target * z + (-z.abs()).exp().ln_1p()
        })
        .sum()
}

/// Slope and intercept of the least loss, which is convex: targets strictly between 0 and 1 keep its minimum finite.
fn minimum(points: &[(f64, f64)], intercept: f64) -> (f64, f64) {
    let (mut slope, mut intercept) = (0.0, intercept);
    let mut least = loss(points, slope, intercept);
    for _ in 0..STEPS {
        let [mut g0, mut g1, mut h00, mut h01, mut h11] = [0.0; 5];
        for &(x, target) in points {
            let p = logistic(slope * x + intercept);
            let (gap, curvature) = (p - target, p * (1.0 - p));
            g0 += gap * x;
            g1 += gap;
            h00 += curvature * x * x;
            h01 += curvature * x;
            h11 += curvature;
        }
        // Keeps the matrix regular where all probabilities have saturated.
        h00 += 1e-12;
        h11 += 1e-12;
        if g0.abs().max(g1.abs()) <= 1e-12 * points.len() as f64 {
            break;
        }
        let determinant = h00 * h11 - h01 * h01;
        let (d0, d1) = (
            (h01 * g1 - h11 * g0) / determinant,
            (h01 * g0 - h00 * g1) / determinant,
        );
        let promised = g0 * d0 + g1 * d1;
        let mut step = 1.0;
        loop {
            let (a, b) = (slope + step * d0, intercept + step * d1);
            let found = loss(points, a, b);
            if found < least + DECREASE * step * promised {
                (slope, intercept, least) = (a, b, found);
                break;
            }
            step /= 2.0;
            if step < LEAST_STEP {
                // No step brings anything: this is the minimum as far as rounding shows it.
                return (slope, intercept);
            }
        }
    }
    (slope, intercept)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_balanced_step_has_its_middle_between() {
        let points: Vec<_> = (0..100).map(|i| (f64::from(i), i >= 50)).collect();
        let curve = Platt::fit(&points).unwrap();
        assert!((curve.at(49.5) - 0.5).abs() < 1e-9, "{curve:?}");
        assert!(curve.at(0.0) < 0.05 && curve.at(99.0) > 0.95);
        assert!(curve.at(-1e300) >= 0.0 && curve.at(1e300) <= 1.0);
    }

    #[test]
    fn separated_classes_stay_short_of_certainty() {
        // Two places only: the curve goes through both targets, 51/52 and 1/52.
        let points: Vec<_> = (0..100)
            .map(|i| (if i < 50 { 10.0 } else { 90.0 }, i >= 50))
            .collect();
        let curve = Platt::fit(&points).unwrap();
        assert!((curve.at(90.0) - 51.0 / 52.0).abs() < 1e-9, "{curve:?}");
        assert!((curve.at(10.0) - 1.0 / 52.0).abs() < 1e-9, "{curve:?}");
    }

    #[test]
    fn the_gradient_vanishes_at_the_result() {
        let points: Vec<_> = (0..137)
            .map(|i| (f64::from(i * 37 % 101), (i * 7 + i * i) % 5 > 2))
            .collect();
        let curve = Platt::fit(&points).unwrap();
        let passed = points.iter().filter(|point| point.1).count() as f64;
        let failed = points.len() as f64 - passed;
        let gaps = points.iter().map(|&(x, is_pass)| {
            let target = if is_pass {
                (passed + 1.0) / (passed + 2.0)
            } else {
                1.0 / (failed + 2.0)
            };
            let gap = curve.at(x) - target;
            (gap, gap * x)
        });
        let (sum, moment) = gaps.fold((0.0, 0.0), |sum, gap| (sum.0 + gap.0, sum.1 + gap.1));
        assert!(sum.abs() < 1e-8 && moment.abs() < 1e-6, "{sum} {moment}");
    }

    #[test]
    fn what_has_no_curve_is_refused() {
        assert_eq!(Platt::fit(&[]), Err(Undefined::NoData));
        assert_eq!(Platt::fit(&[(1.0, true)]), Err(Undefined::OneClass));
        assert_eq!(
            Platt::fit(&[(5.0, true), (5.0, false)]),
            Err(Undefined::Constant)
        );
        assert!(Platt::fit(&[(f64::NAN, true), (5.0, false)]).is_err());
    }
}
