//! A tiny random judge: a dense Qwen3-VL of the true architecture with small widths, in the published layout.
//!
//! Its weights are such that it answers with digits: the first of its hidden values is large for every token
//! and larger in the rows of the digits 1 to 5. Which digit depends on the pictures, the prompt and the
//! question, in no meaningful way.

use std::path::Path;

use serde_json::{Value, json};

use super::init::Random;
use super::{byte_level, in_new_folder, serialize_with, write};
use crate::error::Result;
use crate::judge::{Qwen3VlConfig, tensor_shapes};

/// First value of every embedding, and of a digit's: so much more that a model with one table for both prefers
/// digits to repeating its last token.
const COMMON: (f64, f64) = (3.0, 12.0);

/// Writes a tiny judge into the new folder `out`: with one table for embedding and output layer, as 2B and 4B
/// have it, or with two, as 8B.
///
/// The folder appears under its name only when it is complete.
///
/// # Errors
/// [`crate::Error::Caller`] when `out` exists and is not an empty folder; [`crate::Error::Io`] when writing fails.
pub fn make_tiny_judge(tied: bool, seed: u64, out: &Path) -> Result<()> {
    let config = config(tied);
    let text = format!("{config:#}\n");
    let parsed = Qwen3VlConfig::parse(&out.join("config.json"), &text)?;
    in_new_folder(out, |folder| {
        write(&folder.join("config.json"), text.as_bytes())?;
        for (name, value) in byte_level::files().into_iter().chain(processors()) {
            write(&folder.join(name), format!("{value:#}\n").as_bytes())?;
        }
        let shapes = tensor_shapes(&parsed);
        let bytes = serialize_with(&shapes, |name, shape| tensor(seed, name, shape))?;
        write(&folder.join("model.safetensors"), &bytes)
    })
}

fn special(name: &str) -> Value {
    json!(byte_level::special_id(name))
}

/// `config.json` in the form that the models were published in.
fn config(tied: bool) -> Value {
    let hidden = 64;
    json!({
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": special("<|image_pad|>"),
        "video_token_id": special("<|video_pad|>"),
        "vision_start_token_id": special("<|vision_start|>"),
        "vision_end_token_id": special("<|vision_end|>"),
        "tie_word_embeddings": tied,
        "transformers_version": "4.57.0.dev0",
        "text_config": {
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": special("<|endoftext|>"),
            "dtype": "float32",
            "eos_token_id": special("<|im_end|>"),
            // Heads times head width differs from the model width, as it may.
            "head_dim": 24,
            "hidden_act": "silu",
            "hidden_size": hidden,
            "initializer_range": 0.02,
            "intermediate_size": 112,
            "max_position_embeddings": 32_768,
            "model_type": "qwen3_vl_text",
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "rope_scaling": {
                "mrope_interleaved": true,
                "mrope_section": [6, 3, 3],
                "rope_type": "default"
            },
            "rope_theta": 5_000_000,
            "tie_word_embeddings": tied,
            "use_cache": true,
            "vocab_size": byte_level::vocab_size()
        },
        "vision_config": {
            "deepstack_visual_indexes": [0, 2],
            "depth": 4,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 32,
            "in_channels": 3,
            "initializer_range": 0.02,
            "intermediate_size": 56,
            "model_type": "qwen3_vl",
            "num_heads": 2,
            "num_position_embeddings": 36,
            "out_hidden_size": hidden,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2
        }
    })
}

/// Settings of the processors, as published.
fn processors() -> [(&'static str, Value); 2] {
    let settings = |class: (&str, &str), shortest: usize, longest: usize| {
        json!({
            "size": {"longest_edge": longest, "shortest_edge": shortest},
            "patch_size": 16,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "Qwen3VLProcessor",
            class.0: class.1,
        })
    };
    let image = ("image_processor_type", "Qwen2VLImageProcessorFast");
    let video = ("video_processor_type", "Qwen3VLVideoProcessor");
    [
        (
            "preprocessor_config.json",
            settings(image, 65_536, 16_777_216),
        ),
        (
            "video_preprocessor_config.json",
            settings(video, 4_096, 25_165_824),
        ),
    ]
}

/// Values of one tensor, from a stream of its own.
fn tensor(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let mut random = Random::new(seed, &format!("judge/{name}"));
    let (mean, deviation) = scale(name, shape);
    let count = shape.iter().product();
    let mut values: Vec<f32> = (0..count)
        .map(|_| (mean + deviation * random.normal()) as f32)
        .collect();
    if name.ends_with("embed_tokens.weight") || name == "lm_head.weight" {
        let digits = byte_level::digit_ids();
        for (id, row) in (0u32..).zip(values.chunks_exact_mut(shape[1])) {
            let value = if digits.contains(&id) {
                COMMON.1
            } else {
                COMMON.0
            };
            row[0] = value as f32;
        }
    }
    values
}

/// Mean and deviation by role.
fn scale(name: &str, shape: &[usize]) -> (f64, f64) {
    let fan_in = shape[1..].iter().product::<usize>().max(1) as f64;
    let is_norm = name
        .rsplit('.')
        .nth(1)
        .is_some_and(|layer| layer.contains("norm"));
    if name.ends_with(".bias") {
        (0.0, 0.1)
    } else if is_norm {
        (1.0, 0.1)
    } else if name == "lm_head.weight"
        || ["embed_tokens.weight", "pos_embed.weight"]
            .iter()
            .any(|table| name.ends_with(table))
    {
        (0.0, 0.5)
    } else if name.contains("language_model")
        && (name.contains("o_proj") || name.contains("down_proj"))
    {
        // What a layer adds stays below what it adds to.
        (0.0, 0.4 / fan_in.sqrt())
    } else {
        (0.0, 1.0 / fan_in.sqrt())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, fs::read(path).unwrap())
            })
            .collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_little_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, tied, seed| {
            let out = folder.path().join(name);
            make_tiny_judge(tied, seed, &out).unwrap();
            files(&out)
        };
        let first = make("a", true, 1);
        assert!(first == make("b", true, 1));
        assert!(first != make("c", true, 2));
        assert!(first != make("d", false, 1));
        let size: usize = first.values().map(Vec::len).sum();
        assert!(size < 3_000_000, "{size}");
        let out = folder.path().join("a");
        let error = make_tiny_judge(true, 1, &out).unwrap_err();
        assert_eq!(error.fault(), crate::Fault::Caller);
    }
}
