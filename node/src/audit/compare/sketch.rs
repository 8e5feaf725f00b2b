//! Sketches: a few numbers per weight from which copies among many models are found in milliseconds. A
//! sketch decides nothing; it says which pairs are worth reading.
//!
//! Every weight gives [`LANES`] sums over its values with random signs, the same signs in every model. Sums
//! are linear: the sketch of a difference is the difference of sketches, so that models are sketched before
//! their base is known. Beside them stands the sum of squares, which no reordering of rows and no rotation
//! changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use leoma_models::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::align::DISPLACED;
use super::model::Model;

/// Sums per weight.
pub const LANES: usize = 16;
/// Elements read at a time; a multiple of [`LANES`].
const PIECE: usize = 64 << 10;
/// Elements per lane that are summed in f32.
const STRETCH: usize = 64;

/// The sketch of one weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightSketch {
    /// Number of elements.
    pub elements: u64,
    /// Sum of the squares of its values.
    pub squares: f64,
    /// Sums with signs.
    pub sums: [f64; LANES],
}

/// The sketch of a model: its weights by `network/name`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sketch {
    /// By network and diffusers name.
    pub weights: BTreeMap<String, WeightSketch>,
}

/// How near two sketches are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Likeness {
    /// Estimate of the cosine between the differences from the base, over weights that are not displaced. Its error is
    /// about one over the square root of [`LANES`] times the number of weights.
    pub cosine: f64,
    /// Share of the changed weights whose sum of squares lies a hundred times nearer to the other model's
    /// than to the base's: copies with rows in another order have many of them, whatever the cosine.
    pub same_squares: f64,
}

/// A sketch in the making: what could not be taken from memory.
#[derive(Debug)]
pub(in crate::audit) struct Sketched {
    pub(in crate::audit) sketch: Sketch,
    /// Its weights in their files: file, stored name, whether it has scales, sketch.
    pub(in crate::audit) places: Vec<(PathBuf, String, bool, WeightSketch)>,
    /// Bytes of those that were read.
    pub(in crate::audit) bytes: u64,
}

/// What is known of a weight: its file, its stored name, and whether it has scales.
pub(in crate::audit) type KnownWeight<'a> =
    &'a (dyn Fn(&Path, &str, bool) -> Option<WeightSketch> + Sync);

impl Sketch {
    /// Sketches the model at `path`, a folder of either layout or one file.
    ///
    /// # Errors
    /// [`Error::Artifact`] or [`Error::Io`] when its weights cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        Self::of_known(path, &|_, _, _| None, &|_| true).map(|made| made.sketch)
    }

    /// As [`Sketch::of`], without reading weights that are `known`. `progress` is called with the bytes read
    /// since the last call and ends it with `false`.
    pub(in crate::audit) fn of_known(
        path: &Path,
        known: KnownWeight<'_>,
        progress: &(dyn Fn(u64) -> bool + Sync),
    ) -> Result<Sketched> {
        let model = Model::open(path)?;
        let made: Vec<(String, WeightSketch, u64)> = model
            .weights
            .par_iter()
            .map(|((component, name), weight)| {
                let name = format!("{component}/{name}");
                let (file, stored, scaled) = weight.place();
                if let Some(sketch) = known(file, stored, scaled) {
                    return Ok((name, sketch, 0));
                }
                let elements = weight.elements();
                let mut sketch = WeightSketch::empty(elements);
                for first in (0..elements).step_by(PIECE) {
                    let count = PIECE.min(elements - first);
                    sketch.add(first, &weight.values(first, count)?);
                    if !progress((count * weight.dtype().size()) as u64) {
                        return Err(Error::Cancelled);
                    }
                }
                if !sketch.squares.is_finite() {
                    let message = format!("weight `{name}` holds NaN or infinite values");
                    return Err(Error::artifact(path, message));
                }
                let bytes = (elements * weight.dtype().size()) as u64;
                Ok((name, sketch, bytes))
            })
            .collect::<Result<_>>()?;
        let mut sketched = Sketched {
            sketch: Self::default(),
            places: Vec::new(),
            bytes: 0,
        };
        for ((name, sketch, bytes), weight) in made.into_iter().zip(model.weights.values()) {
            let (file, stored, scaled) = weight.place();
            sketched
                .places
                .push((file.to_owned(), stored.to_owned(), scaled, sketch.clone()));
            sketched.bytes += bytes;
            sketched.sketch.weights.insert(name, sketch);
        }
        Ok(sketched)
    }

    /// How near `self` and `other` are, seen from their base. None when they have no changed weight in
    /// common.
    pub fn likeness(&self, other: &Self, base: &Self) -> Option<Likeness> {
        let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
        let (mut same, mut changed) = (0_usize, 0_usize);
        for (name, c) in &base.weights {
            let (Some(a), Some(b)) = (self.weights.get(name), other.weights.get(name)) else {
                continue;
            };
            if a.elements != c.elements || b.elements != c.elements {
                continue;
            }
            // A weight that was displaced on purpose outweighs all that training has moved.
            if !a.is_displaced(c) && !b.is_displaced(c) {
                for ((a, b), c) in a.sums.iter().zip(&b.sums).zip(&c.sums) {
                    aa += (a - c) * (a - c);
                    bb += (b - c) * (b - c);
                    ab += (a - c) * (b - c);
                }
            }
            if let Some(is_same) = same_squares(c.elements, a.squares, b.squares, c.squares) {
                changed += 1;
                same += usize::from(is_same);
            }
        }
        Likeness::new(aa, bb, ab, same, changed)
    }
}

