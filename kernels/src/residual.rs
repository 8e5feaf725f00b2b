//! Residual connections: `x + y * gate` or `x + y`, alone or with the layer norm that follows.
//!
//! x, y [L, d]; gate [R, d] with R = 1, or R = 2 where the first `first` tokens use row 0 and the others
//! row 1. y has the type of x, or x is f32 (a residual stream in f32 under layers that compute in 16 bits);
//! without the norm y may have any type.
//! The sum is rounded to the type of x before the norm sees it; the norm has the type of y.
//!
//! The CPU path goes over rows while they are in cache; the CUDA kernel (`cuda/residual.cu`) holds them in
//! registers. With the norm: 2 reads and 2 writes of each element.
#![allow(unsafe_op_in_unsafe_fn)] // kernels run under `#[target_feature]` as a whole

use crate::check;
use crate::data::Floats;
use crate::device::{Call, Grid, Target, target, threads_per_row};
use crate::layer_norm::{
    Norm, Parameters, layer_norm_modulate_reference, layer_norm_reference, normalise_rows,
};
use crate::rows::{map_rows, map_rows_twice};
use crate::simd::{Vector, dispatch, load_n, store_n};
use candle_core::{DType, Result, Tensor, bail};

/// `x + y * gate`, see the file header. Errors if the shapes disagree.
pub fn gate_residual(x: &Tensor, y: &Tensor, gate: &Tensor, first: usize) -> Result<Tensor> {
    let d = check_residual("gate_residual", x, y, Some(gate), first)?;
    if let Some(target) = target(x) {
        // The kernel reads y in the type of x, or in 16 bits beside x in f32.
        let y = match x.dtype() {
            DType::F32 => y.clone(),
            dtype => y.to_dtype(dtype)?,
        };
        return Ok(on_device(&target, x, &y, Some(gate), None, first, 0.0)?.0);
    }
    if d == 0 {
        return Ok(x.clone());
    }
    let gate = Floats::new(gate)?;
    let gate = Gate {
        values: gate.as_slice(),
        first,
        d,
    };
    map_rows(x, Some(y), d, |isa, chunk| {
        // SAFETY: `out` holds as many elements as `x` and `y`, all whole rows of d elements.
        unsafe { gate_rows(isa, chunk.row, chunk.x, chunk.y, chunk.out, &gate) }
    })
}

/// `sum = x + y * gate` (`x + y` without a gate) and the norm of it: (sum, normed). `first` counts for gate
/// and norm alike. Errors if the shapes disagree.
pub fn residual_norm(
    x: &Tensor,
    y: &Tensor,
    gate: Option<&Tensor>,
    norm: &Norm<'_>,
    first: usize,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "residual_norm";
    let d = check_residual(OP, x, y, gate, first)?;
    check::last_dim(OP, x)?;
    check::narrowing(OP, x.dtype(), y.dtype())?;
    norm.check(OP, x.dim(0)?, d, first)?;
    if let Some(target) = target(x) {
        let (sum, normed) = on_device(&target, x, y, gate, Some(norm), first, eps)?;
        return Ok((sum, normed.unwrap_or_else(|| x.clone())));
    }
    let gate = match gate {
        Some(gate) => Floats::new(gate)?,
        None => Floats::Owned(vec![1.0; d]),
    };
    let gate = Gate {
        values: gate.as_slice(),
        first,
        d,
    };
    let parameters = Parameters::new(norm, d)?;
    let affine = parameters.affine(first, d);
    let (sum, normed) = map_rows_twice(
        x,
        Some(y),
        d,
        (x.dtype(), true),
        y.dtype(),
        |isa, chunk| {
            // SAFETY: `out` holds as many elements as `x` and `y`, all whole rows of d elements.
            unsafe { gate_rows(isa, chunk.row, chunk.x, chunk.y, chunk.out, &gate) }
        },
        |isa, chunk| {
            // SAFETY: as above.
            unsafe { normalise_rows(isa, &chunk, &affine, eps) }
        },
    )?;
    Ok((sum.unwrap_or_else(|| x.clone()), normed))
}

