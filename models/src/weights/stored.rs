//! Weights as they lie in their files, for those who read the bytes themselves: audits and comparisons.
//!
//! Headers go through the same checks and names through the same map as when a checkpoint is loaded.
//! Nothing is compared with configurations, so that a folder that would not load can still be looked at.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::{Component, Layout, ModelKind, Scan};
use super::files::ModelFiles;
use super::folder::TensorFile;
use super::inspect::Problem;
use super::names::PREFIXES;
use super::source::{FileSource, LoadLog};
use super::stream::{Entry, StoredDType};
use super::{pth, safetensors};
use crate::error::{Error, Result};

/// A tensor in a file: row-major, little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Name in the file.
    pub name: String,
    /// Stored type.
    pub dtype: StoredDType,
    /// Lengths of its axes.
    pub shape: Vec<usize>,
    /// Position of the first byte in the file.
    pub offset: u64,
}

impl StoredTensor {
    fn new(name: &str, entry: &Entry) -> Self {
        Self {
            name: name.to_owned(),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            offset: entry.offset,
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        self.elements() as u64 * self.dtype.size() as u64
    }
}

/// The tensors of one open file, by position. `path` is for messages, and its ending says whether the file
/// is safetensors or a PyTorch archive.
///
/// # Errors
/// [`Error::Artifact`] for anything that loading would refuse: a long header, names twice, ranges that
/// overlap or leave the file, types that weights cannot have, pickles with more than tensors in them.
pub fn stored_tensors(file: &File, path: &Path) -> Result<Vec<StoredTensor>> {
    let safe = path
        .extension()
        .is_some_and(|ending| ending == "safetensors");
    let entries = if safe {
        safetensors::read_header(file, path, safetensors::Counters::Refused)?.entries
    } else {
        pth::read_header(file, path)?
    };
    let mut tensors: Vec<_> = entries
        .iter()
        .map(|(name, entry)| StoredTensor::new(name, entry))
        .collect();
    tensors.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
    Ok(tensors)
}

/// A weight of a network, under its diffusers name.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredWeight {
    /// The network. A transformer in a file of its own counts as the only or high-noise one.
    pub component: Component,
    /// Diffusers name, whatever the file's naming.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Where it lies in the file, under the file's name for it.
    pub tensor: StoredTensor,
    /// What codes are multiplied by: one value, or one per row. Empty for types that are no codes.
    pub scales: Vec<f32>,
}

/// The weights of a checkpoint folder of either layout, of one file, or of a folder with a file for each network, as
/// collections for ComfyUI are.
#[derive(Debug)]
pub struct StoredWeights {
    /// The layout of a folder, when it can be told.
    pub layout: Option<Layout>,
    /// The model, when it can be told.
    pub kind: Option<ModelKind>,
    /// Channels of an attention head of the transformer, where a configuration says it.
    pub head_dim: Option<usize>,
    /// All weights, by component and name.
    pub weights: Vec<StoredWeight>,
    /// What is wrong with the folder; weights of networks that cannot be read are missing.
    pub problems: Vec<Problem>,
}

impl StoredWeights {
    /// Reads headers, names and scales.
    ///
    /// # Errors
    /// [`Error::Artifact`] or [`Error::Io`] when `path` is neither a folder nor a file of weights.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_file() {
            return Self::file(path);
        }
        let scan = Scan::run(&ModelFiles::new(path))?;
        let mut stored = Self {
            layout: scan.layout,
            kind: scan.kind,
            head_dim: scan
                .transformer
                .as_ref()
                .map(|config| config.attention_head_dim),
            weights: Vec::new(),
            problems: scan
                .problems
                .into_iter()
                .map(|error| Problem::new(path, error))
                .collect(),
        };
        for (&component, source) in &scan.sources {
            stored.add(component, source)?;
        }
        if stored.layout.is_none() && stored.weights.is_empty() {
            stored.loose_files(path)?;
        }
        Ok(stored)
    }

    /// Adds the networks of safetensors files that lie in a folder of no layout. Where two files hold the same
    /// network, nothing says which of them counts: then none does.
    fn loose_files(&mut self, folder: &Path) -> Result<()> {
        let entries = std::fs::read_dir(folder).map_err(|source| Error::io(folder, source))?;
        let (mut found, mut problems) = (BTreeMap::new(), Vec::new());
        for entry in entries {
            let path = entry.map_err(|source| Error::io(folder, source))?.path();
            if path
                .extension()
                .is_none_or(|ending| ending != "safetensors")
                || !path.is_file()
            {
                continue;
            }
            match TensorFile::open(&path) {
                Ok(file) => {
                    let Some(component) = component_of(&file) else {
                        continue;
                    };
                    if found.insert(component, file).is_some() {
                        return Ok(());
                    }
                }
                Err(error) => problems.push(Problem::new(&path, error)),
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        // That it has no layout says nothing more.
        self.problems = problems;
        for (component, file) in found {
            let source = FileSource::new(component, vec![file], Arc::new(LoadLog::default()))?;
            self.add(component, &source)?;
        }
        Ok(())
    }

    fn file(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let component = component_of(&file).ok_or_else(|| {
            Error::artifact(
                path,
                "holds no network of Wan (no patch, token or decoder input layer under a known name); name \
                 the file of a transformer, text encoder or VAE",
            )
        })?;
        let source = FileSource::new(component, vec![file], Arc::new(LoadLog::default()))?;
        let mut stored = Self {
            layout: None,
            kind: None,
            head_dim: None,
            weights: Vec::new(),
            problems: Vec::new(),
        };
        stored.add(component, &source)?;
        Ok(stored)
    }

    fn add(&mut self, component: Component, source: &FileSource) -> Result<()> {
        for (name, _) in source.entries() {
            let Some((file, stored, entry)) = source.stored_at(name) else {
                continue;
            };
            self.weights.push(StoredWeight {
                component,
                name: name.to_owned(),
                path: file.path.clone(),
                tensor: StoredTensor::new(stored, entry),
                scales: source.weight_scales(name)?,
            });
        }
        Ok(())
    }
}

/// The network in a single file, from the name of its first layer.
fn component_of(file: &TensorFile) -> Option<Component> {
    let has = |name: &str| {
        file.entries.contains_key(name)
            || PREFIXES
                .iter()
                .any(|prefix| file.entries.contains_key(&format!("{prefix}{name}")))
    };
    if has("patch_embedding.weight") {
        Some(Component::Transformer)
    } else if has("shared.weight")
        || has("encoder.embed_tokens.weight")
        || has("token_embedding.weight")
    {
        Some(Component::TextEncoder)
    } else if has("decoder.conv1.weight") || has("decoder.conv_in.weight") {
        Some(Component::Vae)
    } else {
        None
    }
}
