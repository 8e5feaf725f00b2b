//! Which files make up the model: options shared by `generate`, `serve` and `models inspect`.

use std::path::{Path, PathBuf};

use clap::Args;
use leoma_models::weights::{Component, LoraSpec, ModelFiles};

/// Single files in place of networks of the checkpoint folder, and LoRAs.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ModelFileArgs {
    /// File in place of the checkpoint's transformer (the high-noise expert of two): ComfyUI, LightX2V,
    /// diffusers or official; 16 bits, fp8 or int8.
    #[arg(
        long,
        value_name = "FILE",
        env = "LEOMA_NODE_TRANSFORMER",
        help_heading = "Model files"
    )]
    transformer: Option<PathBuf>,
    /// File in place of the low-noise expert.
    #[arg(
        long = "transformer-2",
        value_name = "FILE",
        env = "LEOMA_NODE_TRANSFORMER_2",
        help_heading = "Model files"
    )]
    transformer_2: Option<PathBuf>,
    /// File in place of the checkpoint's VAE.
    #[arg(
        long,
        value_name = "FILE",
        env = "LEOMA_NODE_VAE",
        help_heading = "Model files"
    )]
    vae: Option<PathBuf>,
    /// File in place of the checkpoint's text encoder.
    #[arg(
        long,
        value_name = "FILE",
        env = "LEOMA_NODE_TEXT_ENCODER",
        help_heading = "Model files"
    )]
    text_encoder: Option<PathBuf>,
    /// LoRA to merge into the transformer, with its strength (default 1) and, for a model with two experts,
    /// the one it is for; repeat or separate by comma.
    #[arg(
        long,
        value_name = "FILE[=STRENGTH][@high|@low|@both]",
        value_delimiter = ',',
        env = "LEOMA_NODE_LORA",
        help_heading = "Model files"
    )]
    lora: Vec<LoraSpec>,
}

impl ModelFileArgs {
    /// The files of the checkpoint in `model` with these in place of its own.
    pub(super) fn with(&self, model: &Path) -> ModelFiles {
        let replaced = [
            (Component::Transformer, &self.transformer),
            (Component::Transformer2, &self.transformer_2),
            (Component::Vae, &self.vae),
            (Component::TextEncoder, &self.text_encoder),
        ];
        ModelFiles {
            root: model.to_owned(),
            replaced: replaced
                .into_iter()
                .filter_map(|(component, path)| Some((component, path.clone()?)))
                .collect(),
            loras: self.lora.clone(),
        }
    }

    /// Whether none is named.
    pub(super) fn is_empty(&self) -> bool {
        let files = self.with(Path::new(""));
        files.replaced.is_empty() && files.loras.is_empty()
    }
}
