//! Checkpoints for tests: tiny ones, broken ones, and the official layout made from a diffusers one.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::names;
use super::{Component, ModelKind};
use crate::tiny::make_tiny;

/// A tensor of a test file: type name of safetensors, shape, bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Raw {
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

pub(super) type Tensors = BTreeMap<String, Raw>;

impl Raw {
    /// An f32 tensor.
    pub(super) fn f32(shape: &[usize], values: &[f32]) -> Self {
        Self {
            dtype: "F32".into(),
            shape: shape.to_vec(),
            bytes: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        }
    }

    /// A tensor of one byte per element.
    pub(super) fn bytes(dtype: &str, shape: &[usize], bytes: &[u8]) -> Self {
        Self {
            dtype: dtype.into(),
            shape: shape.to_vec(),
            bytes: bytes.to_vec(),
        }
    }

    /// The values of an f32 tensor.
    pub(super) fn floats(&self) -> Vec<f32> {
        assert_eq!(self.dtype, "F32");
        let four = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        self.bytes.chunks_exact(4).map(four).collect()
    }
}

/// A tiny checkpoint in a folder of its own.
pub(super) struct Tiny {
    _keep: tempfile::TempDir,
    pub(super) root: PathBuf,
}

impl Tiny {
    pub(super) fn new(kind: ModelKind) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let root = keep.path().join("model");
        make_tiny(kind, 11, &root).unwrap();
        Self { _keep: keep, root }
    }

    pub(super) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The weight file of a component.
    pub(super) fn weights(&self, component: Component) -> PathBuf {
        let file = match component {
            Component::TextEncoder => "model.safetensors",
            _ => "diffusion_pytorch_model.safetensors",
        };
        self.root.join(component.as_str()).join(file)
    }

    /// Changes the tensors of a component.
    pub(super) fn edit(&self, component: Component, change: impl FnOnce(&mut Tensors)) {
        let path = self.weights(component);
        let mut tensors = read_safetensors(&path);
        change(&mut tensors);
        write_safetensors(&path, &tensors);
    }

    /// Changes a key of a configuration file.
    pub(super) fn set(&self, relative: &str, key: &str, value: Value) {
        let mut config = read_json(&self.path(relative));
        config[key] = value;
        fs::write(self.path(relative), config.to_string()).unwrap();
    }

    /// Splits a component into two shards with an index.
    pub(super) fn shard(&self, component: Component) -> PathBuf {
        let path = self.weights(component);
        let tensors = read_safetensors(&path);
        fs::remove_file(&path).unwrap();
        let stem = path.with_extension("");
        let stem = stem.file_name().unwrap().to_str().unwrap().to_owned();
        let mut map = BTreeMap::new();
        let mut shards = [Tensors::new(), Tensors::new()];
        for (number, (name, raw)) in tensors.into_iter().enumerate() {
            map.insert(
                name.clone(),
                format!("{stem}-0000{}-of-00002.safetensors", number % 2 + 1),
            );
            shards[number % 2].insert(name, raw);
        }
        for (number, shard) in shards.iter().enumerate() {
            let file =
                path.with_file_name(format!("{stem}-0000{}-of-00002.safetensors", number + 1));
            write_safetensors(&file, shard);
        }
        let index = path.with_file_name(format!("{stem}.safetensors.index.json"));
        fs::write(
            &index,
            json!({"metadata": {"total_size": 0}, "weight_map": map}).to_string(),
        )
        .unwrap();
        index
    }
}

pub(super) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub(super) fn read_safetensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let entries = header
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "__metadata__");
    entries
        .map(|(name, info)| {
            let at = |i: usize| info["data_offsets"][i].as_u64().unwrap() as usize;
            let raw = Raw {
                dtype: info["dtype"].as_str().unwrap().to_owned(),
                shape: serde_json::from_value(info["shape"].clone()).unwrap(),
                bytes: data[at(0)..at(1)].to_vec(),
            };
            (name.clone(), raw)
        })
        .collect()
}

pub(super) fn write_safetensors(path: &Path, tensors: &Tensors) {
    write_with_metadata(path, tensors, &[]);
}

/// As [`write_safetensors`], with texts under `__metadata__`.
pub(super) fn write_with_metadata(path: &Path, tensors: &Tensors, metadata: &[(&str, Value)]) {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        let texts = metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value.to_string())));
        header.insert("__metadata__".into(), Value::Object(texts.collect()));
    }
    let mut data = Vec::new();
    for (name, raw) in tensors {
        let start = data.len();
        data.extend_from_slice(&raw.bytes);
        header.insert(
            name.clone(),
            json!({"dtype": raw.dtype, "shape": raw.shape, "data_offsets": [start, data.len()]}),
        );
    }
    write_raw(path, &Value::Object(header).to_string(), &data);
}

/// A safetensors file with a header written as it is.
pub(super) fn write_raw(path: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    fs::write(path, bytes).unwrap();
}

/// Pickle opcodes in protocol 2, as `torch.save` writes them.
#[derive(Default)]
pub(super) struct Pickle(Vec<u8>);

impl Pickle {
    pub(super) fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub(super) fn op(&mut self, opcodes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(opcodes);
        self
    }

