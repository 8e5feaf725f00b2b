//! Pictures and texts to vectors whose angles mean something: CLIP ([`ClipModel`]) and DINOv2 ([`Dinov2Model`]).
//!
//! Both are vision transformers of one kind (`layers.rs`) with their own names of tensors, activation and head. They
//! run in f32 through this workspace's kernels and are read from folders in the Hub's layout.
//!
//! Not those of candle-transformers: its DINOv2 (`models/dinov2.rs`) has pictures of 518 pixels, epsilon 1e-5 and the
//! tanh form of GELU built in, where the checkpoints say 1e-6 and the exact form, and takes the nearest row of the
//! position table where the reference interpolates; so it cannot come within 2e-5 of transformers. Its CLIP could, but
//! both need the same few layers, and one crate less is one less to keep in step with candle-core.
//!
//! Sources: `models/clip/modeling_clip.py`, `models/dinov2/modeling_dinov2.py` and the Pillow forms of
//! `CLIPImageProcessor` and `BitImageProcessor` of transformers 5.14.1.

mod clip;
mod config;
mod dinov2;
mod fields;
mod layers;
mod positions;
mod preprocess;
mod tokenizer;

pub use clip::{ClipModel, TextFeatures};
pub use config::{ClipConfig, ClipTextConfig, ClipVisionConfig, Dinov2Config};
pub use dinov2::Dinov2Model;
pub use preprocess::Preprocess;
pub use tokenizer::ClipTokens;

use candle_core::Tensor;

use super::Frame;
use crate::error::{Context, Result};

/// Pictures that go through a tower at once: bounds the memory, at the largest sizes to about half a GiB.
const BATCH: usize = 8;

/// The features of frames as rows of unit length, a few frames at a time.
fn unit_rows(
    frames: &[Frame<'_>],
    features: impl Fn(&[Frame<'_>]) -> Result<Tensor>,
) -> Result<Vec<Vec<f32>>> {
    let mut rows = Vec::with_capacity(frames.len());
    for batch in frames.chunks(BATCH) {
        let found = features(batch)?.to_vec2::<f32>();
        let found = found.context(|| "features of pictures".to_owned())?;
        rows.extend(found.into_iter().map(unit));
    }
    Ok(rows)
}

/// The vector of length one in the same direction; one of length zero stays as it is.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
    if length > 0.0 {
        let scale = 1.0 / length.sqrt();
        for x in &mut vector {
            *x = (f64::from(*x) * scale) as f32;
        }
    }
    vector
}

/// Cosine of the angle between two vectors of unit length; those of different models have none.
pub fn cosine(a: &[f32], b: &[f32]) -> Option<f64> {
    let sum = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    (a.len() == b.len() && !a.is_empty()).then(|| sum.sum::<f64>().clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_of_unit_vectors() {
        let (a, b) = (unit(vec![3.0, 4.0]), unit(vec![-4.0, 3.0]));
        assert_eq!(a, [0.6, 0.8]);
        assert!(cosine(&a, &a).is_some_and(|c| (c - 1.0).abs() < 1e-6));
        assert!(cosine(&a, &b).is_some_and(|c| c.abs() < 1e-6));
        assert_eq!(unit(vec![0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(cosine(&a, &[1.0]), None);
        assert_eq!(cosine(&[], &[]), None);
    }
}
