//! A model of this machine as a judge, under the gates of the signals.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use leoma_models::judge::rubric::JudgedClip;
use leoma_models::judge::unified::UNIFIED_FRAMES;
use leoma_models::judge::{Frame, LocalJudge, Timings, rubric_sha256, unified_sha256};
use leoma_models::{Error, Fault};
use serde_json::{Value, json};

use super::compared::SameFrames;
use super::dump::Dump;
use super::readings::Readings;
use super::record::{Seen, capped, failed, millis, rate};
use super::signals::{limits, opinion};
use super::turn;
use super::{LocalProfile, LocalSettings, open_embeddings};
use crate::judge::answer::Parse;
use crate::judge::canonical::sha256;
use crate::judge::embeddings::Embeddings;
use crate::judge::input::JudgeInput;
use crate::judge::profile::{Configuration, Profile};
use crate::judge::sampling::{whole, with_ends};
use crate::judge::side::Judge;
use crate::judge::signals::gates::GateHit;
use crate::judge::verdict::{NoVerdict, Outcome, Reason, Usage, Verdict};
use crate::media::RgbImage8;

/// Name in records of a general Qwen3-VL under the rubric.
pub const MODEL_ID: &str = "qwen3-vl";
/// Name in records of UnifiedReward-2.0.
pub const UNIFIED_ID: &str = "unified-reward";
/// Frames of the tail that a general model sees beside those that the remote judge sees.
const TAIL_FRAMES: usize = 4;

/// A model of this machine as a judge. One clip at a time: two at once would need the memory twice.
pub struct LearnedJudge {
    id: &'static str,
    profile: LocalProfile,
    configuration: Configuration,
    model: Mutex<LocalJudge>,
    embeddings: Option<Embeddings>,
    /// What every verdict says about the model.
    facts: Value,
    dump: Option<Arc<Dump>>,
}

impl fmt::Debug for LearnedJudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LearnedJudge")
            .field("id", &self.id)
            .field("configuration", &self.configuration)
            .finish_non_exhaustive()
    }
}

/// What the model said, and what that took.
struct Run {
    readings: Readings,
    tokens: usize,
    vision_tokens: Option<usize>,
    cache_bytes: usize,
    timings: Timings,
}

impl LearnedJudge {
    /// Reads the weights of the settings' folder onto their device.
    ///
    /// # Errors
    /// [`NoVerdict`] that names the file that cannot be used. Whatever is wrong with it, it is no fault of a clip.
    pub fn open(settings: &LocalSettings) -> Result<Self, NoVerdict> {
        let (id, words) = match settings.profile {
            LocalProfile::Rubric => (MODEL_ID, rubric_sha256()),
            LocalProfile::Unified => (UNIFIED_ID, unified_sha256()),
        };
        let unusable = |message: String| NoVerdict::new(id, Reason::Weights, Fault::Local, message);
        let root = settings.model.as_deref().ok_or_else(|| {
            unusable("local_model: name the folder of a Qwen3-VL checkpoint".into())
        })?;
        let model = LocalJudge::open(root, settings.precision, &settings.device)
            .map_err(|error| unusable(format!("local_model: {error}")))?
            .with_tokens_per_picture(settings.tokens_per_picture);
        let weights = model.weights_sha256();
        let mut configuration = Configuration {
            profile: Profile::Whitepaper,
            model: folder_name(root),
            rules: settings.rules,
            frames: settings.frames,
            asks: json!({
                "profile": settings.profile,
                "asks_sha256": words,
                "weights_sha256": weights,
                "precision": settings.precision.as_str(),
                "tokens_per_picture": settings.tokens_per_picture,
                "more_frames": match settings.profile {
                    LocalProfile::Rubric => json!({"first": 1, "tail": TAIL_FRAMES}),
                    LocalProfile::Unified => json!({"whole": UNIFIED_FRAMES}),
                },
                "limits": limits(),
            }),
        };
        let embeddings = open_embeddings(id, settings)?;
        if let Some(models) = &embeddings {
            models.configuration().add_to(&mut configuration);
        }
        let device = if settings.device.is_cpu() {
            "cpu"
        } else {
            "cuda"
        };
        Ok(Self {
            id,
            profile: settings.profile,
            configuration,
            model: Mutex::new(model),
            embeddings,
            facts: json!({
                "weights_sha256": weights,
                "asks_sha256": words,
                "precision": settings.precision.as_str(),
                "device": device,
                "version": env!("CARGO_PKG_VERSION"),
            }),
            dump: settings.dump.clone(),
        })
    }

