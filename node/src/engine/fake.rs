//! A backend without a model: deterministic frames, scripted times and failures.
//!
//! Requests go through the real rules, frames through the real guards and the real encoder; only the
//! tensors are missing. `leoma-node serve --fake-engine SCRIPT.toml` serves it, for load tests and for
//! developing clients; the script's fields are those of [`FakeScript`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use leoma_models::weights::ModelKind;
use serde::Deserialize;

use super::wan::model_info;
use super::{Admission, Backend, Clip, Control, Cost, Decode, EngineError, Job, ModelInfo, Stage};
use crate::generation::{
    GenerationRequest, Media, ModelDefaults, OutputFormat, OutputGuard, Preset, StageSeconds,
    resolve,
};
use crate::media::{
    Fps, ImageLimits, Mp4Options, Mp4Writer, RgbImage8, decode as decode_image, encode_png, poster,
};

/// How often a scripted wait looks for cancellation: the stand-in for a transformer block.
const BLOCK: Duration = Duration::from_millis(5);

/// What the fake does, read from TOML.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FakeScript {
    /// Whose rules requests are read by: `ti2v-5b`, `i2v-a14b`, `t2v-a14b`.
    pub kind: String,
    /// Name in the API.
    pub name: String,
    /// Revision told to who asks.
    pub revision: Option<String>,
    /// Seconds before the engine is ready.
    pub start_s: f64,
    /// Seconds of reading weights per job.
    pub load_s: f64,
    /// Seconds of encoding the prompt.
    pub text_encode_s: f64,
    /// Seconds of encoding the first frame.
    pub image_encode_s: f64,
    /// Seconds per denoising step.
    pub step_s: f64,
    /// Seconds of decoding.
    pub decode_s: f64,
    /// Where the file comes from.
    pub clip: FakeClip,
    /// Self-tests after this many give another result than the first.
    pub canary_drifts_after: Option<u64>,
    /// What goes wrong; the first rule whose conditions all hold is applied.
    pub rule: Vec<FakeRule>,
}

impl Default for FakeScript {
    fn default() -> Self {
        Self {
            kind: ModelKind::Ti2v5b.as_str().into(),
            name: "fake".into(),
            revision: None,
            start_s: 0.0,
            load_s: 0.0,
            text_encode_s: 0.0,
            image_encode_s: 0.0,
            step_s: 0.0,
            decode_s: 0.0,
            clip: FakeClip::Encode,
            canary_drifts_after: None,
            rule: Vec::new(),
        }
    }
}

/// Where the fake's files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FakeClip {
    /// Every clip is encoded.
    Encode,
    /// One clip per size and length is encoded and handed out again.
    Fixed,
}

/// When what goes wrong.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FakeRule {
    /// Only jobs whose prompt contains this.
    pub prompt_contains: Option<String>,
    /// Only every n-th of the jobs that the other conditions let through.
    pub every: Option<u64>,
    /// Only the first so many matching jobs.
    pub first: Option<u64>,
    /// The stage it happens in.
    #[serde(default)]
    pub at: FakeStage,
    /// What happens.
    pub fault: FakeFault,
    /// For `slow`: how many times longer the stage takes.
    #[serde(default = "ten")]
    pub factor: f64,
}

fn ten() -> f64 {
    10.0
}

/// Stages a fault can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FakeStage {
    /// Reading weights.
    Load,
    /// Encoding the prompt.
    TextEncode,
    /// Encoding the first frame.
    ImageEncode,
    /// Half-way through the steps.
    #[default]
    Denoise,
    /// Decoding.
    VaeDecode,
    /// Writing the file.
    VideoEncode,
}

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FakeFault {
    /// An error of this machine.
    Local,
    /// An error of the checkpoint.
    Artifact,
    /// No space for the file.
    DiskFull,
    /// A defect of the program.
    Panic,
    /// No progress; stops when asked to.
    Hang,
    /// No progress, and deaf to being asked.
    Deaf,
    /// Frames that are not finite.
    Nan,
    /// Black frames.
    Black,
    /// Frames that are all the same.
    Frozen,
    /// One frame too few.
    Short,
    /// An error that only a new process gets out of.
    DeviceLost,
    /// More time.
    Slow,
}

/// The fake.
#[derive(Debug)]
pub struct FakeBackend {
    script: Arc<FakeScript>,
    kind: ModelKind,
    preset: Preset,
    scratch: PathBuf,
    jobs: u64,
    /// Jobs per rule that its conditions let through.
    matches: Vec<u64>,
    canaries: u64,
    fixed: Arc<std::sync::Mutex<HashMap<[usize; 4], Media>>>,
}

