//! Configurations as published.
//!
//! Sources of the values: 4B, the whole file as kept in public code that loads Qwen3-VL-4B-Instruct
//! (transformers 4.57.0.dev0). 2B and 8B, the model table of `pytorch/torchtitan`,
//! `torchtitan/experiments/qwen3_vl/__init__.py` at 0375bb6 (widths, layers, heads, tying, vision tower), in the
//! 4B file's form; 8B's `tie_word_embeddings` false stands at the top level only.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

/// A published file of a size.
fn published(size: &str) -> Value {
    let (hidden, intermediate, layers, heads, tied) = match size {
        "2B" => (2048, 6144, 28, 16, true),
        "4B" => (2560, 9728, 36, 32, true),
        _ => (4096, 12288, 36, 32, false),
    };
    let (depth, width, wide, deepstack) = match size {
        "8B" => (27, 1152, 4304, [8, 16, 24]),
        _ => (24, 1024, 4096, [5, 11, 17]),
    };
    let mut config = json!({
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "image_token_id": 151655,
        "model_type": "qwen3_vl",
        "text_config": {
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "dtype": "bfloat16",
            "eos_token_id": 151645,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": hidden,
            "initializer_range": 0.02,
            "intermediate_size": intermediate,
            "max_position_embeddings": 262144,
            "model_type": "qwen3_vl_text",
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {
                "mrope_interleaved": true,
                "mrope_section": [24, 20, 20],
                "rope_type": "default"
            },
            "rope_theta": 5000000,
            "use_cache": true,
            "vocab_size": 151936
        },
        "tie_word_embeddings": tied,
        "transformers_version": "4.57.0.dev0",
        "video_token_id": 151656,
        "vision_config": {
            "deepstack_visual_indexes": deepstack,
            "depth": depth,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": width,
            "in_channels": 3,
            "initializer_range": 0.02,
            "intermediate_size": wide,
            "model_type": "qwen3_vl",
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": hidden,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2
        },
        "vision_end_token_id": 151653,
        "vision_start_token_id": 151652
    });
    if tied {
        config["text_config"]["tie_word_embeddings"] = json!(true);
    }
    config
}

fn parse(config: &Value) -> Result<Qwen3VlConfig> {
    Qwen3VlConfig::parse(Path::new("config.json"), &config.to_string())
}

#[test]
fn published_configurations_parse() {
    for (size, hidden, layers, tied, head, deepstack) in [
        ("2B", 2048, 28, true, 64, [5, 11, 17]),
        ("4B", 2560, 36, true, 64, [5, 11, 17]),
        ("8B", 4096, 36, false, 72, [8, 16, 24]),
    ] {
        let config = parse(&published(size)).unwrap();
        assert_eq!(config.text.hidden_size, hidden, "{size}");
        assert_eq!(config.text.num_hidden_layers, layers, "{size}");
        assert_eq!(config.text.rope_theta, 5e6, "{size}");
        assert_eq!(config.text.mrope_section, [24, 20, 20], "{size}");
        assert_eq!(config.tie_word_embeddings, tied, "{size}");
        assert_eq!(config.vision.head_dim(), head, "{size}");
        assert_eq!(config.vision.position_side(), 48, "{size}");
        assert_eq!(config.vision.factor(), 32, "{size}");
        assert_eq!(config.vision.patch_values(), 1536, "{size}");
        assert_eq!(config.vision.deepstack_visual_indexes, deepstack, "{size}");
        assert_eq!(config.image_token_id, 151_655, "{size}");
    }
}

/// Parameters of the released models, worked out apart from this code; 8B's are the 8.77 billion of its card.
#[test]
fn tensors_add_up_to_the_released_sizes() {
    for (size, wanted) in [
        ("2B", 2_127_532_032_usize),
        ("4B", 4_437_815_808),
        ("8B", 8_767_123_696),
    ] {
        let config = parse(&published(size)).unwrap();
        let shapes = crate::judge::tensor_shapes(&config);
        let found: usize = shapes
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        assert_eq!(found, wanted, "{size}");
    }
}

#[test]
fn tying_is_read_wherever_it_stands() {
    let mut config = published("4B");
    config
        .as_object_mut()
        .unwrap()
        .remove("tie_word_embeddings");
    assert!(parse(&config).unwrap().tie_word_embeddings);
    let text = config["text_config"].as_object_mut().unwrap();
    text.remove("tie_word_embeddings");
    assert!(!parse(&config).unwrap().tie_word_embeddings);
    config["tie_word_embeddings"] = json!(true);
    assert!(parse(&config).unwrap().tie_word_embeddings);
}