    fn verdict(&self, input: &JudgeInput, within: Duration) -> Result<Outcome, NoVerdict> {
        let start = Instant::now();
        let rules = &self.configuration.rules;
        let go_on = || start.elapsed() < within;
        let seen = Seen::of(self.id, input, rules, self.embeddings.as_ref(), &go_on)?;
        if seen.is_hard_fail() {
            let mut outcome = opinion(self.id, &self.configuration, &seen, millis(start));
            // Nobody asked the model, but whose verdict it is does not depend on the clip.
            if let Outcome::Verdict(verdict) = &mut outcome {
                add(&mut verdict.details, self.facts.clone());
            }
            return Ok(outcome);
        }
        let indices = self.indices(input);
        let mut details = json!(seen.record());
        let run = self
            .ask(input, &indices, &go_on)
            .map_err(|error| with_details(failed(self.id, &error), start, details.clone()))?;
        add(&mut details, self.facts.clone());
        add(&mut details, record(input, &indices, &run));
        let Some(read) = run.readings.read() else {
            return Err(with_details(self.silent(), start, details));
        };
        let scores = capped(read.scores, &seen.assessment.hits);
        let mut verdict = Verdict::of_scores(self.id, &self.configuration, scores);
        verdict.unjudged = read.unjudged;
        verdict.confidence = read.confidence;
        verdict.issues = seen.reasons();
        for dimension in &read.unanswered {
            verdict.parse = Parse::Repaired;
            verdict
                .issues
                .push(format!("the model gave no digit for {dimension}: 0"));
        }
        verdict.text_in_frames = seen.has_writing();
        verdict.usage = Usage {
            tokens_in: run.tokens as u64,
            millis: millis(start),
            ..Usage::default()
        };
        verdict.details = details;
        Ok(verdict.into())
    }

    /// Scores exactly the frames that the remote judge is shown, under gates that closed.
    ///
    /// # Errors
    /// [`NoVerdict`] when it shows none, when time is over, and as [`Judge::judge`].
    pub(super) fn on_remote_frames(
        &self,
        input: &JudgeInput,
        hits: &[GateHit],
        within: Duration,
    ) -> Result<SameFrames, NoVerdict> {
        let start = Instant::now();
        let rule = self.configuration.frames;
        let mut indices = rule.indices(input.frames.len(), input.fps);
        // Of a slow clip the remote judge sees frames twice; a model on a time line cannot.
        indices.dedup();
        if indices.is_empty() {
            let message = "video: it is too short for a frame of the remote judge's";
            return Err(NoVerdict::new(
                self.id,
                Reason::Input,
                Fault::Artifact,
                message,
            ));
        }
        let run = self
            .ask(input, &indices, &|| start.elapsed() < within)
            .map_err(|error| failed(self.id, &error))?;
        let read = run.readings.read().ok_or_else(|| self.silent())?;
        let scores = capped(read.scores, hits);
        let overall = scores.weighted();
        Ok(SameFrames {
            indices,
            readings: run.readings,
            scores,
            overall,
            pass: self.configuration.rules.passes(overall, &scores),
            millis: millis(start),
        })
    }

    /// The frames that the model sees.
    fn indices(&self, input: &JudgeInput) -> Vec<usize> {
        let frames = input.frames.len();
        match self.profile {
            LocalProfile::Rubric => {
                let shown = self.configuration.frames.indices(frames, input.fps);
                with_ends(frames, &shown, TAIL_FRAMES)
            }
            LocalProfile::Unified => whole(frames, UNIFIED_FRAMES),
        }
    }