impl FakeBackend {
    /// Reads a script; `name` and `revision` go before those in it.
    ///
    /// # Errors
    /// [`leoma_models::Error::Caller`] naming the file and what is wrong in it.
    pub fn open(
        script: &Path,
        preset: Preset,
        name: Option<String>,
        revision: Option<String>,
        scratch: PathBuf,
    ) -> Result<Self, crate::Error> {
        let wrong = |message: String| {
            crate::Error::caller("fake_engine", format!("{}: {message}", script.display()))
        };
        let text = std::fs::read_to_string(script).map_err(|e| wrong(e.to_string()))?;
        let mut script: FakeScript = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        script.name = name.unwrap_or(script.name);
        script.revision = revision.or(script.revision);
        Self::new(script, preset, scratch)
    }

    /// A fake that follows `script`; clips are written in `scratch` before they are handed out.
    ///
    /// # Errors
    /// [`leoma_models::Error::Caller`] for an unknown kind or a time that is none.
    pub fn new(script: FakeScript, preset: Preset, scratch: PathBuf) -> Result<Self, crate::Error> {
        let kinds = [ModelKind::Ti2v5b, ModelKind::I2vA14b, ModelKind::T2vA14b];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == script.kind);
        let kind = kind.ok_or_else(|| {
            let message = format!(
                "`{}` is not one of ti2v-5b, i2v-a14b, t2v-a14b",
                script.kind
            );
            crate::Error::caller("fake_engine: kind", message)
        })?;
        for (name, seconds) in [
            ("start_s", script.start_s),
            ("load_s", script.load_s),
            ("text_encode_s", script.text_encode_s),
            ("image_encode_s", script.image_encode_s),
            ("step_s", script.step_s),
            ("decode_s", script.decode_s),
        ] {
            if !(0.0..=86_400.0).contains(&seconds) {
                let message = format!("{seconds} is not between 0 and 86400 seconds");
                return Err(crate::Error::caller(
                    format!("fake_engine: {name}"),
                    message,
                ));
            }
        }
        thread::sleep(Duration::from_secs_f64(script.start_s));
        Ok(Self {
            matches: vec![0; script.rule.len()],
            script: Arc::new(script),
            kind,
            preset,
            scratch,
            jobs: 0,
            canaries: 0,
            fixed: Arc::default(),
        })
    }

    /// The first rule that holds for the next job.
    fn rule(&mut self, job: &Job) -> Option<FakeRule> {
        self.jobs += 1;
        for (rule, matches) in self.script.rule.iter().zip(&mut self.matches) {
            let prompt = &job.settings.params.prompt;
            if rule
                .prompt_contains
                .as_ref()
                .is_some_and(|part| !prompt.contains(part.as_str()))
            {
                continue;
            }
            *matches += 1;
            let nth = rule
                .every
                .is_none_or(|every| matches.is_multiple_of(every.max(1)));
            let early = rule.first.is_none_or(|first| *matches <= first);
            if nth && early {
                return Some(rule.clone());
            }
        }
        None
    }
}

/// Reads requests by the real rules.
#[derive(Debug)]
struct FakeAdmission {
    defaults: ModelDefaults,
    preset: Preset,
    script: Arc<FakeScript>,
}

impl Admission for FakeAdmission {
    fn prepare(&self, request: &GenerationRequest) -> Result<Job, EngineError> {
        let image = match &request.image {
            Some(bytes) => Some(decode_image(bytes, &ImageLimits::default())?),
            None => None,
        };
        let with_image = image.is_some();
        let task = match (self.defaults.kind, with_image) {
            (ModelKind::I2vA14b, false) => Err("this model needs a first frame"),
            (ModelKind::T2vA14b, true) => Err("this model takes no first frame; leave it out"),
            _ => Ok(()),
        };
        task.map_err(|message| EngineError::caller("image", message))?;
        let size = image.as_ref().map(|image| [image.height(), image.width()]);
        let preset = request.preset.unwrap_or(self.preset);
        let settings = resolve(request, preset, &self.defaults, size)?;
        let script = &self.script;
        let steps = settings.params.num_inference_steps as f64;
        let cost = Cost {
            denoise: script.load_s
                + script.text_encode_s
                + script.image_encode_s
                + script.step_s * steps,
            decode: script.decode_s,
        };
        Ok(Job {
            settings,
            image,
            cost,
        })
    }
}

impl Backend for FakeBackend {
    fn info(&self) -> ModelInfo {
        ModelInfo {
            revision: self.script.revision.clone(),
            ..model_info(self.script.name.clone(), self.kind, self.preset)
        }
    }

