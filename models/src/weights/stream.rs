//! Reading one tensor from a file into memory: wave by wave (`read.rs`), cast, checked and, when asked,
//! hashed on the way.
//!
//! The extra memory is the tensor itself plus two waves; on a card two pinned waves instead of the tensor
//! (`upload.rs`).

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::{CudaDType, cudarc::driver::DeviceRepr};
use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::read::{Range, in_waves};
#[cfg(feature = "cuda")]
use super::upload::Upload;
use crate::error::{Context, Error, Result};

/// Elements cast by one task.
const PART: usize = 1 << 18;

/// Types in which weights may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, Serialize)]
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
    /// 8-bit float, 3 bits of mantissa, no infinity; with or without a scale beside it.
    F8E4M3,
    /// 8-bit float, 2 bits of mantissa.
    F8E5M2,
    /// 8-bit integer with a scale beside it.
    I8,
    /// Bytes that are no weights: settings of a quantised layer, an embedded tokenizer.
    U8,
}

impl StoredDType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 => 1,
        }
    }

    /// Whether a stored element is a code whose value depends on a scale elsewhere.
    pub fn is_quantised(self) -> bool {
        matches!(self, Self::F8E4M3 | Self::F8E5M2 | Self::I8)
    }

    /// Name as in safetensors, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F8E4M3 => "f8_e4m3",
            Self::F8E5M2 => "f8_e5m2",
            Self::I8 => "i8",
            Self::U8 => "u8",
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

/// Reads a tensor; returns it with, when `hash` asks for it, the hexadecimal SHA-256 of its stored bytes.
pub(super) fn load(
    file: &File,
    path: &Path,
    name: &str,
    entry: &Entry,
    dtype: DType,
    device: &Device,
    hash: bool,
) -> Result<(Tensor, Option<String>)> {
    if entry.dtype.size() == 1 {
        return Err(Error::artifact(
            path,
            format!(
                "tensor `{name}` is stored as {}; floats are needed",
                entry.dtype.as_str()
            ),
        ));
    }
    if device.is_cuda() && entry.dtype.size() < dtype.size_in_bytes() {
        // Half the bytes travel; widening is exact wherever it is done.
        let stored = match entry.dtype {
            StoredDType::BF16 => DType::BF16,
            _ => DType::F16,
        };
        let (tensor, sha256) = load(file, path, name, entry, stored, device, hash)?;
        return Ok((tensor.to_dtype(dtype)?, sha256));
    }
    match dtype {
        DType::F32 => stream::<f32>(file, path, name, entry, device, hash),
        DType::BF16 => stream::<bf16>(file, path, name, entry, device, hash),
        DType::F16 => stream::<f16>(file, path, name, entry, device, hash),
        other => Err(Error::local(format!(
            "weights load as f32, bf16 or f16, not as {}",
            other.as_str()
        ))),
    }
}

/// Reads the stored bytes of a tensor; returns them with, when `hash` asks for it, their hexadecimal
/// SHA-256.
pub(super) fn bytes(
    file: &File,
    path: &Path,
    name: &str,
    entry: &Entry,
    hash: bool,
) -> Result<(Vec<u8>, Option<String>)> {
    let total = entry.bytes();
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(total)
        .map_err(|_| Error::io(path, io::Error::from(io::ErrorKind::OutOfMemory)))?;
    let range = Range {
        file,
        path,
        name,
        offset: entry.offset,
        bytes: total,
    };
    in_waves(range, &mut |wave| {
        bytes.extend_from_slice(wave);
        Ok(())
    })?;
    let sha256 = hash.then(|| hex(&Sha256::digest(&bytes)));
    Ok((bytes, sha256))
}

/// What a card asks of an element type.
#[cfg(feature = "cuda")]
pub(super) trait OnCard: CudaDType + DeviceRepr {}
#[cfg(feature = "cuda")]
impl<T: CudaDType + DeviceRepr> OnCard for T {}
#[cfg(not(feature = "cuda"))]
pub(super) trait OnCard {}
#[cfg(not(feature = "cuda"))]
impl<T> OnCard for T {}

/// An element type that weights are loaded to.
pub(super) trait Target: WithDType + OnCard + Send + Sync {
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

/// Where a tensor is collected.
enum Place<T> {
    Host(Vec<T>),
    #[cfg(feature = "cuda")]
    Card(Upload<T>),
}

impl<T: Target> Place<T> {
    fn new(path: &Path, entry: &Entry, device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let (Device::Cuda(device), 1..) = (device, entry.elements()) {
            return Ok(Self::Card(Upload::new(device, entry.elements())?));
        }
        let _ = device;
        let mut values = Vec::new();
        values
            .try_reserve_exact(entry.elements())
            .map_err(|_| Error::io(path, io::Error::from(io::ErrorKind::OutOfMemory)))?;
        Ok(Self::Host(values))
    }

    /// Appends the elements of `wave`.
    #[allow(unsafe_code)]
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps))]
    fn append(&mut self, wave: &[u8], stored: StoredDType) -> Result<Finite> {
        let count = wave.len() / stored.size();
        match self {
            Self::Host(values) => {
                values.reserve(count);
                let finite = convert(wave, stored, &mut values.spare_capacity_mut()[..count]);
                // SAFETY: `convert` has written all of the `count` elements.
                unsafe { values.set_len(values.len() + count) };
                Ok(finite)
            }
            #[cfg(feature = "cuda")]
            Self::Card(upload) => upload.append(count, |out| convert(wave, stored, out)),
        }
    }

    fn finish(self, shape: &[usize], device: &Device) -> candle_core::Result<Tensor> {
        match self {
            Self::Host(values) => Tensor::from_vec(values, shape, device),
            #[cfg(feature = "cuda")]
            Self::Card(upload) => upload.finish(shape),
        }
    }
}

