//! The official layout of a fixture, written next to nothing: renamed transformer tensors, official
//! `config.json`, the committed `.pth` files, the tokenizer in its place.
//!
//! The renaming here goes the other way than the loader's and shares no code with it.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture;

/// diffusers → official; `norm2` is the affine norm before cross attention, officially `norm3`.
const NAMES: &[(&str, &str)] = &[
    (
        "condition_embedder.text_embedder.linear_1.",
        "text_embedding.0.",
    ),
    (
        "condition_embedder.text_embedder.linear_2.",
        "text_embedding.2.",
    ),
    (
        "condition_embedder.time_embedder.linear_1.",
        "time_embedding.0.",
    ),
    (
        "condition_embedder.time_embedder.linear_2.",
        "time_embedding.2.",
    ),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("proj_out.", "head.head."),
    (".norm2.", ".norm3."),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".o."),
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".scale_shift_table", ".modulation"),
];

fn official_name(name: &str) -> String {
    if name == "scale_shift_table" {
        return "head.modulation".into();
    }
    NAMES
        .iter()
        .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

fn write_expert(kind: &str, source: &Path, target: &Path) {
    std::fs::create_dir_all(target).unwrap();
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "safetensors")
        {
            let shard = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
            tensors.extend(
                shard
                    .into_iter()
                    .map(|(name, tensor)| (official_name(&name), tensor)),
            );
        }
    }
    candle_core::safetensors::save(&tensors, target.join("diffusion_pytorch_model.safetensors"))
        .unwrap();
    let config: Value =
        serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
    let size = |key: &str| config[key].as_u64().unwrap();
    let official = json!({
        "_class_name": "WanModel",
        "model_type": kind.split('-').next().unwrap(),
        "dim": size("num_attention_heads") * size("attention_head_dim"),
        "ffn_dim": size("ffn_dim"),
        "freq_dim": size("freq_dim"),
        "in_dim": size("in_channels"),
        "out_dim": size("out_channels"),
        "num_heads": size("num_attention_heads"),
        "num_layers": size("num_layers"),
        "text_len": 512,
        "eps": 1e-6,
    });
    std::fs::write(target.join("config.json"), official.to_string()).unwrap();
}

fn copy_files(source: &Path, target: &Path) {
    std::fs::create_dir_all(target).unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
    }
}

/// Writes the fixture of a kind in the official layout to a new temporary folder.
pub(crate) fn checkpoint(kind: &str) -> TempDir {
    let (source, target) = (fixture::folder(kind), tempfile::tempdir().unwrap());
    if kind == "ti2v-5b" {
        write_expert(kind, &source.join("transformer"), target.path());
    } else {
        write_expert(
            kind,
            &source.join("transformer"),
            &target.path().join("high_noise_model"),
        );
        write_expert(
            kind,
            &source.join("transformer_2"),
            &target.path().join("low_noise_model"),
        );
    }
    copy_files(&source.join("official"), target.path());
    copy_files(
        &source.join("tokenizer"),
        &target.path().join("google").join("umt5-xxl"),
    );
    target
}
