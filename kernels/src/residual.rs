//! Gated residual: `x + y * gate`.
//!
//! x, y [L, d]; gate [R, d] with R = 1, or R = 2 where the first `first` tokens use row 0 and the others
//! row 1.

use crate::check;
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
    gate_residual_reference(x, y, gate, first)
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
