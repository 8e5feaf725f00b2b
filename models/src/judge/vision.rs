//! The vision tower of Qwen3-VL: patches to tokens of the language model, and the features of some of its
//! blocks (DeepStack) for the first layers there.
//!
//! ```text
//! x = proj(patch) + interpolated position
//! x = x + attn(LN(x)),  x = x + mlp(LN(x))        attention within one temporal patch, q and k rotated
//! token = fc2(gelu(fc1(concat of 2 x 2 LN(x))))   the merger; DeepStack's norm is over the concatenation
//! ```
//! Source: `Qwen3VLVisionModel` of transformers 5.14.1. Checkpoint prefix `model.visual`. GELU is the tanh form
//! in the blocks and exact in the mergers. Unlike there, the position table is interpolated in f32 also when
//! the model computes in bf16.

use candle_core::{DType, Device, Tensor};
use leoma_kernels::{Activation, Linear, attention, gelu_erf, layer_norm, rope_halves};

use super::config::VisionConfig;
use super::processor::Grid;
use super::vision_position::{corners, rotary};
use crate::error::{Context, Error, Result};
use crate::weights::VarBuilder;

/// Epsilon of the layer norms; no configuration has it.
const EPS: f64 = 1e-6;

fn linear(vb: &VarBuilder, name: &str, out: usize, input: usize) -> Result<Linear> {
    let vb = vb.pp(name);
    let (weight, bias) = (vb.get([out, input], "weight")?, vb.get([out], "bias")?);
    Ok(Linear::new(weight, Some(bias))?)
}

/// A layer norm over the last axis.
#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(vb: &VarBuilder, name: &str, width: usize) -> Result<Self> {
        let vb = vb.pp(name);
        Ok(Self {
            weight: vb.get_f32([width], "weight")?,
            bias: vb.get_f32([width], "bias")?,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        layer_norm(x, Some((&self.weight, &self.bias)), EPS)
    }
}

/// What one picture needs beside its patches: its place among them, and the rotary tables of all its patches,
/// `[patches, D/2]` each.
struct Picture {
    grid: Grid,
    first: usize,
    cos: Tensor,
    sin: Tensor,
}

/// `blocks.N`.
#[derive(Debug)]
struct Block {
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    head_dim: usize,
}

impl Block {
    fn new(config: &VisionConfig, vb: &VarBuilder) -> Result<Self> {
        let (d, wide) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            norm1: Norm::new(vb, "norm1", d)?,
            qkv: linear(vb, "attn.qkv", 3 * d, d)?,
            proj: linear(vb, "attn.proj", d, d)?,
            norm2: Norm::new(vb, "norm2", d)?,
            fc1: linear(vb, "mlp.linear_fc1", wide, d)?,
            fc2: linear(vb, "mlp.linear_fc2", d, wide)?,
            heads: config.num_heads,
            head_dim: config.head_dim(),
        })
    }

    /// `x` [P, d] → [P, d].
    fn forward(&self, x: &Tensor, pictures: &[Picture]) -> candle_core::Result<Tensor> {
        let (patches, width) = x.dims2()?;
        // [P, 3 d] → [P, 3, N, D]
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let qkv = qkv.reshape((patches, 3, self.heads, self.head_dim))?;
        let parts = pictures
            .iter()
            .map(|picture| self.attend(&qkv, picture))
            .collect::<candle_core::Result<Vec<_>>>()?;
        // [patches of a picture, N, D] → [P, N, D] → [P, d]
        let out = Tensor::cat(&parts, 0)?.reshape((patches, width))?;
        let x = (x + self.proj.forward(&out)?)?;
        let h = self.norm2.forward(&x)?;
        let h = self.fc1.forward_act(&h, Activation::GeluTanh)?;
        x + self.fc2.forward(&h)?
    }

    /// Attention within each temporal patch of one picture: `qkv` [P, 3, N, D] → [patches of it, N, D].
    fn attend(&self, qkv: &Tensor, picture: &Picture) -> candle_core::Result<Tensor> {
        let Grid {
            frames,
            rows,
            columns,
        } = picture.grid;
        let own = qkv.narrow(0, picture.first, picture.grid.patches())?;
        // [patches, 3, N, D] → [patches, N, D]
        let part = |index: usize| own.narrow(1, index, 1)?.squeeze(1)?.contiguous();
        let turned = |x: Tensor| rope_halves(&x, &picture.cos, &picture.sin);
        // [patches, N, D] → [T, patches of a frame, N, D]
        let by_frame = |x: Tensor| x.reshape((frames, rows * columns, self.heads, self.head_dim));
        let (q, k) = (by_frame(turned(part(0)?)?)?, by_frame(turned(part(1)?)?)?);
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let out = attention(&q, &k, &by_frame(part(2)?)?, scale, None)?;
        // [T, patches of a frame, N, D] → [patches, N, D]
        out.reshape((picture.grid.patches(), self.heads, self.head_dim))
    }
}

