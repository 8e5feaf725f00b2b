//! Rotary position embedding over the two halves of a head (Qwen, Llama): with (a, b) = (x[i], x[i + D/2]),
//! `y[i] = a cos[i] - b sin[i]`, `y[i + D/2] = b cos[i] + a sin[i]`.
//!
//! x [L, N, D] (tokens, heads, head width); cos, sin [L, D/2], the same for every head. The form over adjacent
//! pairs is [`rope`](crate::rope).
//!
//! The CPU path rotates each head by whole vectors of its two halves while a token is in cache. On a card the
//! rotation is composed of candle's own operations, in f32; there is no CUDA kernel of our own for it.
#![allow(unsafe_op_in_unsafe_fn)] // kernels run under `#[target_feature]` as a whole

use crate::check;
use crate::data::Floats;
use crate::rows::map_rows;
use crate::simd::{Vector, dispatch, load_n, store_n};
use candle_core::{DType, Result, Tensor, bail};

const OP: &str = "rope_halves";

/// Rotates the halves of the heads of `x` [L, N, D] by `cos`, `sin` [L, D/2]. Errors if the shapes disagree or
/// D is odd.
pub fn rope_halves(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    check::float(OP, "x", x)?;
    check::float(OP, "cos", cos)?;
    check::float(OP, "sin", sin)?;
    let [len, heads, d] = *x.dims() else {
        bail!("{OP}: x must have shape [L, N, D], found {:?}", x.dims());
    };
    if d % 2 != 0 {
        bail!(
            "{OP}: the head width must be even, found shape {:?}",
            x.dims()
        );
    }
    check::dims(OP, "cos", cos, &[len, d / 2])?;
    check::dims(OP, "sin", sin, &[len, d / 2])?;
    if !x.device().is_cpu() || x.elem_count() == 0 {
        return rope_halves_reference(x, cos, sin);
    }
    let (cos, sin) = (Floats::new(cos)?, Floats::new(sin)?);
    let tables = Tables {
        cos: cos.as_slice(),
        sin: sin.as_slice(),
        heads,
        half: d / 2,
    };
    map_rows(x, None, heads * d, |isa, chunk| {
        // SAFETY: `out` holds as many elements as `x`, both whole tokens that `tables` has rows for.
        unsafe { rotate(isa, chunk.row, chunk.x, chunk.out, &tables) }
    })
}

/// cos, sin [L, D/2] and the sizes of a token.
struct Tables<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    heads: usize,
    half: usize,
}

dispatch! {
    /// The rotation of a chunk of tokens, the first of which is token `row0`.
    fn rotate(row0: usize, x: &[f32], out: *mut f32, tables: &Tables<'_>) = rotate_generic
}

#[inline(always)]
unsafe fn rotate_generic<V: Vector>(row0: usize, x: &[f32], out: *mut f32, tables: &Tables<'_>) {
    let Tables { heads, half, .. } = *tables;
    for (row, x) in x.chunks_exact(heads * 2 * half).enumerate() {
        let cos = &tables.cos[(row0 + row) * half..][..half];
        let sin = &tables.sin[(row0 + row) * half..][..half];
        for (head, x) in x.chunks_exact(2 * half).enumerate() {
            let out = out.add((row * heads + head) * 2 * half);
            for i in (0..half).step_by(V::LANES) {
                let n = V::LANES.min(half - i);
                let a = load_n::<V>(x.as_ptr().add(i), n);
                let b = load_n::<V>(x.as_ptr().add(half + i), n);
                let c = load_n::<V>(cos.as_ptr().add(i), n);
                let s = load_n::<V>(sin.as_ptr().add(i), n);
                store_n(a.mul(c).sub(b.mul(s)), out.add(i), n);
                store_n(b.mul(c).add(a.mul(s)), out.add(half + i), n);
            }
        }
    }
}

/// Reference of [`rope_halves`].
pub fn rope_halves_reference(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (_, _, d) = x.dims3()?;
    let wide = x.to_dtype(DType::F32)?;
    let (a, b) = (wide.narrow(2, 0, d / 2)?, wide.narrow(2, d / 2, d / 2)?);
    // [L, D/2] -> [L, 1, D/2]
    let cos = cos.to_dtype(DType::F32)?.unsqueeze(1)?;
    let sin = sin.to_dtype(DType::F32)?.unsqueeze(1)?;
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)?.to_dtype(x.dtype())
}