#[test]
fn rotary_settings_of_transformers_5_are_read() {
    let mut config = published("2B");
    let wanted = parse(&config).unwrap();
    let text = config["text_config"].as_object_mut().unwrap();
    text.remove("rope_scaling");
    text.remove("rope_theta");
    text.insert(
        "rope_parameters".into(),
        json!({"rope_type": "default", "rope_theta": 5000000, "mrope_section": [24, 20, 20]}),
    );
    assert_eq!(parse(&config).unwrap(), wanted);
}

/// Every field that is read: without it the error names it, with its place.
#[test]
fn a_missing_field_is_named() {
    let top = [
        "model_type",
        "text_config",
        "vision_config",
        "image_token_id",
        "video_token_id",
        "vision_start_token_id",
        "vision_end_token_id",
    ];
    let text = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "max_position_embeddings",
        "hidden_act",
    ];
    let vision = [
        "depth",
        "hidden_size",
        "intermediate_size",
        "num_heads",
        "in_channels",
        "patch_size",
        "temporal_patch_size",
        "spatial_merge_size",
        "out_hidden_size",
        "num_position_embeddings",
        "deepstack_visual_indexes",
        "hidden_act",
    ];
    let cases = top
        .map(|name| ("", name))
        .into_iter()
        .chain(text.map(|name| ("text_config", name)))
        .chain(vision.map(|name| ("vision_config", name)));
    for (part, name) in cases {
        let mut config = published("8B");
        let object = match part {
            "" => config.as_object_mut(),
            part => config[part].as_object_mut(),
        };
        object.unwrap().remove(name).unwrap();
        let error = parse(&config).unwrap_err();
        assert_eq!(error.fault(), crate::Fault::Artifact);
        let place = if part.is_empty() {
            format!("`{name}`")
        } else {
            format!("`{part}.{name}`")
        };
        assert!(error.to_string().contains(&place), "{part} {name}: {error}");
    }
}

#[test]
fn what_is_not_supported_is_named() {
    for (pointer, value, named) in [
        ("/model_type", json!("qwen3_vl_moe"), "model_type"),
        ("/text_config/hidden_act", json!("gelu"), "hidden_act"),
        ("/text_config/attention_bias", json!(true), "attention_bias"),
        ("/text_config/head_dim", json!(0), "head_dim"),
        ("/text_config/head_dim", json!(64), "mrope_section"),
        (
            "/text_config/num_key_value_heads",
            json!(5),
            "num_key_value_heads",
        ),
        ("/text_config/rope_theta", json!("big"), "rope_theta"),
        ("/text_config/rope_theta", json!(0), "rope_theta"),
        ("/text_config/rms_norm_eps", json!(1), "rms_norm_eps"),
        ("/text_config/vocab_size", json!(1000), "image_token_id"),
        (
            "/text_config/vocab_size",
            json!(4_000_000_000_u64),
            "vocab_size",
        ),
        (
            "/text_config/rope_scaling/rope_type",
            json!("yarn"),
            "rope_type",
        ),
        (
            "/text_config/rope_scaling/mrope_section",
            json!([24, 40]),
            "mrope_section",
        ),
        (
            "/text_config/rope_scaling/mrope_interleaved",
            json!(false),
            "mrope_interleaved",
        ),
        (
            "/vision_config/hidden_act",
            json!("gelu"),
            "vision_config.hidden_act",
        ),
        (
            "/vision_config/out_hidden_size",
            json!(3584),
            "out_hidden_size",
        ),
        (
            "/vision_config/num_position_embeddings",
            json!(2305),
            "num_position_embeddings",
        ),
        (
            "/vision_config/deepstack_visual_indexes",
            json!([8, 8]),
            "deepstack_visual_indexes",
        ),
        (
            "/vision_config/deepstack_visual_indexes",
            json!([27]),
            "deepstack_visual_indexes",
        ),
        ("/vision_config/num_heads", json!(17), "num_heads"),
        ("/vision_config/in_channels", json!(1), "in_channels"),
        ("/video_token_id", json!(-1), "video_token_id"),
    ] {
        let mut config = published("8B");
        *config.pointer_mut(pointer).unwrap() = value;
        let error = parse(&config).unwrap_err().to_string();
        assert!(error.contains(named), "{pointer}: {error}");
    }
    assert!(Qwen3VlConfig::parse(Path::new("config.json"), "[]").is_err());
}
