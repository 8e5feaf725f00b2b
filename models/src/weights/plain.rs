//! A folder as the `transformers` library saves models: JSON files and safetensors, one or sharded with an
//! index, tensors under the names they are stored by. For networks that are no part of a Wan checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::folder::{Folder, TensorFile};
use super::stream;
use super::var_builder::TensorSource;
use crate::error::{Error, Result};

/// An open folder: headers are read, tensors are not.
#[derive(Debug)]
pub(crate) struct PlainFolder {
    folder: Folder,
    source: Arc<PlainSource>,
}

impl PlainFolder {
    /// Opens a folder that must hold `config.json` and safetensors.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let folder = Folder::open(root)?.with_counters();
        if !folder.has_file("config.json") {
            return Err(Error::artifact(
                folder.path("config.json"),
                "missing; give the folder of a model as published, with config.json, safetensors and \
                 tokenizer.json",
            ));
        }
        let files = folder.safetensors(Path::new(""))?;
        Ok(Self {
            folder,
            source: Arc::new(PlainSource::new(files)?),
        })
    }

    /// The path of a file of the folder, for messages.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }

    /// Reads a JSON object; `None` when there is no such file.
    pub(crate) fn json(&self, name: &str) -> Result<Option<Map<String, Value>>> {
        if !self.folder.has_file(name) {
            return Ok(None);
        }
        self.folder.json(name).map(Some)
    }

    /// Reads a file of at most `limit` bytes.
    pub(crate) fn bytes(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.folder.read(&self.path(name), limit)
    }

    /// The tensors.
    pub(crate) fn source(&self) -> Arc<PlainSource> {
        Arc::clone(&self.source)
    }
}

/// Tensors of a folder under their stored names.
#[derive(Debug)]
pub(crate) struct PlainSource {
    files: Vec<TensorFile>,
    /// Name → file.
    index: BTreeMap<String, usize>,
    /// Name → line for the digest, of what has been loaded.
    loaded: Mutex<BTreeMap<String, String>>,
}

impl PlainSource {
    fn new(files: Vec<TensorFile>) -> Result<Self> {
        let mut index = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for (name, entry) in &file.entries {
                if entry.dtype.size() == 1 {
                    return Err(Error::artifact(
                        &file.path,
                        format!(
                            "tensor `{name}` is stored as {}; quantised models of this kind are not \
                             supported: use the bf16 files",
                            entry.dtype.as_str()
                        ),
                    ));
                }
                index.insert(name.clone(), number);
            }
        }
        Ok(Self {
            files,
            index,
            loaded: Mutex::default(),
        })
    }

    /// Hexadecimal SHA-256 over the lines `name dtype shape sha256` of everything loaded so far, sorted by
    /// name; `sha256` is over the stored bytes. It does not depend on sharding or on the type loaded to.
    pub(crate) fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        if let Ok(lines) = self.loaded.lock() {
            for line in lines.values() {
                hasher.update(line.as_bytes());
            }
        }
        stream::hex(&hasher.finalize())
    }
}

impl TensorSource for PlainSource {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let file = self.files.get(*self.index.get(name)?)?;
        Some(file.entries.get(name)?.shape.clone())
    }

    fn names(&self) -> Vec<String> {
        self.index.keys().cloned().collect()
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let found = self
            .index
            .get(name)
            .and_then(|number| self.files.get(*number))
            .and_then(|file| Some((file, file.entries.get(name)?)));
        let Some((file, entry)) = found else {
            return Err(Error::artifact(
                name,
                "tensor is missing from the checkpoint",
            ));
        };
        let known = |lines: &BTreeMap<String, String>| lines.contains_key(name);
        let hash = !self.loaded.lock().is_ok_and(|lines| known(&lines));
        let (tensor, sha256) =
            stream::load(&file.file, &file.path, name, entry, dtype, device, hash)?;
        if let (Some(sha256), Ok(mut lines)) = (sha256, self.loaded.lock()) {
            let line = format!(
                "{name} {} {:?} {sha256}\n",
                entry.dtype.as_str(),
                entry.shape
            );
            lines.insert(name.to_owned(), line);
        }
        Ok(tensor)
    }
}
