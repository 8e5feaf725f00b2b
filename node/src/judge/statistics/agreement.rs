//! Agreement on classes: pass and fail, and five bins of scores.

use serde::{Deserialize, Serialize};

use super::{Figure, Statistic, Undefined, finite, weight};

/// Bins of the quadratic kappa: 0–19, 20–39, 40–59, 60–79, 80–100.
pub const BINS: usize = 5;

/// Two judges' decisions on the same clips, counted. The remote judge is the one that counts as right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Confusion {
    /// Both let the clip pass.
    pub both_pass: u64,
    /// The local judge lets it pass, the remote one does not.
    pub false_pass: u64,
    /// The local judge fails it, the remote one does not.
    pub false_fail: u64,
    /// Both fail it.
    pub both_fail: u64,
}

impl Confusion {
    /// Counts one clip, `times` times.
    fn add(&mut self, local: bool, remote: bool, times: u64) {
        let field = match (local, remote) {
            (true, true) => &mut self.both_pass,
            (true, false) => &mut self.false_pass,
            (false, true) => &mut self.false_fail,
            (false, false) => &mut self.both_fail,
        };
        *field += times;
    }

    /// Counts pairs of (local, remote).
    pub fn of(decisions: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut counts = Self::default();
        for (local, remote) in decisions {
            counts.add(local, remote, 1);
        }
        counts
    }

    /// All clips.
    pub fn total(&self) -> u64 {
        self.both_pass + self.false_pass + self.false_fail + self.both_fail
    }

    /// Clips that the remote judge fails.
    pub fn remote_fails(&self) -> u64 {
        self.false_pass + self.both_fail
    }

    /// Clips that the remote judge lets pass.
    pub fn remote_passes(&self) -> u64 {
        self.both_pass + self.false_fail
    }

    /// Share of clips with the same decision.
    pub fn agreement(&self) -> Figure {
        share(self.both_pass + self.both_fail, self.total())
    }

    /// Share of the clips failed by the remote judge that the local one lets pass.
    pub fn false_pass_rate(&self) -> Figure {
        share(self.false_pass, self.remote_fails())
    }

    /// Share of the clips passed by the remote judge that the local one fails.
    pub fn false_fail_rate(&self) -> Figure {
        share(self.false_fail, self.remote_passes())
    }

    /// Cohen's kappa, (p_o - p_e) / (1 - p_e). Undefined when both judges only ever gave one and the same answer.
    pub fn kappa(&self) -> Figure {
        // In whole numbers up to the one division: p_o = same / n, p_e = chance / n².
        let [a, b, c, d] = [
            self.both_pass,
            self.false_pass,
            self.false_fail,
            self.both_fail,
        ]
        .map(u128::from);
        let n = a + b + c + d;
        if n == 0 {
            return Err(Undefined::NoData);
        }
        let chance = (a + b) * (a + c) + (c + d) * (b + d);
        let room = n * n - chance;
        if room == 0 {
            return Err(Undefined::OneClass);
        }
        finite((((a + d) * n) as f64 - chance as f64) / room as f64)
    }
}

/// `part` of `whole`.
pub fn share(part: u64, whole: u64) -> Figure {
    if whole == 0 {
        Err(Undefined::NoData)
    } else {
        finite(part as f64 / whole as f64)
    }
}

/// What of a [`Confusion`] a [`Decisions`] reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// [`Confusion::agreement`].
    Agreement,
    /// [`Confusion::kappa`].
    Kappa,
    /// [`Confusion::false_pass_rate`].
    FalsePass,
    /// [`Confusion::false_fail_rate`].
    FalseFail,
}

/// Decisions of two judges, by row, as a statistic.
#[derive(Debug, Clone)]
pub struct Decisions<'a> {
    /// (row, local, remote).
    pub of: &'a [(usize, bool, bool)],
    /// What is asked about them.
    pub rate: Rate,
}

impl Statistic for Decisions<'_> {
    fn figure(&self, weights: &[u32]) -> Figure {
        let mut counts = Confusion::default();
        for &(row, local, remote) in self.of {
            counts.add(local, remote, weight(weights, row));
        }
        match self.rate {
            Rate::Agreement => counts.agreement(),
            Rate::Kappa => counts.kappa(),
            Rate::FalsePass => counts.false_pass_rate(),
            Rate::FalseFail => counts.false_fail_rate(),
        }
    }

    fn rows(&self) -> Vec<usize> {
        self.of.iter().map(|&(row, ..)| row).collect()
    }
}

/// The bin of a score from 0 to 100; what lies outside belongs to the nearest one.
pub fn bin(score: f64) -> usize {
    // A cast of a float saturates, and takes "not a number" to 0.
    ((score / 20.0) as usize).min(BINS - 1)
}

/// Scores of two judges by row, whose bins are compared: kappa with quadratic weights.
#[derive(Debug, Clone)]
pub struct QuadraticKappa {
    /// (row, bin of one judge, bin of the other).
    of: Vec<(usize, usize, usize)>,
}

impl QuadraticKappa {
    /// From (row, score of one judge, score of the other).
    pub fn new(scores: &[(usize, f64, f64)]) -> Self {
        let of = scores
            .iter()
            .map(|&(row, a, b)| (row, bin(a), bin(b)))
            .collect();
        Self { of }
    }
}

