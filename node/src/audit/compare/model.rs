//! A model to be compared: its weights by name, read piece by piece and brought to a common grid of values.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leoma_kernels::canonical::{StoredAs, canonical};
use leoma_models::{Error, Result};

use crate::audit::weights::{Component, StoredDType, StoredTensor, StoredWeights};

/// Name of a weight: its network and its diffusers name.
pub(super) type Name = (Component, String);

/// A weight and its file.
#[derive(Debug, Clone)]
pub(super) struct Weight {
    file: Arc<File>,
    path: PathBuf,
    tensor: StoredTensor,
    scales: Vec<f32>,
    /// Values of the codes of an 8-bit type.
    codes: Option<Arc<[f32; 256]>>,
}

/// The weights of a model.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) weights: BTreeMap<Name, Weight>,
    /// Channels of an attention head.
    pub(super) head_dim: Option<usize>,
    /// What keeps parts of it from being read.
    pub(super) problems: Vec<String>,
}

impl Model {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let stored = StoredWeights::open(path)?;
        let mut files: BTreeMap<PathBuf, Arc<File>> = BTreeMap::new();
        let mut weights = BTreeMap::new();
        for weight in stored.weights {
            let file = if let Some(file) = files.get(&weight.path) {
                Arc::clone(file)
            } else {
                let file =
                    File::open(&weight.path).map_err(|source| Error::io(&weight.path, source))?;
                let file = Arc::new(file);
                files.insert(weight.path.clone(), Arc::clone(&file));
                file
            };
            weights.insert(
                (weight.component, weight.name),
                Weight {
                    file,
                    path: weight.path,
                    codes: weight.tensor.dtype.code_values().map(Arc::new),
                    tensor: weight.tensor,
                    scales: weight.scales,
                },
            );
        }
        if weights.is_empty() {
            let problem = stored
                .problems
                .first()
                .map_or_else(String::new, |p| format!("; {p}"));
            return Err(Error::artifact(
                path,
                format!("no weights of Wan can be read here{problem}"),
            ));
        }
        Ok(Self {
            weights,
            head_dim: stored.head_dim,
            problems: stored.problems.iter().map(ToString::to_string).collect(),
        })
    }
}

/// How finely values are told apart; tensors are compared on the coarsest grid among them, as the finer
/// ones would differ by rounding alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grid {
    Single,
    Bf16,
    /// 8-bit codes with scales.
    Codes,
}

impl Weight {
    pub(super) fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    pub(super) fn elements(&self) -> usize {
        self.tensor.elements()
    }

    pub(super) fn dtype(&self) -> StoredDType {
        self.tensor.dtype
    }

    pub(super) fn grid(&self) -> Grid {
        match self.tensor.dtype {
            StoredDType::F64 | StoredDType::F32 => Grid::Single,
            StoredDType::F16 | StoredDType::BF16 => Grid::Bf16,
            _ => Grid::Codes,
        }
    }

    /// Where it is: its file, its name there, and whether it has scales.
    pub(super) fn place(&self) -> (&Path, &str, bool) {
        (&self.path, &self.tensor.name, !self.scales.is_empty())
    }

    /// The stored bytes of `count` elements from `first` on.
    fn bytes(&self, first: usize, count: usize, out: &mut Vec<u8>) -> Result<()> {
        let size = self.tensor.dtype.size();
        out.resize(count * size, 0);
        let offset = self.tensor.offset + (first * size) as u64;
        self.file.read_exact_at(out, offset).map_err(|source| {
            if source.kind() == std::io::ErrorKind::UnexpectedEof {
                let name = &self.tensor.name;
                Error::artifact(
                    &self.path,
                    format!("ends inside tensor `{name}`; it was cut meanwhile"),
                )
            } else {
                Error::io(&self.path, source)
            }
        })
    }

