//! What is judged: decoded once, shared by every judge.

use std::sync::{Arc, Mutex};

use leoma_models::Fault;
use rayon::prelude::*;

use super::canonical::sha256;
use super::jpeg;
use super::sampling::{FrameRule, Rate};
use super::verdict::{NoVerdict, Reason};
use crate::media::{MediaError, RgbImage8};

/// Longest prompt, in characters; the subnet's own are a tenth of it.
pub const MAX_PROMPT_CHARS: usize = 4096;

/// A clip, the frame it had to begin with, and what it was to show.
#[derive(Debug)]
pub struct JudgeInput {
    /// Digest of the video file.
    pub video_sha256: String,
    /// Every frame, all of one size.
    pub frames: Vec<RgbImage8>,
    /// Frames per second.
    pub fps: Rate,
    /// The conditioning frame.
    pub first: RgbImage8,
    /// The conditioning frame as the bytes of its file.
    pub first_bytes: Vec<u8>,
    /// What the clip was to show.
    pub prompt: String,
    /// The subnet's task, where there is one.
    pub task_id: Option<String>,
    shown: Mutex<Option<(FrameRule, Arc<Vec<ShownFrame>>)>>,
}

/// A frame as a remote judge sees it.
#[derive(Debug, Clone)]
pub struct ShownFrame {
    /// Its place in the clip.
    pub index: usize,
    /// Digest of its pixels, `[height, width, 3]` bytes.
    pub rgb_sha256: String,
    /// The file that is sent.
    pub jpeg: Vec<u8>,
    /// Digest of that file.
    pub jpeg_sha256: String,
}

impl JudgeInput {
    /// Checks what a judge can be asked about.
    ///
    /// # Errors
    /// [`NoVerdict`] that says whose fault it is: an empty prompt is the caller's, a clip without frames is that
    /// of who made it.
    pub fn new(
        video_sha256: String,
        (frames, fps): (Vec<RgbImage8>, Rate),
        (first, first_bytes): (RgbImage8, Vec<u8>),
        prompt: String,
        task_id: Option<String>,
    ) -> Result<Self, NoVerdict> {
        let none = |fault, message: String| NoVerdict::new("input", Reason::Input, fault, message);
        if prompt.trim().is_empty() {
            return Err(none(
                Fault::Caller,
                "prompt: is empty; say what the clip was to show".into(),
            ));
        }
        let chars = prompt.chars().count();
        if chars > MAX_PROMPT_CHARS {
            let message =
                format!("prompt: has {chars} characters, the limit is {MAX_PROMPT_CHARS}");
            return Err(none(Fault::Caller, message));
        }
        let size = |frame: &RgbImage8| (frame.width(), frame.height());
        match frames.first() {
            None => return Err(none(Fault::Artifact, "video: has no frames".into())),
            Some(one) if frames.iter().any(|frame| size(frame) != size(one)) => {
                return Err(none(
                    Fault::Artifact,
                    "video: its frames differ in size".into(),
                ));
            }
            Some(_) => {}
        }
        if fps.0 == 0 || fps.1 == 0 {
            return Err(none(Fault::Artifact, "video: has no frame rate".into()));
        }
        Ok(Self {
            video_sha256,
            frames,
            fps,
            first,
            first_bytes,
            prompt,
            task_id,
            shown: Mutex::new(None),
        })
    }

    /// The frames that a rule takes, as JPEG files; made once.
    ///
    /// # Errors
    /// [`MediaError`] from the encoder.
    pub fn shown(&self, rule: FrameRule) -> Result<Arc<Vec<ShownFrame>>, MediaError> {
        let mut kept = self.shown.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, shown)) = kept.as_ref().filter(|(of, _)| *of == rule) {
            return Ok(Arc::clone(shown));
        }
        let shown = Arc::new(show(&self.frames, self.fps, rule)?);
        *kept = Some((rule, Arc::clone(&shown)));
        Ok(shown)
    }

    /// Pixels per row and rows of the clip.
    pub fn size(&self) -> (usize, usize) {
        self.frames
            .first()
            .map_or((0, 0), |frame| (frame.width(), frame.height()))
    }
}

/// The frames that a rule takes of a clip, as JPEG files.
///
/// # Errors
/// [`MediaError`] from the encoder.
pub fn show(
    frames: &[RgbImage8],
    fps: Rate,
    rule: FrameRule,
) -> Result<Vec<ShownFrame>, MediaError> {
    rule.indices(frames.len(), fps)
        .into_par_iter()
        .filter_map(|index| Some((index, frames.get(index)?)))
        .map(|(index, frame)| {
            let jpeg = jpeg::encode(frame)?;
            Ok(ShownFrame {
                index,
                rgb_sha256: sha256(frame.data()),
                jpeg_sha256: sha256(&jpeg),
                jpeg,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn frame(level: u8) -> RgbImage8 {
        RgbImage8::new(16, 16, vec![level; 16 * 16 * 3]).unwrap()
    }

    fn input(frames: Vec<RgbImage8>, fps: Rate, prompt: &str) -> Result<JudgeInput, NoVerdict> {
        JudgeInput::new(
            "0".repeat(64),
            (frames, fps),
            (frame(0), vec![1]),
            prompt.into(),
            None,
        )
    }

    #[test]
    fn whose_fault_it_is() {
        let one = || vec![frame(1)];
        let mixed = vec![frame(1), RgbImage8::new(2, 2, vec![0; 12]).unwrap()];
        for (made, fault) in [
            (input(one(), (16, 1), " \n"), Fault::Caller),
            (input(one(), (16, 1), &"x".repeat(4097)), Fault::Caller),
            (input(Vec::new(), (16, 1), "a"), Fault::Artifact),
            (input(mixed, (16, 1), "a"), Fault::Artifact),
            (input(one(), (0, 1), "a"), Fault::Artifact),
        ] {
            let none = made.unwrap_err();
            assert_eq!((none.reason, none.fault), (Reason::Input, fault), "{none}");
        }
    }

    #[test]
    fn frames_are_encoded_once_per_rule() {
        let input = input((0..81).map(frame).collect(), (16, 1), "a").unwrap();
        let shown = input.shown(FrameRule::default()).unwrap();
        assert_eq!(
            shown.iter().map(|frame| frame.index).collect::<Vec<_>>()[..3],
            [2, 7, 13]
        );
        assert!(Arc::ptr_eq(
            &shown,
            &input.shown(FrameRule::default()).unwrap()
        ));
        let fewer = FrameRule {
            most: 2,
            ..FrameRule::default()
        };
        assert_eq!(input.shown(fewer).unwrap().len(), 2);
        assert_eq!(shown[0].rgb_sha256, sha256(frame(2).data()));
    }
}
