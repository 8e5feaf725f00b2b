//! The sizes a plan is made from.

use crate::text::Umt5Config;
use crate::wan::{TransformerConfig, VaeConfig};
use crate::weights::{Checkpoint, Component, ModelKind, latent_statistics};

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

    /// Those of the released model of a kind (Wan-Video/Wan2.2 `wan/configs`; Wan 2.1: the 1.3B model).
    pub fn released(kind: ModelKind) -> Self {
        let residual = kind == ModelKind::Ti2v5b;
        let (heads, ffn_dim, layers) = match kind {
            ModelKind::T2vA14b | ModelKind::I2vA14b => (40, 13_824, 40),
            ModelKind::Ti2v5b => (24, 14_336, 30),
            ModelKind::Wan21T2v => (12, 8_960, 30),
        };
        let z = if residual { 48 } else { 16 };
        let expert = TransformerConfig {
            patch_size: [1, 2, 2],
            num_attention_heads: heads,
            attention_head_dim: 128,
            // Noise; for I2V-A14B four mask channels and the image's latents, too.
            in_channels: if kind == ModelKind::I2vA14b {
                2 * z + 4
            } else {
                z
            },
            out_channels: z,
            text_dim: 4096,
            freq_dim: 256,
            ffn_dim,
            num_layers: layers,
            cross_attn_norm: true,
            qk_norm: Some("rms_norm_across_heads".into()),
            eps: 1e-6,
            image_dim: None,
            added_kv_proj_dim: None,
            rope_max_seq_len: 1024,
        };
        let (mean, std) = latent_statistics(z).unwrap_or_default();
        let channels = if residual { 12 } else { 3 };
        Self {
            kind,
            experts: vec![expert; if kind.has_two_experts() { 2 } else { 1 }],
            vae: VaeConfig {
                base_dim: if residual { 160 } else { 96 },
                decoder_base_dim: residual.then_some(256),
                z_dim: z,
                dim_mult: vec![1, 2, 4, 4],
                num_res_blocks: 2,
                attn_scales: Vec::new(),
                temperal_downsample: vec![false, true, true],
                latents_mean: mean.to_vec(),
                latents_std: std.to_vec(),
                is_residual: residual,
                in_channels: channels,
                out_channels: channels,
                patch_size: residual.then_some(2),
                scale_factor_temporal: 4,
                scale_factor_spatial: if residual { 16 } else { 8 },
            },
            text: Umt5Config {
                vocab_size: 256_384,
                d_model: 4096,
                d_kv: 64,
                d_ff: 10_240,
                num_layers: 24,
                num_heads: 64,
                relative_attention_num_buckets: 32,
                relative_attention_max_distance: 128,
                layer_norm_epsilon: 1e-6,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Sizes, tensor_shapes};

    /// Parameters as counted on the reference implementation.
    #[test]
    fn released_sizes_have_the_released_parameters() {
        let count = |sizes: Sizes<'_>| -> usize {
            tensor_shapes(sizes)
                .iter()
                .map(|(_, shape)| shape.iter().product::<usize>())
                .sum()
        };
        for (kind, expected) in [
            (ModelKind::T2vA14b, 14_288_491_584),
            (ModelKind::I2vA14b, 14_288_901_184),
            (ModelKind::Ti2v5b, 4_999_787_712),
            (ModelKind::Wan21T2v, 1_418_996_800),
        ] {
            let sizes = ModelSizes::released(kind);
            assert_eq!(
                count(Sizes::Transformer(&sizes.experts[0])),
                expected,
                "{kind}"
            );
            let vae = count(Sizes::Vae(&sizes.vae)) as f64 / 1e9;
            let known = if kind == ModelKind::Ti2v5b {
                0.705
            } else {
                0.127
            };
            assert!((vae - known).abs() < 0.001, "{kind}: {vae}");
            let text = count(Sizes::Text(&sizes.text)) as f64 / 1e9;
            assert!((text - 5.68).abs() < 0.01, "{text}");
        }
    }
}
