//! The engine: one operating-system thread owns the model and works off a bounded queue.
//!
//! ```text
//! submit ──► queue (bounded, full = refused at once) ──► engine thread ──► oneshot answer
//!    └── dropping the [`Ticket`] cancels: a waiting job leaves the queue, a running one stops
//!        at its next step
//! ```
//!
//! Nothing here knows HTTP, and no tensor leaves the thread: callers see only [`Job`], [`Progress`]
//! and [`Clip`]. Everything but tensors is tested through a scripted [`Backend`].

mod control;
mod error;
mod queue;
mod worker;

use std::fmt::Debug;
use std::sync::Arc;

use serde::Serialize;

pub use control::{Control, Progress, Stage};
pub use error::{EngineError, Fault};
pub use queue::{Load, Ticket};
pub use worker::Engine;

/// One clip that a caller asks for. `None` means "the preset's value for this model".
#[derive(Clone, Default, PartialEq)]
pub struct Job {
    /// What the clip shows. Never written to a log.
    pub prompt: String,
    /// What it must not show.
    pub negative_prompt: Option<String>,
    /// The first frame as it came: the bytes of a PNG, JPEG or WebP file of any size.
    pub image: Option<Vec<u8>>,
    /// Length in frames.
    pub num_frames: Option<usize>,
    /// Frames per second of the file.
    pub fps: Option<u32>,
    /// Pixels.
    pub height: Option<usize>,
    /// Pixels.
    pub width: Option<usize>,
    /// Denoising steps.
    pub num_inference_steps: Option<usize>,
    /// Guidance scale; 1 turns the second pass off.
    pub guidance_scale: Option<f64>,
    /// Guidance scale of the low-noise expert.
    pub guidance_scale_2: Option<f64>,
    /// Flow shift of the schedule.
    pub flow_shift: Option<f64>,
    /// Seed of the noise; drawn at random when absent.
    pub seed: Option<u64>,
}

impl Debug for Job {
    /// Prints lengths in place of the prompt and the picture: users' content stays out of the logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("prompt_bytes", &self.prompt.len())
            .field(
                "negative_prompt_bytes",
                &self.negative_prompt.as_ref().map(String::len),
            )
            .field("image_bytes", &self.image.as_ref().map(Vec::len))
            .field("num_frames", &self.num_frames)
            .field("fps", &self.fps)
            .field("height", &self.height)
            .field("width", &self.width)
            .field("num_inference_steps", &self.num_inference_steps)
            .field("guidance_scale", &self.guidance_scale)
            .field("guidance_scale_2", &self.guidance_scale_2)
            .field("flow_shift", &self.flow_shift)
            .field("seed", &self.seed)
            .finish()
    }
}

/// A finished clip.
#[derive(Clone, PartialEq)]
pub struct Clip {
    /// The whole MP4 file.
    pub mp4: Vec<u8>,
    /// What it was made with, so that it can be made again.
    pub effective: EffectiveParameters,
}

impl Debug for Clip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clip")
            .field("mp4_bytes", &self.mp4.len())
            .field("effective", &self.effective)
            .finish()
    }
}

/// The values a clip was made with, after presets and rounding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EffectiveParameters {
    /// Seed of the noise.
    pub seed: u64,
    /// Denoising steps.
    pub num_inference_steps: usize,
    /// Frames in the file.
    pub num_frames: usize,
    /// Frames per second of the file.
    pub fps: u32,
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
}

/// What is loaded, for `/health` and for reading requests.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelInfo {
    /// Model kind as `models inspect` names it: `ti2v-5b`, `i2v-a14b`, …
    pub kind: String,
    /// Preset that fills what a request leaves out.
    pub preset: String,
    /// Compute dtype: `f32`, `bf16`, `f16`.
    pub dtype: String,
    /// Device: `cpu`, `cuda:0`, …
    pub device: String,
    /// Width and height that `720p` means for this model.
    #[serde(skip)]
    pub size_720p: [usize; 2],
}

/// Checks a job without touching the device, so that a bad request is refused at once and not after
/// it has waited behind others. Decoding the picture belongs here; it may take milliseconds.
pub trait Admission: Send + Sync + Debug {
    /// # Errors
    /// The first thing that is wrong with the job, naming the field and the remedy.
    fn check(&self, job: &Job) -> Result<(), EngineError>;
}

/// What makes clips. Lives on the engine thread from construction to the end.
pub trait Backend {
    /// What is loaded.
    fn info(&self) -> ModelInfo;

    /// The checks for jobs, usable from any thread.
    fn admission(&self) -> Arc<dyn Admission>;

    /// Makes one clip.
    ///
    /// Looks at [`Control::cancelled`] at least once per denoising step and returns
    /// [`EngineError::Cancelled`] when it is set.
    ///
    /// # Errors
    /// Whatever stopped it, by fault owner. A panic is caught by the engine and fails this job only.
    fn generate(&mut self, job: &Job, control: &Control) -> Result<Clip, EngineError>;
}
