//! Checkpoints that load, and how the tensors come out.
#![allow(clippy::unwrap_used)]

mod lora;
mod quantised;
mod refusals;
mod stored;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::json;

use super::test_support::*;
use super::*;
use crate::error::{Error, Fault, Result};

const KINDS: [ModelKind; 4] = ModelKind::ALL;

/// Opens, validates and loads everything: what a server does at start.
fn start(root: &Path) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(root)?;
    validate(&checkpoint)?;
    for component in Component::ALL {
        if let Ok(source) = checkpoint.source(component) {
            for name in source.names() {
                source.load(&name, DType::F32, &Device::Cpu)?;
            }
        }
    }
    Ok(checkpoint)
}

/// The checkpoint must be refused with all of these in the message, and inspection must not panic.
fn refused(root: &Path, words: &[&str]) {
    let report = inspect(root);
    let error = start(root)
        .err()
        .unwrap_or_else(|| panic!("accepted; expected {words:?}"));
    let text = error.to_string();
    assert_eq!(error.fault(), Fault::Artifact, "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    // Everything but the values of weights shows without loading.
    if !text.contains("NaN") {
        assert!(
            !report.problems.is_empty(),
            "inspection found nothing; loading says {text}"
        );
        assert!(report.to_string().contains("problem:"));
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor
        .to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn both_layouts_give_the_same_model() {
    for kind in KINDS {
        let tiny = Tiny::new(kind);
        let folder = tempfile::tempdir().unwrap();
        to_official(&tiny.root, folder.path());
        let (a, b) = (start(&tiny.root).unwrap(), start(folder.path()).unwrap());
        assert_eq!(
            (a.layout(), b.layout()),
            (Layout::Diffusers, Layout::Official)
        );
        assert_eq!((a.kind(), b.kind()), (kind, kind));
        assert_eq!(a.text_config(), b.text_config());
        assert_eq!(a.vae_config(), b.vae_config(), "{kind}");
        assert_eq!(a.boundary_ratio(), b.boundary_ratio());
        assert!(a.scheduler_config().unwrap().shift().is_some() && b.scheduler_config().is_none());
        assert!(b.tokenizer_dir().ends_with("google/umt5-xxl"));
        for component in Component::ALL {
            assert_eq!(
                a.transformer_config(component),
                b.transformer_config(component)
            );
            let (Ok(x), Ok(y)) = (a.source(component), b.source(component)) else {
                assert!(component == Component::Transformer2 && !kind.has_two_experts());
                continue;
            };
            assert_eq!(x.names(), y.names());
            for name in x.names() {
                let load = |s: &std::sync::Arc<dyn TensorSource>| {
                    s.load(&name, DType::F32, &Device::Cpu).unwrap()
                };
                assert_eq!(values(&load(&x)), values(&load(&y)), "{name}");
            }
        }
        assert_eq!(a.digest(), b.digest());
        assert!(inspect(folder.path()).problems.is_empty());
    }
}

#[test]
fn names_map_both_ways() {
    for kind in [ModelKind::Ti2v5b, ModelKind::T2vA14b] {
        let tiny = Tiny::new(kind);
        let checkpoint = Checkpoint::open(&tiny.root).unwrap();
        let residual = checkpoint.vae_config().is_residual;
        for component in [
            Component::Transformer,
            Component::Vae,
            Component::TextEncoder,
        ] {
            for name in checkpoint.source(component).unwrap().names() {
                let official = match component {
                    Component::Vae => names::to_official_vae(residual, &name),
                    _ => names::to_official(component, &name),
                };
                assert_eq!(
                    names::to_diffusers(component, &official),
                    name,
                    "{official}"
                );
                // Diffusers names stay.
                assert_eq!(names::to_diffusers(component, &name), name);
            }
        }
    }
    // Pairs written down from the official code, one per rule that could be mixed up.
    use Component::{TextEncoder, Transformer, Vae};
    for (component, official, diffusers) in [
        (
            Transformer,
            "model.diffusion_model.blocks.3.norm3.weight",
            "blocks.3.norm2.weight",
        ),
        (
            Transformer,
            "diffusion_model.blocks.0.cross_attn.o.bias",
            "blocks.0.attn2.to_out.0.bias",
        ),
        (
            Transformer,
            "blocks.12.ffn.0.weight",
            "blocks.12.ffn.net.0.proj.weight",
        ),
        (
            Transformer,
            "blocks.1.modulation",
            "blocks.1.scale_shift_table",
        ),
        (Transformer, "head.modulation", "scale_shift_table"),
        (Transformer, "head.head.weight", "proj_out.weight"),
        (
            Transformer,
            "time_projection.1.bias",
            "condition_embedder.time_proj.bias",
        ),
        (
            Transformer,
            "patch_embedding.weight",
            "patch_embedding.weight",
        ),
        (TextEncoder, "token_embedding.weight", "shared.weight"),
        (
            TextEncoder,
            "blocks.7.ffn.gate.0.weight",
            "encoder.block.7.layer.1.DenseReluDense.wi_0.weight",
        ),
        (
            TextEncoder,
            "blocks.7.pos_embedding.embedding.weight",
            "encoder.block.7.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        (
            TextEncoder,
            "norm.weight",
            "encoder.final_layer_norm.weight",
        ),
        (Vae, "conv1.weight", "quant_conv.weight"),
        (Vae, "conv2.bias", "post_quant_conv.bias"),
        (Vae, "encoder.conv1.weight", "encoder.conv_in.weight"),
        (Vae, "decoder.head.2.bias", "decoder.conv_out.bias"),
        (
            Vae,
            "decoder.middle.1.to_qkv.weight",
            "decoder.mid_block.attentions.0.to_qkv.weight",
        ),
        (
            Vae,
            "encoder.middle.2.residual.6.weight",
            "encoder.mid_block.resnets.1.conv2.weight",
        ),
        (
            Vae,
            "encoder.downsamples.3.shortcut.weight",
            "encoder.down_blocks.3.conv_shortcut.weight",
        ),
        (
            Vae,
            "encoder.downsamples.5.time_conv.bias",
            "encoder.down_blocks.5.time_conv.bias",
        ),
        (
            Vae,
            "decoder.upsamples.7.resample.1.weight",
            "decoder.up_blocks.1.upsamplers.0.resample.1.weight",
        ),
        (
            Vae,
            "decoder.upsamples.4.residual.0.gamma",
            "decoder.up_blocks.1.resnets.0.norm1.gamma",
        ),
        (
            Vae,
            "encoder.downsamples.1.downsamples.2.time_conv.weight",
            "encoder.down_blocks.1.downsampler.time_conv.weight",
        ),
        (
            Vae,
            "decoder.upsamples.2.upsamples.1.residual.3.gamma",
            "decoder.up_blocks.2.resnets.1.norm2.gamma",
        ),
    ] {
        assert_eq!(names::to_diffusers(component, official), diffusers);
    }
}

#[test]
fn sharded_components_load_and_keep_their_digest() {
    let tiny = Tiny::new(ModelKind::Ti2v5b);
    let whole = start(&tiny.root).unwrap().digest();
    tiny.shard(Component::Transformer);
    tiny.shard(Component::TextEncoder);
    assert_eq!(start(&tiny.root).unwrap().digest(), whole);
    tiny.edit(Component::Vae, |tensors| {
        tensors.get_mut("quant_conv.bias").unwrap().bytes[0] ^= 1
    });
    assert_ne!(start(&tiny.root).unwrap().digest(), whole);
}

#[test]
fn stored_types_are_cast() {
    let tiny = Tiny::new(ModelKind::Wan21T2v);
    let numbers = [1.5_f32, -0.25, 3.0e-3, 1024.0];
    let name = "probe";
    for stored in ["F64", "F32", "F16", "BF16"] {
        tiny.edit(Component::Vae, |tensors| {
            let bytes = numbers
                .iter()
                .flat_map(|&v| match stored {
                    "F64" => f64::from(v).to_le_bytes().to_vec(),
                    "F16" => half::f16::from_f32(v).to_le_bytes().to_vec(),
                    "BF16" => half::bf16::from_f32(v).to_le_bytes().to_vec(),
                    _ => v.to_le_bytes().to_vec(),
                })
                .collect();
            tensors.insert(
                name.into(),
                Raw {
                    dtype: stored.into(),
                    shape: vec![2, 2],
                    bytes,
                },
            );
        });
        let source = Checkpoint::open(&tiny.root)
            .unwrap()
            .source(Component::Vae)
            .unwrap();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let tensor = source.load(name, dtype, &Device::Cpu).unwrap();
            assert_eq!((tensor.dtype(), tensor.dims()), (dtype, &[2, 2][..]));
            for (found, expected) in values(&tensor).iter().zip(numbers) {
                assert!(
                    (found - expected).abs() <= 4e-3 * expected.abs(),
                    "{stored} {dtype:?} {found}"
                );
            }
        }
        assert_eq!(
            source
                .load(name, DType::I64, &Device::Cpu)
                .unwrap_err()
                .fault(),
            Fault::Local
        );
    }
}

#[test]
fn a_tensor_longer_than_a_chunk_is_read_whole() {
    let tiny = Tiny::new(ModelKind::Wan21T2v);
    let numbers: Vec<f32> = (0..1_300_003).map(|i| i as f32).collect();
    tiny.edit(Component::Vae, |tensors| {
        let raw = Raw {
            dtype: "F32".into(),
            shape: vec![numbers.len()],
            bytes: floats(&numbers),
        };
        tensors.insert("probe".into(), raw);
    });
    let source = Checkpoint::open(&tiny.root)
        .unwrap()
        .source(Component::Vae)
        .unwrap();
    assert!(values(&source.load("probe", DType::F32, &Device::Cpu).unwrap()) == numbers);
    let narrow = values(&source.load("probe", DType::BF16, &Device::Cpu).unwrap());
    assert_eq!(
        narrow[1_300_002],
        half::bf16::from_f32(1_300_002.0).to_f32()
    );
}

#[test]
fn values_too_large_for_the_type_are_the_callers_choice() {
    let tiny = Tiny::new(ModelKind::Wan21T2v);
    tiny.edit(Component::Vae, |tensors| {
        tensors.get_mut("quant_conv.bias").unwrap().bytes[..4]
            .copy_from_slice(&1e6_f32.to_le_bytes());
    });
    let source = Checkpoint::open(&tiny.root)
        .unwrap()
        .source(Component::Vae)
        .unwrap();
    source
        .load("quant_conv.bias", DType::BF16, &Device::Cpu)
        .unwrap();
    let error = source
        .load("quant_conv.bias", DType::F16, &Device::Cpu)
        .unwrap_err();
    assert!(
        matches!(&error, Error::Caller { field, .. } if field == "dtype"),
        "{error}"
    );
}

#[test]
fn nan_and_infinity_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let tiny = Tiny::new(ModelKind::Wan21T2v);
        tiny.edit(Component::Transformer, |tensors| {
            let raw = tensors.get_mut("blocks.1.attn1.to_q.weight").unwrap();
            let end = raw.bytes.len();
            raw.bytes[end - 4..].copy_from_slice(&bad.to_le_bytes());
        });
        refused(
            &tiny.root,
            &[
                "NaN",
                "blocks.1.attn1.to_q.weight",
                "diffusion_pytorch_model.safetensors",
            ],
        );
    }
}

