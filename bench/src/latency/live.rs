//! Runs a scenario through the pipeline.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use leoma_kernels::set_attention_preference;
use leoma_models::noise::NoiseSource;
use leoma_models::random::{self, Networks};
use leoma_models::scheduler::SchedulerKind;
use leoma_models::text::{PromptTokenizer, clean_prompt, tiny_tokenizer_files};
use leoma_models::tiny::make_tiny;
use leoma_models::wan::pipeline::{
    self, GenerateParams, Observer, Offload, Unobserved, WanPipeline,
};
use leoma_models::weights::{Checkpoint, Component};
use serde_json::Value;

use super::ceilings;
use super::result::{Ceiling, Stage};
use super::scenario::{ModelSize, Scenario};
use super::schedule::{Host, Runner, Stages, Subject};
use super::work::{Work, networks};
use crate::cases::pipeline::{picture, prepared};
use crate::failure::bad_input;
use crate::{clock, env};

const PROMPT: &str = "a red bird flies over the sea at dawn, cinematic, detailed";
const NEGATIVE: &str = "low quality, blurry, distorted";
const SEED: u64 = 42;

/// A scenario that is ready to run.
pub(crate) struct LiveRunner {
    pipeline: WanPipeline,
    scenario: Scenario,
    params: GenerateParams,
    /// `[3, H, W]` in [-1, 1].
    image: Option<Tensor>,
    device: Device,
    subject: Subject,
    /// Folder of the checkpoint and the program that writes MP4.
    mux: Result<(PathBuf, PathBuf), String>,
    work: PathBuf,
}

/// What scenarios run on.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// The device.
    pub(crate) device: &'a Device,
    /// Checkpoint instead of the scenario's sizes.
    pub(crate) model: Option<&'a Path>,
    /// `leoma-node`.
    pub(crate) node: Option<&'a Path>,
    /// Folder for files.
    pub(crate) work: &'a Path,
}

impl LiveRunner {
    /// Opens or makes the checkpoint; weights are read by [`Runner::load`].
    pub(crate) fn new(scenario: &Scenario, place: &Place<'_>) -> Result<Self> {
        let mut scenario = scenario.clone();
        let (checkpoint, weights, folder) = checkpoint(&scenario, place)?;
        if place.model.is_some() {
            scenario.size = ModelSize::Checkpoint;
        }
        if checkpoint.kind() != scenario.kind()? {
            return Err(bad_input(format!(
                "scenario `{}` measures {}, the checkpoint of --model is {}; choose scenarios of that model \
                 with --filter",
                scenario.name,
                scenario.model,
                checkpoint.kind()
            )));
        }
        let tokenizer = PromptTokenizer::open(checkpoint.tokenizer_dir())?;
        let mut prompt = tokenizer.encode(&clean_prompt(PROMPT))?.len();
        if scenario.passes() == 2 {
            prompt += tokenizer.encode(&clean_prompt(NEGATIVE))?.len();
        }
        let networks = Networks {
            transformer: checkpoint
                .transformer_config(Component::Transformer)
                .clone(),
            vae: checkpoint.vae_config().clone(),
            text: checkpoint.text_config().clone(),
        };
        let params = GenerateParams {
            prompt: PROMPT.into(),
            negative_prompt: NEGATIVE.into(),
            num_frames: scenario.frames,
            height: scenario.height,
            width: scenario.width,
            num_inference_steps: scenario.measured_steps,
            guidance_scale: scenario.guidance,
            guidance_scale_2: scenario.guidance,
            flow_shift: 5.0,
            boundary_ratio: checkpoint.boundary_ratio(),
            scheduler: SchedulerKind::UniPc,
            seed: SEED,
            noise: NoiseSource::TorchCpu,
            tiling: None,
        };
        WanPipeline::check_task(&checkpoint, &params, scenario.image)?;
        let image = match scenario.image {
            true => Some(prepared(&picture(scenario.width, scenario.height)?)?),
            false => None,
        };
        let mux = match (folder, place.node) {
            (None, _) => Err("random weights are in no folder that `leoma-node generate` could read".to_owned()),
            (Some(_), None) => Err(
                "no leoma-node beside this program (see --node); it writes the MP4 and reports its time in \
                 `leoma-node generate --format json`"
                    .to_owned(),
            ),
            (Some(folder), Some(node)) => Ok((folder, node.to_owned())),
        };
        let offload = Offload::from_str(&scenario.offload)?;
        let work = Work::new(&scenario, &networks, prompt);
        set_attention_preference(scenario.attention.parse()?);
        let pipeline = WanPipeline::new(checkpoint, scenario.precision, place.device, offload)?;
        let subject = Subject {
            attention_backend: pipeline.attention()?.backend.to_string(),
            weights,
            work,
        };
        Ok(Self {
            pipeline,
            scenario,
            params,
            image,
            device: place.device.clone(),
            subject,
            mux,
            work: place.work.to_owned(),
        })
    }
}

impl LiveRunner {
    /// The scenario, with what the checkpoint settled.
    pub(crate) fn scenario(&self) -> &Scenario {
        &self.scenario
    }
}

