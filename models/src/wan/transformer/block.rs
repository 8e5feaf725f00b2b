//! One block of the Wan transformer: self attention, cross attention, feed-forward.
//!
//! With `(m0..m5)` = `scale_shift_table + e0` (shift, scale, gate of attention; shift, scale, gate of the
//! feed-forward layer), all in f32:
//! ```text
//! x = x + attn1(LN(x) (1 + m1) + m0) m2
//! x = x + attn2(LN_affine(x), context)
//! x = x + ffn(LN(x) (1 + m4) + m3) m5
//! ```
//! q and k are RMS-normalised over all heads together; only self attention is rotated.

use candle_core::{DType, Tensor};
use leoma_kernels::{
    Activation, Linear, LinearGroup, Norm, RmsConfig, Rotation, attention, gate_residual,
    layer_norm_modulate_to, residual_norm, rms_norm_heads, rms_norm_rope,
};

use super::load::linear;
use super::rotary::RotaryTables;
use crate::error::Result;
use crate::rounding::Rounding;
use crate::wan::TransformerConfig;
use crate::weights::VarBuilder;

/// What self and cross attention have in common: norms of q and k, and the way out.
#[derive(Debug)]
struct Attention {
    to_out: Linear,
    norm_q: Tensor,
    norm_k: Tensor,
    heads: usize,
    head_dim: usize,
    norm: RmsConfig,
}

impl Attention {
    fn new(cfg: &TransformerConfig, vb: &VarBuilder) -> Result<Self> {
        let d = cfg.dim();
        Ok(Self {
            to_out: linear(d, d, &vb.pp("to_out.0"))?,
            norm_q: vb.get_f32([d], "norm_q.weight")?,
            norm_k: vb.get_f32([d], "norm_k.weight")?,
            heads: cfg.num_attention_heads,
            head_dim: cfg.attention_head_dim,
            norm: RmsConfig {
                eps: cfg.eps,
                round_before_weight: vb.rounding() == Rounding::Official,
            },
        })
    }

    /// `[L, d] → [L, N, D]`.
    fn split_heads(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.reshape((x.dim(0)?, self.heads, self.head_dim))?)
    }

    /// q `[L, N, D]`, k and v `[S, N, D]` → projected `[L, d]`.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let out = attention(
            &q.unsqueeze(0)?,
            &k.unsqueeze(0)?,
            &v.unsqueeze(0)?,
            scale,
            None,
        )?;
        Ok(self.to_out.forward(&out.squeeze(0)?.flatten_from(1)?)?) // [L, N, D] → [L, d]
    }
}

/// `attn1`.
#[derive(Debug)]
struct SelfAttention {
    to_qkv: LinearGroup,
    inner: Attention,
}

impl SelfAttention {
    fn new(cfg: &TransformerConfig, vb: &VarBuilder) -> Result<Self> {
        let d = cfg.dim();
        let layers = ["to_q", "to_k", "to_v"].map(|name| linear(d, d, &vb.pp(name)));
        Ok(Self {
            to_qkv: LinearGroup::new(layers.into_iter().collect::<Result<_>>()?)?,
            inner: Attention::new(cfg, vb)?,
        })
    }

    /// `[L, d] → [L, d]`. Takes the input so that its memory is free during attention.
    fn forward(&self, hidden: Tensor, rotary: &RotaryTables) -> Result<Tensor> {
        let Attention {
            norm_q,
            norm_k,
            norm,
            head_dim,
            ..
        } = &self.inner;
        let qkv = self.to_qkv.forward_heads(&hidden, *head_dim)?;
        drop(hidden);
        let [q, k, v] = &qkv[..] else {
            return Err(crate::Error::local("a projection gave no q, k and v"));
        };
        let rotation = Rotation {
            cos: &rotary.cos,
            sin: &rotary.sin,
        };
        let (q, k) = rms_norm_rope((q, norm_q), (k, norm_k), &rotation, norm)?;
        let v = v.clone();
        drop(qkv);
        self.inner.attend(&q, &k, &v)
    }
}

/// `attn2`.
#[derive(Debug)]
struct CrossAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    inner: Attention,
}

impl CrossAttention {
    fn new(cfg: &TransformerConfig, vb: &VarBuilder) -> Result<Self> {
        let d = cfg.dim();
        Ok(Self {
            to_q: linear(d, d, &vb.pp("to_q"))?,
            to_k: linear(d, d, &vb.pp("to_k"))?,
            to_v: linear(d, d, &vb.pp("to_v"))?,
            inner: Attention::new(cfg, vb)?,
        })
    }

    /// `[S, d] → [S, N, D]`.
    fn key(&self, context: &Tensor) -> Result<Tensor> {
        let k = self.inner.split_heads(&self.to_k.forward(context)?)?;
        Ok(rms_norm_heads(&k, &self.inner.norm_k, &self.inner.norm)?)
    }

    /// `[S, d] → [S, N, D]`.
    fn value(&self, context: &Tensor) -> Result<Tensor> {
        self.inner.split_heads(&self.to_v.forward(context)?)
    }

