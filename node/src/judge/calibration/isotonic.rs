//! The non-decreasing function nearest to points in squares, by pooling adjacent violators.

use serde::{Deserialize, Serialize};

use crate::judge::statistics::{Undefined, finite};

/// Most knots that are kept.
pub const MOST_KNOTS: usize = 32;

/// A non-decreasing function: linear between knots, constant outside of them.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Isotonic {
    /// (x, value), by x.
    knots: Vec<(f64, f64)>,
}

/// Neighbouring points with one value.
#[derive(Debug, Clone, Copy)]
struct Block {
    from: f64,
    to: f64,
    n: f64,
    sum: f64,
}

impl Block {
    fn mean(&self) -> f64 {
        self.sum / self.n
    }

    fn join(&mut self, next: &Self) {
        self.to = next.to;
        self.n += next.n;
        self.sum += next.sum;
    }
}

impl Isotonic {
    /// The function nearest to points (x, y), cut to `low..=high`.
    ///
    /// # Errors
    /// [`Undefined::NoData`] without points, [`Undefined::NotFinite`] for values that are no numbers.
    pub fn fit(points: &[(f64, f64)], (low, high): (f64, f64)) -> Result<Self, Undefined> {
        if points.is_empty() {
            return Err(Undefined::NoData);
        }
        if points
            .iter()
            .any(|(x, y)| !(x.is_finite() && y.is_finite()))
        {
            return Err(Undefined::NotFinite);
        }
        let mut sorted = points.to_vec();
        // By value too, so that the order of a log does not decide about the last bit of a sum.
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        // Points of one x are one point: a function has one value there.
        let mut points: Vec<Block> = Vec::with_capacity(sorted.len());
        for (x, y) in sorted {
            let point = Block {
                from: x,
                to: x,
                n: 1.0,
                sum: y,
            };
            match points.last_mut() {
                Some(last) if last.to == x => last.join(&point),
                _ => points.push(point),
            }
        }
        let mut blocks: Vec<Block> = Vec::with_capacity(points.len());
        for point in points {
            let mut block = point;
            while let Some(mut last) = blocks.pop_if(|last| last.mean() >= block.mean()) {
                last.join(&block);
                block = last;
            }
            blocks.push(block);
        }
        let mut knots: Vec<(f64, f64)> = Vec::with_capacity(2 * blocks.len());
        for block in &blocks {
            let value = finite(block.mean())?.clamp(low, high);
            knots.push((block.from, value));
            if block.to > block.from {
                knots.push((block.to, value));
            }
        }
        Ok(Self {
            knots: thinned(&without_middles(&knots)),
        })
    }

    /// From knots of a file.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_knots(knots: Vec<(f64, f64)>) -> Result<Self, String> {
        if knots.is_empty() || knots.len() > MOST_KNOTS {
            return Err(format!(
                "1 to {MOST_KNOTS} knots are allowed, not {}",
                knots.len()
            ));
        }
        if knots.iter().any(|(x, y)| !(x.is_finite() && y.is_finite())) {
            return Err("a knot is no number".into());
        }
        let rises = |pair: &[(f64, f64)]| match pair {
            [(x, y), (next_x, next_y)] => x < next_x && y <= next_y,
            _ => true,
        };
        if !knots.windows(2).all(rises) {
            return Err("knots must rise".into());
        }
        Ok(Self { knots })
    }

    /// The knots: (x, value), by x.
    pub fn knots(&self) -> &[(f64, f64)] {
        &self.knots
    }

    /// The value at `x`.
    pub fn at(&self, x: f64) -> f64 {
        between(&self.knots, x)
    }
}

/// The piecewise linear function through `knots` at `x`; 0 without knots, which no [`Isotonic`] has.
fn between(knots: &[(f64, f64)], x: f64) -> f64 {
    let next = knots.partition_point(|&(knot, _)| knot < x);
    let above = knots.get(next).or(knots.last());
    let below = next
        .checked_sub(1)
        .and_then(|last| knots.get(last))
        .or(above);
    match (below, above) {
        (Some(&(x0, y0)), Some(&(x1, y1))) if x1 > x0 => {
            // Exact at both ends and on level stretches: equal chances stay equal.
            let share = ((x - x0) / (x1 - x0)).clamp(0.0, 1.0);
            if share < 1.0 {
                y0 + (y1 - y0) * share
            } else {
                y1
            }
        }
        (Some(&(_, y)), _) => y,
        _ => 0.0,
    }
}

