//! A view of named tensors that models are built from.
//!
//! Models ask for tensors by their diffusers name and shape; where a tensor lies on disk, in which
//! format, under which name and in which type is the business of the [`TensorSource`] behind it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use leoma_kernels::{Fp8Scale, Fp8Weight};

use super::quant;
use crate::error::{Error, Result};
use crate::rounding::Rounding;

/// Named tensors of one component (transformer, VAE, text encoder), under diffusers names.
pub trait TensorSource: Send + Sync + std::fmt::Debug {
    /// Shape of a tensor, or `None` when there is none of this name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// All names, sorted.
    fn names(&self) -> Vec<String>;

    /// Reads one tensor, casts it to `dtype` and moves it to `device`.
    ///
    /// # Errors
    /// [`Error::Artifact`] when the tensor is missing, unreadable or holds NaN or infinities.
    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor>;

    /// Reads the weight `[out, in]` of a linear layer in e4m3: as stored where it is stored so, else
    /// rounded with a scale per row.
    ///
    /// # Errors
    /// As [`TensorSource::load`].
    fn load_fp8(&self, name: &str, device: &Device) -> Result<Fp8Weight> {
        let weight = self.load(name, DType::F32, &Device::Cpu)?;
        Ok(Fp8Weight::quantize(&weight, Fp8Scale::PerRow)?.to_device(device)?)
    }
}

/// A prefix into a [`TensorSource`] with the type and device its tensors are loaded to.
#[derive(Debug, Clone)]
pub struct VarBuilder {
    source: Arc<dyn TensorSource>,
    prefix: String,
    dtype: DType,
    fp8: bool,
    rounding: Rounding,
    device: Device,
}

impl VarBuilder {
    /// The root of a source.
    pub fn new(source: Arc<dyn TensorSource>, dtype: DType, device: &Device) -> Self {
        Self {
            source,
            prefix: String::new(),
            dtype,
            fp8: false,
            rounding: Rounding::default(),
            device: device.clone(),
        }
    }

    /// The same place, with the large linear layers of a transformer in e4m3 or not.
    pub fn with_fp8(&self, fp8: bool) -> Self {
        Self {
            fp8,
            ..self.clone()
        }
    }

    /// Goes one name further down: `vb.pp("blocks").pp(0)` → `blocks.0`.
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        Self {
            prefix: self.full(&name.to_string()),
            ..self.clone()
        }
    }

    /// The same place with another target type.
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self {
            dtype,
            ..self.clone()
        }
    }

    /// The same place for a model that rounds as `rounding` says.
    pub fn with_rounding(&self, rounding: Rounding) -> Self {
        Self {
            rounding,
            ..self.clone()
        }
    }

    /// Where the tensors come from.
    #[cfg(feature = "cuda")]
    pub(crate) fn source(&self) -> Arc<dyn TensorSource> {
        Arc::clone(&self.source)
    }

    /// The same place in another source.
    #[cfg(feature = "cuda")]
    pub(crate) fn with_source(&self, source: Arc<dyn TensorSource>) -> Self {
        Self {
            source,
            ..self.clone()
        }
    }

    fn full(&self, name: &str) -> String {
        match (self.prefix.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (_, true) => self.prefix.clone(),
            _ => format!("{}.{name}", self.prefix),
        }
    }

    /// Type that [`VarBuilder::get`] casts to.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the model rounds.
    pub fn rounding(&self) -> Rounding {
        self.rounding
    }

    /// Type of what the model keeps wider than its weights, see [`Rounding::wide`].
    pub fn wide(&self) -> DType {
        self.rounding.wide(self.dtype)
    }

    /// Device that tensors are moved to.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether a tensor of this name exists.
    pub fn contains(&self, name: &str) -> bool {
        self.source.shape(&self.full(name)).is_some()
    }

    /// Loads `name` in the builder's type; the shape must be exactly `shape`.
    pub fn get(&self, shape: impl Into<Vec<usize>>, name: &str) -> Result<Tensor> {
        self.get_as(shape, name, self.dtype)
    }

    /// Loads `name` in float32 whatever the builder's type is (norm weights, modulation tables).
    pub fn get_f32(&self, shape: impl Into<Vec<usize>>, name: &str) -> Result<Tensor> {
        self.get_as(shape, name, DType::F32)
    }

    /// Whether the weight `name` is to be loaded with [`VarBuilder::get_fp8`].
    pub fn is_fp8(&self, name: &str) -> bool {
        self.fp8 && quant::is_fp8_layer(&self.full(name))
    }

    /// Loads the weight `name` of a linear layer in e4m3; the shape must be exactly `[out, in]`.
    pub fn get_fp8(&self, shape: [usize; 2], name: &str) -> Result<Fp8Weight> {
        let name = self.full(name);
        self.check(&name, &shape)?;
        self.source.load_fp8(&name, &self.device)
    }

    fn get_as(&self, shape: impl Into<Vec<usize>>, name: &str, dtype: DType) -> Result<Tensor> {
        let name = self.full(name);
        self.check(&name, &shape.into())?;
        self.source.load(&name, dtype, &self.device)
    }

    /// The tensor must be there in this shape.
    fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        match self.source.shape(name) {
            None => Err(Error::artifact(
                name,
                "tensor is missing from the checkpoint",
            )),
            Some(found) if found != shape => Err(Error::artifact(
                name,
                format!("tensor has shape {found:?}, the configuration asks for {shape:?}"),
            )),
            Some(_) => Ok(()),
        }
    }
}

/// Tensors held in memory: for tests and for checkpoints that are made rather than read.
#[derive(Debug, Default)]
pub struct MemorySource {
    tensors: BTreeMap<String, Tensor>,
    loaded: Mutex<Vec<String>>,
}

impl MemorySource {
    /// Wraps tensors under their diffusers names.
    pub fn new(tensors: BTreeMap<String, Tensor>) -> Self {
        Self {
            tensors,
            loaded: Mutex::default(),
        }
    }

    /// Names in the order in which they were loaded: lets a test prove that a model consumes exactly
    /// the tensors its specification lists.
    pub fn loaded(&self) -> Vec<String> {
        self.loaded
            .lock()
            .map(|names| names.clone())
            .unwrap_or_default()
    }
}

impl TensorSource for MemorySource {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|tensor| tensor.dims().to_vec())
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::artifact(name, "tensor is missing from the checkpoint"))?;
        if let Ok(mut names) = self.loaded.lock() {
            names.push(name.to_owned());
        }
        Ok(tensor.to_device(device)?.to_dtype(dtype)?.contiguous()?)
    }
}
