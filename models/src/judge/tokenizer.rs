//! Text to token ids and back: the byte-level tokenizer of the checkpoint.
//!
//! Text is always data here. The marks of a conversation (`<|im_start|>`, `<|image_pad|>`, ..) are put into the
//! token list by id; the same characters inside a text are split like any other characters, so that a prompt
//! cannot end its own turn or pretend to be a picture.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use super::config::Qwen3VlConfig;
use crate::error::{Error, Result};

/// Largest tokenizer file; the published one has 11 MB.
pub(super) const MAX_FILE_BYTES: u64 = 256 << 20;
/// Longest text of one part of a prompt, in bytes.
pub const MAX_TEXT_BYTES: usize = 64 << 10;

/// Marks of a conversation, by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// `<|im_start|>`: before the name of a speaker.
    pub im_start: u32,
    /// `<|im_end|>`: after what the speaker said.
    pub im_end: u32,
    /// Before the patches of a picture.
    pub vision_start: u32,
    /// After them.
    pub vision_end: u32,
    /// Stands for a token of an image.
    pub image: u32,
    /// Stands for a token of a video.
    pub video: u32,
}

/// The tokenizer of one checkpoint.
#[derive(Debug)]
pub struct JudgeTokenizer {
    path: PathBuf,
    tokenizer: Tokenizer,
    marks: Marks,
}

impl JudgeTokenizer {
    /// From the bytes of `tokenizer.json`; `path` is for messages. The ids of its marks must be those of the
    /// configuration, and every id must have a row in the embedding table.
    ///
    /// # Errors
    /// [`Error::Artifact`] when the file is damaged, lacks a mark, or belongs to another model.
    pub fn new(path: &Path, bytes: &[u8], config: &Qwen3VlConfig) -> Result<Self> {
        let mut tokenizer = guard(|| Tokenizer::from_bytes(bytes))
            .map_err(|error| Error::artifact(path, error.to_string()))?;
        tokenizer
            .with_truncation(None)
            .map_err(|error| Error::artifact(path, error.to_string()))?
            .with_padding(None);
        tokenizer.set_encode_special_tokens(true);
        let rows = config.text.vocab_size;
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if largest as usize >= rows {
            return Err(Error::artifact(
                path,
                format!(
                    "has the id {largest}, the embedding table has {rows} rows: tokenizer and weights do not \
                     belong together"
                ),
            ));
        }
        let find = |token: &str, wanted: Option<u32>| match (tokenizer.token_to_id(token), wanted) {
            (None, _) => Err(Error::artifact(
                path,
                format!("has no token {token}; use the tokenizer.json of this model"),
            )),
            (Some(id), Some(wanted)) if id != wanted => Err(Error::artifact(
                path,
                format!("{token} is {id}, config.json says {wanted}"),
            )),
            (Some(id), _) => Ok(id),
        };
        let marks = Marks {
            im_start: find("<|im_start|>", None)?,
            im_end: find("<|im_end|>", None)?,
            vision_start: find("<|vision_start|>", Some(config.vision_start_token_id))?,
            vision_end: find("<|vision_end|>", Some(config.vision_end_token_id))?,
            image: find("<|image_pad|>", Some(config.image_token_id))?,
            video: find("<|video_pad|>", Some(config.video_token_id))?,
        };
        let read = Self {
            path: path.to_owned(),
            tokenizer,
            marks,
        };
        read.refuse_readable_marks()?;
        Ok(read)
    }

    /// A mark that is no special token in the file would be found in texts.
    fn refuse_readable_marks(&self) -> Result<()> {
        for (token, id) in [
            ("<|im_start|>", self.marks.im_start),
            ("<|im_end|>", self.marks.im_end),
            ("<|vision_start|>", self.marks.vision_start),
            ("<|vision_end|>", self.marks.vision_end),
            ("<|image_pad|>", self.marks.image),
            ("<|video_pad|>", self.marks.video),
        ] {
            if self.encode(token)?.contains(&id) {
                return Err(Error::artifact(
                    &self.path,
                    format!("{token} is not marked as special: a prompt could forge it"),
                ));
            }
        }
        Ok(())
    }

    /// The marks.
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// Ids of a text, marks in it read as plain characters.
    ///
    /// # Errors
    /// [`Error::Caller`] above [`MAX_TEXT_BYTES`]; [`Error::Artifact`] when the tables of the tokenizer turn
    /// out to be damaged.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::caller(
                "prompt",
                format!(
                    "has {} bytes with its instructions, at most {MAX_TEXT_BYTES} are accepted",
                    text.len()
                ),
            ));
        }
        let encoding = guard(|| self.tokenizer.encode_fast(text, false))
            .map_err(|error| Error::artifact(&self.path, error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of ids, without marks.
    ///
    /// # Errors
    /// [`Error::Artifact`] when the tables of the tokenizer turn out to be damaged.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guard(|| self.tokenizer.decode(ids, true))
            .map_err(|error| Error::artifact(&self.path, error.to_string()))
    }

    /// The id of a text that is one token.
    pub fn single(&self, text: &str) -> Option<u32> {
        match self.encode(text).ok()?[..] {
            [id] => Some(id),
            _ => None,
        }
    }

    /// Ids of the digits 1 to 5.
    ///
    /// # Errors
    /// [`Error::Artifact`] when one of them is no single token: such a model cannot be read by its digits.
    pub fn digits(&self) -> Result<[u32; 5]> {
        let mut ids = [0; 5];
        for (id, digit) in ids.iter_mut().zip(1..=5) {
            *id = self.single(&digit.to_string()).ok_or_else(|| {
                let message =
                    format!("the digit {digit} is no single token; scores cannot be read");
                Error::artifact(&self.path, message)
            })?;
        }
        Ok(ids)
    }
}

/// Turns a panic of the tokenizer library into an error: it trusts the tables in the file, and those come from
/// whoever made the checkpoint.
pub(super) fn guard<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("the tables of the tokenizer are inconsistent".into()))
}