/// Without knots that lie inside a level stretch.
fn without_middles(knots: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let is_middle = |index: usize| {
        let value = |index: usize| knots.get(index).map(|knot| knot.1);
        index
            .checked_sub(1)
            .is_some_and(|last| value(last) == value(index) && value(index) == value(index + 1))
    };
    (0..knots.len())
        .filter(|&index| !is_middle(index))
        .filter_map(|index| knots.get(index).copied())
        .collect()
}

/// At most [`MOST_KNOTS`] of the knots: both ends, then again and again the one that lies farthest from the function
/// so far. What is left out is nowhere far away, and the function still rises.
fn thinned(knots: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if knots.len() <= MOST_KNOTS {
        return knots.to_vec();
    }
    let mut kept: Vec<(f64, f64)> = knots
        .first()
        .into_iter()
        .chain(knots.last())
        .copied()
        .collect();
    while kept.len() < MOST_KNOTS {
        let mut farthest: Option<((f64, f64), f64)> = None;
        for &(x, y) in knots {
            let distance = (y - between(&kept, x)).abs();
            if distance > farthest.map_or(0.0, |(_, most)| most) {
                farthest = Some(((x, y), distance));
            }
        }
        // The rest lies on the function already.
        let Some((knot, _)) = farthest else { break };
        let place = kept.partition_point(|&(x, _)| x < knot.0);
        kept.insert(place, knot);
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use leoma_models::random::Random;

    const WHOLE: (f64, f64) = (f64::MIN, f64::MAX);

    #[test]
    fn violators_are_pooled() {
        let points = [(1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (4.0, 5.0)];
        let found = Isotonic::fit(&points, WHOLE).unwrap();
        assert_eq!(
            found.knots(),
            [(1.0, 1.0), (2.0, 2.5), (3.0, 2.5), (4.0, 5.0)]
        );
        for (x, y) in [(0.0, 1.0), (1.5, 1.75), (2.5, 2.5), (3.5, 3.75), (9.0, 5.0)] {
            assert_eq!(found.at(x), y, "{x}");
        }
    }

    #[test]
    fn equal_places_are_one_point() {
        let found = Isotonic::fit(&[(5.0, 0.0), (5.0, 1.0), (5.0, 1.0)], WHOLE).unwrap();
        assert_eq!(found.knots(), [(5.0, 2.0 / 3.0)]);
        assert_eq!((found.at(-1.0), found.at(7.0)), (2.0 / 3.0, 2.0 / 3.0));
        // Falling throughout: one level.
        let falling = Isotonic::fit(&[(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)], WHOLE).unwrap();
        assert_eq!(falling.knots(), [(1.0, 2.0), (3.0, 2.0)]);
    }

    #[test]
    fn values_are_cut_and_level_stretches_have_no_middle() {
        let points: Vec<_> = (0..10).map(|i| (f64::from(i), f64::from(i))).collect();
        let found = Isotonic::fit(&points, (3.0, 6.0)).unwrap();
        assert_eq!(
            found.knots(),
            [
                (0.0, 3.0),
                (3.0, 3.0),
                (4.0, 4.0),
                (5.0, 5.0),
                (6.0, 6.0),
                (9.0, 6.0)
            ]
        );
    }

    #[test]
    fn many_knots_are_thinned_to_a_function_near_by() {
        let mut random = Random::new(3, "knots");
        let points: Vec<_> = (0..4000)
            .map(|i| {
                let x = f64::from(i) / 40.0;
                (x, (x / 12.0 - 4.0).tanh() + 0.02 * random.normal())
            })
            .collect();
        let found = Isotonic::fit(&points, WHOLE).unwrap();
        assert_eq!(found.knots().len(), MOST_KNOTS);
        assert!(Isotonic::from_knots(found.knots().to_vec()).is_ok());
        let worst = (0..4000)
            .map(|i| {
                let x = f64::from(i) / 40.0;
                (found.at(x) - (x / 12.0 - 4.0).tanh()).abs()
            })
            .fold(0.0, f64::max);
        assert!(worst < 0.06, "{worst}");
    }

    #[test]
    fn bad_points_and_knots_are_refused() {
        assert_eq!(Isotonic::fit(&[], WHOLE), Err(Undefined::NoData));
        assert_eq!(
            Isotonic::fit(&[(f64::NAN, 1.0)], WHOLE),
            Err(Undefined::NotFinite)
        );
        for wrong in [
            vec![],
            vec![(0.0, 0.0); 33],
            vec![(0.0, f64::NAN)],
            vec![(0.0, 1.0), (0.0, 2.0)],
            vec![(0.0, 1.0), (1.0, 0.5)],
        ] {
            assert!(Isotonic::from_knots(wrong.clone()).is_err(), "{wrong:?}");
        }
        assert!(Isotonic::from_knots(vec![(0.0, 1.0)]).is_ok());
    }
}
