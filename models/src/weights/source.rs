//! The tensors of one component, under diffusers names, read from its files on demand.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use leoma_kernels::{Fp8Scale, Fp8Weight};
use sha2::{Digest, Sha256};

use super::checkpoint::Component;
use super::folder::TensorFile;
use super::names;
use super::quant::{self, Place, Scales};
use super::stream::{self, Entry, StoredDType};
use super::var_builder::TensorSource;
use crate::error::{Error, Result};

/// The row a text encoder stores once or twice under two names.
const TIED: (&str, &str) = ("shared.weight", "encoder.embed_tokens.weight");

/// What has been loaded of a checkpoint, by `component/name`: shared by its components.
#[derive(Debug, Default)]
pub(super) struct LoadLog(Mutex<BTreeMap<String, String>>);

impl LoadLog {
    fn has(&self, component: Component, name: &str) -> bool {
        let key = format!("{component}/{name}");
        self.0.lock().is_ok_and(|lines| lines.contains_key(&key))
    }

    fn record(&self, component: Component, name: &str, entry: &Entry, sha256: &str) {
        let key = format!("{component}/{name}");
        let line = format!(
            "{key} {} {:?} {sha256}\n",
            entry.dtype.as_str(),
            entry.shape
        );
        self.insert(key, line);
    }

    /// Notes something that changes weights, by a key of its own.
    pub(super) fn insert(&self, key: String, line: String) {
        if let Ok(mut lines) = self.0.lock() {
            lines.insert(key, line);
        }
    }

    /// Hexadecimal SHA-256 over the lines `component/name dtype shape sha256`, sorted by name.
    pub(super) fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        if let Ok(lines) = self.0.lock() {
            for line in lines.values() {
                hasher.update(line.as_bytes());
            }
        }
        stream::hex(&hasher.finalize())
    }
}

/// Tensors of one component.
#[derive(Debug)]
pub(super) struct FileSource {
    component: Component,
    files: Vec<TensorFile>,
    /// Diffusers name → place.
    index: BTreeMap<String, Place>,
    /// Diffusers name of a quantised weight → its scales.
    scales: BTreeMap<String, Scales>,
    warnings: Vec<String>,
    log: Arc<LoadLog>,
}

impl FileSource {
    pub(super) fn new(
        component: Component,
        files: Vec<TensorFile>,
        log: Arc<LoadLog>,
    ) -> Result<Self> {
        let mut sorted = quant::sort(component, &files)?;
        let mut index: BTreeMap<String, Place> = BTreeMap::new();
        let mut scales = BTreeMap::new();
        for (number, stored) in sorted.weights {
            let name = names::to_diffusers(component, &stored);
            if let Some(found) = sorted.scales.remove(&stored) {
                scales.insert(name.clone(), found);
            }
            if let Some((_, other)) = index.insert(name.clone(), (number, stored.clone())) {
                return Err(Error::artifact(
                    files
                        .get(number)
                        .map_or_else(Default::default, |file| file.path.clone()),
                    format!("`{stored}` and `{other}` are both the tensor `{name}`"),
                ));
            }
        }
        let mut source = Self {
            component,
            files,
            index,
            scales,
            warnings: sorted.warnings,
            log,
        };
        if component == Component::TextEncoder {
            source.untie()?;
        }
        Ok(source)
    }

    /// The embedding goes by one name, whichever of the two are stored.
    fn untie(&mut self) -> Result<()> {
        let (name, alias) = TIED;
        let Some(place) = self.index.remove(alias) else {
            return Ok(());
        };
        if let (Some(a), Some(b)) = (self.entry(name), self.files[place.0].entries.get(&place.1)) {
            if a.shape != b.shape || a.dtype != b.dtype {
                return Err(Error::artifact(
                    &self.files[place.0].path,
                    format!(
                        "`{name}` {:?} and `{alias}` {:?} must be the same table",
                        a.shape, b.shape
                    ),
                ));
            }
        } else {
            self.index.insert(name.to_owned(), place);
            if let Some(scales) = self.scales.remove(alias) {
                self.scales.insert(name.to_owned(), scales);
            }
        }
        Ok(())
    }

    pub(super) fn files(&self) -> &[TensorFile] {
        &self.files
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        let (file, stored) = self.index.get(name)?;
        self.files[*file].entries.get(stored)
    }

    /// The file a tensor is in.
    pub(super) fn file_of(&self, name: &str) -> Option<&Path> {
        self.index
            .get(name)
            .map(|(file, _)| self.files[*file].path.as_path())
    }

    /// A tensor's file, its name there and its entry.
    pub(super) fn stored_at(&self, name: &str) -> Option<(&TensorFile, &str, &Entry)> {
        let place = self.index.get(name)?;
        let (file, entry) = self.place(place)?;
        Some((file, &place.1, entry))
    }

    /// What the codes of a quantised weight are multiplied by: one value, or one per row. Empty for
    /// weights that are stored as floats.
    pub(super) fn weight_scales(&self, name: &str) -> Result<Vec<f32>> {
        if !self
            .entry(name)
            .is_some_and(|entry| entry.dtype.is_quantised())
        {
            return Ok(Vec::new());
        }
        let place = self
            .scales
            .get(name)
            .and_then(|scales| scales.weight.as_ref());
        self.scale(name, "scale", place)
    }