/// `merger` or `deepstack_merger_list.K`.
#[derive(Debug)]
struct Merger {
    norm: Norm,
    fc1: Linear,
    fc2: Linear,
    /// Width of a token's patches side by side.
    merged: usize,
    /// Whether the norm is over all of that, not over each patch.
    norm_after: bool,
}

impl Merger {
    fn new(config: &VisionConfig, vb: &VarBuilder, norm_after: bool) -> Result<Self> {
        let merged = config.hidden_size * config.merge_unit();
        let norm = if norm_after {
            merged
        } else {
            config.hidden_size
        };
        Ok(Self {
            norm: Norm::new(vb, "norm", norm)?,
            fc1: linear(vb, "linear_fc1", merged, merged)?,
            fc2: linear(vb, "linear_fc2", config.out_hidden_size, merged)?,
            merged,
            norm_after,
        })
    }

    /// `x` [P, d] → [tokens, width of the language model].
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        // [P, d] → [P / merge^2, merge^2 d]: the patches of a token follow each other
        let side_by_side = |x: &Tensor| x.reshape((x.elem_count() / self.merged, self.merged));
        let h = if self.norm_after {
            self.norm.forward(&side_by_side(x)?)?
        } else {
            side_by_side(&self.norm.forward(x)?)?
        };
        self.fc2.forward(&gelu_erf(&self.fc1.forward(&h)?)?)
    }
}

/// What the tower makes of pictures; T tokens in the order of the pictures.
#[derive(Debug, Clone)]
pub struct VisionFeatures {
    /// `[T, d]`: in place of embeddings.
    pub merged: Tensor,
    /// `[T, d]` for each of the first layers of the language model.
    pub deepstack: Vec<Tensor>,
}

/// The vision tower.
#[derive(Debug)]
pub(super) struct VisionTower {
    config: VisionConfig,
    /// The patches' convolution, whose windows do not overlap: a product.
    proj: Linear,
    /// `[side^2, d]` f32.
    positions: Tensor,
    blocks: Vec<Block>,
    merger: Merger,
    deepstack: Vec<Merger>,
    dtype: DType,
    device: Device,
}

impl VisionTower {
    /// `vb` is the root of the checkpoint.
    pub(super) fn new(config: &VisionConfig, vb: &VarBuilder) -> Result<Self> {
        let vb = vb.pp("model.visual");
        let (d, patch) = (config.hidden_size, config.patch_size);
        let shape = [
            d,
            config.in_channels,
            config.temporal_patch_size,
            patch,
            patch,
        ];
        let proj = vb.pp("patch_embed.proj");
        // [d, C, T, P, P] → [d, C T P P], the order in which the processor lists the values of a patch
        let weight = proj
            .get(shape, "weight")?
            .reshape((d, config.patch_values()))?;
        let blocks = vb.pp("blocks");
        let list = vb.pp("deepstack_merger_list");
        Ok(Self {
            proj: Linear::new(weight, Some(proj.get([d], "bias")?))?,
            positions: vb.get_f32([config.num_position_embeddings, d], "pos_embed.weight")?,
            blocks: (0..config.depth)
                .map(|index| Block::new(config, &blocks.pp(index)))
                .collect::<Result<_>>()?,
            merger: Merger::new(config, &vb.pp("merger"), false)?,
            deepstack: (0..config.deepstack_visual_indexes.len())
                .map(|index| Merger::new(config, &list.pp(index), true))
                .collect::<Result<_>>()?,
            dtype: vb.dtype(),
            device: vb.device().clone(),
            config: config.clone(),
        })
    }

