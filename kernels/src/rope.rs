//! Rotary position embedding over adjacent pairs: with (a, b) = (x[2i], x[2i+1]),
//! `y[2i] = a cos[i] - b sin[i]`, `y[2i+1] = a sin[i] + b cos[i]`.
//!
//! x [L, N, D] (tokens, heads, head width); cos, sin [L, D/2], the same for every head. The three
//! axes of Wan (frame, row, column) are already laid side by side in cos and sin by the caller.
//!
//! The CPU path writes a token's factors out once, [c0 c0 c1 c1 ..] and [-s0 s0 -s1 s1 ..], and
//! then rotates all heads by `x * c + swap(x) * s`.
#![allow(unsafe_op_in_unsafe_fn)] // kernels run under `#[target_feature]` as a whole

use crate::check;
use crate::data::Floats;
use crate::rows::map_rows;
use crate::simd::{Vector, dispatch, load_n, store_n};
use candle_core::{DType, Result, Tensor, bail};

/// Rotates the adjacent pairs of `x` [L, N, D] by `cos`, `sin` [L, D/2]. Errors if the shapes
/// disagree or D is odd.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    check::float("rope", "x", x)?;
    check::float("rope", "cos", cos)?;
    check::float("rope", "sin", sin)?;
    let [len, heads, d] = *x.dims() else {
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
    if !x.device().is_cpu() || x.elem_count() == 0 {
        return rope_reference(x, cos, sin);
    }
    let (cos, sin) = (Floats::new(cos)?, Floats::new(sin)?);
    let angles = Angles::new(cos.as_slice(), sin.as_slice(), heads, d);
    map_rows(x, None, heads * d, |isa, chunk| {
        // SAFETY: `out` holds as many elements as `x`, both whole tokens.
        unsafe { rope_rows(isa, chunk.row, chunk.x, chunk.out, &angles) }
    })
}

/// cos, sin [L, D/2] and the sizes of a token.
pub(crate) struct Angles<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    heads: usize,
    d: usize,
}

impl<'a> Angles<'a> {
    pub(crate) fn new(cos: &'a [f32], sin: &'a [f32], heads: usize, d: usize) -> Self {
        Self { cos, sin, heads, d }
    }
}

/// The rotation of a chunk of tokens, the first of which is token `row`.
///
/// # Safety
/// `out` must hold as many elements as `x`, both whole tokens that `angles` has rows for.
pub(crate) unsafe fn rotate_rows(
    isa: crate::Isa,
    row: usize,
    x: &[f32],
    out: *mut f32,
    angles: &Angles<'_>,
) {
    rope_rows(isa, row, x, out, angles);
}

dispatch! {
    fn rope_rows(row: usize, x: &[f32], out: *mut f32, angles: &Angles<'_>) = rope_generic
}

#[inline(always)]
unsafe fn rope_generic<V: Vector>(row0: usize, x: &[f32], out: *mut f32, angles: &Angles<'_>) {
    let Angles { heads, d, .. } = *angles;
    let mut cos = vec![0f32; d];
    let mut sin = vec![0f32; d];
    for (row, x) in x.chunks_exact(heads * d).enumerate() {
        let first = (row0 + row) * d / 2;
        for i in 0..d / 2 {
            let (c, s) = (angles.cos[first + i], angles.sin[first + i]);
            (cos[2 * i], cos[2 * i + 1]) = (c, c);
            (sin[2 * i], sin[2 * i + 1]) = (-s, s);
        }
        for (head, x) in x.chunks_exact(d).enumerate() {
            let out = out.add((row * heads + head) * d);
            for i in (0..d).step_by(V::LANES) {
                let n = V::LANES.min(d - i);
                let x = load_n::<V>(x.as_ptr().add(i), n);
                let y = x.swap_pairs().mul(load_n(sin.as_ptr().add(i), n));
                store_n(x.fma(load_n(cos.as_ptr().add(i), n), y), out.add(i), n);
            }
        }
    }
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
