//! What a generation is made of, and how a caller follows it.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::noise::NoiseSource;
use crate::scheduler::SchedulerKind;
use crate::wan::vae::Tiling;

/// Every number that decides the output of one generation. Nothing is optional: defaults are resolved by
/// the caller, so that they can be shown.
#[derive(Debug, Clone)]
pub struct GenerateParams {
    /// Prompt as typed; cleaned here as the reference cleans it.
    pub prompt: String,
    /// Negative prompt as typed; not encoded without guidance.
    pub negative_prompt: String,
    /// Pixel frames, `4n + 1` for the released VAEs.
    pub num_frames: usize,
    /// Pixel rows.
    pub height: usize,
    /// Pixel columns.
    pub width: usize,
    /// Sampler steps.
    pub num_inference_steps: usize,
    /// Guidance of the high-noise expert. At most 1 switches guidance off for both experts, as in diffusers.
    pub guidance_scale: f64,
    /// Guidance of the low-noise expert.
    pub guidance_scale_2: f64,
    /// Shift of the sigma schedule.
    pub flow_shift: f64,
    /// Share of the noise range from which the high-noise expert works; `None` for one expert.
    pub boundary_ratio: Option<f64>,
    /// Sampler.
    pub scheduler: SchedulerKind,
    /// Seed of the initial noise.
    pub seed: u64,
    /// Generator of the initial noise.
    pub noise: NoiseSource,
    /// Spatial tiling of the VAE decoder; changes the output.
    pub tiling: Option<Tiling>,
}

impl GenerateParams {
    /// Whether the unconditional pass runs.
    pub fn guided(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// Refuses values no model can use. Sizes that depend on the model are checked by the pipeline.
    ///
    /// # Errors
    /// [`Error::Caller`] naming the field.
    pub fn validate(&self) -> Result<()> {
        for (field, value) in [
            ("guidance_scale", self.guidance_scale),
            ("guidance_scale_2", self.guidance_scale_2),
        ] {
            if !(0.0..=100.0).contains(&value) {
                return Err(Error::caller(
                    field,
                    format!("{value} is not between 0 and 100"),
                ));
            }
        }
        if let Some(ratio) = self.boundary_ratio
            && !(0.0..=1.0).contains(&ratio)
        {
            return Err(Error::caller(
                "boundary_ratio",
                format!("{ratio} is not between 0 and 1"),
            ));
        }
        if self.num_frames == 0 {
            return Err(Error::caller(
                "num_frames",
                "0 frames make no clip; ask for at least 1",
            ));
        }
        if self.height == 0 || self.width == 0 {
            return Err(Error::caller(
                "height, width",
                format!("{}x{} is empty", self.width, self.height),
            ));
        }
        Ok(())
    }
}

/// Refuses a side that the model cannot divide into tokens.
///
/// # Errors
/// [`Error::Caller`] naming the field and the nearest sizes that work.
pub fn check_multiple(field: &str, size: usize, multiple: usize) -> Result<()> {
    if size.is_multiple_of(multiple) {
        return Ok(());
    }
    let (below, above) = (size / multiple * multiple, (size / multiple + 1) * multiple);
    let remedy = if below == 0 {
        above.to_string()
    } else {
        format!("{below} or {above}")
    };
    let message =
        format!("{size} is not a multiple of {multiple}, which this model needs; try {remedy}");
    Err(Error::caller(field, message))
}

/// Stages of a generation, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Reading weights.
    Load,
    /// Encoding prompts.
    TextEncode,
    /// Encoding the first frame.
    ImageEncode,
    /// Sampler steps.
    Denoise,
    /// Decoding latents; counted in latent frames.
    VaeDecode,
}

impl Stage {
    /// Name used in progress bars and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::TextEncode => "text encode",
            Self::ImageEncode => "image encode",
            Self::Denoise => "denoise",
            Self::VaeDecode => "vae decode",
        }
    }
}

/// Follows a generation.
pub trait Observer {
    /// `done` of `total` parts of `stage` are finished; called with 0 when the stage begins.
    fn progress(&mut self, stage: Stage, done: usize, total: usize);

    /// Whether [`Observer::tensor`] should be called: intermediate tensors are only made then.
    fn wants_tensors(&self) -> bool {
        false
    }

    /// An intermediate tensor, named and shaped as documented for `generate --dump`.
    ///
    /// # Errors
    /// Whatever keeps the observer from taking it; ends the generation.
    fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let _ = (name, tensor);
        Ok(())
    }
}

/// An observer that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn progress(&mut self, _: Stage, _: usize, _: usize) {}
}

/// Seconds per stage.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timings {
    /// Reading and packing weights, whenever it happened.
    pub load_s: f64,
    /// Cleaning, tokenising and encoding the prompts.
    pub text_encode_s: f64,
    /// Encoding the first frame.
    pub image_encode_s: f64,
    /// All sampler steps.
    pub denoise_s: f64,
    /// VAE decoding, without the time spent in the caller's frame sink.
    pub vae_decode_s: f64,
}
