//! CLIP: a picture and a prompt become vectors of one space, whose cosine says how well they fit.
//!
//! ```text
//! picture: LN(patches and class with positions) → blocks → LN(class) → visual_projection
//! prompt:  tokens with positions → causal blocks → LN(end mark) → text_projection
//! ```
//! Source: `CLIPModel` of transformers 5.14.1; checkpoints such as `openai/clip-vit-base-patch32` and
//! `openai/clip-vit-large-patch14` in its layout. `logit_scale` is not read: it does not change a cosine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use leoma_kernels::Linear;

use super::super::Frame;
use super::super::tokenizer::MAX_FILE_BYTES;
use super::config::ClipConfig;
use super::layers::{Block, Names, Norm, PatchEmbedding, first_token, linear, with_class};
use super::preprocess::Preprocess;
use super::tokenizer::{ClipTokenizer, ClipTokens};
use super::{unit, unit_rows};
use crate::error::{Context, Error, Result};
use crate::weights::{PlainFolder, PlainSource, VarBuilder};

const BLOCK: Names = Names {
    norms: ["layer_norm1", "layer_norm2"],
    attention: [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.out_proj",
    ],
    scales: None,
    qkv_bias: true,
};

/// A CLIP checkpoint.
#[derive(Debug)]
pub struct ClipModel {
    root: PathBuf,
    config: ClipConfig,
    vision: VisionTower,
    text: TextTower,
    tokenizer: ClipTokenizer,
    preprocess: Preprocess,
    device: Device,
    source: Arc<PlainSource>,
}

/// A prompt as CLIP reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct TextFeatures {
    /// Of unit length.
    pub vector: Vec<f32>,
    /// Tokens at the end of the prompt that CLIP has no room for and did not read.
    pub dropped_tokens: usize,
}

#[derive(Debug)]
struct VisionTower {
    patches: PatchEmbedding,
    class: Tensor,
    positions: Tensor,
    pre_norm: Norm,
    blocks: Vec<Block>,
    post_norm: Norm,
    projection: Linear,
}

#[derive(Debug)]
struct TextTower {
    tokens: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    final_norm: Norm,
    projection: Linear,
}

impl VisionTower {
    fn new(config: &ClipConfig, vb: &VarBuilder) -> Result<Self> {
        let vision = &config.vision;
        let (d, eps) = (vision.encoder.width, vision.encoder.eps);
        let side = vision.image_size / vision.patch_size;
        let tower = vb.pp("vision_model");
        let embeddings = tower.pp("embeddings");
        let patches = embeddings.pp("patch_embedding");
        let layers = tower.pp("encoder.layers");
        Ok(Self {
            patches: PatchEmbedding::new(&patches, d, vision.patch_size, false)?,
            class: embeddings.get([d], "class_embedding")?,
            positions: embeddings.get([1 + side * side, d], "position_embedding.weight")?,
            // Spelled so in every checkpoint.
            pre_norm: Norm::new(&tower.pp("pre_layrnorm"), d, eps)?,
            blocks: (0..vision.encoder.layers)
                .map(|index| Block::new(&vision.encoder, &BLOCK, false, &layers.pp(index)))
                .collect::<Result<_>>()?,
            post_norm: Norm::new(&tower.pp("post_layernorm"), d, eps)?,
            projection: linear(&vb.pp("visual_projection"), config.projection_dim, d, false)?,
        })
    }

    /// [B, 3, S, S] → [B, projection_dim]
    fn forward(&self, pixels: &Tensor) -> candle_core::Result<Tensor> {
        let x = with_class(&self.patches.forward(pixels)?, &self.class, &self.positions)?;
        let mut x = self.pre_norm.forward(&x)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.projection
            .forward(&self.post_norm.forward(&first_token(&x)?)?)
    }
}

impl TextTower {
    fn new(config: &ClipConfig, vb: &VarBuilder) -> Result<Self> {
        let text = &config.text;
        let (d, eps) = (text.encoder.width, text.encoder.eps);
        let tower = vb.pp("text_model");
        let embeddings = tower.pp("embeddings");
        let layers = tower.pp("encoder.layers");
        let positions = [text.max_position_embeddings, d];
        Ok(Self {
            tokens: embeddings.get([text.vocab_size, d], "token_embedding.weight")?,
            positions: embeddings.get(positions, "position_embedding.weight")?,
            blocks: (0..text.encoder.layers)
                .map(|index| Block::new(&text.encoder, &BLOCK, true, &layers.pp(index)))
                .collect::<Result<_>>()?,
            final_norm: Norm::new(&tower.pp("final_layer_norm"), d, eps)?,
            projection: linear(&vb.pp("text_projection"), config.projection_dim, d, false)?,
        })
    }

