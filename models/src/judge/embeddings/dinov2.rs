//! DINOv2: a picture becomes a vector that keeps what things look like, without any text.
//!
//! ```text
//! patches and class with interpolated positions → blocks with layer scales → LN(class)
//! ```
//! Source: `Dinov2Model` of transformers 5.14.1 (`pooler_output`); `facebook/dinov2-small`, `-base` and `-large` in its
//! layout. The giant one (SwiGLU) and those with registers are refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::super::Frame;
use super::config::Dinov2Config;
use super::layers::{Block, Names, Norm, PatchEmbedding, first_token, with_class};
use super::positions::interpolate;
use super::preprocess::Preprocess;
use super::unit_rows;
use crate::error::{Context, Error, Result};
use crate::weights::{PlainFolder, PlainSource, VarBuilder};

/// A DINOv2 checkpoint.
#[derive(Debug)]
pub struct Dinov2Model {
    root: PathBuf,
    config: Dinov2Config,
    patches: PatchEmbedding,
    class: Tensor,
    /// As stored: the row of the class, then those of the patches, `[1 + side^2, d]` row-major.
    table: Vec<f32>,
    blocks: Vec<Block>,
    norm: Norm,
    preprocess: Preprocess,
    device: Device,
    source: Arc<PlainSource>,
}

impl Dinov2Model {
    /// Opens a folder as published: `config.json`, safetensors, `preprocessor_config.json`. Weights are read in f32
    /// and hashed.
    ///
    /// # Errors
    /// [`Error::Artifact`] naming the file, field or tensor that cannot be used.
    pub fn open(root: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let root = root.as_ref();
        let folder = PlainFolder::open(root)?;
        let object = folder.json("config.json")?.unwrap_or_default();
        let config = Dinov2Config::read(&folder.path("config.json"), &object)?;
        let preprocess = Preprocess::open(&folder)?;
        if !preprocess.side().is_multiple_of(config.patch_size) {
            return Err(Error::artifact(
                folder.path("preprocessor_config.json"),
                format!(
                    "`crop_size` is {}, which patches of {} pixels do not fill: take both files from one model",
                    preprocess.side(),
                    config.patch_size
                ),
            ));
        }
        let names = Names {
            norms: ["norm1", "norm2"],
            attention: [
                "attention.attention.query",
                "attention.attention.key",
                "attention.attention.value",
                "attention.output.dense",
            ],
            scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
            qkv_bias: config.qkv_bias,
        };
        let source = folder.source();
        let vb = VarBuilder::new(source.clone(), DType::F32, device);
        let (d, side) = (config.encoder.width, config.image_size / config.patch_size);
        let embeddings = vb.pp("embeddings");
        let patches = embeddings.pp("patch_embeddings.projection");
        let layers = vb.pp("encoder.layer");
        let table = embeddings
            .get([1, 1 + side * side, d], "position_embeddings")?
            .flatten_all()
            .and_then(|table| table.to_vec1::<f32>())
            .context(|| "position table of DINOv2".to_owned())?;
        Ok(Self {
            root: root.to_owned(),
            patches: PatchEmbedding::new(&patches, d, config.patch_size, true)?,
            class: embeddings.get([1, 1, d], "cls_token")?.flatten_all()?,
            table,
            blocks: (0..config.encoder.layers)
                .map(|index| Block::new(&config.encoder, &names, false, &layers.pp(index)))
                .collect::<Result<_>>()?,
            norm: Norm::new(&vb.pp("layernorm"), d, config.encoder.eps)?,
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
    pub fn config(&self) -> &Dinov2Config {
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

    /// `pixels` `[B, 3, H, W]` f32, both sides multiples of a patch → `[B, d]`, not normalised.
    ///
    /// # Errors
    /// [`Error::Caller`] for pixels of another shape; [`Error::Tensor`] when the machine fails.
    pub fn image_features(&self, pixels: &Tensor) -> Result<Tensor> {
        let patch = self.config.patch_size;
        let (rows, columns) = match pixels.dims() {
            [_, 3, height, width]
                if height.is_multiple_of(patch)
                    && width.is_multiple_of(patch)
                    && height * width > 0 =>
            {
                (height / patch, width / patch)
            }
            other => {
                let message = format!("{other:?}, expected [B, 3, H, W] with multiples of {patch}");
                return Err(Error::caller("pixels", message));
            }
        };
        let pixels = pixels.to_device(&self.device)?;
        self.forward(&pixels, (rows, columns))
            .context(|| "DINOv2".to_owned())
    }

    fn forward(&self, pixels: &Tensor, grid: (usize, usize)) -> candle_core::Result<Tensor> {
        let positions = self.positions(grid)?;
        let mut x = with_class(&self.patches.forward(pixels)?, &self.class, &positions)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.norm.forward(&first_token(&x)?)
    }

    /// `[1 + rows * columns, d]`.
    fn positions(&self, (rows, columns): (usize, usize)) -> candle_core::Result<Tensor> {
        let d = self.config.encoder.width;
        let side = self.config.image_size / self.config.patch_size;
        let (class, table) = self.table.split_at(d.min(self.table.len()));
        let mut values = class.to_vec();
        values.extend(interpolate(table, (side, d), (rows, columns)));
        Tensor::from_vec(values, (1 + rows * columns, d), &self.device)
    }

    /// What frames look like: a vector of unit length each.
    ///
    /// # Errors
    /// As [`Preprocess::pixels`] and [`Dinov2Model::image_features`].
    pub fn images(&self, frames: &[Frame<'_>]) -> Result<Vec<Vec<f32>>> {
        unit_rows(frames, |frames| {
            self.image_features(&self.preprocess.pixels(frames, &self.device)?)
        })
    }
}
