//! The real backend: a Wan checkpoint behind [`Backend`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use leoma_models::Precision;
use leoma_models::rounding::Rounding;
use leoma_models::wan::cost;
use leoma_models::wan::pipeline::{self, Observer};
use leoma_models::wan::plan::{Memory, MemoryPlan, PlanRequest};
use leoma_models::wan::transformer::CONTEXT_LEN;
use leoma_models::weights::{Checkpoint, Component, ModelFiles, ModelKind};
use serde_json::json;

use super::{Admission, Backend, Clip, Control, Cost, Decode, EngineError, Job, ModelInfo, Stage};
use crate::generation::{
    Denoised, GenerationRequest, Generator, MemoryOptions, Planning, Preset, Resolver,
};
use crate::memory::host_available;
use crate::telemetry::resident_bytes;

/// Reads requests for one checkpoint and preset.
#[derive(Debug)]
pub struct ModelAdmission {
    resolver: Resolver,
    checkpoint: Checkpoint,
    preset: Preset,
    planning: Planning,
}

impl ModelAdmission {
    fn plan(&self, job: &Job) -> MemoryPlan {
        let request = PlanRequest::new(&job.settings.params, job.image.is_some());
        self.planning.plan(request)
    }

    fn job(&self, request: &GenerationRequest) -> Result<Job, EngineError> {
        let (settings, image) = self.resolver.resolve(request, self.preset)?;
        let cost = Cost {
            denoise: cost::denoise_flops(
                self.checkpoint.transformer_config(Component::Transformer),
                self.checkpoint.vae_config(),
                &settings.params,
            ),
            decode: cost::decode_units(&settings.params),
        };
        Ok(Job {
            settings,
            image,
            cost,
        })
    }
}

impl Admission for ModelAdmission {
    fn prepare(&self, request: &GenerationRequest) -> Result<Job, EngineError> {
        let job = self.job(request)?;
        self.planning.check(&self.plan(&job)).map_err(|shortage| {
            EngineError::TooLargeForDevice {
                message: shortage.to_string(),
            }
        })?;
        Ok(job)
    }
}

/// What a [`WanBackend`] is opened with.
#[derive(Debug, Clone)]
pub struct WanOptions {
    /// Checkpoint folder, single files and LoRAs.
    pub files: ModelFiles,
    /// Name in the API; the folder's name when absent.
    pub name: Option<String>,
    /// Revision of the checkpoint, as the operator knows it.
    pub revision: Option<String>,
    /// Defaults of requests.
    pub preset: Preset,
    /// Number types.
    pub precision: Precision,
    /// Where bf16 rounds.
    pub rounding: Rounding,
    /// Where to compute.
    pub device: Device,
    /// How memory is used.
    pub memory: MemoryOptions,
    /// Where a clip is written before it is sent.
    pub scratch: PathBuf,
}

/// A loaded checkpoint that makes clips.
#[derive(Debug)]
pub struct WanBackend {
    generator: Generator,
    admission: Arc<ModelAdmission>,
    options: WanOptions,
}

impl WanBackend {
    /// Opens a checkpoint and reads what stays in memory.
    ///
    /// # Errors
    /// [`EngineError::Artifact`] for a checkpoint that cannot be used; [`EngineError::Local`] when not even
    /// a small clip fits the memory.
    pub fn open(options: WanOptions) -> Result<Self, crate::Error> {
        let WanOptions {
            files,
            precision,
            device,
            memory,
            ..
        } = &options;
        let mut generator = Generator::open(files, *precision, device, *memory)?
            .with_rounding(options.rounding)?
            .serving();
        for warning in generator.pipeline().checkpoint().warnings() {
            tracing::warn!("{warning}");
        }
        plan_ahead(&mut generator, options.preset)?;
        generator.load(&mut pipeline::Unobserved)?;
        let admission = Arc::new(ModelAdmission {
            resolver: generator.resolver().clone(),
            checkpoint: generator.pipeline().checkpoint().clone(),
            preset: options.preset,
            planning: generator.planning().clone(),
        });
        Ok(Self {
            generator,
            admission,
            options,
        })
    }
}

