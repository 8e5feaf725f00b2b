//! Runs one generation: picture → first frame, pipeline → bytes → files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use leoma_models::wan::pipeline::{Observer, Offload, WanPipeline};
use leoma_models::weights::{Checkpoint, validate};
use serde::Serialize;
use serde_json::json;

use super::dump::Dump;
use super::preset::Preset;
use super::settings::{GenerationRequest, ModelDefaults, Settings, resolve};
use crate::error::{Error, Result};
use crate::media::{
    self, Fps, ImageLimits, ImagePreparation, Mp4Options, Mp4Writer, RgbImage8, frames_to_u8,
    write_png,
};

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
    /// The MP4 file when it was asked for in memory.
    pub mp4: Option<Vec<u8>>,
}

/// Turns requests into settings: everything that can be decided about a generation without a device.
/// Cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Resolver {
    checkpoint: Checkpoint,
    defaults: ModelDefaults,
    limits: ImageLimits,
}

impl Resolver {
    /// A resolver for one checkpoint.
    pub fn new(checkpoint: Checkpoint) -> Self {
        let defaults = ModelDefaults::of(&checkpoint, WanPipeline::size_multiple(&checkpoint));
        Self {
            checkpoint,
            defaults,
            limits: ImageLimits::default(),
        }
    }

    /// What the checkpoint says about its own defaults.
    pub fn defaults(&self) -> &ModelDefaults {
        &self.defaults
    }

    /// Decodes the picture and decides every value; computes nothing.
    ///
    /// # Errors
    /// What is wrong with the request, naming the field.
    pub fn resolve(
        &self,
        request: &GenerationRequest,
        preset: Preset,
    ) -> Result<(Settings, Option<RgbImage8>)> {
        let image = match &request.image {
            Some(bytes) => Some(media::decode(bytes, &self.limits)?),
            None => None,
        };
        let size = image.as_ref().map(|image| [image.height(), image.width()]);
        let settings = resolve(request, preset, &self.defaults, size)?;
        WanPipeline::check_task(&self.checkpoint, &settings.params, image.is_some())?;
        Ok((settings, image))
    }
}

/// A loaded checkpoint that makes clips.
#[derive(Debug)]
pub struct Generator {
    pipeline: WanPipeline,
    resolver: Resolver,
}

impl Generator {
    /// Opens a checkpoint and checks all its headers; weights are read when first needed.
    ///
    /// # Errors
    /// [`leoma_models::Error::Artifact`] listing what does not fit.
    pub fn open(model: &Path, dtype: DType, device: &Device, offload: Offload) -> Result<Self> {
        let checkpoint = Checkpoint::open(model)?;
        validate(&checkpoint)?;
        let resolver = Resolver::new(checkpoint.clone());
        let pipeline = WanPipeline::new(checkpoint, dtype, device, offload)?;
        Ok(Self { pipeline, resolver })
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
        let make = |options: &Mp4Options| match &output.mp4 {
            Some(path) => Ok(Some(Mp4Writer::create(path, options)?)),
            None => Ok(None),
        };
        let (report, writer) =
            self.run_with(settings, image, output, make, observer, dump, cancelled)?;
        if let Some(writer) = writer {
            writer.finish()?;
        }
        Ok(report)
    }

