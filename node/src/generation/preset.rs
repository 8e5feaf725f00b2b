//! Presets: what a field left open means, per preset and model.
//!
//! `leoma` follows the subnet's evaluator, `diffusers` the diffusers pipelines and their conversion
//! script, `official` the Wan 2.2 scripts; `tiny` is what the checkpoint inside the program was trained for. Sources of every number: `docs/presets.md`.

use std::fmt;
use std::str::FromStr;

use leoma_models::Error;
use leoma_models::weights::ModelKind;

use crate::media::{ImagePreparation, Rounding};

/// A family of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preset {
    /// The Leoma subnet's evaluator.
    #[default]
    Leoma,
    /// diffusers 0.35.2.
    Diffusers,
    /// The Wan 2.2 reference scripts.
    Official,
    /// The trained tiny checkpoint that comes with the program.
    Tiny,
}

impl Preset {
    /// All presets, in the order of the help text.
    pub const ALL: [Self; 4] = [Self::Leoma, Self::Diffusers, Self::Official, Self::Tiny];

    /// Spelling on the command line and in requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leoma => "leoma",
            Self::Diffusers => "diffusers",
            Self::Official => "official",
            Self::Tiny => "tiny",
        }
    }

    /// Whether the preset's flow shift wins over the checkpoint's `scheduler_config.json`.
    pub fn ignores_checkpoint_shift(self) -> bool {
        self == Self::Official
    }

    /// The preset's values for a kind of model.
    pub fn values(self, kind: ModelKind) -> PresetValues {
        match self {
            Self::Leoma => leoma(kind),
            Self::Diffusers => diffusers(kind),
            Self::Official => official(kind),
            Self::Tiny => tiny(kind),
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name() == name)
            .ok_or_else(|| {
                Error::caller(
                    "preset",
                    format!("`{name}` is not one of leoma, diffusers, official, tiny"),
                )
            })
    }
}

/// Defaults of one preset for one kind of model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PresetValues {
    /// Sampler steps.
    pub num_inference_steps: usize,
    /// Guidance of the high-noise (or only) expert.
    pub guidance_scale: f64,
    /// Guidance of the low-noise expert.
    pub guidance_scale_2: f64,
    /// Shift of the sigma schedule.
    pub flow_shift: f64,
    /// Expert switch, for models with two experts.
    pub boundary_ratio: Option<f64>,
    /// Negative prompt.
    pub negative_prompt: &'static str,
    /// Pixel columns.
    pub width: usize,
    /// Pixel rows.
    pub height: usize,
    /// Pixel frames.
    pub num_frames: usize,
    /// Frames per second of the file.
    pub fps: u32,
    /// How floats become bytes.
    pub rounding: Rounding,
    /// Generator of the initial noise.
    pub noise_source: &'static str,
    /// x264 constant rate factor.
    pub crf: u8,
    /// How a first frame is brought to size.
    pub image_preparation: ImagePreparation,
}

/// Seed when none is given: what the subnet's miner template uses.
pub const DEFAULT_SEED: u64 = 42;

/// Default of the official scripts, from `wan/configs/shared_config.py`.
const OFFICIAL_NEGATIVE: &str = "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，\
最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，\
形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";

/// Expert switch of the released checkpoints.
fn boundary(kind: ModelKind) -> Option<f64> {
    match kind {
        ModelKind::T2vA14b => Some(0.875),
        ModelKind::I2vA14b => Some(0.9),
        ModelKind::Ti2v5b | ModelKind::Wan21T2v => None,
    }
}

/// Shift that diffusers' conversion script writes.
fn converted_shift(kind: ModelKind) -> f64 {
    if kind == ModelKind::Ti2v5b { 5.0 } else { 3.0 }
}

fn leoma(kind: ModelKind) -> PresetValues {
    PresetValues {
        num_inference_steps: 30,
        guidance_scale: 5.0,
        guidance_scale_2: 5.0,
        flow_shift: converted_shift(kind),
        boundary_ratio: boundary(kind),
        negative_prompt: "low quality, blurry, distorted",
        width: 832,
        height: 480,
        num_frames: 81,
        fps: 16,
        rounding: Rounding::Truncate,
        noise_source: "cuda:h100",
        crf: 18,
        image_preparation: ImagePreparation::Leoma,
    }
}

/// Size, length and guidance of the training (`scripts/train-tiny`). Noise from the CPU's generator: the same
/// clip on every machine.
fn tiny(kind: ModelKind) -> PresetValues {
    PresetValues {
        num_inference_steps: 20,
        guidance_scale: 2.0,
        guidance_scale_2: 2.0,
        width: 160,
        height: 96,
        num_frames: 17,
        fps: 8,
        noise_source: "cpu",
        ..leoma(kind)
    }
}

fn diffusers(kind: ModelKind) -> PresetValues {
    let five = kind == ModelKind::Ti2v5b;
    let (width, height) = if five { (1280, 704) } else { (832, 480) };
    PresetValues {
        num_inference_steps: 50,
        guidance_scale: 5.0,
        guidance_scale_2: 5.0,
        flow_shift: converted_shift(kind),
        boundary_ratio: boundary(kind),
        negative_prompt: "",
        width,
        height,
        num_frames: if five { 121 } else { 81 },
        fps: if five { 24 } else { 16 },
        rounding: Rounding::Round,
        noise_source: "cpu",
        crf: 25,
        image_preparation: ImagePreparation::Diffusers,
    }
}

fn official(kind: ModelKind) -> PresetValues {
    // (steps, high-noise guidance, low-noise guidance, shift, width, height, frames, fps)
    let (steps, high, low, shift, width, height, num_frames, fps) = match kind {
        ModelKind::T2vA14b => (40, 4.0, 3.0, 12.0, 1280, 720, 81, 16),
        ModelKind::I2vA14b => (40, 3.5, 3.5, 5.0, 1280, 720, 81, 16),
        ModelKind::Ti2v5b => (50, 5.0, 5.0, 5.0, 1280, 704, 121, 24),
        ModelKind::Wan21T2v => (50, 5.0, 5.0, 5.0, 832, 480, 81, 16),
    };
    PresetValues {
        num_inference_steps: steps,
        guidance_scale: high,
        guidance_scale_2: low,
        flow_shift: shift,
        boundary_ratio: boundary(kind),
        negative_prompt: OFFICIAL_NEGATIVE,
        width,
        height,
        num_frames,
        fps,
        rounding: Rounding::Round,
        noise_source: "cuda:h100",
        crf: 10,
        image_preparation: if kind == ModelKind::Ti2v5b {
            ImagePreparation::Official5b
        } else {
            ImagePreparation::OfficialA14b
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_official_negative_prompt_is_the_published_text() {
        assert_eq!(OFFICIAL_NEGATIVE.chars().count(), 137);
    }

    #[test]
    fn names_round_trip_and_unknown_names_are_refused() {
        for preset in Preset::ALL {
            assert_eq!(preset.name().parse::<Preset>().unwrap(), preset);
        }
        let error = "fast".parse::<Preset>().unwrap_err().to_string();
        assert!(
            error.contains("preset") && error.contains("leoma"),
            "{error}"
        );
    }

    #[test]
    fn noise_sources_of_all_presets_exist() {
        for preset in Preset::ALL {
            let name = preset.values(ModelKind::I2vA14b).noise_source;
            assert!(
                name.parse::<leoma_models::noise::NoiseSource>().is_ok(),
                "{name}"
            );
        }
    }
}