/// Checks x, y and gate; gives d.
fn check_residual(
    op: &str,
    x: &Tensor,
    y: &Tensor,
    gate: Option<&Tensor>,
    first: usize,
) -> Result<usize> {
    check::float(op, "x", x)?;
    check::float(op, "y", y)?;
    let [len, d] = *x.dims() else {
        bail!("{op}: x must have shape [L, d], found {:?}", x.dims());
    };
    check::dims(op, "y", y, x.dims())?;
    if let Some(gate) = gate {
        check::token_rows(op, "gate", gate, len, d, first)?;
    }
    Ok(d)
}

/// The kernel `cuda/residual.cu`: the sum, and its norm if asked.
fn on_device(
    target: &Target,
    x: &Tensor,
    y: &Tensor,
    gate: Option<&Tensor>,
    norm: Option<&Norm<'_>>,
    first: usize,
    eps: f64,
) -> Result<(Tensor, Option<Tensor>)> {
    let (len, d) = x.dims2()?;
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let gate = gate
        .map(|gate| gate.to_dtype(DType::F32)?.contiguous())
        .transpose()?;
    let (parameters, rows, plus_one) = match norm {
        Some(norm) => norm.on_device(d)?,
        None => (None, 1, false),
    };
    let [factor, shift] = [0, 1].map(|i| parameters.as_ref().map(|both| &both[i]));
    let mut call = Call::mixed(target, "residual", "residual", x.dtype(), y.dtype())?;
    call.input(&x)?.input(&y)?.optional(gate.as_ref())?;
    call.i32(gate.as_ref().map_or(Ok(1), |gate| gate.dim(0))?)?;
    let sum = call.output(x.dims(), x.dtype())?;
    call.optional(factor)?.optional(shift)?;
    call.i32(rows)?.flag(plus_one);
    let normed = if norm.is_some() {
        Some(call.output(x.dims(), y.dtype())?)
    } else {
        call.null();
        None
    };
    call.i32(d)?.i64(first).f32(eps);
    call.launch(Grid::rows(len), threads_per_row(d, y.dtype()), 0)?;
    Ok((sum, normed))
}

/// Gates [R, d]; of two rows the second serves from row `first` on.
struct Gate<'a> {
    values: &'a [f32],
    first: usize,
    d: usize,
}

dispatch! {
    fn gate_rows(row: usize, x: &[f32], y: &[f32], out: *mut f32, gate: &Gate<'_>) = gate_generic
}

#[inline(always)]
unsafe fn gate_generic<V: Vector>(
    row0: usize,
    x: &[f32],
    y: &[f32],
    out: *mut f32,
    gate: &Gate<'_>,
) {
    let d = gate.d;
    for (row, (x, y)) in x.chunks_exact(d).zip(y.chunks_exact(d)).enumerate() {
        let out = out.add(row * d);
        let offset = if row0 + row >= gate.first {
            gate.values.len() - d
        } else {
            0
        };
        let values = &gate.values[offset..];
        for i in (0..d).step_by(V::LANES) {
            let n = V::LANES.min(d - i);
            let y = load_n::<V>(y.as_ptr().add(i), n);
            let y = y.fma(
                load_n(values.as_ptr().add(i), n),
                load_n(x.as_ptr().add(i), n),
            );
            store_n(y, out.add(i), n);
        }
    }
}

/// Reference of [`gate_residual`].
pub fn gate_residual_reference(
    x: &Tensor,
    y: &Tensor,
    gate: &Tensor,
    first: usize,
) -> Result<Tensor> {
    let gate = check::spread_rows(gate, x.dim(0)?, first)?;
    let update = y.to_dtype(DType::F32)?.broadcast_mul(&gate)?;
    (x.to_dtype(DType::F32)? + update)?.to_dtype(x.dtype())
}

/// Reference of [`residual_norm`].
pub fn residual_norm_reference(
    x: &Tensor,
    y: &Tensor,
    gate: Option<&Tensor>,
    norm: &Norm<'_>,
    first: usize,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let one = Tensor::ones((1, x.dim(1)?), DType::F32, x.device())?;
    let sum = gate_residual_reference(x, y, gate.unwrap_or(&one), first)?;
    let wide = sum.to_dtype(DType::F32)?;
    let normed = match *norm {
        Norm::Plain => layer_norm_reference(&wide, None, eps)?,
        Norm::Affine { weight, bias } => layer_norm_reference(&wide, Some((weight, bias)), eps)?,
        Norm::Modulated { scale, shift } => {
            layer_norm_modulate_reference(&wide, scale, shift, first, eps)?
        }
    };
    Ok((sum, normed.to_dtype(y.dtype())?))
}
