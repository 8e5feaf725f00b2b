//! Runs one generation: picture → first frame → latents → frames → files or bytes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Device, Tensor};
use leoma_models::rounding::Rounding;
use leoma_models::wan::pipeline::{GenerateParams, LatentClip, Observer, Offload, WanPipeline};
use leoma_models::wan::plan::{MemoryPlan, ModelSizes, PlanRequest};
use leoma_models::weights::{Checkpoint, ModelFiles, validate};
use leoma_models::{AttentionChoice, Precision};
use serde::Serialize;

use super::budget::{Budget, MemoryOptions, OffloadChoice, Planning, TextEncoderDevice};
use super::dump::Dump;
use super::preset::Preset;
use super::settings::{Effective, GenerationRequest, ModelDefaults, Origin, Settings, resolve};
use super::sink::{FrameSink, Media, Target};
use crate::error::{Error, Result};
use crate::media::{self, ImageLimits, ImagePreparation, RgbImage8};
use crate::telemetry;

/// Where a clip goes.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// The clip; published when it is whole.
    pub mp4: Option<PathBuf>,
    /// Folder for one PNG per frame, created when missing.
    pub frames_dir: Option<PathBuf>,
}

/// Seconds per stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StageSeconds {
    /// Reading weights.
    pub load_s: f64,
    /// Encoding the prompts.
    pub text_encode_s: f64,
    /// Preparing and encoding the first frame.
    pub image_encode_s: f64,
    /// All sampler steps.
    pub denoise_s: f64,
    /// VAE decoding.
    pub vae_decode_s: f64,
    /// Bytes, H.264, PNG.
    pub video_encode_s: f64,
}

impl StageSeconds {
    /// All stages together.
    pub fn total(&self) -> f64 {
        self.load_s
            + self.text_encode_s
            + self.image_encode_s
            + self.denoise_s
            + self.vae_decode_s
            + self.video_encode_s
    }
}

/// What a finished generation reports.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Seconds per stage.
    pub stages: StageSeconds,
    /// Largest resident set of this process so far.
    pub peak_memory_bytes: u64,
    /// Digest of the weights that were used.
    pub checkpoint_digest: String,
}

/// Turns requests into settings: everything that can be decided about a generation without a device.
/// Cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Resolver {
    checkpoint: Checkpoint,
    defaults: ModelDefaults,
    limits: ImageLimits,
    /// What the operator chose that makes other clips than the checkpoint alone.
    labels: Vec<Effective>,
}

impl Resolver {
    /// A resolver for one checkpoint, computed in `precision`.
    pub fn new(checkpoint: Checkpoint, precision: Precision) -> Self {
        let mut labels = Vec::new();
        let mut label = |name, value| {
            labels.push(Effective {
                name,
                value,
                origin: Origin::Node,
            });
        };
        if precision.is_lossy() {
            label("precision", format!("{precision} (lossy)").into());
        }
        if !checkpoint.loras().is_empty() {
            label("loras", serde_json::json!(checkpoint.loras()));
        }
        let defaults = ModelDefaults::of(&checkpoint, WanPipeline::size_multiple(&checkpoint));
        Self {
            checkpoint,
            defaults,
            limits: ImageLimits::default(),
            labels,
        }
    }

    /// What the checkpoint says about its own defaults.
    pub fn defaults(&self) -> &ModelDefaults {
        &self.defaults
    }

    /// Decodes the picture and decides every value; computes nothing. `preset` holds where the request names
    /// none.
    ///
    /// # Errors
    /// What is wrong with the request, naming the field.
    pub fn resolve(
        &self,
        request: &GenerationRequest,
        preset: Preset,
    ) -> Result<(Settings, Option<RgbImage8>)> {
        let preset = request.preset.unwrap_or(preset);
        let image = match &request.image {
            Some(bytes) => Some(media::decode(bytes, &self.limits)?),
            None => None,
        };
        let size = image.as_ref().map(|image| [image.height(), image.width()]);
        let mut settings = resolve(request, preset, &self.defaults, size)?;
        settings.effective.extend_from_slice(&self.labels);
        WanPipeline::check_task(&self.checkpoint, &settings.params, image.is_some())?;
        Ok((settings, image))
    }
}

/// A loaded checkpoint that makes clips.
#[derive(Debug)]
pub struct Generator {
    pipeline: WanPipeline,
    resolver: Resolver,
    planning: Planning,
    /// Whether the offload mode is still to be chosen.
    automatic: bool,
    attention: AttentionChoice,
}