/// Estimated cosine from which two models are worth comparing. Below lie independent models and the sketch's own
/// error; what is compared in vain costs time only.
const NEAR: f64 = 0.2;
/// Share of sums of squares that agree, from which they are worth it whatever their cosine: copies with rows in
/// another order.
const SAME_SQUARES: f64 = 0.2;

impl Likeness {
    /// Whether the two models are worth comparing.
    pub fn is_near(&self) -> bool {
        self.cosine.abs() >= NEAR || self.same_squares >= SAME_SQUARES
    }

    /// From the squared sizes of two differences, their product, and of how many changed weights how many
    /// have the same sum of squares. None when nothing was changed.
    pub(super) fn new(aa: f64, bb: f64, ab: f64, same: usize, changed: usize) -> Option<Self> {
        let sizes = (aa * bb).sqrt();
        (sizes > 0.0 || changed > 0).then(|| Self {
            cosine: if sizes > 0.0 { ab / sizes } else { 0.0 },
            same_squares: if changed > 0 {
                same as f64 / changed as f64
            } else {
                0.0
            },
        })
    }
}

/// Whether a weight has the same sum of squares in A and B, where it tells: sums of squares of unchanged
/// weights agree for another reason, and small weights say little.
pub(super) fn same_squares(elements: u64, a: f64, b: f64, base: f64) -> Option<bool> {
    let moved = (a - base).abs().min((b - base).abs());
    (moved > 1e-9 * base && tells_by_squares(elements)).then(|| (a - b).abs() < 0.01 * moved)
}

/// Whether a weight of so many elements says something by its sum of squares.
pub(super) fn tells_by_squares(elements: u64) -> bool {
    elements >= 1024
}

impl WeightSketch {
    fn empty(elements: usize) -> Self {
        Self {
            elements: elements as u64,
            squares: 0.0,
            sums: [0.0; LANES],
        }
    }

    /// The sketch of a weight in memory.
    pub fn of(values: &[f32]) -> Self {
        let mut sketch = Self::empty(values.len());
        sketch.add(0, values);
        sketch
    }

    /// Whether the weight is so far from the base's that it was displaced on purpose.
    pub(super) fn is_displaced(&self, base: &Self) -> bool {
        let both = self.sums.iter().zip(&base.sums);
        both.map(|(x, c)| (x - c) * (x - c)).sum::<f64>() > DISPLACED * base.squares
    }

    /// Adds values that begin at element `first`, a multiple of [`LANES`].
    fn add(&mut self, first: usize, values: &[f32]) {
        let (groups, rest) = values.as_chunks::<LANES>();
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let start = first / LANES;
        for (index, stretch) in groups.chunks(STRETCH).enumerate() {
            self.add_groups(start + index * STRETCH, stretch);
        }
        if !rest.is_empty() {
            self.add_groups(start + groups.len(), &[last]);
        }
    }