    /// What was left aside, one sentence each.
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A tensor's file and entry.
    fn place(&self, (file, stored): &Place) -> Option<(&TensorFile, &Entry)> {
        let file = self.files.get(*file)?;
        Some((file, file.entries.get(stored)?))
    }

    fn find(&self, name: &str) -> Result<(&TensorFile, &Entry)> {
        self.index
            .get(name)
            .and_then(|place| self.place(place))
            .ok_or_else(|| {
                Error::artifact(
                    format!("{}/{name}", self.component),
                    "tensor is missing from the checkpoint",
                )
            })
    }

    /// Reads the codes of a quantised tensor.
    fn codes(&self, name: &str, file: &TensorFile, entry: &Entry) -> Result<Vec<u8>> {
        let hash = !self.log.has(self.component, name);
        let (codes, sha256) = stream::bytes(&file.file, &file.path, name, entry, hash)?;
        if let Some(sha256) = sha256 {
            self.log.record(self.component, name, entry, &sha256);
        }
        Ok(codes)
    }

    /// Reads the scale at `place`; 1 where there is none. It is noted as `<weight>.<what>`, whatever the
    /// convention calls it.
    fn scale(&self, name: &str, what: &str, place: Option<&Place>) -> Result<Vec<f32>> {
        let Some((place, (file, entry))) =
            place.and_then(|place| Some((place, self.place(place)?)))
        else {
            return Ok(vec![1.0]);
        };
        let (scale, sha256) = stream::load(
            &file.file,
            &file.path,
            &place.1,
            entry,
            DType::F32,
            &Device::Cpu,
            true,
        )?;
        if let Some(sha256) = sha256 {
            self.log
                .record(self.component, &format!("{name}.{what}"), entry, &sha256);
        }
        Ok(scale.flatten_all()?.to_vec1()?)
    }

    /// Whether the file asks for the product with the dequantised weight.
    pub(super) fn in_full_precision(&self, name: &str) -> bool {
        self.scales
            .get(name)
            .is_some_and(|scales| scales.full_precision)
    }

    /// A stored e4m3 matrix as it is; `None` for tensors stored in any other way.
    fn stored_fp8(&self, name: &str) -> Result<Option<Fp8Weight>> {
        let (file, entry) = self.find(name)?;
        let &[rows, columns] = entry.shape.as_slice() else {
            return Ok(None);
        };
        if entry.dtype != StoredDType::F8E4M3 {
            return Ok(None);
        }
        let scales = self.scales.get(name).cloned().unwrap_or_default();
        let codes = self.codes(name, file, entry)?;
        if !quant::all_finite(&codes, entry.dtype) {
            return Err(stream::not_finite(&file.path, name));
        }
        let scale = self.scale(name, "scale", scales.weight.as_ref())?;
        let weight = Fp8Weight::new(
            Tensor::from_vec(codes, (rows, columns), &Device::Cpu)?,
            Tensor::new(scale, &Device::Cpu)?,
        )?;
        if scales.full_precision {
            return Ok(Some(weight.weight_only()));
        }
        // An input scale of 1 says that nothing was calibrated.
        match self
            .scale(name, "input_scale", scales.input.as_ref())?
            .as_slice()
        {
            [scale] if *scale != 1.0 => {
                weight.with_input_scale(*scale).map(Some).map_err(|error| {
                    Error::artifact(&file.path, format!("layer of `{name}`: {error}"))
                })
            }
            _ => Ok(Some(weight)),
        }
    }

    /// Names, shapes and stored types.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.index
            .keys()
            .filter_map(|name| Some((name.as_str(), self.entry(name)?)))
    }

    /// Bytes per stored type.
    pub(super) fn stored_bytes(&self) -> BTreeMap<StoredDType, u64> {
        let mut bytes = BTreeMap::new();
        for (_, entry) in self.entries() {
            *bytes.entry(entry.dtype).or_default() += entry.bytes() as u64;
        }
        bytes
    }
}

impl TensorSource for FileSource {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.entry(name).map(|entry| entry.shape.clone())
    }

    fn names(&self) -> Vec<String> {
        self.index.keys().cloned().collect()
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let (file, entry) = self.find(name)?;
        if entry.dtype.is_quantised() {
            let codes = self.codes(name, file, entry)?;
            let scales = self
                .scales
                .get(name)
                .and_then(|scales| scales.weight.as_ref());
            let scales = self.scale(name, "scale", scales)?;
            return quant::dequantise(&codes, &scales, entry, (&file.path, name), dtype, device);
        }
        // A tensor that is read again (streamed blocks, a network dropped between clips) is in the log.
        let hash = !self.log.has(self.component, name);
        let (tensor, sha256) =
            stream::load(&file.file, &file.path, name, entry, dtype, device, hash)?;
        if let Some(sha256) = sha256 {
            self.log.record(self.component, name, entry, &sha256);
        }
        Ok(tensor)
    }

    fn load_fp8(&self, name: &str, device: &Device) -> Result<Fp8Weight> {
        let weight = if let Some(weight) = self.stored_fp8(name)? {
            weight
        } else {
            let weight = self.load(name, DType::F32, &Device::Cpu)?;
            Fp8Weight::quantize(&weight, Fp8Scale::PerRow)?
        };
        Ok(weight.to_device(device)?)
    }
}
