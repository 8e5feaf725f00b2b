//! The tensors of a model, by the names of the published files.

use std::fmt::Write as _;

use super::config::Qwen3VlConfig;
use crate::error::{Error, Result};
use crate::weights::TensorSource;

/// How many tensors of each sort a message lists.
const LISTED: usize = 20;

/// Every tensor that a model of these sizes needs, with its shape. There is no `lm_head.weight` where the
/// embedding table is the output layer too, and no bias beside it ever.
pub fn tensor_shapes(config: &Qwen3VlConfig) -> Vec<(String, Vec<usize>)> {
    let mut shapes = Vec::new();
    text(config, &mut shapes);
    vision(config, &mut shapes);
    if !config.tie_word_embeddings {
        let t = &config.text;
        shapes.push(("lm_head.weight".into(), vec![t.vocab_size, t.hidden_size]));
    }
    shapes
}

fn text(config: &Qwen3VlConfig, shapes: &mut Vec<(String, Vec<usize>)>) {
    let t = &config.text;
    let (d, head) = (t.hidden_size, t.head_dim);
    let (inner, shared) = (t.num_attention_heads * head, t.num_key_value_heads * head);
    let mut push = |name: String, shape: &[usize]| {
        let name = format!("model.language_model.{name}.weight");
        shapes.push((name, shape.to_vec()));
    };
    push("embed_tokens".into(), &[t.vocab_size, d]);
    for layer in 0..t.num_hidden_layers {
        let mut push = |name: &str, shape: &[usize]| push(format!("layers.{layer}.{name}"), shape);
        push("input_layernorm", &[d]);
        push("self_attn.q_proj", &[inner, d]);
        push("self_attn.k_proj", &[shared, d]);
        push("self_attn.v_proj", &[shared, d]);
        push("self_attn.o_proj", &[d, inner]);
        push("self_attn.q_norm", &[head]);
        push("self_attn.k_norm", &[head]);
        push("post_attention_layernorm", &[d]);
        push("mlp.gate_proj", &[t.intermediate_size, d]);
        push("mlp.up_proj", &[t.intermediate_size, d]);
        push("mlp.down_proj", &[d, t.intermediate_size]);
    }
    push("norm".into(), &[d]);
}

fn vision(config: &Qwen3VlConfig, shapes: &mut Vec<(String, Vec<usize>)>) {
    let v = &config.vision;
    let (d, wide) = (v.hidden_size, v.intermediate_size);
    let merged = d * v.merge_unit();
    let mut push = |name: &str, weight: &[usize]| {
        shapes.push((format!("model.visual.{name}.weight"), weight.to_vec()));
    };
    push("pos_embed", &[v.num_position_embeddings, d]);
    let mut push = |name: &str, weight: &[usize]| {
        shapes.push((format!("model.visual.{name}.weight"), weight.to_vec()));
        shapes.push((format!("model.visual.{name}.bias"), vec![weight[0]]));
    };
    push(
        "patch_embed.proj",
        &[
            d,
            v.in_channels,
            v.temporal_patch_size,
            v.patch_size,
            v.patch_size,
        ],
    );
    for block in 0..v.depth {
        let mut push =
            |name: &str, weight: &[usize]| push(&format!("blocks.{block}.{name}"), weight);
        push("norm1", &[d]);
        push("norm2", &[d]);
        push("attn.qkv", &[3 * d, d]);
        push("attn.proj", &[d, d]);
        push("mlp.linear_fc1", &[wide, d]);
        push("mlp.linear_fc2", &[d, wide]);
    }
    // The merger normalises patches, those of DeepStack whole tokens.
    let mut merger = |name: &str, norm: usize| {
        push(&format!("{name}.norm"), &[norm]);
        push(&format!("{name}.linear_fc1"), &[merged, merged]);
        push(&format!("{name}.linear_fc2"), &[v.out_hidden_size, merged]);
    };
    merger("merger", d);
    for index in 0..v.deepstack_visual_indexes.len() {
        merger(&format!("deepstack_merger_list.{index}"), merged);
    }
}

/// Compares what there is with what the configuration asks for, before anything large is read. Gives the names
/// that nothing will read.
///
/// # Errors
/// [`Error::Artifact`] listing what is missing or misshapen; `place` is for the message.
pub(super) fn validate(
    place: &std::path::Path,
    config: &Qwen3VlConfig,
    source: &dyn TensorSource,
) -> Result<Vec<String>> {
    let expected = tensor_shapes(config);
    let mut wrong = Vec::new();
    for (name, shape) in &expected {
        match source.shape(name) {
            None => wrong.push(format!("missing: {name} {shape:?}")),
            Some(found) if found != *shape => wrong.push(format!(
                "misshapen: {name} is {found:?}, the configuration asks for {shape:?}"
            )),
            Some(_) => {}
        }
    }
    if !wrong.is_empty() {
        let count = wrong.len();
        wrong.truncate(LISTED);
        let mut message = format!(
            "{count} of {} tensors do not fit the configuration\n  {}",
            expected.len(),
            wrong.join("\n  ")
        );
        if count > LISTED {
            // Writing to a String cannot fail.
            let _ = write!(message, "\n  .. and {} more", count - LISTED);
        }
        message.push_str("\nfetch the model again, or correct its config.json");
        return Err(Error::artifact(place, message));
    }
    let expected: std::collections::BTreeSet<_> =
        expected.into_iter().map(|(name, _)| name).collect();
    Ok(source
        .names()
        .into_iter()
        .filter(|name| !expected.contains(name))
        .collect())
}
