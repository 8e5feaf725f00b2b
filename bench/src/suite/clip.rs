//! Parts 6 and 7: VAE decode of a whole clip, and whole sampler steps, with random weights of true size.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use leoma_kernels::{conv3d_refusals, philox_normal};
use leoma_models::Precision;
use leoma_models::noise::NoiseSource;
use leoma_models::random::{self, Networks};
use leoma_models::scheduler::SchedulerKind;
use leoma_models::text::tiny_tokenizer_files;
use leoma_models::wan::cost::{decode_flops, denoise_flops};
use leoma_models::wan::pipeline::{GenerateParams, Observer, Offload, Stage, WanPipeline};
use leoma_models::wan::vae::{AutoencoderKlWan, VaeParts};
use leoma_models::weights::{Checkpoint, Component, ModelKind, VarBuilder};

use super::parts::Session;
use super::result::{Row, Verdict};
use crate::stats::median;

/// Name, model, frames, height, width.
pub(super) type Clip = (&'static str, ModelKind, usize, usize, usize);

const REAL: [Clip; 2] = [
    ("A14B 480p, 81 frames", ModelKind::T2vA14b, 81, 480, 832),
    ("5B 720p, 121 frames", ModelKind::Ti2v5b, 121, 704, 1280),
];
const SMALL: [Clip; 2] = [
    ("A14B tiny", ModelKind::T2vA14b, 5, 32, 32),
    ("5B tiny", ModelKind::Ti2v5b, 5, 64, 64),
];

/// Whole decodes of one clip; the first is the warm-up.
const DECODES: usize = 3;

/// Steps of a run; the first is the warm-up.
const STEPS: usize = 3;

pub(super) fn clips(session: &Session<'_>) -> &'static [Clip] {
    if session.small() { &SMALL } else { &REAL }
}

fn networks(session: &Session<'_>, kind: ModelKind) -> Networks {
    if session.small() {
        Networks::tiny(kind)
    } else {
        Networks::released(kind)
    }
}

pub(super) fn checkpoint(
    session: &Session<'_>,
    kind: ModelKind,
    folder: &Path,
) -> Result<Checkpoint> {
    for (name, text) in tiny_tokenizer_files() {
        std::fs::write(folder.join(name), text)?;
    }
    let networks = networks(session, kind);
    Ok(random::checkpoint(kind, networks, 42, folder.to_owned()))
}

pub(super) fn params(clip: Clip, boundary_ratio: Option<f64>) -> GenerateParams {
    let (_, _, num_frames, height, width) = clip;
    GenerateParams {
        prompt: "a red bird flies over the sea at dawn".into(),
        negative_prompt: "blurry".into(),
        num_frames,
        height,
        width,
        num_inference_steps: STEPS,
        guidance_scale: 5.0,
        guidance_scale_2: 5.0,
        flow_shift: 5.0,
        boundary_ratio,
        scheduler: SchedulerKind::UniPc,
        seed: 42,
        noise: NoiseSource::H100,
        tiling: None,
    }
}

/// Part 6.
pub(super) fn decode(session: &mut Session<'_>) -> Result<()> {
    let types: &[DType] = &[DType::BF16, DType::F32];
    for clip in clips(session).iter().copied() {
        for &dtype in types {
            let name = format!("{}, {}", clip.0, dtype.as_str());
            if session.late(&name)? {
                return Ok(());
            }
            if let Err(error) = decode_one(session, clip, dtype, &name) {
                session.push(Row::new(name, Verdict::Fail, format!("{error:#}")))?;
            }
        }
    }
    let refusals = conv3d_refusals();
    let (verdict, detail) = if refusals.is_empty() && session.place.is_card() {
        (Verdict::Pass, "every convolution".to_owned())
    } else {
        (Verdict::Skipped, refusals.join("; "))
    };
    session.push(Row::new("convolutions by cuDNN", verdict, detail))
}

fn decode_one(session: &mut Session<'_>, clip: Clip, dtype: DType, name: &str) -> Result<()> {
    let (_, kind, frames, height, width) = clip;
    let folder = tempfile::tempdir()?;
    let checkpoint = checkpoint(session, kind, folder.path())?;
    let device = session.place.device().clone();
    let cfg = checkpoint.vae_config().clone();
    let vb = VarBuilder::new(checkpoint.source(Component::Vae)?, dtype, &device);
    let vae = session
        .place
        .run(|| AutoencoderKlWan::new(&cfg, vb, VaeParts::Decoder))?;
    let stride = cfg.spatial_stride();
    let latent_frames = (frames - 1) / cfg.temporal_stride() + 1;
    let shape = [cfg.z_dim, latent_frames, height / stride, width / stride];
    let latents = philox_normal(5, &shape, 256 * 1024, &device)?;
    let once = || -> Result<(usize, bool)> {
        let (mut made, mut finite) = (0, true);
        vae.decode(&latents, None, &mut |part: Tensor| {
            made += part.dim(1)?;
            let sum = part.abs()?.sum_all()?.to_dtype(DType::F32)?;
            finite &= sum.to_scalar::<f32>()?.is_finite();
            Ok(())
        })?;
        Ok((made, finite))
    };
    session.place.reset_peak()?;
    let mut row = Row::new(format!("{name}: time"), Verdict::Measured, "");
    let rounds = if session.place.is_card() { DECODES } else { 1 };
    for round in 0..rounds {
        session.place.device().synchronize()?;
        let start = Instant::now();
        let (made, finite) = session.place.run(once)?;
        session.place.device().synchronize()?;
        let seconds = start.elapsed().as_secs_f64();
        if round == 0 {
            let good = made == frames && finite;
            let detail = format!("{made} of {frames} frames, finite: {finite}");
            session.push(Row::check(format!("{name}: frames"), good, detail))?;
        } else {
            row.samples_s
                .entry("leoma".to_owned())
                .or_default()
                .push(seconds);
        }
        if session.is_late() {
            break;
        }
    }
    let Some(samples) = row.samples_s.get("leoma") else {
        let why = "not timed: the shim's time says nothing, or the part's time was over";
        return session.push(Row::new(row.name, Verdict::Skipped, why));
    };
    let seconds = median(samples);
    let rate = decode_flops(&cfg, frames, height, width) / seconds;
    let peak = session.place.peak()?.unwrap_or(0);
    row.detail = format!(
        "{seconds:.2} s, {:.0} TFLOP/s, at most {:.2} GiB of the card's memory",
        rate / 1e12,
        peak as f64 / f64::from(1 << 30)
    );
    row = row
        .value("seconds", seconds)
        .value("flops", rate)
        .value("peak_bytes", peak as f64);
    session.push(row)
}

/// Part 7.
pub(super) fn steps(session: &mut Session<'_>) -> Result<()> {
    for clip in clips(session).iter().copied() {
        if session.late(clip.0)? {
            return Ok(());
        }
        if let Err(error) = steps_of(session, clip) {
            session.push(Row::new(clip.0, Verdict::Fail, format!("{error:#}")))?;
        }
    }
    Ok(())
}

/// Times the steps; each ends when the device is done.
struct Watch {
    device: Device,
    since: Instant,
    steps_s: Vec<f64>,
    failed: Option<candle_core::Error>,
}

impl Observer for Watch {
    fn progress(&mut self, stage: Stage, done: usize, _: usize) {
        if stage != Stage::Denoise {
            return;
        }
        if let Err(error) = self.device.synchronize() {
            self.failed.get_or_insert(error);
        }
        if done > 0 {
            self.steps_s.push(self.since.elapsed().as_secs_f64());
        }
        self.since = Instant::now();
    }
}

fn steps_of(session: &mut Session<'_>, clip: Clip) -> Result<()> {
    let (name, kind, ..) = clip;
    let folder = tempfile::tempdir()?;
    let checkpoint = checkpoint(session, kind, folder.path())?;
    // One expert: the other has the same size and is not what is measured.
    let params = params(clip, checkpoint.boundary_ratio().map(|_| 0.0));
    let flops = denoise_flops(
        checkpoint.transformer_config(Component::Transformer),
        checkpoint.vae_config(),
        &params,
    ) / STEPS as f64;
    let place = &session.place;
    place.reset_peak()?;
    let mut watch = Watch {
        device: place.device().clone(),
        since: Instant::now(),
        steps_s: Vec::new(),
        failed: None,
    };
    let start = Instant::now();
    let end = session.end();
    let late = move || Instant::now() >= end;
    let latents = place.run(|| -> Result<Tensor> {
        let mut pipeline = WanPipeline::new(
            checkpoint,
            Precision::Bf16,
            place.device(),
            Offload::Experts,
        )?;
        let clip = pipeline
            .denoise(&params, None, &mut watch, &late)
            .context("random weights; a part that ran out of time is cancelled here")?;
        Ok(clip.latents().clone())
    })?;
    if let Some(error) = watch.failed {
        return Err(error.into());
    }
    let sum = latents.abs()?.sum_all()?.to_dtype(DType::F32)?;
    let finite = sum.to_scalar::<f32>()?.is_finite();
    let whole = start.elapsed().as_secs_f64();
    session.push(Row::check(
        format!("{name}: latents"),
        finite,
        "no NaN and no infinity",
    ))?;
    let name = format!("{name}: step");
    if !session.place.is_card() {
        let why = "the shim's time says nothing about a card";
        return session.push(Row::new(name, Verdict::Skipped, why));
    }
    // The first step reads the weights and warms up.
    let measured = watch.steps_s.get(1..).unwrap_or_default();
    let seconds = median(measured);
    let peak = session.place.peak()?.unwrap_or(0);
    let mut row = Row::new(
        name,
        Verdict::Measured,
        format!(
            "{seconds:.2} s with guidance, {:.0} TFLOP/s, at most {:.1} GiB; {whole:.0} s with random weights made",
            flops / seconds / 1e12,
            peak as f64 / f64::from(1 << 30)
        ),
    );
    row.samples_s.insert("leoma".into(), watch.steps_s.clone());
    session.push(
        row.value("seconds", seconds)
            .value("flops", flops / seconds)
            .value("peak_bytes", peak as f64),
    )
}
