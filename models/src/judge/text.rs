//! The language model of Qwen3-VL: a decoder with grouped heads, norms of q and k, interleaved M-RoPE, and
//! visual features added after its first layers (DeepStack).
//!
//! ```text
//! x = x + o(attention(rope(norm(q(n))), rope(norm(k(n))), v(n))),  n = norm(x)
//! x = x + down(silu(gate(n)) up(n)),                               n = norm(x)
//! x = x + features of this level at the vision tokens              (first layers only)
//! ```
//! Source: `Qwen3VLTextModel` of transformers 5.14.1. Checkpoint prefix `model.language_model`. Unlike there,
//! the rotary tables stay in f32 when the model computes in bf16, and q and k are rounded once after the norm
//! and once after the rotation.

use candle_core::{D, Tensor};
use leoma_kernels::{Activation, Linear, LinearGroup, causal_attention, rms_norm, rope_halves};

use super::cache::KvCache;
use super::config::TextConfig;
use super::position::{Positions, interleaved_axes, inverse_frequencies, turn};
use crate::error::{Context, Error, Result};
use crate::weights::VarBuilder;

/// Rotary tables of some tokens, `[L, D/2]` f32 each.
struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

/// `layers.N`.
#[derive(Debug)]
struct Layer {
    input_norm: Tensor,
    qkv: LinearGroup,
    q_norm: Tensor,
    k_norm: Tensor,
    o: Linear,
    post_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
    head_dim: usize,
    eps: f64,
}

fn linear(vb: &VarBuilder, name: &str, out: usize, input: usize) -> Result<Linear> {
    let weight = vb.pp(name).get([out, input], "weight")?;
    Ok(Linear::new(weight, None)?)
}

impl Layer {
    fn new(config: &TextConfig, vb: &VarBuilder) -> Result<Self> {
        let (d, head) = (config.hidden_size, config.head_dim);
        let inner = config.num_attention_heads * head;
        let shared = config.num_key_value_heads * head;
        let (attention, mlp) = (vb.pp("self_attn"), vb.pp("mlp"));
        let projections = [("q_proj", inner), ("k_proj", shared), ("v_proj", shared)]
            .map(|(name, out)| linear(&attention, name, out, d))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            input_norm: vb.get_f32([d], "input_layernorm.weight")?,
            qkv: LinearGroup::new(projections)?,
            q_norm: attention.get_f32([head], "q_norm.weight")?,
            k_norm: attention.get_f32([head], "k_norm.weight")?,
            o: linear(&attention, "o_proj", d, inner)?,
            post_norm: vb.get_f32([d], "post_attention_layernorm.weight")?,
            gate: linear(&mlp, "gate_proj", config.intermediate_size, d)?,
            up: linear(&mlp, "up_proj", config.intermediate_size, d)?,
            down: linear(&mlp, "down_proj", d, config.intermediate_size)?,
            head_dim: head,
            eps: config.rms_norm_eps,
        })
    }

    /// `x` [L, d] → [L, d]; `index` is this layer's place in the cache.
    fn forward(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        index: usize,
        cache: &mut KvCache,
    ) -> candle_core::Result<Tensor> {
        let h = rms_norm(x, &self.input_norm, self.eps)?;
        // [L, d] → q [L, N, D], k and v [L, G, D]
        let qkv = self.qkv.forward_heads(&h, self.head_dim)?;
        let [q, k, v] = &qkv[..] else {
            candle_core::bail!("a projection gave no q, k and v");
        };
        // The norm is over one head, unlike Wan's.
        let turned = |x: &Tensor, norm: &Tensor| {
            rope_halves(&rms_norm(x, norm, self.eps)?, &rotary.cos, &rotary.sin)
        };
        let (q, k) = (turned(q, &self.q_norm)?, turned(k, &self.k_norm)?);
        let (k, v) = cache.append(index, &k, v)?;
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let out = causal_attention(&q, &k, &v, scale)?;
        // [L, N, D] → [L, N * D]
        let x = (x + self.o.forward(&out.flatten_from(1)?)?)?;
        let h = rms_norm(&x, &self.post_norm, self.eps)?;
        let h = (self.gate.forward_act(&h, Activation::Silu)? * self.up.forward(&h)?)?;
        x + self.down.forward(&h)?
    }
}

/// What replaces and joins the embeddings of the tokens that stand for vision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visual<'a> {
    /// By token of the sequence: its row in the features, if it is one of vision.
    pub(super) rows: &'a [Option<u32>],
    /// `[T, d]`: in place of embeddings.
    pub(super) merged: &'a Tensor,
    /// `[T, d]` each: added after the first layers.
    pub(super) deepstack: &'a [Tensor],
}

