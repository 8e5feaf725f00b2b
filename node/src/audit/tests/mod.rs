//! Repositories made for the tests, and audits of them.
#![allow(clippy::unwrap_used)]

mod compare;
mod content;
mod identity;
mod links;

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// A tensor of a test file: name, safetensors type, shape, bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Raw {
    pub(super) name: String,
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

impl Raw {
    pub(super) fn f32(name: &str, shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Self {
            name: name.into(),
            dtype: "F32",
            shape: shape.to_vec(),
            bytes: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        }
    }

    pub(super) fn of(name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        }
    }
}

/// Writes a safetensors file with the tensors in the given order. `padding` blanks end the header: with
/// them, data begins at any position.
pub(super) fn write_safetensors(path: &Path, tensors: &[Raw], padding: usize) {
    let mut header = Map::new();
    let mut end = 0;
    for raw in tensors {
        let begin = end;
        end += raw.bytes.len();
        header.insert(
            raw.name.clone(),
            json!({"dtype": raw.dtype, "shape": raw.shape, "data_offsets": [begin, end]}),
        );
    }
    let mut text = serde_json::to_vec(&Value::Object(header)).unwrap();
    text.resize(text.len() + padding, b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    for raw in tensors {
        bytes.extend(&raw.bytes);
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The tensors of a safetensors file, in file order.
pub(super) fn read_safetensors(path: &Path) -> Vec<Raw> {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let mut tensors: Vec<(usize, Raw)> = header
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .map(|(name, info)| {
            let at = |i: usize| info["data_offsets"][i].as_u64().unwrap() as usize;
            let dtype = match info["dtype"].as_str().unwrap() {
                "F32" => "F32",
                "BF16" => "BF16",
                "F16" => "F16",
                other => panic!("{other}"),
            };
            let shape: Vec<usize> = serde_json::from_value(info["shape"].clone()).unwrap();
            (
                at(0),
                Raw::of(name, dtype, &shape, data[at(0)..at(1)].to_vec()),
            )
        })
        .collect();
    tensors.sort_by_key(|(begin, _)| *begin);
    tensors.into_iter().map(|(_, raw)| raw).collect()
}

/// Repeatable values around zero.
pub(super) fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5555;
    (0..count)
        .map(|_| {
            // Sum of four uniform values: near enough to a bell curve.
            let mut sum = 0.0;
            for _ in 0..4 {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                sum += (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
            }
            sum
        })
        .collect()
}
