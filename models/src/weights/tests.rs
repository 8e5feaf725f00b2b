#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
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
            "missing: transformer_2/blocks.1.attn1.norm_k.weight [96]",
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
fn hostile_headers_are_refused() {
    let tiny = Tiny::new(ModelKind::Wan21T2v);
    let path = tiny.weights(Component::Transformer);
    let good = fs::read(&path).unwrap();
    let entry =
        |name: &str| format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
    let many: Vec<_> = (0..20_001)
        .map(|i| format!(r#""t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let long = "n".repeat(513);
    let cases: Vec<(String, Vec<u8>, &str)> = vec![
        (
            format!("{{{},{}}}", entry("a"), entry("a")),
            vec![0; 4],
            "occurs twice",
        ),
        (format!(" {{{}}}", entry("a")), vec![0; 4], "begin with `{`"),
        (
            format!("{{{}}}", many.join(",")),
            vec![],
            "more than 20000 tensors",
        ),
        (format!("{{{}}}", entry(&long)), vec![0; 4], "513 bytes"),
        (
            format!("{{{}}}", entry("a\\u0007")),
            vec![0; 4],
            "not printable",
        ),
        (
            format!("{{{}}}", entry("a")),
            vec![0; 5],
            "follow the last tensor",
        ),
        (format!("{{{}}}", entry("a")), vec![0; 3], "truncated"),
        (
            r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}"#.into(),
            vec![0; 4],
            "9 axes",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,4]}}"#.into(),
            vec![0; 4],
            "bad header",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#.into(),
            vec![0; 4],
            "bad header",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#.into(),
            vec![0; 8],
            "bad header",
        ),
        (
            r#"{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}"#.into(),
            vec![0; 4],
            "fp8",
        ),
        (
            r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#.into(),
            vec![0; 8],
            "I64",
        ),
        (
            r#"{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}"#.into(),
            vec![0; 4],
            "bad header",
        ),
        ("{".repeat(100_000), vec![], "bad header"),
        (
            format!(r#"{{"a":{}"#, "[".repeat(100_000)),
            vec![],
            "bad header",
        ),
        ("not json at all".into(), vec![], "begin with `{`"),
    ];
    for (header, data, word) in cases {
        write_raw(&path, &header, &data);
        refused(&tiny.root, &["diffusion_pytorch_model.safetensors", word]);
    }
    for (length, word) in [
        (u64::MAX, "claims"),
        ((8 << 20) + 1, "claims"),
        (4 << 20, "truncated"),
        (0, "truncated"),
    ] {
        let mut bytes = good.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        refused(&tiny.root, &[word]);
    }
    for keep in [0, 7, 100, good.len() - 1] {
        fs::write(&path, &good[..keep]).unwrap();
        refused(&tiny.root, &["fetch"]);
    }
}

#[test]
fn a_file_cut_after_it_was_opened_is_an_error() {
    let tiny = Tiny::new(ModelKind::Wan21T2v);
    let checkpoint = Checkpoint::open(&tiny.root).unwrap();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(tiny.weights(Component::Vae))
        .unwrap();
    file.set_len(30_000).unwrap();
    let source = checkpoint.source(Component::Vae).unwrap();
    let errors: Vec<_> = source
        .names()
        .iter()
        .filter_map(|name| source.load(name, DType::F32, &Device::Cpu).err())
        .collect();
    assert!(!errors.is_empty());
    assert!(
        errors
            .iter()
            .all(|error| error.to_string().contains("the file ends inside tensor"))
    );
}

#[test]
fn bad_indices_are_refused() {
    let rewrite = |index: &Path, change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = read_json(index);
        change(&mut value);
        fs::write(index, value.to_string()).unwrap();
    };
    let any = "proj_out.bias";
    let cases: [(&str, &dyn Fn(&mut serde_json::Value)); 6] = [
        ("missing", &|v| {
            v["weight_map"][any] = json!("absent.safetensors")
        }),
        ("../vae/diffusion", &|v| {
            v["weight_map"][any] = json!("../vae/diffusion_pytorch_model.safetensors")
        }),
        ("/etc/passwd", &|v| {
            v["weight_map"][any] = json!("/etc/passwd")
        }),
        ("does not hold it", &|v| {
            v["weight_map"]["invented"] =
                json!("diffusion_pytorch_model-00001-of-00002.safetensors")
        }),
        ("bad index", &|v| *v = json!([1, 2])),
        ("bad index", &|v| v["weight_map"] = json!({"a": 3})),
    ];
    for (word, change) in cases {
        let tiny = Tiny::new(ModelKind::Wan21T2v);
        let index = tiny.shard(Component::Transformer);
        rewrite(&index, change);
        refused(&tiny.root, &["index.json", word]);
    }

    let tiny = Tiny::new(ModelKind::Wan21T2v);
    tiny.shard(Component::Transformer);
    let shard = |n| {
        tiny.path(&format!(
            "transformer/diffusion_pytorch_model-0000{n}-of-00002.safetensors"
        ))
    };
    let (first, mut second) = (read_safetensors(&shard(1)), read_safetensors(&shard(2)));
    let (name, raw) = first.into_iter().next().unwrap();
    second.insert(name, raw);
    write_safetensors(&shard(2), &second);
    refused(&tiny.root, &["in one shard only"]);

    fs::remove_file(shard(2)).unwrap();
    refused(&tiny.root, &["missing"]);
    fs::remove_file(tiny.path("transformer/diffusion_pytorch_model.safetensors.index.json"))
        .unwrap();
    fs::copy(shard(1), shard(2)).unwrap();
    refused(&tiny.root, &["no index"]);
}