impl Generator {
    /// Opens a checkpoint and checks all its headers; weights are read when first needed. What is free
    /// now is what may be used.
    ///
    /// # Errors
    /// [`leoma_models::Error::Artifact`] listing what does not fit.
    pub fn open(
        files: &ModelFiles,
        precision: Precision,
        device: &Device,
        memory: impl Into<MemoryOptions>,
    ) -> Result<Self> {
        let memory = memory.into();
        let checkpoint = Checkpoint::open_files(files)?;
        validate(&checkpoint)?;
        let sizes = ModelSizes::of(&checkpoint);
        let resolver = Resolver::new(checkpoint.clone(), precision);
        let (offload, automatic) = match memory.offload {
            OffloadChoice::Fixed(offload) => (offload, false),
            OffloadChoice::Auto => (Offload::None, true),
        };
        let mut pipeline = WanPipeline::new(checkpoint, precision, device, offload)?;
        if memory.text_encoder == TextEncoderDevice::Cpu {
            pipeline = pipeline.with_text_encoder_on(Device::Cpu);
        }
        // Before memory is measured: cuDNN takes some.
        let attention = pipeline.attention()?;
        tracing::info!(backend = %attention.backend, reason = attention.reason, "attention");
        let budget = Budget::measure(device, memory.limit);
        let planning = Planning::new(sizes, pipeline.plan_options(), budget);
        Ok(Self {
            pipeline,
            resolver,
            planning,
            automatic,
            attention,
        })
    }

    /// Plans for a node that decodes one clip while it works on the next.
    #[must_use]
    pub fn serving(mut self) -> Self {
        self.planning = self.planning.serving();
        self
    }

    /// Plans and decides about memory.
    pub fn planning(&self) -> &Planning {
        &self.planning
    }

    /// The memory plan of a generation. Where the offload mode is open, the first plan decides it.
    pub fn plan(&mut self, params: &GenerateParams, with_image: bool) -> MemoryPlan {
        self.plan_request(PlanRequest::new(params, with_image))
    }

    pub(crate) fn plan_request(&mut self, request: PlanRequest) -> MemoryPlan {
        if std::mem::take(&mut self.automatic) {
            let offload = self.planning.choose(request);
            self.planning.set_offload(offload);
            self.pipeline.set_offload(offload);
        }
        self.planning.plan(request)
    }

    /// [`Self::plan`], refused where it does not fit.
    ///
    /// # Errors
    /// [`leoma_models::Error::Local`] with what is needed, what there is and what would help.
    pub fn admit(&mut self, params: &GenerateParams, with_image: bool) -> Result<MemoryPlan> {
        let plan = self.plan(params, with_image);
        self.planning
            .check(&plan)
            .map_err(|shortage| leoma_models::Error::local(shortage.to_string()))?;
        Ok(plan)
    }

    /// Follows another reference's rounding; what was loaded is dropped.
    ///
    /// # Errors
    /// As [`WanPipeline::with_rounding`].
    pub fn with_rounding(mut self, rounding: Rounding) -> Result<Self> {
        self.pipeline = self.pipeline.with_rounding(rounding)?;
        self.planning.set_options(self.pipeline.plan_options());
        Ok(self)
    }

    /// Reads all weights that stay in memory.
    ///
    /// # Errors
    /// As [`WanPipeline::load`].
    pub fn load(&mut self, observer: &mut dyn Observer) -> Result<()> {
        Ok(self.pipeline.load(observer)?)
    }

    /// Decides what requests mean for this checkpoint.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// What computes attention.
    pub fn attention(&self) -> &AttentionChoice {
        &self.attention
    }

    /// The pipeline, for callers that need more than a clip.
    pub fn pipeline(&self) -> &WanPipeline {
        &self.pipeline
    }

