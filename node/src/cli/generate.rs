//! `leoma-node generate`: one clip on the command line, made here or by a server.

mod remote;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use candle_core::Tensor;
use clap::{Args, ValueEnum};
use leoma_models::noise::NoiseSource;
use leoma_models::rounding::Rounding;
use leoma_models::scheduler::SchedulerKind;
use leoma_models::wan::pipeline::{Observer, Stage};
use leoma_models::wan::plan::Memory;
use leoma_models::{Error, Precision};
use serde_json::json;

use secrecy::SecretString;

use super::DeviceArg;
use super::hub::Show;
use super::layers::Origins;
use super::local_model::{local_model, repository};
use super::model_files::ModelFileArgs;
use super::progress::Bars;
use super::units::Bytes;
use crate::generation::{
    Dump, GenerationRequest, Generator, MemoryOptions, OffloadChoice, Output, Preset, Settings,
    TextEncoderDevice, noise_source,
};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// Where the values come from.
    #[arg(skip)]
    origins: Origins,
    /// Checkpoint: a folder (diffusers or official layout), user/name of the Hub, or tiny, the small one inside this
    /// program.
    #[arg(
        long,
        value_name = "MODEL",
        env = "LEOMA_NODE_MODEL",
        required_unless_present = "host"
    )]
    model: Option<PathBuf>,
    /// Branch, tag or full commit of a repository of the Hub; default: main.
    #[arg(long, value_name = "REVISION", env = "LEOMA_NODE_REVISION")]
    revision: Option<String>,
    #[command(flatten)]
    files: ModelFileArgs,
    /// Have the clip made by the leoma-node server at this address (http:// or https://).
    #[arg(
        long,
        value_name = "URL",
        env = "LEOMA_NODE_REMOTE",
        help_heading = "Server"
    )]
    host: Option<String>,
    /// File with the server's key.
    #[arg(
        long,
        value_name = "FILE",
        env = "LEOMA_NODE_API_KEY_FILE",
        help_heading = "Server"
    )]
    api_key_file: Option<PathBuf>,
    /// The key itself, for the environment: others see a command line. A file goes first.
    #[arg(
        long,
        value_name = "KEY",
        env = "LEOMA_NODE_API_KEY",
        hide_env_values = true,
        help_heading = "Server"
    )]
    api_key: Option<SecretString>,
    /// First frame (PNG, JPEG or WebP). Without it: text to video, where the model can.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// What should happen in the clip.
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// What should not be seen; default by preset.
    #[arg(long, value_name = "TEXT")]
    negative_prompt: Option<String>,
    /// Frames of the clip; other counts than 4n + 1 are rounded as diffusers does.
    #[arg(long)]
    num_frames: Option<usize>,
    /// Pixel rows.
    #[arg(long)]
    height: Option<usize>,
    /// Pixel columns.
    #[arg(long)]
    width: Option<usize>,
    /// Frames per second of the file.
    #[arg(long)]
    fps: Option<u32>,
    /// Sampler steps.
    #[arg(long)]
    num_inference_steps: Option<usize>,
    /// Guidance of the high-noise (or only) expert; at most 1 switches the second pass off.
    #[arg(long)]
    guidance_scale: Option<f64>,
    /// Guidance of the low-noise expert; default: the same as --guidance-scale.
    #[arg(long)]
    guidance_scale_2: Option<f64>,
    /// Shift of the sigma schedule; default: the checkpoint's, else the preset's.
    #[arg(long)]
    flow_shift: Option<f64>,
    /// Share of the noise range from which the high-noise expert works.
    #[arg(long)]
    boundary_ratio: Option<f64>,
    /// Sampler: unipc, euler or dpmpp.
    #[arg(long)]
    scheduler: Option<SchedulerKind>,
    /// Seed of the initial noise.
    #[arg(long)]
    seed: Option<u64>,
    /// Initial noise from a safetensors file (tensor `noise`).
    #[arg(long, value_name = "FILE", conflicts_with = "noise_source")]
    noise: Option<PathBuf>,
    /// Generator of the initial noise: cpu, cuda:h100, cuda:4090, … or cuda:THREADS.
    #[arg(long)]
    noise_source: Option<NoiseSource>,
    /// Family of defaults: leoma, diffusers, official or tiny; default: leoma, and tiny for --model tiny.
    #[arg(long, env = "LEOMA_NODE_PRESET")]
    preset: Option<Preset>,
    /// Number types: f32, bf16, f16, fp8 (transformer blocks in 8 bits; lossy) or tf32 (on a card; lossy).
    #[arg(long, default_value = "f32", env = "LEOMA_NODE_DTYPE")]
    dtype: Precision,
    /// Where bf16 rounds: diffusers, or official (residual stream, guidance and VAE in f32).
    #[arg(long, default_value = "diffusers", env = "LEOMA_NODE_ROUNDING")]
    rounding: Rounding,
    /// Where to compute: cpu, cuda, cuda:N or auto.
    #[arg(long, default_value = "auto", env = "LEOMA_NODE_DEVICE")]
    device: DeviceArg,
    /// What to keep in memory: auto (the fastest that fits), none (offload nothing), experts (one network at a
    /// time) or blocks (two transformer blocks at a time).
    #[arg(long, default_value = "auto", env = "LEOMA_NODE_OFFLOAD")]
    offload: OffloadChoice,
    /// Where to run the text encoder: same (as the rest) or cpu.
    #[arg(long, default_value = "same", env = "LEOMA_NODE_TEXT_ENCODER_DEVICE")]
    text_encoder_device: TextEncoderDevice,
    /// Most memory to use, of the GPU or, on the CPU, of the machine; default: what is free.
    #[arg(long, value_name = "BYTES", env = "LEOMA_NODE_MEMORY_LIMIT")]
    memory_limit: Option<Bytes>,
    /// x264 quality, 0 (lossless) to 51; default by preset.
    #[arg(long)]
    crf: Option<u8>,
    /// The clip.
    #[arg(long, value_name = "FILE", default_value = "out.mp4")]
    output: PathBuf,
    /// Also write every frame as PNG into this folder.
    #[arg(long, value_name = "DIR")]
    frames_dir: Option<PathBuf>,
    /// Also write the intermediate tensors to this safetensors file.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// Print every effective value and where it came from, and stop.
    #[arg(long)]
    print_config: bool,
    /// Print how much memory the clip takes, stage by stage, and whether it fits; read no weights.
    #[arg(long, conflicts_with = "print_config")]
    plan: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// No progress bars.
    #[arg(long, env = "LEOMA_NODE_NO_PROGRESS")]
    no_progress: bool,
}

