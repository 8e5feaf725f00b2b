//! The tensors of one component, under diffusers names, read from its files on demand.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use super::checkpoint::Component;
use super::folder::TensorFile;
use super::names;
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
    /// Diffusers name → (file, name in the file).
    index: BTreeMap<String, (usize, String)>,
    log: Arc<LoadLog>,
}

impl FileSource {
    pub(super) fn new(
        component: Component,
        files: Vec<TensorFile>,
        log: Arc<LoadLog>,
    ) -> Result<Self> {
        let mut index: BTreeMap<String, (usize, String)> = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for stored in file.entries.keys() {
                let name = names::to_diffusers(component, stored);
                if let Some((_, other)) = index.insert(name.clone(), (number, stored.clone())) {
                    return Err(Error::artifact(
                        &file.path,
                        format!("`{stored}` and `{other}` are both the tensor `{name}`"),
                    ));
                }
            }
        }
        let mut source = Self {
            component,
            files,
            index,
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
        let place = self.index.get(name);
        let Some((file, entry)) = place.and_then(|(file, stored)| {
            Some((&self.files[*file], self.files[*file].entries.get(stored)?))
        }) else {
            return Err(Error::artifact(
                format!("{}/{name}", self.component),
                "tensor is missing from the checkpoint",
            ));
        };
        // A tensor that is read again (streamed blocks, a network dropped between clips) is in the log.
        let hash = !self.log.has(self.component, name);
        let (tensor, sha256) =
            stream::load(&file.file, &file.path, name, entry, dtype, device, hash)?;
        if let Some(sha256) = sha256 {
            self.log.record(self.component, name, entry, &sha256);
        }
        Ok(tensor)
    }
}