#[test]
fn every_difference_is_listed() {
    let tiny = Tiny::new(ModelKind::T2vA14b);
    tiny.edit(Component::Transformer2, |tensors| {
        tensors.retain(|name, _| !name.starts_with("blocks.1."));
        tensors.insert(
            "extra.weight".into(),
            Raw {
                dtype: "F32".into(),
                shape: vec![1],
                bytes: vec![0; 4],
            },
        );
    });
    tiny.edit(Component::Vae, |tensors| {
        let raw = tensors.get_mut("quant_conv.bias").unwrap();
        raw.shape.insert(0, 1);
    });
    refused(
        &tiny.root,
        &[
            "27 missing, 1 unexpected, 1 misshapen",
            "missing: transformer_2/blocks.1.attn1.norm_k.weight [64]",
            "missing: … and 7 more",
            "unexpected: transformer_2/extra.weight [1]",
            "misshapen: vae/quant_conv.bias is [1, 32]",
            "asks for [32]",
        ],
    );
}

#[test]
fn the_embedding_may_be_stored_under_either_name_or_both() {
    let tiny = Tiny::new(ModelKind::Wan21T2v);
    let digest = start(&tiny.root).unwrap().digest();
    let alias = "encoder.embed_tokens.weight";
    tiny.edit(Component::TextEncoder, |tensors| {
        let raw = tensors["shared.weight"].clone();
        tensors.insert(alias.into(), raw);
    });
    assert_eq!(start(&tiny.root).unwrap().digest(), digest);
    tiny.edit(Component::TextEncoder, |tensors| {
        drop(tensors.remove("shared.weight"))
    });
    assert_eq!(start(&tiny.root).unwrap().digest(), digest);
    tiny.edit(Component::TextEncoder, |tensors| {
        let mut raw = tensors[alias].clone();
        raw.shape.push(1);
        tensors.insert("shared.weight".into(), raw);
    });
    refused(&tiny.root, &["must be the same table"]);
}

