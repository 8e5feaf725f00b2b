//! The Wan diffusion transformer (one expert), equal to diffusers 0.35.2 `WanTransformer3DModel`.
//!
//! Paper: arXiv 2503.20314 (Wan). Weights: diffusers names (`blocks.N.attn1.to_q.weight`, …); the official
//! names are mapped by [`crate::weights`]. Input `[C, T, h, w]` latents, output velocity of the same grid.
//! The 5B model with an image has two timesteps in one clip (0 for the first latent frame): two modulation
//! rows are computed and spread over the tokens, never one row per token.

mod block;
mod blocks;
mod embedding;
mod load;
#[cfg(feature = "cuda")]
mod pinned;
mod rotary;
mod streaming;

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use leoma_kernels::{Linear, layer_norm_modulate, patchify, unpatchify};

use self::blocks::Blocks;
pub use block::{CrossKeyValue, WanTransformerBlock};
pub use blocks::BlockStorage;
pub(crate) use blocks::loaders;
pub use embedding::{CONTEXT_LEN, ConditionEmbedder, TimeRows};
pub use rotary::RotaryTables;

use super::TransformerConfig;
use crate::error::{Context, Error, Result};
use crate::weights::VarBuilder;

/// Keys and values of one prompt for every block of one expert.
#[derive(Debug, Clone)]
pub struct TextContext {
    blocks: Vec<CrossKeyValue>,
}

/// The timesteps of one call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClipTimestep {
    /// Timestep of all latent frames, in thousandths of the noise range.
    pub t: f64,
    /// Timestep of latent frame 0 when it differs (0 for a given first frame of the 5B model).
    pub first_frame: Option<f64>,
}

/// One expert of a Wan model.
#[derive(Debug)]
pub struct WanTransformer3d {
    cfg: TransformerConfig,
    patch_embedding: Linear,
    condition: ConditionEmbedder,
    blocks: Blocks,
    scale_shift_table: Tensor,
    proj_out: Linear,
    dtype: DType,
    /// Type of the residual stream, and of the velocity.
    stream: DType,
    device: Device,
    /// Tables of the last grid: the same for every step and prompt of a clip.
    rotary: Mutex<Option<([usize; 3], RotaryTables)>>,
}

impl WanTransformer3d {
    /// Loads the expert behind `vb`.
    pub fn new(cfg: &TransformerConfig, vb: &VarBuilder) -> Result<Self> {
        Self::with_blocks(cfg, vb, BlockStorage::Resident)
    }

    /// Loads the expert behind `vb`; its blocks are kept as `storage` says.
    pub fn with_blocks(
        cfg: &TransformerConfig,
        vb: &VarBuilder,
        storage: BlockStorage,
    ) -> Result<Self> {
        let d = cfg.dim();
        let [pt, ph, pw] = cfg.patch_size;
        let patch = cfg.in_channels * pt * ph * pw;
        // A convolution whose kernel equals its stride is a linear layer on flattened (c, kt, kh, kw) patches.
        let weight = vb
            .get([d, cfg.in_channels, pt, ph, pw], "patch_embedding.weight")?
            .reshape((d, patch))?;
        let bias = vb.get([d], "patch_embedding.bias")?;
        let blocks = Blocks::new(cfg, vb.pp("blocks"), storage)?;
        Ok(Self {
            patch_embedding: Linear::new(weight, Some(bias))?,
            condition: ConditionEmbedder::new(cfg, &vb.pp("condition_embedder"))?,
            blocks,
            scale_shift_table: vb.get_f32([1, 2, d], "scale_shift_table")?,
            proj_out: load::linear(
                d,
                cfg.out_channels * pt * ph * pw,
                &vb.pp("proj_out").with_dtype(vb.wide()),
            )?,
            cfg: cfg.clone(),
            dtype: vb.dtype(),
            stream: vb.wide(),
            device: vb.device().clone(),
            rotary: Mutex::default(),
        })
    }

    /// The configuration the expert was built from.
    pub fn config(&self) -> &TransformerConfig {
        &self.cfg
    }