    /// `[L, d] → [L, d]`. Takes the input so that its memory is free during attention.
    fn forward(&self, hidden: Tensor, cross: &CrossKeyValue) -> Result<Tensor> {
        let projected = self.inner.split_heads(&self.to_q.forward(&hidden)?)?;
        drop(hidden);
        let q = rms_norm_heads(&projected, &self.inner.norm_q, &self.inner.norm)?;
        drop(projected);
        self.inner.attend(&q, &cross.k, &cross.v)
    }
}

/// Keys and values of the text context for one block, `[S, N, D]` each. They do not depend on the
/// timestep: computed once per prompt and expert.
#[derive(Debug, Clone)]
pub struct CrossKeyValue {
    k: Tensor,
    v: Tensor,
}

/// `blocks.N`.
#[derive(Debug)]
pub struct WanTransformerBlock {
    attn1: SelfAttention,
    attn2: CrossAttention,
    norm2: Option<(Tensor, Tensor)>,
    ffn_in: Linear,
    ffn_out: Linear,
    /// `[6, 1, d]` f32.
    scale_shift_table: Tensor,
    eps: f64,
    /// Type of everything but the residual stream.
    dtype: DType,
}

impl WanTransformerBlock {
    /// Loads one block.
    pub fn new(cfg: &TransformerConfig, vb: &VarBuilder) -> Result<Self> {
        let d = cfg.dim();
        let norm2 = if cfg.cross_attn_norm {
            Some((
                vb.get_f32([d], "norm2.weight")?,
                vb.get_f32([d], "norm2.bias")?,
            ))
        } else {
            None
        };
        Ok(Self {
            attn1: SelfAttention::new(cfg, &vb.pp("attn1"))?,
            attn2: CrossAttention::new(cfg, &vb.pp("attn2"))?,
            norm2,
            ffn_in: linear(d, cfg.ffn_dim, &vb.pp("ffn.net.0.proj"))?,
            ffn_out: linear(cfg.ffn_dim, d, &vb.pp("ffn.net.2"))?,
            // [1, 6, d] → [6, 1, d]
            scale_shift_table: vb
                .get_f32([1, 6, d], "scale_shift_table")?
                .reshape((6, 1, d))?,
            eps: cfg.eps,
            dtype: vb.dtype(),
        })
    }

    /// Keys and values for a context that ends in `repeat` copies of its last row.
    ///
    /// `context` is `[n + 1, d]`: the real rows and one padding row. Padding rows are equal, so their key
    /// and value are computed once and repeated.
    pub fn cross_key_value(&self, context: &Tensor, repeat: usize) -> Result<CrossKeyValue> {
        let extend = |x: Tensor| -> Result<Tensor> {
            let last = x.narrow(0, x.dim(0)? - 1, 1)?;
            match repeat {
                1 => Ok(x),
                0 => Ok(x.narrow(0, 0, x.dim(0)? - 1)?.contiguous()?),
                _ => {
                    let (_, n, d) = x.dims3()?;
                    Ok(Tensor::cat(
                        &[&x, &last.expand((repeat - 1, n, d))?.contiguous()?],
                        0,
                    )?)
                }
            }
        };
        Ok(CrossKeyValue {
            k: extend(self.attn2.key(context)?)?,
            v: extend(self.attn2.value(context)?)?,
        })
    }

    /// Runs the block.
    ///
    /// **Shapes**: `x [L, d]`, in the type of the residual stream; `modulation [6, R, d]` f32, R = 1 or 2;
    /// with two rows the first `first` tokens take row 0 and the others row 1.
    pub fn forward(
        &self,
        x: &Tensor,
        modulation: &Tensor,
        first: usize,
        rotary: &RotaryTables,
        cross: &CrossKeyValue,
    ) -> Result<Tensor> {
        let m = self.scale_shift_table.broadcast_add(modulation)?; // [6, R, d]
        let row = |index: usize| m.get(index); // [R, d]

        let (shift, scale) = (row(0)?, row(1)?);
        let hidden = layer_norm_modulate_to(x, &scale, &shift, first, self.eps, self.dtype)?;
        let update = self.attn1.forward(hidden, rotary)?;
        let gate = row(2)?;
        let (x1, hidden) = if let Some((weight, bias)) = &self.norm2 {
            let norm = Norm::Affine { weight, bias };
            residual_norm(x, &update, Some(&gate), &norm, first, self.eps)?
        } else {
            let x1 = gate_residual(x, &update, &gate, first)?;
            let hidden = x1.to_dtype(self.dtype)?;
            (x1, hidden)
        };
        drop(update);

        let update = self.attn2.forward(hidden, cross)?;
        let norm = Norm::Modulated {
            scale: &row(4)?,
            shift: &row(3)?,
        };
        let (x2, hidden) = residual_norm(&x1, &update, None, &norm, first, self.eps)?;
        drop((x1, update));

        let inner = self.ffn_in.forward_act(&hidden, Activation::GeluTanh)?;
        drop(hidden);
        let update = self.ffn_out.forward(&inner)?;
        drop(inner);
        Ok(gate_residual(&x2, &update, &row(5)?, first)?)
    }
}
