//! How much arithmetic a generation is, for estimates of its time. Derivation: one multiply-add is two FLOP;
//! `L` tokens, width `d`, feed-forward width `f`, `N` layers, text length `S`.

use super::config::{TransformerConfig, VaeConfig};
use super::pipeline::GenerateParams;
use super::transformer::CONTEXT_LEN;
use crate::text::Umt5Config;

pub use super::vae::{decode_flops, encode_flops};

/// FLOP of one transformer pass, by what does them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ForwardFlops {
    /// Linear layers: projections, feed-forward, patches, text.
    pub linear: f64,
    /// Scores and weighted sums of self attention.
    pub self_attention: f64,
    /// Scores and weighted sums of cross attention.
    pub cross_attention: f64,
}

impl ForwardFlops {
    /// All of them.
    pub fn total(&self) -> f64 {
        self.linear + self.self_attention + self.cross_attention
    }
}

/// FLOP of one transformer pass over `tokens` tokens.
pub fn forward_flops(cfg: &TransformerConfig, tokens: usize) -> f64 {
    forward_parts(cfg, tokens).total()
}

/// FLOP of one transformer pass over `tokens` tokens, by what does them.
pub fn forward_parts(cfg: &TransformerConfig, tokens: usize) -> ForwardFlops {
    let (l, d, f) = (tokens as f64, cfg.dim() as f64, cfg.ffn_dim as f64);
    let (n, s) = (cfg.num_layers as f64, CONTEXT_LEN as f64);
    // Self q, k, v, o and cross q, o; cross k, v; feed-forward.
    let linear = n * (12.0 * l * d * d + 4.0 * s * d * d + 4.0 * l * d * f);
    let patches = 8.0 * l * d * (cfg.in_channels + cfg.out_channels) as f64;
    let text = 2.0 * s * d * (cfg.text_dim as f64 + d);
    ForwardFlops {
        linear: linear + patches + text,
        self_attention: 4.0 * n * l * l * d,
        cross_attention: 4.0 * n * l * s * d,
    }
}

/// FLOP of encoding a prompt of `tokens` tokens: every weight but the embedding is used once per token, and the
/// scores are small beside them.
pub fn text_flops(cfg: &Umt5Config, tokens: usize) -> f64 {
    let (d, inner) = (cfg.d_model as f64, (cfg.num_heads * cfg.d_kv) as f64);
    let per_token = 4.0 * d * inner + 3.0 * d * cfg.d_ff as f64 + 2.0 * inner * tokens as f64;
    2.0 * cfg.num_layers as f64 * tokens as f64 * per_token
}

/// Tokens of a clip: the positions that the transformer sees.
pub fn clip_tokens(
    cfg: &TransformerConfig,
    vae: &VaeConfig,
    frames: usize,
    height: usize,
    width: usize,
) -> usize {
    let times = frames.saturating_sub(1) / vae.temporal_stride() + 1;
    let side = |pixels: usize, patch: usize| pixels / vae.spatial_stride() / patch;
    let [patch_t, patch_h, patch_w] = cfg.patch_size;
    times / patch_t * side(height, patch_h) * side(width, patch_w)
}

/// FLOP until the latents of a clip are there; text and image encoding are small beside it.
pub fn denoise_flops(cfg: &TransformerConfig, vae: &VaeConfig, params: &GenerateParams) -> f64 {
    let tokens = clip_tokens(cfg, vae, params.num_frames, params.height, params.width);
    let passes = if params.guided() { 2.0 } else { 1.0 };
    params.num_inference_steps as f64 * passes * forward_flops(cfg, tokens)
}

/// Work of decoding, in units of one pixel of one frame: the decoder is a convolution everywhere but in a
/// hundredth of its work.
pub fn decode_units(params: &GenerateParams) -> f64 {
    params.num_frames as f64 * params.height as f64 * params.width as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::weights::{Component, ModelKind};

    fn config(heads: usize, ffn: usize, layers: usize, channels: [usize; 2]) -> TransformerConfig {
        let json = serde_json::json!({
            "num_attention_heads": heads, "attention_head_dim": 128, "ffn_dim": ffn, "num_layers": layers,
            "in_channels": channels[0], "out_channels": channels[1], "text_dim": 4096,
        });
        serde_json::from_value(json).unwrap()
    }

    /// The figures were counted by operator over the reference implementation.
    #[test]
    fn the_formula_gives_the_counted_work() {
        let tera = |flop: f64| (flop / 1e12 * 10.0).round() / 10.0;
        let a14b = config(40, 13_824, 40, [36, 16]);
        assert_eq!(tera(forward_flops(&a14b, 32_760)), 1678.4);
        assert_eq!(tera(forward_flops(&a14b, 75_600)), 6523.5);
        let parts = forward_parts(&a14b, 32_760);
        let rounded = [parts.linear, parts.self_attention, parts.cross_attention].map(tera);
        assert_eq!(rounded, [785.5, 879.2, 13.7]);
        let five = config(24, 14_336, 30, [48, 48]);
        assert_eq!(tera(forward_flops(&five, 27_280)), 517.0);
    }

    #[test]
    fn clips_have_the_tokens_of_the_released_models() {
        let tokens = |kind, frames, height, width| {
            let networks = crate::random::Networks::released(kind);
            clip_tokens(&networks.transformer, &networks.vae, frames, height, width)
        };
        assert_eq!(tokens(ModelKind::I2vA14b, 81, 480, 832), 32_760);
        assert_eq!(tokens(ModelKind::T2vA14b, 81, 720, 1280), 75_600);
        assert_eq!(tokens(ModelKind::Ti2v5b, 121, 704, 1280), 27_280);
    }

    #[test]
    fn a_prompt_costs_its_weights_once_per_token() {
        let networks = crate::random::Networks::released(ModelKind::Ti2v5b);
        let weights = networks.parameters(Component::TextEncoder) as f64;
        let embedding = (networks.text.vocab_size * networks.text.d_model) as f64;
        let share = text_flops(&networks.text, 20) / (2.0 * 20.0 * (weights - embedding));
        assert!((share - 1.0).abs() < 1e-2, "{share}");
    }
}
