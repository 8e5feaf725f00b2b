//! GELU in its exact form, element by element: `x/2 * (1 + erf(x / sqrt(2)))`.
//!
//! The tanh form differs from it by up to 5e-4, too much where a network was trained with this one (the
//! mergers of Qwen3-VL's vision tower). The CPU path evaluates the error function of the `libm` that candle
//! uses, spread over the threads; on a card candle's own operation does it (`ugelu_erf`), in f32 like the rest.

use crate::check;
use crate::rows::map_rows;
use candle_core::cpu::erf::erf_f32;
use candle_core::{DType, Result, Tensor};

/// Exact GELU of every element of `x` (any shape). Errors for dtypes other than f32, bf16, f16.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    check::float("gelu_erf", "x", x)?;
    if !x.device().is_cpu() {
        return gelu_erf_reference(x);
    }
    // Rows mean nothing here: any width will do.
    map_rows(x, None, 1, |_, chunk| {
        for (i, &x) in chunk.x.iter().enumerate() {
            let y = (erf_f32(x * std::f32::consts::FRAC_1_SQRT_2) + 1.0) * 0.5 * x;
            // SAFETY: `out` holds as many elements as `x`.
            unsafe { *chunk.out.add(i) = y };
        }
    })
}

/// Reference of [`gelu_erf`].
pub fn gelu_erf_reference(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.gelu_erf()?.to_dtype(x.dtype())
}
