//! Probabilities held against what happened: Brier score, expected calibration error, and the bins of the
//! reliability diagram.

use serde::Serialize;

use super::bootstrap::wilson;
use super::rank::Levels;
use super::{Figure, Statistic, Undefined, finite, weight};

/// Bins of the expected calibration error, of equal counts.
pub const BINS: usize = 10;

/// What is asked about probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// Mean (p - y)²: 0 is perfect, 0.25 is what saying one half to everything gives.
    Brier,
    /// Σ (n_b / n) |mean p - mean y| over [`BINS`] bins of equal counts.
    Ece,
}

/// Predicted probabilities of a pass by row, and whether the clip passed.
#[derive(Debug, Clone)]
pub struct Predictions {
    of: Vec<(usize, f64, bool)>,
    levels: Levels,
}

/// A point of the reliability diagram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bin {
    /// Clips.
    pub n: u64,
    /// Clips that passed.
    pub passed: u64,
    /// Mean of their predictions.
    pub mean_p: f64,
    /// Share that passed.
    pub share: f64,
    /// Wilson interval of the share, 95 %, with the clips taken as independent.
    pub interval: [f64; 2],
}

/// Sums over a bin.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    n: u64,
    passed: u64,
    p: f64,
}

impl Predictions {
    /// From (row, probability, whether it passed).
    pub fn new(predictions: Vec<(usize, f64, bool)>) -> Self {
        let levels = Levels::new(predictions.iter().map(|&(_, p, _)| p));
        Self {
            of: predictions,
            levels,
        }
    }

    /// The score that is asked for, as a statistic.
    pub fn score(&self, score: Score) -> Scored<'_> {
        Scored { of: self, score }
    }

    /// The non-empty bins, from the lowest predictions to the highest.
    pub fn bins(&self) -> Vec<Bin> {
        let length = self.of.iter().map(|&(row, ..)| row + 1).max().unwrap_or(0);
        self.sums(&vec![1; length])
            .into_iter()
            .filter_map(|sums| {
                let n = sums.n as f64;
                Some(Bin {
                    n: sums.n,
                    passed: sums.passed,
                    mean_p: finite(sums.p / n).ok()?,
                    share: finite(sums.passed as f64 / n).ok()?,
                    interval: wilson(sums.passed, sums.n).ok()?,
                })
            })
            .collect()
    }

    /// Bins of equal counts. Equal predictions stay together, in the bin of their middle, so that the order of the
    /// clips in a log changes nothing; a constant prediction is one bin.
    fn sums(&self, weights: &[u32]) -> [Sums; BINS] {
        let mut levels = vec![Sums::default(); self.levels.count];
        for (&(row, p, passed), &level) in self.of.iter().zip(&self.levels.of) {
            let weight = weight(weights, row);
            let sums = &mut levels[level];
            sums.n += weight;
            sums.passed += if passed { weight } else { 0 };
            sums.p += weight as f64 * p;
        }
        let n: u64 = levels.iter().map(|sums| sums.n).sum();
        let mut bins = [Sums::default(); BINS];
        let mut below = 0;
        for sums in levels.into_iter().filter(|sums| sums.n > 0) {
            // BINS · (below + n/2) / all, in whole numbers.
            let index = BINS as u64 * (2 * below + sums.n) / (2 * n);
            let bin = &mut bins[(index as usize).min(BINS - 1)];
            bin.n += sums.n;
            bin.passed += sums.passed;
            bin.p += sums.p;
            below += sums.n;
        }
        bins
    }
}

/// See [`Predictions::score`].
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    of: &'a Predictions,
    score: Score,
}

impl Statistic for Scored<'_> {
    fn figure(&self, weights: &[u32]) -> Figure {
        match self.score {
            Score::Brier => {
                let (mut n, mut sum) = (0_u64, 0.0);
                for &(row, p, passed) in &self.of.of {
                    let weight = weight(weights, row);
                    n += weight;
                    sum += weight as f64 * (p - f64::from(u8::from(passed))).powi(2);
                }
                if n == 0 {
                    return Err(Undefined::NoData);
                }
                finite(sum / n as f64)
            }
            Score::Ece => {
                let bins = self.of.sums(weights);
                let n: u64 = bins.iter().map(|bin| bin.n).sum();
                if n == 0 {
                    return Err(Undefined::NoData);
                }
                // n_b |mean p - mean y| is |Σ p - Σ y|.
                let gaps: f64 = bins
                    .iter()
                    .map(|bin| (bin.p - bin.passed as f64).abs())
                    .sum();
                finite(gaps / n as f64)
            }
        }
    }

    fn rows(&self) -> Vec<usize> {
        self.of.of.iter().map(|&(row, ..)| row).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn predictions(of: &[(f64, bool)]) -> Predictions {
        Predictions::new(
            of.iter()
                .enumerate()
                .map(|(row, &(p, passed))| (row, p, passed))
                .collect(),
        )
    }

    #[test]
    fn brier_of_hand_worked_predictions() {
        let found = predictions(&[(1.0, true), (0.5, false), (0.0, true)]);
        let brier = found.score(Score::Brier).value().unwrap();
        assert!((brier - 1.25 / 3.0).abs() < 1e-15);
        let none = predictions(&[]);
        assert!(none.bins().is_empty());
        for score in [Score::Brier, Score::Ece] {
            assert_eq!(none.score(score).value(), Err(Undefined::NoData));
        }
    }

    #[test]
    fn bins_have_equal_counts_and_equal_predictions_stay_together() {
        let hundred: Vec<_> = (0..100).map(|i| (f64::from(i) / 100.0, i >= 50)).collect();
        let bins = predictions(&hundred).bins();
        assert_eq!(bins.len(), BINS);
        assert!(bins.iter().all(|bin| bin.n == 10));
        assert!((bins[3].mean_p - 0.345).abs() < 1e-12 && bins[3].share == 0.0);

        let constant = predictions(&[(0.3, true), (0.3, false), (0.3, false), (0.3, false)]);
        let bins = constant.bins();
        assert_eq!((bins.len(), bins[0].n, bins[0].passed), (1, 4, 1));
        let ece = constant.score(Score::Ece).value().unwrap();
        assert!((ece - 0.05).abs() < 1e-12, "{ece}");
    }

    #[test]
    fn the_order_of_clips_changes_nothing() {
        let mut clips: Vec<_> = (0..57)
            .map(|i| (f64::from(i % 7) / 7.0, i % 3 == 0))
            .collect();
        let forth = predictions(&clips).score(Score::Ece).value().unwrap();
        clips.reverse();
        let back = predictions(&clips).score(Score::Ece).value().unwrap();
        assert!((forth - back).abs() < 1e-12);
    }

    #[test]
    fn weights_count_clips_as_if_they_were_there_so_often() {
        let clips = [(0.1, false), (0.4, true), (0.4, false), (0.9, true)];
        let weights = [3, 0, 2, 1];
        let repeated: Vec<_> = clips
            .iter()
            .zip(weights)
            .flat_map(|(&clip, weight)| vec![clip; weight as usize])
            .collect();
        for score in [Score::Brier, Score::Ece] {
            let weighted = predictions(&clips).score(score).figure(&weights).unwrap();
            let plain = predictions(&repeated).score(score).value().unwrap();
            assert!((weighted - plain).abs() < 1e-12);
        }
    }
}
