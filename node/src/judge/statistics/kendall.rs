//! Order, pair by pair: Kendall's tau-b, and the share of pairs that a judge orders as people do.
//!
//! Over pairs of clips with C ordered alike and D ordered against: tau-b = (C - D) / sqrt((n0 - n1)(n0 - n2)), with n0
//! all pairs and n1, n2 those that are equal in one of the two; accuracy = C / (n0 - n2), n2 those that people find
//! equal, so that a judge who does not decide is not right. A clip drawn twice by the bootstrap is equal to itself.
//!
//! Counted in n log n with a Fenwick tree (Knight 1966), since every draw counts again.

use super::rank::Levels;
use super::{Figure, Statistic, Undefined, finite, weight};

/// Which figure of the pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Kendall's tau-b.
    TauB,
    /// Share of the pairs that the second scores decide and the first order alike.
    Accuracy,
}

/// Two lists of scores of the same clips, compared pair by pair.
#[derive(Debug, Clone)]
pub struct Concordance {
    rows: Vec<usize>,
    a: Levels,
    b: Levels,
    /// Clips by rising level of `a`.
    order: Vec<usize>,
    measure: Measure,
}

/// Pairs of clips.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    alike: u64,
    against: u64,
    all: u64,
    equal_a: u64,
    equal_b: u64,
}

impl Concordance {
    /// From (row, the judge's score, people's score).
    pub fn new(scores: &[(usize, f64, f64)], measure: Measure) -> Self {
        let a = Levels::new(scores.iter().map(|&(_, a, _)| a));
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by_key(|&clip| a.of.get(clip).copied());
        Self {
            rows: scores.iter().map(|&(row, ..)| row).collect(),
            b: Levels::new(scores.iter().map(|&(_, _, b)| b)),
            a,
            order,
            measure,
        }
    }

    fn counts(&self, weights: &[u32]) -> Counts {
        let mut below = Fenwick::new(self.b.count);
        let mut counts = Counts::default();
        let mut seen = 0;
        // (level of a, level of b, how often the clip counts)
        let clips: Vec<(usize, usize, u64)> = self
            .order
            .iter()
            .filter_map(|&clip| {
                let (a, b) = (*self.a.of.get(clip)?, *self.b.of.get(clip)?);
                Some((a, b, weight(weights, *self.rows.get(clip)?)))
            })
            .collect();
        for group in clips.chunk_by(|one, next| one.0 == next.0) {
            for &(_, b, times) in group {
                let (lower, lower_or_equal) = (below.sum(b), below.sum(b + 1));
                counts.alike += times * lower;
                counts.against += times * (seen - lower_or_equal);
            }
            let together: u64 = group.iter().map(|&(.., times)| times).sum();
            counts.equal_a += pairs(together);
            for &(_, b, times) in group {
                below.add(b, times);
            }
            seen += together;
        }
        counts.all = pairs(seen);
        counts.equal_b = (0..self.b.count)
            .map(|level| pairs(below.sum(level + 1) - below.sum(level)))
            .sum();
        counts
    }
}

impl Statistic for Concordance {
    fn figure(&self, weights: &[u32]) -> Figure {
        let counts = self.counts(weights);
        if counts.all == 0 {
            return Err(Undefined::NoData);
        }
        let decided = |equal: u64| (counts.all - equal) as f64;
        let (of_a, of_b) = (decided(counts.equal_a), decided(counts.equal_b));
        match self.measure {
            _ if of_b == 0.0 => Err(Undefined::Constant),
            Measure::Accuracy => finite(counts.alike as f64 / of_b),
            Measure::TauB if of_a == 0.0 => Err(Undefined::Constant),
            Measure::TauB => {
                let difference = counts.alike as f64 - counts.against as f64;
                finite((difference / (of_a * of_b).sqrt()).clamp(-1.0, 1.0))
            }
        }
    }

    fn rows(&self) -> Vec<usize> {
        self.rows.clone()
    }
}

fn pairs(n: u64) -> u64 {
    n * n.saturating_sub(1) / 2
}

