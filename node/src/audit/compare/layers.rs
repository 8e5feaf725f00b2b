//! How alike the differences of two models from their base are, layer by layer: every layer of one beside
//! every layer of the other.
//!
//! Estimated from sketches: all weights are summed with the same signs, so weights of different layers that
//! have the same shape can be laid side by side. The diagonal shows copies, and what lies beside it shows
//! layers that were moved. A picture to look at, not evidence: the error of one field is about one over the
//! square root of [`LANES`] times the number of weights of a layer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sketch::{LANES, Sketch, WeightSketch};

/// Layers of two models and how alike their differences from the base are.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Layers {
    /// The layers, in order: `transformer 0`, ….
    pub names: Vec<String>,
    /// Cosine between the differences, by layer of A and then by layer of B. None where one has no change.
    pub cosines: Vec<Vec<Option<f32>>>,
}

/// Weights of a layer by their names within it.
type Layer<'a> = BTreeMap<&'a str, &'a WeightSketch>;

/// The layer of a weight of a transformer, and its name within the layer.
fn place(name: &str) -> Option<((&str, usize), &str)> {
    let (component, name) = name.split_once('/')?;
    let name = name.strip_prefix("blocks.")?;
    let (number, within) = name.split_once('.')?;
    component
        .starts_with("transformer")
        .then_some(((component, number.parse().ok()?), within))
}

fn layers(sketch: &Sketch) -> BTreeMap<(&str, usize), Layer<'_>> {
    let mut layers: BTreeMap<_, Layer<'_>> = BTreeMap::new();
    for (name, weight) in &sketch.weights {
        if let Some((layer, within)) = place(name) {
            layers.entry(layer).or_default().insert(within, weight);
        }
    }
    layers
}

/// A layer's difference from the base: sums by name and lane.
fn difference(layer: &Layer<'_>, base: &Layer<'_>) -> BTreeMap<String, [f64; LANES]> {
    layer
        .iter()
        .filter_map(|(name, weight)| {
            let base = base.get(name)?;
            // Norms and biases move in ways of their own.
            let counts = weight.elements == base.elements && name.ends_with(".weight");
            let sums = std::array::from_fn(|lane| weight.sums[lane] - base.sums[lane]);
            (counts && !name.contains("norm")).then(|| ((*name).to_owned(), sums))
        })
        .collect()
}

fn cosine(a: &BTreeMap<String, [f64; LANES]>, b: &BTreeMap<String, [f64; LANES]>) -> Option<f32> {
    let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
    for (name, a) in a {
        let Some(b) = b.get(name) else { continue };
        for (a, b) in a.iter().zip(b) {
            aa += a * a;
            bb += b * b;
            ab += a * b;
        }
    }
    let size = (aa * bb).sqrt();
    (size > 0.0).then(|| (ab / size) as f32)
}

impl Layers {
    /// The layers of `a` beside those of `b`. None when they have no layers in common with the base.
    pub fn of(a: &Sketch, b: &Sketch, base: &Sketch) -> Option<Self> {
        let (a, b, base) = (layers(a), layers(b), layers(base));
        let names: Vec<(&str, usize)> = base
            .keys()
            .copied()
            .filter(|layer| a.contains_key(layer) && b.contains_key(layer))
            .collect();
        if names.is_empty() {
            return None;
        }
        let of = |model: &BTreeMap<(&str, usize), Layer<'_>>| -> Vec<_> {
            names
                .iter()
                .map(|layer| difference(&model[layer], &base[layer]))
                .collect()
        };
        let (a, b) = (of(&a), of(&b));
        Some(Self {
            names: names
                .iter()
                .map(|(component, number)| format!("{component} {number}"))
                .collect(),
            cosines: a
                .iter()
                .map(|a| b.iter().map(|b| cosine(a, b)).collect())
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::audit::tests::noise;

    /// Three layers of twenty weights; `shift` moves every layer's change to another layer.
    fn sketch(shift: usize, seed: u64) -> Sketch {
        let mut sketch = Sketch::default();
        for layer in 0..3 {
            for weight in 0..20 {
                let change = noise(LANES, seed + ((layer + shift) % 3 * 20 + weight) as u64);
                let sums = std::array::from_fn(|lane| {
                    10.0 + if seed == 0 {
                        0.0
                    } else {
                        f64::from(change[lane])
                    }
                });
                sketch.weights.insert(
                    format!("transformer/blocks.{layer}.ffn.{weight}.weight"),
                    WeightSketch {
                        elements: 4096,
                        squares: 1.0,
                        sums,
                    },
                );
            }
        }
        sketch
    }

    #[test]
    fn copies_lie_on_the_diagonal_and_moved_layers_beside_it() {
        let base = sketch(0, 0);
        let a = sketch(0, 1000);
        let same = Layers::of(&a, &a, &base).unwrap();
        assert_eq!(
            same.names,
            ["transformer 0", "transformer 1", "transformer 2"]
        );
        let moved = Layers::of(&a, &sketch(1, 1000), &base).unwrap();
        let other = Layers::of(&a, &sketch(0, 90_000), &base).unwrap();
        for i in 0..3 {
            for j in 0..3 {
                let is_one = |layers: &Layers| layers.cosines[i][j].unwrap() > 0.99;
                assert_eq!(is_one(&same), i == j);
                assert_eq!(is_one(&moved), i == (j + 1) % 3);
                assert!(other.cosines[i][j].unwrap().abs() < 0.3);
            }
        }
        let unchanged = Layers::of(&a, &base, &base).unwrap();
        assert_eq!(unchanged.cosines[0][0], None);
        assert_eq!(Layers::of(&a, &Sketch::default(), &base), None);
    }

    #[test]
    fn only_layers_of_transformers_count() {
        assert_eq!(
            place("transformer_2/blocks.12.attn1.to_q.weight"),
            Some((("transformer_2", 12), "attn1.to_q.weight"))
        );
        for other in [
            "vae/blocks.0.x",
            "transformer/proj_out.weight",
            "transformer/blocks.x.y",
            "x",
        ] {
            assert_eq!(place(other), None);
        }
    }
}
