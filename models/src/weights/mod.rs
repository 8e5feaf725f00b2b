//! Checkpoint files: layouts, policy checks, names, streaming loads.
//!
//! [`Checkpoint::open`] reads headers and configurations only; tensors are read one at a time through the
//! [`TensorSource`] of a component, under diffusers names whatever the layout, cast while they stream in,
//! checked for NaN and hashed. Pickle files are walked for tensors and never executed.

mod checkpoint;
mod config;
mod files;
mod folder;
mod infer;
mod inspect;
mod lora;
pub mod names;
mod pickle;
mod plain;
mod pth;
mod quant;
mod read;
mod safetensors;
mod source;
mod stored;
mod stream;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
#[cfg(feature = "cuda")]
mod upload;
mod validate;
mod var_builder;

pub use checkpoint::{Checkpoint, Component, Layout, ModelKind};
pub(crate) use checkpoint::{MadeCheckpoint, Sizes};
pub use config::SchedulerConfig;
pub use files::ModelFiles;
pub use infer::latent_statistics;
pub use inspect::{ComponentReport, Inspection, MemoryPlan, Problem, inspect, inspect_files};
pub use lora::{LoraReport, LoraSpec, LoraTarget};
pub(crate) use plain::{PlainFolder, PlainSource};
pub(crate) use read::read_buffers;
pub use stored::{StoredTensor, StoredWeight, StoredWeights, stored_tensors};
pub use stream::StoredDType;
pub(crate) use validate::tensor_shapes;
pub use validate::validate;
pub use var_builder::{MemorySource, TensorSource, VarBuilder};
