//! The transformer's weights and activations: the order of allocations is that of
//! [`crate::wan::transformer`].

use super::ledger::{Bytes, F32, Layer, Machine};
use crate::wan::TransformerConfig;
use crate::wan::transformer::CONTEXT_LEN;

/// What of an expert stays while its blocks come and go: embeddings, modulation, head.
pub(super) fn outer_layers(m: &Machine, cfg: &TransformerConfig) -> Vec<Layer> {
    let d = cfg.dim();
    let patch = cfg.patch_size.iter().product::<usize>();
    // The timestep MLP is f32 whatever the type is.
    let single = Machine {
        element: F32,
        ..m.clone()
    };
    let wide = m.widened();
    vec![
        Layer::linear(m, cfg.in_channels * patch, d, true),
        Layer::linear(&single, cfg.freq_dim, d, true),
        Layer::linear(&single, d, d, true),
        Layer::linear(&wide, d, 6 * d, true),
        Layer::linear(m, cfg.text_dim, d, true),
        Layer::linear(m, d, d, true),
        Layer::plain(2 * d, F32),
        Layer::linear(&wide, d, cfg.out_channels * patch, true),
    ]
}

/// One block.
pub(super) fn block_layers(m: &Machine, cfg: &TransformerConfig) -> Vec<Layer> {
    let (d, f) = (cfg.dim(), cfg.ffn_dim);
    let mut layers = Vec::new();
    if cfg.cross_attn_norm {
        layers.extend([Layer::plain(d, F32); 2]);
    }
    for _ in 0..2 {
        layers.extend([Layer::linear(m, d, d, true); 4]);
        layers.extend([Layer::plain(d, F32); 2]);
    }
    layers.push(Layer::linear(m, d, f, true));
    layers.push(Layer::linear(m, f, d, true));
    layers.push(Layer::plain(6 * d, F32));
    layers
}

/// Sizes of one pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) cfg: &'a TransformerConfig,
    /// Tokens of the clip.
    pub(super) tokens: usize,
    /// Distinct timesteps in the clip.
    pub(super) rows: usize,
    /// Prompts that pass through each block together.
    pub(super) prompts: usize,
}

/// Keys and values of one prompt of `tokens` tokens for all blocks, [`CONTEXT_LEN`] rows each.
pub(super) fn context(m: &Machine, cfg: &TransformerConfig, tokens: usize) -> Vec<Bytes> {
    let d = cfg.dim();
    let context = {
        let padded = m.rows((tokens + 1) * cfg.text_dim);
        let hidden = m.linear(tokens + 1, d);
        drop(padded);
        let context = m.linear(tokens + 1, d);
        drop(hidden);
        context
    };
    let extended = || {
        let short = m.linear(tokens + 1, d);
        if tokens + 1 == CONTEXT_LEN {
            return short;
        }
        let _last = m.rows(CONTEXT_LEN.saturating_sub(tokens + 1) * d);
        m.rows(CONTEXT_LEN * d)
    };
    let key_and_value = |_| {
        let key = {
            let projected = m.linear(tokens + 1, d);
            let _normed = m.rows((tokens + 1) * d);
            drop(projected);
            let _last = m.rows(CONTEXT_LEN.saturating_sub(tokens + 1) * d);
            m.rows(CONTEXT_LEN * d)
        };
        [key, extended()]
    };
    let made = (0..cfg.num_layers).flat_map(key_and_value).collect();
    drop(context);
    made
}

impl Pass<'_> {
    /// One block on the residual stream `x`, which the caller holds: the new stream.
    fn block(&self, m: &Machine) -> Bytes {
        let (l, d, f) = (self.tokens, self.cfg.dim(), self.cfg.ffn_dim);
        let (heads, width) = (self.cfg.num_attention_heads, self.cfg.attention_head_dim);
        let table = m.f32(self.rows * 6 * d);

        let attend = |keys| {
            let out = m.attention(l, keys, heads, width);
            let projected = m.linear(l, d);
            drop(out);
            projected
        };
        let update = {
            let hidden = m.rows(l * d);
            let [raw_q, raw_k, _v] = [(); 3].map(|()| m.linear(l, d));
            drop(hidden);
            let _rotated = [(); 2].map(|()| m.rows(l * d));
            if m.cpu {
                drop((raw_q, raw_k));
                attend(l)
            } else {
                // All three are one tensor, and v is needed.
                let update = attend(l);
                drop((raw_q, raw_k));
                update
            }
        };
        let x1 = m.bytes(l * d, m.wide);
        let hidden = if self.cfg.cross_attn_norm || m.wide != m.element {
            m.rows(l * d)
        } else {
            x1.clone()
        };
        drop(update);

        let update = {
            let projected = m.linear(l, d);
            drop(hidden);
            let _query = m.rows(l * d);
            drop(projected);
            attend(CONTEXT_LEN)
        };
        let x2 = m.bytes(l * d, m.wide);
        let hidden = m.rows(l * d);
        drop((x1, update));

        let inner = m.linear(l, f);
        drop(hidden);
        let update = m.linear(l, d);
        drop(inner);
        let x = m.bytes(l * d, m.wide);
        drop((x2, update, table));
        x
    }

    /// One pass, for each prompt a velocity of `out_channels` on the grid of the tokens.
    pub(super) fn forward(
        &self,
        m: &Machine,
        blocks: &mut dyn FnMut(usize) -> Vec<Bytes>,
    ) -> Vec<Bytes> {
        let (l, d) = (self.tokens, self.cfg.dim());
        let patch = self.cfg.patch_size.iter().product::<usize>();
        let converted =
            (m.cpu && m.element != F32).then(|| m.rows(l * self.cfg.in_channels * patch));
        let tokens = m.rows(l * self.cfg.in_channels * patch);
        drop(converted);
        let rotary = m.f32(l * self.cfg.attention_head_dim);
        // temb and modulation
        let _time = m.f32(self.rows * 7 * d);
        let mut embedded = m.linear(l, d);
        if m.wide != m.element {
            embedded = m.bytes(l * d, m.wide);
        }
        let mut streams = vec![embedded; self.prompts];
        drop(tokens);
        for index in 0..self.cfg.num_layers {
            let _weights = blocks(index);
            for x in &mut streams {
                *x = self.block(m);
            }
        }
        drop(rotary);
        let m = &m.widened();
        streams
            .into_iter()
            .map(|_x| {
                let _normed = m.rows(l * d);
                let _patches = m.linear(l, self.cfg.out_channels * patch);
                m.rows(l * self.cfg.out_channels * patch)
            })
            .collect()
    }
}