    /// Features of the pictures whose patches `pixels` [P, C T P P] holds one after the other.
    pub(super) fn forward(&self, pixels: &Tensor, grids: &[Grid]) -> Result<VisionFeatures> {
        let merge = self.config.spatial_merge_size;
        let patches: usize = grids.iter().map(Grid::patches).sum();
        let whole = grids
            .iter()
            .all(|grid| grid.rows % merge == 0 && grid.columns % merge == 0);
        if patches == 0 || !whole || pixels.dims() != [patches, self.config.patch_values()] {
            return Err(Error::local(format!(
                "patches {:?} do not fit the grids {grids:?}",
                pixels.dims()
            )));
        }
        let (positions, pictures) = self
            .place(grids)
            .context(|| "positions of the vision tower".to_owned())?;
        let embed = || {
            let x = pixels.to_device(&self.device)?.to_dtype(self.dtype)?;
            self.proj.forward(&x)? + positions.to_dtype(self.dtype)?
        };
        let mut x = embed().context(|| "patches of the vision tower".to_owned())?;
        let mut deepstack = Vec::with_capacity(self.deepstack.len());
        for (index, block) in self.blocks.iter().enumerate() {
            let place = || format!("vision block {index}");
            x = block.forward(&x, &pictures).context(place)?;
            let level = self
                .config
                .deepstack_visual_indexes
                .iter()
                .position(|&at| at == index);
            if let Some(merger) = level.and_then(|level| self.deepstack.get(level)) {
                deepstack.push(merger.forward(&x).context(place)?);
            }
        }
        Ok(VisionFeatures {
            merged: self
                .merger
                .forward(&x)
                .context(|| "merger of the vision tower".to_owned())?,
            deepstack,
        })
    }

    /// Interpolated positions [P, d] in f32, and the pictures with their rotary tables.
    fn place(&self, grids: &[Grid]) -> candle_core::Result<(Tensor, Vec<Picture>)> {
        let (merge, side) = (self.config.spatial_merge_size, self.config.position_side());
        let half = self.config.head_dim() / 2;
        let mut all = Vec::with_capacity(grids.len());
        let mut pictures = Vec::with_capacity(grids.len());
        let mut first = 0;
        for grid in grids {
            let found = corners(grid.rows, grid.columns, merge, side);
            let per_frame = grid.rows * grid.columns;
            let mut sum: Option<Tensor> = None;
            for (rows, weights) in found.rows.into_iter().zip(found.weights) {
                let rows = self
                    .positions
                    .index_select(&Tensor::new(rows, &self.device)?, 0)?;
                let weights = Tensor::from_vec(weights, (per_frame, 1), &self.device)?;
                let part = rows.broadcast_mul(&weights)?;
                sum = Some(match sum {
                    None => part,
                    Some(sum) => (sum + part)?,
                });
            }
            // Every temporal patch has the same positions: [patches of a frame, ..] → [patches, ..]
            let repeat = |x: &Tensor| Tensor::cat(&vec![x; grid.frames], 0);
            if let Some(sum) = sum {
                all.push(repeat(&sum)?);
            }
            let (cos, sin) = rotary(grid.rows, grid.columns, merge, self.config.head_dim());
            let table = |values| Tensor::from_vec(values, (per_frame, half), &self.device);
            pictures.push(Picture {
                grid: *grid,
                first,
                cos: repeat(&table(cos)?)?,
                sin: repeat(&table(sin)?)?,
            });
            first += grid.patches();
        }
        Ok((Tensor::cat(&all, 0)?, pictures))
    }
}

impl VisionFeatures {
    /// Tokens.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the features are no matrix.
    pub fn tokens(&self) -> Result<usize> {
        Ok(self.merged.dim(0)?)
    }

    /// `[levels, T, d]` f32; `None` when the model has no levels.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is no memory for it.
    pub fn stacked(&self) -> Result<Option<Tensor>> {
        if self.deepstack.is_empty() {
            return Ok(None);
        }
        let stacked = Tensor::stack(&self.deepstack, 0)?;
        Ok(Some(stacked.to_dtype(DType::F32)?))
    }
}
