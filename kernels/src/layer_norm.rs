//! Layer norm over the last dimension, plain and with per-token modulation:
//! `LN(x) = (x - mean) / sqrt(var + eps)`, var without Bessel's correction, then
//! `LN(x) * weight + bias` or `LN(x) * (1 + scale) + shift`.
//!
//! x [.., d]; weight, bias [d]; scale, shift [R, d] with R = 1 (one timestep for all tokens) or R = 2 (the
//! first `first` tokens have their own: the given first frame of TI2V-5B).

use crate::check;
use candle_core::{D, DType, Result, Tensor, bail};

/// Layer norm of `x` [.., d] with optional (weight, bias), each [d]. Errors if the shapes disagree.
pub fn layer_norm(x: &Tensor, weight: Option<(&Tensor, &Tensor)>, eps: f64) -> Result<Tensor> {
    check::float("layer_norm", "x", x)?;
    let d = check::last_dim("layer_norm", x)?;
    if let Some((w, b)) = weight {
        check::float("layer_norm", "weight", w)?;
        check::float("layer_norm", "bias", b)?;
        check::dims("layer_norm", "weight", w, &[d])?;
        check::dims("layer_norm", "bias", b, &[d])?;
    }
    layer_norm_reference(x, weight, eps)
}

/// `LN(x) * (1 + scale) + shift` for `x` [L, d]; `scale`, `shift` [R, d] with R = 1, or R = 2 where the
/// first `first` tokens use row 0 and the others row 1. Errors if the shapes disagree.
pub fn layer_norm_modulate(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    first: usize,
    eps: f64,
) -> Result<Tensor> {
    const OP: &str = "layer_norm_modulate";
    check::float(OP, "x", x)?;
    let [len, d] = *x.dims() else {
        bail!("{OP}: x must have shape [L, d], found {:?}", x.dims());
    };
    check::last_dim(OP, x)?;
    check::token_rows(OP, "scale", scale, len, d, first)?;
    check::token_rows(OP, "shift", shift, len, d, first)?;
    check::dims(OP, "shift", shift, scale.dims())?;
    layer_norm_modulate_reference(x, scale, shift, first, eps)
}

/// `LN(x)` in f32, without weight.
fn normalise(x: &Tensor, eps: f64) -> Result<Tensor> {
    let xs = x.to_dtype(DType::F32)?;
    let centred = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
    let std = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    centred.broadcast_div(&std)
}

/// Reference of [`layer_norm`].
pub fn layer_norm_reference(
    x: &Tensor,
    weight: Option<(&Tensor, &Tensor)>,
    eps: f64,
) -> Result<Tensor> {
    let mut y = normalise(x, eps)?;
    if let Some((w, b)) = weight {
        let (w, b) = (w.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
        y = y.broadcast_mul(&w)?.broadcast_add(&b)?;
    }
    y.to_dtype(x.dtype())
}

/// Reference of [`layer_norm_modulate`].
pub fn layer_norm_modulate_reference(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    first: usize,
    eps: f64,
) -> Result<Tensor> {
    let len = x.dim(0)?;
    let factor = (check::spread_rows(scale, len, first)? + 1.0)?;
    let shift = check::spread_rows(shift, len, first)?;
    normalise(x, eps)?
        .broadcast_mul(&factor)?
        .broadcast_add(&shift)?
        .to_dtype(x.dtype())
}
