//! Configurations of the tiny checkpoints, as diffusers 0.35.2 and transformers 5.14.1 write them.

use serde_json::{Value, json};

use crate::random::Networks;
use crate::text::{Umt5Config, tiny_vocab_size};
use crate::wan::{TransformerConfig, VaeConfig};
use crate::weights::{Component, ModelKind, Sizes, latent_statistics};

/// Sizes of a tiny checkpoint.
#[derive(Debug)]
pub(super) struct Configs {
    kind: ModelKind,
    transformer: TransformerConfig,
    vae: VaeConfig,
    text: Umt5Config,
}

impl Configs {
    pub(super) fn new(kind: ModelKind) -> Self {
        let vae = vae(kind == ModelKind::Ti2v5b);
        let text = Umt5Config {
            vocab_size: tiny_vocab_size(),
            // Heads times head width differs from the model width, as it may.
            d_model: 48,
            d_kv: 12,
            d_ff: 96,
            num_layers: 2,
            num_heads: 3,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
        };
        let mask_and_image = vae.scale_factor_temporal + vae.z_dim;
        let transformer = TransformerConfig {
            patch_size: [1, 2, 2],
            num_attention_heads: 2,
            // Not divisible by three: the rotary axes get unequal shares.
            attention_head_dim: 32,
            in_channels: vae.z_dim
                + if kind == ModelKind::I2vA14b {
                    mask_and_image
                } else {
                    0
                },
            out_channels: vae.z_dim,
            text_dim: text.d_model,
            freq_dim: 256,
            ffn_dim: 160,
            num_layers: 2,
            cross_attn_norm: true,
            qk_norm: Some("rms_norm_across_heads".into()),
            eps: 1e-6,
            image_dim: None,
            added_kv_proj_dim: None,
            rope_max_seq_len: 1024,
        };
        Self {
            kind,
            transformer,
            vae,
            text,
        }
    }

    pub(super) fn into_networks(self) -> Networks {
        Networks {
            transformer: self.transformer,
            vae: self.vae,
            text: self.text,
        }
    }

