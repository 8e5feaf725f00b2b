//! Activations, element by element.
//!
//! - SiLU: `x * sigmoid(x)`
//! - GELU, tanh form: `x/2 * (1 + tanh(u)) = x * sigmoid(2u)`, `u = sqrt(2/pi) * (x + 0.044715 x^3)`

use crate::check;
use candle_core::{DType, Result, Tensor};

/// Activation applied to the result of a [`Linear`](crate::Linear) while it is still in cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// GELU in its tanh form, see [`gelu_tanh`].
    GeluTanh,
    /// `x * sigmoid(x)`, see [`silu`].
    Silu,
}

/// GELU in its tanh form, of every element of `x` (any shape). Errors for dtypes other than f32, bf16, f16.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    check::float("gelu_tanh", "x", x)?;
    gelu_tanh_reference(x)
}

/// `x * sigmoid(x)` of every element of `x` (any shape). Errors for dtypes other than f32, bf16, f16.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    check::float("silu", "x", x)?;
    silu_reference(x)
}

/// Reference of [`gelu_tanh`].
pub fn gelu_tanh_reference(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.gelu()?.to_dtype(x.dtype())
}

/// Reference of [`silu`].
pub fn silu_reference(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.silu()?.to_dtype(x.dtype())
}
