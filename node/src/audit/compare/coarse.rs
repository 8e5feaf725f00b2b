//! Coarse sketches: what of a sketch is looked at in every registered model.
//!
//! A sketch of the 5B model has a hundred thousand numbers, too many to read a thousand of them in a blink.
//! Folded, every network has [`WIDTH`] sums: a weight's sums are added, with a sign, to one of 64
//! places that its name decides. Folding is linear like the sums themselves, so that a folded difference is
//! the difference of what was folded, and keeps angles up to about one over the square root of [`WIDTH`].
//! Beside them stand the sums of squares of all weights, which tell reordered copies.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::sketch::{LANES, Likeness, Sketch, WeightSketch, same_squares};
use crate::audit::model_hash::hex;

/// Places that weights are added to.
const BUCKETS: usize = 64;
/// Sums of a network.
pub const WIDTH: usize = BUCKETS * LANES;

/// The coarse sketch of one network.
#[derive(Debug, Clone, PartialEq)]
pub struct Coarse {
    /// Folded sums, [`WIDTH`] of them.
    pub sums: Vec<f32>,
    /// Sums of squares, by weight in the order of the layout.
    pub squares: Vec<f64>,
}

/// Which weights a network has, with their numbers of elements, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Names and elements, ascending by name.
    pub weights: Vec<(String, u64)>,
}

impl Layout {
    /// Identifier: hexadecimal SHA-256 over lines `name elements\n`.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (name, elements) in &self.weights {
            hash.update(format!("{name} {elements}\n"));
        }
        hex(&hash.finalize())
    }
}

/// The weights of each network of a sketch, ascending by name, without the network in front.
pub fn networks(sketch: &Sketch) -> BTreeMap<&str, Vec<(&str, &WeightSketch)>> {
    let mut networks: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (name, weight) in &sketch.weights {
        let (network, name) = name.split_once('/').unwrap_or(("", name));
        networks.entry(network).or_default().push((name, weight));
    }
    networks
}

/// The layout of a network.
pub fn layout(weights: &[(&str, &WeightSketch)]) -> Layout {
    Layout {
        weights: weights
            .iter()
            .map(|(name, weight)| ((*name).to_owned(), weight.elements))
            .collect(),
    }
}

/// Folds the sketch of a network.
pub fn coarse(weights: &[(&str, &WeightSketch)]) -> Coarse {
    let mut sums = vec![0.0_f64; WIDTH];
    for (name, weight) in weights {
        let (bucket, sign) = place(name);
        let places = sums.iter_mut().skip(bucket * LANES);
        for (place, sum) in places.zip(&weight.sums) {
            *place += sign * sum;
        }
    }
    Coarse {
        sums: sums.into_iter().map(|sum| sum as f32).collect(),
        squares: weights.iter().map(|(_, weight)| weight.squares).collect(),
    }
}

/// Bucket and sign of a weight: FNV-1a of its name, stirred. Part of what a coarse sketch means: never
/// changed.
fn place(name: &str) -> (usize, f64) {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^= hash >> 29;
    let sign = if hash >> 63 == 1 { -1.0 } else { 1.0 };
    ((hash & (BUCKETS as u64 - 1)) as usize, sign)
}

/// What two models' networks say together, seen from their base; all of one layout.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    aa: f64,
    bb: f64,
    ab: f64,
    same: usize,
    changed: usize,
}

impl Tally {
    /// Adds a network: A's and the base's as numbers, B's folded sums as little-endian bytes of f32 and its
    /// squares as those of f64. `elements` are those of the layout.
    pub fn add(
        &mut self,
        a: &Coarse,
        base: &Coarse,
        elements: &[u64],
        sums: &[u8],
        squares: &[u8],
    ) {
        let (sums, _) = sums.as_chunks::<4>();
        let (mut aa, mut bb, mut ab) = ([0.0_f32; LANES], [0.0_f32; LANES], [0.0_f32; LANES]);
        let rows = a
            .sums
            .chunks_exact(LANES)
            .zip(base.sums.chunks_exact(LANES));
        for ((a, c), b) in rows.zip(sums.chunks_exact(LANES)) {
            for lane in 0..LANES {
                let (x, y) = (a[lane] - c[lane], f32::from_le_bytes(b[lane]) - c[lane]);
                aa[lane] += x * x;
                bb[lane] += y * y;
                ab[lane] += x * y;
            }
        }
        let total = |sums: [f32; LANES]| sums.iter().copied().map(f64::from).sum::<f64>();
        self.aa += total(aa);
        self.bb += total(bb);
        self.ab += total(ab);
        let (squares, _) = squares.as_chunks::<8>();
        let both = a.squares.iter().zip(squares).zip(&base.squares);
        for (((a, b), c), elements) in both.zip(elements) {
            if let Some(same) = same_squares(*elements, *a, f64::from_le_bytes(*b), *c) {
                self.changed += 1;
                self.same += usize::from(same);
            }
        }
    }

    /// None when nothing was changed in the networks they share.
    pub fn likeness(&self) -> Option<Likeness> {
        Likeness::new(self.aa, self.bb, self.ab, self.same, self.changed)
    }
}