    /// Makes the clip and returns the MP4 file's bytes; `scratch` holds it while it is written.
    ///
    /// # Errors
    /// As [`Generator::run`].
    pub fn run_in_memory(
        &mut self,
        settings: &Settings,
        image: Option<&RgbImage8>,
        scratch: &Path,
        observer: &mut dyn Observer,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Report> {
        let make = |options: &Mp4Options| Ok(Some(Mp4Writer::create_in_memory(scratch, options)?));
        let output = Output::default();
        let (mut report, writer) =
            self.run_with(settings, image, &output, make, observer, None, cancelled)?;
        if let Some(writer) = writer {
            let start = Instant::now();
            report.mp4 = Some(writer.finish_into_bytes()?);
            report.stages.video_encode_s += start.elapsed().as_secs_f64();
        }
        Ok(report)
    }

    fn run_with(
        &mut self,
        settings: &Settings,
        image: Option<&RgbImage8>,
        output: &Output,
        make: impl Fn(&Mp4Options) -> Result<Option<Mp4Writer>>,
        observer: &mut dyn Observer,
        dump: Option<&mut Dump>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(Report, Option<Mp4Writer>)> {
        let params = &settings.params;
        let start = Instant::now();
        let first_frame = image
            .map(|image| first_frame(image, settings))
            .transpose()?;
        let prepare_s = start.elapsed().as_secs_f64();

        let mut frames = FrameSink {
            settings,
            make,
            writer: None,
            frames_dir: output.frames_dir.as_deref(),
            written: 0,
            dump,
            seconds: 0.0,
        };
        if let Some(folder) = &output.frames_dir {
            std::fs::create_dir_all(folder)
                .map_err(|error| leoma_models::Error::io(folder, error))?;
        }
        // The pipeline's sink speaks the pipeline's error; a media error waits here.
        let mut failure: Option<Error> = None;
        let checkpoint = self.pipeline.checkpoint().clone();
        let result = self.pipeline.generate(
            params,
            first_frame.as_ref(),
            observer,
            cancelled,
            &mut |chunk| {
                // By the first frame every network has been read: the digest covers what was used.
                frames.take(&chunk, &checkpoint).map_err(|error| {
                    failure = Some(error);
                    leoma_models::Error::Cancelled
                })
            },
        );
        if let Some(error) = failure {
            return Err(error);
        }
        let timings = result?;
        let report = Report {
            stages: StageSeconds {
                load_s: timings.load_s,
                text_encode_s: timings.text_encode_s,
                image_encode_s: timings.image_encode_s + prepare_s,
                denoise_s: timings.denoise_s,
                vae_decode_s: timings.vae_decode_s,
                video_encode_s: frames.seconds,
            },
            peak_memory_bytes: peak_memory_bytes(),
            checkpoint_digest: self.pipeline.checkpoint().digest(),
            mp4: None,
        };
        Ok((report, frames.writer))
    }
}

/// Takes decoded frames one latent frame at a time.
struct FrameSink<'a, F> {
    settings: &'a Settings,
    make: F,
    writer: Option<Mp4Writer>,
    frames_dir: Option<&'a Path>,
    written: usize,
    dump: Option<&'a mut Dump>,
    seconds: f64,
}

impl<F: Fn(&Mp4Options) -> Result<Option<Mp4Writer>>> FrameSink<'_, F> {
    /// `chunk [3, f, H, W]` f32 in [-1, 1].
    fn take(&mut self, chunk: &Tensor, checkpoint: &Checkpoint) -> Result<()> {
        let start = Instant::now();
        if self.written == 0 {
            self.writer = (self.make)(&mp4_options(self.settings, &checkpoint.digest()))?;
        }
        let (_, count, height, width) = chunk.dims4().map_err(leoma_models::Error::from)?;
        let values = chunk
            .to_device(&Device::Cpu)
            .and_then(|chunk| chunk.flatten_all()?.to_vec1::<f32>())
            .map_err(leoma_models::Error::from)?;
        let bytes = frames_to_u8(&values, count, height, width, self.settings.rounding)?;
        if let Some(dump) = &mut self.dump {
            dump.decoded(chunk)?;
        }
        for frame in bytes.chunks_exact(3 * height * width) {
            if let Some(writer) = &mut self.writer {
                writer.push(frame)?;
            }
            if let Some(folder) = self.frames_dir {
                let path = folder.join(format!("frame_{:05}.png", self.written));
                write_png(&path, width as u32, height as u32, frame)?;
            }
            if let Some(dump) = &mut self.dump {
                dump.frame_u8(frame, [height, width]);
            }
            self.written += 1;
        }
        self.seconds += start.elapsed().as_secs_f64();
        Ok(())
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

fn mp4_options(settings: &Settings, digest: &str) -> Mp4Options {
    let comment = json!({
        "generator": concat!("leoma-node ", env!("CARGO_PKG_VERSION")),
        "parameters": settings.parameters(),
        "checkpoint_digest": digest,
    });
    Mp4Options {
        width: settings.params.width as u32,
        height: settings.params.height as u32,
        fps: Fps::from(settings.fps),
        crf: settings.crf,
        metadata: vec![("comment".into(), comment.to_string())],
    }
}

/// Largest resident set of this process so far, 0 where the system does not say.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}
