//! safetensors headers, with the refusals that the format's own reader leaves to its user.
//!
//! The `safetensors` crate checks types, shapes and that the ranges tile the file; on top of that come
//! limits on the header, the number and the names of tensors, and duplicate names.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::stream::{Entry, StoredDType};
use crate::error::{Error, Result};

/// Longest header. The shards of the largest released checkpoint need about 0.2 MiB.
const MAX_HEADER: u64 = 8 << 20;
/// Most tensors in one file.
pub(super) const MAX_TENSORS: usize = 20_000;
/// Longest tensor name.
const MAX_NAME: usize = 512;
/// Highest tensor rank.
pub(super) const MAX_RANK: usize = 8;
/// Longest `__metadata__`, keys and values together.
const MAX_METADATA: usize = 1 << 20;

/// What a header says: tensors, and the texts of `__metadata__`.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Whether whole numbers of 64 bits called `position_ids` may lie beside the weights and are passed over: transformers
/// before 4.31 kept the counter 0, 1, 2, … as a tensor. A Wan checkpoint has none, and nothing in it may stay unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counters {
    Refused,
    PassedOver,
}

/// Reads and checks the header of `file`; `path` is for messages.
pub(super) fn read_header(file: &File, path: &Path, counters: Counters) -> Result<Contents> {
    let refuse = |message: String| Error::artifact(path, message);
    let size = file
        .metadata()
        .map_err(|source| Error::io(path, source))?
        .len();
    if size < 8 {
        return Err(refuse(format!(
            "not a safetensors file: {size} bytes; fetch it again"
        )));
    }
    let mut length = [0_u8; 8];
    file.read_exact_at(&mut length, 0)
        .map_err(|source| Error::io(path, source))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(refuse(format!(
            "the header claims {length} bytes, at most {MAX_HEADER} are accepted; this is not a \
             safetensors file or a hostile one"
        )));
    }
    if length < 2 || length > size - 8 {
        return Err(refuse(format!(
            "truncated: the header needs {length} bytes, {} follow; fetch the file again",
            size - 8
        )));
    }
    let mut header = vec![0_u8; length as usize];
    file.read_exact_at(&mut header, 8)
        .map_err(|source| Error::io(path, source))?;
    if header[0] != b'{' {
        return Err(refuse(
            "the header does not begin with `{`; not a safetensors file".into(),
        ));
    }
    let header: Header =
        serde_json::from_slice(&header).map_err(|error| refuse(format!("bad header: {error}")))?;

    let mut tensors = header.tensors;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let end = tensors.last().map_or(0, |(_, info)| info.data_offsets.1);
    // Checks shapes against ranges, and ranges against each other (no overlap, no hole, no overflow).
    Metadata::new(None, tensors.clone()).map_err(|error| refuse(format!("bad header: {error}")))?;
    let data = size - 8 - length;
    if end as u64 > data {
        return Err(refuse(format!(
            "truncated: the tensors need {end} bytes after the header, the file has {data}; fetch it again"
        )));
    }
    if (end as u64) < data {
        return Err(refuse(format!(
            "{} bytes follow the last tensor; a safetensors file ends with its data",
            data - end as u64
        )));
    }

    let mut entries = BTreeMap::new();
    for (name, info) in tensors {
        let is_counter = info.dtype == Dtype::I64 && name.ends_with("position_ids");
        if is_counter && counters == Counters::PassedOver {
            continue;
        }
        let dtype =
            stored_dtype(info.dtype).ok_or_else(|| refuse(unsupported_type(&name, info.dtype)))?;
        let offset = 8 + length + info.data_offsets.0 as u64;
        entries.insert(
            name,
            Entry {
                dtype,
                shape: info.shape,
                offset,
            },
        );
    }
    Ok(Contents {
        entries,
        metadata: header.metadata,
    })
}

fn stored_dtype(dtype: Dtype) -> Option<StoredDType> {
    match dtype {
        Dtype::F64 => Some(StoredDType::F64),
        Dtype::F32 => Some(StoredDType::F32),
        Dtype::F16 => Some(StoredDType::F16),
        Dtype::BF16 => Some(StoredDType::BF16),
        Dtype::F8_E4M3 => Some(StoredDType::F8E4M3),
        Dtype::F8_E5M2 => Some(StoredDType::F8E5M2),
        Dtype::I8 => Some(StoredDType::I8),
        Dtype::U8 => Some(StoredDType::U8),
        _ => None,
    }
}

fn unsupported_type(name: &str, dtype: Dtype) -> String {
    let remedy = match dtype {
        Dtype::F8_E8M0 | Dtype::F4 | Dtype::F6_E2M3 | Dtype::F6_E3M2 => {
            "; block-scaled checkpoints (nvfp4, mxfp) are not supported: use the fp8, bf16, f16 or f32 files"
        }
        _ => "; weights must be f32, bf16, f16, f64, fp8 or int8",
    };
    format!("tensor `{name}` is stored as {dtype:?}{remedy}")
}

/// Whether a name may be a tensor's; the text says what is wrong.
pub(super) fn check_name(name: &str) -> std::result::Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(format!(
            "a tensor name has {} bytes, 1 to {MAX_NAME} are accepted",
            name.len()
        ));
    }
    if !name.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        return Err(format!(
            "tensor name {name:?} holds characters that are not printable ASCII"
        ));
    }
    Ok(())
}

/// A tensor as the header lists it; as [`TensorInfo`], but a shape of millions of axes is not read.
#[derive(serde::Deserialize)]
struct Listed {
    dtype: Dtype,
    shape: Axes,
    data_offsets: (usize, usize),
}

impl From<Listed> for TensorInfo {
    fn from(listed: Listed) -> Self {
        Self {
            dtype: listed.dtype,
            shape: listed.shape.0,
            data_offsets: listed.data_offsets,
        }
    }
}

/// Lengths of axes, [`MAX_RANK`] at most.
struct Axes(Vec<usize>);

impl<'de> Deserialize<'de> for Axes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lengths;
        impl<'de> Visitor<'de> for Lengths {
            type Value = Axes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the lengths of a tensor's axes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut lengths: A) -> Result<Axes, A::Error> {
                let mut all = Vec::new();
                while let Some(length) = lengths.next_element()? {
                    if all.len() == MAX_RANK {
                        return Err(A::Error::custom(format!("more than {MAX_RANK} axes")));
                    }
                    all.push(length);
                }
                Ok(Axes(all))
            }
        }
        deserializer.deserialize_seq(Lengths)
    }
}

/// The header's entries in file order; duplicate names are an error.
struct Header {
    tensors: Vec<(String, TensorInfo)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensor names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut seen = std::collections::HashSet::new();
                let mut tensors = Vec::new();
                let mut metadata = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("the name {name:?} occurs twice")));
                    }
                    if name == "__metadata__" {
                        metadata = map.next_value::<BTreeMap<String, String>>()?;
                        let size: usize = metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
                        if size > MAX_METADATA {
                            return Err(A::Error::custom(format!("__metadata__ has {size} bytes")));
                        }
                        continue;
                    }
                    check_name(&name).map_err(A::Error::custom)?;
                    if tensors.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    }
                    let listed: Listed = map
                        .next_value()
                        .map_err(|error| A::Error::custom(format!("tensor `{name}`: {error}")))?;
                    tensors.push((name, listed.into()));
                }
                Ok(Header { tensors, metadata })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