    fn ask(
        &self,
        input: &JudgeInput,
        indices: &[usize],
        go_on: &dyn Fn() -> bool,
    ) -> leoma_models::Result<Run> {
        let frames: Vec<Frame<'_>> = indices
            .iter()
            .filter_map(|index| input.frames.get(*index))
            .map(view)
            .collect::<leoma_models::Result<_>>()?;
        let model = turn::wait(&self.model, go_on)?;
        match self.profile {
            LocalProfile::Rubric => {
                let clip = JudgedClip {
                    first: view(&input.first)?,
                    frames: &frames,
                    indices,
                    fps: rate(input),
                    prompt: &input.prompt,
                };
                let run = model.rubric_while(&clip, go_on)?;
                if let Some(dump) = &self.dump {
                    dump.offer(&run)
                        .map_err(|error| Error::local(format!("dump: {error}")))?;
                }
                Ok(Run {
                    readings: Readings::of_rubric(&run),
                    tokens: run.sequence.len(),
                    vision_tokens: Some(run.vision_tokens()),
                    cache_bytes: run.cache_bytes,
                    timings: run.timings,
                })
            }
            LocalProfile::Unified => {
                let run = model.unified_while(&frames, &input.prompt, go_on)?;
                Ok(Run {
                    readings: Readings::of_unified(&run),
                    tokens: run.tokens,
                    vision_tokens: None,
                    cache_bytes: run.cache_bytes,
                    timings: run.timings,
                })
            }
        }
    }

    /// The model says nothing that can be read: it is another model than the profile is for.
    fn silent(&self) -> NoVerdict {
        let message = match self.profile {
            LocalProfile::Rubric => {
                "local_model: it answers none of the six questions with a digit; profile rubric needs an \
                 instruction-tuned Qwen3-VL"
            }
            LocalProfile::Unified => {
                "local_model: its answer is not of the form that UnifiedReward-2.0 was trained to give; use \
                 --local-profile rubric for other models"
            }
        };
        NoVerdict::new(self.id, Reason::Weights, Fault::Local, message)
    }
}

impl Judge for LearnedJudge {
    fn id(&self) -> &str {
        self.id
    }

    fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    fn judge(&self, input: &JudgeInput, within: Duration) -> Outcome {
        self.verdict(input, within).unwrap_or_else(Outcome::from)
    }
}

fn view(image: &RgbImage8) -> leoma_models::Result<Frame<'_>> {
    Frame::new(image.data(), image.height(), image.width())
}

/// The last part of the path, as it is on the disk.
fn folder_name(root: &Path) -> String {
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    root.file_name().map_or_else(
        || "local".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// What was said, about which frames, and what it took.
fn record(input: &JudgeInput, indices: &[usize], run: &Run) -> Value {
    let shown = indices
        .iter()
        .filter_map(|index| Some((index, input.frames.get(*index)?)));
    let frames: Vec<_> = shown
        .map(|(index, frame)| json!({"index": index, "rgb_sha256": sha256(frame.data())}))
        .collect();
    let Timings {
        prepare,
        vision,
        prefill,
        answer,
    } = run.timings;
    let millis = |duration: Duration| duration.as_millis() as u64;
    json!({
        "frames": frames,
        "readings": run.readings,
        "vision_tokens": run.vision_tokens,
        "cache_bytes": run.cache_bytes,
        "timings_millis": {
            "prepare": millis(prepare), "vision": millis(vision), "prefill": millis(prefill), "answer": millis(answer),
        },
    })
}

/// Adds the fields of an object to another one.
fn add(details: &mut Value, more: Value) {
    if let (Value::Object(details), Value::Object(more)) = (details, more) {
        details.extend(more);
    }
}

fn with_details(mut none: NoVerdict, start: Instant, details: Value) -> NoVerdict {
    none.usage.millis = millis(start);
    none.details = Some(Box::new(details));
    none
}

#[cfg(test)]
mod tests;
