//! Prompts to ids for CLIP: `tokenizer.json`, a mark before and after, and a cut at the model's length.
//!
//! Text is data: the marks written out in a prompt are split like any other characters.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use super::super::tokenizer::{MAX_TEXT_BYTES, guard};
use super::config::ClipTextConfig;
use crate::error::{Error, Result};

/// Ids of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipTokens {
    /// With the marks; never more than the model has positions.
    pub ids: Vec<u32>,
    /// Tokens at the end of the prompt that had no room and are not read.
    pub dropped: usize,
}

/// The tokenizer of one checkpoint.
#[derive(Debug)]
pub(super) struct ClipTokenizer {
    path: PathBuf,
    tokenizer: Tokenizer,
    begin: u32,
    end: u32,
    positions: usize,
}

impl ClipTokenizer {
    /// From the bytes of `tokenizer.json`; `path` is for messages.
    pub(super) fn new(path: &Path, bytes: &[u8], config: &ClipTextConfig) -> Result<Self> {
        let wrong = |message: String| Error::artifact(path, message);
        let mut tokenizer =
            guard(|| Tokenizer::from_bytes(bytes)).map_err(|e| wrong(e.to_string()))?;
        tokenizer
            .with_truncation(None)
            .map_err(|e| wrong(e.to_string()))?
            .with_padding(None);
        tokenizer.set_encode_special_tokens(true);
        let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if largest >= config.vocab_size {
            return Err(wrong(format!(
                "has the id {largest}, the embedding table has {} rows: tokenizer and weights do not belong together",
                config.vocab_size
            )));
        }
        let find = |token: &str| {
            let message = || {
                wrong(format!(
                    "has no token {token}; use the tokenizer.json of this model"
                ))
            };
            tokenizer.token_to_id(token).ok_or_else(message)
        };
        let (begin, end) = (find("<|startoftext|>")?, find("<|endoftext|>")?);
        // Where the file says 2 the reference takes the place of the largest id.
        let by_file = match config.eos_token_id {
            2 => largest,
            id => id,
        };
        if by_file != end as usize {
            return Err(wrong(format!(
                "<|endoftext|> is {end}, `text_config.eos_token_id` of config.json means {by_file}: tokenizer and \
                 weights do not belong together"
            )));
        }
        let read = Self {
            path: path.to_owned(),
            tokenizer,
            begin,
            end,
            positions: config.max_position_embeddings,
        };
        for (token, id) in [("<|startoftext|>", begin), ("<|endoftext|>", end)] {
            if read.plain(token)?.contains(&id) {
                let message = format!("{token} is not marked as special: a prompt could forge it");
                return Err(Error::artifact(path, message));
            }
        }
        Ok(read)
    }

    /// Ids without marks.
    fn plain(&self, text: &str) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT_BYTES {
            let message = format!(
                "has {} bytes, at most {MAX_TEXT_BYTES} are accepted",
                text.len()
            );
            return Err(Error::caller("prompt", message));
        }
        let encoding = guard(|| self.tokenizer.encode_fast(text, false))
            .map_err(|error| Error::artifact(&self.path, error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of a prompt.
    pub(super) fn encode(&self, prompt: &str) -> Result<ClipTokens> {
        let found = self.plain(prompt)?;
        let room = self.positions.saturating_sub(2);
        let kept = found.iter().copied().take(room);
        Ok(ClipTokens {
            ids: std::iter::once(self.begin)
                .chain(kept)
                .chain(std::iter::once(self.end))
                .collect(),
            dropped: found.len().saturating_sub(room),
        })
    }
}
