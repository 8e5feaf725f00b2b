//! Reading one tensor from a file into memory: chunk by chunk, cast, checked and hashed on the way.
//!
//! The extra memory is the tensor itself plus two chunks. Files are read with `pread`, never mapped: a
//! file that shrinks under the reader is an error, not a crash.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};

/// Bytes per read; a multiple of every element size.
const CHUNK: usize = 2 << 20;

/// Types in which weights may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredDType {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float of IEEE 754.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
}

impl StoredDType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Name as in safetensors, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }
}

/// Where a tensor lies in its file. Row-major, little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) dtype: StoredDType,
    pub(super) shape: Vec<usize>,
    /// Position of the first byte in the file.
    pub(super) offset: u64,
}

impl Entry {
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub(super) fn bytes(&self) -> usize {
        self.elements() * self.dtype.size()
    }
}

/// Reads a tensor; returns it with the hexadecimal SHA-256 of its stored bytes.
pub(super) fn load(
    file: &File,
    path: &Path,
    name: &str,
    entry: &Entry,
    dtype: DType,
    device: &Device,
) -> Result<(Tensor, String)> {
    match dtype {
        DType::F32 => stream::<f32>(file, path, name, entry, device),
        DType::BF16 => stream::<bf16>(file, path, name, entry, device),
        DType::F16 => stream::<f16>(file, path, name, entry, device),
        other => Err(Error::local(format!(
            "weights load as f32, bf16 or f16, not as {}",
            other.as_str()
        ))),
    }
}

/// An element type that weights are loaded to.
trait Target: WithDType + Send {
    /// The stored type whose bytes are this type's.
    const SAME: StoredDType;
    fn from_le(bytes: &[u8]) -> Self;
    fn from_single(value: f32) -> Self;
    fn finite(self) -> bool;
}

impl Target for f32 {
    const SAME: StoredDType = StoredDType::F32;
    fn from_le(b: &[u8]) -> Self {
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
    fn from_single(value: f32) -> Self {
        value
    }
    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Target for bf16 {
    const SAME: StoredDType = StoredDType::BF16;
    fn from_le(b: &[u8]) -> Self {
        bf16::from_le_bytes([b[0], b[1]])
    }
    fn from_single(value: f32) -> Self {
        bf16::from_f32(value)
    }
    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Target for f16 {
    const SAME: StoredDType = StoredDType::F16;
    fn from_le(b: &[u8]) -> Self {
        f16::from_le_bytes([b[0], b[1]])
    }
    fn from_single(value: f32) -> Self {
        f16::from_f32(value)
    }
    fn finite(self) -> bool {
        self.is_finite()
    }
}

fn stream<T: Target>(
    file: &File,
    path: &Path,
    name: &str,
    entry: &Entry,
    device: &Device,
) -> Result<(Tensor, String)> {
    let total = entry.bytes();
    let mut values: Vec<T> = Vec::new();
    values
        .try_reserve_exact(entry.elements())
        .map_err(|_| Error::io(path, io::Error::from(io::ErrorKind::OutOfMemory)))?;
    let mut hasher = Sha256::new();
    let mut current = vec![0_u8; CHUNK.min(total)];
    let mut ahead = vec![0_u8; CHUNK.min(total.saturating_sub(CHUNK))];
    read(file, path, name, &mut current, entry.offset)?;
    let mut done = 0;
    while done < total {
        let length = CHUNK.min(total - done);
        let next = CHUNK.min(total - done - length);
        let chunk = &current[..length];
        let (fetched, ((), finite)) = rayon::join(
            || {
                read(
                    file,
                    path,
                    name,
                    &mut ahead[..next],
                    entry.offset + (done + length) as u64,
                )
            },
            || {
                rayon::join(
                    || hasher.update(chunk),
                    || convert(chunk, entry.dtype, &mut values),
                )
            },
        );
        fetched?;
        match finite {
            Finite::All => {}
            Finite::StoredNot => {
                return Err(Error::artifact(
                    path,
                    format!(
                        "tensor `{name}` holds NaN or infinite values; the file is damaged or the \
                             training that made it diverged: use another checkpoint"
                    ),
                ));
            }
            Finite::TooLarge => {
                return Err(Error::caller(
                    "dtype",
                    format!(
                        "tensor `{name}` of {} holds values that do not fit {}; use f32 or bf16",
                        path.display(),
                        T::DTYPE.as_str()
                    ),
                ));
            }
        }
        done += length;
        std::mem::swap(&mut current, &mut ahead);
    }
    let tensor = Tensor::from_vec(values, entry.shape.as_slice(), device)
        .context(|| format!("tensor `{name}` of {}", path.display()))?;
    Ok((tensor, hex(&hasher.finalize())))
}

/// What a chunk held.
enum Finite {
    All,
    /// NaN or infinity in the file.
    StoredNot,
    /// Finite in the file, infinite in the target type.
    TooLarge,
}

fn convert<T: Target>(chunk: &[u8], stored: StoredDType, values: &mut Vec<T>) -> Finite {
    // The exponent of NaN and infinity is all ones. Branch-free folds, so that the compiler vectorises.
    let bad = match stored {
        StoredDType::F64 => chunk.chunks_exact(8).fold(false, |bad, b| {
            bad | (u16::from_le_bytes([b[6], b[7]]) & 0x7ff0 == 0x7ff0)
        }),
        StoredDType::F32 => chunk.chunks_exact(4).fold(false, |bad, b| {
            bad | (u16::from_le_bytes([b[2], b[3]]) & 0x7f80 == 0x7f80)
        }),
        StoredDType::BF16 => chunk.chunks_exact(2).fold(false, |bad, b| {
            bad | (u16::from_le_bytes([b[0], b[1]]) & 0x7f80 == 0x7f80)
        }),
        StoredDType::F16 => chunk.chunks_exact(2).fold(false, |bad, b| {
            bad | (u16::from_le_bytes([b[0], b[1]]) & 0x7c00 == 0x7c00)
        }),
    };
    if bad {
        return Finite::StoredNot;
    }
    let start = values.len();
    match stored {
        same if same == T::SAME => values.extend(chunk.chunks_exact(same.size()).map(T::from_le)),
        StoredDType::F64 => values.extend(chunk.chunks_exact(8).map(|b| {
            T::from_single(
                f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32,
            )
        })),
        StoredDType::F32 => values.extend(
            chunk
                .chunks_exact(4)
                .map(|b| T::from_single(<f32 as Target>::from_le(b))),
        ),
        StoredDType::F16 => {
            values.extend(
                chunk
                    .chunks_exact(2)
                    .map(|b| T::from_single(<f16 as Target>::from_le(b).to_f32())),
            );
        }
        StoredDType::BF16 => {
            values.extend(
                chunk
                    .chunks_exact(2)
                    .map(|b| T::from_single(<bf16 as Target>::from_le(b).to_f32())),
            );
        }
    }
    if values[start..]
        .iter()
        .fold(true, |finite, value| finite & value.finite())
    {
        Finite::All
    } else {
        Finite::TooLarge
    }
}

fn read(file: &File, path: &Path, name: &str, buffer: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(buffer, offset).map_err(|source| {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            Error::artifact(
                path,
                format!(
                    "the file ends inside tensor `{name}`; it was cut or replaced while it was \
                         being read: fetch it again"
                ),
            )
        } else {
            Error::io(path, source)
        }
    })
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