    /// Ids, the end mark last → [projection_dim]. What would follow the mark cannot be seen from it.
    fn forward(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let length = ids.len();
        let index = Tensor::new(ids, self.tokens.device())?;
        let x = self.tokens.index_select(&index, 0)?;
        // [L, d] → [1, L, d]
        let mut x = (x + self.positions.narrow(0, 0, length)?)?.unsqueeze(0)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        // [1, L, d] → [1, d] → [projection_dim]
        let end = x.narrow(1, length - 1, 1)?.squeeze(1)?.contiguous()?;
        self.projection
            .forward(&self.final_norm.forward(&end)?)?
            .squeeze(0)
    }
}

impl ClipModel {
    /// Opens a folder as published: `config.json`, safetensors, `tokenizer.json`, `preprocessor_config.json`. Weights
    /// are read in f32 and hashed.
    ///
    /// # Errors
    /// [`Error::Artifact`] naming the file, field or tensor that cannot be used.
    pub fn open(root: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let root = root.as_ref();
        let folder = PlainFolder::open(root)?;
        let object = folder.json("config.json")?.unwrap_or_default();
        let config = ClipConfig::read(&folder.path("config.json"), &object)?;
        let preprocess = Preprocess::open(&folder)?;
        if preprocess.side() != config.vision.image_size {
            return Err(Error::artifact(
                folder.path("preprocessor_config.json"),
                format!(
                    "`crop_size` is {}, `vision_config.image_size` of config.json is {}: take both files from one model",
                    preprocess.side(),
                    config.vision.image_size
                ),
            ));
        }
        let bytes = folder.bytes("tokenizer.json", MAX_FILE_BYTES)?;
        let tokenizer = ClipTokenizer::new(&folder.path("tokenizer.json"), &bytes, &config.text)?;
        let source = folder.source();
        let vb = VarBuilder::new(source.clone(), DType::F32, device);
        Ok(Self {
            root: root.to_owned(),
            vision: VisionTower::new(&config, &vb)?,
            text: TextTower::new(&config, &vb)?,
            tokenizer,
            preprocess,
            device: device.clone(),
            source,
            config,
        })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Sizes.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// How frames become pixel values.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// Hexadecimal SHA-256 over names, types, shapes and bytes of the weights that were read.
    pub fn weights_sha256(&self) -> String {
        self.source.digest()
    }

    /// Ids of a prompt, cut at the model's length.
    ///
    /// # Errors
    /// [`Error::Caller`] for a prompt of more than 64 KiB.
    pub fn tokens(&self, prompt: &str) -> Result<ClipTokens> {
        self.tokenizer.encode(prompt)
    }

    /// `pixels` `[B, 3, side, side]` f32 → `[B, projection_dim]`, not normalised.
    ///
    /// # Errors
    /// [`Error::Caller`] for pixels of another shape; [`Error::Tensor`] when the machine fails.
    pub fn image_features(&self, pixels: &Tensor) -> Result<Tensor> {
        let side = self.config.vision.image_size;
        match pixels.dims() {
            [_, 3, height, width] if *height == side && *width == side => {}
            other => {
                let message = format!("{other:?}, expected [B, 3, {side}, {side}]");
                return Err(Error::caller("pixels", message));
            }
        }
        let pixels = pixels.to_device(&self.device)?;
        self.vision
            .forward(&pixels)
            .context(|| "vision tower of CLIP".to_owned())
    }

    /// Ids with their marks → `[projection_dim]`, not normalised.
    ///
    /// # Errors
    /// [`Error::Caller`] for no ids or more than the model has positions; [`Error::Tensor`] when the machine fails.
    pub fn text_features(&self, tokens: &ClipTokens) -> Result<Tensor> {
        let (found, most) = (tokens.ids.len(), self.config.text.max_position_embeddings);
        if found == 0 || found > most {
            let message = format!("{found} are given; 1 to {most} can be read");
            return Err(Error::caller("tokens", message));
        }
        self.text
            .forward(&tokens.ids)
            .context(|| "text tower of CLIP".to_owned())
    }

    /// What frames look like: a vector of unit length each.
    ///
    /// # Errors
    /// As [`Preprocess::pixels`] and [`ClipModel::image_features`].
    pub fn images(&self, frames: &[Frame<'_>]) -> Result<Vec<Vec<f32>>> {
        unit_rows(frames, |frames| {
            self.image_features(&self.preprocess.pixels(frames, &self.device)?)
        })
    }

    /// What a prompt says.
    ///
    /// # Errors
    /// As [`ClipModel::tokens`] and [`ClipModel::text_features`].
    pub fn prompt(&self, prompt: &str) -> Result<TextFeatures> {
        let tokens = self.tokens(prompt)?;
        let vector = self.text_features(&tokens)?.to_vec1::<f32>();
        Ok(TextFeatures {
            vector: unit(vector.context(|| "features of the prompt".to_owned())?),
            dropped_tokens: tokens.dropped,
        })
    }
}
