//! Files of a checkpoint folder: nothing outside it is ever opened.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component as Part, Path, PathBuf};

use serde::Deserialize;

use super::safetensors::Counters;
use super::stream::Entry;
use super::{pth, safetensors};
use crate::error::{Error, Result};

/// Largest configuration file.
const MAX_CONFIG: u64 = 1 << 20;
/// Largest shard index: 20 000 names with their files.
const MAX_INDEX: u64 = 16 << 20;

/// A checkpoint folder, and the blob folder of its cache when it is a Hugging Face cache snapshot, whose
/// files are links into `models--…/blobs`.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    /// As the caller wrote it; messages use it.
    root: PathBuf,
    canonical: PathBuf,
    blobs: Option<PathBuf>,
    counters: Counters,
}

impl Folder {
    /// Passes over the counters of older files; see [`Counters`].
    pub(super) fn with_counters(mut self) -> Self {
        self.counters = Counters::PassedOver;
        self
    }

    pub(super) fn open(root: &Path) -> Result<Self> {
        let canonical = fs::canonicalize(root).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::artifact(
                root,
                "no such folder; give the folder that holds model_index.json (diffusers layout) or \
                 config.json (official layout)",
            ),
            _ => Error::io(root, source),
        })?;
        if !canonical.is_dir() {
            return Err(Error::artifact(
                root,
                "not a folder; single-file checkpoints are not supported: give the folder of a diffusers or \
                 official checkpoint",
            ));
        }
        let blobs = canonical.ancestors().skip(1).find_map(|snapshots| {
            let model = snapshots.parent()?;
            let cached = snapshots.file_name()? == "snapshots"
                && model.file_name()?.to_str()?.starts_with("models--");
            cached.then(|| model.join("blobs"))
        });
        let blobs = blobs.and_then(|blobs| fs::canonicalize(blobs).ok());
        Ok(Self {
            root: root.to_owned(),
            canonical,
            blobs,
            counters: Counters::Refused,
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a file or folder below the root, for messages and for [`Folder::file`].
    pub(super) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        // Joining an empty path would end the root with a slash.
        if relative.as_ref().as_os_str().is_empty() {
            return self.root.clone();
        }
        self.root.join(relative)
    }

    /// Where a path leads. Links out of the checkpoint are refused.
    fn resolve(&self, path: &Path) -> Result<PathBuf> {
        let target = fs::canonicalize(path).map_err(|source| missing(path, source))?;
        let inside = target.starts_with(&self.canonical)
            || self
                .blobs
                .as_ref()
                .is_some_and(|blobs| target.starts_with(blobs));
        if inside {
            Ok(target)
        } else {
            Err(Error::artifact(
                path,
                "the path leads out of the checkpoint folder; put the file itself there instead of a link",
            ))
        }
    }

    /// Opens a regular file of the checkpoint.
    pub(super) fn file(&self, path: &Path) -> Result<File> {
        let target = self.resolve(path)?;
        let metadata = fs::metadata(&target).map_err(|source| Error::io(path, source))?;
        if !metadata.is_file() {
            return Err(Error::artifact(path, "not a regular file"));
        }
        File::open(&target).map_err(|source| missing(path, source))
    }

    /// Whether a regular file is there (wherever it leads: opening it checks that).
    pub(super) fn has_file(&self, relative: impl AsRef<Path>) -> bool {
        self.path(relative).is_file()
    }

    /// Whether a folder is there.
    pub(super) fn has_folder(&self, relative: impl AsRef<Path>) -> bool {
        self.path(relative).is_dir()
    }

    /// Reads a configuration file.
    pub(super) fn json(
        &self,
        relative: impl AsRef<Path>,
    ) -> Result<serde_json::Map<String, serde_json::Value>> {
        let path = self.path(relative);
        let text = self.read(&path, MAX_CONFIG)?;
        serde_json::from_slice(&text)
            .map_err(|error| Error::artifact(&path, format!("bad JSON: {error}")))
    }

    pub(super) fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        self.file(path)?
            .take(limit + 1)
            .read_to_end(&mut text)
            .map_err(|source| Error::io(path, source))?;
        if text.len() as u64 > limit {
            return Err(Error::artifact(
                path,
                format!("more than {limit} bytes; such files have a few thousand"),
            ));
        }
        Ok(text)
    }

    /// Names of the entries of a folder, sorted; those that are not text are left out.
    pub(super) fn list(&self, relative: impl AsRef<Path>) -> Result<Vec<String>> {
        let path = self.path(relative);
        self.resolve(&path)?;
        let mut names = fs::read_dir(&path)
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|entry| entry.file_name().into_string().ok()))
                    .collect::<io::Result<Vec<_>>>()
            })
            .map_err(|source| Error::io(&path, source))?
            .into_iter()
            .flatten()
            .collect::<Vec<_>>();
        names.sort();
        Ok(names)
    }

    /// Opens the safetensors of a folder: the shards of its index, or its only file.
    pub(super) fn safetensors(&self, relative: &Path) -> Result<Vec<TensorFile>> {
        let names = self.list(relative)?;
        let index = only(&names, ".safetensors.index.json");
        let single = only(&names, ".safetensors");
        match (index, single) {
            (Ok(index), _) => self.shards(relative, index),
            (Err(0), Ok(file)) => Ok(vec![self.tensor_file(&self.path(relative).join(file))?]),
            (Err(0), Err(0)) => {
                let pickles = names
                    .iter()
                    .any(|name| name.ends_with(".bin") || name.ends_with(".pth"));
                Err(Error::artifact(
                    self.path(relative),
                    if pickles {
                        "only pickled weights are here; get the safetensors files of this checkpoint"
                    } else {
                        "no safetensors file is here; the checkpoint is incomplete: fetch it again"
                    },
                ))
            }
            (Err(0), Err(n)) => Err(Error::artifact(
                self.path(relative),
                format!(
                    "{n} safetensors files and no index; fetch the .safetensors.index.json as well"
                ),
            )),
            (Err(n), _) => Err(Error::artifact(
                self.path(relative),
                format!("{n} safetensors indices; leave only one in the folder"),
            )),
        }
    }

    /// Opens one safetensors or PyTorch file and reads its header.
    pub(super) fn tensor_file(&self, path: &Path) -> Result<TensorFile> {
        TensorFile::read(self.file(path)?, path, self.counters)
    }

    fn shards(&self, relative: &Path, index: &str) -> Result<Vec<TensorFile>> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let folder = self.path(relative);
        let path = folder.join(index);
        let refuse = |message: String| Error::artifact(&path, message);
        let Index { weight_map } = serde_json::from_slice(&self.read(&path, MAX_INDEX)?)
            .map_err(|error| refuse(format!("bad index: {error}")))?;

        // Every name is judged before any shard is opened.
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in &weight_map {
            shards.entry(shard).or_default().push(tensor);
        }
        for shard in shards.keys() {
            let mut parts = Path::new(shard).components();
            let plain = matches!((parts.next(), parts.next()), (Some(Part::Normal(_)), None));
            if !plain || !shard.ends_with(".safetensors") {
                return Err(refuse(format!(
                    "names the shard {shard:?}; shards are safetensors files in the folder of their index"
                )));
            }
        }
        let mut files: Vec<TensorFile> = Vec::with_capacity(shards.len());
        for (shard, tensors) in shards {
            let shard_path = folder.join(shard);
            if fs::symlink_metadata(&shard_path).is_err() {
                return Err(refuse(format!(
                    "names the shard `{shard}`, which is missing; fetch it again"
                )));
            }
            let file = self.tensor_file(&shard_path)?;
            if let Some(tensor) = tensors
                .iter()
                .find(|tensor| !file.entries.contains_key(**tensor))
            {
                return Err(refuse(format!(
                    "says that `{tensor}` is in `{shard}`, which does not hold it; index and shards are not \
                     from the same checkpoint"
                )));
            }
            for other in &files {
                if let Some(tensor) = file
                    .entries
                    .keys()
                    .find(|tensor| other.entries.contains_key(*tensor))
                {
                    return Err(Error::artifact(
                        &shard_path,
                        format!(
                            "tensor `{tensor}` is also in {}; a tensor may be in one shard only",
                            other.path.display()
                        ),
                    ));
                }
            }
            files.push(file);
        }
        Ok(files)
    }
}

