//! The causal video autoencoder of Wan: VAE 2.1 and VAE 2.2.
//!
//! Tensors carry the names of diffusers 0.35.2's `AutoencoderKLWan`, which is the numerical reference in
//! float32. Frames pass one at a time, channels last, through layers that remember the two frames before
//! (`blocks.rs`): that equals the reference's chunks of 1, 4, 4, … frames, because every layer is causal
//! and the temporal steps (`resample.rs`) treat the first frame apart. Memory above the weights is the
//! remembered frames plus a few frames of the largest resolution, whatever the length of the clip.
//!
//! Latent frame 0 stands for one pixel frame, every later one for a group of
//! [`AutoencoderKlWan::temporal_factor`].

mod blocks;
mod cost;
mod decoder;
mod encoder;
pub(in crate::wan) mod geometry;
mod pixels;
mod resample;
mod shortcut;
mod tiling;

use candle_core::{DType, Device, Tensor};

pub use self::cost::{decode_flops, encode_flops};
use self::decoder::Decoder;
use self::encoder::Encoder;
use self::tiling::Grid;
pub use self::tiling::Tiling;
use super::VaeConfig;
use crate::error::{Error, Result};
use crate::weights::VarBuilder;

/// Which half of the weights to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VaeParts {
    /// Encoder and decoder.
    Both,
    /// Only what [`AutoencoderKlWan::encode`] needs.
    Encoder,
    /// Only what [`AutoencoderKlWan::decode`] needs.
    Decoder,
}

/// Wan VAE 2.1 (`is_residual` false) or 2.2 (true) of any size.
#[derive(Debug)]
pub struct AutoencoderKlWan {
    encoder: Option<Encoder>,
    decoder: Option<Decoder>,
    /// [z], float32.
    latents_mean: Tensor,
    /// [z], float32.
    latents_std: Tensor,
    z_dim: usize,
    patch: usize,
    spatial_factor: usize,
    temporal_factor: usize,
    dtype: DType,
    device: Device,
}

impl AutoencoderKlWan {
    /// Loads the weights under `vb` in its type, which is also the type computed in.
    ///
    /// # Errors
    /// [`Error::Artifact`] when the configuration describes no buildable model or a tensor is missing or
    /// misshapen.
    #[allow(clippy::needless_pass_by_value)] // a view; callers make one for this call
    pub fn new(cfg: &VaeConfig, vb: VarBuilder, parts: VaeParts) -> Result<Self> {
        geometry::check(cfg)?;
        let encoder = match parts {
            VaeParts::Both | VaeParts::Encoder => Some(Encoder::new(cfg, &vb)?),
            VaeParts::Decoder => None,
        };
        let decoder = match parts {
            VaeParts::Both | VaeParts::Decoder => Some(Decoder::new(cfg, &vb)?),
            VaeParts::Encoder => None,
        };
        let device = vb.device().clone();
        let constants =
            |values: &[f64]| Tensor::from_iter(values.iter().map(|&value| value as f32), &device);
        let halved = cfg
            .temperal_downsample
            .iter()
            .filter(|&&temporal| temporal)
            .count();
        Ok(Self {
            encoder,
            decoder,
            latents_mean: constants(&cfg.latents_mean)?,
            latents_std: constants(&cfg.latents_std)?,
            z_dim: cfg.z_dim,
            patch: geometry::patch(cfg),
            spatial_factor: geometry::patch(cfg) << cfg.temperal_downsample.len(),
            temporal_factor: 1 << halved,
            dtype: vb.dtype(),
            device,
        })
    }

    /// Every tensor of encoder and decoder under its diffusers name, with its shape.
    pub fn tensor_shapes(cfg: &VaeConfig) -> Vec<(String, Vec<usize>)> {
        geometry::tensor_shapes(cfg)
    }

    /// Pixels per latent cell along height and width.
    pub fn spatial_factor(&self) -> usize {
        self.spatial_factor
    }

    /// Pixel frames per latent frame after the first.
    pub fn temporal_factor(&self) -> usize {
        self.temporal_factor
    }

