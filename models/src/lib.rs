//! Everything that turns Wan checkpoint files and tensors into video tensors, and the network that judges
//! videos: no network access, no async.
//!
//! The numerical reference is diffusers 0.35.2 in float32 on CPU, for the judge transformers 5.14.1.
#![warn(missing_docs)]

pub mod error;
pub mod judge;
pub mod noise;
mod precision;
pub mod random;
pub mod rounding;
pub mod scheduler;
pub mod text;
pub mod tiny;
pub mod wan;
pub mod weights;

pub use error::{Error, Fault, Result};
pub use leoma_kernels::{AttentionBackend, AttentionChoice, Isa, conv3d_refusals};
pub use precision::Precision;
