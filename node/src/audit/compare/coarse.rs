//! Coarse sketches: what of a sketch is looked at in every registered model.
//!
//! A sketch of the 5B model has a hundred thousand numbers, too many to read a thousand of them in a blink.
//! Folded, every network has [`WIDTH`] sums: a weight's sums are added, with a sign, to one of 64
//! places that its name decides. Folding is linear like the sums themselves, so that a folded difference is
//! the difference of what was folded, and keeps angles up to about one over the square root of [`WIDTH`].
//! Beside them stand the sums of squares of all weights, which tell reordered copies.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::align::DISPLACED;
use super::sketch::{LANES, Likeness, Sketch, WeightSketch, same_squares, tells_by_squares};
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

/// A network of a model that is looked for, and of its base in the same layout.
#[derive(Debug)]
pub struct Probe {
    ours: Coarse,
    base: Coarse,
    /// Of the weights, in the order of the layout.
    elements: Vec<u64>,
    /// For each place: squared distance from the base above which a weight of it was displaced.
    limits: [f32; BUCKETS],
    /// A weight of the model is.
    displaced: bool,
}

impl Probe {
    /// Folds a network's weights and its base's, which have the same names and numbers of elements.
    pub fn new(weights: &[(&str, &WeightSketch)], base: &[(&str, &WeightSketch)]) -> Self {
        // One displaced weight moves a place by twice its own squares, all that training does to the others moves it
        // by a few percent of theirs.
        let (mut squares, mut counts) = ([0.0_f64; BUCKETS], [0_u32; BUCKETS]);
        for (name, weight) in base {
            if tells_by_squares(weight.elements) {
                let (bucket, _) = place(name);
                squares[bucket] += weight.squares;
                counts[bucket] += 1;
            }
        }
        let limits = squares.map(|sum| DISPLACED * sum);
        let mut both = weights.iter().zip(base);
        Self {
            ours: coarse(weights),
            base: coarse(base),
            elements: weights.iter().map(|(_, weight)| weight.elements).collect(),
            limits: std::array::from_fn(|bucket| match counts[bucket] {
                0 => f32::INFINITY,
                count => (limits[bucket] / f64::from(count)) as f32,
            }),
            displaced: both.any(|((_, weight), (_, base))| weight.is_displaced(base)),
        }
    }
}

/// What two models' networks say together, seen from their base; all of one layout.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    aa: f64,
    bb: f64,
    ab: f64,
    same: usize,
    changed: usize,
    displaced: bool,
}

impl Tally {
    /// Adds a network of B: its folded sums as little-endian bytes of f32, its squares as those of f64.
    pub fn add(&mut self, probe: &Probe, sums: &[u8], squares: &[u8]) {
        let (ours, base) = (&probe.ours, &probe.base);
        let (sums, _) = sums.as_chunks::<4>();
        let (mut aa, mut bb, mut ab) = ([0.0_f32; LANES], [0.0_f32; LANES], [0.0_f32; LANES]);
        self.displaced |= probe.displaced;
        let rows = ours
            .sums
            .chunks_exact(LANES)
            .zip(base.sums.chunks_exact(LANES));
        for (((a, c), b), limit) in rows.zip(sums.chunks_exact(LANES)).zip(probe.limits) {
            let mut moved = [0.0_f32; LANES];
            for lane in 0..LANES {
                let (x, y) = (a[lane] - c[lane], f32::from_le_bytes(b[lane]) - c[lane]);
                moved[lane] = y * y;
                aa[lane] += x * x;
                bb[lane] += moved[lane];
                ab[lane] += x * y;
            }
            self.displaced |= moved.iter().sum::<f32>() > limit;
        }
        let total = |sums: [f32; LANES]| sums.iter().copied().map(f64::from).sum::<f64>();
        self.aa += total(aa);
        self.bb += total(bb);
        self.ab += total(ab);
        let (squares, _) = squares.as_chunks::<8>();
        let both = ours.squares.iter().zip(squares).zip(&base.squares);
        for (((a, b), c), elements) in both.zip(&probe.elements) {
            if let Some(same) = same_squares(*elements, *a, f64::from_le_bytes(*b), *c) {
                self.changed += 1;
                self.same += usize::from(same);
            }
        }
    }

    /// Whether one of the two seems to have a weight that was displaced on purpose: it outweighs in the sums what
    /// training has moved, and only whole sketches can leave it out.
    pub fn is_displaced(&self) -> bool {
        self.displaced
    }

    /// None when nothing was changed in the networks they share.
    pub fn likeness(&self) -> Option<Likeness> {
        Likeness::new(self.aa, self.bb, self.ab, self.same, self.changed)
    }
}
