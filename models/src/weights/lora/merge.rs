//! A source whose tensors have LoRAs added while they are loaded.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use leoma_kernels::{Fp8Scale, Fp8Weight};

use super::file::split;
use crate::error::{Context, Error, Result};
use crate::weights::folder::TensorFile;
use crate::weights::source::FileSource;
use crate::weights::stream;
use crate::weights::var_builder::TensorSource;

/// Something added to a tensor, times a factor.
#[derive(Debug, Clone)]
pub(in crate::weights) struct Patch {
    pub(super) file: Arc<TensorFile>,
    pub(super) factor: f32,
    pub(super) change: Change,
}

/// What is added: names of tensors in the LoRA file.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// `up @ down`
    Product { down: String, up: String },
    /// The tensor itself.
    Sum(String),
}

impl Patch {
    fn read(&self, name: &str, device: &Device) -> Result<Tensor> {
        let file = &self.file;
        let entry = file
            .entries
            .get(name)
            .ok_or_else(|| Error::artifact(&file.path, format!("tensor `{name}` is missing")))?;
        let (tensor, _) = stream::load(
            &file.file,
            &file.path,
            name,
            entry,
            DType::F32,
            device,
            false,
        )?;
        Ok(tensor)
    }

    /// `weight + factor * change`, in f32.
    fn add_to(&self, weight: &Tensor) -> Result<Tensor> {
        let device = weight.device();
        let change = match &self.change {
            Change::Sum(name) => self.read(name, device)?,
            Change::Product { down, up } => {
                // Matrices of a convolution have more axes: [r, in, kt, kh, kw] → [r, in * kt * kh * kw].
                let matrix = |name| {
                    let tensor = self.read(name, device)?;
                    let shape = split(tensor.dims());
                    Ok::<_, Error>(tensor.reshape(shape)?)
                };
                matrix(up)?.matmul(&matrix(down)?)?
            }
        };
        let change = (change * f64::from(self.factor))?.reshape(weight.shape())?;
        Ok((weight + change)?)
    }
}

/// The tensors of an expert with their changes.
#[derive(Debug)]
pub(in crate::weights) struct MergedSource {
    base: Arc<FileSource>,
    patches: BTreeMap<String, Vec<Patch>>,
}

impl MergedSource {
    pub(in crate::weights) fn new(base: Arc<FileSource>) -> Self {
        Self {
            base,
            patches: BTreeMap::new(),
        }
    }

    /// Adds the changes of a file after those that are there.
    pub(in crate::weights) fn add(&mut self, patches: BTreeMap<String, Vec<Patch>>) {
        for (tensor, mut patches) in patches {
            self.patches.entry(tensor).or_default().append(&mut patches);
        }
    }

    /// The changed tensor in f32.
    fn merged(&self, name: &str, patches: &[Patch], device: &Device) -> Result<Tensor> {
        let mut weight = self.base.load(name, DType::F32, device)?;
        for patch in patches {
            weight = patch.add_to(&weight).map_err(|error| match error {
                Error::Tensor { source, .. } => Error::Tensor {
                    context: format!("merging {} into `{name}`", patch.file.path.display()),
                    source,
                },
                other => other,
            })?;
        }
        Ok(weight)
    }

    /// Refuses sums that are not finite in their type.
    fn check_finite(name: &str, patches: &[Patch], weight: &Tensor) -> Result<()> {
        let largest = weight
            .to_dtype(DType::F32)
            .and_then(|weight| weight.abs()?.sum_all()?.to_scalar::<f32>())
            .context(|| format!("merging into `{name}`"))?;
        if largest.is_finite() {
            return Ok(());
        }
        let path = patches
            .first()
            .map_or_else(PathBuf::new, |patch| patch.file.path.clone());
        Err(Error::artifact(
            path,
            format!(
                "makes values of `{name}` that {} cannot hold; lower its strength, or use f32 or bf16",
                weight.dtype().as_str()
            ),
        ))
    }
}

impl TensorSource for MergedSource {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.base.shape(name)
    }

    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(patches) = self.patches.get(name) else {
            return self.base.load(name, dtype, device);
        };
        let weight = self.merged(name, patches, device)?.to_dtype(dtype)?;
        Self::check_finite(name, patches, &weight)?;
        Ok(weight)
    }

    fn load_fp8(&self, name: &str, device: &Device) -> Result<Fp8Weight> {
        let Some(patches) = self.patches.get(name) else {
            return self.base.load_fp8(name, device);
        };
        let weight = self.merged(name, patches, &Device::Cpu)?;
        Self::check_finite(name, patches, &weight)?;
        let mut weight = Fp8Weight::quantize(&weight, Fp8Scale::PerRow)?;
        if self.base.in_full_precision(name) {
            weight = weight.weight_only();
        }
        Ok(weight.to_device(device)?)
    }
}
