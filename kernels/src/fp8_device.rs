//! Linear layers with a weight in e4m3 on a card: `y = act((Q(x) W8^T) sx sw + b)`, see `fp8.rs`.
//!
//! Rows of x are rounded to e4m3 by `cuda/quantize.cu`, bit for bit as on the CPU, and multiplied by the
//! codes of the weight in cuBLASLt, which also scales where it can; elsewhere the sums stay in f32 and a
//! kernel scales them, adds the bias and applies the activation. Cards without 8-bit products, widths that
//! are no multiples of 16 and weight-only checkpoints take the weight made wide, some rows at a time.

use crate::device::{Call, Grid, Target, suffix};
use crate::fp8::Fp8Weight;
use crate::linear_device::{capability, regular, sums_of_codes};
use crate::product::{Element, Facts8, Path8, rows_of};
use crate::{Activation, activation::activated};
use candle_core::{DType, Result, Tensor, bail};
#[cfg(feature = "cuda")]
use {
    crate::linear_device::{Product, multiply, result},
    crate::product::{Epilogue, Scales},
};

const THREADS: u32 = 256;
/// Sums in f32 that are held at once.
const SUMS: usize = 64 << 20;
/// Elements of a wide weight that are held at once.
#[cfg(feature = "cuda")]
const WIDE: usize = 32 << 20;

/// `x` [.., in] with a checked last axis; `bias` [out].
pub(crate) fn forward(
    target: &Target,
    x: &Tensor,
    weight: &Fp8Weight,
    bias: Option<&Tensor>,
    act: Activation,
) -> Result<Tensor> {
    let (columns, inner) = (weight.out_features(), weight.in_features());
    let (card, version) = capability(target)?;
    let path = Path8::choose(&Facts8 {
        capability: card,
        version,
        inner,
        columns,
        weight_only: weight.is_weight_only(),
        scalar_weight: weight.scale().elem_count() == 1,
        scalar_x: weight.input_scale().is_some(),
        result: Element::of(x.dtype())?,
    });
    if let Path8::Wide(_) = path {
        return wide(target, x, weight, bias, act);
    }
    let (codes, scales) = quantize(target, x, weight.input_scale())?;
    #[cfg(feature = "cuda")]
    if let Path8::Library(how) = path
        && let Some(y) = scaled(target, x, (&codes, &scales), weight, bias, act, how)?
    {
        return Ok(y);
    }
    scale_after(target, x, (&codes, &scales), weight, bias, act)
}

/// Rows of `x` [.., K] in e4m3: u8 [M, K], and their scales f32 [M]: `fixed` or each row's own.
fn quantize(target: &Target, x: &Tensor, fixed: Option<f32>) -> Result<(Tensor, Tensor)> {
    let x = regular(x)?;
    let (Some((rows, stride)), Some(&inner)) = (rows_of(&x), x.dims().last()) else {
        bail!("fp8 linear: x must have rows at equal distances");
    };
    let name = format!("quantize_rows_{}", suffix(x.dtype())?);
    let mut call = Call::named(target, "quantize", name);
    call.strided(&x)?;
    let codes = call.output(&[rows, inner], DType::U8)?;
    let scales = call.output(&[rows], DType::F32)?;
    call.i32(inner)?
        .i64(stride)
        .f32(f64::from(fixed.unwrap_or(0.0)));
    call.launch(Grid::rows(rows), THREADS, 0)?;
    Ok((codes, scales))
}

/// The library's 8-bit product with the library's scaling; `None` if it does not do it so.
#[cfg(feature = "cuda")]
fn scaled(
    target: &Target,
    x: &Tensor,
    (codes, scales): (&Tensor, &Tensor),
    weight: &Fp8Weight,
    bias: Option<&Tensor>,
    act: Activation,
    how: Scales,
) -> Result<Option<Tensor>> {
    let columns = weight.out_features();
    let bias = bias
        .map(|b| b.to_dtype(x.dtype())?.contiguous())
        .transpose()?;
    let weight_scale = match how {
        Scales::OuterVectors => weight.scale().broadcast_as(columns)?.contiguous()?,
        Scales::None | Scales::Scalars => weight.scale().clone(),
    };
    let out = result(target, x, columns, x.dtype())?;
    if out.elem_count() == 0 {
        return Ok(Some(out));
    }
    for (epilogue, bias_left, act_left) in Epilogue::choices(bias.is_some(), act) {
        let product = Product {
            x: codes,
            weight: weight.codes(),
            bias: bias.as_ref().filter(|_| epilogue.has_bias()),
            epilogue,
            scales: how,
            factors: Some((&weight_scale, scales)),
            out: &out,
            first_column: 0,
        };
        if multiply(target, &product)? {
            let y = match &bias {
                Some(bias) if bias_left => out.broadcast_add(bias)?,
                _ => out,
            };
            return activated(&y, act_left).map(Some);
        }
    }
    Ok(None)
}