/// Sums of a prefix of a list that changes.
struct Fenwick(Vec<u64>);

impl Fenwick {
    fn new(len: usize) -> Self {
        Self(vec![0; len + 1])
    }

    fn add(&mut self, index: usize, value: u64) {
        let mut at = index + 1;
        while let Some(sum) = self.0.get_mut(at) {
            *sum += value;
            at += at & at.wrapping_neg();
        }
    }

    /// Of the first `count` places.
    fn sum(&self, count: usize) -> u64 {
        let (mut at, mut sum) = (count, 0);
        while at > 0 {
            sum += self.0.get(at).copied().unwrap_or(0);
            at &= at - 1;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use leoma_models::random::Random;

    use super::*;

    fn of(pairs: &[(f64, f64)], measure: Measure) -> Concordance {
        let rows: Vec<_> = pairs
            .iter()
            .enumerate()
            .map(|(row, &(a, b))| (row, a, b))
            .collect();
        Concordance::new(&rows, measure)
    }

    #[test]
    fn tau_of_scipys_own_example() {
        // scipy.stats.kendalltau([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) as its documentation prints it.
        let pairs = [(12.0, 1.0), (2.0, 4.0), (1.0, 7.0), (12.0, 1.0), (2.0, 0.0)];
        let tau = of(&pairs, Measure::TauB).value().unwrap();
        assert!((tau + 0.471_404_520_791_031_73).abs() < 1e-15, "{tau}");
        // Of 10 pairs the second list decides 9, of which 2 are ordered alike.
        let found = of(&pairs, Measure::Accuracy).counts(&[1; 5]);
        assert_eq!((found.alike, found.against), (2, 6));
        assert_eq!((found.all, found.equal_a, found.equal_b), (10, 2, 1));
        assert_eq!(of(&pairs, Measure::Accuracy).value(), Ok(2.0 / 9.0));
    }

    #[test]
    fn a_weight_is_a_repeated_clip() {
        let mut random = Random::new(5, "kendall");
        for _ in 0..40 {
            let mut draw = |most: u64| (random.bits() % most) as f64;
            let pairs: Vec<(f64, f64)> = (0..12).map(|_| (draw(5), draw(4))).collect();
            let weights: Vec<u32> = (0..12).map(|_| draw(4) as u32).collect();
            let repeated: Vec<(f64, f64)> = pairs
                .iter()
                .zip(&weights)
                .flat_map(|(pair, times)| vec![*pair; *times as usize])
                .collect();
            for measure in [Measure::TauB, Measure::Accuracy] {
                let weighted = of(&pairs, measure).figure(&weights);
                assert_eq!(weighted, of(&repeated, measure).value());
            }
            // The definition, pair by pair.
            let mut plain = Counts::default();
            for (i, one) in repeated.iter().enumerate() {
                for other in &repeated[i + 1..] {
                    let product = (one.0 - other.0) * (one.1 - other.1);
                    plain.alike += u64::from(product > 0.0);
                    plain.against += u64::from(product < 0.0);
                    plain.all += 1;
                    plain.equal_a += u64::from(one.0 == other.0);
                    plain.equal_b += u64::from(one.1 == other.1);
                }
            }
            assert_eq!(of(&pairs, Measure::TauB).counts(&weights), plain);
        }
    }

    #[test]
    fn no_order_has_no_figure() {
        assert_eq!(of(&[], Measure::TauB).value(), Err(Undefined::NoData));
        let one = [(1.0, 2.0)];
        assert_eq!(of(&one, Measure::Accuracy).value(), Err(Undefined::NoData));
        let flat = [(1.0, 2.0), (1.0, 3.0)];
        assert_eq!(of(&flat, Measure::TauB).value(), Err(Undefined::Constant));
        // A judge that never decides is never right.
        assert_eq!(of(&flat, Measure::Accuracy).value(), Ok(0.0));
        let equal = [(1.0, 2.0), (3.0, 2.0)];
        assert_eq!(
            of(&equal, Measure::Accuracy).value(),
            Err(Undefined::Constant)
        );
    }
}
