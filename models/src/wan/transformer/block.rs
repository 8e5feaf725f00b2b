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

use candle_core::Tensor;
use leoma_kernels::{
    Activation, Linear, attention, gate_residual, layer_norm, layer_norm_modulate, rms_norm, rope,
};

use super::load::linear;
use super::rotary::RotaryTables;
use crate::error::Result;
use crate::wan::TransformerConfig;
use crate::weights::VarBuilder;

/// Projections and norms that self and cross attention have in common.
#[derive(Debug)]
struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    norm_q: Tensor,
    norm_k: Tensor,
    heads: usize,
    head_dim: usize,
    eps: f64,
}

impl Attention {
    fn new(cfg: &TransformerConfig, vb: &VarBuilder) -> Result<Self> {
        let d = cfg.dim();
        Ok(Self {
            to_q: linear(d, d, &vb.pp("to_q"))?,
            to_k: linear(d, d, &vb.pp("to_k"))?,
            to_v: linear(d, d, &vb.pp("to_v"))?,
            to_out: linear(d, d, &vb.pp("to_out.0"))?,
            norm_q: vb.get_f32([d], "norm_q.weight")?,
            norm_k: vb.get_f32([d], "norm_k.weight")?,
            heads: cfg.num_attention_heads,
            head_dim: cfg.attention_head_dim,
            eps: cfg.eps,
        })
    }

    /// `[L, d] → [L, N, D]`.
    fn split_heads(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.reshape((x.dim(0)?, self.heads, self.head_dim))?)
    }

    fn query(&self, x: &Tensor) -> Result<Tensor> {
        self.split_heads(&rms_norm(&self.to_q.forward(x)?, &self.norm_q, self.eps)?)
    }

    fn key(&self, x: &Tensor) -> Result<Tensor> {
        self.split_heads(&rms_norm(&self.to_k.forward(x)?, &self.norm_k, self.eps)?)
    }

    fn value(&self, x: &Tensor) -> Result<Tensor> {
        self.split_heads(&self.to_v.forward(x)?)
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
    attn1: Attention,
    attn2: Attention,
    norm2: Option<(Tensor, Tensor)>,
    ffn_in: Linear,
    ffn_out: Linear,
    scale_shift_table: Tensor,
    eps: f64,
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
            attn1: Attention::new(cfg, &vb.pp("attn1"))?,
            attn2: Attention::new(cfg, &vb.pp("attn2"))?,
            norm2,
            ffn_in: linear(d, cfg.ffn_dim, &vb.pp("ffn.net.0.proj"))?,
            ffn_out: linear(cfg.ffn_dim, d, &vb.pp("ffn.net.2"))?,
            scale_shift_table: vb.get_f32([1, 6, d], "scale_shift_table")?,
            eps: cfg.eps,
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
    /// **Shapes**: `x [L, d]`; `modulation [R, 6, d]` f32, R = 1 or 2; with two rows the first `first`
    /// tokens take row 0 and the others row 1.
    pub fn forward(
        &self,
        x: &Tensor,
        modulation: &Tensor,
        first: usize,
        rotary: &RotaryTables,
        cross: &CrossKeyValue,
    ) -> Result<Tensor> {
        let m = self.scale_shift_table.broadcast_add(modulation)?; // [R, 6, d]
        let row = |index: usize| m.narrow(1, index, 1)?.squeeze(1)?.contiguous(); // [R, d]

        let hidden = layer_norm_modulate(x, &row(1)?, &row(0)?, first, self.eps)?;
        let q = rope(&self.attn1.query(&hidden)?, &rotary.cos, &rotary.sin)?;
        let k = rope(&self.attn1.key(&hidden)?, &rotary.cos, &rotary.sin)?;
        let v = self.attn1.value(&hidden)?;
        drop(hidden);
        let x = gate_residual(x, &self.attn1.attend(&q, &k, &v)?, &row(2)?, first)?;
        drop((q, k, v));

        let normed = match &self.norm2 {
            Some((weight, bias)) => layer_norm(&x, Some((weight, bias)), self.eps)?,
            None => x.clone(),
        };
        let x = (x + self
            .attn2
            .attend(&self.attn2.query(&normed)?, &cross.k, &cross.v)?)?;
        drop(normed);

        let hidden = layer_norm_modulate(&x, &row(4)?, &row(3)?, first, self.eps)?;
        let hidden = self.ffn_in.forward_act(&hidden, Activation::GeluTanh)?;
        Ok(gate_residual(
            &x,
            &self.ffn_out.forward(&hidden)?,
            &row(5)?,
            first,
        )?)
    }
}
