//! UMT5 encoder.
//!
//! Source: `UMT5EncoderModel` of transformers 5.14.1 (Chung et al. 2023, arXiv 2304.09151). Checkpoint
//! keys as there: `shared.weight`, `encoder.block.N.layer.{0,1}.…`, `encoder.final_layer_norm.weight`.
//!
//! A T5 encoder without biases and without attention scaling, with a relative-position table **in every
//! layer**. Padding tokens change nothing but cost, so the encoder runs on the real tokens alone. The
//! residual stream is kept in float32 whatever the compute type is.

use candle_core::{DType, Device, Tensor};
use leoma_kernels::{Activation, Linear, attention, rms_norm};

use super::Umt5Config;
use crate::error::{Context, Error, Result};
use crate::weights::VarBuilder;

const EMBEDDING: &str = "shared.weight";
/// Other name of the same table; some files carry this one, some both.
const EMBEDDING_ALIAS: &str = "encoder.embed_tokens.weight";

/// Every tensor the encoder needs, with its shape.
///
/// The embedding may also be called `encoder.embed_tokens.weight`.
pub fn tensor_shapes(cfg: &Umt5Config) -> Vec<(String, Vec<usize>)> {
    let (d, inner) = (cfg.d_model, cfg.num_heads * cfg.d_kv);
    let mut shapes = vec![(EMBEDDING.to_owned(), vec![cfg.vocab_size, d])];
    for index in 0..cfg.num_layers {
        let mut push = |name: &str, shape: [usize; 2]| {
            shapes.push((
                format!("encoder.block.{index}.layer.{name}.weight"),
                shape.to_vec(),
            ));
        };
        push("0.SelfAttention.q", [inner, d]);
        push("0.SelfAttention.k", [inner, d]);
        push("0.SelfAttention.v", [inner, d]);
        push("0.SelfAttention.o", [d, inner]);
        let buckets = cfg.relative_attention_num_buckets;
        push(
            "0.SelfAttention.relative_attention_bias",
            [buckets, cfg.num_heads],
        );
        push("1.DenseReluDense.wi_0", [cfg.d_ff, d]);
        push("1.DenseReluDense.wi_1", [cfg.d_ff, d]);
        push("1.DenseReluDense.wo", [d, cfg.d_ff]);
        for layer in 0..2 {
            let name = format!("encoder.block.{index}.layer.{layer}.layer_norm.weight");
            shapes.push((name, vec![d]));
        }
    }
    shapes.push(("encoder.final_layer_norm.weight".to_owned(), vec![d]));
    shapes
}

fn linear(vb: &VarBuilder, out: usize, input: usize) -> Result<Linear> {
    Ok(Linear::new(vb.get([out, input], "weight")?, None)?)
}

/// RMS norm in float32, handed on in the compute type.
#[derive(Debug)]
struct Norm {
    weight: Tensor,
    eps: f64,
}

impl Norm {
    fn new(cfg: &Umt5Config, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_f32([cfg.d_model], "weight")?,
            eps: cfg.layer_norm_epsilon,
        })
    }

    fn forward(&self, x: &Tensor, dtype: DType) -> candle_core::Result<Tensor> {
        rms_norm(x, &self.weight, self.eps)?.to_dtype(dtype)
    }
}

/// Self attention with this layer's own table of relative positions.
#[derive(Debug)]
struct SelfAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// `[buckets][heads]`, float32.
    table: Vec<Vec<f32>>,
    heads: usize,
    width: usize,
}

impl SelfAttention {
    fn new(cfg: &Umt5Config, vb: &VarBuilder) -> Result<Self> {
        let (d, inner) = (cfg.d_model, cfg.num_heads * cfg.d_kv);
        let shape = [cfg.relative_attention_num_buckets, cfg.num_heads];
        let table = vb.get_f32(shape, "relative_attention_bias.weight")?;
        Ok(Self {
            q: linear(&vb.pp("q"), inner, d)?,
            k: linear(&vb.pp("k"), inner, d)?,
            v: linear(&vb.pp("v"), inner, d)?,
            o: linear(&vb.pp("o"), d, inner)?,
            table: table.to_device(&Device::Cpu)?.to_vec2()?,
            heads: cfg.num_heads,
            width: cfg.d_kv,
        })
    }

