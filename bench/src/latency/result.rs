//! The JSON result of `leoma-bench latency`. `bench/results/schema.json` describes it; a test holds both
//! together.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::scenario::Scenario;
use super::telemetry::Telemetry;
use crate::env::Machine;
use crate::failure::bad_input;
use crate::files;
use crate::stats::Summary;

/// Version of the layout; a reader refuses others.
pub(crate) const SCHEMA: &str = "leoma-bench/latency/1";

/// Everything one run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LatencyReport {
    /// [`SCHEMA`].
    pub(crate) schema: String,
    /// Day of the run, UTC.
    pub(crate) date: String,
    /// Kind of device, as in the result's folder.
    pub(crate) label: String,
    /// Host, compiler, commit.
    pub(crate) machine: Machine,
    /// Where the networks ran.
    pub(crate) device: DeviceInfo,
    /// What the device costs, when that was given.
    pub(crate) price: Option<Price>,
    /// One per scenario.
    pub(crate) runs: Vec<Run>,
}

/// The device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceInfo {
    /// `cpu` or `cuda`.
    pub(crate) kind: String,
    /// As it names itself.
    pub(crate) name: String,
    /// Version of the driver.
    pub(crate) driver: Option<String>,
    /// Highest CUDA version of the driver.
    pub(crate) cuda: Option<String>,
    /// Memory of the device.
    pub(crate) memory_bytes: Option<u64>,
    /// Power limit in force.
    pub(crate) power_limit_w: Option<f64>,
    /// Highest clock of the multiprocessors.
    pub(crate) max_sm_mhz: Option<u32>,
    /// Highest clock of the memory.
    pub(crate) max_memory_mhz: Option<u32>,
    /// Whether memory errors are corrected.
    pub(crate) ecc: Option<bool>,
    /// Whether the device is divided into instances.
    pub(crate) mig: Option<bool>,
    /// Processes on the device before the run, this one left out.
    pub(crate) other_processes: Option<u32>,
    /// Why fields are absent.
    pub(crate) absent: Option<String>,
}

/// Price of the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Price {
    /// Per hour.
    pub(crate) per_hour: f64,
    /// Currency, as given.
    pub(crate) currency: String,
}

/// One scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    /// What was asked for.
    pub(crate) scenario: Scenario,
    /// Whether the result is what a reference computes.
    pub(crate) lossless: bool,
    /// Attention kernel that the device chose for this shape.
    pub(crate) attention_backend: String,
    /// Where the weights came from: `random`, `tiny checkpoint`, or the checkpoint's digest.
    pub(crate) weights: String,
    /// Tokens that the transformer sees.
    pub(crate) tokens: usize,
    /// Stages in the order in which they run.
    pub(crate) stages: Vec<StageResult>,
    /// What the device can do at the model's shapes.
    pub(crate) ceilings: Vec<Ceiling>,
    /// The whole clip.
    pub(crate) clip: Clip,
    /// Power, clocks, temperature while the rounds ran.
    pub(crate) telemetry: Telemetry,
    /// Reasons to doubt the figures.
    pub(crate) doubts: Vec<Doubt>,
}

/// Stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// Everything that stays in memory, once.
    Load,
    /// Both prompts.
    TextEncode,
    /// The first frame.
    ImageEncode,
    /// One sampler step.
    DenoiseStep,
    /// Latents to frames, all of them.
    Decode,
    /// Weights loaded while the clip was made (offloading): part of the stages during which it happened.
    Swap,
    /// Frames to an MP4 file.
    Mux,
}

impl Stage {
    pub(crate) const ALL: [Self; 7] = [
        Self::Load,
        Self::TextEncode,
        Self::ImageEncode,
        Self::DenoiseStep,
        Self::Decode,
        Self::Swap,
        Self::Mux,
    ];

    /// Name in reports and files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::TextEncode => "text-encode",
            Self::ImageEncode => "image-encode",
            Self::DenoiseStep => "denoise-step",
            Self::Decode => "decode",
            Self::Swap => "swap",
            Self::Mux => "mux",
        }
    }
}

