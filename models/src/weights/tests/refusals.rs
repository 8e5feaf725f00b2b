//! Checkpoints that must not load: every one is an error that names the file, never a panic.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use candle_core::{DType, Device};
use serde_json::json;

use super::super::test_support::*;
use super::super::*;
use super::{floats, refused, start};

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
            "bad header: tensor `a`: more than 8 axes at line 1 column",
        ),
        (
            format!(
                r#"{{"a":{{"dtype":"F32","shape":[1{}],"data_offsets":[0,4]}}}}"#,
                ",1".repeat(1_000_000)
            ),
            vec![0; 4],
            "bad header: tensor `a`: more than 8 axes at line 1 column",
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
            r#"{"a":{"dtype":"F8_E8M0","shape":[4],"data_offsets":[0,4]}}"#.into(),
            vec![0; 4],
            "mxfp",
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
