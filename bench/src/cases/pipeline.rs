//! Whole generations on tiny checkpoints of the three kinds, prompt to decoded frames.
//!
//! Both sides read the same diffusers folder, draw the same noise from torch's CPU generator and run the
//! checkpoint's own sampler settings. Loading is not measured; everything after it is: tokens, text
//! encoder, image encoder, sampler, decoder.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use leoma_models::Precision;
use leoma_models::noise::NoiseSource;
use leoma_models::scheduler::SchedulerKind;
use leoma_models::tiny::make_tiny;
use leoma_models::wan::pipeline::{GenerateParams, Offload, Unobserved, WanPipeline};
use leoma_models::weights::{Checkpoint, ModelKind, SchedulerConfig};
use serde_json::{Value, json};

use super::weights::write_inputs;
use crate::case::{Case, Planned, text};
use crate::cli::Size;
use crate::measure::{Plan, Subject};
use crate::stats::SplitMix;

const PROMPT: &str = "a red bird flies over the sea";
const NEGATIVE: &str = "blurry";
const SEED: u64 = 20_260_131;
const GUIDANCE: f64 = 5.0;

/// Sizes of one variant.
#[derive(Debug, Clone, Copy)]
struct Clip {
    variant: &'static str,
    kind: ModelKind,
    with_image: bool,
    frames: usize,
    side: usize,
    steps: usize,
}

pub(crate) fn list(size: Size) -> Vec<Planned> {
    let clip = |variant, kind, with_image, frames, side| Clip {
        variant,
        kind,
        with_image,
        frames: if size == Size::Full { frames } else { 5 },
        side: if size == Size::Full { side } else { 64 },
        steps: if size == Size::Full { 4 } else { 2 },
    };
    [
        clip("ti2v-5b", ModelKind::Ti2v5b, true, 17, 256),
        clip("i2v-a14b", ModelKind::I2vA14b, true, 17, 128),
        clip("t2v-a14b", ModelKind::T2vA14b, false, 17, 128),
    ]
    .into_iter()
    .map(|clip| Planned {
        name: format!("pipeline/{}", clip.variant),
        what: format!(
            "whole generation, tiny {} checkpoint{}, {} frames of {side}x{side}, {} steps, guidance \
             {GUIDANCE}",
            clip.variant,
            if clip.with_image { " with image" } else { "" },
            clip.frames,
            clip.steps,
            side = clip.side
        ),
        limit: 1.25,
        plan: Plan::USUAL,
        peer_case: "pipeline",
        memory_limit: None,
        prepare: Box::new(move |work| Ok(Box::new(Pipeline::prepare(clip, work)?))),
    })
    .collect()
}

/// A loaded pipeline with its request.
struct Pipeline {
    pipeline: WanPipeline,
    params: GenerateParams,
    /// `[3, H, W]` in [-1, 1].
    image: Option<Tensor>,
    clip: Clip,
    model: PathBuf,
    image_file: PathBuf,
}

impl Pipeline {
    fn prepare(clip: Clip, work: &Path) -> Result<Self> {
        let model = work.join(format!("tiny-{}", clip.variant));
        make_tiny(clip.kind, 7, &model)?;
        let pixels = picture(clip.side, clip.side)?;
        let image_file = work.join(format!("image-{}.safetensors", clip.variant));
        write_inputs(&image_file, &[("image", &pixels)])?;
        let checkpoint = Checkpoint::open(&model)?;
        let params = GenerateParams {
            prompt: PROMPT.into(),
            negative_prompt: NEGATIVE.into(),
            num_frames: clip.frames,
            height: clip.side,
            width: clip.side,
            num_inference_steps: clip.steps,
            guidance_scale: GUIDANCE,
            guidance_scale_2: GUIDANCE,
            flow_shift: checkpoint
                .scheduler_config()
                .and_then(SchedulerConfig::shift)
                .unwrap_or(5.0),
            boundary_ratio: checkpoint.boundary_ratio(),
            scheduler: SchedulerKind::UniPc,
            seed: SEED,
            noise: NoiseSource::TorchCpu,
            tiling: None,
        };
        let mut pipeline =
            WanPipeline::new(checkpoint, Precision::F32, &Device::Cpu, Offload::None)?;
        pipeline.load(&mut Unobserved)?;
        let image = if clip.with_image {
            Some(prepared(&pixels)?)
        } else {
            None
        };
        Ok(Self {
            pipeline,
            params,
            image,
            clip,
            model,
            image_file,
        })
    }
}