    /// Prepares a prompt: text rows `[n, text_dim]` (real tokens only) → keys and values of every block,
    /// as if the rows had been padded with zeros to [`CONTEXT_LEN`].
    pub fn encode_context(&self, text: &Tensor) -> Result<TextContext> {
        let mut contexts = self.encode_contexts(&[text])?;
        contexts
            .pop()
            .ok_or_else(|| Error::local("no text context was made"))
    }

    /// [`Self::encode_context`] of several prompts in one pass over the blocks.
    pub fn encode_contexts(&self, texts: &[&Tensor]) -> Result<Vec<TextContext>> {
        let mut rows = Vec::with_capacity(texts.len());
        for text in texts {
            let (n, text_dim) = text.dims2()?;
            if n > CONTEXT_LEN {
                return Err(Error::caller(
                    "prompt",
                    format!("{n} tokens; at most {CONTEXT_LEN}"),
                ));
            }
            let zero = Tensor::zeros((1, text_dim), text.dtype(), text.device())?;
            let context = self.condition.text(&Tensor::cat(&[text, &zero], 0)?)?; // [n + 1, d]
            rows.push((context, CONTEXT_LEN - n));
        }
        let mut contexts = vec![TextContext { blocks: Vec::new() }; texts.len()];
        self.blocks.visit(&mut |_, block| {
            for ((context, padding), made) in rows.iter().zip(&mut contexts) {
                made.blocks.push(block.cross_key_value(context, *padding)?);
            }
            Ok(())
        })?;
        Ok(contexts)
    }

    /// Predicts the velocity.
    ///
    /// **Shapes**: `latents [C_in, T, h, w]`, any float type → `[C_out, T, h, w]` in the model's type, or in
    /// f32 with official rounding.
    /// `cancelled` is asked before every block.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Caller`] when the grid does not divide by the patch.
    pub fn forward(
        &self,
        latents: &Tensor,
        timestep: ClipTimestep,
        context: &TextContext,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Tensor> {
        let mut velocities = self.forward_each(latents, timestep, &[context], cancelled)?;
        velocities
            .pop()
            .ok_or_else(|| Error::local("no velocity was predicted"))
    }

    /// [`Self::forward`] for several prompts in one pass over the blocks: each block is brought in once
    /// for all of them. The results are those of separate calls, bit for bit.
    pub fn forward_each(
        &self,
        latents: &Tensor,
        timestep: ClipTimestep,
        contexts: &[&TextContext],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Tensor>> {
        let (tokens, grid) = self.patchify(latents)?;
        let rotary = self.rotary(grid)?;
        let (rows, first) = match timestep.first_frame {
            None => (vec![timestep.t], 0),
            Some(first_frame) => (vec![first_frame, timestep.t], grid[1] * grid[2]),
        };
        let time = self.condition.time(&rows, &self.device)?;

        // One residual stream [L, d] per prompt; the first block makes them different.
        let embedded = self.patch_embedding.forward(&tokens)?;
        let mut streams = vec![embedded.to_dtype(self.stream)?; contexts.len()];
        drop(embedded);
        drop(tokens);
        self.blocks.visit(&mut |index, block| {
            for (x, context) in streams.iter_mut().zip(contexts) {
                if cancelled() {
                    return Err(Error::Cancelled);
                }
                let cross = context
                    .blocks
                    .get(index)
                    .ok_or_else(|| Error::local("the text context is of another model"))?;
                *x = block
                    .forward(x, &time.modulation, first, &rotary, cross)
                    .map_err(|error| match error {
                        Error::Tensor { context, source } => Error::Tensor {
                            context: format!("transformer block {index}: {context}"),
                            source,
                        },
                        other => other,
                    })?;
            }
            Ok(())
        })?;
        drop(rotary);

        // [1, 2, d] + [R, 1, d] → shift and scale, [R, d] each.
        let head = self
            .scale_shift_table
            .broadcast_add(&time.temb.unsqueeze(1)?)?;
        let shift = head.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        let scale = head.narrow(1, 1, 1)?.squeeze(1)?.contiguous()?;
        streams
            .into_iter()
            .map(|x| {
                let x = layer_norm_modulate(&x, &scale, &shift, first, self.cfg.eps)?;
                let tokens = self.proj_out.forward(&x)?;
                // [L, pt * ph * pw * C] → [C, T, h, w]
                Ok(unpatchify(&tokens, grid, self.cfg.patch_size)?)
            })
            .collect()
    }

    fn rotary(&self, grid: [usize; 3]) -> Result<RotaryTables> {
        // A thread that panicked here left the tables as they were.
        let mut held = self.rotary.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, tables)) = &*held
            && *of == grid
        {
            return Ok(tables.clone());
        }
        *held = None;
        let tables = RotaryTables::new(self.cfg.attention_head_dim, grid, &self.device)?;
        *held = Some((grid, tables.clone()));
        Ok(tables)
    }

