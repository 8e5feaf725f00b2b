//! Arithmetic and fewest bytes of a scenario's stages, from the sizes of its networks.

use leoma_models::random::Networks;
use leoma_models::wan::cost;
use leoma_models::wan::transformer::CONTEXT_LEN;
use leoma_models::weights::{Component, ModelKind};

use super::result::Stage;
use super::scenario::Scenario;

/// What one sample of a stage must at least do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cost {
    /// FLOP of linear layers and convolutions.
    pub(crate) linear: f64,
    /// FLOP of attention.
    pub(crate) attention: f64,
    /// Bytes through device memory: weights once, and what stands between operations that cannot be one.
    pub(crate) bytes: f64,
}

impl Cost {
    /// All arithmetic.
    pub(crate) fn flops(&self) -> f64 {
        self.linear + self.attention
    }
}

/// The work of a scenario.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    /// Tokens that the transformer sees.
    pub(crate) tokens: usize,
    /// Width of the model, heads, width of a head, feed-forward width.
    pub(crate) shape: [usize; 4],
    text: Cost,
    step: Cost,
    decode: Cost,
}

impl Work {
    /// Counts for `networks`; `prompt` is the number of tokens of both prompts together.
    pub(crate) fn new(scenario: &Scenario, networks: &Networks, prompt: usize) -> Self {
        let (transformer, vae) = (&networks.transformer, &networks.vae);
        let (frames, height, width) = (scenario.frames, scenario.height, scenario.width);
        let tokens = cost::clip_tokens(transformer, vae, frames, height, width);
        let size = scenario.precision.dtype().size_in_bytes() as f64;
        let passes = scenario.passes() as f64;
        let parts = cost::forward_parts(transformer, tokens);
        // The formula counts one pass of the reference; keys and values of the prompt are made once per clip here,
        // and only for the rows that a prompt has.
        let (dim, context) = (transformer.dim() as f64, CONTEXT_LEN as f64);
        let once = 4.0 * transformer.num_layers as f64 * context * dim * dim
            + 2.0 * context * dim * (transformer.text_dim as f64 + dim);
        let rows = (prompt as f64 / passes).min(context) / context;
        let weights = networks.parameters(Component::Transformer) as f64
            * if scenario.precision.is_fp8() {
                1.0
            } else {
                size
            };
        Self {
            tokens,
            shape: [
                transformer.dim(),
                transformer.num_attention_heads,
                transformer.attention_head_dim,
                transformer.ffn_dim,
            ],
            text: Cost {
                linear: cost::text_flops(&networks.text, prompt),
                attention: 0.0,
                bytes: networks.parameters(Component::TextEncoder) as f64 * size,
            },
            step: Cost {
                linear: passes * (parts.linear - once),
                attention: passes * (parts.self_attention + rows * parts.cross_attention),
                bytes: passes
                    * (weights
                        + block_bytes(
                            transformer.num_layers,
                            tokens,
                            transformer.dim(),
                            transformer.ffn_dim,
                            size,
                        )),
            },
            decode: Cost {
                linear: cost::decode_flops(vae, frames, height, width),
                attention: 0.0,
                // Every pixel is written at least once as float.
                bytes: (frames * height * width * 3 * 4) as f64
                    + networks.parameters(Component::Vae) as f64 * size,
            },
        }
    }

    /// The work of one sample; `None` for what is not counted. Encoding the image does less than the formula
    /// counts, because repeated frames are not computed again.
    pub(crate) fn of(&self, stage: Stage) -> Option<Cost> {
        match stage {
            Stage::TextEncode => Some(self.text),
            Stage::DenoiseStep => Some(self.step),
            Stage::Decode => Some(self.decode),
            Stage::Load | Stage::ImageEncode | Stage::Swap | Stage::Mux => None,
        }
    }
}

/// Activations through memory in one pass when every operation that can be fused is: per block, in rows of the
/// model's width, three norms with modulation (read, write), three gated residuals (two reads, one write), q
/// and k norm with rotary in place (two reads, two writes), inputs and outputs of six projections (twelve), and
/// of attention twice (four each); the feed-forward's hidden rows are written and read.
pub(crate) fn block_bytes(layers: usize, tokens: usize, dim: usize, ffn: usize, size: f64) -> f64 {
    let rows = (6 + 9 + 4 + 12 + 8) as f64 * dim as f64 + 2.0 * ffn as f64;
    layers as f64 * tokens as f64 * rows * size
}

/// Networks of a scenario that has no checkpoint.
pub(crate) fn networks(kind: ModelKind, tiny: bool) -> Networks {
    if tiny {
        Networks::tiny(kind)
    } else {
        Networks::released(kind)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::scenario::{Set, built_in};
    use super::*;

    #[test]
    fn the_subnets_step_is_two_passes_without_what_a_prompt_costs_once() {
        let scenario = &built_in(Set::Released).unwrap()[0];
        let work = Work::new(scenario, &networks(ModelKind::I2vA14b, false), 20);
        assert_eq!(work.tokens, 32_760);
        let step = work.of(Stage::DenoiseStep).unwrap();
        // 2 x (1678.4 - 2.2 of the prompt's keys and values - 13.7 x 502 / 512).
        let tera = step.flops() / 1e12;
        assert!((tera - 3325.6).abs() < 0.5, "{tera}");
        assert!(step.attention > step.linear);
        let decode = work.of(Stage::Decode).unwrap();
        assert!((decode.flops() / 1e12 - 275.4).abs() < 0.1);
        // Both experts' weights do not fit one step: one expert is read per pass.
        assert!(step.bytes > 2.0 * 28.58e9);
        assert!(work.of(Stage::Load).is_none() && work.of(Stage::Mux).is_none());
    }
}