/// The checkpoint, the origin of its weights, and its folder if it has one.
fn checkpoint(
    scenario: &Scenario,
    place: &Place<'_>,
) -> Result<(Checkpoint, String, Option<PathBuf>)> {
    if let Some(folder) = place.model {
        let checkpoint = Checkpoint::open(folder)?;
        return Ok((checkpoint, "checkpoint".to_owned(), Some(folder.to_owned())));
    }
    let kind = scenario.kind()?;
    if scenario.size == ModelSize::Tiny {
        let folder = place.work.join(format!("tiny-{kind}"));
        if !folder.exists() {
            make_tiny(kind, SEED, &folder)?;
        }
        return Ok((
            Checkpoint::open(&folder)?,
            "tiny checkpoint".to_owned(),
            Some(folder),
        ));
    }
    let tokenizer = place.work.join("tokenizer");
    std::fs::create_dir_all(&tokenizer)?;
    for (name, text) in tiny_tokenizer_files() {
        crate::files::write(&tokenizer.join(name), &text)?;
    }
    let made = random::checkpoint(kind, networks(kind, false), SEED, tokenizer);
    Ok((made, "random".to_owned(), None))
}

impl Runner for LiveRunner {
    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn load(&mut self) -> Result<f64> {
        let start = Instant::now();
        self.pipeline.load(&mut Unobserved)?;
        self.device.synchronize()?;
        if self.subject.weights == "checkpoint" {
            let digest = self.pipeline.checkpoint().digest();
            self.subject.weights = format!("checkpoint {}", &digest[..digest.len().min(16)]);
        }
        Ok(start.elapsed().as_secs_f64())
    }

    fn clip(&mut self, stages: &mut dyn Stages) -> Result<f64> {
        let start = Instant::now();
        let mut watch = Watch {
            device: self.device.clone(),
            since: Instant::now(),
            stages: &mut *stages,
            failed: None,
        };
        let clip = self
            .pipeline
            .denoise(&self.params, self.image.as_ref(), &mut watch, &|| false)?;
        let swapped = clip.timings().load_s;
        // Frames are taken to the host, as the MP4 writer does, and let go.
        watch.since = Instant::now();
        clip.decode(&mut Unobserved, &|| false, &mut |frames| {
            frames.to_device(&Device::Cpu)?;
            Ok(())
        })?;
        self.device.synchronize()?;
        let decode_s = watch.since.elapsed().as_secs_f64();
        let total_s = start.elapsed().as_secs_f64();
        watch.stages.over(Stage::Decode, decode_s);
        if let Some(error) = watch.failed {
            bail!("the device failed while a stage was timed: {error}");
        }
        if self.scenario.offload != "none" {
            stages.over(Stage::Swap, swapped);
        }
        Ok(total_s)
    }

    fn ceilings(&mut self) -> Result<Vec<Ceiling>> {
        ceilings::measure(
            &self.subject.work,
            self.scenario.precision.dtype(),
            &self.device,
        )
    }

    fn mux(&mut self) -> Result<Result<Vec<f64>, String>> {
        let (folder, node) = match &self.mux {
            Ok(found) => found,
            Err(reason) => return Ok(Err(reason.clone())),
        };
        let image = self.work.join("first.png");
        if self.scenario.image {
            let (width, height) = (self.scenario.width as u32, self.scenario.height as u32);
            image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 90]))
                .save(&image)?;
        }
        (0..3)
            .map(|_| mux_once(node, folder, &self.scenario, &image, &self.work))
            .collect::<Result<Vec<f64>>>()
            .map(Ok)
    }
}

/// One clip of one step by `leoma-node generate`; seconds that it spent on the MP4.
fn mux_once(
    node: &Path,
    model: &Path,
    scenario: &Scenario,
    image: &Path,
    work: &Path,
) -> Result<f64> {
    let mut command = Command::new(node);
    command.arg("generate").arg("--model").arg(model);
    if scenario.image {
        command.arg("--image").arg(image);
    }
    let output = command
        .args([
            "--prompt", PROMPT, "--format", "json", "--device", "cpu", "--dtype", "f32",
        ])
        .args([
            "--num-inference-steps",
            "1",
            "--num-frames",
            &scenario.frames.to_string(),
        ])
        .args([
            "--height",
            &scenario.height.to_string(),
            "--width",
            &scenario.width.to_string(),
        ])
        .arg("--output")
        .arg(work.join("clip.mp4"))
        .output()
        .with_context(|| format!("cannot start {}", node.display()))?;
    if !output.status.success() {
        bail!(
            "{} generate failed ({}): {}",
            node.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let found: Value = serde_json::from_slice(&output.stdout)
        .context("leoma-node generate --format json did not print one JSON object")?;
    find_number(&found, "video_encode_s")
        .context("leoma-node generate --format json names no `video_encode_s`")
}

/// The number under `key`, wherever it stands.
fn find_number(value: &Value, key: &str) -> Option<f64> {
    match value {
        Value::Object(map) => map
            .get(key)
            .and_then(Value::as_f64)
            .or_else(|| map.values().find_map(|inner| find_number(inner, key))),
        _ => None,
    }
}

/// Turns the pipeline's progress into times. Work on a device is asynchronous: it is awaited at every mark.
struct Watch<'a> {
    device: Device,
    since: Instant,
    stages: &'a mut dyn Stages,
    failed: Option<candle_core::Error>,
}

impl Observer for Watch<'_> {
    fn progress(&mut self, stage: pipeline::Stage, done: usize, total: usize) {
        if let Err(error) = self.device.synchronize() {
            self.failed.get_or_insert(error);
        }
        let over = match stage {
            // A stage begins.
            _ if done == 0 => None,
            pipeline::Stage::TextEncode if done == total => Some(Stage::TextEncode),
            pipeline::Stage::ImageEncode if done == total => Some(Stage::ImageEncode),
            pipeline::Stage::Denoise => Some(Stage::DenoiseStep),
            _ => return,
        };
        let now = Instant::now();
        if let Some(over) = over {
            self.stages.over(over, (now - self.since).as_secs_f64());
        }
        self.since = Instant::now();
    }
}

