//! How much arithmetic a generation is, for estimates of its time. Derivation: one multiply-add is two FLOP;
//! `L` tokens, width `d`, feed-forward width `f`, `N` layers, text length `S`.

use super::config::{TransformerConfig, VaeConfig};
use super::pipeline::GenerateParams;
use super::transformer::CONTEXT_LEN;

/// FLOP of one transformer pass over `tokens` tokens.
pub fn forward_flops(cfg: &TransformerConfig, tokens: usize) -> f64 {
    let (l, d, f) = (tokens as f64, cfg.dim() as f64, cfg.ffn_dim as f64);
    let (n, s) = (cfg.num_layers as f64, CONTEXT_LEN as f64);
    // Self q, k, v, o and cross q, o; cross k, v; feed-forward.
    let linear = n * (12.0 * l * d * d + 4.0 * s * d * d + 4.0 * l * d * f);
    let patches = 8.0 * l * d * (cfg.in_channels + cfg.out_channels) as f64;
    let text = 2.0 * s * d * (cfg.text_dim as f64 + d);
    let attention = 4.0 * n * (l * l * d + l * s * d);
    linear + patches + text + attention
}

/// FLOP until the latents of a clip are there; text and image encoding are small beside it.
pub fn denoise_flops(cfg: &TransformerConfig, vae: &VaeConfig, params: &GenerateParams) -> f64 {
    let frames = (params.num_frames - 1) / vae.temporal_stride() + 1;
    let side = |pixels: usize, patch: usize| pixels / vae.spatial_stride() / patch;
    let [patch_t, patch_h, patch_w] = cfg.patch_size;
    let tokens = frames / patch_t * side(params.height, patch_h) * side(params.width, patch_w);
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
        let five = config(24, 14_336, 30, [48, 48]);
        assert_eq!(tera(forward_flops(&five, 27_280)), 517.0);
    }
}