    /// Little-endian values on a grid of 32 or 16 bits: f32, or canonical bf16. `scratch` is for the
    /// stored bytes.
    pub(super) fn read(
        &self,
        first: usize,
        count: usize,
        grid: Grid,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let direct = match (self.tensor.dtype, grid) {
            (StoredDType::F32, Grid::Single) => true,
            // Signs of zeros do not matter to differences; NaN shows in them.
            (StoredDType::BF16, Grid::Bf16 | Grid::Codes) => true,
            _ => false,
        };
        if direct {
            return self.bytes(first, count, out);
        }
        self.bytes(first, count, scratch)?;
        if grid == Grid::Single {
            let mut values = Vec::with_capacity(count);
            self.widen(first, scratch, &mut values);
            out.clear();
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            return Ok(());
        }
        out.resize(2 * count, 0);
        let stored = match self.tensor.dtype {
            StoredDType::F64 => StoredAs::F64,
            StoredDType::F32 => StoredAs::F32,
            StoredDType::F16 => StoredAs::F16,
            StoredDType::BF16 => StoredAs::Bf16,
            _ => {
                let mut values = Vec::with_capacity(count);
                self.widen(first, scratch, &mut values);
                let wide: Vec<u8> = values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                canonical(StoredAs::F32, &wide, out);
                return Ok(());
            }
        };
        canonical(stored, scratch, out);
        Ok(())
    }

    /// Values in f32.
    pub(super) fn values(&self, first: usize, count: usize) -> Result<Vec<f32>> {
        let mut bytes = Vec::new();
        self.bytes(first, count, &mut bytes)?;
        let mut values = Vec::with_capacity(count);
        self.widen(first, &bytes, &mut values);
        Ok(values)
    }

    fn widen(&self, first: usize, bytes: &[u8], out: &mut Vec<f32>) {
        match self.tensor.dtype {
            StoredDType::F64 => {
                out.extend(
                    bytes
                        .as_chunks::<8>()
                        .0
                        .iter()
                        .map(|b| f64::from_le_bytes(*b) as f32),
                );
            }
            StoredDType::F32 => {
                out.extend(
                    bytes
                        .as_chunks::<4>()
                        .0
                        .iter()
                        .map(|b| f32::from_le_bytes(*b)),
                );
            }
            StoredDType::BF16 => out.extend(
                bytes
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)),
            ),
            StoredDType::F16 => {
                out.extend(
                    bytes
                        .as_chunks::<2>()
                        .0
                        .iter()
                        .map(|b| half_value(u16::from_le_bytes(*b))),
                );
            }
            _ => out.extend(bytes.iter().enumerate().map(|(i, code)| {
                let value = self
                    .codes
                    .as_ref()
                    .map_or(0.0, |codes| codes[usize::from(*code)]);
                value * self.scale_at(first + i)
            })),
        }
    }

    /// The scale of an element's code.
    fn scale_at(&self, element: usize) -> f32 {
        match self.scales.len() {
            0 => 1.0,
            1 => self.scales[0],
            rows => {
                let width = (self.elements() / rows).max(1);
                self.scales.get(element / width).copied().unwrap_or(1.0)
            }
        }
    }

    /// Whether where an element lies has no part in how it is stored.
    pub(super) fn has_one_scale(&self) -> bool {
        self.scales.len() <= 1
    }

    /// `values`, which lie at `first` in a tensor of this shape, as this tensor's 8-bit type and scales
    /// would store them.
    pub(super) fn quantise(&self, first: usize, values: &mut [f32]) {
        let Some(codes) = &self.codes else {
            return;
        };
        let mut sorted: Vec<f32> = codes
            .iter()
            .copied()
            .filter(|value| value.is_finite())
            .collect();
        sorted.sort_by(f32::total_cmp);
        sorted.dedup();
        for (i, value) in values.iter_mut().enumerate() {
            let scale = self.scale_at(first + i);
            let wanted = *value / scale;
            let above = sorted.partition_point(|code| *code < wanted);
            let low = sorted.get(above.saturating_sub(1)).copied().unwrap_or(0.0);
            let high = sorted.get(above).copied().unwrap_or(low);
            let nearest = if wanted - low < high - wanted {
                low
            } else {
                high
            };
            *value = nearest * scale;
        }
    }
}

/// The value of a 16-bit float of IEEE 754.
fn half_value(half: u16) -> f32 {
    let size = f32::from_bits(u32::from(half & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    let size = if half & 0x7c00 == 0x7c00 {
        f32::from_bits(0x7f80_0000 | u32::from(half & 0x3ff) << 13)
    } else {
        size
    };
    if half & 0x8000 == 0 { size } else { -size }
}
