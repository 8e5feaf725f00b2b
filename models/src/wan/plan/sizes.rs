//! The sizes a plan is made from.

use crate::random::Networks;
use crate::text::Umt5Config;
use crate::wan::{TransformerConfig, VaeConfig};
use crate::weights::{Checkpoint, Component, ModelKind};

/// Configurations of the networks of one model.
#[derive(Debug, Clone)]
pub struct ModelSizes {
    /// The model.
    pub kind: ModelKind,
    /// The only or high-noise expert, and the low-noise one where there are two.
    pub experts: Vec<TransformerConfig>,
    /// The VAE.
    pub vae: VaeConfig,
    /// The text encoder.
    pub text: Umt5Config,
}

impl ModelSizes {
    /// Those of a checkpoint.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let mut experts = vec![
            checkpoint
                .transformer_config(Component::Transformer)
                .clone(),
        ];
        if checkpoint.has_second_expert() {
            experts.push(
                checkpoint
                    .transformer_config(Component::Transformer2)
                    .clone(),
            );
        }
        Self {
            kind: checkpoint.kind(),
            experts,
            vae: checkpoint.vae_config().clone(),
            text: checkpoint.text_config().clone(),
        }
    }

    /// Those of the released model of a kind.
    pub fn released(kind: ModelKind) -> Self {
        let Networks {
            transformer,
            vae,
            text,
        } = Networks::released(kind);
        Self {
            kind,
            experts: vec![transformer; if kind.has_two_experts() { 2 } else { 1 }],
            vae,
            text,
        }
    }
}
