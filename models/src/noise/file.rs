//! Noise from the tensor `noise` of a safetensors file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// Longest header that is read; a dump of a whole run has a few kilobytes.
const MAX_HEADER_BYTES: u64 = 16 << 20;

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

fn bad(path: &Path, message: impl std::fmt::Display) -> Error {
    Error::caller("noise", format!("{}: {message}", path.display()))
}

/// Reads the values; only the header and this tensor are read, so the file may hold a whole dump.
///
/// The stored shape must be `shape` up to a leading 1 on either side.
pub(super) fn read(path: &Path, shape: &[usize]) -> Result<Vec<f32>> {
    let fail = |error: std::io::Error| bad(path, error);
    let mut file = File::open(path).map_err(fail)?;
    let file_bytes = file.metadata().map_err(fail)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length)
        .map_err(|_| bad(path, "not a safetensors file (too short)"))?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > MAX_HEADER_BYTES || header_bytes > file_bytes.saturating_sub(8) {
        return Err(bad(
            path,
            "not a safetensors file (its header length is out of range)",
        ));
    }
    let mut header = vec![0; header_bytes as usize];
    file.read_exact(&mut header).map_err(fail)?;
    let entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&header)
        .map_err(|error| bad(path, format!("not a safetensors file (header: {error})")))?;
    let entry = entries
        .get("noise")
        .ok_or_else(|| bad(path, "holds no tensor named `noise`"))?;
    let entry = Entry::deserialize(entry)
        .map_err(|error| bad(path, format!("header entry of `noise`: {error}")))?;
    if entry.dtype != "F32" {
        return Err(bad(
            path,
            format!("`noise` is {}, expected F32", entry.dtype),
        ));
    }
    let trim = |dims: &[usize]| match dims {
        [1, rest @ ..] => rest.to_vec(),
        dims => dims.to_vec(),
    };
    if entry.shape != shape && trim(&entry.shape) != shape && entry.shape != trim(shape) {
        let found = entry.shape;
        return Err(bad(
            path,
            format!("`noise` has shape {found:?}, this request needs {shape:?}"),
        ));
    }
    let [start, end] = entry.data_offsets;
    let bytes = 4 * shape.iter().product::<usize>() as u64;
    let data = 8 + header_bytes;
    if end.checked_sub(start) != Some(bytes) || end > file_bytes - data {
        return Err(bad(path, "the data of `noise` is truncated or misplaced"));
    }
    file.seek(SeekFrom::Start(data + start)).map_err(fail)?;
    let mut raw = vec![0; bytes as usize];
    file.read_exact(&mut raw).map_err(fail)?;
    let values: Vec<f32> = raw
        .chunks_exact(4)
        .map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    if !values.iter().all(|value| value.is_finite()) {
        return Err(bad(path, "`noise` holds NaN or infinite values"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::noise::NoiseSource;
    use candle_core::{Device, Tensor};
    use std::collections::HashMap;

    fn save(path: &Path, name: &str, tensor: Tensor) {
        let other = Tensor::zeros(3, candle_core::DType::U8, &Device::Cpu).unwrap();
        let tensors = HashMap::from([(name.to_owned(), tensor), ("a".to_owned(), other)]);
        candle_core::safetensors::save(&tensors, path).unwrap();
    }

    #[test]
    fn reads_the_tensor_with_or_without_a_batch_axis() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("noise.safetensors");
        let noise = Tensor::arange(0f32, 24f32, &Device::Cpu).unwrap();
        save(&path, "noise", noise.reshape((1, 2, 3, 4)).unwrap());
        let source = NoiseSource::File(path.clone());
        for shape in [&[1, 2, 3, 4][..], &[2, 3, 4]] {
            let read = source.sample(0, shape).unwrap();
            assert_eq!(read.dims(), shape);
            let read = read.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(read, noise.to_vec1::<f32>().unwrap());
        }
        save(&path, "noise", noise.reshape((2, 3, 4)).unwrap());
        assert_eq!(
            source.sample(0, &[1, 2, 3, 4]).unwrap().dims(),
            [1, 2, 3, 4]
        );
        for shape in [&[2, 12][..], &[4, 3, 2], &[1, 1, 2, 3, 4], &[24]] {
            let message = source.sample(0, shape).unwrap_err().to_string();
            assert!(message.contains("has shape [2, 3, 4]"), "{message}");
        }
    }

    #[test]
    fn other_files_are_the_callers_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("noise.safetensors");
        let message = |shape: &[usize]| {
            let error = read(&path, shape).unwrap_err();
            assert_eq!(error.fault(), crate::Fault::Caller);
            error.to_string()
        };
        assert!(message(&[2]).starts_with("noise: "));
        std::fs::write(&path, b"short").unwrap();
        assert!(message(&[2]).contains("too short"));
        std::fs::write(&path, [0xff; 64]).unwrap();
        assert!(message(&[2]).contains("out of range"));
        std::fs::write(&path, b"\x02\0\0\0\0\0\0\0[]").unwrap();
        assert!(message(&[2]).contains("header"));
        let value = Tensor::new(&[1f32, f32::NAN], &Device::Cpu).unwrap();
        save(&path, "latents", value.clone());
        assert!(message(&[2]).contains("no tensor named `noise`"));
        save(&path, "noise", value.clone());
        assert!(message(&[2]).contains("NaN"));
        save(
            &path,
            "noise",
            value.to_dtype(candle_core::DType::F16).unwrap(),
        );
        assert!(message(&[2]).contains("is F16, expected F32"));
        save(
            &path,
            "noise",
            Tensor::zeros(8, candle_core::DType::F32, &Device::Cpu).unwrap(),
        );
        let whole = std::fs::read(&path).unwrap();
        // The three bytes of the other tensor come last.
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        assert!(message(&[8]).contains("truncated"));
    }
}
