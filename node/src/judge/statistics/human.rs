//! A judge against people who were shown two clips and said which is better, or that neither is.
//!
//! A judge's scores are hardly ever equal, people often find clips equal. So the gap up to which the judge's scores
//! count as a tie is chosen for the best agreement, and stated; how well the judge orders the pairs that people did
//! decide is stated beside it. **Source**: three-way accuracy with calibrated ties, Deutsch, Foster and Freitag 2023.

use serde::{Deserialize, Serialize};

use super::agreement::share;
use super::{Figure, Statistic, weight};

/// What a person said about a pair of clips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The first is better.
    First,
    /// The second is better.
    Second,
    /// Neither.
    Tie,
}

/// A pair of clips that a person and a judge have seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preference {
    /// The judge's score of the first clip less that of the second.
    pub gap: f64,
    /// What the person said.
    pub human: Choice,
}

/// How far a judge agrees with people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HumanAgreement {
    /// Pairs.
    pub n: usize,
    /// Pairs that people called a tie.
    pub ties: usize,
    /// Best share of three-way answers that are the same, over all widths of a tie. Chosen on the same pairs, so it
    /// flatters a little.
    pub with_ties: Figure,
    /// The width of that best share: scores that are no further apart count as a tie. The narrowest of equals.
    pub tie_width: f64,
    /// C / (C + D + T) over the pairs that people decided: ordered alike, ordered against, scored equal by the judge.
    pub without_ties: Figure,
}

/// The agreement over these pairs. Gaps that are no number are left out.
pub fn agreement(preferences: &[Preference]) -> HumanAgreement {
    let mut pairs: Vec<Preference> = preferences
        .iter()
        .copied()
        .filter(|pair| pair.gap.is_finite())
        .collect();
    pairs.sort_by(|a, b| a.gap.abs().total_cmp(&b.gap.abs()));
    let ties = count(&pairs, |pair| pair.human == Choice::Tie);
    let alike = count(&pairs, |pair| ordered(pair) == Some(true));
    let decided = pairs.len() - ties;

    // From no tie at all but equal scores: widening the tie past a pair loses it if it was ordered rightly and wins
    // it if people call it a tie.
    let equal = pairs.iter().take_while(|pair| pair.gap == 0.0).count();
    let mut right = alike + count(&pairs[..equal], |pair| pair.human == Choice::Tie);
    let (mut best, mut tie_width) = (right, 0.0);
    for (index, pair) in pairs.iter().enumerate().skip(equal) {
        match (pair.human, ordered(pair)) {
            (Choice::Tie, _) => right += 1,
            (_, Some(true)) => right -= 1,
            _ => {}
        }
        // Equal gaps become ties together.
        let is_last = pairs
            .get(index + 1)
            .is_none_or(|next| next.gap.abs() != pair.gap.abs());
        if is_last && right > best {
            (best, tie_width) = (right, pair.gap.abs());
        }
    }
    let of = |part: usize, whole: usize| share(part as u64, whole as u64);
    HumanAgreement {
        n: pairs.len(),
        ties,
        with_ties: of(best, pairs.len()),
        tie_width,
        without_ties: of(alike, decided),
    }
}

/// [`HumanAgreement::without_ties`] with an interval: each pair counts as often as a draw holds it.
#[derive(Debug, Clone, Default)]
pub struct DecidedPairs {
    /// Row and pair.
    pub pairs: Vec<(usize, Preference)>,
}

impl Statistic for DecidedPairs {
    fn figure(&self, weights: &[u32]) -> Figure {
        let (mut alike, mut decided) = (0_u64, 0_u64);
        for (row, pair) in &self.pairs {
            if pair.human != Choice::Tie && pair.gap.is_finite() {
                let times = weight(weights, *row);
                decided += times;
                alike += times * u64::from(ordered(pair) == Some(true));
            }
        }
        share(alike, decided)
    }

    fn rows(&self) -> Vec<usize> {
        self.pairs.iter().map(|(row, _)| *row).collect()
    }
}

/// Whether the judge orders a pair as the person does; none where one of them does not order it.
fn ordered(pair: &Preference) -> Option<bool> {
    match pair.human {
        Choice::Tie => None,
        _ if pair.gap == 0.0 => None,
        Choice::First => Some(pair.gap > 0.0),
        Choice::Second => Some(pair.gap < 0.0),
    }
}

fn count(pairs: &[Preference], is: impl Fn(&Preference) -> bool) -> usize {
    pairs.iter().filter(|pair| is(pair)).count()
}

#[cfg(test)]
mod tests {
    use super::super::Undefined;
    use super::*;
    use Choice::{First, Second, Tie};

    fn of(pairs: &[(f64, Choice)]) -> HumanAgreement {
        let preferences: Vec<_> = pairs
            .iter()
            .map(|&(gap, human)| Preference { gap, human })
            .collect();
        agreement(&preferences)
    }

    #[test]
    fn the_width_of_a_tie_is_swept() {
        // Right without ties: 5 and -9. A width of 2 wins both ties and loses the pair at -1.
        let found = of(&[
            (5.0, First),
            (-9.0, Second),
            (-1.0, Second),
            (1.5, Tie),
            (-2.0, Tie),
            (4.0, Second),
        ]);
        assert_eq!((found.n, found.ties, found.tie_width), (6, 2, 2.0));
        assert_eq!(found.with_ties, Ok(4.0 / 6.0));
        assert_eq!(found.without_ties, Ok(0.75));
    }

    #[test]
    fn equal_scores_are_ties_from_the_start() {
        let found = of(&[(0.0, Tie), (0.0, First), (3.0, First), (-0.0, Tie)]);
        assert_eq!((found.with_ties, found.tie_width), (Ok(0.75), 0.0));
        assert_eq!(found.without_ties, Ok(0.5));
    }

    #[test]
    fn equal_gaps_are_not_torn_apart() {
        // Sorted, the tie comes first; taking it alone would look better than is possible.
        let found = of(&[(2.0, Tie), (2.0, First), (-2.0, Second)]);
        assert_eq!((found.with_ties, found.tie_width), (Ok(2.0 / 3.0), 0.0));
    }

    #[test]
    fn decided_pairs_are_the_figure_without_ties() {
        let pairs: Vec<_> = [
            (5.0, First),
            (-9.0, Second),
            (0.0, First),
            (1.5, Tie),
            (4.0, Second),
        ]
        .into_iter()
        .map(|(gap, human)| Preference { gap, human })
        .enumerate()
        .collect();
        let alone: Vec<_> = pairs.iter().map(|(_, pair)| *pair).collect();
        let decided = DecidedPairs { pairs };
        assert_eq!(decided.value(), agreement(&alone).without_ties);
        assert_eq!(decided.figure(&[3, 0, 1, 9, 0]), Ok(0.75));
        assert_eq!(decided.figure(&[0, 0, 0, 9, 0]), Err(Undefined::NoData));
    }

    #[test]
    fn nothing_has_no_agreement() {
        let found = of(&[(f64::NAN, First)]);
        assert_eq!(
            (found.n, found.with_ties, found.without_ties),
            (0, Err(Undefined::NoData), Err(Undefined::NoData))
        );
        assert_eq!(of(&[(1.0, Tie)]).without_ties, Err(Undefined::NoData));
    }
}
