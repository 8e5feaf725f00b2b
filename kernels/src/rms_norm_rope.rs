//! What queries and keys pass before attention: RMS norm over all heads of a token together, then the
//! rotary embedding.
//!
//! ```text
//! n = x / sqrt(mean(x^2) + eps) * weight
//! y[2i] = n[2i] cos[i] - n[2i+1] sin[i],  y[2i+1] = n[2i] sin[i] + n[2i+1] cos[i]
//! ```
//! q, k [L, N, D], tokens at any distance (parts of a fused projection); weight [N D]; cos, sin [L, D/2],
//! the three axes of Wan side by side. Results [L, N, D], contiguous.
//!
//! n is rounded to the type of x before the rotation, which is f32 arithmetic. The sources differ in where:
//! after the weight (diffusers), or before it, so that n itself is f32 (the official code).
//!
//! One kernel launch for q and k (`cuda/rms_norm_rope.cu`): one read and one write of each element. The CPU
//! path rotates rows while they are in cache.

use crate::check;
use crate::data::Floats;
use crate::device::{Call, Grid, Target, target, threads_per_row};
use crate::rms_norm::{rms_norm_reference, rms_norm_rows};
use crate::rope::{Angles, rope_reference, rotate_rows};
use crate::rows::{map_rows, map_rows_twice};
use candle_core::{DType, Result, Tensor, bail};

/// Settings of the norm.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RmsConfig {
    /// Added to the mean of the squares.
    pub eps: f64,
    /// Whether `x / sqrt(..)` is rounded to the type of x before it is multiplied by the weight, and the
    /// product stays in f32 until after the rotation. No difference in f32.
    pub round_before_weight: bool,
}

/// Cosines and sines, `[L, D/2]` each.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// `[L, D/2]`.
    pub cos: &'a Tensor,
    /// `[L, D/2]`.
    pub sin: &'a Tensor,
}

/// Normalises and rotates `q` and `k` `[L, N, D]` with their weights `[N D]`; see the file header. Errors if
/// the shapes disagree or D is odd.
pub fn rms_norm_rope(
    (q, q_weight): (&Tensor, &Tensor),
    (k, k_weight): (&Tensor, &Tensor),
    rotation: &Rotation<'_>,
    config: &RmsConfig,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "rms_norm_rope";
    let width = check_heads(OP, "q", q, q_weight)?;
    check_heads(OP, "k", k, k_weight)?;
    check::dims(OP, "k", k, q.dims())?;
    if k.dtype() != q.dtype() {
        bail!("{OP}: q is {:?} and k is {:?}", q.dtype(), k.dtype());
    }
    if width % 2 != 0 {
        bail!("{OP}: heads must have an even width, found {width}");
    }
    for (name, table) in [("cos", rotation.cos), ("sin", rotation.sin)] {
        check::float(OP, name, table)?;
        check::dims(OP, name, table, &[q.dim(0)?, width / 2])?;
    }
    if let Some(target) = target(q) {
        let second = Some((k, k_weight));
        return on_device(&target, (q, q_weight), second, Some(rotation), config);
    }
    Ok((
        on_cpu(q, q_weight, Some(rotation), config)?,
        on_cpu(k, k_weight, Some(rotation), config)?,
    ))
}

/// The norm without rotation, of `x` `[L, N, D]` with `weight` `[N D]`. Errors if the shapes disagree.
pub fn rms_norm_heads(x: &Tensor, weight: &Tensor, config: &RmsConfig) -> Result<Tensor> {
    check_heads("rms_norm_heads", "x", x, weight)?;
    match target(x) {
        Some(target) => Ok(on_device(&target, (x, weight), None, None, config)?.0),
        None => on_cpu(x, weight, None, config),
    }
}

/// Checks x [L, N, D] and weight [N D]; gives D.
fn check_heads(op: &str, name: &str, x: &Tensor, weight: &Tensor) -> Result<usize> {
    check::float(op, name, x)?;
    check::float(op, "weight", weight)?;
    let [_, heads, width] = *x.dims() else {
        bail!(
            "{op}: {name} must have shape [L, N, D], found {:?}",
            x.dims()
        );
    };
    if heads * width == 0 {
        bail!(
            "{op}: {name} has no elements in a token, shape {:?}",
            x.dims()
        );
    }
    check::dims(op, "weight", weight, &[heads * width])?;
    Ok(width)
}

