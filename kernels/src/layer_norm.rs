//! Layer norm over the last dimension, plain and with per-token modulation: `LN(x) = (x - mean) /
//! sqrt(var + eps)`, var without Bessel's correction, then `LN(x) * weight + bias` or `LN(x) * (1 +
//! scale) + shift`.
//!
//! x [.., d]; weight, bias [d]; scale, shift [R, d] with R = 1 (one timestep for all tokens) or R =
//! 2 (the first `first` tokens have their own: the given first frame of TI2V-5B).
//!
//! The CPU path goes over each row three times while it is in cache: mean, variance, result. So does the
//! CUDA kernel (`cuda/layer_norm.cu`), one block per row.
#![allow(unsafe_op_in_unsafe_fn)] // kernels run under `#[target_feature]` as a whole

use crate::check;
use crate::data::Floats;
use crate::device::{Call, Grid, Target, target};
use crate::rows::map_rows;
use crate::simd::{Vector, dispatch, load_n, store_n, sum, sum_squares};
use candle_core::{D, DType, Result, Tensor, bail};

/// Layer norm of `x` `[.., d]` with optional (weight, bias), each `[d]`. Errors if the shapes disagree.
pub fn layer_norm(x: &Tensor, weight: Option<(&Tensor, &Tensor)>, eps: f64) -> Result<Tensor> {
    check::float("layer_norm", "x", x)?;
    let d = check::last_dim("layer_norm", x)?;
    if let Some((w, b)) = weight {
        check::float("layer_norm", "weight", w)?;
        check::float("layer_norm", "bias", b)?;
        check::dims("layer_norm", "weight", w, &[d])?;
        check::dims("layer_norm", "bias", b, &[d])?;
    }
    if let Some(target) = target(x) {
        return on_device(&target, x, weight, false, 0, eps);
    }
    let (factor, shift) = match weight {
        Some((w, b)) => (Floats::new(w)?, Floats::new(b)?),
        None => (Floats::Owned(vec![1.0; d]), Floats::Owned(vec![0.0; d])),
    };
    let affine = Affine {
        factor: factor.as_slice(),
        shift: shift.as_slice(),
        first: 0,
        d,
    };
    run(x, &affine, eps)
}

/// `LN(x) * (1 + scale) + shift` for `x` [L, d]; `scale`, `shift` [R, d] with R = 1, or R = 2 where
/// the first `first` tokens use row 0 and the others row 1. Errors if the shapes disagree.
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
    if let Some(target) = target(x) {
        return on_device(&target, x, Some((scale, shift)), true, first, eps);
    }
    let (scale, shift) = (Floats::new(scale)?, Floats::new(shift)?);
    let factor: Vec<f32> = scale.as_slice().iter().map(|s| 1.0 + s).collect();
    run(
        x,
        &Affine {
            factor: &factor,
            shift: shift.as_slice(),
            first,
            d,
        },
        eps,
    )
}

/// Threads per block of the kernel: a row of 3072 or 5120 elements gives each some 16-byte accesses.
const THREADS: u32 = 256;

/// The kernel `cuda/layer_norm.cu`; `affine`: factor (1 + factor if `plus_one`) and shift, [R, d] or [d].
fn on_device(
    target: &Target,
    x: &Tensor,
    affine: Option<(&Tensor, &Tensor)>,
    plus_one: bool,
    first: usize,
    eps: f64,
) -> Result<Tensor> {
    let d = x.dim(D::Minus1)?;
    let x = x.contiguous()?;
    let f32s = |p: &Tensor| p.to_dtype(DType::F32)?.contiguous();
    let affine = affine
        .map(|(factor, shift)| Ok::<_, candle_core::Error>((f32s(factor)?, f32s(shift)?)))
        .transpose()?;
    let (factor, shift) = match &affine {
        Some((factor, shift)) => (Some(factor), Some(shift)),
        None => (None, None),
    };
    let mut call = Call::new(target, "layer_norm", x.dtype())?;
    call.input(&x)?.optional(factor)?.optional(shift)?;
    let out = call.output(x.dims(), x.dtype())?;
    call.i32(d)?
        .i32(factor.map_or(1, |factor| factor.elem_count() / d))?
        .i64(first)
        .f32(eps)
        .flag(plus_one);
    call.launch(Grid::rows(x.elem_count() / d), THREADS, 0)?;
    Ok(out)
}

/// Factor and shift [R, d] of the normalised rows; of two rows the second serves from row `first`
/// of x on.
struct Affine<'a> {
    factor: &'a [f32],
    shift: &'a [f32],
    first: usize,
    d: usize,
}

fn run(x: &Tensor, affine: &Affine<'_>, eps: f64) -> Result<Tensor> {
    map_rows(x, None, affine.d, |isa, chunk| {
        // SAFETY: `out` holds as many elements as `x`, both whole rows of d elements; `affine` has
        // one or two.
        unsafe { layer_rows(isa, chunk.row, chunk.x, chunk.out, affine, eps) }
    })
}

dispatch! {
    fn layer_rows(row: usize, x: &[f32], out: *mut f32, affine: &Affine<'_>, eps: f64) =
        layer_generic
}

#[inline(always)]
unsafe fn layer_generic<V: Vector>(
    row0: usize,
    x: &[f32],
    out: *mut f32,
    affine: &Affine<'_>,
    eps: f64,
) {
    let d = affine.d;
    for (row, x) in x.chunks_exact(d).enumerate() {
        let out = out.add(row * d);
        let offset = if row0 + row >= affine.first {
            affine.factor.len() - d
        } else {
            0
        };
        let (factor, shift) = (&affine.factor[offset..], &affine.shift[offset..]);
        let mean = (sum::<V>(x) / d as f64) as f32;
        let variance = sum_squares::<V>(x, mean) / d as f64;
        let mean = V::splat(mean);
        let inverse = V::splat((variance + eps).sqrt().recip() as f32);
        for i in (0..d).step_by(V::LANES) {
            let n = V::LANES.min(d - i);
            let y = load_n::<V>(x.as_ptr().add(i), n).sub(mean).mul(inverse);
            let y = y.fma(
                load_n(factor.as_ptr().add(i), n),
                load_n(shift.as_ptr().add(i), n),
            );
            store_n(y, out.add(i), n);
        }
    }
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