/// Plain sums in f32, then scales, bias and activation, some rows at a time.
fn scale_after(
    target: &Target,
    x: &Tensor,
    (codes, scales): (&Tensor, &Tensor),
    weight: &Fp8Weight,
    bias: Option<&Tensor>,
    act: Activation,
) -> Result<Tensor> {
    let columns = weight.out_features();
    let bias = bias
        .map(|b| b.to_dtype(DType::F32)?.contiguous())
        .transpose()?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    let rows = codes.dim(0)?;
    let step = (SUMS / columns).max(1);
    let mut parts = Vec::new();
    for first in (0..rows).step_by(step) {
        let count = step.min(rows - first);
        let sums = sums_of_codes(target, &codes.narrow(0, first, count)?, weight.codes())?;
        let name = format!("quantize_finish_{}", suffix(x.dtype())?);
        let mut call = Call::named(target, "quantize", name);
        call.input(&sums)?
            .input(&scales.narrow(0, first, count)?)?
            .input(weight.scale())?
            .optional(bias.as_ref())?;
        let out = call.output(&[count, columns], x.dtype())?;
        call.i32(columns)?
            .i32(weight.scale().elem_count())?
            .i32(match act {
                Activation::None => 0,
                Activation::GeluTanh => 1,
                Activation::Silu => 2,
            })?;
        call.launch(Grid::rows(count), THREADS, 0)?;
        parts.push(out);
    }
    match parts.as_slice() {
        [] => Tensor::zeros(shape, x.dtype(), x.device()),
        [one] => one.reshape(shape), // [M, N] -> [.., N]
        _ => Tensor::cat(&parts, 0)?.reshape(shape),
    }
}

/// `value(code) * scale` of `count` rows of the weight from `first` on, in `dtype` [count, K].
fn widen(
    target: &Target,
    weight: &Fp8Weight,
    (first, count): (usize, usize),
    dtype: DType,
) -> Result<Tensor> {
    let scale = match weight.scale().elem_count() {
        1 => weight.scale().clone(),
        _ => weight.scale().narrow(0, first, count)?,
    };
    let name = format!("quantize_widen_{}", suffix(dtype)?);
    let mut call = Call::named(target, "quantize", name);
    call.input(&weight.codes().narrow(0, first, count)?)?
        .input(&scale)?;
    let out = call.output(&[count, weight.in_features()], dtype)?;
    call.i32(weight.in_features())?.i32(scale.elem_count())?;
    call.launch(Grid::rows(count), THREADS, 0)?;
    Ok(out)
}

/// The product with the weight made wide, in the type of x.
fn wide(
    target: &Target,
    x: &Tensor,
    weight: &Fp8Weight,
    bias: Option<&Tensor>,
    act: Activation,
) -> Result<Tensor> {
    let columns = weight.out_features();
    match target {
        #[cfg(feature = "cuda")]
        Target::Cuda(_) => {
            let dtype = x.dtype();
            let bias = bias.map(|b| b.to_dtype(dtype)?.contiguous()).transpose()?;
            let out = result(target, x, columns, dtype)?;
            if out.elem_count() == 0 {
                return Ok(out);
            }
            let rows = regular(x)?;
            let step = (WIDE / weight.in_features() / 16 * 16).max(16);
            'choice: for (epilogue, bias_left, _) in
                Epilogue::choices(bias.is_some(), Activation::None)
            {
                for first in (0..columns).step_by(step) {
                    let count = step.min(columns - first);
                    let part = bias.as_ref().filter(|_| epilogue.has_bias());
                    let part = part.map(|b| b.narrow(0, first, count)).transpose()?;
                    let product = Product {
                        x: &rows,
                        weight: &widen(target, weight, (first, count), dtype)?,
                        bias: part.as_ref(),
                        epilogue,
                        scales: Scales::None,
                        factors: None,
                        out: &out,
                        first_column: first,
                    };
                    if !multiply(target, &product)? {
                        continue 'choice;
                    }
                }
                let y = match &bias {
                    Some(bias) if bias_left => out.broadcast_add(bias)?,
                    _ => out,
                };
                return activated(&y, act);
            }
            let whole = widen(target, weight, (0, columns), dtype)?;
            crate::linear::linear_reference(x, &whole, bias.as_ref(), act)
        }
        #[cfg(feature = "shim")]
        Target::Shim => {
            let whole = widen(target, weight, (0, columns), x.dtype())?;
            let y = crate::linear::linear_reference(x, &whole, bias, Activation::None)?;
            activated(&y, act)
        }
    }
}