impl GenerateArgs {
    fn request(&self) -> Result<GenerationRequest, crate::Error> {
        Ok(GenerationRequest {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            image: self.image.as_deref().map(read_image).transpose()?,
            num_frames: self.num_frames,
            height: self.height,
            width: self.width,
            fps: self.fps,
            num_inference_steps: self.num_inference_steps,
            guidance_scale: self.guidance_scale,
            guidance_scale_2: self.guidance_scale_2,
            flow_shift: self.flow_shift,
            boundary_ratio: self.boundary_ratio,
            scheduler: self.scheduler,
            seed: self.seed,
            noise_source: noise_source(self.noise.clone(), self.noise_source.clone())?,
            crf: self.crf,
            ..GenerationRequest::default()
        })
    }
}

/// Reads the picture, but never more of a file than any picture may have.
fn read_image(path: &Path) -> Result<Vec<u8>, crate::Error> {
    let limit = crate::media::ImageLimits::default().max_bytes;
    let unreadable = |error: std::io::Error| {
        crate::Error::caller(
            "image",
            format!("{} cannot be read: {error}", path.display()),
        )
    };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > limit {
        return Err(crate::Error::caller(
            "image",
            format!("{} has {bytes} bytes; at most {limit}", path.display()),
        ));
    }
    std::fs::read(path).map_err(unreadable)
}

