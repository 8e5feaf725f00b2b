//! Checkpoint files: layouts, policy checks, names, streaming loads.

mod var_builder;

pub use var_builder::{MemorySource, TensorSource, VarBuilder};
