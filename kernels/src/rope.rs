//! Rotary position embedding over adjacent pairs: with (a, b) = (x[2i], x[2i+1]),
//! `y[2i] = a cos[i] - b sin[i]`, `y[2i+1] = a sin[i] + b cos[i]`.
//!
//! x [L, N, D] (tokens, heads, head width); cos, sin [L, D/2], the same for every head. The three axes of
//! Wan (frame, row, column) are already laid side by side in cos and sin by the caller.

use crate::check;
use candle_core::{DType, Result, Tensor, bail};

/// Rotates the adjacent pairs of `x` [L, N, D] by `cos`, `sin` [L, D/2]. Errors if the shapes disagree or D
/// is odd.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    check::float("rope", "x", x)?;
    check::float("rope", "cos", cos)?;
    check::float("rope", "sin", sin)?;
    let [len, _, d] = *x.dims() else {
        bail!("rope: x must have shape [L, N, D], found {:?}", x.dims());
    };
    if d % 2 != 0 {
        bail!(
            "rope: the head width must be even, found shape {:?}",
            x.dims()
        );
    }
    check::dims("rope", "cos", cos, &[len, d / 2])?;
    check::dims("rope", "sin", sin, &[len, d / 2])?;
    rope_reference(x, cos, sin)
}

/// Reference of [`rope`].
pub fn rope_reference(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (len, heads, d) = x.dims3()?;
    // [L, N, D] -> [L, N, D/2, 2]
    let pairs = x.to_dtype(DType::F32)?.reshape((len, heads, d / 2, 2))?;
    let (a, b) = (pairs.narrow(3, 0, 1)?, pairs.narrow(3, 1, 1)?);
    // [L, D/2] -> [L, 1, D/2, 1]
    let cos = cos.to_dtype(DType::F32)?.reshape((len, 1, d / 2, 1))?;
    let sin = sin.to_dtype(DType::F32)?.reshape((len, 1, d / 2, 1))?;
    let even = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let odd = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
    // [L, N, D/2, 2] -> [L, N, D]
    Tensor::cat(&[even, odd], 3)?
        .reshape((len, heads, d))?
        .to_dtype(x.dtype())
}