/// Bars on screen, tensors into the dump.
struct Follow {
    bars: Bars,
    dump: Option<Dump>,
}

impl Observer for Follow {
    fn progress(&mut self, stage: Stage, done: usize, total: usize) {
        self.bars.progress(stage.name(), done as u64, total as u64);
    }

    fn wants_tensors(&self) -> bool {
        self.dump.is_some()
    }

    fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<(), Error> {
        match &mut self.dump {
            Some(dump) => dump.tensor(name, tensor),
            None => Ok(()),
        }
    }
}

pub(super) fn run(mut args: GenerateArgs, origins: Origins) -> Result<()> {
    args.origins = origins;
    match &args.host {
        Some(host) => remote::run(&args, host),
        None => run_here(&args),
    }
}

#[allow(clippy::print_stdout, clippy::print_stderr)]
fn run_here(args: &GenerateArgs) -> Result<()> {
    let Some(model) = &args.model else {
        return Err(crate::Error::caller(
            "model",
            "name a checkpoint: a folder, or user/name of the Hub",
        )
        .into());
    };
    if args.origins.typed("revision") && repository(model).is_none() {
        let message = format!(
            "{} is no repository of the Hub, and only those have revisions; leave it out",
            model.display()
        );
        return Err(crate::Error::caller("revision", message).into());
    }
    let request = args.request()?;
    let device = args.device.open()?;
    let local = local_model(model, args.revision.as_deref(), Show::new(args.no_progress))?;
    let memory = MemoryOptions {
        offload: args.offload,
        text_encoder: args.text_encoder_device,
        limit: args.memory_limit.map(|limit| limit.0),
    };
    let mut generator =
        Generator::open(&args.files.with(&local.path), args.dtype, &device, memory)?
            .with_rounding(args.rounding)?;
    for warning in generator.pipeline().checkpoint().warnings() {
        eprintln!("warning: {warning}");
    }
    let preset = args.preset.unwrap_or(local.preset);
    let (settings, image) = generator.resolver().resolve(&request, preset)?;
    for warning in &settings.warnings {
        eprintln!("warning: {warning}");
    }
    if args.print_config {
        print_config(&settings, args);
        return Ok(());
    }
    if args.plan {
        return print_plan(&mut generator, &settings, image.is_some(), args.format);
    }
    generator.admit(&settings.params, image.is_some())?;
    // A build without a video encoder can still write the frames, when they were asked for.
    let encodes = cfg!(feature = "ffmpeg") || args.frames_dir.is_none();
    let output = Output {
        mp4: encodes.then(|| args.output.clone()),
        frames_dir: args.frames_dir.clone(),
    };
    match &output.mp4 {
        Some(path) => check_writable(path)?,
        None => eprintln!("warning: output: this build has no video encoder; writing frames only"),
    }
    let written = output
        .mp4
        .as_ref()
        .or(output.frames_dir.as_ref())
        .unwrap_or(&args.output);
    if let Some(path) = &args.dump {
        check_writable(path)?;
    }

    let stop = Arc::new(AtomicBool::new(false));
    let on_signal = Arc::clone(&stop);
    // Fails only when a handler exists already; then that one decides what Ctrl-C does.
    let _ = ctrlc::set_handler(move || on_signal.store(true, Ordering::Relaxed));

    let visible = !args.no_progress && std::io::stderr().is_terminal();
    let mut follow = Follow {
        bars: Bars::new(visible),
        dump: args.dump.as_ref().map(|_| Dump::default()),
    };
    let mut frames = args.dump.as_ref().map(|_| Dump::default());
    let report = generator.run(
        &settings,
        image.as_ref(),
        &output,
        &mut follow,
        frames.as_mut(),
        &|| stop.load(Ordering::Relaxed),
    )?;
    follow.bars.finish();
    if let (Some(path), Some(mut dump)) = (&args.dump, follow.dump.take()) {
        if let Some(frames) = frames {
            dump.absorb(frames);
        }
        dump.write(path)?;
    }

    match args.format {
        Format::Json => {
            let object = json!({
                "output": written,
                "seed": settings.params.seed,
                "parameters": settings.parameters(),
                "bf16_rounding": generator.pipeline().rounding().map(Rounding::as_str),
                "stages": report.stages,
                "peak_memory_bytes": report.peak_memory_bytes,
                "checkpoint_digest": report.checkpoint_digest,
                "repo": local.snapshot.as_ref().map(|snapshot| snapshot.repo.as_str()),
                "commit": local.snapshot.as_ref().map(|snapshot| snapshot.commit.as_str()),
                "precision": args.dtype.as_str(),
                "lossy": args.dtype.is_lossy(),
                "loras": generator.pipeline().checkpoint().loras(),
                "attention": generator.attention().backend.to_string(),
            });
            println!("{object}");
        }
        Format::Text => {
            let stages = &report.stages;
            println!("{}", written.display());
            eprintln!(
                "{} frames of {}x{} in {:.1} s (load {:.1}, text {:.1}, image {:.1}, denoise {:.1}, \
                 decode {:.1}, encode {:.1}); peak memory {:.0} MiB",
                settings.params.num_frames,
                settings.params.width,
                settings.params.height,
                stages.total(),
                stages.load_s,
                stages.text_encode_s,
                stages.image_encode_s,
                stages.denoise_s,
                stages.vae_decode_s,
                stages.video_encode_s,
                report.peak_memory_bytes as f64 / f64::from(1 << 20),
            );
        }
    }
    Ok(())
}