#[test]
fn links_out_of_the_checkpoint_are_refused_and_cache_snapshots_work() {
    let tiny = Tiny::new(ModelKind::Wan21T2v);
    let outside = tempfile::tempdir().unwrap();
    let moved = outside.path().join("w.safetensors");
    let path = tiny.weights(Component::Vae);
    fs::rename(&path, &moved).unwrap();
    symlink(&moved, &path).unwrap();
    refused(&tiny.root, &["leads out of the checkpoint"]);

    // The cache of the Hugging Face Hub: snapshots/<revision>/… are links into blobs/.
    let cache = outside.path().join("models--a--b");
    let snapshot = cache.join("snapshots/0123abcd");
    fs::create_dir_all(cache.join("blobs")).unwrap();
    fs::create_dir_all(cache.join("snapshots")).unwrap();
    fs::remove_file(&path).unwrap();
    fs::rename(&tiny.root, &snapshot).unwrap();
    fs::rename(&moved, cache.join("blobs/55")).unwrap();
    let path = snapshot.join("vae/diffusion_pytorch_model.safetensors");
    symlink("../../../blobs/55", &path).unwrap();
    start(&snapshot).unwrap();
    fs::remove_file(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    refused(&snapshot, &["leads out of the checkpoint"]);
}

#[test]
fn wrong_configurations_are_refused() {
    let transformer = "transformer/config.json";
    let vae = "vae/config.json";
    let text = "text_encoder/config.json";
    let scheduler = "scheduler/scheduler_config.json";
    for (file, key, value, word) in [
        (
            transformer,
            "num_layers",
            json!(3),
            "missing: transformer/blocks.2.",
        ),
        (
            transformer,
            "num_layers",
            json!(1),
            "unexpected: transformer/blocks.1.",
        ),
        (
            transformer,
            "num_layers",
            json!(1_000_000_000),
            "num_layers",
        ),
        (transformer, "num_layers", json!(-1), "bad configuration"),
        (transformer, "ffn_dim", json!(0), "ffn_dim"),
        (
            transformer,
            "ffn_dim",
            json!(128),
            "misshapen: transformer/blocks.0.ffn",
        ),
        (
            transformer,
            "attention_head_dim",
            json!(33),
            "attention_head_dim",
        ),
        (
            transformer,
            "attention_head_dim",
            json!("x"),
            "bad configuration",
        ),
        (transformer, "image_dim", json!(1280), "not supported"),
        (transformer, "in_channels", json!(99), "99 channels"),
        (
            transformer,
            "in_channels",
            json!(36),
            "Wan 2.1 image-to-video",
        ),
        (transformer, "out_channels", json!(48), "predicts 48"),
        (
            transformer,
            "_class_name",
            json!("WanVACETransformer3DModel"),
            "not supported",
        ),
        (
            transformer,
            "text_dim",
            json!(64),
            "the transformer takes 64",
        ),
        (transformer, "eps", json!(-1.0), "eps"),
        (vae, "latents_std", json!([1.0]), "latents_std"),
        (vae, "z_dim", json!(1_000_000), "z_dim"),
        (vae, "dim_mult", json!([]), "dim_mult"),
        (vae, "dim_mult", json!([1, 2, 4]), "temperal_downsample"),
        (vae, "attn_scales", json!([0.5]), "attn_scales"),
        (vae, "in_channels", json!(4), "in_channels"),
        (vae, "scale_factor_temporal", json!(8), "scale factors"),
        (text, "model_type", json!("t5"), "umt5"),
        (text, "num_heads", json!(0), "num_heads"),
        (text, "feed_forward_proj", json!("relu"), "gated-gelu"),
        (text, "relative_attention_num_buckets", json!(7), "buckets"),
        (scheduler, "flow_shift", json!(0), "flow shift"),
        (
            scheduler,
            "prediction_type",
            json!("epsilon"),
            "flow_prediction",
        ),
        (
            "model_index.json",
            "_class_name",
            json!("WanVACEPipeline"),
            "WanVACEPipeline",
        ),
        (
            "model_index.json",
            "boundary_ratio",
            json!(7),
            "boundary_ratio",
        ),
        (
            "model_index.json",
            "transformer_2",
            json!(["diffusers", "WanTransformer3DModel"]),
            "transformer_2",
        ),
    ] {
        let tiny = Tiny::new(ModelKind::Wan21T2v);
        tiny.set(file, key, value);
        refused(&tiny.root, &[word]);
    }
}

#[test]
fn unknown_keys_are_warnings() {
    let tiny = Tiny::new(ModelKind::Wan21T2v);
    tiny.set("transformer/config.json", "brand_new", json!(1));
    let checkpoint = start(&tiny.root).unwrap();
    assert!(checkpoint.warnings()[0].contains("brand_new"));
}

#[test]
fn garbage_files_are_refused() {
    let nested = format!("{{\"a\":{}", "[".repeat(200_000));
    let huge = format!("{{\"a\":\"{}\"}}", "x".repeat(2 << 20));
    for file in [
        "model_index.json",
        "transformer/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
    ] {
        let tiny = Tiny::new(ModelKind::Wan21T2v);
        for garbage in ["", "{", "[]", "\u{0}\u{1}", &nested, &huge] {
            fs::write(tiny.path(file), garbage).unwrap();
            refused(&tiny.root, &[file]);
        }
    }
    for file in [
        "transformer/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "tokenizer/tokenizer.json",
    ] {
        let tiny = Tiny::new(ModelKind::Wan21T2v);
        fs::remove_file(tiny.path(file)).unwrap();
        refused(&tiny.root, &[file.split('/').next().unwrap()]);
    }
    let empty = tempfile::tempdir().unwrap();
    refused(empty.path(), &["not a Wan checkpoint"]);
    refused(&empty.path().join("absent"), &["no such folder"]);
    let file = empty.path().join("model.safetensors");
    fs::write(&file, "x").unwrap();
    refused(&file, &["not a folder"]);
    let tiny = Tiny::new(ModelKind::Wan21T2v);
    fs::rename(
        tiny.weights(Component::Vae),
        tiny.path("vae/diffusion_pytorch_model.bin"),
    )
    .unwrap();
    refused(&tiny.root, &["only pickled weights"]);
}

#[test]
fn hostile_pickles_are_refused() {
    let tiny = Tiny::new(ModelKind::Wan21T2v);
    let folder = tempfile::tempdir().unwrap();
    to_official(&tiny.root, folder.path());
    let path = folder.path().join("Wan2.1_VAE.pth");
    let good = fs::read(&path).unwrap();
    let dict = || {
        let mut pickle = Pickle::new();
        pickle.op(b"}(").text("a");
        pickle
    };
    let storage = vec![floats(&[1.0; 6])];
    let cases: Vec<(Vec<u8>, &str)> = vec![
        // os.system("true")
        (
            Pickle::new()
                .global("os", "system")
                .text("true")
                .op(b"\x85R")
                .bytes(),
            "os.system",
        ),
        (
            Pickle::new()
                .global("builtins", "eval")
                .text("1")
                .op(b"\x85R")
                .bytes(),
            "builtins.eval",
        ),
        (Pickle::new().global("torch", "load").bytes(), "torch.load"),
        (
            dict()
                .tensor("0", "FloatStorage", &[2, 3], &[1, 2])
                .op(b"u")
                .bytes(),
            "not contiguous",
        ),
        (
            dict()
                .tensor("0", "FloatStorage", &[7], &[1])
                .op(b"u")
                .bytes(),
            "reaches past",
        ),
        (
            dict()
                .tensor("0", "LongStorage", &[3], &[1])
                .op(b"u")
                .bytes(),
            "type that weights cannot have",
        ),
        (
            dict()
                .tensor("9", "FloatStorage", &[6], &[1])
                .op(b"u")
                .bytes(),
            "data/9",
        ),
        (
            dict()
                .tensor("../0", "FloatStorage", &[6], &[1])
                .op(b"u")
                .bytes(),
            "data/../0",
        ),
        (dict().op(b"Nu").bytes(), "not a tensor"),
        (dict().int(3).op(b"u").bytes(), "not a tensor"),
        (Pickle::new().int(3).bytes(), "not a dictionary"),
        (Pickle::new().op(b"}").bytes(), "conv_in"),
        (vec![0x80, 2], "ends early"),
        (vec![0x80, 9, b'.'], "protocol 9"),
        (Pickle::new().op(b"\x8c\xffabc").bytes(), "ends early"),
        (Pickle::new().op(b"h\x07").bytes(), "never stored"),
        (Pickle::new().op(b"i").bytes(), "opcode 0x69"),
        (Pickle::new().op(b"u").bytes(), "mark"),
        (Pickle::new().op(b"0").bytes(), "opcode 0x30"),
        (Pickle::new().op(b"R").bytes(), "not there"),
        (
            Pickle::new()
                .op(&b"(".repeat(1_000_000))
                .op(&b"t".repeat(1_000_000))
                .bytes(),
            "not a dictionary",
        ),
    ];
    for (pickle, word) in cases {
        write_archive(&path, &pickle, &storage);
        refused(folder.path(), &["Wan2.1_VAE.pth", word]);
    }
    for keep in [0, 100, good.len() / 2, good.len() - 1] {
        fs::write(&path, &good[..keep]).unwrap();
        refused(folder.path(), &["Wan2.1_VAE.pth"]);
    }
    fs::write(&path, b"\x80\x02}q\x00.").unwrap();
    refused(folder.path(), &["not a PyTorch archive"]);
    fs::remove_file(&path).unwrap();
    refused(folder.path(), &["no vae is here"]);
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