    /// `bias[h, i, j] = table[bucket(j - i), h]`, shape [N, n, n]; `buckets` holds the buckets of the
    /// distances `-(n - 1) ..= n - 1`.
    fn bias(&self, buckets: &[usize], device: &Device) -> candle_core::Result<Tensor> {
        let n = buckets.len() / 2 + 1;
        let mut bias = Vec::with_capacity(self.heads * n * n);
        for head in 0..self.heads {
            let by_distance: Vec<f32> = buckets.iter().map(|b| self.table[*b][head]).collect();
            for i in 0..n {
                bias.extend_from_slice(&by_distance[n - 1 - i..2 * n - 1 - i]);
            }
        }
        Tensor::from_vec(bias, (self.heads, n, n), device)
    }

    fn forward(&self, x: &Tensor, buckets: &[usize]) -> candle_core::Result<Tensor> {
        let n = x.dim(0)?;
        // [n, N * D] -> [1, n, N, D]
        let split = |x: Tensor| x.reshape((1, n, self.heads, self.width));
        let q = split(self.q.forward(x)?)?;
        let k = split(self.k.forward(x)?)?;
        let v = split(self.v.forward(x)?)?;
        let bias = self.bias(buckets, x.device())?;
        let out = attention(&q, &k, &v, 1.0, Some(&bias))?;
        // [1, n, N, D] -> [n, N * D]
        self.o.forward(&out.reshape((n, self.heads * self.width))?)
    }
}

#[derive(Debug)]
struct Block {
    attention_norm: Norm,
    attention: SelfAttention,
    ffn_norm: Norm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(cfg: &Umt5Config, vb: &VarBuilder) -> Result<Self> {
        let (attention, ffn) = (vb.pp("layer.0"), vb.pp("layer.1"));
        let dense = ffn.pp("DenseReluDense");
        Ok(Self {
            attention_norm: Norm::new(cfg, &attention.pp("layer_norm"))?,
            attention: SelfAttention::new(cfg, &attention.pp("SelfAttention"))?,
            ffn_norm: Norm::new(cfg, &ffn.pp("layer_norm"))?,
            gate: linear(&dense.pp("wi_0"), cfg.d_ff, cfg.d_model)?,
            up: linear(&dense.pp("wi_1"), cfg.d_ff, cfg.d_model)?,
            down: linear(&dense.pp("wo"), cfg.d_model, cfg.d_ff)?,
        })
    }

    /// `x` [n, d] float32; products run in `dtype`.
    fn forward(&self, x: &Tensor, buckets: &[usize], dtype: DType) -> candle_core::Result<Tensor> {
        let h = self
            .attention
            .forward(&self.attention_norm.forward(x, dtype)?, buckets)?;
        let x = (x + h.to_dtype(DType::F32)?)?;
        let h = self.ffn_norm.forward(&x, dtype)?;
        let gate = self.gate.forward_act(&h, Activation::GeluTanh)?;
        let h = self.down.forward(&(gate * self.up.forward(&h)?)?)?;
        x + h.to_dtype(DType::F32)?
    }
}