impl Statistic for QuadraticKappa {
    /// 1 - Σ w_ij O_ij / Σ w_ij E_ij with w_ij = (i - j)² / 16. Undefined when all scores of both judges lie in one
    /// and the same bin.
    fn figure(&self, weights: &[u32]) -> Figure {
        let mut observed = [[0_u64; BINS]; BINS];
        for &(row, a, b) in &self.of {
            observed[a][b] += weight(weights, row);
        }
        quadratic_kappa(&observed)
    }

    fn rows(&self) -> Vec<usize> {
        self.of.iter().map(|&(row, ..)| row).collect()
    }
}

/// See [`QuadraticKappa`]; `observed[i][j]` counts the clips in bin i of one judge and bin j of the other.
pub fn quadratic_kappa(observed: &[[u64; BINS]; BINS]) -> Figure {
    let row = |i: usize| observed[i].iter().copied().map(u128::from).sum::<u128>();
    let column = |j: usize| observed.iter().map(|row| u128::from(row[j])).sum::<u128>();
    let n: u128 = (0..BINS).map(row).sum();
    if n == 0 {
        return Err(Undefined::NoData);
    }
    // The 16 of the weights cancels, and E_ij = row · column / n: whole numbers up to the one division.
    let (mut seen, mut expected) = (0_u128, 0_u128);
    for i in 0..BINS {
        for j in 0..BINS {
            let distance = (i.abs_diff(j) as u128).pow(2);
            seen += distance * u128::from(observed[i][j]);
            expected += distance * row(i) * column(j);
        }
    }
    if expected == 0 {
        return Err(Undefined::Constant);
    }
    finite(1.0 - (n * seen) as f64 / expected as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kappa_of_the_textbook() {
        // Two readers of 50 grant proposals: 20 and 15 alike; p_o = 0.7, p_e = 0.5.
        let counts = Confusion {
            both_pass: 20,
            false_pass: 5,
            false_fail: 10,
            both_fail: 15,
        };
        assert!((counts.kappa().unwrap() - 0.4).abs() < 1e-15);
        assert_eq!(counts.agreement(), Ok(0.7));
        assert_eq!(counts.false_pass_rate(), Ok(0.25));
        assert!((counts.false_fail_rate().unwrap() - 1.0 / 3.0).abs() < 1e-15);
    }

    #[test]
    fn what_chance_explains_has_no_kappa() {
        assert_eq!(Confusion::default().kappa(), Err(Undefined::NoData));
        let all = Confusion::of([(true, true); 9]);
        assert_eq!(all.kappa(), Err(Undefined::OneClass));
        assert_eq!(all.false_pass_rate(), Err(Undefined::NoData));
        assert_eq!(all.false_fail_rate(), Ok(0.0));
        // One judge never varies, the other does: no better than chance.
        assert_eq!(
            Confusion::of([(true, true), (true, false)]).kappa(),
            Ok(0.0)
        );
        // Two judges who always answer, each the other's opposite.
        assert_eq!(Confusion::of([(true, false); 4]).kappa(), Ok(0.0));
        assert_eq!(
            Confusion::of([(true, false), (false, true)]).kappa(),
            Ok(-1.0)
        );
    }

    #[test]
    fn counts_as_large_as_they_come_do_not_overflow() {
        let counts = Confusion {
            both_pass: u64::MAX / 8,
            false_pass: u64::MAX / 8,
            false_fail: 0,
            both_fail: u64::MAX / 8,
        };
        assert!((counts.kappa().unwrap() - 0.4).abs() < 1e-12);
    }

    #[test]
    fn bins_have_their_borders() {
        for (score, expected) in [
            (0.0, 0),
            (19.0, 0),
            (19.99, 0),
            (20.0, 1),
            (39.0, 1),
            (40.0, 2),
            (60.0, 3),
            (79.9, 3),
            (80.0, 4),
            (100.0, 4),
            (-5.0, 0),
            (1e300, 4),
            (f64::NAN, 0),
        ] {
            assert_eq!(bin(score), expected, "{score}");
        }
    }

    #[test]
    fn quadratic_kappa_of_hand_worked_bins() {
        let kappa = |scores: &[(f64, f64)]| {
            let rows: Vec<_> = scores
                .iter()
                .enumerate()
                .map(|(row, &(a, b))| (row, a, b))
                .collect();
            QuadraticKappa::new(&rows).value()
        };
        assert_eq!(kappa(&[(10.0, 10.0), (90.0, 90.0)]), Ok(1.0));
        assert_eq!(kappa(&[(10.0, 90.0), (90.0, 10.0)]), Ok(-1.0));
        // Bins (0,0), (0,1), (2,2): Σ w O = 1, Σ w E = (2·1·1 + 2·1·4 + 1·1·4 + 1·1·1) / 3 = 5.
        let found = kappa(&[(1.0, 1.0), (1.0, 25.0), (50.0, 50.0)]).unwrap();
        assert!((found - 0.8).abs() < 1e-15, "{found}");
        assert_eq!(
            kappa(&[(81.0, 99.0), (85.0, 100.0)]),
            Err(Undefined::Constant)
        );
        assert_eq!(kappa(&[]), Err(Undefined::NoData));
    }

    #[test]
    fn weights_count_clips_as_if_they_were_there_so_often() {
        let decisions = [(0, true, true), (1, true, false), (2, false, false)];
        let statistic = Decisions {
            of: &decisions,
            rate: Rate::Kappa,
        };
        let repeated = Confusion::of([(true, true), (true, true), (true, false), (false, false)]);
        assert_eq!(statistic.figure(&[2, 1, 1]), repeated.kappa());
        // A row without a weight is not there.
        assert_eq!(statistic.figure(&[3]), Err(Undefined::OneClass));
    }
}