    /// Encodes a clip `video` [3, F, H, W] in [-1, 1]: see [`Self::encode`].
    pub fn encode_video(&self, video: &Tensor) -> Result<Tensor> {
        let [3, frames, _, _] = *video.dims() else {
            let message = format!("must have shape [3, F, H, W], found {:?}", video.dims());
            return Err(Error::caller("video", message));
        };
        self.check_frames(frames)?;
        // [3, F, H, W] -> F x [3, H, W]
        let mut frames = (0..frames).map(|i| Ok(video.narrow(1, i, 1)?.squeeze(1)?));
        self.encode(&mut frames)
    }

    /// Encodes the clip of `num_frames` frames whose first is `image` [3, H, W] in [-1, 1] and whose
    /// others are zero (mid-grey), as image-to-video conditions want it: see [`Self::encode`]. The clip
    /// itself is never in memory.
    pub fn encode_image(&self, image: &Tensor, num_frames: usize) -> Result<Tensor> {
        self.check_frames(num_frames)?;
        let zeros = Tensor::zeros_like(image)?;
        self.encode_frames((0..num_frames).map(|i| match i {
            0 => Ok((image.clone(), false)),
            _ => Ok((zeros.clone(), i > 1)),
        }))
    }

    /// Encodes `frames`, each [3, H, W] in [-1, 1], to the mean of the latent distribution, normalised as
    /// `(mu - latents_mean) * (1 / latents_std)`: [z, T, h, w] in float32.
    ///
    /// # Errors
    /// [`Error::Caller`] when a frame has the wrong shape, its height or width is no multiple of
    /// [`Self::spatial_factor`], or their number is not a multiple of [`Self::temporal_factor`] plus one;
    /// the source's own errors.
    pub fn encode(&self, frames: &mut dyn Iterator<Item = Result<Tensor>>) -> Result<Tensor> {
        self.encode_frames(frames.map(|frame| Ok((frame?, false))))
    }

    /// [`Self::encode`] of frames that come with the promise of [`Encoder::push`]'s `again`.
    fn encode_frames(
        &self,
        frames: impl Iterator<Item = Result<(Tensor, bool)>>,
    ) -> Result<Tensor> {
        let encoder = self.encoder.as_ref().ok_or_else(|| without("encoder"))?;
        let scale = self.latents_std.recip()?;
        let mut stream = encoder.start();
        let (mut count, mut size, mut latents) = (0, None, Vec::new());
        for frame in frames {
            let (frame, again) = frame?;
            self.check_picture(&frame, size.get_or_insert_with(|| frame.dims().to_vec()))?;
            // [3, H, W] -> [3, 1, H, W] -> [1, H/p, W/p, 3*p*p]
            let frame = frame
                .unsqueeze(1)?
                .to_device(&self.device)?
                .to_dtype(self.dtype)?;
            let patches = pixels::patchify(&frame, self.patch)?;
            count += 1;
            if let Some(mean) = encoder.push(&patches, again, &mut stream)? {
                let mean = mean
                    .to_dtype(DType::F32)?
                    .broadcast_sub(&self.latents_mean)?;
                latents.push(mean.broadcast_mul(&scale)?);
            }
        }
        self.check_frames(count)?;
        // T x [1, h, w, z] -> [T, h, w, z] -> [z, T, h, w]
        Ok(Tensor::cat(&latents, 0)?
            .permute((3, 0, 1, 2))?
            .contiguous()?)
    }

    /// Decodes normalised `latents` [z, T, h, w] and hands the frames to `sink` in order, each
    /// [3, 1, H, W] in [-1, 1], float32.
    ///
    /// Without `tiling` every frame is handed over as soon as it is there, and decoding a prefix of the
    /// latents gives exactly a prefix of the frames. With `tiling`, see [`Self::decode_tiled`].
    ///
    /// # Errors
    /// [`Error::Caller`] when the latents have the wrong shape or the tiling does not fit; the sink's own
    /// errors, which end the decoding.
    pub fn decode(
        &self,
        latents: &Tensor,
        tiling: Option<Tiling>,
        sink: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        match tiling {
            Some(tiling) => self.decode_tiled(latents, tiling, &mut || Ok(()), sink),
            None => self.decode_frames(latents, &mut |frame| sink(self.to_pixels(&frame)?)),
        }
    }

