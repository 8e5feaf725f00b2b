//! One transformer block of released width at 1,024 tokens.
//!
//! Both sides do what diffusers' block does in every call: modulation, self attention, the projection of
//! 512 context rows to cross-attention keys and values, cross attention, feed-forward. One modulation
//! row serves all tokens (diffusers' 5B pipeline passes one per token, which costs it more).
//! `leoma, cached K/V` is the block as our pipeline runs it: keys and values of the prompt are computed
//! once per prompt and expert, outside the measured part.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use leoma_models::wan::TransformerConfig;
use leoma_models::wan::transformer::{
    CrossKeyValue, RotaryTables, WanTransformerBlock, tensor_shapes,
};
use serde_json::{Value, json};

use super::weights::{Shapes, open, unit, write_inputs, write_weights};
use crate::case::{Case, Planned, once, text};
use crate::cli::Size;
use crate::measure::{Plan, Subject};

/// Rows of the text context.
const CONTEXT: usize = 512;

/// Sizes of one variant.
#[derive(Debug, Clone, Copy)]
struct Width {
    variant: &'static str,
    heads: usize,
    head_dim: usize,
    ffn_dim: usize,
    /// Token grid: frames, rows, columns.
    grid: [usize; 3],
}

pub(crate) fn list(size: Size) -> Vec<Planned> {
    let (scale, grid) = match size {
        Size::Full => (1, [4, 16, 16]),
        Size::Small => (8, [2, 4, 4]),
    };
    let widths = [("5b", 24, 14_336), ("14b", 40, 13_824)].map(|(variant, heads, ffn_dim)| Width {
        variant,
        heads: heads / scale,
        head_dim: 128,
        ffn_dim: ffn_dim / scale,
        grid,
    });
    widths
        .into_iter()
        .map(|width| {
            let tokens: usize = width.grid.iter().product();
            Planned {
                name: format!("dit-block/{}", width.variant),
                what: format!(
                    "one transformer block, width {}, {} heads, feed-forward {}, {tokens} tokens, \
                     {CONTEXT} context rows projected in every call",
                    width.heads * width.head_dim,
                    width.heads,
                    width.ffn_dim
                ),
                limit: 1.25,
                plan: Plan::USUAL,
                peer_case: "dit-block",
                memory_limit: None,
                prepare: Box::new(move |work| Ok(Box::new(DitBlock::prepare(width, work)?))),
            }
        })
        .collect()
}

/// A block with its inputs.
struct DitBlock {
    block: WanTransformerBlock,
    rotary: RotaryTables,
    x: Tensor,
    context: Tensor,
    modulation: Tensor,
    cached: CrossKeyValue,
    width: Width,
    eps: f64,
    weights: PathBuf,
    inputs: PathBuf,
}

impl DitBlock {
    fn prepare(width: Width, work: &Path) -> Result<Self> {
        let cfg = config(width);
        let d = cfg.dim();
        let name =
            |kind: &str| work.join(format!("dit-block-{}-{kind}.safetensors", width.variant));
        let weights = once(name("weights"), |path| {
            write_weights(path, &block_shapes(&cfg))
        })?;
        let tokens = width.grid.iter().product();
        let x = unit("hidden_states", &[1, tokens, d])?;
        let context = unit("encoder_hidden_states", &[1, CONTEXT, d])?;
        let modulation = (unit("temb", &[1, 6, d])? * 0.3)?;
        let inputs = once(name("inputs"), |path| {
            write_inputs(
                path,
                &[
                    ("hidden_states", &x),
                    ("encoder_hidden_states", &context),
                    ("temb", &modulation),
                ],
            )
        })?;
        let block = WanTransformerBlock::new(&cfg, &open(&weights)?)?;
        let context = context.squeeze(0)?;
        Ok(Self {
            cached: block.cross_key_value(&context, 1)?,
            rotary: RotaryTables::new(width.head_dim, width.grid, &Device::Cpu)?,
            x: x.squeeze(0)?,
            context,
            // [1, 6, d] -> [6, R = 1, d]
            modulation: modulation.transpose(0, 1)?.contiguous()?,
            block,
            width,
            eps: cfg.eps,
            weights,
            inputs,
        })
    }
}

impl Case for DitBlock {
    fn subjects(&self) -> Vec<Subject> {
        vec![Subject::Leoma, Subject::LeomaCachedKv, Subject::Pytorch]
    }

    fn peer_setup(&self) -> Value {
        json!({
            "dim": self.width.heads * self.width.head_dim,
            "num_heads": self.width.heads,
            "ffn_dim": self.width.ffn_dim,
            "eps": self.eps,
            "grid": self.width.grid,
            "weights": text(&self.weights),
            "inputs": text(&self.inputs),
        })
    }

    fn run(&mut self, subject: Subject) -> Result<Tensor> {
        let forward = |cross: &CrossKeyValue| {
            self.block
                .forward(&self.x, &self.modulation, 0, &self.rotary, cross)
        };
        Ok(match subject {
            // All rows are distinct, so none is repeated.
            Subject::Leoma => forward(&self.block.cross_key_value(&self.context, 1)?)?,
            Subject::LeomaCachedKv => forward(&self.cached)?,
            Subject::Pytorch => bail!("PyTorch runs in the peer"),
        })
    }
}

fn config(width: Width) -> TransformerConfig {
    TransformerConfig {
        patch_size: [1, 2, 2],
        num_attention_heads: width.heads,
        attention_head_dim: width.head_dim,
        in_channels: 16,
        out_channels: 16,
        text_dim: 64,
        freq_dim: 256,
        ffn_dim: width.ffn_dim,
        num_layers: 1,
        cross_attn_norm: true,
        qk_norm: Some("rms_norm_across_heads".into()),
        eps: 1e-6,
        image_dim: None,
        added_kv_proj_dim: None,
        rope_max_seq_len: 1024,
    }
}

/// Tensors of the block alone, without `blocks.0.`: the names diffusers' block has by itself.
fn block_shapes(cfg: &TransformerConfig) -> Shapes {
    tensor_shapes(cfg)
        .into_iter()
        .filter_map(|(name, shape)| Some((name.strip_prefix("blocks.0.")?.to_owned(), shape)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_widths_are_those_of_the_models() {
        let planned = list(Size::Full);
        assert_eq!(planned[0].name, "dit-block/5b");
        assert!(
            planned[0]
                .what
                .contains("width 3072, 24 heads, feed-forward 14336, 1024 tokens")
        );
        assert!(
            planned[1]
                .what
                .contains("width 5120, 40 heads, feed-forward 13824, 1024 tokens")
        );
    }

    #[test]
    fn small_block_runs_and_caching_changes_nothing() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let planned = list(Size::Small).remove(0);
        let mut case = (planned.prepare)(dir.path()).expect("the case is ready");
        let whole = case.run(Subject::Leoma).expect("a result");
        let cached = case.run(Subject::LeomaCachedKv).expect("a result");
        assert_eq!(whole.dims(), [32, 384]);
        assert_eq!(
            crate::case::relative_l2(&cached, &whole).expect("a distance"),
            0.0
        );
        assert!(case.run(Subject::Pytorch).is_err());
    }
}