/// This process and the machine it runs on.
pub(crate) struct LiveHost {
    since: Instant,
    machine_s: f64,
    own_s: f64,
}

impl LiveHost {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            machine_s: env::machine_cpu_seconds(),
            own_s: clock::cpu_seconds(),
        }
    }
}

impl Host for LiveHost {
    fn take_peak(&mut self) -> u64 {
        let peak = clock::peak_resident_bytes();
        // Where the system does not allow it the peak is that of the whole run so far, never too small.
        clock::reset_peak();
        peak
    }

    fn take_others(&mut self) -> f64 {
        let now = Self::new();
        let capacity_s = (now.since - self.since).as_secs_f64() * env::available_cores() as f64;
        let others = (now.machine_s - self.machine_s) - (now.own_s - self.own_s);
        *self = now;
        others / capacity_s
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::schedule::tests::scenario;
    use super::*;

    #[derive(Default)]
    struct List(Vec<(Stage, f64)>);

    impl Stages for List {
        fn over(&mut self, stage: Stage, seconds: f64) {
            self.0.push((stage, seconds));
        }
    }

    fn small(size: ModelSize) -> Scenario {
        Scenario {
            width: 64,
            height: 64,
            frames: 5,
            steps: 2,
            measured_steps: 2,
            size,
            ..scenario()
        }
    }

    fn runner(scenario: &Scenario, work: &Path) -> Result<LiveRunner> {
        let place = Place {
            device: &Device::Cpu,
            model: None,
            node: None,
            work,
        };
        LiveRunner::new(scenario, &place)
    }

    #[test]
    fn a_clip_reports_every_stage_once_and_every_step() {
        let dir = tempfile::tempdir().unwrap();
        let mut scenario = small(ModelSize::Tiny);
        scenario.offload = "experts".into();
        let mut runner = runner(&scenario, dir.path()).unwrap();
        assert!(runner.load().unwrap() > 0.0);
        let mut list = List::default();
        runner.clip(&mut list).unwrap();
        let stages: Vec<Stage> = list.0.iter().map(|(stage, _)| *stage).collect();
        use Stage::{Decode, DenoiseStep, ImageEncode, Swap, TextEncode};
        assert_eq!(
            stages,
            [
                TextEncode,
                ImageEncode,
                DenoiseStep,
                DenoiseStep,
                Decode,
                Swap
            ]
        );
        assert!(
            list.0.iter().all(|(_, seconds)| *seconds > 0.0),
            "{:?}",
            list.0
        );
        assert!(runner.mux().unwrap().unwrap_err().contains("--node"));
        assert_eq!(runner.subject().attention_backend, "cpu-flash");
    }

    #[test]
    fn what_a_scenario_cannot_have_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = |change: fn(&mut Scenario)| {
            let mut scenario = small(ModelSize::Tiny);
            change(&mut scenario);
            let error = runner(&scenario, dir.path()).err().unwrap();
            assert_eq!(crate::failure::code(&error), 2);
            format!("{error:#}")
        };
        assert!(refusal(|scenario| scenario.width = 65).contains("width"));
        assert!(refusal(|scenario| scenario.frames = 6).contains("num_frames"));
    }

    #[test]
    fn numbers_are_found_at_any_depth() {
        let json = serde_json::json!({"a": 1, "stages": {"video_encode_s": 0.5}});
        assert_eq!(find_number(&json, "video_encode_s"), Some(0.5));
        assert_eq!(find_number(&json, "missing"), None);
    }

    #[test]
    fn the_host_counts_since_the_last_call() {
        let mut host = LiveHost::new();
        assert!(host.take_peak() > 0);
        let block = vec![1_u8; 48 << 20];
        assert!(block.iter().step_by(4096).all(|&byte| byte == 1));
        assert!(host.take_peak() >= 48 << 20);
        assert!(host.take_others().is_finite());
    }
}
