//! The kernels of `cuda/` on the host shim against their CPU twins, on random data and odd shapes.
//!
//! Every case runs with the threads of a block in order, reversed and shuffled; the results must be the
//! same bits.
#![cfg(feature = "shim")]
#![allow(clippy::unwrap_used)]

#[path = "shim/support.rs"]
mod support;

#[path = "shim/activation.rs"]
mod activation;
#[path = "shim/channel_norm.rs"]
mod channel_norm;
#[path = "shim/conv3d.rs"]
mod conv3d;
#[path = "shim/fp8.rs"]
mod fp8;
#[path = "shim/layer_norm.rs"]
mod layer_norm;
#[path = "shim/patch.rs"]
mod patch;
#[path = "shim/philox.rs"]
mod philox;
#[path = "shim/residual.rs"]
mod residual;
#[path = "shim/rms_norm_rope.rs"]
mod rms_norm_rope;
#[path = "shim/sampler.rs"]
mod sampler;