fn on_cpu(
    x: &Tensor,
    weight: &Tensor,
    rotation: Option<&Rotation<'_>>,
    config: &RmsConfig,
) -> Result<Tensor> {
    let (_, heads, width) = x.dims3()?;
    let d = heads * width;
    let weight = Floats::new(weight)?;
    let weight = weight.as_slice();
    let ones = vec![1f32; d];
    let early = config.round_before_weight && x.dtype() != DType::F32;
    let tables = rotation
        .map(|tables| {
            Ok::<_, candle_core::Error>((Floats::new(tables.cos)?, Floats::new(tables.sin)?))
        })
        .transpose()?;
    let angles = tables
        .as_ref()
        .map(|(cos, sin)| Angles::new(cos.as_slice(), sin.as_slice(), heads, width));
    let factor = if early { ones.as_slice() } else { weight };
    let norm = |isa, x: &[f32], out| {
        // SAFETY: `out` holds as many elements as `x`, both whole rows of the weight's length.
        unsafe { rms_norm_rows(isa, x, out, factor, config.eps) }
    };
    if !early && angles.is_none() {
        return map_rows(x, None, d, |isa, chunk| norm(isa, chunk.x, chunk.out));
    }
    let (_, y) = map_rows_twice(
        x,
        None,
        d,
        (x.dtype(), false),
        x.dtype(),
        |isa, chunk| norm(isa, chunk.x, chunk.out),
        |isa, chunk| {
            let mut weighted = Vec::new();
            let mut n = chunk.x;
            if early {
                weighted.extend(n.iter().zip(weight.iter().cycle()).map(|(n, w)| n * w));
                n = &weighted;
            }
            match &angles {
                // SAFETY: `out` holds as many elements as `n`, both whole tokens.
                Some(angles) => unsafe { rotate_rows(isa, chunk.row, n, chunk.out, angles) },
                // SAFETY: as above, and another allocation.
                None => unsafe { std::ptr::copy_nonoverlapping(n.as_ptr(), chunk.out, n.len()) },
            }
        },
    )?;
    Ok(y)
}

/// The kernel: `first` and perhaps `second`, each [L, N, D] with its weight [N D]. Without a second the
/// second result is the first one.
pub(crate) fn on_device(
    target: &Target,
    first: (&Tensor, &Tensor),
    second: Option<(&Tensor, &Tensor)>,
    rotation: Option<&Rotation<'_>>,
    config: &RmsConfig,
) -> Result<(Tensor, Tensor)> {
    let (len, heads, width) = first.0.dims3()?;
    let d = heads * width;
    let f32s = |p: &Tensor| p.to_dtype(DType::F32)?.contiguous();
    let mut call = Call::new(target, "rms_norm_rope", first.0.dtype())?;
    let mut add = |(x, weight): (&Tensor, &Tensor)| -> Result<Tensor> {
        // Tokens may lie apart, the elements of a token not.
        let x = match *x.stride() {
            [_, between, 1] if between == width => x.clone(),
            _ => x.force_contiguous()?,
        };
        call.strided(&x)?.i64(x.stride()[0]).input(&f32s(weight)?)?;
        call.output(&[len, heads, width], x.dtype())
    };
    let y = add(first)?;
    let z = second.map(add).transpose()?;
    if z.is_none() {
        call.null().i64(0).null().null();
    }
    match rotation {
        Some(tables) => call.input(&f32s(tables.cos)?)?.input(&f32s(tables.sin)?)?,
        None => call.null().null(),
    };
    call.i32(d)?
        .i32(width)?
        .f32(config.eps)
        .flag(config.round_before_weight);
    let tensors = if z.is_some() { 2 } else { 1 };
    call.launch(Grid::new(len, tensors, 1), threads_per_row(d, y.dtype()), 0)?;
    let z = z.unwrap_or_else(|| y.clone());
    Ok((y, z))
}

/// Reference of [`rms_norm_rope`], for one of q and k.
pub fn rms_norm_rope_reference(
    x: &Tensor,
    weight: &Tensor,
    rotation: Option<&Rotation<'_>>,
    config: &RmsConfig,
) -> Result<Tensor> {
    let rows = x.flatten_from(1)?; // [L, N, D] -> [L, d]
    let weight = weight.to_dtype(DType::F32)?;
    let n = if config.round_before_weight {
        let n = rms_norm_reference(&rows, &weight.ones_like()?, config.eps)?;
        n.to_dtype(DType::F32)?.broadcast_mul(&weight)?
    } else {
        rms_norm_reference(&rows, &weight, config.eps)?.to_dtype(DType::F32)?
    };
    let n = n.reshape(x.shape())?;
    let y = match rotation {
        Some(tables) => rope_reference(&n, tables.cos, tables.sin)?,
        None => n,
    };
    y.to_dtype(x.dtype())
}
