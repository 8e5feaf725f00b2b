//! Channel norm of the VAE, over the last dimension: `y = x / max(||x||_2, 1e-12) * sqrt(C) *
//! gamma`, optionally followed by SiLU.
//!
//! x [.., C] (channels last), gamma [C].
//!
//! The CPU path goes over each pixel twice while it is in cache: sum of squares, then product and
//! SiLU. The CUDA kernel (`cuda/channel_norm.cu`) holds a pixel in registers: one read, one write.
#![allow(unsafe_op_in_unsafe_fn)] // kernels run under `#[target_feature]` as a whole

use crate::data::Floats;
use crate::device::{Call, Grid, Target, target};
use crate::rows::map_rows;
use crate::simd::{Vector, activate, dispatch, load_n, store_n, sum_squares};
use crate::{Activation, check};
use candle_core::{D, DType, Result, Tensor};

/// Smallest norm divided by, as `torch.nn.functional.normalize` has it.
pub(crate) const MIN_NORM: f64 = 1e-12;

/// Normalises every pixel of `x` `[.., C]` to length `sqrt(C)`, scales by `gamma` `[C]` and applies
/// SiLU if asked. Errors if the shapes disagree.
pub fn channel_norm(x: &Tensor, gamma: &Tensor, silu: bool) -> Result<Tensor> {
    check::float("channel_norm", "x", x)?;
    check::float("channel_norm", "gamma", gamma)?;
    let c = check::last_dim("channel_norm", x)?;
    check::dims("channel_norm", "gamma", gamma, &[c])?;
    if let Some(target) = target(x) {
        return on_device(&target, x, gamma, silu);
    }
    let gamma = Floats::new(gamma)?;
    let gamma = gamma.as_slice();
    let act = if silu {
        Activation::Silu
    } else {
        Activation::None
    };
    map_rows(x, None, c, |isa, chunk| {
        // SAFETY: `out` holds as many elements as `x`, both whole rows of gamma's length.
        unsafe { channel_rows(isa, chunk.x, chunk.out, gamma, act) }
    })
}

/// The kernel `cuda/channel_norm.cu`: as many lanes of a warp per pixel as it has 16-byte packs.
fn on_device(target: &Target, x: &Tensor, gamma: &Tensor, silu: bool) -> Result<Tensor> {
    const THREADS: usize = 256;
    let x = x.contiguous()?;
    let c = gamma.elem_count();
    let pixels = x.elem_count() / c;
    let packs = c.div_ceil(16 / x.dtype().size_in_bytes());
    let lanes = packs.next_power_of_two().min(32);
    let mut call = Call::new(target, "channel_norm", x.dtype())?;
    call.input(&x)?
        .input(&gamma.to_dtype(DType::F32)?.contiguous()?)?;
    let out = call.output(x.dims(), x.dtype())?;
    call.i64(pixels).i32(c)?.i32(lanes)?.flag(silu);
    let blocks = pixels.div_ceil(THREADS / lanes);
    call.launch(Grid::rows(blocks), THREADS as u32, 0)?;
    Ok(out)
}

dispatch! {
    fn channel_rows(x: &[f32], out: *mut f32, gamma: &[f32], act: Activation) = channel_generic
}

#[inline(always)]
unsafe fn channel_generic<V: Vector>(x: &[f32], out: *mut f32, gamma: &[f32], act: Activation) {
    let c = gamma.len();
    for (row, x) in x.chunks_exact(c).enumerate() {
        let out = out.add(row * c);
        let norm = sum_squares::<V>(x, 0.0).sqrt().max(MIN_NORM);
        let factor = V::splat(((c as f64).sqrt() / norm) as f32);
        for i in (0..c).step_by(V::LANES) {
            let n = V::LANES.min(c - i);
            let y = load_n::<V>(x.as_ptr().add(i), n).mul(factor);
            let y = y.mul(load_n(gamma.as_ptr().add(i), n));
            store_n(activate(y, act), out.add(i), n);
        }
    }
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