    fn add_groups(&mut self, first: usize, groups: &[[f32; LANES]]) {
        let (mut sums, mut squares) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        for (index, group) in groups.iter().enumerate() {
            let signs = signs((first + index) as u64);
            for lane in 0..LANES {
                let negative = (signs >> lane & 1) << 31;
                sums[lane] += f32::from_bits(group[lane].to_bits() ^ negative);
                squares[lane] += group[lane] * group[lane];
            }
        }
        for lane in 0..LANES {
            self.sums[lane] += f64::from(sums[lane]);
            self.squares += f64::from(squares[lane]);
        }
    }
}

/// The signs of a group of elements, one bit each: SplitMix64 of its number. Part of what a sketch means:
/// never changed.
fn signs(group: u64) -> u32 {
    let mut z = group.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::audit::tests::noise;

    const WEIGHTS: usize = 60;
    const ELEMENTS: usize = 5000;

    fn sketch(values: impl Fn(usize) -> Vec<f32>) -> Sketch {
        let weights = (0..WEIGHTS).map(|index| {
            let values = values(index);
            let mut sketch = WeightSketch::empty(values.len());
            // In pieces of multiples of the lanes, as files are read.
            let (first, second) = values.split_at(LANES * 100);
            sketch.add(0, first);
            sketch.add(first.len(), second);
            (format!("transformer/{index}"), sketch)
        });
        Sketch {
            weights: weights.collect(),
        }
    }

    fn base(index: usize) -> Vec<f32> {
        noise(ELEMENTS, 1000 + index as u64)
    }

    fn tuned(index: usize, seed: u64) -> Vec<f32> {
        let change = noise(ELEMENTS, seed + index as u64);
        base(index)
            .iter()
            .zip(change)
            .map(|(c, d)| c + 0.02 * d)
            .collect()
    }

    #[test]
    fn pieces_do_not_matter_and_sums_are_linear() {
        let values = noise(ELEMENTS, 1);
        let whole = WeightSketch::of;
        let mut pieces = WeightSketch::empty(values.len());
        for (index, piece) in values.chunks(LANES * STRETCH).enumerate() {
            pieces.add(index * LANES * STRETCH, piece);
        }
        assert_eq!(whole(&values), pieces);
        let doubled: Vec<f32> = values.iter().map(|x| 2.0 * x).collect();
        for (one, two) in whole(&values).sums.iter().zip(whole(&doubled).sums) {
            assert!((2.0 * one - two).abs() < 1e-3);
        }
        // Every sign comes about as often.
        let set: u32 = (0..1000)
            .map(|group| (signs(group) & 0xffff).count_ones())
            .sum();
        assert!((7700..8300).contains(&set), "{set}");
    }

    #[test]
    fn copies_stand_out() {
        let c = sketch(base);
        let a = sketch(|index| tuned(index, 1));
        let near = sketch(|index| {
            let noise = noise(ELEMENTS, 9_000 + index as u64);
            tuned(index, 1)
                .iter()
                .zip(noise)
                .map(|(x, d)| x + 0.004 * d)
                .collect()
        });
        let other = sketch(|index| tuned(index, 50_000));
        let ordered = sketch(|index| {
            let mut values = tuned(index, 1);
            values.rotate_left(777);
            values
        });
        let cosine = a.likeness(&near, &c).unwrap().cosine;
        assert!(cosine > 0.95, "{cosine}");
        // Noise, so that no sum of squares is the same, and every third weight displaced.
        let hidden = sketch(|index| {
            let noise = noise(ELEMENTS, 9_000 + index as u64);
            let mut values = tuned(index, 1);
            if index % 3 == 0 {
                values.rotate_left(777);
            }
            values
                .iter()
                .zip(noise)
                .map(|(x, d)| x + 0.004 * d)
                .collect()
        });
        let found = a.likeness(&hidden, &c).unwrap();
        assert!(found.is_near() && found.cosine > 0.9, "{found:?}");
        let apart = a.likeness(&other, &c).unwrap();
        assert!(
            apart.cosine.abs() < 0.15 && apart.same_squares < 0.2,
            "{apart:?}"
        );
        let reordered = a.likeness(&ordered, &c).unwrap();
        assert!(reordered.same_squares > 0.9, "{reordered:?}");
        assert_eq!(a.likeness(&c, &c), None);
    }
}