impl Case for Pipeline {
    fn peer_setup(&self) -> Value {
        json!({
            "pipeline_class": if self.image.is_some() { "WanImageToVideoPipeline" } else { "WanPipeline" },
            "model": text(&self.model),
            "image": self.image.is_some().then(|| text(&self.image_file)),
            "seed": SEED,
            "arguments": {
                "prompt": PROMPT,
                "negative_prompt": NEGATIVE,
                "height": self.clip.side,
                "width": self.clip.side,
                "num_frames": self.clip.frames,
                "num_inference_steps": self.clip.steps,
                "guidance_scale": GUIDANCE,
            },
        })
    }

    fn run(&mut self, subject: Subject) -> Result<Tensor> {
        if subject != Subject::Leoma {
            bail!("{} is not measured here", subject.label());
        }
        let mut chunks = Vec::new();
        self.pipeline.generate(
            &self.params,
            self.image.as_ref(),
            &mut Unobserved,
            &|| false,
            &mut |frames| {
                chunks.push(frames);
                Ok(())
            },
        )?;
        // [3, F, H, W] in [-1, 1] → [F, 3, H, W] in [0, 1], as diffusers' `output_type="pt"`.
        let clip = Tensor::cat(&chunks, 1)?.permute((1, 0, 2, 3))?;
        Ok(clip.affine(0.5, 0.5)?.clamp(0f32, 1f32)?)
    }
}

/// A smooth picture with some grain, `[H, W, 3]` u8.
pub(crate) fn picture(width: usize, height: usize) -> Result<Tensor> {
    let mut rng = SplitMix(3);
    let mut pixels = Vec::with_capacity(width * height * 3);
    for row in 0..height {
        for column in 0..width {
            for channel in 0..3 {
                let (y, x) = (row as f32 / height as f32, column as f32 / width as f32);
                let wave = ((x * 5.0 + y * 3.0 + channel as f32) * 2.0).sin();
                let value = 128.0 + 90.0 * wave + 10.0 * rng.unit_variance();
                pixels.push(value.clamp(0.0, 255.0) as u8);
            }
        }
    }
    Ok(Tensor::from_vec(pixels, (height, width, 3), &Device::Cpu)?)
}

/// `[H, W, 3]` u8 → `[3, H, W]` f32 in [-1, 1], in the order of operations of diffusers.
pub(crate) fn prepared(pixels: &Tensor) -> Result<Tensor> {
    let unit = (pixels.permute((2, 0, 1))?.to_dtype(DType::F32)? / 255.0)?;
    Ok(unit.affine(2.0, -1.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_map_to_the_signed_range() {
        let pixels = picture(32, 32).expect("a picture");
        let image = prepared(&pixels).expect("an image");
        assert_eq!(image.dims(), [3, 32, 32]);
        let values = image
            .flatten_all()
            .and_then(|flat| flat.to_vec1::<f32>())
            .expect("values");
        assert!(values.iter().all(|value| value.abs() <= 1.0));
        assert!(
            values.iter().any(|&value| value < -0.3) && values.iter().any(|&value| value > 0.3)
        );
    }

    #[test]
    fn every_kind_generates() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for planned in list(Size::Small) {
            let mut case = (planned.prepare)(dir.path()).expect("ready");
            let clip = case.run(Subject::Leoma).expect("a clip");
            assert_eq!(clip.dims(), [5, 3, 64, 64], "{}", planned.name);
        }
    }
}
