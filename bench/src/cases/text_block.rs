//! One UMT5 layer of the released width at several prompt lengths.
//!
//! Both sides run an encoder of one layer: embedding look-up, the layer with its own position bias, final
//! norm. Look-up and final norm are noise beside the layer. Both encode the same number of tokens
//! (diffusers' pipeline pads every prompt to 512 tokens and masks them; ours encodes real tokens only).

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use candle_core::Tensor;
use leoma_models::text::{Umt5Config, Umt5Encoder, tensor_shapes};
use serde_json::{Value, json};

use super::weights::{open, write_weights};
use crate::case::{Case, Planned, once, text};
use crate::cli::Size;
use crate::measure::Subject;
use crate::stats::SplitMix;

/// Rows of the embedding table: enough for different tokens, without a table of gigabytes.
const VOCABULARY: usize = 1024;

pub(crate) fn list(size: Size) -> Vec<Planned> {
    [20, 128, 512]
        .into_iter()
        .map(|tokens| {
            let cfg = config(size);
            Planned {
                name: format!("text-block/{tokens}"),
                what: format!(
                    "one UMT5 layer, width {}, {} heads of {}, gated feed-forward {}, {tokens} tokens",
                    cfg.d_model, cfg.num_heads, cfg.d_kv, cfg.d_ff
                ),
                limit: 1.25,
                peer_case: "text-block",
                memory_limit: None,
                prepare: Box::new(move |work| {
                    Ok(Box::new(TextBlock::prepare(config(size), tokens, work)?))
                }),
            }
        })
        .collect()
}

/// An encoder of one layer with its tokens.
struct TextBlock {
    encoder: Umt5Encoder,
    cfg: Umt5Config,
    tokens: Vec<u32>,
    weights: PathBuf,
}

impl TextBlock {
    fn prepare(cfg: Umt5Config, tokens: usize, work: &Path) -> Result<Self> {
        let weights = once(work.join("text-block-weights.safetensors"), |path| {
            write_weights(path, &tensor_shapes(&cfg))
        })?;
        let mut rng = SplitMix(tokens as u64);
        let tokens = (0..tokens)
            .map(|_| (rng.next() % cfg.vocab_size as u64) as u32)
            .collect();
        let encoder = Umt5Encoder::new(&cfg, open(&weights)?)?;
        Ok(Self {
            encoder,
            cfg,
            tokens,
            weights,
        })
    }
}

impl Case for TextBlock {
    fn peer_setup(&self) -> Value {
        json!({
            "config": self.cfg,
            "tokens": self.tokens,
            "weights": text(&self.weights),
        })
    }

    fn run(&mut self, subject: Subject) -> Result<Tensor> {
        match subject {
            Subject::Leoma => Ok(self.encoder.forward(&self.tokens)?),
            other => bail!("{} is not measured here", other.label()),
        }
    }
}

fn config(size: Size) -> Umt5Config {
    let scale = match size {
        Size::Full => 1,
        Size::Small => 16,
    };
    Umt5Config {
        vocab_size: VOCABULARY,
        d_model: 4096 / scale,
        d_kv: 64,
        d_ff: 10_240 / scale,
        num_layers: 1,
        num_heads: 64 / scale,
        relative_attention_num_buckets: 32,
        relative_attention_max_distance: 128,
        layer_norm_epsilon: 1e-6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_measurement_per_prompt_length() {
        let names: Vec<String> = list(Size::Full).into_iter().map(|plan| plan.name).collect();
        assert_eq!(names, ["text-block/20", "text-block/128", "text-block/512"]);
    }

    #[test]
    fn small_layer_runs() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut case = (list(Size::Small).remove(0).prepare)(dir.path()).expect("ready");
        assert_eq!(
            case.run(Subject::Leoma).expect("a result").dims(),
            [20, 256]
        );
        assert!(case.run(Subject::Pytorch).is_err());
    }
}
