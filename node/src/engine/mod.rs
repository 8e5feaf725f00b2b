//! The engine: one operating-system thread owns the model and works off a bounded queue.
//!
//! ```text
//! submit ──► queue (bounded, full = refused at once) ──► engine thread ──► oneshot answer
//!    └── dropping the [`Ticket`] cancels: a waiting job leaves the queue, a running one stops
//!        at its next step
//! ```
//!
//! Nothing here knows HTTP, and no tensor leaves the thread: callers see only [`Job`], [`Progress`]
//! and [`Clip`]. A request becomes a job on the caller's thread ([`Admission`]), so that a bad one is
//! refused at once. Everything but tensors is tested through a scripted [`Backend`].

mod control;
mod error;
mod queue;
mod wan;
mod worker;

use std::fmt::Debug;
use std::sync::Arc;

use leoma_models::wan::pipeline::GenerateParams;
use serde::Serialize;

use crate::generation::{GenerationRequest, Settings};
use crate::media::RgbImage8;

pub use control::{Control, Progress, Stage};
pub use error::{EngineError, Fault};
pub use queue::{Load, Ticket};
pub use wan::{ModelAdmission, WanBackend};
pub use worker::Engine;

/// One clip to make: every value decided, the picture decoded.
#[derive(Clone)]
pub struct Job {
    /// What to make.
    pub settings: Settings,
    /// The first frame as the caller sent it, before it is brought to size.
    pub image: Option<RgbImage8>,
}

impl Job {
    /// What the clip is made with.
    pub fn effective(&self) -> EffectiveParameters {
        let GenerateParams {
            seed,
            num_inference_steps,
            num_frames,
            height,
            width,
            ..
        } = self.settings.params;
        let fps = self.settings.fps;
        EffectiveParameters {
            seed,
            num_inference_steps,
            num_frames,
            fps,
            height,
            width,
        }
    }
}

impl Debug for Job {
    /// Leaves prompt and picture out: what users write and send stays out of the logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("prompt_bytes", &self.settings.params.prompt.len())
            .field("image", &self.image)
            .field("effective", &self.effective())
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

/// Turns a request into a job without touching the device, so that a bad request is refused at once and
/// not after it has waited behind others. May take milliseconds: the picture is decoded here.
pub trait Admission: Send + Sync + Debug {
    /// Decides every value.
    ///
    /// # Errors
    /// The first thing that is wrong with the request, naming the field and the remedy.
    fn prepare(&self, request: &GenerationRequest) -> Result<Job, EngineError>;
}

/// What makes clips. Lives on the engine thread from construction to the end.
pub trait Backend {
    /// What is loaded.
    fn info(&self) -> ModelInfo;

    /// Reads requests for this model, on any thread.
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

#[cfg(test)]
mod testing {
    #![allow(clippy::unwrap_used)]
    use leoma_models::weights::ModelKind;

    use super::Job;
    use crate::generation::{GenerationRequest, ModelDefaults, Preset, resolve};

    /// Some valid job.
    pub(super) fn job() -> Job {
        let model = ModelDefaults {
            kind: ModelKind::T2vA14b,
            flow_shift: None,
            boundary_ratio: None,
            temporal_stride: 4,
            size_multiple: [16, 16],
        };
        let request = GenerationRequest {
            prompt: "a boat".into(),
            ..GenerationRequest::default()
        };
        let settings = resolve(&request, Preset::Leoma, &model, None).unwrap();
        Job {
            settings,
            image: None,
        }
    }

    #[test]
    fn debug_output_of_a_job_has_no_user_content() {
        let text = format!("{:?}", job());
        assert!(
            text.contains("prompt_bytes: 6") && !text.contains("boat"),
            "{text}"
        );
    }
}
