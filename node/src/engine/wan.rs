//! The real backend: a Wan checkpoint behind [`Backend`].

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device};
use leoma_models::wan::pipeline::{self, Observer, Offload};
use leoma_models::weights::ModelKind;

use super::{Admission, Backend, Clip, Control, EngineError, Job, ModelInfo, Stage};
use crate::generation::{GenerationRequest, Generator, Preset, Resolver};

/// Reads requests for one checkpoint and preset.
#[derive(Debug)]
pub struct ModelAdmission {
    resolver: Resolver,
    preset: Preset,
}

impl Admission for ModelAdmission {
    fn prepare(&self, request: &GenerationRequest) -> Result<Job, EngineError> {
        let (settings, image) = self.resolver.resolve(request, self.preset)?;
        Ok(Job { settings, image })
    }
}

/// A loaded checkpoint that makes clips.
#[derive(Debug)]
pub struct WanBackend {
    generator: Generator,
    preset: Preset,
    info: ModelInfo,
    /// Where a clip is written before it is sent.
    scratch: PathBuf,
}

impl WanBackend {
    /// Opens a checkpoint and reads what stays in memory.
    ///
    /// # Errors
    /// [`EngineError::Artifact`] for a checkpoint that cannot be used.
    pub fn open(
        model: &std::path::Path,
        preset: Preset,
        dtype: DType,
        device: &Device,
        offload: Offload,
        scratch: PathBuf,
    ) -> Result<Self, crate::Error> {
        let mut generator = Generator::open(model, dtype, device, offload)?;
        generator.load(&mut pipeline::Unobserved)?;
        let kind = generator.resolver().defaults().kind;
        let info = ModelInfo {
            kind: kind.as_str().to_owned(),
            preset: preset.name().to_owned(),
            dtype: dtype.as_str().to_owned(),
            device: device_name(device),
            // 720 is not a multiple of the 5B model's 32 pixels.
            size_720p: if kind == ModelKind::Ti2v5b {
                [1280, 704]
            } else {
                [1280, 720]
            },
        };
        Ok(Self {
            generator,
            preset,
            info,
            scratch,
        })
    }
}

impl Backend for WanBackend {
    fn info(&self) -> ModelInfo {
        self.info.clone()
    }

    fn admission(&self) -> Arc<dyn Admission> {
        let resolver = self.generator.resolver().clone();
        Arc::new(ModelAdmission {
            resolver,
            preset: self.preset,
        })
    }

    fn generate(&mut self, job: &Job, control: &Control) -> Result<Clip, EngineError> {
        let report = self.generator.run_in_memory(
            &job.settings,
            job.image.as_ref(),
            &self.scratch,
            &mut Follow(control),
            &|| control.cancelled(),
        )?;
        let mp4 = report.mp4.filter(|bytes| !bytes.is_empty());
        let mp4 = mp4.ok_or_else(|| EngineError::local("the encoder wrote an empty file"))?;
        tracing::info!(stages = ?report.stages, peak_memory_bytes = report.peak_memory_bytes);
        Ok(Clip {
            mp4,
            effective: job.effective(),
        })
    }
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
