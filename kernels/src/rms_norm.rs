//! RMS norm over the last dimension: `y = x / sqrt(mean(x^2) + eps) * weight`.
//!
//! x [.., d], weight [d].
//!
//! The CPU path goes over each row twice while it is in cache: sum of squares, then the product. On a card
//! it is the kernel of [`rms_norm_rope`](crate::rms_norm_rope) without rotation.
#![allow(unsafe_op_in_unsafe_fn)] // kernels run under `#[target_feature]` as a whole

use crate::check;
use crate::data::Floats;
use crate::device::target;
use crate::rms_norm_rope::{RmsConfig, on_device};
use crate::rows::map_rows;
use crate::simd::{Vector, dispatch, load_n, store_n, sum_squares};
use candle_core::{D, DType, Result, Tensor};

/// RMS norm of `x` `[.., d]` with `weight` `[d]` (kept in f32 by the models). Errors if the shapes
/// disagree.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check::float("rms_norm", "x", x)?;
    check::float("rms_norm", "weight", weight)?;
    let d = check::last_dim("rms_norm", x)?;
    check::dims("rms_norm", "weight", weight, &[d])?;
    if let Some(target) = target(x) {
        let rows = x.reshape((x.elem_count() / d, 1, d))?; // [.., d] -> [rows, 1, d]
        let config = RmsConfig {
            eps,
            ..RmsConfig::default()
        };
        let (y, _) = on_device(&target, (&rows, weight), None, None, &config)?;
        return y.reshape(x.shape());
    }
    let weight = Floats::new(weight)?;
    let weight = weight.as_slice();
    map_rows(x, None, d, |isa, chunk| {
        // SAFETY: `out` holds as many elements as `x`, both whole rows of the weight's length.
        unsafe { rms_norm_rows(isa, chunk.x, chunk.out, weight, eps) }
    })
}

dispatch! {
    fn rms_norm_kernel(x: &[f32], out: *mut f32, weight: &[f32], eps: f64) = rms_norm_generic
}

/// The norm of a chunk of rows.
///
/// # Safety
/// `out` must hold as many elements as `x`, both whole rows of the weight's length.
pub(crate) unsafe fn rms_norm_rows(
    isa: crate::Isa,
    x: &[f32],
    out: *mut f32,
    weight: &[f32],
    eps: f64,
) {
    rms_norm_kernel(isa, x, out, weight, eps);
}

#[inline(always)]
unsafe fn rms_norm_generic<V: Vector>(x: &[f32], out: *mut f32, weight: &[f32], eps: f64) {
    let d = weight.len();
    for (row, x) in x.chunks_exact(d).enumerate() {
        let out = out.add(row * d);
        let mean = sum_squares::<V>(x, 0.0) / d as f64;
        let factor = V::splat(((mean + eps).sqrt().recip()) as f32);
        for i in (0..d).step_by(V::LANES) {
            let n = V::LANES.min(d - i);
            let y = load_n::<V>(x.as_ptr().add(i), n).mul(factor);
            store_n(y.mul(load_n(weight.as_ptr().add(i), n)), out.add(i), n);
        }
    }
}

/// Reference of [`rms_norm`].
pub fn rms_norm_reference(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let xs = x.to_dtype(DType::F32)?;
    let rms = (xs.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    xs.broadcast_div(&rms)?
        .broadcast_mul(&weight.to_dtype(DType::F32)?)?
        .to_dtype(x.dtype())
}
