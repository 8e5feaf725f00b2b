//! Channel norm of the VAE, over the last dimension:
//! `y = x / max(||x||_2, 1e-12) * sqrt(C) * gamma`, optionally followed by SiLU.
//!
//! x [.., C] (channels last), gamma [C].

use crate::check;
use candle_core::{D, DType, Result, Tensor};

/// Smallest norm divided by, as `torch.nn.functional.normalize` has it.
pub(crate) const MIN_NORM: f64 = 1e-12;

/// Normalises every pixel of `x` [.., C] to length `sqrt(C)`, scales by `gamma` [C] and applies SiLU if
/// asked. Errors if the shapes disagree.
pub fn channel_norm(x: &Tensor, gamma: &Tensor, silu: bool) -> Result<Tensor> {
    check::float("channel_norm", "x", x)?;
    check::float("channel_norm", "gamma", gamma)?;
    let c = check::last_dim("channel_norm", x)?;
    check::dims("channel_norm", "gamma", gamma, &[c])?;
    channel_norm_reference(x, gamma, silu)
}

/// Reference of [`channel_norm`].
pub fn channel_norm_reference(x: &Tensor, gamma: &Tensor, silu: bool) -> Result<Tensor> {
    let c = x.dim(D::Minus1)?;
    let xs = x.to_dtype(DType::F32)?;
    let norm = xs
        .sqr()?
        .sum_keepdim(D::Minus1)?
        .sqrt()?
        .clamp(MIN_NORM, f64::MAX)?;
    let y = (xs.broadcast_div(&norm)? * (c as f64).sqrt())?;
    let y = y.broadcast_mul(&gamma.to_dtype(DType::F32)?)?;
    let y = if silu { y.silu()? } else { y };
    y.to_dtype(x.dtype())
}