/// Bucket of a distance `key - query`: exact up to a quarter of the buckets, then logarithmic up to
/// `max_distance`; keys after the query use the upper half.
///
/// Computed in float32 as the reference does: the borders of the buckets depend on it.
fn bucket(distance: i64, cfg: &Umt5Config) -> usize {
    let half = cfg.relative_attention_num_buckets / 2;
    let base = if distance > 0 { half } else { 0 };
    let a = distance.unsigned_abs() as usize;
    let exact = half / 2;
    if a < exact {
        return base + a;
    }
    let ratio = f64::from(a as f32 / exact as f32).ln() as f32;
    let range = (cfg.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
    let log = ratio / range * (half - exact) as f32;
    base + (exact + log as usize).min(half - 1)
}

/// The UMT5 encoder of a Wan checkpoint.
#[derive(Debug)]
pub struct Umt5Encoder {
    cfg: Umt5Config,
    dtype: DType,
    device: Device,
    embedding: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
}

impl Umt5Encoder {
    /// Loads the encoder in the builder's type.
    ///
    /// # Errors
    /// [`Error::Artifact`] when a tensor is missing or has another shape, or sizes make no encoder.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "all models take their builder alike"
    )]
    pub fn new(cfg: &Umt5Config, vb: VarBuilder) -> Result<Self> {
        let half = cfg.relative_attention_num_buckets / 2;
        if half < 2 || cfg.relative_attention_max_distance <= half / 2 {
            let message = format!(
                "relative_attention_num_buckets {} and relative_attention_max_distance {} leave no \
                 room for exact and logarithmic buckets",
                cfg.relative_attention_num_buckets, cfg.relative_attention_max_distance
            );
            return Err(Error::artifact("text_encoder/config.json", message));
        }
        let name = if vb.contains(EMBEDDING) || !vb.contains(EMBEDDING_ALIAS) {
            EMBEDDING
        } else {
            EMBEDDING_ALIAS
        };
        let encoder = vb.pp("encoder");
        Ok(Self {
            cfg: cfg.clone(),
            dtype: vb.dtype(),
            device: vb.device().clone(),
            embedding: vb.get([cfg.vocab_size, cfg.d_model], name)?,
            blocks: (0..cfg.num_layers)
                .map(|index| Block::new(cfg, &encoder.pp("block").pp(index)))
                .collect::<Result<_>>()?,
            norm: Norm::new(cfg, &encoder.pp("final_layer_norm"))?,
        })
    }

    /// Encodes real tokens (no padding), `</s>` included.
    ///
    /// **Shapes**: `tokens` n ids → `[n, d_model]` in the compute type. The transformer wants this
    /// padded with zero rows to 512.
    ///
    /// # Errors
    /// [`Error::Artifact`] when the tokenizer gives ids the embedding has no row for.
    pub fn forward(&self, tokens: &[u32]) -> Result<Tensor> {
        if tokens.is_empty() {
            return Err(Error::local(
                "text encoder: no tokens (expected at least the end token)",
            ));
        }
        if let Some(id) = tokens
            .iter()
            .find(|id| **id as usize >= self.cfg.vocab_size)
        {
            let message = format!(
                "the tokenizer gave id {id}, the embedding has {} rows: tokenizer and text encoder \
                 do not belong together",
                self.cfg.vocab_size
            );
            return Err(Error::artifact("text_encoder", message));
        }
        let n = tokens.len() as i64;
        let buckets: Vec<usize> = (1 - n..n)
            .map(|distance| bucket(distance, &self.cfg))
            .collect();
        let ids = Tensor::new(tokens, &self.device)?;
        // [n, d]; only these rows are widened
        let mut x = self.embedding.index_select(&ids, 0)?.to_dtype(DType::F32)?;
        for (index, block) in self.blocks.iter().enumerate() {
            x = block
                .forward(&x, &buckets, self.dtype)
                .context(|| format!("text encoder block {index}"))?;
        }
        self.norm
            .forward(&x, self.dtype)
            .context(|| "text encoder output norm".to_owned())
    }

    /// Width of the rows.
    pub fn d_model(&self) -> usize {
        self.cfg.d_model
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde::Deserialize;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::noise::NoiseSource;
    use crate::weights::MemorySource;

    fn config() -> Umt5Config {
        Umt5Config {
            vocab_size: 64,
            d_model: 32,
            d_kv: 8,
            d_ff: 48,
            num_layers: 2,
            // 5 * 8 is not d_model, as the configuration allows
            num_heads: 5,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
        }
    }

    /// Random weights that the reference run made from the same seeds.
    fn weights(cfg: &Umt5Config) -> BTreeMap<String, Tensor> {
        let weight = |(seed, (name, shape)): (usize, (String, Vec<usize>))| {
            let noise = NoiseSource::TorchCpu.sample(seed as u64, &shape).unwrap();
            let weight = match name.as_str() {
                name if name.contains("norm") => noise.affine(0.1, 1.0),
                name if name.contains("relative") || name == EMBEDDING => Ok(noise),
                _ => noise.affine(0.2, 0.0),
            };
            (name, weight.unwrap())
        };
        tensor_shapes(cfg)
            .into_iter()
            .enumerate()
            .map(weight)
            .collect()
    }

    fn encoder(tensors: BTreeMap<String, Tensor>, dtype: DType) -> Umt5Encoder {
        let source = Arc::new(MemorySource::new(tensors));
        Umt5Encoder::new(&config(), VarBuilder::new(source, dtype, &Device::Cpu)).unwrap()
    }

    fn tokens(n: u32) -> Vec<u32> {
        (0..n).map(|i| (i * i * 7 + 3 * i + 1) % 64).collect()
    }

    /// Output of `UMT5EncoderModel` in float32: the norm of all rows, and some rows.
    #[derive(Deserialize)]
    struct Reference {
        n: u32,
        norm: f64,
        rows: Vec<(usize, Vec<f32>)>,
    }

    #[test]
    fn outputs_equal_the_reference() {
        let references: Vec<Reference> =
            serde_json::from_str(include_str!("umt5_reference.json")).unwrap();
        let encoder = encoder(weights(&config()), DType::F32);
        for reference in references {
            let n = reference.n;
            let out: Vec<Vec<f32>> = encoder.forward(&tokens(n)).unwrap().to_vec2().unwrap();
            assert_eq!(out.len(), n as usize);
            let square = |values: &[f32]| values.iter().map(|v| f64::from(v * v)).sum::<f64>();
            let norm = out.iter().map(|row| square(row)).sum::<f64>().sqrt();
            assert!((norm / reference.norm - 1.0).abs() < 1e-6, "{n}: {norm}");
            for (row, expected) in reference.rows {
                let off: Vec<f32> = out[row].iter().zip(&expected).map(|(a, b)| a - b).collect();
                let error = (square(&off) / square(&expected)).sqrt();
                assert!(error < 3e-6, "{n} tokens, row {row}: {error:e}");
            }
        }
    }

    #[test]
    fn low_precision_stays_near() {
        let norm = |t: Tensor| {
            let t = t.to_dtype(DType::F32).unwrap();
            t.sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                .sqrt()
        };
        let full = encoder(weights(&config()), DType::F32)
            .forward(&tokens(15))
            .unwrap();
        let low = encoder(weights(&config()), DType::BF16)
            .forward(&tokens(15))
            .unwrap();
        assert_eq!(low.dtype(), DType::BF16);
        let off = (low.to_dtype(DType::F32).unwrap() - &full).unwrap();
        let error = norm(off) / norm(full);
        assert!(error > 1e-5 && error < 3e-2, "{error}");
    }

    #[test]
    fn consumes_exactly_the_listed_tensors() {
        let source = Arc::new(MemorySource::new(weights(&config())));
        let vb = VarBuilder::new(source.clone(), DType::F32, &Device::Cpu);
        Umt5Encoder::new(&config(), vb).unwrap();
        let mut listed: Vec<_> = tensor_shapes(&config())
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let mut loaded = source.loaded();
        listed.sort();
        loaded.sort();
        assert_eq!(loaded, listed);
    }

    #[test]
    fn the_embedding_may_have_its_other_name() {
        let expected = encoder(weights(&config()), DType::F32)
            .forward(&[1, 2])
            .unwrap();
        let mut tensors = weights(&config());
        let table = tensors.remove(EMBEDDING).unwrap();
        tensors.insert(EMBEDDING_ALIAS.to_owned(), table);
        let found = encoder(tensors, DType::F32).forward(&[1, 2]).unwrap();
        assert_eq!(
            found.to_vec2::<f32>().unwrap(),
            expected.to_vec2::<f32>().unwrap()
        );
    }

    #[test]
    fn bad_input_is_an_error() {
        let encoder = encoder(weights(&config()), DType::F32);
        assert!(encoder.forward(&[]).is_err());
        let error = encoder.forward(&[1, 64]).unwrap_err();
        assert_eq!(error.fault(), crate::Fault::Artifact);
        let cfg = Umt5Config {
            relative_attention_num_buckets: 2,
            ..config()
        };
        let source = Arc::new(MemorySource::new(weights(&cfg)));
        assert!(Umt5Encoder::new(&cfg, VarBuilder::new(source, DType::F32, &Device::Cpu)).is_err());
    }

    #[test]
    fn buckets_are_those_of_the_reference() {
        let first = [8, 12, 16, 23, 32, 46, 64, 91];
        for (index, first) in first.into_iter().enumerate() {
            assert_eq!(bucket(first, &config()), 16 + 8 + index);
            assert_eq!(bucket(-first, &config()), 8 + index);
            assert_eq!(bucket(1 - first, &config()), 7 + index);
        }
        // Digests of the reference's buckets for the distances -600..=600.
        for (buckets, distance, digest) in [
            (32, 128, "9ad94b9d7cd87fcc"),
            (8, 20, "2785b8887b11e5dd"),
            (16, 64, "a2a1ebae9e7c2469"),
        ] {
            let cfg = Umt5Config {
                relative_attention_num_buckets: buckets,
                relative_attention_max_distance: distance,
                ..config()
            };
            let found: Vec<u8> = (-600..=600).map(|p| bucket(p, &cfg) as u8).collect();
            let hash = Sha256::digest(found);
            let half = hash
                .iter()
                .take(8)
                .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            let found = format!("{half:016x}");
            assert_eq!(found, digest, "{buckets} {distance}");
        }
    }
}
