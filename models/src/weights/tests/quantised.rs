//! Single files in every quantisation, against files with the dequantised weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use half::f16;
use leoma_kernels::e4m3;
use serde_json::{Value, json};

use super::super::quant::is_fp8_layer;
use super::super::test_support::*;
use super::super::*;
use super::values;
use crate::error::{Error, Fault, Result};
use crate::wan::WanTransformer3d;
use crate::wan::transformer::ClipTimestep;

const PREFIX: &str = "model.diffusion_model.";

/// A way of storing quantised layers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Convention {
    /// `scale_weight`, `scale_input`, marker of this many elements.
    Old { marker: usize, input_scale: f32 },
    /// `weight_scale`, `comfy_quant`.
    New { format: &'static str, full: bool },
    /// `weight_scale`, settings of all layers in the metadata, names without the prefix.
    Metadata,
    /// `weight_scale` [out, 1], fp8 or int8.
    PerRow { int8: bool },
    /// No scales.
    Plain,
}

const ALL: [Convention; 11] = [
    Convention::Old {
        marker: 0,
        input_scale: 1.0,
    },
    Convention::Old {
        marker: 0,
        input_scale: 0.03,
    },
    Convention::Old {
        marker: 2,
        input_scale: 1.0,
    },
    Convention::New {
        format: "float8_e4m3fn",
        full: false,
    },
    Convention::New {
        format: "float8_e4m3fn",
        full: true,
    },
    Convention::New {
        format: "float8_e5m2",
        full: false,
    },
    Convention::New {
        format: "int8_tensorwise",
        full: false,
    },
    Convention::Metadata,
    Convention::PerRow { int8: false },
    Convention::PerRow { int8: true },
    Convention::Plain,
];

/// Codes and their values (without scale), by formulas that share nothing with the loader.
fn encode(kind: &str, value: f32) -> (u8, f32) {
    match kind {
        "I8" => {
            let code = value.round().clamp(-127.0, 127.0);
            (code as i8 as u8, code)
        }
        "F8_E5M2" => {
            let code = (f16::from_f32(value).to_bits() >> 8) as u8;
            (code, f16::from_bits(u16::from(code) << 8).to_f32())
        }
        _ => {
            let code = e4m3::encode(value);
            (code, e4m3::decode(code))
        }
    }
}

