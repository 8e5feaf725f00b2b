//! A judge on this machine: a checkpoint folder, opened and asked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::config::Qwen3VlConfig;
use super::frame::Frame;
use super::model::Qwen3Vl;
use super::processor::Processor;
use super::rubric::{
    DIMENSIONS, DimensionReading, JudgedClip, Questions, question_text, rubric_sequence,
    rubric_text,
};
use super::sequence::{Sequence, SequenceBuilder};
use super::tensors::validate;
use super::tokenizer::{JudgeTokenizer, MAX_FILE_BYTES};
use super::unified::{
    UNIFIED_ANSWER_TOKENS, UnifiedReading, unified_answer, unified_sequence, unified_text,
};
use super::vision::VisionFeatures;
use crate::Precision;
use crate::error::{Error, Result};
use crate::weights::{PlainFolder, PlainSource, VarBuilder};

/// A Qwen3-VL checkpoint with its tokenizer and processor.
#[derive(Debug)]
pub struct LocalJudge {
    root: PathBuf,
    model: Qwen3Vl,
    tokenizer: JudgeTokenizer,
    processor: Processor,
    questions: Questions,
    precision: Precision,
    tokens_per_picture: Option<usize>,
    source: Arc<PlainSource>,
    unread: Vec<String>,
}

/// How long the parts of a judgement took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Resampling, normalising, tokenising.
    pub prepare: Duration,
    /// The vision tower.
    pub vision: Duration,
    /// Reading what all questions share.
    pub prefill: Duration,
    /// The questions, or the answer.
    pub answer: Duration,
}

/// What the rubric found, and all that it was made from.
#[derive(Debug)]
pub struct RubricRun {
    /// One per dimension, in the order of [`DIMENSIONS`].
    pub readings: Vec<DimensionReading>,
    /// What was read before the questions.
    pub sequence: Sequence,
    /// What the vision tower made of the pictures.
    pub features: Option<VisionFeatures>,
    /// Tokens of the questions, in the order of [`DIMENSIONS`].
    pub questions: Vec<Vec<u32>>,
    /// Scores of all words at the end of each question.
    pub logits: Vec<Vec<f32>>,
    /// Bytes of the cache.
    pub cache_bytes: usize,
    /// Durations.
    pub timings: Timings,
}

/// What UnifiedReward said.
#[derive(Debug)]
pub struct UnifiedRun {
    /// Its answer.
    pub reading: UnifiedReading,
    /// Tokens read before it.
    pub tokens: usize,
    /// Bytes of the cache.
    pub cache_bytes: usize,
    /// Durations.
    pub timings: Timings,
}

impl LocalJudge {
    /// Opens a folder as published: `config.json`, safetensors (one or sharded with an index),
    /// `tokenizer.json`, `preprocessor_config.json` and `video_preprocessor_config.json` (or the
    /// `processor_config.json` of transformers 5). Weights are read, cast to `precision` and hashed.
    ///
    /// # Errors
    /// [`Error::Artifact`] naming the file, field or tensor that cannot be used; [`Error::Caller`] for a
    /// precision other than f32 and bf16.
    pub fn open(root: impl AsRef<Path>, precision: Precision, device: &Device) -> Result<Self> {
        if !matches!(precision, Precision::F32 | Precision::Bf16) {
            return Err(Error::caller(
                "dtype",
                format!("a judge computes in f32 or bf16, not in {precision}"),
            ));
        }
        let root = root.as_ref();
        let folder = PlainFolder::open(root)?;
        let path = folder.path("config.json");
        let object = folder.json("config.json")?.unwrap_or_default();
        let config = Qwen3VlConfig::from_object(&path, &object)?;
        let source = folder.source();
        let unread = validate(root, &config, &*source)?;
        let bytes = folder.bytes("tokenizer.json", MAX_FILE_BYTES)?;
        let tokenizer = JudgeTokenizer::new(&folder.path("tokenizer.json"), &bytes, &config)?;
        let processor = read_processor(&folder, &config)?;
        let questions = Questions::new(&tokenizer)?;
        let vb = VarBuilder::new(source.clone(), precision.dtype(), device);
        Ok(Self {
            root: root.to_owned(),
            model: Qwen3Vl::new(&config, &vb)?,
            tokenizer,
            processor,
            questions,
            precision,
            tokens_per_picture: None,
            source,
            unread,
        })
    }

