//! Order: Spearman's correlation and the area under the ROC curve, both with mean ranks for ties.

use super::{Figure, Statistic, Undefined, finite, weight};

/// Values replaced by their place among the distinct ones, lowest first. Made once, so that a draw of the bootstrap
/// ranks by counting instead of by sorting.
#[derive(Debug, Clone)]
pub(super) struct Levels {
    /// The level of each value.
    pub(super) of: Vec<usize>,
    /// Number of levels.
    pub(super) count: usize,
}

impl Levels {
    pub(super) fn new(values: impl IntoIterator<Item = f64>) -> Self {
        // Adding zero makes one zero of the two.
        let values: Vec<f64> = values.into_iter().map(|value| value + 0.0).collect();
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
        let mut of = vec![0; values.len()];
        let mut count = 0;
        for (place, &index) in order.iter().enumerate() {
            let is_new = place == 0 || values[order[place - 1]] != values[index];
            count += usize::from(is_new);
            of[index] = count - 1;
        }
        Self { of, count }
    }

    /// How many clips each level has.
    fn counts(&self, weights: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; self.count];
        for (&level, &weight) in self.of.iter().zip(weights) {
            counts[level] += weight;
        }
        counts
    }

    /// The mean rank of each level, from 1 on; exact, as halves of whole numbers are.
    fn mean_ranks(&self, weights: &[u64]) -> Vec<f64> {
        let mut below = 0;
        self.counts(weights)
            .into_iter()
            .map(|count| {
                let twice = 2 * below + count + 1;
                below += count;
                twice as f64 / 2.0
            })
            .collect()
    }
}

/// Spearman's correlation of two judges' scores.
#[derive(Debug, Clone)]
pub struct Spearman {
    rows: Vec<usize>,
    a: Levels,
    b: Levels,
}

impl Spearman {
    /// From (row, score of one judge, score of the other).
    pub fn new(scores: &[(usize, f64, f64)]) -> Self {
        Self {
            rows: scores.iter().map(|&(row, ..)| row).collect(),
            a: Levels::new(scores.iter().map(|&(_, a, _)| a)),
            b: Levels::new(scores.iter().map(|&(_, _, b)| b)),
        }
    }
}

impl Statistic for Spearman {
    /// Pearson's correlation of the mean ranks. Undefined when all scores of a judge are equal.
    fn figure(&self, weights: &[u32]) -> Figure {
        let weights: Vec<u64> = self.rows.iter().map(|&row| weight(weights, row)).collect();
        let n: u64 = weights.iter().sum();
        if n == 0 {
            return Err(Undefined::NoData);
        }
        // Ranks always have this mean.
        let mean = f64::midpoint(n as f64, 1.0);
        let (ranks_a, ranks_b) = (self.a.mean_ranks(&weights), self.b.mean_ranks(&weights));
        let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
        for ((&a, &b), &weight) in self.a.of.iter().zip(&self.b.of).zip(&weights) {
            let (a, b, weight) = (ranks_a[a] - mean, ranks_b[b] - mean, weight as f64);
            both += weight * a * b;
            of_a += weight * a * a;
            of_b += weight * b * b;
        }
        if of_a == 0.0 || of_b == 0.0 {
            return Err(Undefined::Constant);
        }
        finite((both / (of_a * of_b).sqrt()).clamp(-1.0, 1.0))
    }

    fn rows(&self) -> Vec<usize> {
        self.rows.clone()
    }
}

/// Area under the ROC curve: the chance that a clip that passed has the higher score than one that failed, where
/// equal scores count half.
#[derive(Debug, Clone)]
pub struct Auc {
    rows: Vec<usize>,
    scores: Levels,
    passed: Vec<bool>,
}

impl Auc {
    /// From (row, score, whether it passed).
    pub fn new(scores: &[(usize, f64, bool)]) -> Self {
        Self {
            rows: scores.iter().map(|&(row, ..)| row).collect(),
            scores: Levels::new(scores.iter().map(|&(_, score, _)| score)),
            passed: scores.iter().map(|&(.., passed)| passed).collect(),
        }
    }
}

impl Statistic for Auc {
    /// (R₊ - n₊(n₊ + 1)/2) / (n₊ n₋) with R₊ the sum of the mean ranks of those that passed (Mann and Whitney).
    fn figure(&self, weights: &[u32]) -> Figure {
        let weights: Vec<u64> = self.rows.iter().map(|&row| weight(weights, row)).collect();
        let n: u64 = weights.iter().sum();
        if n == 0 {
            return Err(Undefined::NoData);
        }
        let ranks = self.scores.mean_ranks(&weights);
        let (mut passed, mut sum) = (0_u64, 0.0);
        for ((&level, &is_pass), &weight) in self.scores.of.iter().zip(&self.passed).zip(&weights) {
            if is_pass {
                passed += weight;
                sum += weight as f64 * ranks[level];
            }
        }
        let failed = n - passed;
        if passed == 0 || failed == 0 {
            return Err(Undefined::OneClass);
        }
        let (passed, failed) = (passed as f64, failed as f64);
        finite((sum - passed * (passed + 1.0) / 2.0) / (passed * failed))
    }

    fn rows(&self) -> Vec<usize> {
        self.rows.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<T: Copy>(values: &[(f64, T)]) -> Vec<(usize, f64, T)> {
        values
            .iter()
            .enumerate()
            .map(|(row, &(a, b))| (row, a, b))
            .collect()
    }

    #[test]
    fn ties_share_their_ranks() {
        let levels = Levels::new([3.0, 1.0, 3.0, -0.0, 0.0]);
        assert_eq!(levels.of, [2, 1, 2, 0, 0]);
        assert_eq!(levels.mean_ranks(&[1; 5]), [1.5, 3.0, 4.5]);
        assert_eq!(levels.mean_ranks(&[2, 0, 0, 1, 0]), [1.0, 1.5, 2.5]);
    }

    #[test]
    fn spearman_sees_order_only() {
        let up = rows(&[(1.0, 1.0), (2.0, 8.0), (3.0, 9.0), (50.0, 100.0)]);
        assert_eq!(Spearman::new(&up).value(), Ok(1.0));
        let down = rows(&[(1.0, 9.0), (2.0, 8.0), (3.0, 7.0)]);
        assert_eq!(Spearman::new(&down).value(), Ok(-1.0));
        let constant = rows(&[(1.0, 5.0), (2.0, 5.0)]);
        assert_eq!(Spearman::new(&constant).value(), Err(Undefined::Constant));
        assert_eq!(Spearman::new(&[]).value(), Err(Undefined::NoData));
        let hostile = rows(&[(f64::NAN, 1.0), (1.0, f64::INFINITY), (2.0, 0.0)]);
        assert!(Spearman::new(&hostile).value().is_ok_and(f64::is_finite));
    }

    #[test]
    fn auc_counts_ties_half() {
        let auc = |values: &[(f64, bool)]| Auc::new(&rows(values)).value();
        assert_eq!(auc(&[(1.0, false), (2.0, true)]), Ok(1.0));
        assert_eq!(auc(&[(2.0, false), (1.0, true)]), Ok(0.0));
        assert_eq!(auc(&[(1.0, false), (1.0, true)]), Ok(0.5));
        // 1 beats 0 and ties with 1; 2 beats both: (1.5 + 2) / 4.
        assert_eq!(
            auc(&[(0.0, false), (1.0, false), (1.0, true), (2.0, true)]),
            Ok(0.875)
        );
        assert_eq!(auc(&[(1.0, true)]), Err(Undefined::OneClass));
        assert_eq!(auc(&[]), Err(Undefined::NoData));
    }
}