/// A transformer file in `convention`, and its twin in f32: names, prefix and everything else the same.
fn quantise(
    tensors: &Tensors,
    convention: Convention,
) -> (Tensors, Vec<(&'static str, Value)>, Tensors) {
    let (mut file, mut twin) = (Tensors::new(), Tensors::new());
    let mut metadata = serde_json::Map::new();
    for (name, raw) in tensors {
        let official = format!(
            "{PREFIX}{}",
            names::to_official(Component::Transformer, name)
        );
        if !is_fp8_layer(name) {
            file.insert(official.clone(), raw.clone());
            twin.insert(official, raw.clone());
            continue;
        }
        let (kind, largest) = match convention {
            Convention::New {
                format: "int8_tensorwise",
                ..
            }
            | Convention::PerRow { int8: true } => ("I8", 127.0),
            Convention::New {
                format: "float8_e5m2",
                ..
            } => ("F8_E5M2", 57344.0),
            _ => ("F8_E4M3", 448.0),
        };
        let (floats, rows) = (raw.floats(), raw.shape[0]);
        let groups = if matches!(convention, Convention::PerRow { .. }) {
            rows
        } else {
            1
        };
        let width = floats.len() / groups;
        let scales: Vec<f32> = floats
            .chunks(width)
            .map(|row| match convention {
                Convention::Plain => 1.0,
                _ => row.iter().fold(0f32, |max, v| max.max(v.abs())) / largest,
            })
            .collect();
        let (mut codes, mut weights) = (Vec::new(), Vec::new());
        for (i, value) in floats.iter().enumerate() {
            let scale = scales[i / width];
            let (code, decoded) = encode(kind, value / scale);
            codes.push(code);
            weights.push(decoded * scale);
        }
        file.insert(official.clone(), Raw::bytes(kind, &raw.shape, &codes));
        twin.insert(official.clone(), Raw::f32(&raw.shape, &weights));
        let layer = official.strip_suffix(".weight").unwrap().to_owned();
        let scale = Raw::f32(
            if groups > 1 { vec![rows, 1] } else { vec![] }.as_slice(),
            &scales,
        );
        let settings = |format: &str, full: bool| {
            let mut settings = json!({ "format": format });
            if full {
                settings["full_precision_matrix_mult"] = json!(true);
            }
            settings
        };
        match convention {
            Convention::Old { input_scale, .. } => {
                file.insert(format!("{layer}.scale_weight"), scale);
                file.insert(
                    format!("{layer}.scale_input"),
                    Raw::f32(&[], &[input_scale]),
                );
            }
            Convention::New { format, full } => {
                let text = settings(format, full).to_string();
                file.insert(format!("{layer}.weight_scale"), scale);
                file.insert(
                    format!("{layer}.comfy_quant"),
                    Raw::bytes("U8", &[text.len()], text.as_bytes()),
                );
            }
            Convention::Metadata => {
                file.insert(format!("{layer}.weight_scale"), scale);
                let name = layer.strip_prefix(PREFIX).unwrap().to_owned();
                metadata.insert(name, settings("float8_e4m3fn", false));
            }
            Convention::PerRow { .. } => {
                file.insert(format!("{layer}.weight_scale"), scale);
            }
            Convention::Plain => {}
        }
    }
    if let Convention::Old { marker, .. } = convention {
        file.insert(
            format!("{PREFIX}scaled_fp8"),
            Raw::bytes("F8_E4M3", &[marker], &vec![0; marker]),
        );
    }
    let metadata = match convention {
        Convention::Metadata => vec![("_quantization_metadata", json!({"layers": metadata}))],
        _ => Vec::new(),
    };
    (file, metadata, twin)
}

/// A tiny model, and files beside it.
struct Files {
    tiny: Tiny,
    folder: tempfile::TempDir,
}

impl Files {
    fn new(kind: ModelKind) -> Self {
        Self {
            tiny: Tiny::new(kind),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn transformer(&self) -> Tensors {
        read_safetensors(&self.tiny.weights(Component::Transformer))
    }

    fn write(&self, name: &str, tensors: &Tensors, metadata: &[(&str, Value)]) -> PathBuf {
        let path = self.folder.path().join(name);
        write_with_metadata(&path, tensors, metadata);
        path
    }

    fn open(&self, component: Component, path: &Path) -> Result<Checkpoint> {
        let checkpoint = Checkpoint::open_files(&ModelFiles {
            replaced: [(component, path.to_owned())].into(),
            ..ModelFiles::new(&self.tiny.root)
        })?;
        validate(&checkpoint)?;
        Ok(checkpoint)
    }
}

/// One call of an expert on fixed inputs.
fn velocity(checkpoint: &Checkpoint, component: Component, dtype: DType, fp8: bool) -> Vec<f32> {
    let config = checkpoint.transformer_config(component);
    let source = checkpoint.source(component).unwrap();
    let vb = VarBuilder::new(source, dtype, &Device::Cpu).with_fp8(fp8);
    let model = WanTransformer3d::new(config, &vb).unwrap();
    let wave = |shape: &[usize], step: f32| {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| (i as f32 * step).sin()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let text = wave(&[5, config.text_dim], 0.37);
    let context = model.encode_context(&text).unwrap();
    let latents = wave(&[config.in_channels, 2, 4, 6], 0.71);
    let timestep = ClipTimestep {
        t: 713.0,
        first_frame: None,
    };
    values(
        &model
            .forward(&latents, timestep, &context, &|| false)
            .unwrap(),
    )
}

#[test]
fn every_convention_equals_its_dequantised_twin() {
    let files = Files::new(ModelKind::Ti2v5b);
    for convention in ALL {
        let (file, metadata, twin) = quantise(&files.transformer(), convention);
        let a = files.open(
            Component::Transformer,
            &files.write("a.safetensors", &file, &metadata),
        );
        let a = a.unwrap_or_else(|error| panic!("{convention:?}: {error}"));
        let b = files
            .open(
                Component::Transformer,
                &files.write("b.safetensors", &twin, &[]),
            )
            .unwrap();
        let (x, y) = (
            a.source(Component::Transformer).unwrap(),
            b.source(Component::Transformer).unwrap(),
        );
        assert_eq!(x.names(), y.names(), "{convention:?}");
        for name in x.names() {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let load = |source: &Arc<dyn TensorSource>| {
                    source.load(&name, dtype, &Device::Cpu).unwrap()
                };
                assert_eq!(
                    values(&load(&x)),
                    values(&load(&y)),
                    "{convention:?} {name} {dtype:?}"
                );
            }
        }
        for dtype in [DType::F32, DType::BF16] {
            let call = |checkpoint: &Checkpoint| {
                velocity(checkpoint, Component::Transformer, dtype, false)
            };
            assert_eq!(call(&a), call(&b), "{convention:?} {dtype:?}");
        }
    }
}

#[test]
fn in_fp8_the_stored_codes_are_used_as_they_are() {
    let files = Files::new(ModelKind::Ti2v5b);
    let layer = "blocks.0.attn1.to_q";
    let stored = format!("{PREFIX}blocks.0.self_attn.q.weight");
    for convention in ALL {
        let (file, metadata, twin) = quantise(&files.transformer(), convention);
        let checkpoint = files
            .open(
                Component::Transformer,
                &files.write("a.safetensors", &file, &metadata),
            )
            .unwrap();
        let source = checkpoint.source(Component::Transformer).unwrap();
        let weight = source
            .load_fp8(&format!("{layer}.weight"), &Device::Cpu)
            .unwrap();
        let codes = weight
            .codes()
            .flatten_all()
            .unwrap()
            .to_vec1::<u8>()
            .unwrap();
        let raw = &file[&stored];
        if raw.dtype == "F8_E4M3" {
            assert_eq!(codes, raw.bytes, "{convention:?}");
            assert_eq!(
                values(&weight.dequantize(DType::F32).unwrap()),
                twin[&stored].floats()
            );
        } else {
            // Rounded again, from the dequantised values.
            let error = values(&weight.dequantize(DType::F32).unwrap())
                .iter()
                .zip(twin[&stored].floats())
                .fold(0f32, |max, (a, b)| {
                    max.max((a - b).abs() / b.abs().max(1e-3))
                });
            assert!(error > 0.0 && error < 0.07, "{convention:?}: {error}");
        }
        let full = matches!(
            convention,
            Convention::Old { marker: 2, .. } | Convention::New { full: true, .. }
        );
        assert_eq!(weight.is_weight_only(), full, "{convention:?}");
        let input = match convention {
            Convention::Old { input_scale, .. } if input_scale != 1.0 => Some(input_scale),
            _ => None,
        };
        assert_eq!(weight.input_scale(), input, "{convention:?}");
    }
}

#[test]
fn the_digest_tells_the_scales() {
    let files = Files::new(ModelKind::Ti2v5b);
    let digest = |change: &dyn Fn(&mut Tensors), convention| {
        let (mut file, metadata, _) = quantise(&files.transformer(), convention);
        change(&mut file);
        let path = files.write("a.safetensors", &file, &metadata);
        let checkpoint = files.open(Component::Transformer, &path).unwrap();
        let source = checkpoint.source(Component::Transformer).unwrap();
        for name in source.names() {
            source.load(&name, DType::BF16, &Device::Cpu).unwrap();
        }
        checkpoint.digest()
    };
    let same = digest(&|_| {}, ALL[0]);
    // Another spelling of the same weights and scales.
    assert_eq!(same, digest(&|_| {}, ALL[3]));
    assert_ne!(
        same,
        digest(
            &|file| {
                let scale = file
                    .get_mut(&format!("{PREFIX}blocks.0.ffn.0.scale_weight"))
                    .unwrap();
                *scale = Raw::f32(&[], &[scale.floats()[0] * 2.0]);
            },
            ALL[0]
        )
    );
}

#[test]
fn experts_text_encoder_and_vae_are_replaced_one_by_one() {
    let files = Files::new(ModelKind::I2vA14b);
    // Each expert's file may come without the folder's own weights.
    let (high, _, high_twin) = quantise(&files.transformer(), ALL[0]);
    let low = read_safetensors(&files.tiny.weights(Component::Transformer2));
    let (low, _, low_twin) = quantise(&low, Convention::PerRow { int8: false });
    for component in [Component::Transformer, Component::Transformer2] {
        std::fs::remove_file(files.tiny.weights(component)).unwrap();
    }
    let open = |high: &Path, low: &Path| {
        Checkpoint::open_files(&ModelFiles {
            replaced: [
                (Component::Transformer, high.to_owned()),
                (Component::Transformer2, low.to_owned()),
            ]
            .into(),
            ..ModelFiles::new(&files.tiny.root)
        })
        .unwrap()
    };
    let a = open(
        &files.write("h.safetensors", &high, &[]),
        &files.write("l.safetensors", &low, &[]),
    );
    let b = open(
        &files.write("ht.safetensors", &high_twin, &[]),
        &files.write("lt.safetensors", &low_twin, &[]),
    );
    assert_eq!(a.kind(), ModelKind::I2vA14b);
    let call = |checkpoint, component| velocity(checkpoint, component, DType::F32, false);
    let (first, second) = (
        call(&a, Component::Transformer),
        call(&a, Component::Transformer2),
    );
    assert_eq!(first, call(&b, Component::Transformer));
    assert_eq!(second, call(&b, Component::Transformer2));
    assert_ne!(first, second);

    // ComfyUI's text encoder: names of transformers, old fp8 form, a tokenizer among the tensors.
    let files = Files::new(ModelKind::T2vA14b);
    let mut text = read_safetensors(&files.tiny.weights(Component::TextEncoder));
    let mut twin = text.clone();
    for (name, raw) in &text.clone() {
        let Some(layer) = name
            .strip_suffix(".weight")
            .filter(|name| name.contains(".SelfAttention.q"))
        else {
            continue;
        };
        let floats = raw.floats();
        let codes: Vec<u8> = floats.iter().map(|v| e4m3::encode(v * 64.0)).collect();
        let back: Vec<f32> = codes
            .iter()
            .map(|&code| e4m3::decode(code) / 64.0)
            .collect();
        text.insert(name.clone(), Raw::bytes("F8_E4M3", &raw.shape, &codes));
        text.insert(
            format!("{layer}.scale_weight"),
            Raw::f32(&[], &[1.0 / 64.0]),
        );
        twin.insert(name.clone(), Raw::f32(&raw.shape, &back));
    }
    text.insert("scaled_fp8".into(), Raw::f32(&[0], &[]));
    text.insert(
        "spiece_model".into(),
        Raw::bytes("U8", &[7], b"\x0a\x05model"),
    );
    let a = files
        .open(
            Component::TextEncoder,
            &files.write("t.safetensors", &text, &[]),
        )
        .unwrap();
    assert!(
        a.warnings()
            .iter()
            .any(|warning| warning.contains("spiece_model"))
    );
    let source = a.source(Component::TextEncoder).unwrap();
    assert_eq!(source.names().len(), twin.len());
    for name in source.names() {
        let loaded = source.load(&name, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(values(&loaded), twin[&name].floats(), "{name}");
    }

    // A VAE in 16 bits under official names.
    for kind in [ModelKind::T2vA14b, ModelKind::Ti2v5b] {
        let files = Files::new(kind);
        let vae = read_safetensors(&files.tiny.weights(Component::Vae));
        let narrow = vae
            .iter()
            .map(|(name, raw)| {
                let name = names::to_official_vae(kind == ModelKind::Ti2v5b, name);
                let bytes: Vec<u8> = raw
                    .floats()
                    .iter()
                    .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                    .collect();
                (name, Raw::bytes("F16", &raw.shape, &bytes))
            })
            .collect();
        let a = files
            .open(
                Component::Vae,
                &files.write("vae.safetensors", &narrow, &[]),
            )
            .unwrap();
        let source = a.source(Component::Vae).unwrap();
        for (name, raw) in &vae {
            let loaded = source.load(name, DType::F32, &Device::Cpu).unwrap();
            let expected: Vec<f32> = raw
                .floats()
                .iter()
                .map(|v| f16::from_f32(*v).to_f32())
                .collect();
            assert_eq!(values(&loaded), expected, "{name}");
        }
    }
}

#[test]
fn files_that_are_not_understood_are_refused_by_name() {
    let files = Files::new(ModelKind::Ti2v5b);
    let q = |rest: &str| format!("{PREFIX}blocks.0.self_attn.q.{rest}");
    let settings = |text: &str| Raw::bytes("U8", &[text.len()], text.as_bytes());
    let new = Convention::New {
        format: "float8_e4m3fn",
        full: false,
    };
    type Change<'a> = Box<dyn Fn(&mut Tensors) + 'a>;
    let put = |name: String, raw: Raw| -> Change<'_> {
        Box::new(move |file| drop(file.insert(name.clone(), raw.clone())))
    };
    let cases: Vec<(Convention, Change<'_>, Vec<&str>)> = vec![
        (
            new,
            put(
                q("comfy_quant"),
                settings(r#"{"format": "int8_tensorwise", "convrot": true}"#),
            ),
            vec!["blocks.0.self_attn.q", "comfy_quant", "`convrot`"],
        ),
        (
            new,
            put(q("comfy_quant"), settings(r#"{"format": "nvfp4"}"#)),
            vec!["`nvfp4`", "self_attn.q"],
        ),
        (
            new,
            put(q("comfy_quant"), settings(r#"{"format": "float8_e5m2"}"#)),
            vec!["f8_e4m3", "f8_e5m2"],
        ),
        (
            new,
            put(q("comfy_quant"), settings("{}")),
            vec!["no `format`"],
        ),
        (new, put(q("comfy_quant"), settings("{")), vec!["bad JSON"]),
        (
            new,
            put(q("comfy_quant"), Raw::f32(&[1], &[0.0])),
            vec!["comfy_quant", "f32"],
        ),
        (
            new,
            put(q("weight_scale_2"), Raw::f32(&[], &[1.0])),
            vec!["weight_scale_2", "nvfp4"],
        ),
        (
            new,
            put(q("scale_weight"), Raw::f32(&[], &[1.0])),
            vec!["scale_weight", "weight_scale", "both"],
        ),
        (
            new,
            put(q("weight_scale"), Raw::f32(&[3], &[1.0; 3])),
            vec!["weight_scale", "[3]"],
        ),
        (
            new,
            put(q("weight_scale"), Raw::bytes("F8_E4M3", &[1], &[56])),
            vec!["weight_scale", "block scales"],
        ),
        (
            new,
            put(q("input_scale"), Raw::f32(&[2], &[1.0; 2])),
            vec!["input_scale", "[2]"],
        ),
        (
            new,
            put(q("weight"), Raw::bytes("U8", &[2], &[0; 2])),
            vec!["self_attn.q.weight", "4 bits"],
        ),
        (
            Convention::PerRow { int8: true },
            Box::new(|file| drop(file.remove(&q("weight_scale")))),
            vec!["self_attn.q.weight", "int8 without a scale"],
        ),
        (
            Convention::Plain,
            put(
                format!("{PREFIX}patch_embedding.scale_weight"),
                Raw::f32(&[], &[1.0]),
            ),
            vec!["patch_embedding.scale_weight", "needs none"],
        ),
        (
            Convention::Plain,
            put(
                format!("{PREFIX}blocks.9.self_attn.q.scale_weight"),
                Raw::f32(&[], &[1.0]),
            ),
            vec!["blocks.9.self_attn.q.weight", "missing"],
        ),
        (
            Convention::Plain,
            put(format!("{PREFIX}scaled_fp8"), Raw::bytes("U8", &[0], &[])),
            vec!["scaled_fp8"],
        ),
        (
            Convention::Plain,
            put(
                "lora_unet_blocks_0_ffn_0.lora_up.weight".into(),
                Raw::f32(&[1], &[0.0]),
            ),
            vec!["is a LoRA", "--lora"],
        ),
        (
            Convention::Plain,
            Box::new(|file| file.retain(|name, _| !name.contains("patch_embedding"))),
            vec!["no transformer"],
        ),
        (
            Convention::Plain,
            Box::new(|file| file.retain(|name, _| !name.contains("blocks.1."))),
            vec!["1 blocks", "asks for", "2 blocks"],
        ),
    ];
    for (convention, change, words) in cases {
        let (mut file, metadata, _) = quantise(&files.transformer(), convention);
        change(&mut file);
        let path = files.write("bad.safetensors", &file, &metadata);
        let error = files.open(Component::Transformer, &path).err();
        let text = error
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_else(|| panic!("accepted: {words:?}"));
        assert!(matches!(error, Some(Error::Artifact { .. })), "{text}");
        for word in words.iter().chain(&["bad.safetensors"]) {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
    }

    for (metadata, word) in [
        (
            json!({"layers": {"blocks.7.ffn.0": {"format": "float8_e4m3fn"}}}),
            "blocks.7.ffn.0",
        ),
        (
            json!({"layers": {"blocks.0.ffn.0": {"format": "mxfp8"}}}),
            "mxfp8",
        ),
        (json!({}), "no `layers`"),
    ] {
        let (file, ..) = quantise(&files.transformer(), Convention::Plain);
        let path = files.write(
            "bad.safetensors",
            &file,
            &[("_quantization_metadata", metadata)],
        );
        let text = files
            .open(Component::Transformer, &path)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains(word) && text.contains("_quantization_metadata"),
            "{text}"
        );
    }

    // Values only show when they are read.
    let (mut file, ..) = quantise(&files.transformer(), Convention::Plain);
    file.get_mut(&q("weight")).unwrap().bytes[3] = 0x7f;
    let path = files.write("nan.safetensors", &file, &[]);
    let source = files
        .open(Component::Transformer, &path)
        .unwrap()
        .source(Component::Transformer)
        .unwrap();
    let name = "blocks.0.attn1.to_q.weight";
    for error in [
        source
            .load(name, DType::BF16, &Device::Cpu)
            .map(drop)
            .unwrap_err(),
        source.load_fp8(name, &Device::Cpu).map(drop).unwrap_err(),
    ] {
        assert!(
            error.to_string().contains("NaN") && error.to_string().contains(name),
            "{error}"
        );
    }
}

#[test]
fn files_without_a_place_are_refused() {
    let files = Files::new(ModelKind::Ti2v5b);
    let good = files.tiny.weights(Component::Transformer);
    let error = files.open(Component::Transformer2, &good).unwrap_err();
    assert_eq!(error.fault(), Fault::Caller);
    assert!(error.to_string().contains("one expert"), "{error}");

    let other = Tiny::new(ModelKind::T2vA14b);
    let error = files
        .open(
            Component::Transformer,
            &other.weights(Component::Transformer),
        )
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("16 input channels") && error.contains("48 input channels"),
        "{error}"
    );

    let gguf = files.folder.path().join("a.gguf");
    std::fs::write(&gguf, b"GGUF").unwrap();
    let missing = files.folder.path().join("missing.safetensors");
    for (path, word) in [
        (gguf.as_path(), "GGUF"),
        (missing.as_path(), "no such file"),
        (files.folder.path(), "folder"),
    ] {
        let error = files.open(Component::Vae, path).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