/// A file with tensors, open, and what its header says.
#[derive(Debug)]
pub(super) struct TensorFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) entries: BTreeMap<String, Entry>,
    /// The texts that a safetensors file carries besides its tensors.
    pub(super) metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Opens a file that the caller named: it may lie anywhere and be a link.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::artifact(path, "no such file"),
            _ => Error::io(path, source),
        })?;
        let metadata = file.metadata().map_err(|source| Error::io(path, source))?;
        if !metadata.is_file() {
            return Err(Error::artifact(
                path,
                "not a regular file; name a safetensors file",
            ));
        }
        Self::read(file, path, Counters::Refused)
    }

    fn read(file: File, path: &Path, counters: Counters) -> Result<Self> {
        let contents = if path
            .extension()
            .is_some_and(|extension| extension == "safetensors")
        {
            safetensors::read_header(&file, path, counters)?
        } else {
            safetensors::Contents {
                entries: pth::read_header(&file, path)?,
                ..safetensors::Contents::default()
            }
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            entries: contents.entries,
            metadata: contents.metadata,
        })
    }
}

/// The only name with an ending, or how many there are.
fn only<'a>(names: &'a [String], ending: &str) -> Result<&'a str, usize> {
    let mut found = names.iter().filter(|name| name.ends_with(ending));
    match (found.next(), found.next()) {
        (Some(name), None) => Ok(name),
        (None, _) => Err(0),
        (Some(_), Some(_)) => Err(2 + found.count()),
    }
}

fn missing(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound => Error::artifact(
            path,
            "missing; the checkpoint is incomplete: fetch it again",
        ),
        _ => Error::io(path, source),
    }
}
