//! What the first frame becomes: extra channels for I2V-A14B, a fixed first latent frame for TI2V-5B.

use candle_core::{DType, Device, Tensor};

use crate::error::Result;

/// How an image steers the transformer.
#[derive(Debug)]
pub(super) enum Condition {
    /// Text to video.
    None,
    /// I2V-A14B: `[4 + 16, T, h, w]`, mask then image latents, appended to the noise channels.
    Channels(Tensor),
    /// TI2V-5B: `[48, 1, h, w]`, stands in for latent frame 0 of every model input, at timestep 0.
    FirstFrame(Tensor),
}

impl Condition {
    /// The condition of I2V-A14B from the latents of the clip "image, then grey".
    ///
    /// The mask says which pixel frames are given: latent frame t has one channel per pixel frame, and the
    /// single pixel frame behind latent frame 0 counts for all of its channels.
    pub(super) fn channels(latents: &Tensor, temporal: usize, device: &Device) -> Result<Self> {
        let (_, t, h, w) = latents.dims4()?;
        let given = Tensor::ones((temporal, 1, h, w), DType::F32, device)?;
        let mask = if t > 1 {
            let free = Tensor::zeros((temporal, t - 1, h, w), DType::F32, device)?;
            Tensor::cat(&[&given, &free], 1)?
        } else {
            given
        };
        Ok(Self::Channels(Tensor::cat(&[&mask, latents], 0)?))
    }

    /// The transformer's input for the sampler's `latents [C, T, h, w]`.
    pub(super) fn model_input(&self, latents: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(latents.clone()),
            Self::Channels(condition) => Ok(Tensor::cat(&[latents, condition], 0)?),
            Self::FirstFrame(frame) => replace_first_frame(latents, frame),
        }
    }

    /// The latents that are decoded, from the sampler's last output.
    pub(super) fn finish(&self, latents: Tensor) -> Result<Tensor> {
        match self {
            Self::None | Self::Channels(_) => Ok(latents),
            Self::FirstFrame(frame) => replace_first_frame(&latents, frame),
        }
    }

    /// The timestep of latent frame 0 when it is not that of the others.
    pub(super) fn first_frame_timestep(&self) -> Option<f64> {
        matches!(self, Self::FirstFrame(_)).then_some(0.0)
    }
}

fn replace_first_frame(latents: &Tensor, frame: &Tensor) -> Result<Tensor> {
    let t = latents.dim(1)?;
    if t == 1 {
        return Ok(frame.clone());
    }
    Ok(Tensor::cat(&[frame, &latents.narrow(1, 1, t - 1)?], 1)?)
}