    fn admission(&self) -> Arc<dyn Admission> {
        let multiple = if self.kind == ModelKind::Ti2v5b {
            32
        } else {
            16
        };
        Arc::new(FakeAdmission {
            defaults: ModelDefaults {
                kind: self.kind,
                flow_shift: None,
                boundary_ratio: None,
                temporal_stride: 4,
                size_multiple: [multiple; 2],
            },
            preset: self.preset,
            script: Arc::clone(&self.script),
        })
    }

    fn denoise(
        &mut self,
        job: &Arc<Job>,
        control: &Control,
    ) -> Result<Box<dyn Decode>, EngineError> {
        let rule = self.rule(job);
        let script = Arc::clone(&self.script);
        let play = Play {
            rule: rule.as_ref(),
            control,
        };
        let mut stages = StageSeconds::default();
        let stage = |at, stage, seconds: f64| -> Result<f64, EngineError> {
            let start = Instant::now();
            if seconds > 0.0 || play.rule_at(at).is_some() {
                control.progress(stage, 0, 1);
                play.run(at, seconds)?;
                control.progress(stage, 1, 1);
            }
            Ok(start.elapsed().as_secs_f64())
        };
        stages.load_s = stage(FakeStage::Load, Stage::Load, script.load_s)?;
        stages.text_encode_s = stage(
            FakeStage::TextEncode,
            Stage::TextEncode,
            script.text_encode_s,
        )?;
        if job.image.is_some() {
            stages.image_encode_s = stage(
                FakeStage::ImageEncode,
                Stage::ImageEncode,
                script.image_encode_s,
            )?;
        }
        let start = Instant::now();
        let steps = job.settings.params.num_inference_steps;
        control.progress(Stage::Denoise, 0, steps);
        for step in 0..steps {
            if step == steps / 2 {
                play.run(FakeStage::Denoise, script.step_s)?;
            } else {
                play.wait(script.step_s)?;
            }
            control.progress(Stage::Denoise, step + 1, steps);
        }
        stages.denoise_s = start.elapsed().as_secs_f64();
        Ok(Box::new(FakeDecode {
            job: Arc::clone(job),
            script,
            rule,
            stages,
            scratch: self.scratch.clone(),
            fixed: Arc::clone(&self.fixed),
        }))
    }

    fn canary(&mut self, _: &Control) -> Result<Vec<f32>, EngineError> {
        self.canaries += 1;
        let drifts = self
            .script
            .canary_drifts_after
            .is_some_and(|after| self.canaries > after);
        Ok(vec![if drifts { -1.0 } else { 1.0 }; 8])
    }
}

/// Plays the script for one job.
struct Play<'a> {
    rule: Option<&'a FakeRule>,
    control: &'a Control,
}

impl Play<'_> {
    fn rule_at(&self, at: FakeStage) -> Option<&FakeRule> {
        self.rule.filter(|rule| rule.at == at)
    }

    /// A stage of `seconds`, with what the script says about it.
    fn run(&self, at: FakeStage, seconds: f64) -> Result<(), EngineError> {
        let Some(rule) = self.rule_at(at) else {
            return self.wait(seconds);
        };
        let message = "scripted".to_owned();
        match rule.fault {
            FakeFault::Local => Err(EngineError::Local { message }),
            FakeFault::Artifact => Err(EngineError::Artifact { message }),
            FakeFault::DiskFull => Err(EngineError::DiskFull { message }),
            FakeFault::DeviceLost => Err(EngineError::DeviceLost { message }),
            FakeFault::Panic => std::panic::panic_any("scripted panic"),
            FakeFault::Slow => self.wait(seconds * rule.factor),
            // A flag that is read without a sign of life would not exist in a real backend: a hang looks
            // for cancellation rarely, a deaf one never.
            FakeFault::Hang => self.hang(true),
            FakeFault::Deaf => self.hang(false),
            FakeFault::Nan | FakeFault::Black | FakeFault::Frozen | FakeFault::Short => {
                self.wait(seconds)
            }
        }
    }

    fn wait(&self, seconds: f64) -> Result<(), EngineError> {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        loop {
            if self.control.cancelled() {
                return Err(EngineError::Cancelled);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(BLOCK));
        }
    }

    fn hang(&self, listens: bool) -> Result<(), EngineError> {
        loop {
            thread::sleep(BLOCK);
            if listens && self.control.stop_requested() {
                return Err(EngineError::Cancelled);
            }
        }
    }
}

/// The second half of a fake job.
struct FakeDecode {
    job: Arc<Job>,
    script: Arc<FakeScript>,
    rule: Option<FakeRule>,
    stages: StageSeconds,
    scratch: PathBuf,
    fixed: Arc<std::sync::Mutex<HashMap<[usize; 4], Media>>>,
}