    /// Decodes in overlapping tiles where a frame is larger than one tile ([`Tiling`] says what that
    /// changes), and whole otherwise. The frames come to `sink` at the end, after the last tile; `tick`
    /// is called after each decoded frame of each tile, and its error ends the decoding.
    pub fn decode_tiled(
        &self,
        latents: &Tensor,
        tiling: Tiling,
        tick: &mut dyn FnMut() -> Result<()>,
        sink: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        let grid = Grid::new(&tiling, self.spatial_factor, self.patch)?;
        let (height, width) = self.check_latents(latents)?;
        if !grid.splits(height, width) {
            return self.decode(latents, None, sink);
        }
        let frames = grid.decode(latents, |tile, keep| {
            self.decode_frames(tile, &mut |frame| {
                tick()?;
                keep(frame.to_dtype(DType::F32)?)
            })
        })?;
        for frame in frames {
            sink(self.to_pixels(&frame)?)?;
        }
        Ok(())
    }

    /// Latents [z, T, h, w] -> frames of patches [1, h', w', C] in the model's type.
    fn decode_frames(
        &self,
        latents: &Tensor,
        sink: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        let decoder = self.decoder.as_ref().ok_or_else(|| without("decoder"))?;
        self.check_latents(latents)?;
        // The reference's order of casts and operations, which matters in half precision.
        let scale = self.latents_std.to_dtype(self.dtype)?.recip()?;
        let mean = self.latents_mean.to_dtype(self.dtype)?;
        let mut state = decoder.start();
        for k in 0..latents.dim(1)? {
            // [z, 1, h, w] -> [1, h, w, z]
            let z = latents
                .narrow(1, k, 1)?
                .permute((1, 2, 3, 0))?
                .contiguous()?;
            let z = z.to_device(&self.device)?.to_dtype(self.dtype)?;
            let z = z.broadcast_div(&scale)?.broadcast_add(&mean)?;
            decoder.push(&z, &mut state, sink)?;
        }
        Ok(())
    }

    /// One frame of patches [1, h, w, C] -> [3, 1, H, W] in [-1, 1], float32.
    fn to_pixels(&self, frame: &Tensor) -> Result<Tensor> {
        let pixels = pixels::unpatchify(&frame.to_dtype(DType::F32)?, self.patch)?;
        Ok(pixels.clamp(-1f32, 1f32)?)
    }

    fn check_frames(&self, frames: usize) -> Result<()> {
        let group = self.temporal_factor;
        if frames % group == 1 % group && frames > 0 {
            return Ok(());
        }
        let message = format!("must be a multiple of {group} plus one, found {frames}");
        Err(Error::caller("num_frames", message))
    }

    fn check_picture(&self, frame: &Tensor, first: &[usize]) -> Result<()> {
        let factor = self.spatial_factor;
        match *frame.dims() {
            ref dims if dims != first => Err(Error::caller(
                "video",
                format!("all frames must have one shape, found {first:?} and {dims:?}"),
            )),
            [3, height, width] if height * width == 0 || height % factor + width % factor != 0 => {
                let message = format!(
                    "height and width must be multiples of {factor}, found {height} and {width}"
                );
                Err(Error::caller("height", message))
            }
            [3, _, _] => Ok(()),
            ref dims => {
                let message = format!("a frame must have shape [3, H, W], found {dims:?}");
                Err(Error::caller("video", message))
            }
        }
    }

    fn check_latents(&self, latents: &Tensor) -> Result<(usize, usize)> {
        match *latents.dims() {
            [z, frames, h, w] if z == self.z_dim && frames * h * w > 0 => Ok((h, w)),
            ref dims => {
                let message = format!("must have shape [{}, T, h, w], found {dims:?}", self.z_dim);
                Err(Error::caller("latents", message))
            }
        }
    }
}

fn without(part: &str) -> Error {
    Error::local(format!(
        "the VAE was loaded without its {part}: load VaeParts::Both"
    ))
}
