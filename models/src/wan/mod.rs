//! Wan 2.1 and 2.2: configuration, transformer, VAE, pipeline.

mod config;
pub mod vae;

pub use config::{TransformerConfig, VaeConfig};