impl Decode for FakeDecode {
    fn decode(mut self: Box<Self>, control: &Control) -> Result<Clip, EngineError> {
        let play = Play {
            rule: self.rule.as_ref(),
            control,
        };
        control.progress(Stage::VaeDecode, 0, 1);
        let start = Instant::now();
        play.run(FakeStage::VaeDecode, self.script.decode_s)?;
        let decoded = start.elapsed().as_secs_f64();
        play.run(FakeStage::VideoEncode, 0.0)?;
        let media = self.media(control)?;
        self.stages.vae_decode_s = decoded;
        self.stages.video_encode_s = start.elapsed().as_secs_f64() - decoded;
        control.progress(Stage::VaeDecode, 1, 1);
        Ok(Clip {
            media,
            effective: self.job.effective(),
            stages: self.stages,
            queue_s: 0.0,
        })
    }
}

impl FakeDecode {
    fn media(&self, control: &Control) -> Result<Media, EngineError> {
        let settings = &self.job.settings;
        let (width, height) = (settings.params.width, settings.params.height);
        let key = [
            width,
            height,
            settings.params.num_frames,
            settings.fps as usize,
        ];
        let fixed = self.script.clip == FakeClip::Fixed && self.rule.is_none();
        let cache = || {
            self.fixed
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        if fixed && let Some(media) = cache().get(&key) {
            return Ok(media.clone());
        }
        let media = self.encode(control).map_err(EngineError::from)?;
        if fixed {
            cache().insert(key, media.clone());
        }
        Ok(media)
    }

    fn encode(&self, control: &Control) -> Result<Media, crate::Error> {
        let settings = &self.job.settings;
        let (width, height) = (settings.params.width, settings.params.height);
        let fault = self.rule.as_ref().map(|rule| rule.fault);
        let still = settings.format == OutputFormat::Png;
        let frames = settings.params.num_frames - usize::from(fault == Some(FakeFault::Short));
        let mut guard = OutputGuard::new(settings.params.num_frames);
        let options = Mp4Options {
            width: width as u32,
            height: height as u32,
            fps: Fps::from(settings.fps),
            crf: settings.crf,
            metadata: vec![(
                "comment".into(),
                serde_json::json!({ "generator": "fake", "parameters": settings.parameters() })
                    .to_string(),
            )],
        };
        let mut writer = match still {
            true => None,
            false => Some(Mp4Writer::create_in_memory(&self.scratch, &options)?),
        };
        let (mut middle, mut first) = (Vec::new(), Vec::new());
        for index in 0..frames {
            if control.cancelled() {
                return Err(leoma_models::Error::Cancelled.into());
            }
            if fault == Some(FakeFault::Nan) {
                guard.values(&[f32::NAN])?;
            }
            let shown = if fault == Some(FakeFault::Frozen) {
                0
            } else {
                index
            };
            let frame = match fault {
                Some(FakeFault::Black) => vec![0; width * height * 3],
                _ => frame(
                    self.job.image.as_ref(),
                    settings.params.seed,
                    shown,
                    width,
                    height,
                ),
            };
            guard.frame(&frame);
            if let Some(writer) = &mut writer {
                writer.push(&frame)?;
            }
            if index == settings.params.num_frames / 2 {
                middle = poster(width as u32, height as u32, &frame)?;
            }
            if index == 0 {
                first = frame;
            }
        }
        guard.verdict()?;
        let bytes = match writer {
            Some(writer) => writer.finish_into_bytes()?,
            None => encode_png(width as u32, height as u32, &first)?,
        };
        Ok(Media {
            bytes: bytes.into(),
            format: settings.format,
            poster: middle.into(),
        })
    }
}

/// A frame that depends on seed, number and picture: the picture (or a gradient) under a moving stripe.
fn frame(
    image: Option<&RgbImage8>,
    seed: u64,
    index: usize,
    width: usize,
    height: usize,
) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(width * height * 3);
    let stripe = (seed as usize % 97 + index * (width / 24).max(1)) % width;
    let thick = (width / 12).max(2);
    for y in 0..height {
        for x in 0..width {
            let below = match image {
                Some(image) => {
                    let at =
                        (y * image.height() / height) * image.width() + x * image.width() / width;
                    let pixel = image.data().get(at * 3..at * 3 + 3);
                    pixel.map_or([128; 3], |p| [p[0], p[1], p[2]])
                }
                None => [(x * 255 / width) as u8, (y * 255 / height) as u8, 96],
            };
            let lit = (x + width - stripe) % width < thick;
            rgb.extend(below.map(|byte| if lit { 255 - byte / 4 } else { byte }));
        }
    }
    rgb
}

#[cfg(test)]
#[path = "fake_tests.rs"]
mod tests;
