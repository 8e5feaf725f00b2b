//! Tensor operations for Wan 2.2 and for the judge that candle lacks or does slowly.
//!
//! One operation per file: formula in the header, shape checks, a plain reference composed of
//! candle operations that runs on every device, and a fast CPU path. Public functions take and
//! return candle tensors and choose the path by device, so that models are written once.
//!
//! Inputs are f32, bf16 or f16 and need not be contiguous; the result has the dtype of the main
//! input and the arithmetic in between is f32. Wrong shapes are errors that name the operation,
//! never panics.
#![warn(missing_docs)]
#![allow(unsafe_code)] // vector intrinsics, shared output buffers; each block says why

mod activation;
mod attention;
pub mod canonical;
mod channel_norm;
mod check;
mod conv3d;
#[cfg_attr(not(any(feature = "cuda", feature = "shim")), allow(dead_code))]
mod conv3d_device;
#[cfg(feature = "cuda")]
mod cublaslt;
#[cfg(any(feature = "cuda", feature = "shim"))]
mod cudnn;
mod data;
pub mod delta;
// Compiled in every build, so that it is checked in every build; only these two can run it.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
#[cfg_attr(
    not(any(feature = "cuda", feature = "shim")),
    allow(unreachable_code, unused_mut, unused_variables)
)]
mod device;
mod doubled;
pub mod e4m3;
mod flash;
mod fp8;
#[cfg(any(feature = "cuda", feature = "shim"))]
mod fp8_device;
mod gather;
mod gelu_erf;
mod gemm;
mod isa;
mod layer_norm;
mod linear;
#[cfg(any(feature = "cuda", feature = "shim"))]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, unused_imports))]
mod linear_device;
mod linear_group;
pub mod memory;
mod pages;
mod patch;
mod philox;
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
mod product;
mod residual;
mod rms_norm;
mod rms_norm_rope;
mod rope;
mod rope_halves;
mod rows;
mod sampler;
#[cfg(test)]
mod samples;
pub mod sha256;
mod simd;

pub use activation::{Activation, gelu_tanh, silu};
pub use attention::{
    AttentionBackend, AttentionChoice, AttentionPreference, attention, attention_backend,
    causal_attention, set_attention_preference,
};
pub use channel_norm::channel_norm;
pub use conv3d::{Conv3d, Conv3dConfig};
pub use conv3d_device::conv3d_refusals;
#[cfg(feature = "shim")]
pub use device::with_shim;
pub use fp8::{Fp8Scale, Fp8Weight};
pub use gelu_erf::gelu_erf;
pub use isa::Isa;
pub use layer_norm::{Norm, layer_norm, layer_norm_modulate, layer_norm_modulate_to};
pub use linear::Linear;
pub use linear_group::LinearGroup;
pub use patch::{patchify, unpatchify};
pub use philox::philox_normal;
pub use product::allow_tf32;
pub use residual::{gate_residual, residual_norm};
pub use rms_norm::rms_norm;
pub use rms_norm_rope::{RmsConfig, Rotation, rms_norm_heads, rms_norm_rope};
pub use rope::rope;
pub use rope_halves::rope_halves;
pub use sampler::{Combination, Velocity, combine};

/// The same operations composed of candle's own: correct on every device, used where no fast path
/// exists and as the yardstick of the tests.
pub mod reference {
    pub use crate::activation::{gelu_tanh_reference as gelu_tanh, silu_reference as silu};
    pub use crate::attention::attention_reference as attention;
    pub use crate::attention::causal::causal_attention_reference as causal_attention;
    pub use crate::channel_norm::channel_norm_reference as channel_norm;
    pub use crate::conv3d::conv3d_reference as conv3d;
    pub use crate::fp8::fp8_linear_reference as fp8_linear;
    pub use crate::gelu_erf::gelu_erf_reference as gelu_erf;
    pub use crate::layer_norm::{
        layer_norm_modulate_reference as layer_norm_modulate, layer_norm_reference as layer_norm,
    };
    pub use crate::linear::linear_reference as linear;
    pub use crate::patch::{patchify_reference as patchify, unpatchify_reference as unpatchify};
    pub use crate::residual::{
        gate_residual_reference as gate_residual, residual_norm_reference as residual_norm,
    };
    pub use crate::rms_norm::rms_norm_reference as rms_norm;
    pub use crate::rms_norm_rope::rms_norm_rope_reference as rms_norm_rope;
    pub use crate::rope::rope_reference as rope;
    pub use crate::rope_halves::rope_halves_reference as rope_halves;
    pub use crate::sampler::combine_reference as combine;
}
