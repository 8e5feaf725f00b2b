//! RMS norm over the last dimension: `y = x / sqrt(mean(x^2) + eps) * weight`.
//!
//! x [.., d], weight [d].

use crate::check;
use candle_core::{D, DType, Result, Tensor};

/// RMS norm of `x` [.., d] with `weight` [d] (kept in f32 by the models). Errors if the shapes disagree.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check::float("rms_norm", "x", x)?;
    check::float("rms_norm", "weight", weight)?;
    let d = check::last_dim("rms_norm", x)?;
    check::dims("rms_norm", "weight", weight, &[d])?;
    rms_norm_reference(x, weight, eps)
}

/// Reference of [`rms_norm`].
pub fn rms_norm_reference(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let xs = x.to_dtype(DType::F32)?;
    let rms = (xs.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    xs.broadcast_div(&rms)?
        .broadcast_mul(&weight.to_dtype(DType::F32)?)?
        .to_dtype(x.dtype())
}