impl Backend for WanBackend {
    fn info(&self) -> ModelInfo {
        let checkpoint = self.generator.pipeline().checkpoint();
        let WanOptions {
            name,
            files,
            revision,
            preset,
            precision,
            device,
            ..
        } = &self.options;
        let name = name.clone().unwrap_or_else(|| folder_name(&files.root));
        ModelInfo {
            digest: Some(checkpoint.digest()),
            revision: revision.clone(),
            dtype: precision.as_str().to_owned(),
            bf16_rounding: self
                .generator
                .pipeline()
                .rounding()
                .map(|rounding| rounding.as_str().to_owned()),
            lossy: precision.is_lossy(),
            loras: checkpoint.loras().to_vec(),
            device: device_name(device),
            attention: self.generator.attention().backend.to_string(),
            ..model_info(name, checkpoint.kind(), *preset)
        }
    }

    fn admission(&self) -> Arc<dyn Admission> {
        Arc::clone(&self.admission) as Arc<dyn Admission>
    }

    fn denoise(
        &mut self,
        job: &Arc<Job>,
        control: &Control,
    ) -> Result<Box<dyn Decode>, EngineError> {
        self.check_free(job)?;
        let denoised = self.generator.denoise(
            &job.settings,
            job.image.as_ref(),
            &mut Follow(control),
            &|| control.cancelled(),
        )?;
        Ok(Box::new(WanDecode {
            denoised,
            job: Arc::clone(job),
            scratch: self.options.scratch.clone(),
        }))
    }

    /// Two steps at a small size: both experts where there are two, text encoder, VAE both ways.
    fn canary(&mut self, control: &Control) -> Result<Vec<f32>, EngineError> {
        let job = self.admission.job(&self.canary_request()?)?;
        let denoised = self.generator.denoise(
            &job.settings,
            job.image.as_ref(),
            &mut pipeline::Unobserved,
            &|| control.cancelled(),
        )?;
        denoised.sample(CANARY_VALUES).map_err(EngineError::from)
    }
}

/// Chooses the offload mode by the preset's clip and logs its plan, before anything is read.
fn plan_ahead(generator: &mut Generator, preset: Preset) -> Result<(), crate::Error> {
    let defaults = generator.resolver().defaults();
    let (kind, multiple) = (defaults.kind, defaults.size_multiple);
    let canary_frames = defaults.temporal_stride + 1;
    let values = preset.values(kind);
    let usual = PlanRequest {
        num_frames: values.num_frames,
        height: values.height,
        width: values.width,
        guided: values.guidance_scale > 1.0,
        with_image: matches!(kind, ModelKind::I2vA14b | ModelKind::Ti2v5b),
        prompt_tokens: [CONTEXT_LEN; 2],
    };
    let plan = generator.plan_request(usual);
    for line in plan.to_string().lines() {
        tracing::info!("{line}");
    }
    let small = PlanRequest {
        num_frames: canary_frames,
        height: multiple[0] * CANARY_TOKENS,
        width: multiple[1] * CANARY_TOKENS,
        guided: false,
        ..usual
    };
    let planning = generator.planning();
    planning.check(&planning.plan(small)).map_err(|shortage| {
        leoma_models::Error::local(format!("not even a small clip can be made: {shortage}"))
    })?;
    if let Err(shortage) = planning.check(&plan) {
        tracing::warn!("clips of the preset's size will be refused: {shortage}");
    }
    Ok(())
}

/// Latents and pixels of the self-test that are kept.
const CANARY_VALUES: usize = 256;
/// Tokens along each side of the self-test's frame.
const CANARY_TOKENS: usize = 4;

impl WanBackend {
    /// Whether others have taken the memory since the job was admitted. What this process holds already
    /// counts as free.
    fn check_free(&self, job: &Job) -> Result<(), EngineError> {
        if !self.options.device.is_cpu() {
            return Ok(());
        }
        let (Some(free), Some(held)) = (host_available(), resident_bytes()) else {
            return Ok(());
        };
        let available = free + held;
        let needed = self.admission.plan(job).serving_peak(Memory::Host);
        if needed <= available {
            return Ok(());
        }
        let [needed, available] = [needed, available].map(|bytes| bytes as f64 / 1e9);
        Err(EngineError::OutOfMemory {
            message: format!("{needed:.2} GB are needed and {available:.2} GB are left"),
        })
    }