    /// Makes the clip and writes it as `output` says.
    ///
    /// `dump` collects what is decoded, as floats and as bytes. `cancelled` is asked before every
    /// transformer block and every latent frame; a cancelled or failed run leaves no file.
    ///
    /// # Errors
    /// As [`WanPipeline::generate`], and media errors from writing.
    pub fn run(
        &mut self,
        settings: &Settings,
        image: Option<&RgbImage8>,
        output: &Output,
        observer: &mut dyn Observer,
        dump: Option<&mut Dump>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Report> {
        if let Some(folder) = &output.frames_dir {
            std::fs::create_dir_all(folder)
                .map_err(|error| leoma_models::Error::io(folder, error))?;
        }
        let denoised = self.denoise(settings, image, observer, cancelled)?;
        let target = Target::Files(output);
        let (report, _) = denoised.decode(settings, target, observer, dump, cancelled)?;
        Ok(report)
    }

    /// The first part of a run: everything that needs the transformer.
    ///
    /// # Errors
    /// As [`WanPipeline::denoise`].
    pub fn denoise(
        &mut self,
        settings: &Settings,
        image: Option<&RgbImage8>,
        observer: &mut dyn Observer,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Denoised> {
        let start = Instant::now();
        let first_frame = image
            .map(|image| first_frame(image, settings))
            .transpose()?;
        let prepare_s = start.elapsed().as_secs_f64();
        let params = &settings.params;
        let latents = self
            .pipeline
            .denoise(params, first_frame.as_ref(), observer, cancelled)?;
        Ok(Denoised {
            latents,
            prepare_s,
            // Every network has been read by now: the digest covers what was used.
            checkpoint_digest: self.pipeline.checkpoint().digest(),
        })
    }
}

/// A clip that is still to be decoded; independent of the [`Generator`] it came from.
#[derive(Debug)]
pub struct Denoised {
    latents: LatentClip,
    prepare_s: f64,
    checkpoint_digest: String,
}

impl Denoised {
    /// Some of the latents and of the decoded values, evenly spread: a fingerprint of the work.
    ///
    /// # Errors
    /// As decoding.
    pub fn sample(self, count: usize) -> Result<Vec<f32>> {
        let mut values = Vec::with_capacity(2 * count);
        let take = |tensor: &Tensor, values: &mut Vec<f32>| -> leoma_models::Result<()> {
            let all = tensor
                .to_device(&Device::Cpu)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            values.extend(all.iter().step_by((all.len() / count).max(1)));
            Ok(())
        };
        take(self.latents.latents(), &mut values)?;
        self.latents.decode(
            &mut leoma_models::wan::pipeline::Unobserved,
            &|| false,
            &mut |frames| take(&frames, &mut values),
        )?;
        Ok(values)
    }

    /// Decodes, encodes and hands out the file; `scratch` holds it while it is written.
    ///
    /// # Errors
    /// As [`Generator::run`], and [`Error::Output`] for a clip that must not be handed out.
    pub fn into_media(
        self,
        settings: &Settings,
        scratch: &Path,
        observer: &mut dyn Observer,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(Report, Media)> {
        let target = Target::Memory { scratch };
        let (report, media) = self.decode(settings, target, observer, None, cancelled)?;
        let media = media.ok_or_else(|| leoma_models::Error::local("the encoder made no file"))?;
        Ok((report, media))
    }

    fn decode(
        self,
        settings: &Settings,
        target: Target<'_>,
        observer: &mut dyn Observer,
        dump: Option<&mut Dump>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(Report, Option<Media>)> {
        let Self {
            latents,
            prepare_s,
            checkpoint_digest,
        } = self;
        let mut frames = FrameSink::new(settings, &checkpoint_digest, target, dump);
        // The pipeline's sink speaks the pipeline's error; a media error waits here.
        let mut failure: Option<Error> = None;
        let result = latents.decode(observer, cancelled, &mut |chunk| {
            frames.take(&chunk).map_err(|error| {
                failure = Some(error);
                leoma_models::Error::Cancelled
            })
        });
        if let Some(error) = failure {
            return Err(error);
        }
        let timings = result?;
        for reason in leoma_models::conv3d_refusals() {
            tracing::debug!(reason, "a convolution that cuDNN does not compute");
        }
        let (media, video_encode_s) = frames.finish()?;
        let report = Report {
            stages: StageSeconds {
                load_s: timings.load_s,
                text_encode_s: timings.text_encode_s,
                image_encode_s: timings.image_encode_s + prepare_s,
                denoise_s: timings.denoise_s,
                vae_decode_s: timings.vae_decode_s,
                video_encode_s,
            },
            // 0 where the system does not say.
            peak_memory_bytes: telemetry::peak_resident_bytes().unwrap_or(0),
            checkpoint_digest,
        };
        Ok((report, media))
    }
}

/// The prepared first frame, `[3, H, W]` f32 in [-1, 1].
fn first_frame(image: &RgbImage8, settings: &Settings) -> Result<Tensor> {
    let (height, width) = (settings.params.height, settings.params.width);
    // A picture of the clip's size is used as it is, whatever the preset's rule would make of it.
    let rule = if [image.height(), image.width()] == [height, width] {
        ImagePreparation::Diffusers
    } else {
        settings.image_preparation
    };
    let prepared = media::prepare(image, rule, height, width)?;
    let shape = (3, prepared.height, prepared.width);
    Ok(
        Tensor::from_vec(prepared.pixels, shape, &Device::Cpu)
            .map_err(leoma_models::Error::from)?,
    )
}