    pub(super) fn sizes(&self, component: Component) -> Sizes<'_> {
        match component {
            Component::Transformer | Component::Transformer2 => {
                Sizes::Transformer(&self.transformer)
            }
            Component::Vae => Sizes::Vae(&self.vae),
            Component::TextEncoder => Sizes::Text(&self.text),
        }
    }

    /// Configuration files: path in the checkpoint and text.
    pub(super) fn files(&self) -> Vec<(String, String)> {
        let two = self.kind.has_two_experts();
        let mut files = vec![
            ("model_index.json", self.model_index()),
            ("scheduler/scheduler_config.json", self.scheduler()),
            (
                "vae/config.json",
                with(
                    &json!(self.vae),
                    &diffusers("AutoencoderKLWan"),
                    &json!({"dropout": 0.0}),
                ),
            ),
            ("text_encoder/config.json", self.text_config()),
            ("transformer/config.json", self.transformer_config()),
        ];
        if two {
            files.push(("transformer_2/config.json", self.transformer_config()));
        }
        files
            .into_iter()
            .map(|(name, value)| (name.to_owned(), format!("{value:#}\n")))
            .collect()
    }

    fn transformer_config(&self) -> Value {
        with(
            &json!(self.transformer),
            &diffusers("WanTransformer3DModel"),
            &json!({"pos_embed_seq_len": null}),
        )
    }

    fn text_config(&self) -> Value {
        with(
            &json!(self.text),
            &json!({"architectures": ["UMT5EncoderModel"], "model_type": "umt5", "dtype": "float32"}),
            &json!({
                "classifier_dropout": 0.0, "decoder_start_token_id": 0, "dense_act_fn": "gelu_new",
                "dropout_rate": 0.1, "eos_token_id": 1, "feed_forward_proj": "gated-gelu",
                "initializer_factor": 1.0, "is_decoder": false, "is_encoder_decoder": true,
                "is_gated_act": true, "num_decoder_layers": 2, "pad_token_id": 0,
                "tie_word_embeddings": true, "transformers_version": "5.14.1", "use_cache": true,
            }),
        )
    }

    fn scheduler(&self) -> Value {
        with(
            &json!({"flow_shift": if self.kind == ModelKind::Ti2v5b { 5.0 } else { 3.0 }}),
            &diffusers("UniPCMultistepScheduler"),
            &json!({
                "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001, "disable_corrector": [],
                "dynamic_thresholding_ratio": 0.995, "final_sigmas_type": "zero",
                "lower_order_final": true, "num_train_timesteps": 1000, "predict_x0": true,
                "prediction_type": "flow_prediction", "rescale_betas_zero_snr": false,
                "sample_max_value": 1.0, "solver_order": 2, "solver_p": null, "solver_type": "bh2",
                "steps_offset": 0, "thresholding": false, "time_shift_type": "exponential",
                "timestep_spacing": "linspace", "trained_betas": null, "use_beta_sigmas": false,
                "use_dynamic_shifting": false, "use_exponential_sigmas": false, "use_flow_sigmas": true,
                "use_karras_sigmas": false,
            }),
        )
    }

    fn model_index(&self) -> Value {
        let transformer = json!(["diffusers", "WanTransformer3DModel"]);
        let none = json!([null, null]);
        let boundary = match self.kind {
            ModelKind::T2vA14b => json!(0.875),
            ModelKind::I2vA14b => json!(0.9),
            ModelKind::Ti2v5b | ModelKind::Wan21T2v => Value::Null,
        };
        let image = match self.kind {
            ModelKind::I2vA14b => json!({"image_encoder": none, "image_processor": none}),
            _ => json!({}),
        };
        // The 5B is published as WanPipeline although it takes images too.
        let class = match self.kind {
            ModelKind::I2vA14b => "WanImageToVideoPipeline",
            _ => "WanPipeline",
        };
        with(
            &json!({
                "boundary_ratio": boundary,
                "expand_timesteps": self.kind == ModelKind::Ti2v5b,
                "scheduler": ["diffusers", "UniPCMultistepScheduler"],
                "text_encoder": ["transformers", "UMT5EncoderModel"],
                "tokenizer": ["transformers", "T5TokenizerFast"],
                "transformer": transformer,
                "transformer_2": if self.kind.has_two_experts() { &transformer } else { &none },
                "vae": ["diffusers", "AutoencoderKLWan"],
            }),
            &diffusers(class),
            &image,
        )
    }
}

fn vae(is_residual: bool) -> VaeConfig {
    let z_dim = if is_residual { 48 } else { 16 };
    let (mean, std) = latent_statistics(z_dim).unwrap_or_default();
    let patch_size = is_residual.then_some(2);
    let channels = if is_residual { 12 } else { 3 };
    VaeConfig {
        // Encoder and decoder of VAE 2.2 differ in width.
        base_dim: if is_residual { 6 } else { 8 },
        decoder_base_dim: is_residual.then_some(8),
        z_dim,
        dim_mult: vec![1, 2, 4, 4],
        num_res_blocks: 2,
        attn_scales: Vec::new(),
        temperal_downsample: vec![false, true, true],
        latents_mean: mean.to_vec(),
        latents_std: std.to_vec(),
        is_residual,
        in_channels: channels,
        out_channels: channels,
        patch_size,
        scale_factor_temporal: 4,
        scale_factor_spatial: if is_residual { 16 } else { 8 },
    }
}

fn diffusers(class: &str) -> Value {
    json!({"_class_name": class, "_diffusers_version": "0.35.2"})
}

/// The union of objects.
fn with(a: &Value, b: &Value, c: &Value) -> Value {
    [a, b, c]
        .into_iter()
        .filter_map(Value::as_object)
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}