#[test]
fn unknown_keys_are_warnings() {
    let tiny = Tiny::new(ModelKind::Wan21T2v);
    tiny.set("transformer/config.json", "brand_new", json!(1));
    let checkpoint = start(&tiny.root).unwrap();
    assert!(checkpoint.warnings()[0].contains("brand_new"));
}

#[test]
fn inspection_tells_sizes_and_memory() {
    let tiny = Tiny::new(ModelKind::I2vA14b);
    let report = inspect(&tiny.root);
    assert_eq!(
        (report.kind, report.layout),
        (Some(ModelKind::I2vA14b), Some(Layout::Diffusers))
    );
    assert_eq!(
        (report.flow_shift, report.boundary_ratio),
        (Some(3.0), Some(0.9))
    );
    assert_eq!(report.components.len(), 4);
    assert!(
        report.problems.is_empty() && report.warnings.is_empty(),
        "{report}"
    );
    let parameters = |c| {
        report
            .components
            .iter()
            .find(|r| r.component == c)
            .unwrap()
            .parameters
    };
    let total: u64 = report.components.iter().map(|r| r.parameters).sum();
    assert_eq!(report.memory[0].offload_none, 4 * total);
    assert_eq!(report.memory[1].offload_none, 2 * total);
    // Most of a transformer is in 8 bits, and nothing of the other networks.
    let [bf16, fp8] = [&report.memory[1], &report.memory[3]].map(|plan| &plan.components);
    assert_eq!(report.memory[3].dtype, "fp8");
    for (component, bytes) in bf16 {
        let transformer = component.as_str().starts_with("transformer");
        assert!(fp8[component] >= bytes / 2 && (fp8[component] < *bytes) == transformer);
    }
    let experts = parameters(Component::Transformer).max(parameters(Component::TextEncoder));
    assert_eq!(
        report.memory[0].offload_experts,
        4 * (experts + parameters(Component::Vae))
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["kind"], "i2v-a14b");
    assert_eq!(json["components"][1]["component"], "transformer_2");
    assert_eq!(json["components"][0]["config"]["in_channels"], 36);
    assert_eq!(
        json["memory"][0]["components"]["transformer_2"],
        4 * parameters(Component::Transformer2)
    );
    assert!(report.to_string().contains("nothing found"));
}