/// The language model.
#[derive(Debug)]
pub(super) struct TextModel {
    config: TextConfig,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Linear,
    frequencies: Vec<f32>,
    axes: Vec<usize>,
}

impl TextModel {
    /// `vb` is the root of the checkpoint: the output layer lies beside `model`.
    pub(super) fn new(config: &TextConfig, tied: bool, vb: &VarBuilder) -> Result<Self> {
        let inner = vb.pp("model.language_model");
        let (rows, d) = (config.vocab_size, config.hidden_size);
        let embedding = inner.get([rows, d], "embed_tokens.weight")?;
        let head = if tied {
            Linear::new(embedding.clone(), None)?
        } else {
            linear(vb, "lm_head", rows, d)?
        };
        let layers = inner.pp("layers");
        Ok(Self {
            embedding,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::new(config, &layers.pp(index)))
                .collect::<Result<_>>()?,
            norm: inner.get_f32([d], "norm.weight")?,
            head,
            frequencies: inverse_frequencies(config.rope_theta, config.head_dim),
            axes: interleaved_axes(config.mrope_section, config.head_dim / 2),
            config: config.clone(),
        })
    }

    /// Reads tokens after those in the cache. Gives their hidden states `[L, d]` before the last norm.
    pub(super) fn forward(
        &self,
        tokens: &[u32],
        positions: &Positions,
        visual: Option<Visual<'_>>,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        if tokens.is_empty() || tokens.len() != positions.len() {
            return Err(Error::local(format!(
                "{} tokens with {} positions were handed to the judge's language model",
                tokens.len(),
                positions.len()
            )));
        }
        let rows = self.config.vocab_size;
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= rows) {
            let message =
                format!("the tokenizer gave id {id}, the embedding table has {rows} rows");
            return Err(Error::artifact("tokenizer.json", message));
        }
        cache.room(tokens.len())?;
        let (mut x, places) = self
            .embed(tokens, visual)
            .context(|| "embeddings of the judge".to_owned())?;
        let rotary = self.rotary(positions)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let step = |x: &Tensor, cache: &mut KvCache| {
                let x = layer.forward(x, &rotary, index, cache)?;
                let level = visual.and_then(|visual| visual.deepstack.get(index));
                match (level, &places) {
                    (Some(features), Some(places)) => x + spread(features, places)?,
                    _ => Ok(x),
                }
            };
            x = step(&x, cache).context(|| format!("layer {index} of the judge"))?;
        }
        cache.advance(tokens.len());
        Ok(x)
    }

    /// Embeddings [L, d] with the vision tokens in place, and for each token the row of its features, T where
    /// it has none.
    fn embed(
        &self,
        tokens: &[u32],
        visual: Option<Visual<'_>>,
    ) -> candle_core::Result<(Tensor, Option<Tensor>)> {
        let device = self.embedding.device();
        let ids = Tensor::new(tokens, device)?;
        let x = self.embedding.index_select(&ids, 0)?;
        let Some(visual) = visual else {
            return Ok((x, None));
        };
        let count = visual.merged.dim(0)? as u32;
        let (mut mixed, mut places) = (Vec::new(), Vec::new());
        for (token, row) in visual.rows.iter().enumerate() {
            mixed.push(row.unwrap_or(count + token as u32));
            places.push(row.unwrap_or(count));
        }
        // [T + L, d] → [L, d]
        let x =
            Tensor::cat(&[visual.merged, &x], 0)?.index_select(&Tensor::new(mixed, device)?, 0)?;
        Ok((x, Some(Tensor::new(places, device)?)))
    }

    fn rotary(&self, positions: &Positions) -> Result<Rotary> {
        let (cos, sin) = turn(positions, &self.frequencies, &self.axes);
        let shape = (positions.len(), self.frequencies.len());
        let device = self.embedding.device();
        Ok(Rotary {
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
        })
    }

    /// Scores of all words `[L, vocab]`, in f32, after hidden states `[L, d]`. The table is large: hand over
    /// only the rows that are wanted.
    pub(super) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let forward = || {
            let h = rms_norm(hidden, &self.norm, self.config.rms_norm_eps)?;
            self.head.forward(&h)?.to_dtype(candle_core::DType::F32)
        };
        forward().context(|| "output layer of the judge".to_owned())
    }
}

/// Features [T, d] put where `places` [L] says, zeros elsewhere: [L, d].
fn spread(features: &Tensor, places: &Tensor) -> candle_core::Result<Tensor> {
    let zeros = Tensor::zeros(
        (1, features.dim(D::Minus1)?),
        features.dtype(),
        features.device(),
    )?;
    Tensor::cat(&[features, &zeros], 0)?.index_select(places, 0)
}