    /// The same judge with at most `tokens` for an image and for a temporal patch of a video: cheaper, and
    /// blinder. The limits of the checkpoint's own files hold in any case.
    #[must_use]
    pub fn with_tokens_per_picture(mut self, tokens: Option<usize>) -> Self {
        self.tokens_per_picture = tokens;
        self
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The model.
    pub fn model(&self) -> &Qwen3Vl {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &JudgeTokenizer {
        &self.tokenizer
    }

    /// The processor, with the checkpoint's own limits.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// Type of weights and activations.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Tensors of the folder that nothing reads.
    pub fn unread_tensors(&self) -> &[String] {
        &self.unread
    }

    /// Hexadecimal SHA-256 over names, types, shapes and bytes of the weights that were read.
    pub fn weights_sha256(&self) -> String {
        self.source.digest()
    }

    /// Judges a clip on six dimensions.
    ///
    /// # Errors
    /// [`Error::Caller`] for pictures or a prompt that cannot be judged; [`Error::Local`] and
    /// [`Error::Tensor`] when the machine fails.
    pub fn rubric(&self, clip: &JudgedClip<'_>) -> Result<RubricRun> {
        self.rubric_while(clip, &|| true)
    }

    /// As [`LocalJudge::rubric`], and asks between its parts whether to go on: for work under a deadline.
    ///
    /// # Errors
    /// As [`LocalJudge::rubric`]; [`Error::Cancelled`] when `go_on` said no.
    pub fn rubric_while(
        &self,
        clip: &JudgedClip<'_>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<RubricRun> {
        let mut timings = Timings::default();
        let processor = self.limited(clip.frames.len());
        let sequence = part(&mut timings.prepare, go_on, || {
            let builder = SequenceBuilder::new(&self.tokenizer, &processor);
            rubric_sequence(builder, clip, &Device::Cpu)
        })?;
        let features = part(&mut timings.vision, go_on, || {
            self.settle(self.model.vision(&sequence)?)
        })?;
        let room = self.questions.longest();
        let mut session = self.model.session(sequence.len() + room)?;
        let shared = part(&mut timings.prefill, go_on, || {
            let hidden = session.prefill(&sequence, features.as_ref())?;
            self.settle(hidden)?;
            Ok(session.mark())
        })?;
        let (readings, logits) = part(&mut timings.answer, go_on, || {
            self.questions.ask(&mut session, shared)
        })?;
        Ok(RubricRun {
            readings,
            features,
            questions: self.questions.tokens.clone(),
            logits,
            cache_bytes: session.cache().bytes(),
            timings,
            sequence,
        })
    }

    /// Judges frames of a clip as UnifiedReward-2.0 does. Only its own weights give a meaning to the answer.
    ///
    /// # Errors
    /// As [`LocalJudge::rubric`].
    pub fn unified(&self, frames: &[Frame<'_>], caption: &str) -> Result<UnifiedRun> {
        self.unified_while(frames, caption, &|| true)
    }

    /// As [`LocalJudge::unified`], and asks between its parts whether to go on.
    ///
    /// # Errors
    /// As [`LocalJudge::rubric_while`].
    pub fn unified_while(
        &self,
        frames: &[Frame<'_>],
        caption: &str,
        go_on: &dyn Fn() -> bool,
    ) -> Result<UnifiedRun> {
        let mut timings = Timings::default();
        let processor = self.limited(frames.len());
        let sequence = part(&mut timings.prepare, go_on, || {
            let builder = SequenceBuilder::new(&self.tokenizer, &processor);
            unified_sequence(builder, frames, caption, &Device::Cpu)
        })?;
        let features = part(&mut timings.vision, go_on, || {
            self.settle(self.model.vision(&sequence)?)
        })?;
        let capacity = sequence.len() + UNIFIED_ANSWER_TOKENS;
        let mut session = self.model.session(capacity)?;
        let hidden = part(&mut timings.prefill, go_on, || {
            self.settle(session.prefill(&sequence, features.as_ref())?)
        })?;
        let reading = part(&mut timings.answer, go_on, || {
            unified_answer(&mut session, &hidden, &self.tokenizer)
        })?;
        Ok(UnifiedRun {
            reading,
            tokens: sequence.len(),
            cache_bytes: session.cache().bytes(),
            timings,
        })
    }

    fn limited(&self, frames: usize) -> Processor {
        match self.tokens_per_picture {
            None => self.processor.clone(),
            Some(tokens) => self.processor.with_tokens_per_picture(tokens, frames),
        }
    }

    /// Waits until the device has done what was asked of it, so that durations belong to their parts.
    fn settle<T>(&self, value: T) -> Result<T> {
        self.model.device().synchronize()?;
        Ok(value)
    }
}

impl RubricRun {
    /// Tokens that stand for vision.
    pub fn vision_tokens(&self) -> usize {
        self.features
            .as_ref()
            .and_then(|features| features.tokens().ok())
            .unwrap_or(0)
    }

    /// The features in place of embeddings, `[T, d]` f32.
    pub(super) fn merged(&self) -> Result<Option<Tensor>> {
        let merged = self
            .features
            .as_ref()
            .map(|features| features.merged.to_dtype(candle_core::DType::F32));
        Ok(merged.transpose()?)
    }
}

/// Digest of everything that the rubric says to a model whatever the clip: part of a judge's identity.
pub fn rubric_sha256() -> String {
    let questions: Vec<String> = DIMENSIONS.iter().map(|key| question_text(key)).collect();
    digest(&[&rubric_text(), &questions.join("\n")])
}

/// The same for UnifiedReward.
pub fn unified_sha256() -> String {
    digest(&[&unified_text("{caption}")])
}

fn digest(texts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update(text.as_bytes());
        hasher.update([0]);
    }
    hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Does a part of the work and takes its time, unless `go_on` says no.
fn part<T>(
    duration: &mut Duration,
    go_on: &dyn Fn() -> bool,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if !go_on() {
        return Err(Error::Cancelled);
    }
    let start = Instant::now();
    let value = work()?;
    *duration = start.elapsed();
    Ok(value)
}

/// From the two files of the published layout, or from the halves of the one that transformers 5 writes.
fn read_processor(folder: &PlainFolder, config: &Qwen3VlConfig) -> Result<Processor> {
    const JOINT: &str = "processor_config.json";
    let joint = folder.json(JOINT)?.unwrap_or_default();
    let find = |name: &str, half: &str| -> Result<(PathBuf, Map<String, Value>)> {
        if let Some(object) = folder.json(name)? {
            return Ok((folder.path(name), object));
        }
        match joint.get(half) {
            Some(Value::Object(object)) => Ok((folder.path(JOINT), object.clone())),
            _ => Err(Error::artifact(
                folder.path(name),
                format!("missing, and there is no {JOINT} with `{half}`; fetch the model again"),
            )),
        }
    };
    let image = find("preprocessor_config.json", "image_processor")?;
    let video = find("video_preprocessor_config.json", "video_processor")?;
    Processor::new((&image.0, &image.1), (&video.0, &video.1), &config.vision)
}
