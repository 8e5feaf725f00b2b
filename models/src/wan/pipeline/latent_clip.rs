//! A denoised clip that is still to be decoded.

use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;

use super::{Observer, Stage, Timings, stop_if};
use crate::error::Result;
use crate::wan::vae::{AutoencoderKlWan, Tiling};

/// Latents and the VAE that turns them into pixels. Independent of the pipeline it came from.
#[derive(Debug)]
pub struct LatentClip {
    /// `[z, T, h, w]` f32.
    pub(super) latents: Tensor,
    pub(super) vae: Arc<AutoencoderKlWan>,
    pub(super) tiling: Option<Tiling>,
    pub(super) timings: Timings,
}

impl LatentClip {
    /// The latents, `[z, T, h, w]` f32, finite.
    pub fn latents(&self) -> &Tensor {
        &self.latents
    }

    /// Seconds of the stages that are done.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// Decodes into `sink`, which takes the frames in order, `[3, f, H, W]` f32 in [-1, 1]. `cancelled` is
    /// asked before every latent frame. Returns the seconds of all stages, those in the sink left out.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled), and whatever `sink` returns.
    pub fn decode(
        self,
        observer: &mut dyn Observer,
        cancelled: &dyn Fn() -> bool,
        sink: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<Timings> {
        let start = Instant::now();
        let total = self.latents.dim(1)?;
        observer.progress(Stage::VaeDecode, 0, total);
        let (mut done, mut sink_s) = (0, 0.0);
        let mut take = |frames: Tensor| -> Result<()> {
            let start = Instant::now();
            sink(frames)?;
            sink_s += start.elapsed().as_secs_f64();
            done += 1;
            observer.progress(Stage::VaeDecode, done, total);
            stop_if(cancelled)
        };
        self.vae.decode(&self.latents, self.tiling, &mut take)?;
        let mut timings = self.timings;
        timings.vae_decode_s = start.elapsed().as_secs_f64() - sink_s;
        Ok(timings)
    }
}
