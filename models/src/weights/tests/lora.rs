//! LoRA files of every style, against weights merged in f64.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device};
use leoma_kernels::{Fp8Scale, Fp8Weight};
use serde_json::{Value, json};

use super::super::test_support::*;
use super::super::*;
use super::values;
use crate::error::{Error, Fault, Result};

/// Layers that the files change: diffusers name, rank.
const LAYERS: [(&str, usize); 4] = [
    ("blocks.0.attn1.to_q", 4),
    ("blocks.1.attn2.to_out.0", 2),
    ("blocks.0.ffn.net.0.proj", 3),
    ("blocks.1.ffn.net.2", 1),
];

fn wave(n: usize, seed: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 7 + seed * 13) as f32 * 0.113).sin() * 0.1)
        .collect()
}

/// A layer's matrices: `[r, in]` and `[out, r]`.
struct Pair {
    down: Raw,
    up: Raw,
}

/// A tiny model with LoRA files beside it.
struct Model {
    tiny: Tiny,
    folder: tempfile::TempDir,
}

impl Model {
    fn new(kind: ModelKind) -> Self {
        Self {
            tiny: Tiny::new(kind),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn base(&self, component: Component) -> Tensors {
        read_safetensors(&self.tiny.weights(component))
    }

    fn pair(&self, layer: &str, rank: usize) -> Pair {
        let weight = self
            .base(Component::Transformer)
            .remove(&format!("{layer}.weight"))
            .unwrap();
        let (rows, columns) = (weight.shape[0], weight.shape[1..].iter().product::<usize>());
        Pair {
            down: Raw::f32(&[rank, columns], &wave(rank * columns, layer.len())),
            up: Raw::f32(&[rows, rank], &wave(rows * rank, rank)),
        }
    }

    fn write(&self, name: &str, tensors: &Tensors, metadata: &[(&str, Value)]) -> PathBuf {
        let path = self.folder.path().join(name);
        write_with_metadata(&path, tensors, metadata);
        path
    }

    fn open(&self, loras: &[&str]) -> Result<Checkpoint> {
        let folder = self.folder.path().display();
        let loras = loras.iter().map(|lora| format!("{folder}/{lora}").parse());
        let files = ModelFiles {
            loras: loras.collect::<Result<_>>()?,
            ..ModelFiles::new(&self.tiny.root)
        };
        let checkpoint = Checkpoint::open_files(&files)?;
        validate(&checkpoint)?;
        Ok(checkpoint)
    }

    /// Every tensor of an expert must be the base's plus the changes, in f32 and rounded once in bf16.
    fn check(
        &self,
        checkpoint: &Checkpoint,
        component: Component,
        changes: &BTreeMap<String, Vec<f64>>,
        what: &str,
    ) {
        let source = checkpoint.source(component).unwrap();
        let base = self.base(component);
        assert!(changes.keys().all(|name| base.contains_key(name)), "{what}");
        for (name, raw) in &base {
            let merged = source.load(name, DType::F32, &Device::Cpu).unwrap();
            assert_eq!(merged.dims(), raw.shape, "{what} {name}");
            let rounded = source.load(name, DType::BF16, &Device::Cpu).unwrap();
            assert_eq!(
                values(&rounded),
                values(&merged.to_dtype(DType::BF16).unwrap()),
                "{what} {name}"
            );
            let (merged, floats) = (values(&merged), raw.floats());
            match changes.get(name) {
                None => assert_eq!(merged, floats, "{what} {name}"),
                Some(change) => {
                    let mut moved = 0.0f64;
                    for ((merged, base), change) in merged.iter().zip(&floats).zip(change) {
                        let want = f64::from(*base) + change;
                        assert!(
                            (f64::from(*merged) - want).abs() < 1e-6 * (1.0 + want.abs()),
                            "{what} {name}"
                        );
                        moved = moved.max(change.abs());
                    }
                    assert!(moved > 1e-4, "{what} {name}: the test changes nothing");
                }
            }
        }
    }
}

/// `factor * (up @ down)` in f64, row-major.
fn product(pair: &Pair, factor: f64) -> Vec<f64> {
    let (rank, columns) = (
        pair.down.shape[0],
        pair.down.shape[1..].iter().product::<usize>(),
    );
    let (down, up) = (pair.down.floats(), pair.up.floats());
    let mut out = Vec::new();
    for row in up.chunks(rank) {
        for column in 0..columns {
            let sum: f64 = (0..rank)
                .map(|k| f64::from(row[k]) * f64::from(down[k * columns + column]))
                .sum();
            out.push(factor * sum);
        }
    }
    out
}

fn official(layer: &str) -> String {
    let name = names::to_official(Component::Transformer, &format!("{layer}.weight"));
    name.strip_suffix(".weight").unwrap().to_owned()
}

/// Layer name, ending of down and up: as a style of file writes them.
type Style = (&'static str, fn(&str) -> String, &'static str, &'static str);

const STYLES: [Style; 11] = [
    (
        "diffusers",
        |l| format!("transformer.{l}"),
        ".lora_A.weight",
        ".lora_B.weight",
    ),
    (
        "peft",
        |l| format!("base_model.model.{l}"),
        ".lora_A.default.weight",
        ".lora_B.default.weight",
    ),
    (
        "original a/b",
        |l| format!("diffusion_model.{}", official(l)),
        ".lora_A.weight",
        ".lora_B.weight",
    ),
    (
        "original down/up",
        |l| format!("diffusion_model.{}", official(l)),
        ".lora_down.weight",
        ".lora_up.weight",
    ),
    (
        "comfy prefix",
        |l| format!("model.diffusion_model.{}", official(l)),
        ".lora_down.weight",
        ".lora_up.weight",
    ),
    (
        "lightning",
        official,
        ".lora_down.weight",
        ".lora_up.weight",
    ),
    (
        "kohya",
        |l| format!("lora_unet_{}", official(l).replace('.', "_")),
        ".lora_down.weight",
        ".lora_up.weight",
    ),
    (
        "processor",
        |l| format!("transformer.{l}"),
        "_lora.down.weight",
        "_lora.up.weight",
    ),
    (
        "lora.down",
        |l| format!("diffusion_model.{}", official(l)),
        ".lora.down.weight",
        ".lora.up.weight",
    ),
    (
        "linear layer",
        |l| format!("transformer.{l}"),
        ".lora_linear_layer.down.weight",
        ".lora_linear_layer.up.weight",
    ),
    ("bare", |l| l.to_owned(), ".lora_A", ".lora_B"),
];

#[test]
fn every_style_with_and_without_alpha() {
    let model = Model::new(ModelKind::Ti2v5b);
    for (style, name, down, up) in STYLES {
        for (alpha, strength) in [(None, ""), (Some(2.0f32), ""), (Some(0.5), "=-0.7")] {
            let (mut file, mut changes) = (Tensors::new(), BTreeMap::new());
            for (layer, rank) in LAYERS {
                let pair = model.pair(layer, rank);
                let factor = alpha.map_or(1.0, |alpha| f64::from(alpha) / rank as f64)
                    * if strength.is_empty() { 1.0 } else { -0.7 };
                changes.insert(format!("{layer}.weight"), product(&pair, factor));
                let module = name(layer);
                file.insert(format!("{module}{down}"), pair.down);
                file.insert(format!("{module}{up}"), pair.up);
                if let Some(alpha) = alpha {
                    file.insert(format!("{module}.alpha"), Raw::f32(&[], &[alpha]));
                }
            }
            model.write("a.safetensors", &file, &[]);
            let checkpoint = model.open(&[&format!("a.safetensors{strength}")]);
            let checkpoint = checkpoint.unwrap_or_else(|error| panic!("{style}: {error}"));
            model.check(&checkpoint, Component::Transformer, &changes, style);
            let report = &checkpoint.loras()[0];
            assert_eq!(
                (report.changed, report.ignored),
                (LAYERS.len(), 0),
                "{style}"
            );
            assert_eq!(report.experts, [Component::Transformer]);
        }
    }
}

#[test]
fn alpha_of_diffusers_metadata() {
    let model = Model::new(ModelKind::Ti2v5b);
    let (mut file, mut changes) = (Tensors::new(), BTreeMap::new());
    for (layer, rank) in LAYERS {
        let pair = model.pair(layer, rank);
        let alpha = match layer {
            "blocks.0.attn1.to_q" => 3.0,
            "blocks.1.ffn.net.2" => 5.0,
            _ => 8.0,
        };
        changes.insert(
            format!("{layer}.weight"),
            product(&pair, alpha / rank as f64),
        );
        file.insert(format!("transformer.{layer}.lora_A.weight"), pair.down);
        file.insert(format!("transformer.{layer}.lora_B.weight"), pair.up);
    }
    let metadata = json!({
        "transformer.r": 4, "transformer.lora_alpha": 8, "transformer.rank_pattern": {"ffn.net.2": 1},
        "transformer.alpha_pattern": {"to_q": 3, "blocks.1.ffn.net.2": 5},
    });
    model.write(
        "a.safetensors",
        &file,
        &[("lora_adapter_metadata", metadata.clone())],
    );
    let checkpoint = model.open(&["a.safetensors"]).unwrap();
    model.check(&checkpoint, Component::Transformer, &changes, "metadata");

    // Rank-stabilised: alpha over the root of the rank.
    let mut stabilised = metadata.clone();
    stabilised["transformer.use_rslora"] = json!(true);
    for (layer, rank) in LAYERS {
        let change = changes.get_mut(&format!("{layer}.weight")).unwrap();
        for v in change.iter_mut() {
            *v *= (rank as f64).sqrt();
        }
    }
    model.write(
        "a.safetensors",
        &file,
        &[("lora_adapter_metadata", stabilised)],
    );
    model.check(
        &model.open(&["a.safetensors"]).unwrap(),
        Component::Transformer,
        &changes,
        "rslora",
    );

    for (key, value, word) in [
        ("transformer.use_dora", json!(true), "DoRA"),
        (
            "transformer.alpha_pattern",
            json!({"blocks\\.(0|1)": 2}),
            "blocks",
        ),
    ] {
        let mut wrong = metadata.clone();
        wrong[key] = value;
        model.write("a.safetensors", &file, &[("lora_adapter_metadata", wrong)]);
        let error = model.open(&["a.safetensors"]).unwrap_err().to_string();
        assert!(
            error.contains(word) && error.contains("lora_adapter_metadata"),
            "{error}"
        );
    }
}

#[test]
fn differences_biases_modulation_and_convolutions() {
    let model = Model::new(ModelKind::Ti2v5b);
    let base = model.base(Component::Transformer);
    let (mut file, mut changes) = (Tensors::new(), BTreeMap::new());
    let mut add = |file: &mut Tensors, key: &str, target: &str, scale: f64| {
        let raw = &base[target];
        let change = wave(raw.bytes.len() / 4, key.len());
        changes.insert(
            target.to_owned(),
            change.iter().map(|v| f64::from(*v) * scale).collect(),
        );
        file.insert(key.to_owned(), Raw::f32(&raw.shape, &change));
    };
    add(
        &mut file,
        "diffusion_model.blocks.0.self_attn.k.diff",
        "blocks.0.attn1.to_k.weight",
        0.5,
    );
    add(
        &mut file,
        "diffusion_model.blocks.0.self_attn.k.diff_b",
        "blocks.0.attn1.to_k.bias",
        0.5,
    );
    add(
        &mut file,
        "diffusion_model.blocks.1.norm3.diff",
        "blocks.1.norm2.weight",
        0.5,
    );
    add(
        &mut file,
        "diffusion_model.blocks.1.diff_m",
        "blocks.1.scale_shift_table",
        0.5,
    );
    add(
        &mut file,
        "diffusion_model.head.diff_m",
        "scale_shift_table",
        0.5,
    );
    // Of a LoRA on a biased layer: alpha counts for its bias too.
    add(
        &mut file,
        "diffusion_model.blocks.1.ffn.0.lora_B.bias",
        "blocks.1.ffn.net.0.proj.bias",
        0.5 * 3.0 / 2.0,
    );
    let ffn = model.pair("blocks.1.ffn.net.0.proj", 2);
    changes.insert(
        "blocks.1.ffn.net.0.proj.weight".into(),
        product(&ffn, 0.5 * 3.0 / 2.0),
    );
    file.insert(
        "diffusion_model.blocks.1.ffn.0.lora_A.weight".into(),
        ffn.down,
    );
    file.insert(
        "diffusion_model.blocks.1.ffn.0.lora_B.weight".into(),
        ffn.up,
    );
    file.insert(
        "diffusion_model.blocks.1.ffn.0.alpha".into(),
        Raw::f32(&[1], &[3.0]),
    );
    // The patch embedding is a convolution.
    let mut patch = model.pair("patch_embedding", 2);
    changes.insert("patch_embedding.weight".into(), product(&patch, 0.5));
    patch.down.shape = [vec![2], base["patch_embedding.weight"].shape[1..].to_vec()].concat();
    patch.up.shape.extend([1, 1, 1]);
    file.insert(
        "diffusion_model.patch_embedding.lora_down.weight".into(),
        patch.down,
    );
    file.insert(
        "diffusion_model.patch_embedding.lora_up.weight".into(),
        patch.up,
    );
    // A norm without parameters, all zero: dropped without a word.
    file.insert(
        "diffusion_model.blocks.0.norm1.diff".into(),
        Raw::f32(&[8], &[0.0; 8]),
    );
    model.write("a.safetensors", &file, &[]);
    let checkpoint = model.open(&["a.safetensors=0.5"]).unwrap();
    model.check(&checkpoint, Component::Transformer, &changes, "differences");
    assert_eq!(checkpoint.loras()[0].ignored, 0);
    assert!(
        checkpoint
            .warnings()
            .iter()
            .all(|warning| !warning.contains("ignored")),
        "{:?}",
        checkpoint.warnings()
    );

    // What belongs to nothing is counted and named.
    file.insert(
        "diffusion_model.blocks.0.norm1.diff".into(),
        Raw::f32(&[8], &[1.0; 8]),
    );
    file.insert(
        "lora_te1_text_model.lora_up.weight".into(),
        Raw::f32(&[1], &[1.0]),
    );
    file.insert("something_else".into(), Raw::f32(&[1], &[1.0]));
    model.write("a.safetensors", &file, &[]);
    let checkpoint = model.open(&["a.safetensors=0.5"]).unwrap();
    model.check(&checkpoint, Component::Transformer, &changes, "unknown");
    assert_eq!(checkpoint.loras()[0].ignored, 3);
    let warning = checkpoint
        .warnings()
        .iter()
        .find(|warning| warning.contains("ignored"))
        .unwrap();
    assert!(
        warning.contains("3 of") && warning.contains("something_else"),
        "{warning}"
    );
}

#[test]
fn several_files_add_up_and_show_in_the_digest() {
    let model = Model::new(ModelKind::Ti2v5b);
    let mut sum = vec![0.0; 0];
    for (name, rank, strength) in [("a", 2, 1.0), ("b", 3, 0.25)] {
        let layer = "blocks.0.attn2.to_v";
        let pair = model.pair(layer, rank);
        let change = product(&pair, strength);
        sum.resize(change.len(), 0.0);
        sum.iter_mut()
            .zip(&change)
            .for_each(|(sum, change)| *sum += change);
        let file = [
            (format!("{layer}.lora_A.weight"), pair.down),
            (format!("{layer}.lora_B.weight"), pair.up),
        ];
        model.write(&format!("{name}.safetensors"), &file.into(), &[]);
    }
    let both = model
        .open(&["a.safetensors", "b.safetensors=0.25"])
        .unwrap();
    let changes = [("blocks.0.attn2.to_v.weight".to_owned(), sum)].into();
    model.check(&both, Component::Transformer, &changes, "sum");
    let hashes: Vec<_> = both
        .loras()
        .iter()
        .map(|lora| lora.sha256.clone())
        .collect();
    assert!(hashes[0] != hashes[1] && hashes.iter().all(|hash| hash.len() == 64));
    assert_eq!(both.loras()[1].strength, 0.25);

    let digest = |loras: &[&str]| {
        let checkpoint = model.open(loras).unwrap();
        let source = checkpoint.source(Component::Transformer).unwrap();
        for name in source.names() {
            source.load(&name, DType::F32, &Device::Cpu).unwrap();
        }
        checkpoint.digest()
    };
    let digests = [
        digest(&[]),
        digest(&["a.safetensors"]),
        digest(&["a.safetensors=0.5"]),
        digest(&["a.safetensors", "b.safetensors"]),
    ];
    assert_eq!(digests[1], digest(&["a.safetensors=1"]));
    for (i, a) in digests.iter().enumerate() {
        assert!(digests[i + 1..].iter().all(|b| a != b));
    }
}

#[test]
fn two_experts_are_never_both_changed_unasked() {
    let model = Model::new(ModelKind::I2vA14b);
    let layer = "blocks.0.attn1.to_q";
    let pair = |rank| model.pair(layer, rank);
    let change = |rank| BTreeMap::from([(format!("{layer}.weight"), product(&pair(rank), 1.0))]);
    let put = |file: &mut Tensors, prefix: &str, rank| {
        let Pair { down, up } = pair(rank);
        file.insert(format!("{prefix}{layer}.lora_A.weight"), down);
        file.insert(format!("{prefix}{layer}.lora_B.weight"), up);
    };
    let none = BTreeMap::new();
    let check =
        |lora: &str, high: &BTreeMap<String, Vec<f64>>, low: &BTreeMap<String, Vec<f64>>| {
            let checkpoint = model
                .open(&[lora])
                .unwrap_or_else(|error| panic!("{lora}: {error}"));
            model.check(&checkpoint, Component::Transformer, high, lora);
            model.check(&checkpoint, Component::Transformer2, low, lora);
            checkpoint.warnings().to_vec()
        };
    let refused = |lora: &str, word: &str| {
        let error = model.open(&[lora]).unwrap_err();
        assert!(error.to_string().contains(word), "{lora}: {error}");
        assert_eq!(error.fault(), Fault::Caller, "{lora}");
    };

    let mut plain = Tensors::new();
    put(&mut plain, "", 2);
    model.write("plain.safetensors", &plain, &[]);
    refused("plain.safetensors", "@high");
    check("plain.safetensors@high", &change(2), &none);
    check("plain.safetensors@low", &none, &change(2));
    check("plain.safetensors@both", &change(2), &change(2));

    // Names of diffusers: `transformer.` alone may have been saved from either expert.
    let mut first = Tensors::new();
    put(&mut first, "transformer.", 2);
    model.write("first.safetensors", &first, &[]);
    let warnings = check("first.safetensors", &change(2), &none);
    assert!(
        warnings
            .iter()
            .any(|warning| warning.contains("high-noise") && warning.contains("@low"))
    );
    check("first.safetensors@low", &none, &change(2));

    let mut pairs = first.clone();
    put(&mut pairs, "transformer_2.", 3);
    model.write("pairs.safetensors", &pairs, &[]);
    check("pairs.safetensors", &change(2), &change(3));
    check("pairs.safetensors@both", &change(2), &change(3));
    refused("pairs.safetensors@high", "transformer_2.");
    refused("pairs.safetensors@low", "set for each expert");

    let mut second = Tensors::new();
    put(&mut second, "transformer_2.", 3);
    model.write("second.safetensors", &second, &[]);
    check("second.safetensors", &none, &change(3));
    refused("second.safetensors@high", "transformer_2.");

    put(&mut second, "diffusion_model.", 3);
    model.write("mixed.safetensors", &second, &[]);
    refused("mixed.safetensors@low", "mixes");

    let single = Model::new(ModelKind::Ti2v5b);
    single.write("second.safetensors", &pairs, &[]);
    for (lora, word) in [
        ("second.safetensors", "one expert"),
        ("second.safetensors@low", "one expert"),
    ] {
        let error = single.open(&[lora]).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn over_a_quantised_base_the_sum_is_rounded_again() {
    let model = Model::new(ModelKind::Ti2v5b);
    let layer = "blocks.0.attn1.to_q";
    let name = format!("{layer}.weight");
    let mut base = Vec::new();
    model.tiny.edit(Component::Transformer, |tensors| {
        let raw = tensors[&name].clone();
        let codes: Vec<u8> = raw
            .floats()
            .iter()
            .map(|v| leoma_kernels::e4m3::encode(v * 256.0))
            .collect();
        base = codes
            .iter()
            .map(|&code| leoma_kernels::e4m3::decode(code) / 256.0)
            .collect::<Vec<f32>>();
        tensors.insert(name.clone(), Raw::bytes("F8_E4M3", &raw.shape, &codes));
        tensors.insert(
            format!("{layer}.weight_scale"),
            Raw::f32(&[1], &[1.0 / 256.0]),
        );
    });
    let columns = read_safetensors(&model.tiny.weights(Component::Transformer))[&name].shape[1];
    let rows = base.len() / columns;
    let pair = Pair {
        down: Raw::f32(&[2, columns], &wave(2 * columns, 1)),
        up: Raw::f32(&[rows, 2], &wave(2 * rows, 2)),
    };
    let want: Vec<f64> = base
        .iter()
        .zip(product(&pair, 1.0))
        .map(|(b, c)| f64::from(*b) + c)
        .collect();
    let file = [
        (format!("{layer}.lora_A.weight"), pair.down),
        (format!("{layer}.lora_B.weight"), pair.up),
    ];
    model.write("a.safetensors", &file.into(), &[]);
    let source = model
        .open(&["a.safetensors"])
        .unwrap()
        .source(Component::Transformer)
        .unwrap();
    let merged = source.load(&name, DType::F32, &Device::Cpu).unwrap();
    for (merged, want) in values(&merged).iter().zip(&want) {
        assert!((f64::from(*merged) - want).abs() < 1e-6, "{merged} {want}");
    }
    let fp8 = source.load_fp8(&name, &Device::Cpu).unwrap();
    let twin = Fp8Weight::quantize(&merged, Fp8Scale::PerRow).unwrap();
    assert_eq!(values(fp8.scale()), values(twin.scale()));
    assert_eq!(fp8.scale().dims(), [rows]);
    let codes = |weight: &Fp8Weight| {
        weight
            .codes()
            .flatten_all()
            .unwrap()
            .to_vec1::<u8>()
            .unwrap()
    };
    assert_eq!(codes(&fp8), codes(&twin));
}

#[test]
fn wrong_files_are_refused_by_name() {
    let model = Model::new(ModelKind::Ti2v5b);
    let layer = "blocks.0.attn1.to_q";
    let good = || {
        let Pair { down, up } = model.pair(layer, 2);
        Tensors::from([
            (format!("{layer}.lora_A.weight"), down),
            (format!("{layer}.lora_B.weight"), up),
        ])
    };
    let key = |ending: &str| format!("{layer}{ending}");
    type Change<'a> = Box<dyn Fn(&mut Tensors) + 'a>;
    let cases: Vec<(Change<'_>, Vec<&str>)> = vec![
        (
            Box::new(|file| {
                drop(file.insert(key(".lora_A.weight"), Raw::f32(&[2, 5], &[0.0; 10])))
            }),
            vec![
                "lora_A.weight",
                "[2, 5]",
                "blocks.0.attn1.to_q.weight",
                "another model",
            ],
        ),
        (
            Box::new(|file| {
                let up = file.get_mut(&key(".lora_B.weight")).unwrap();
                *up = Raw::f32(&[7, 2], &[0.0; 14]);
            }),
            vec!["lora_B.weight", "[7, 2]"],
        ),
        (
            Box::new(|file| drop(file.remove(&key(".lora_B.weight")))),
            vec!["lora_A.weight", "no counterpart"],
        ),
        (
            Box::new(|file| drop(file.insert(key(".lora_down.weight"), Raw::f32(&[1], &[0.0])))),
            vec!["lora_A.weight", "lora_down.weight", "same part"],
        ),
        (
            Box::new(|file| drop(file.insert(key(".alpha"), Raw::f32(&[2], &[1.0, 1.0])))),
            vec![".alpha", "one number"],
        ),
        (
            Box::new(|file| drop(file.insert(key(".alpha"), Raw::f32(&[], &[f32::NAN])))),
            vec![".alpha", "NaN"],
        ),
        (
            Box::new(|file| drop(file.insert(key(".diff_b"), Raw::f32(&[3], &[1.0; 3])))),
            vec![".diff_b", "[3]", "to_q.bias"],
        ),
        (
            Box::new(|file| drop(file.insert(key(".dora_scale"), Raw::f32(&[1], &[1.0])))),
            vec!["dora_scale", "DoRA"],
        ),
        (
            Box::new(|file| {
                drop(file.insert(
                    "lora_unet_blocks_0_ffn_0.lokr_w1".into(),
                    Raw::f32(&[1], &[1.0]),
                ))
            }),
            vec!["lokr_w1", "LoKr"],
        ),
        (
            Box::new(|file| {
                *file = Tensors::from([(
                    "blocks.40.attn1.to_q.lora_A.weight".into(),
                    Raw::f32(&[1], &[1.0]),
                )]);
            }),
            vec!["none of the 1 tensors", "blocks.40"],
        ),
    ];
    for (change, words) in cases {
        let mut file = good();
        change(&mut file);
        model.write("bad.safetensors", &file, &[]);
        let error = model.open(&["bad.safetensors"]).err();
        let text = error
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_else(|| panic!("accepted: {words:?}"));
        assert!(matches!(error, Some(Error::Artifact { .. })), "{text}");
        for word in words.iter().chain(&["bad.safetensors"]) {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
    }
    assert!(
        model
            .open(&["missing.safetensors"])
            .unwrap_err()
            .to_string()
            .contains("no such file")
    );

    // NaN in a matrix shows when its weight is loaded; so does a sum that a type cannot hold.
    let mut file = good();
    let up = &model.pair(layer, 2).up;
    file.insert(
        key(".lora_B.weight"),
        Raw::f32(&up.shape, &vec![f32::INFINITY; up.bytes.len() / 4]),
    );
    model.write("bad.safetensors", &file, &[]);
    let load = |loras: &[&str], dtype| {
        let source = model
            .open(loras)
            .unwrap()
            .source(Component::Transformer)
            .unwrap();
        source
            .load(&format!("{layer}.weight"), dtype, &Device::Cpu)
            .map(drop)
    };
    let error = load(&["bad.safetensors"], DType::F32)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("NaN or infinite") && error.contains("lora_B.weight"),
        "{error}"
    );
    model.write("good.safetensors", &good(), &[]);
    assert!(load(&["good.safetensors=10000000"], DType::F32).is_ok());
    let error = load(&["good.safetensors=10000000"], DType::F16)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("good.safetensors") && error.contains("f16"),
        "{error}"
    );
}