    pub(super) fn global(&mut self, module: &str, name: &str) -> &mut Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.op(b"X")
            .op(&(text.len() as u32).to_le_bytes())
            .op(text.as_bytes())
    }

    pub(super) fn int(&mut self, value: usize) -> &mut Self {
        self.op(b"J").op(&(value as i32).to_le_bytes())
    }

    pub(super) fn ints(&mut self, values: &[usize]) -> &mut Self {
        self.op(b"(");
        for &value in values {
            self.int(value);
        }
        self.op(b"t")
    }

    /// A tensor over the whole of the storage `key`.
    pub(super) fn tensor(
        &mut self,
        key: &str,
        storage: &str,
        shape: &[usize],
        stride: &[usize],
    ) -> &mut Self {
        self.global("torch._utils", "_rebuild_tensor_v2").op(b"((");
        self.text("storage")
            .global("torch", storage)
            .text(key)
            .text("cpu");
        self.int(shape.iter().product())
            .op(b"tQ")
            .int(0)
            .ints(shape)
            .ints(stride);
        // requires_grad, no hooks
        self.op(b"\x89")
            .global("collections", "OrderedDict")
            .op(b")RtR")
    }

    pub(super) fn bytes(&mut self) -> Vec<u8> {
        self.op(b".");
        std::mem::take(&mut self.0)
    }
}

/// A PyTorch archive with a pickle and storages.
pub(super) fn write_archive(path: &Path, pickle: &[u8], storages: &[Vec<u8>]) {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut member = |name: String, bytes: &[u8]| {
        archive.start_file(name, options).unwrap();
        archive.write_all(bytes).unwrap();
    };
    member("archive/data.pkl".into(), pickle);
    member("archive/byteorder".into(), b"little");
    for (key, bytes) in storages.iter().enumerate() {
        member(format!("archive/data/{key}"), bytes);
    }
    member("archive/version".into(), b"3\n");
    fs::write(path, archive.finish().unwrap().into_inner()).unwrap();
}

fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len())
        .map(|axis| shape[axis + 1..].iter().product())
        .collect()
}

/// Writes tensors as `torch.save` writes a state dict.
pub(super) fn write_pth(path: &Path, tensors: &Tensors) {
    let mut pickle = Pickle::new();
    pickle.global("collections", "OrderedDict").op(b")R(");
    let mut storages = Vec::new();
    for (name, raw) in tensors {
        let storage = match raw.dtype.as_str() {
            "F32" => "FloatStorage",
            "BF16" => "BFloat16Storage",
            other => panic!("{other}"),
        };
        let key = storages.len().to_string();
        pickle
            .text(name)
            .tensor(&key, storage, &raw.shape, &strides(&raw.shape));
        storages.push(raw.bytes.clone());
    }
    // The dictionary's own attributes, as a module's state dict has them.
    pickle.op(b"u}").text("_metadata").op(b"}sb");
    write_archive(path, &pickle.bytes(), &storages);
}

/// The same checkpoint in the official layout.
pub(super) fn to_official(diffusers: &Path, official: &Path) {
    let two = diffusers.join("transformer_2").is_dir();
    let experts: &[(Component, &str)] = if two {
        &[
            (Component::Transformer, "high_noise_model"),
            (Component::Transformer2, "low_noise_model"),
        ]
    } else {
        &[(Component::Transformer, ".")]
    };
    let read = |component: Component, file: &str| {
        read_safetensors(&diffusers.join(component.as_str()).join(file))
    };
    let rename = |tensors: Tensors, name: &dyn Fn(&str) -> String| -> Tensors {
        tensors
            .into_iter()
            .map(|(old, raw)| (name(&old), raw))
            .collect()
    };
    let weights = "diffusion_pytorch_model.safetensors";
    for &(component, folder) in experts {
        let folder = official.join(folder);
        fs::create_dir_all(&folder).unwrap();
        let config = read_json(&diffusers.join(component.as_str()).join("config.json"));
        let heads = config["num_attention_heads"].as_u64().unwrap();
        let official_config = json!({
            "_class_name": "WanModel", "_diffusers_version": "0.33.0",
            "model_type": "t2v", "text_len": 512,
            "dim": heads * config["attention_head_dim"].as_u64().unwrap(), "num_heads": heads,
            "ffn_dim": config["ffn_dim"], "freq_dim": config["freq_dim"], "in_dim": config["in_channels"],
            "out_dim": config["out_channels"], "num_layers": config["num_layers"], "eps": config["eps"],
        });
        fs::write(folder.join("config.json"), official_config.to_string()).unwrap();
        let tensors = rename(read(component, weights), &|name| {
            names::to_official(component, name)
        });
        write_safetensors(&folder.join(weights), &tensors);
    }
    let text = rename(read(Component::TextEncoder, "model.safetensors"), &|name| {
        names::to_official(Component::TextEncoder, name)
    });
    write_pth(&official.join("models_t5_umt5-xxl-enc-bf16.pth"), &text);
    let residual = read_json(&diffusers.join("vae/config.json"))["is_residual"]
        .as_bool()
        .unwrap();
    let vae = rename(read(Component::Vae, weights), &|name| {
        names::to_official_vae(residual, name)
    });
    let file = if residual {
        "Wan2.2_VAE.pth"
    } else {
        "Wan2.1_VAE.pth"
    };
    write_pth(&official.join(file), &vae);
    let tokenizer = official.join("google/umt5-xxl");
    fs::create_dir_all(&tokenizer).unwrap();
    for entry in fs::read_dir(diffusers.join("tokenizer")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, tokenizer.join(path.file_name().unwrap())).unwrap();
    }
}
