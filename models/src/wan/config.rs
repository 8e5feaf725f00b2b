//! Configurations of the Wan transformer and VAE, field names as in the checkpoint's `config.json`
//! (diffusers 0.35.2 `WanTransformer3DModel`, `AutoencoderKLWan`).

use serde::{Deserialize, Serialize};

/// Sizes of one Wan diffusion transformer (one expert).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransformerConfig {
    /// Patch in frames, rows, columns: (1, 2, 2) in every released model.
    #[serde(default = "patch_size")]
    pub patch_size: [usize; 3],
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Width of one head; `heads * width` is the model width.
    pub attention_head_dim: usize,
    /// Channels of the model input (noise, and mask + condition for I2V-A14B).
    pub in_channels: usize,
    /// Channels of the predicted velocity.
    pub out_channels: usize,
    /// Width of the text embedding rows.
    pub text_dim: usize,
    /// Width of the sinusoidal timestep embedding.
    #[serde(default = "freq_dim")]
    pub freq_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn_dim: usize,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Whether cross attention is preceded by an affine layer norm.
    #[serde(default = "yes")]
    pub cross_attn_norm: bool,
    /// `rms_norm_across_heads` in every released model.
    #[serde(default)]
    pub qk_norm: Option<String>,
    /// Epsilon of all norms.
    #[serde(default = "eps")]
    pub eps: f64,
    /// Width of CLIP image embeddings (Wan 2.1 I2V only, not supported).
    #[serde(default)]
    pub image_dim: Option<usize>,
    /// Width of the added image key/value projections (Wan 2.1 I2V only, not supported).
    #[serde(default)]
    pub added_kv_proj_dim: Option<usize>,
    /// Longest axis of the rotary tables.
    #[serde(default = "rope_max_seq_len")]
    pub rope_max_seq_len: usize,
}

impl TransformerConfig {
    /// Model width `d`.
    pub fn dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }
}

/// Sizes of a Wan VAE, 2.1 (`is_residual` false) or 2.2 (true).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VaeConfig {
    /// Base width of the encoder (and of the decoder when `decoder_base_dim` is absent).
    pub base_dim: usize,
    /// Base width of the decoder.
    #[serde(default)]
    pub decoder_base_dim: Option<usize>,
    /// Latent channels.
    pub z_dim: usize,
    /// Width multipliers per resolution.
    #[serde(default = "dim_mult")]
    pub dim_mult: Vec<usize>,
    /// Residual blocks per resolution in the encoder (the decoder has one more).
    #[serde(default = "num_res_blocks")]
    pub num_res_blocks: usize,
    /// Resolutions with attention; empty in every released model.
    #[serde(default)]
    pub attn_scales: Vec<f64>,
    /// Per downsampling step, whether time is halved too. The spelling is the checkpoint's.
    #[serde(default = "temperal_downsample")]
    pub temperal_downsample: Vec<bool>,
    /// Per-channel mean of the latents.
    pub latents_mean: Vec<f64>,
    /// Per-channel standard deviation of the latents.
    pub latents_std: Vec<f64>,
    /// True for VAE 2.2 (residual shortcuts around up- and downsampling).
    #[serde(default)]
    pub is_residual: bool,
    /// Channels after pixel patchification (3, or 12 for VAE 2.2).
    #[serde(default = "rgb")]
    pub in_channels: usize,
    /// Channels before pixel unpatchification.
    #[serde(default = "rgb")]
    pub out_channels: usize,
    /// Pixel patch (2 for VAE 2.2, none for 2.1).
    #[serde(default)]
    pub patch_size: Option<usize>,
    /// Pixel frames per latent frame.
    #[serde(default = "scale_factor_temporal")]
    pub scale_factor_temporal: usize,
    /// Pixels per latent cell along each side.
    #[serde(default = "scale_factor_spatial")]
    pub scale_factor_spatial: usize,
}

impl VaeConfig {
    /// Pixel frames per latent frame after the first.
    pub fn temporal_stride(&self) -> usize {
        1 << self
            .temperal_downsample
            .iter()
            .filter(|&&halved| halved)
            .count()
    }

    /// Pixels per latent cell along each side, pixel patch included. Read off the structure: the field
    /// `scale_factor_spatial` is absent or wrong in some published files.
    pub fn spatial_stride(&self) -> usize {
        self.patch_size.unwrap_or(1) << self.temperal_downsample.len()
    }
}

fn patch_size() -> [usize; 3] {
    [1, 2, 2]
}

fn freq_dim() -> usize {
    256
}

fn yes() -> bool {
    true
}

fn eps() -> f64 {
    1e-6
}

fn rope_max_seq_len() -> usize {
    1024
}

fn dim_mult() -> Vec<usize> {
    vec![1, 2, 4, 4]
}

fn num_res_blocks() -> usize {
    2
}

fn temperal_downsample() -> Vec<bool> {
    vec![false, true, true]
}

fn rgb() -> usize {
    3
}

fn scale_factor_temporal() -> usize {
    4
}

fn scale_factor_spatial() -> usize {
    8
}
