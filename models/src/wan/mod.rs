//! Wan 2.1 and 2.2: configuration, transformer, VAE, pipeline.

mod config;
pub mod cost;
pub mod pipeline;
pub mod plan;
pub mod transformer;
pub mod vae;

pub use config::{TransformerConfig, VaeConfig};
pub use transformer::WanTransformer3d;
pub use vae::AutoencoderKlWan;
