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
use crate::isa::Isa;
use crate::rows::{Chunk, map_rows_to};
use crate::simd::{Vector, dispatch, load_n, store_n, sum, sum_squares};
use candle_core::{D, DType, Result, Tensor, bail};

/// Layer norm of `x` `[.., d]` with optional (weight, bias), each `[d]`. Errors if the shapes disagree.
pub fn layer_norm(x: &Tensor, weight: Option<(&Tensor, &Tensor)>, eps: f64) -> Result<Tensor> {
    check::float("layer_norm", "x", x)?;
    let d = check::last_dim("layer_norm", x)?;
    let norm = match weight {
        Some((weight, bias)) => Norm::Affine { weight, bias },
        None => Norm::Plain,
    };
    norm.check("layer_norm", 0, d, 0)?;
    if let Some(target) = target(x) {
        return on_device(&target, x, &norm, 0, eps, x.dtype());
    }
    run(x, &Parameters::new(&norm, d)?.affine(0, d), eps, x.dtype())
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
    layer_norm_modulate_to(x, scale, shift, first, eps, x.dtype())
}

/// [`layer_norm_modulate`] with a result of another type: a residual stream in f32 feeds layers that
/// compute in 16 bits. `dtype` is that of `x`, or x is f32.
pub fn layer_norm_modulate_to(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    first: usize,
    eps: f64,
    dtype: DType,
) -> Result<Tensor> {
    const OP: &str = "layer_norm_modulate";
    check::float(OP, "x", x)?;
    let [len, d] = *x.dims() else {
        bail!("{OP}: x must have shape [L, d], found {:?}", x.dims());
    };
    check::last_dim(OP, x)?;
    check::narrowing(OP, x.dtype(), dtype)?;
    let norm = Norm::Modulated { scale, shift };
    norm.check(OP, len, d, first)?;
    if let Some(target) = target(x) {
        return on_device(&target, x, &norm, first, eps, dtype);
    }
    run(x, &Parameters::new(&norm, d)?.affine(first, d), eps, dtype)
}

/// What follows the normalisation, over rows of d elements.
#[derive(Debug, Clone, Copy)]
pub enum Norm<'a> {
    /// Nothing.
    Plain,
    /// `LN(x) * weight + bias`.
    Affine {
        /// `[d]`.
        weight: &'a Tensor,
        /// `[d]`.
        bias: &'a Tensor,
    },
    /// `LN(x) * (1 + scale) + shift`.
    Modulated {
        /// `[R, d]`.
        scale: &'a Tensor,
        /// `[R, d]`.
        shift: &'a Tensor,
    },
}

impl<'a> Norm<'a> {
    /// Checks the parameters for `len` rows of `d` elements.
    pub(crate) fn check(&self, op: &str, len: usize, d: usize, first: usize) -> Result<()> {
        match self {
            Self::Plain => {}
            Self::Affine { weight, bias } => {
                for (name, p) in [("weight", weight), ("bias", bias)] {
                    check::float(op, name, p)?;
                    check::dims(op, name, p, &[d])?;
                }
            }
            Self::Modulated { scale, shift } => {
                check::token_rows(op, "scale", scale, len, d, first)?;
                check::token_rows(op, "shift", shift, len, d, first)?;
                check::dims(op, "shift", shift, scale.dims())?;
            }
        }
        Ok(())
    }

    /// Factor (1 + factor if true) and shift.
    fn parameters(&self) -> Option<(&'a Tensor, &'a Tensor, bool)> {
        match *self {
            Self::Plain => None,
            Self::Affine { weight, bias } => Some((weight, bias, false)),
            Self::Modulated { scale, shift } => Some((scale, shift, true)),
        }
    }

    /// As the kernels take it: factor and shift in f32, their number of rows, whether the factor is 1 +
    /// factor.
    pub(crate) fn on_device(&self, d: usize) -> Result<(Option<[Tensor; 2]>, usize, bool)> {
        let Some((factor, shift, plus_one)) = self.parameters() else {
            return Ok((None, 1, false));
        };
        let f32s = |p: &Tensor| p.to_dtype(DType::F32)?.contiguous();
        let rows = factor.elem_count() / d;
        Ok((Some([f32s(factor)?, f32s(shift)?]), rows, plus_one))
    }
}

/// Threads per block of the kernel: a row of 3072 or 5120 elements gives each some 16-byte accesses.
const THREADS: u32 = 256;

/// The kernel `cuda/layer_norm.cu`.
fn on_device(
    target: &Target,
    x: &Tensor,
    norm: &Norm<'_>,
    first: usize,
    eps: f64,
    dtype: DType,
) -> Result<Tensor> {
    let d = x.dim(D::Minus1)?;
    let x = x.contiguous()?;
    let (parameters, rows, plus_one) = norm.on_device(d)?;
    let [factor, shift] = [0, 1].map(|i| parameters.as_ref().map(|both| &both[i]));
    let mut call = Call::mixed(target, "layer_norm", "layer_norm", x.dtype(), dtype)?;
    call.input(&x)?.optional(factor)?.optional(shift)?;
    let out = call.output(x.dims(), dtype)?;
    call.i32(d)?.i32(rows)?.i64(first).f32(eps).flag(plus_one);
    call.launch(Grid::rows(x.elem_count() / d), THREADS, 0)?;
    Ok(out)
}

/// Factor and shift [R, d] of the normalised rows, in f32.
pub(crate) struct Parameters<'a> {
    factor: Floats<'a>,
    shift: Floats<'a>,
}

impl<'a> Parameters<'a> {
    pub(crate) fn new(norm: &Norm<'a>, d: usize) -> Result<Self> {
        let Some((factor, shift, plus_one)) = norm.parameters() else {
            return Ok(Self {
                factor: Floats::Owned(vec![1.0; d]),
                shift: Floats::Owned(vec![0.0; d]),
            });
        };
        let mut factor = Floats::new(factor)?;
        if plus_one {
            factor = Floats::Owned(factor.as_slice().iter().map(|s| 1.0 + s).collect());
        }
        Ok(Self {
            factor,
            shift: Floats::new(shift)?,
        })
    }

    pub(crate) fn affine(&self, first: usize, d: usize) -> Affine<'_> {
        Affine {
            factor: self.factor.as_slice(),
            shift: self.shift.as_slice(),
            first,
            d,
        }
    }
}

/// Factor and shift [R, d]; of two rows the second serves from row `first` of x on.
pub(crate) struct Affine<'a> {
    factor: &'a [f32],
    shift: &'a [f32],
    first: usize,
    d: usize,
}

fn run(x: &Tensor, affine: &Affine<'_>, eps: f64, dtype: DType) -> Result<Tensor> {
    map_rows_to(x, None, affine.d, dtype, |isa, chunk| {
        // SAFETY: `out` holds as many elements as `x`, both whole rows of d elements.
        unsafe { normalise_rows(isa, &chunk, affine, eps) }
    })
}

/// The layer norm of a chunk of rows.
///
/// # Safety
/// `chunk.out` must hold as many elements as `chunk.x`, both whole rows of `affine.d` elements.
pub(crate) unsafe fn normalise_rows(isa: Isa, chunk: &Chunk<'_>, affine: &Affine<'_>, eps: f64) {
    layer_rows(isa, chunk.row, chunk.x, chunk.out, affine, eps);
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
