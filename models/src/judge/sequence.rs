//! The token list of a conversation, built directly: text, marks and pictures in their order.
//!
//! The chat form of Qwen3-VL is `<|im_start|>user\n` .. `<|im_end|>\n<|im_start|>assistant\n`. An image is
//! vision start, one token per merged patch, vision end. A video is, for each temporal patch, `<T.T seconds>`
//! (the mean time of its frames), vision start, its tokens, vision end; no pair of marks stands round the whole
//! video. (transformers 5.14.1 leaves the pair of its chat template in place; earlier versions replaced it.)

use std::fmt::Write as _;

use candle_core::{Device, Tensor};

use super::frame::Frame;
use super::position::Positions;
use super::processor::{Grid, Patches, Processor};
use super::sizes::patch_times;
use super::tokenizer::{JudgeTokenizer, MAX_TEXT_BYTES};
use crate::error::{Error, Result};

/// What the model reads: tokens with their positions, and the pictures among them.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// `[patches, C * T * P * P]`, f32; `None` without pictures.
    pub pixel_values: Option<Tensor>,
    /// One per image or video, in the order of the list.
    pub grids: Vec<Grid>,
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// Their positions.
    pub positions: Positions,
}

impl Sequence {
    /// Tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }
}

/// Builds a [`Sequence`].
#[derive(Debug)]
pub struct SequenceBuilder<'a> {
    tokenizer: &'a JudgeTokenizer,
    processor: &'a Processor,
    /// Text that is not in the list yet: split only where a mark or picture follows, as the whole would be.
    pending: String,
    ids: Vec<u32>,
    positions: Positions,
    pictures: Vec<Patches>,
}

impl<'a> SequenceBuilder<'a> {
    /// An empty list.
    pub fn new(tokenizer: &'a JudgeTokenizer, processor: &'a Processor) -> Self {
        Self {
            tokenizer,
            processor,
            pending: String::new(),
            ids: Vec::new(),
            positions: Positions::new(),
            pictures: Vec::new(),
        }
    }

    /// Adds text; marks in it are plain characters.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.pending.push_str(text);
        self
    }

    /// Begins the turn of `speaker`.
    ///
    /// # Errors
    /// As [`JudgeTokenizer::encode`], also below.
    pub fn begin(mut self, speaker: &str) -> Result<Self> {
        self.mark(self.tokenizer.marks().im_start)?;
        Ok(self.text(speaker).text("\n"))
    }

    /// Ends a turn.
    pub fn end(mut self) -> Result<Self> {
        self.mark(self.tokenizer.marks().im_end)?;
        Ok(self.text("\n"))
    }

    /// Adds an image.
    ///
    /// # Errors
    /// As [`Processor::image`].
    pub fn image(mut self, frame: &Frame<'_>) -> Result<Self> {
        let patches = self.processor.image(frame)?;
        let image = self.tokenizer.marks().image;
        self.block(image, patches.grid)?;
        self.pictures.push(patches);
        Ok(self)
    }

    /// Adds the frames at `indices` of a clip with `fps` frames a second.
    ///
    /// # Errors
    /// As [`Processor::video`]; [`Error::Caller`] when there is not one index for each frame, they do not
    /// increase, or `fps` is no positive number.
    pub fn video(mut self, frames: &[Frame<'_>], indices: &[usize], fps: f64) -> Result<Self> {
        if frames.len() != indices.len() || indices.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Error::caller(
                "indices",
                format!(
                    "{} increasing indices are needed, one for each frame; found {indices:?}",
                    frames.len()
                ),
            ));
        }
        if !(fps > 0.0 && fps.is_finite()) {
            let message = format!("is {fps}; frames per second are a positive number");
            return Err(Error::caller("fps", message));
        }
        let patches = self.processor.video(frames)?;
        let video = self.tokenizer.marks().video;
        for time in patch_times(indices, fps, self.processor.temporal_patch()) {
            // Writing to a String cannot fail.
            let _ = write!(self.pending, "<{time:.1} seconds>");
            self.block(video, patches.grid)?;
        }
        self.pictures.push(patches);
        Ok(self)
    }

    /// The list.
    pub fn build(mut self, device: &Device) -> Result<Sequence> {
        self.flush()?;
        let width = self.processor.patch_values();
        let (pixel_values, grids) = if self.pictures.is_empty() {
            (None, Vec::new())
        } else {
            let (values, grids) = Patches::join(self.pictures, width, device)?;
            (Some(values), grids)
        };
        Ok(Sequence {
            pixel_values,
            grids,
            input_ids: self.ids,
            positions: self.positions,
        })
    }

    /// Vision start, the tokens of one temporal patch, vision end.
    fn block(&mut self, token: u32, grid: Grid) -> Result<()> {
        let marks = self.tokenizer.marks();
        let (rows, columns) = self.processor.token_grid(grid);
        self.mark(marks.vision_start)?;
        self.ids.extend(std::iter::repeat_n(token, rows * columns));
        self.positions.vision(rows, columns);
        self.mark(marks.vision_end)
    }

    fn mark(&mut self, id: u32) -> Result<()> {
        self.flush()?;
        self.ids.push(id);
        self.positions.text(1);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let ids = self.tokenizer.encode(&self.pending)?;
        self.pending.clear();
        self.positions.text(ids.len());
        self.ids.extend(ids);
        Ok(())
    }
}

/// A text as it stands inside quotes of JSON: a task's prompt is shown to the judge as a string, so that its
/// quotes and line ends cannot look like the end of it.
///
/// # Errors
/// [`Error::Caller`] for a prompt that is empty or too long.
pub fn quoted_prompt(prompt: &str) -> Result<String> {
    if prompt.trim().is_empty() {
        return Err(Error::caller(
            "prompt",
            "is empty; adherence cannot be judged",
        ));
    }
    if prompt.len() > MAX_TEXT_BYTES / 4 {
        return Err(Error::caller(
            "prompt",
            format!(
                "has {} bytes, at most {} are judged",
                prompt.len(),
                MAX_TEXT_BYTES / 4
            ),
        ));
    }
    serde_json::to_string(prompt).map_err(|error| Error::caller("prompt", error.to_string()))
}
