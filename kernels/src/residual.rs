//! Gated residual: `x + y * gate`.
//!
//! x, y [L, d]; gate [R, d] with R = 1, or R = 2 where the first `first` tokens use row 0 and the
//! others row 1.
//!
//! The CPU path is one pass over the rows.
#![allow(unsafe_op_in_unsafe_fn)] // kernels run under `#[target_feature]` as a whole

use crate::check;
use crate::data::Floats;
use crate::rows::map_rows;
use crate::simd::{Vector, dispatch, load_n, store_n};
use candle_core::{DType, Result, Tensor, bail};

/// `x + y * gate`, see the file header. Errors if the shapes disagree.
pub fn gate_residual(x: &Tensor, y: &Tensor, gate: &Tensor, first: usize) -> Result<Tensor> {
    const OP: &str = "gate_residual";
    check::float(OP, "x", x)?;
    check::float(OP, "y", y)?;
    let [len, d] = *x.dims() else {
        bail!("{OP}: x must have shape [L, d], found {:?}", x.dims());
    };
    check::dims(OP, "y", y, x.dims())?;
    check::token_rows(OP, "gate", gate, len, d, first)?;
    if !x.device().is_cpu() || d == 0 {
        return gate_residual_reference(x, y, gate, first);
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