/// One stage of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StageResult {
    /// Which.
    pub(crate) stage: Stage,
    /// Why there are no samples, when there are none.
    pub(crate) absent: Option<String>,
    /// Samples per round; steps of one round stand beside each other.
    pub(crate) per_round: usize,
    /// Seconds of the rounds that do not count.
    pub(crate) warmup_s: Vec<f64>,
    /// Seconds, in the order taken.
    pub(crate) samples_s: Vec<f64>,
    /// The samples in a few numbers.
    pub(crate) summary: Option<Summary>,
    /// Arithmetic of one sample.
    pub(crate) flops: Option<f64>,
    /// Fewest bytes that one sample must move through device memory.
    pub(crate) bytes: Option<f64>,
    /// FLOP per second at the median.
    pub(crate) flops_per_s: Option<f64>,
    /// Seconds that one sample would take at the ceilings measured in this run.
    pub(crate) ceiling_s: Option<f64>,
    /// `ceiling_s` over the median.
    pub(crate) fraction: Option<f64>,
    /// Most resident memory of the process during the stage.
    pub(crate) host_peak_bytes: Option<u64>,
    /// Most memory of the device in use during the stage, that of other processes included.
    pub(crate) device_peak_bytes: Option<u64>,
}

/// What a ceiling limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CeilingKind {
    /// Linear layers, in FLOP per second.
    Gemm,
    /// Self attention, in FLOP per second.
    Attention,
    /// Memory, in bytes per second, read and written.
    Copy,
}

/// A rate that was measured in this run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ceiling {
    /// What it limits.
    pub(crate) kind: CeilingKind,
    /// What ran, with its shape.
    pub(crate) what: String,
    /// FLOP or bytes of one sample.
    pub(crate) work: f64,
    /// Seconds, in the order taken; warm-up runs left out.
    pub(crate) samples_s: Vec<f64>,
    /// Work over the median sample.
    pub(crate) rate: f64,
}

/// One clip, from prompt to frames; loading and MP4 are not in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Clip {
    /// Seconds per clip.
    pub(crate) seconds: f64,
    /// 95 % interval.
    pub(crate) interval_s: Option<[f64; 2]>,
    /// Whether only a part of the steps ran and the others are taken to last as long as their median.
    pub(crate) extrapolated: bool,
    /// Seconds of each round.
    pub(crate) rounds_s: Vec<f64>,
    /// Clips per hour, one after the other.
    pub(crate) per_hour: f64,
    /// Cost of one clip in the currency of the price.
    pub(crate) cost: Option<f64>,
    /// Energy of the device per clip, in joules, by its power while the rounds ran.
    pub(crate) energy_j: Option<f64>,
}

/// Why a number may lie, and what would help.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Doubt {
    /// Stage or part of the run.
    pub(crate) about: String,
    /// What was seen.
    pub(crate) what: String,
    /// What would help.
    pub(crate) remedy: String,
}

impl Run {
    /// A stage by name.
    pub(crate) fn stage(&self, stage: Stage) -> Option<&StageResult> {
        self.stages.iter().find(|found| found.stage == stage)
    }

    /// The best measured rate of a kind.
    pub(crate) fn best(&self, kind: CeilingKind) -> Option<&Ceiling> {
        best(&self.ceilings, kind)
    }
}

/// The fastest ceiling of a kind.
pub(crate) fn best(ceilings: &[Ceiling], kind: CeilingKind) -> Option<&Ceiling> {
    ceilings
        .iter()
        .filter(|ceiling| ceiling.kind == kind)
        .max_by(|a, b| a.rate.total_cmp(&b.rate))
}

impl LatencyReport {
    /// Writes the result under `<dir>/<label>/<date>-<sha>.json`; an earlier one stays.
    pub(crate) fn path(&self, dir: &Path, extension: &str) -> Result<PathBuf> {
        let stem = format!("{}-{}", self.date, self.machine.git);
        files::fresh(&dir.join(&self.label), &stem, extension)
    }

    /// As JSON.
    pub(crate) fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Reads a result of this schema.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        Self::from_value(path, files::read_json(path)?)
    }

    /// Takes a result that has been read from `path`.
    pub(crate) fn from_value(path: &Path, value: Value) -> Result<Self> {
        if value["schema"] != SCHEMA {
            return Err(bad_input(format!(
                "{} has schema {}, this program reads \"{SCHEMA}\": measure again with `leoma-bench latency`",
                path.display(),
                value["schema"]
            )));
        }
        serde_json::from_value(value).map_err(|error| {
            bad_input(format!(
                "{} is not a latency result: {error}",
                path.display()
            ))
        })
    }
}
