//! The text encoder's weights and activations: the order of allocations is that of [`crate::text`].

use super::ledger::{Bytes, F32, Layer, Machine};
use crate::text::Umt5Config;

/// All layers in the order in which they are loaded.
pub(super) fn layers(m: &Machine, cfg: &Umt5Config) -> Vec<Layer> {
    let (d, inner) = (cfg.d_model, cfg.num_heads * cfg.d_kv);
    let mut layers = vec![Layer::plain(cfg.vocab_size * d, m.element)];
    for _ in 0..cfg.num_layers {
        layers.extend([Layer::plain(d, F32); 2]);
        layers.extend([Layer::linear(m, d, inner, false); 3]);
        layers.push(Layer::linear(m, inner, d, false));
        layers.push(Layer::plain(
            cfg.relative_attention_num_buckets * cfg.num_heads,
            F32,
        ));
        layers.extend([Layer::linear(m, d, cfg.d_ff, false); 2]);
        layers.push(Layer::linear(m, cfg.d_ff, d, false));
    }
    layers.push(Layer::plain(d, F32));
    layers
}

/// Encodes a prompt of `n` tokens: its rows `[n, d]`.
pub(super) fn forward(m: &Machine, cfg: &Umt5Config, n: usize) -> Bytes {
    let (d, inner, f) = (cfg.d_model, cfg.num_heads * cfg.d_kv, cfg.d_ff);
    // The residual stream is f32 whatever the type is.
    let mut x = {
        let rows = m.rows(n * d);
        m.to_f32(rows, n * d)
    };
    let norm = || {
        let normed = m.f32(n * d);
        if m.element == F32 {
            return normed;
        }
        m.rows(n * d)
    };
    let wide = |h: Bytes| m.to_f32(h, n * d);
    for _ in 0..cfg.num_layers {
        let h = {
            let _normed = norm();
            let _qkv = [m.linear(n, inner), m.linear(n, inner), m.linear(n, inner)];
            let _bias = m.f32(cfg.num_heads * n * n);
            let _out = m.attention(n, n, cfg.num_heads, cfg.d_kv);
            m.linear(n, d)
        };
        let x1 = {
            let _h = wide(h);
            m.f32(n * d)
        };
        let _normed = norm();
        let h = {
            let product = {
                let _gate_and_up = [m.linear(n, f), m.linear(n, f)];
                m.rows(n * f)
            };
            let h = m.linear(n, d);
            drop(product);
            h
        };
        let sum = {
            let _h = wide(h);
            m.f32(n * d)
        };
        drop(x1);
        x = sum;
    }
    let rows = norm();
    drop(x);
    rows
}