/// Prints the memory plan; fails as the generation would where it does not fit.
#[allow(clippy::print_stdout)]
fn print_plan(
    generator: &mut Generator,
    settings: &Settings,
    with_image: bool,
    format: Format,
) -> Result<()> {
    let plan = generator.plan(&settings.params, with_image);
    let planning = generator.planning();
    let [device, host] = Memory::ALL.map(|memory| planning.needed(&plan, memory));
    let budget = planning.budget();
    match format {
        Format::Text => {
            print!("{plan}");
            for (name, needed, free) in [
                ("device", device, budget.device),
                ("host", host, budget.host),
            ] {
                if let Some(free) = free.filter(|_| needed > 0) {
                    let [needed, free] = [needed, free].map(|bytes| bytes as f64 / 1e9);
                    println!(
                        "{name}: {needed:.2} GB needed with a margin of 5 %, {free:.2} GB free"
                    );
                }
            }
        }
        Format::Json => {
            let object = json!({
                "plan": plan,
                "needed": {"device": device, "host": host},
                "available": {"device": budget.device, "host": budget.host},
                "fits": planning.check(&plan).is_ok(),
            });
            println!("{object}");
        }
    }
    generator.admit(&settings.params, with_image)?;
    Ok(())
}

#[allow(clippy::print_stdout)]
fn print_config(settings: &Settings, args: &GenerateArgs) {
    match args.format {
        Format::Text => print!("{}", settings.table()),
        Format::Json => {
            let object = settings
                .effective
                .iter()
                .map(|item| {
                    (
                        item.name,
                        json!({ "value": item.value, "origin": item.origin }),
                    )
                })
                .collect::<std::collections::BTreeMap<_, _>>();
            println!("{}", json!(object));
        }
    }
}

/// Finds out before minutes of work whether the result can be written.
fn check_writable(path: &Path) -> Result<(), crate::Error> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".leoma-")
        .tempfile_in(folder)
        .map(drop)
        .map_err(|error| {
            crate::Error::caller(
                "output",
                format!(
                    "{} cannot be written ({error}); choose another folder",
                    folder.display()
                ),
            )
        })
}
