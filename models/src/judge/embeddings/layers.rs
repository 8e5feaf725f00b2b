//! A vision or text transformer with norms before the parts: what CLIP's two towers and DINOv2 share.
//!
//! ```text
//! x = x + s1 * out(attention(q(n), k(n), v(n))),  n = LN1(x)
//! x = x + s2 * fc2(act(fc1(n))),                  n = LN2(x)        s1, s2: DINOv2's layer scales, else 1
//! ```

use candle_core::{Tensor, bail};
use leoma_kernels::{Linear, attention, causal_attention, gelu_erf, layer_norm, silu};

use crate::error::Result;
use crate::weights::VarBuilder;

/// Activation between the two layers of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// The exact form.
    Gelu,
}

impl Act {
    fn apply(self, x: &Tensor) -> candle_core::Result<Tensor> {
        const SLOPE: f64 = 1.702;
        match self {
            Self::QuickGelu => silu(&(x * SLOPE)?)? / SLOPE,
            Self::Gelu => gelu_erf(x),
        }
    }
}

/// Sizes of a tower.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Encoder {
    pub(super) width: usize,
    pub(super) heads: usize,
    /// Width between the two layers of a block.
    pub(super) wide: usize,
    pub(super) layers: usize,
    pub(super) eps: f64,
    pub(super) act: Act,
}

/// Names of a block's parts, which differ from model to model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) norms: [&'static str; 2],
    /// q, k, v, out.
    pub(super) attention: [&'static str; 4],
    /// Tensors of the layer scales, if the model has them.
    pub(super) scales: Option<[&'static str; 2]>,
    /// Whether q, k and v have biases.
    pub(super) qkv_bias: bool,
}

/// A linear layer, with a bias or without.
pub(super) fn linear(vb: &VarBuilder, out: usize, input: usize, bias: bool) -> Result<Linear> {
    let weight = vb.get([out, input], "weight")?;
    let bias = bias.then(|| vb.get([out], "bias")).transpose()?;
    Ok(Linear::new(weight, bias)?)
}

/// A layer norm over the last axis.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl Norm {
    pub(super) fn new(vb: &VarBuilder, width: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: vb.get_f32([width], "weight")?,
            bias: vb.get_f32([width], "bias")?,
            eps,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        layer_norm(x, Some((&self.weight, &self.bias)), self.eps)
    }
}

/// One block.
#[derive(Debug)]
pub(super) struct Block {
    norm1: Norm,
    /// q, k, v.
    qkv: [Linear; 3],
    out: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
    scales: Option<[Tensor; 2]>,
    heads: usize,
    act: Act,
    causal: bool,
}

impl Block {
    pub(super) fn new(
        sizes: &Encoder,
        names: &Names,
        causal: bool,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let d = sizes.width;
        let [q, k, v, out] = names.attention;
        let projection = |name: &str| linear(&vb.pp(name), d, d, names.qkv_bias);
        let scale = |name: &str| vb.get([d], name);
        let mlp = vb.pp("mlp");
        Ok(Self {
            norm1: Norm::new(&vb.pp(names.norms[0]), d, sizes.eps)?,
            qkv: [projection(q)?, projection(k)?, projection(v)?],
            out: linear(&vb.pp(out), d, d, true)?,
            norm2: Norm::new(&vb.pp(names.norms[1]), d, sizes.eps)?,
            fc1: linear(&mlp.pp("fc1"), sizes.wide, d, true)?,
            fc2: linear(&mlp.pp("fc2"), d, sizes.wide, true)?,
            scales: match names.scales {
                Some([first, second]) => Some([scale(first)?, scale(second)?]),
                None => None,
            },
            heads: sizes.heads,
            act: sizes.act,
            causal,
        })
    }

    /// `x` [B, L, d] → [B, L, d].
    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let h = self.attend(&self.norm1.forward(x)?)?;
        let x = (x + self.scaled(0, h)?)?;
        let h = self.fc1.forward(&self.norm2.forward(&x)?)?;
        let h = self.fc2.forward(&self.act.apply(&h)?)?;
        &x + self.scaled(1, h)?
    }

    fn attend(&self, h: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, length, d) = h.dims3()?;
        let head = d / self.heads;
        let scale = 1.0 / (head as f64).sqrt();
        // [B, L, d] → [B, L, N, D]
        let part = |layer: &Linear| layer.forward(h)?.reshape((batch, length, self.heads, head));
        let [q, k, v] = &self.qkv;
        let (q, k, v) = (part(q)?, part(k)?, part(v)?);
        let out = if self.causal {
            if batch != 1 {
                bail!("one text at a time is read, found {batch}");
            }
            // [1, L, N, D] → [L, N, D]
            causal_attention(&q.squeeze(0)?, &k.squeeze(0)?, &v.squeeze(0)?, scale)?
        } else {
            attention(&q, &k, &v, scale, None)?
        };
        // [.., L, N, D] → [B, L, d]
        self.out.forward(&out.reshape((batch, length, d))?)
    }

    fn scaled(&self, index: usize, h: Tensor) -> candle_core::Result<Tensor> {
        match self.scales.as_ref().and_then(|scales| scales.get(index)) {
            Some(scale) => h.broadcast_mul(scale),
            None => Ok(h),
        }
    }
}

/// The layer that turns patches into vectors: a convolution whose windows do not overlap, so a product.
#[derive(Debug)]
pub(super) struct PatchEmbedding {
    proj: Linear,
    patch: usize,
}

impl PatchEmbedding {
    pub(super) fn new(vb: &VarBuilder, width: usize, patch: usize, bias: bool) -> Result<Self> {
        let weight = vb.get([width, 3, patch, patch], "weight")?;
        let bias = bias.then(|| vb.get([width], "bias")).transpose()?;
        // [d, 3, P, P] → [d, 3 P P]
        let weight = weight.reshape((width, 3 * patch * patch))?;
        Ok(Self {
            proj: Linear::new(weight, bias)?,
            patch,
        })
    }

    /// `pixels` [B, 3, H, W], whole patches → [B, rows * columns, d], row by row.
    pub(super) fn forward(&self, pixels: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, channels, height, width) = pixels.dims4()?;
        let p = self.patch;
        let (rows, columns) = (height / p, width / p);
        // [B, 3, rows P, columns P] → [B, 3, rows, P, columns, P] → [B, rows, columns, 3, P, P]
        let x = pixels.reshape(vec![batch, channels, rows, p, columns, p])?;
        let x = x.permute(vec![0, 2, 4, 1, 3, 5])?.contiguous()?;
        self.proj
            .forward(&x.reshape((batch, rows * columns, channels * p * p))?)
    }
}

/// Puts `class` [d] before the patches of every picture and adds `positions` [1 + P, d]: [B, P, d] → [B, 1 + P, d].
pub(super) fn with_class(
    patches: &Tensor,
    class: &Tensor,
    positions: &Tensor,
) -> candle_core::Result<Tensor> {
    let (batch, _, d) = patches.dims3()?;
    let class = class.reshape((1, 1, d))?.broadcast_as((batch, 1, d))?;
    Tensor::cat(&[&class.contiguous()?, patches], 1)?.broadcast_add(positions)
}

/// The first token of every picture: [B, L, d] → [B, d].
pub(super) fn first_token(x: &Tensor) -> candle_core::Result<Tensor> {
    x.narrow(1, 0, 1)?.squeeze(1)?.contiguous()
}
