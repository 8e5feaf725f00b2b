//! Configuration of the UMT5 encoder, field names as in the checkpoint's `text_encoder/config.json`.

use serde::{Deserialize, Serialize};

/// Sizes of a UMT5 encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Umt5Config {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of one attention head.
    pub d_kv: usize,
    /// Width of the gated feed-forward layer.
    pub d_ff: usize,
    /// Encoder layers.
    pub num_layers: usize,
    /// Attention heads; `num_heads * d_kv` need not equal `d_model`.
    pub num_heads: usize,
    /// Rows of each layer's relative position table.
    #[serde(default = "buckets")]
    pub relative_attention_num_buckets: usize,
    /// Distance from which all positions share the last bucket.
    #[serde(default = "max_distance")]
    pub relative_attention_max_distance: usize,
    /// Epsilon of the RMS norms.
    #[serde(default = "epsilon")]
    pub layer_norm_epsilon: f64,
}

fn buckets() -> usize {
    32
}

fn max_distance() -> usize {
    128
}

fn epsilon() -> f64 {
    1e-6
}
