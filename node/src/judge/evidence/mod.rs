//! The bundle of a judgement: enough to check it again, later and elsewhere, without asking anybody.
//!
//! The file is canonical JSON and one line end, so that every byte of it counts. `digest` is the SHA-256 of the
//! same text without that field: [`Evidence::signable`] is what to sign. [`verify`] makes everything again that
//! can be made again: scores from the raw answers, overall scores from scores, the decision from both, frames from
//! the clip, and with clip and first frame at hand the very request that was sent.

mod local;
mod verify;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::input::{JudgeInput, ShownFrame};
use super::profile::Configuration;
use super::sampling::Rate;
use super::side::Judgement;
use super::{canonical, jpeg};
use crate::media::MediaError;

pub use verify::{Check, CheckResult, Media, Report, verify};

/// Version of the form of bundles.
pub const VERSION: u32 = 1;
/// What a bundle says it is.
pub const KIND: &str = "leoma-judge-evidence";

/// A judgement with what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// [`VERSION`].
    pub version: u32,
    /// [`KIND`].
    pub kind: String,
    /// The program.
    pub tool: Tool,
    /// When it was judged, RFC 3339.
    pub created_at: String,
    /// The subnet's task, where there is one.
    pub task_id: Option<String>,
    /// The clip.
    pub video: Video,
    /// The conditioning frame.
    pub first_frame: FirstFrame,
    /// What the clip was to show.
    pub prompt: Prompt,
    /// How it was judged, by digest.
    pub configurations: BTreeMap<String, Configuration>,
    /// The frames that were shown to the remote judge.
    pub frames: Vec<Frame>,
    /// What made them into files.
    pub image: String,
    /// What was said and decided.
    pub judgement: Judgement,
    /// SHA-256 of the canonical JSON of everything above.
    pub digest: String,
}

/// The program that judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// `leoma-node`.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Default for Tool {
    fn default() -> Self {
        Self {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

/// A clip by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// Of the file.
    pub sha256: String,
    /// Frames in it.
    pub frames: usize,
    /// Frames per second.
    pub fps: Rate,
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// A conditioning frame by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstFrame {
    /// Of the file.
    pub sha256: String,
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// A prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Its words.
    pub text: String,
    /// Their digest, as UTF-8.
    pub sha256: String,
}

/// A frame by its digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frame {
    /// Its place in the clip.
    pub index: usize,
    /// Of its pixels, `[height, width, 3]` bytes.
    pub rgb_sha256: String,
    /// Of the file that was sent.
    pub jpeg_sha256: String,
    /// Size of that file.
    pub jpeg_bytes: usize,
}

impl From<&ShownFrame> for Frame {
    fn from(frame: &ShownFrame) -> Self {
        Self {
            index: frame.index,
            rgb_sha256: frame.rgb_sha256.clone(),
            jpeg_sha256: frame.jpeg_sha256.clone(),
            jpeg_bytes: frame.jpeg.len(),
        }
    }
}

impl Evidence {
    /// Bundles a judgement. `configurations` are those of the judges that ran; the frames are those of the first.
    ///
    /// # Errors
    /// [`MediaError`] when the frames cannot be encoded.
    pub fn new(
        input: &JudgeInput,
        configurations: &[&Configuration],
        judgement: Judgement,
        created_at: String,
    ) -> Result<Self, MediaError> {
        let shown = match configurations.first() {
            Some(configuration) => input.shown(configuration.frames)?,
            None => std::sync::Arc::default(),
        };
        let (width, height) = input.size();
        let mut evidence = Self {
            version: VERSION,
            kind: KIND.into(),
            tool: Tool::default(),
            created_at,
            task_id: input.task_id.clone(),
            video: Video {
                sha256: input.video_sha256.clone(),
                frames: input.frames.len(),
                fps: input.fps,
                width,
                height,
            },
            first_frame: FirstFrame {
                sha256: canonical::sha256(&input.first_bytes),
                width: input.first.width(),
                height: input.first.height(),
            },
            prompt: Prompt {
                text: input.prompt.clone(),
                sha256: canonical::sha256(input.prompt.as_bytes()),
            },
            configurations: configurations
                .iter()
                .map(|configuration| (configuration.sha256(), (*configuration).clone()))
                .collect(),
            frames: shown.iter().map(Frame::from).collect(),
            image: jpeg::ENCODING.into(),
            judgement,
            digest: String::new(),
        };
        evidence.digest = canonical::sha256(&evidence.signable()?);
        Ok(evidence)
    }

    /// The bytes that `digest` is about: what to sign.
    ///
    /// # Errors
    /// [`MediaError::Encode`] for a bundle that is no JSON.
    pub fn signable(&self) -> Result<Vec<u8>, MediaError> {
        let mut value = self.to_value()?;
        if let Value::Object(fields) = &mut value {
            fields.remove("digest");
        }
        Ok(canonical::text(&value).into_bytes())
    }

    /// The file.
    ///
    /// # Errors
    /// As [`signable`](Self::signable).
    pub fn to_bytes(&self) -> Result<Vec<u8>, MediaError> {
        let mut bytes = canonical::text(&self.to_value()?).into_bytes();
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn to_value(&self) -> Result<Value, MediaError> {
        serde_json::to_value(self).map_err(|error| MediaError::Encode {
            message: format!("evidence: {error}"),
        })
    }
}

#[cfg(test)]
mod tests;