fn stream<T: Target>(
    file: &File,
    path: &Path,
    name: &str,
    entry: &Entry,
    device: &Device,
    hash: bool,
) -> Result<(Tensor, Option<String>)> {
    let mut place = Place::<T>::new(path, entry, device)?;
    let mut hasher = hash.then(Sha256::new);
    let range = Range {
        file,
        path,
        name,
        offset: entry.offset,
        bytes: entry.bytes(),
    };
    in_waves(range, &mut |wave| {
        let ((), finite) = rayon::join(
            || {
                if let Some(hasher) = &mut hasher {
                    hasher.update(wave);
                }
            },
            || place.append(wave, entry.dtype),
        );
        match finite? {
            Finite::All => Ok(()),
            Finite::StoredNot => Err(not_finite(path, name)),
            Finite::TooLarge => Err(too_large(path, name, T::DTYPE)),
        }
    })?;
    let tensor = place
        .finish(&entry.shape, device)
        .context(|| format!("tensor `{name}` of {}", path.display()))?;
    Ok((tensor, hasher.map(|hasher| hex(&hasher.finalize()))))
}

/// NaN or infinity in the file.
pub(super) fn not_finite(path: &Path, name: &str) -> Error {
    Error::artifact(
        path,
        format!(
            "tensor `{name}` holds NaN or infinite values; the file is damaged or the training that made it \
             diverged: use another checkpoint"
        ),
    )
}

/// Finite in the file, infinite in the type asked for.
pub(super) fn too_large(path: &Path, name: &str, dtype: DType) -> Error {
    Error::caller(
        "dtype",
        format!(
            "tensor `{name}` of {} holds values that do not fit {}; use f32 or bf16",
            path.display(),
            dtype.as_str()
        ),
    )
}

/// What a run of bytes held.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Finite {
    All,
    /// Finite in the file, infinite in the target type.
    TooLarge,
    /// NaN or infinity in the file.
    StoredNot,
}

/// Writes the elements of `wave`, as many as `out` has; every one is written.
fn convert<T: Target>(wave: &[u8], stored: StoredDType, out: &mut [MaybeUninit<T>]) -> Finite {
    out.par_chunks_mut(PART)
        .zip(wave.par_chunks(PART * stored.size()))
        .map(|(out, bytes)| convert_part(bytes, stored, out))
        .max()
        .unwrap_or(Finite::All)
}

/// Writes every element of `out`.
fn convert_part<T: Target>(
    bytes: &[u8],
    stored: StoredDType,
    out: &mut [MaybeUninit<T>],
) -> Finite {
    // The exponent of NaN and infinity is all ones. Branch-free folds, so that the compiler vectorises.
    let bad = match stored {
        StoredDType::F64 => bytes.chunks_exact(8).fold(false, |bad, b| {
            bad | (u16::from_le_bytes([b[6], b[7]]) & 0x7ff0 == 0x7ff0)
        }),
        StoredDType::F32 => bytes.chunks_exact(4).fold(false, |bad, b| {
            bad | (u16::from_le_bytes([b[2], b[3]]) & 0x7f80 == 0x7f80)
        }),
        StoredDType::BF16 => bytes.chunks_exact(2).fold(false, |bad, b| {
            bad | (u16::from_le_bytes([b[0], b[1]]) & 0x7f80 == 0x7f80)
        }),
        StoredDType::F16 => bytes.chunks_exact(2).fold(false, |bad, b| {
            bad | (u16::from_le_bytes([b[0], b[1]]) & 0x7c00 == 0x7c00)
        }),
        // Codes are not read here: `load` refuses them.
        StoredDType::F8E4M3 | StoredDType::F8E5M2 | StoredDType::I8 | StoredDType::U8 => true,
    };
    let written = match stored {
        same if same == T::SAME => each(bytes, same.size(), out, T::from_le),
        StoredDType::F64 => each(bytes, 8, out, |b| {
            T::from_single(
                f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32,
            )
        }),
        StoredDType::F32 => each(bytes, 4, out, |b| {
            T::from_single(<f32 as Target>::from_le(b))
        }),
        StoredDType::F16 => each(bytes, 2, out, |b| {
            T::from_single(<f16 as Target>::from_le(b).to_f32())
        }),
        StoredDType::BF16 => each(bytes, 2, out, |b| {
            T::from_single(<bf16 as Target>::from_le(b).to_f32())
        }),
        // As above: every element must be written all the same.
        StoredDType::F8E4M3 | StoredDType::F8E5M2 | StoredDType::I8 | StoredDType::U8 => {
            each(bytes, 1, out, |_| T::from_single(0.0))
        }
    };
    match (bad, written) {
        (true, _) => Finite::StoredNot,
        (false, true) => Finite::All,
        (false, false) => Finite::TooLarge,
    }
}

/// Writes `of` of each run of `size` bytes; whether all results are finite.
fn each<T: Target>(
    bytes: &[u8],
    size: usize,
    out: &mut [MaybeUninit<T>],
    of: impl Fn(&[u8]) -> T,
) -> bool {
    out.iter_mut()
        .zip(bytes.chunks_exact(size))
        .fold(true, |finite, (out, bytes)| {
            let value = *out.write(of(bytes));
            finite & value.finite()
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