    fn canary_request(&self) -> Result<GenerationRequest, EngineError> {
        let defaults = self.generator.resolver().defaults();
        let [height, width] = defaults
            .size_multiple
            .map(|multiple| multiple * CANARY_TOKENS);
        let image = match defaults.kind {
            ModelKind::I2vA14b | ModelKind::Ti2v5b => {
                let pixels = (0..height * width * 3)
                    .map(|i| (i * 7 % 251) as u8)
                    .collect::<Vec<_>>();
                Some(
                    crate::media::encode_png(width as u32, height as u32, &pixels)
                        .map_err(crate::Error::from)?,
                )
            }
            ModelKind::T2vA14b | ModelKind::Wan21T2v => None,
        };
        Ok(GenerationRequest {
            prompt: "a lighthouse on a rock, waves, evening light".into(),
            image,
            num_frames: Some(defaults.temporal_stride + 1),
            height: Some(height),
            width: Some(width),
            num_inference_steps: Some(2),
            guidance_scale: Some(1.0),
            seed: Some(0),
            ..GenerationRequest::default()
        })
    }
}

/// Latents of a job on their way to a file.
struct WanDecode {
    denoised: Denoised,
    job: Arc<Job>,
    scratch: PathBuf,
}

impl Decode for WanDecode {
    fn decode(self: Box<Self>, control: &Control) -> Result<Clip, EngineError> {
        let (report, media) = self.denoised.into_media(
            &self.job.settings,
            &self.scratch,
            &mut Follow(control),
            &|| control.cancelled(),
        )?;
        Ok(Clip {
            media,
            effective: self.job.effective(),
            stages: report.stages,
            queue_s: 0.0,
        })
    }
}

/// What is known of a model from its kind and preset alone; computed on the CPU in f32 until said otherwise.
pub(super) fn model_info(name: String, kind: ModelKind, preset: Preset) -> ModelInfo {
    let defaults = preset.values(kind);
    ModelInfo {
        name,
        kind: kind.as_str().to_owned(),
        digest: None,
        revision: None,
        preset: preset.name().to_owned(),
        dtype: "f32".into(),
        bf16_rounding: None,
        lossy: false,
        loras: Vec::new(),
        device: "cpu".into(),
        attention: "cpu-flash".into(),
        text_to_video: kind != ModelKind::I2vA14b,
        image_to_video: matches!(kind, ModelKind::I2vA14b | ModelKind::Ti2v5b),
        // 720 is not a multiple of the 5B model's 32 pixels.
        size_720p: if kind == ModelKind::Ti2v5b {
            [1280, 704]
        } else {
            [1280, 720]
        },
        defaults: json!({
            "negative_prompt": defaults.negative_prompt,
            "num_frames": defaults.num_frames,
            "height": defaults.height,
            "width": defaults.width,
            "fps": defaults.fps,
            "num_inference_steps": defaults.num_inference_steps,
            "guidance_scale": defaults.guidance_scale,
            "seed": crate::generation::DEFAULT_SEED,
        }),
    }
}

fn folder_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(
        || "model".into(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn device_name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Hands the pipeline's progress on.
struct Follow<'a>(&'a Control);

impl Observer for Follow<'_> {
    fn progress(&mut self, stage: pipeline::Stage, done: usize, total: usize) {
        let stage = match stage {
            pipeline::Stage::Load => Stage::Load,
            pipeline::Stage::TextEncode => Stage::TextEncode,
            pipeline::Stage::ImageEncode => Stage::ImageEncode,
            pipeline::Stage::Denoise => Stage::Denoise,
            pipeline::Stage::VaeDecode => Stage::VaeDecode,
        };
        self.0.progress(stage, done, total);
    }
}
