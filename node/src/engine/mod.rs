//! The engine: one operating-system thread owns the model and works off a bounded queue.
//!
//! ```text
//! submit ──► queue (bounded, by priority; full or too late = refused at once)
//!              └──► engine thread: denoise ──► decoder thread: VAE, encoder, guards ──► answer
//! ```
//!
//! Decoding one job overlaps denoising the next. Dropping the [`Ticket`] cancels: a waiting job leaves the
//! queue, a running one stops before its next transformer block. A watchdog gives up jobs that make no
//! progress, a self-test tells a damaged device, and a device that only a new process can use is said in
//! [`Health::lost`].
//!
//! Nothing here knows HTTP, and no tensor leaves the two threads: callers see only [`Job`], [`Progress`]
//! and [`Clip`]. A request becomes a job on the caller's thread ([`Admission`]), so that a bad one is
//! refused at once. Everything but tensors is tested through [`FakeBackend`].

mod control;
mod error;
mod estimate;
mod fake;
mod health;
mod queue;
mod wan;
mod worker;

use std::fmt::Debug;
use std::sync::Arc;

use leoma_models::wan::pipeline::GenerateParams;
use serde::Serialize;

use crate::generation::{GenerationRequest, Media, Settings, StageSeconds};
use crate::media::RgbImage8;

pub use control::{Control, Expected, Progress, Stage};
pub use error::{EngineError, Fault};
pub use estimate::{Cost, Speed};
pub use fake::{FakeBackend, FakeScript};
pub use health::{CanaryReport, Health};
pub use queue::{Load, Priority, Submission, Ticket};
pub use wan::{ModelAdmission, WanBackend, WanOptions};
pub use worker::{Engine, EngineOptions};

/// One clip to make: every value decided, the picture decoded.
#[derive(Clone)]
pub struct Job {
    /// What to make.
    pub settings: Settings,
    /// The first frame as the caller sent it, before it is brought to size.
    pub image: Option<RgbImage8>,
    /// How much work it is, for estimates.
    pub cost: Cost,
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
            .finish_non_exhaustive()
    }
}

/// A finished clip.
#[derive(Clone, PartialEq)]
pub struct Clip {
    /// The file and its still.
    pub media: Media,
    /// What it was made with, so that it can be made again.
    pub effective: EffectiveParameters,
    /// Seconds per stage.
    pub stages: StageSeconds,
    /// Seconds in the queue.
    pub queue_s: f64,
}

impl Clip {
    /// Seconds per stage by name.
    pub fn stages(&self) -> [(&'static str, f64); 6] {
        let stages = &self.stages;
        [
            ("load", stages.load_s),
            ("text_encode", stages.text_encode_s),
            ("image_encode", stages.image_encode_s),
            ("denoise", stages.denoise_s),
            ("vae_decode", stages.vae_decode_s),
            ("video_encode", stages.video_encode_s),
        ]
    }
}

impl Debug for Clip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clip")
            .field("media", &self.media)
            .field("effective", &self.effective)
            .field("stages", &self.stages)
            .finish_non_exhaustive()
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

/// What is loaded.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ModelInfo {
    /// Name in the API.
    pub name: String,
    /// Model kind as `models inspect` names it: `ti2v-5b`, `i2v-a14b`, …
    pub kind: String,
    /// Digest of the weights.
    pub digest: Option<String>,
    /// Revision (commit) of the checkpoint, where the operator told it.
    pub revision: Option<String>,
    /// Preset that fills what a request leaves out.
    pub preset: String,
    /// Number types: `f32`, `bf16`, `f16`, `fp8`.
    pub dtype: String,
    /// Where bf16 rounds: `diffusers` or `official`; null where nothing is bf16.
    pub bf16_rounding: Option<String>,
    /// Whether clips lose precision that the checkpoint does not ask to lose (`fp8`).
    pub lossy: bool,
    /// LoRAs in the weights: file, SHA-256, strength, experts.
    #[schema(value_type = Vec<Object>)]
    pub loras: Vec<leoma_models::weights::LoraReport>,
    /// Device: `cpu`, `cuda:0`, …
    pub device: String,
    /// What computes attention: `cpu-flash`, `cudnn-sdpa 9.19.0`, `leoma-mma`, …
    pub attention: String,
    /// Whether clips can be made from a prompt alone.
    pub text_to_video: bool,
    /// Whether clips can be made from a prompt and a first frame.
    pub image_to_video: bool,
    /// Width and height that `720p` means for this model.
    #[serde(skip)]
    pub size_720p: [usize; 2],
    /// What the preset fills in, by field name.
    #[serde(skip)]
    pub defaults: serde_json::Value,
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

    /// Makes the latents of one clip; the rest is done by the returned [`Decode`] while the next clip is
    /// denoised.
    ///
    /// Asks [`Control::cancelled`] at least once per transformer block and returns
    /// [`EngineError::Cancelled`] when it is set.
    ///
    /// # Errors
    /// Whatever stopped it, by fault owner. A panic is caught by the engine and fails this job only.
    fn denoise(
        &mut self,
        job: &Arc<Job>,
        control: &Control,
    ) -> Result<Box<dyn Decode>, EngineError>;

    /// A small piece of fixed work through all networks. The values must be the same each time.
    ///
    /// # Errors
    /// As [`Backend::denoise`].
    fn canary(&mut self, control: &Control) -> Result<Vec<f32>, EngineError>;
}

/// The second half of a job, on the decoder thread.
pub trait Decode: Send {
    /// Decodes and encodes the clip, and refuses one that must not be handed out.
    ///
    /// # Errors
    /// As [`Backend::denoise`], and [`EngineError::BadOutput`].
    fn decode(self: Box<Self>, control: &Control) -> Result<Clip, EngineError>;
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
            cost: super::Cost {
                denoise: 1.0,
                decode: 1.0,
            },
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