    /// `[C, T, h, w] → [L, C * pt * ph * pw]` and the patch grid.
    fn patchify(&self, latents: &Tensor) -> Result<(Tensor, [usize; 3])> {
        let (c, t, h, w) = latents.dims4().context(|| "transformer input".into())?;
        let [pt, ph, pw] = self.cfg.patch_size;
        if c != self.cfg.in_channels || t % pt != 0 || h % ph != 0 || w % pw != 0 {
            return Err(Error::caller(
                "height, width",
                format!(
                    "latents of {c} channels on a {t}x{h}x{w} grid do not fit a model of {} channels \
                     and patches of {pt}x{ph}x{pw}",
                    self.cfg.in_channels
                ),
            ));
        }
        // From f32 the cast is part of the move.
        let latents = match latents.dtype() {
            dtype if dtype == self.dtype => latents.clone(),
            _ => latents.to_dtype(DType::F32)?,
        };
        let tokens = patchify(&latents, self.cfg.patch_size, self.dtype)?;
        Ok((tokens, [t / pt, h / ph, w / pw]))
    }
}

/// Every tensor one expert needs, with its shape, under diffusers names.
pub fn tensor_shapes(cfg: &TransformerConfig) -> Vec<(String, Vec<usize>)> {
    let d = cfg.dim();
    let [pt, ph, pw] = cfg.patch_size;
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    let linear = |shapes: &mut Vec<(String, Vec<usize>)>, name: &str, inputs, outputs| {
        shapes.push((format!("{name}.weight"), vec![outputs, inputs]));
        shapes.push((format!("{name}.bias"), vec![outputs]));
    };
    shapes.push((
        "patch_embedding.weight".into(),
        vec![d, cfg.in_channels, pt, ph, pw],
    ));
    shapes.push(("patch_embedding.bias".into(), vec![d]));
    let condition = "condition_embedder";
    linear(
        &mut shapes,
        &format!("{condition}.time_embedder.linear_1"),
        cfg.freq_dim,
        d,
    );
    linear(
        &mut shapes,
        &format!("{condition}.time_embedder.linear_2"),
        d,
        d,
    );
    linear(&mut shapes, &format!("{condition}.time_proj"), d, 6 * d);
    linear(
        &mut shapes,
        &format!("{condition}.text_embedder.linear_1"),
        cfg.text_dim,
        d,
    );
    linear(
        &mut shapes,
        &format!("{condition}.text_embedder.linear_2"),
        d,
        d,
    );
    for index in 0..cfg.num_layers {
        let block = format!("blocks.{index}");
        shapes.push((format!("{block}.scale_shift_table"), vec![1, 6, d]));
        for attention in ["attn1", "attn2"] {
            for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
                linear(
                    &mut shapes,
                    &format!("{block}.{attention}.{projection}"),
                    d,
                    d,
                );
            }
            for norm in ["norm_q", "norm_k"] {
                shapes.push((format!("{block}.{attention}.{norm}.weight"), vec![d]));
            }
        }
        if cfg.cross_attn_norm {
            shapes.push((format!("{block}.norm2.weight"), vec![d]));
            shapes.push((format!("{block}.norm2.bias"), vec![d]));
        }
        linear(
            &mut shapes,
            &format!("{block}.ffn.net.0.proj"),
            d,
            cfg.ffn_dim,
        );
        linear(&mut shapes, &format!("{block}.ffn.net.2"), cfg.ffn_dim, d);
    }
    shapes.push(("scale_shift_table".into(), vec![1, 2, d]));
    linear(&mut shapes, "proj_out", d, cfg.out_channels * pt * ph * pw);
    shapes
}
