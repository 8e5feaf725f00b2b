//! Activations, element by element.
//!
//! - SiLU: `x * sigmoid(x)`
//! - GELU, tanh form: `x/2 * (1 + tanh(u)) = x * sigmoid(2u)`,
//!   `u = sqrt(2/pi) * (x + 0.044715 x^3)`
//!
//! The CPU path evaluates both with its own vector exponential, spread over the threads; the CUDA kernel is
//! `cuda/activation.cu`, one read and one write of each element.
#![allow(unsafe_op_in_unsafe_fn)] // kernels run under `#[target_feature]` as a whole

use crate::check;
use crate::device::{Call, Grid, Target, target};
use crate::rows::map_rows;
use crate::simd::{Vector, activate, dispatch, load_n, store_n};
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

/// GELU in its tanh form, of every element of `x` (any shape). Errors for dtypes other than f32,
/// bf16, f16.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    check::float("gelu_tanh", "x", x)?;
    apply(x, Activation::GeluTanh)
}

/// `x * sigmoid(x)` of every element of `x` (any shape). Errors for dtypes other than f32, bf16,
/// f16.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    check::float("silu", "x", x)?;
    apply(x, Activation::Silu)
}

/// Any activation of `x`.
pub(crate) fn activated(x: &Tensor, act: Activation) -> Result<Tensor> {
    match act {
        Activation::None => Ok(x.clone()),
        Activation::GeluTanh | Activation::Silu => apply(x, act),
    }
}

fn apply(x: &Tensor, act: Activation) -> Result<Tensor> {
    if let Some(target) = target(x) {
        return on_device(&target, x, act);
    }
    // Rows mean nothing here: any width will do.
    map_rows(x, None, 1, |isa, chunk| {
        // SAFETY: `out` holds as many elements as `x`.
        unsafe { activate_slice(isa, chunk.x, chunk.out, act) }
    })
}

/// The kernel `cuda/activation.cu`; a thread takes 16 bytes.
fn on_device(target: &Target, x: &Tensor, act: Activation) -> Result<Tensor> {
    const THREADS: u32 = 256;
    let gelu = match act {
        Activation::None => return Ok(x.clone()),
        Activation::GeluTanh => true,
        Activation::Silu => false,
    };
    let x = x.contiguous()?;
    let count = x.elem_count();
    let mut call = Call::new(target, "activation", x.dtype())?;
    call.input(&x)?;
    let out = call.output(x.dims(), x.dtype())?;
    call.i64(count).flag(gelu);
    let packs = count.div_ceil(16 / x.dtype().size_in_bytes());
    call.launch(Grid::cover(packs, THREADS), THREADS, 0)?;
    Ok(out)
}

dispatch! {
    fn activate_slice(x: &[f32], out: *mut f32, act: Activation) = activate_slice_generic
}

#[inline(always)]
unsafe fn activate_slice_generic<V: Vector>(x: &[f32], out: *mut f32, act: Activation) {
    for i in (0..x.len()).step_by(V::LANES) {
        let n = V::LANES.min(x.len() - i);
        store_n(
            activate(load_n::<V>(x.as_ptr().add(i), n), act),
            out.add(i),
            n,
        );
    }
}

/// Reference of any activation.
pub(crate) fn activate_reference(x: &Tensor, act: Activation) -> Result<Tensor> {
    match act {
        Activation::None => Ok(x.clone()),
        Activation::GeluTanh => gelu_tanh_reference(x),
        Activation::Silu => silu_reference(x),
    }
}

/// Reference of [`gelu_tanh`].
pub fn gelu_tanh_reference(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.gelu()?.to_dtype(x.dtype())
}

/// Reference of [`silu`].
pub fn silu_reference(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.silu()?.to_dtype(x.dtype())
}
