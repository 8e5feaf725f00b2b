//! Qwen3-VL as a whole, and a session with it: a cache of what was read, which can be cut back to a shared
//! beginning.

use candle_core::{DType, Device, Tensor};

use super::cache::KvCache;
use super::config::Qwen3VlConfig;
use super::position::Positions;
use super::sequence::Sequence;
use super::text::{TextModel, Visual};
use super::vision::{VisionFeatures, VisionTower};
use crate::error::{Error, Result};
use crate::weights::VarBuilder;

/// A dense Qwen3-VL of any size.
#[derive(Debug)]
pub struct Qwen3Vl {
    config: Qwen3VlConfig,
    vision: VisionTower,
    text: TextModel,
    dtype: DType,
    device: Device,
}

impl Qwen3Vl {
    /// Loads the model in the builder's type.
    ///
    /// # Errors
    /// [`Error::Artifact`] when a tensor is missing or has another shape.
    pub fn new(config: &Qwen3VlConfig, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            vision: VisionTower::new(&config.vision, vb)?,
            text: TextModel::new(&config.text, config.tie_word_embeddings, vb)?,
            dtype: vb.dtype(),
            device: vb.device().clone(),
            config: config.clone(),
        })
    }

    /// Sizes.
    pub fn config(&self) -> &Qwen3VlConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Type of weights and activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Features of the pictures of a sequence; `None` when it has none.
    ///
    /// # Errors
    /// [`Error::Local`] or [`Error::Tensor`] when patches and grids do not fit or memory is short.
    pub fn vision(&self, sequence: &Sequence) -> Result<Option<VisionFeatures>> {
        let Some(pixels) = &sequence.pixel_values else {
            return Ok(None);
        };
        self.vision.forward(pixels, &sequence.grids).map(Some)
    }

    /// A session with room for `capacity` tokens.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn session(&self, capacity: usize) -> Result<Session<'_>> {
        Ok(Session {
            model: self,
            cache: KvCache::new(&self.config.text, capacity, self.dtype, &self.device)?,
            next: 0,
        })
    }

    /// For each token the row of its features, if it stands for vision.
    fn visual_rows(&self, tokens: &[u32], features: usize) -> Result<Vec<Option<u32>>> {
        let marks = [self.config.image_token_id, self.config.video_token_id];
        let mut count = 0u32;
        let rows: Vec<_> = tokens
            .iter()
            .map(|token| {
                marks.contains(token).then(|| {
                    count += 1;
                    count - 1
                })
            })
            .collect();
        if count as usize != features {
            return Err(Error::local(format!(
                "{count} tokens stand for vision, the tower gave {features}"
            )));
        }
        Ok(rows)
    }
}

/// A place in a session to come back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    len: usize,
    next: u32,
}

/// Reading with a model, one sequence after the other or several with a shared beginning.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m Qwen3Vl,
    cache: KvCache,
    /// Position of the token that comes next; vision makes it differ from the number of tokens.
    next: u32,
}

impl Session<'_> {
    /// Reads a sequence from the beginning, with the features of its pictures. Gives the hidden states of its
    /// tokens, `[L, d]`.
    ///
    /// # Errors
    /// [`Error::Local`] when the sequence does not fit the cache, or pictures and tokens do not belong
    /// together; [`Error::Artifact`] when tokenizer and weights do not.
    pub fn prefill(
        &mut self,
        sequence: &Sequence,
        features: Option<&VisionFeatures>,
    ) -> Result<Tensor> {
        self.reset();
        let count = features.map_or(Ok(0), VisionFeatures::tokens)?;
        let rows = self.model.visual_rows(&sequence.input_ids, count)?;
        let visual = features.map(|features| Visual {
            rows: &rows,
            merged: &features.merged,
            deepstack: &features.deepstack,
        });
        let hidden = self.model.text.forward(
            &sequence.input_ids,
            &sequence.positions,
            visual,
            &mut self.cache,
        )?;
        self.next = sequence.positions.next();
        Ok(hidden)
    }

    /// Reads more text. Gives the hidden states of its tokens, `[n, d]`.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn extend(&mut self, tokens: &[u32]) -> Result<Tensor> {
        let mut positions = Positions::from(self.next);
        positions.text(tokens.len());
        let hidden = self
            .model
            .text
            .forward(tokens, &positions, None, &mut self.cache)?;
        self.next = positions.next();
        Ok(hidden)
    }

    /// Scores of all words after each of the last `count` of `hidden` `[L, d]`: `[count, vocab]` in f32.
    ///
    /// # Errors
    /// [`Error::Tensor`] when `hidden` has fewer rows or memory is short.
    pub fn logits(&self, hidden: &Tensor, count: usize) -> Result<Tensor> {
        let rows = hidden.dim(0)?;
        let first = rows.checked_sub(count).ok_or_else(|| {
            Error::local(format!("{count} of {rows} hidden states were asked for"))
        })?;
        self.model.text.logits(&hidden.narrow(0, first, count)?)
    }

    /// Scores of all words after the last of `hidden` `[L, d]`.
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub fn last_logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        Ok(self.logits(hidden, 1)?.flatten_all()?.to_vec1()?)
    }

    /// The place reached.
    pub fn mark(&self) -> Mark {
        Mark {
            len: self.cache.len(),
            next: self.next,
        }
    }

    /// Goes back to a place of this session; what was read after it is forgotten.
    pub fn rewind(&mut self, mark: Mark) {
        self.cache.truncate(mark.len);
        self.next = mark.next;
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.cache.reset();
        self.next = 0;
    }

    /// The cache.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Continues after `hidden` `[L, d]` with the likeliest token each time, until one of `stop` or `limit`
    /// tokens. `each` sees the scores from which a token is taken, and the token; among equals the smallest id
    /// is taken.
    ///
    /// # Errors
    /// As [`Session::extend`], and those of `each`.
    pub fn greedy(
        &mut self,
        hidden: &Tensor,
        limit: usize,
        stop: &[u32],
        mut each: impl FnMut(&[f32], u32) -> Result<()>,
    ) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        let mut logits = self.last_logits(hidden)?;
        while tokens.len() < limit {
            let token = likeliest(&logits)?;
            if stop.contains(&token) {
                break;
            }
            each(&logits, token)?;
            tokens.push(token);
            if tokens.len() < limit {
                let hidden = self.extend(&[token])?;
                logits = self.last_logits(&hidden)?;
            }
        }
        Ok(tokens)
    }
}

/// The first of the largest.
fn likeliest(logits: &[f32]) -> Result<u32> {
    let mut best = (f32::NEG_INFINITY, None);
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.0 {
            best = (logit, Some(id as u32));
        }
    }
    best.1
        .ok_or_else(|| Error::local("the judge's model gave no usable scores (NaN or infinite)"))
}
