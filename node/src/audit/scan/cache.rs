//! What earlier scans found, so that only what changed is read again.
//!
//! ```text
//! CACHE/1/files/KEY          digests, and sketches of tensors, of a file
//! CACHE/1/repositories/KEY   findings, digests, sketch of a repository whose files are all unchanged
//! CACHE/1/pairs/KEY          the comparison of two of them and their base
//! ```
//!
//! A file is known by device, inode, size and the times of its last change, down to the nanosecond. One that
//! changed within the last two seconds is not remembered: it could change again without showing it. Every entry
//! carries its own digest; one that is damaged is as good as none. Entries appear whole, by a rename, so that
//! several auditors can share a cache.

use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use leoma_models::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::audit::compare::sketch::WeightSketch;
use crate::audit::model_hash::{hex, is_weight_file};
use crate::audit::pass::{FileResult, TensorResult};
use crate::audit::tree::TreeFile;
use crate::audit::weights::{Names, StoredDType, StoredTensor};
use leoma_kernels::canonical::Values;

/// Form of the entries, and of what is found: raised when either changes.
const FORMAT: &str = "1";
/// Largest entry that is read.
const MAX_ENTRY: u64 = 512 << 20;
/// Time after a change during which another one might not show.
const UNSETTLED: Duration = Duration::from_secs(2);

/// What an entry is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    File,
    Repository,
    Pair,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Self::File => "files",
            Self::Repository => "repositories",
            Self::Pair => "pairs",
        }
    }
}

/// A folder with what earlier scans found, or none.
#[derive(Debug, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// No cache: everything is read.
    pub fn none() -> Self {
        Self::default()
    }

    /// The cache in a folder, which is made where it is missing.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be made; [`Error::Local`] when somebody else could write into it, as what
    /// is in it is believed.
    pub fn open(folder: &Path) -> Result<Self> {
        let failed = |source| Error::io(folder, source);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        let metadata = fs::metadata(folder).map_err(failed)?;
        let own = metadata.uid() == rustix::process::geteuid().as_raw();
        if !own || metadata.mode() & 0o022 != 0 {
            return Err(Error::local(format!(
                "{}: other users can write into this folder, and what is in it would be believed; use another one, \
                 chmod it to 700, or leave it out with --no-cache",
                folder.display()
            )));
        }
        Ok(Self {
            folder: Some(folder.join(FORMAT)),
        })
    }

    fn path(&self, kind: Kind, key: &str) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?.join(kind.folder());
        Some(folder.join(key.get(..2)?).join(key))
    }

    /// What is known under a key; damaged entries are not.
    pub(super) fn get<T: DeserializeOwned>(&self, kind: Kind, key: &str) -> Option<T> {
        let path = self.path(kind, key)?;
        let length = fs::metadata(&path).ok()?.len();
        let bytes = fs::read(&path).ok().filter(|_| length <= MAX_ENTRY)?;
        let (digest, text) = bytes.split_at_checked(64)?;
        if hex(&Sha256::digest(text)).as_bytes() != digest {
            tracing::debug!(path = %path.display(), "a damaged entry of the audit cache is not used");
            return None;
        }
        serde_json::from_slice(text).ok()
    }

    /// Remembers something. A cache that cannot be written costs time and nothing else.
    pub(super) fn put<T: Serialize>(&self, kind: Kind, key: &str, value: &T) {
        let Some(path) = self.path(kind, key) else {
            return;
        };
        let write = || -> std::io::Result<()> {
            let text = serde_json::to_vec(value)?;
            let folder = path.parent().unwrap_or(&path);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(hex(&Sha256::digest(&text)).as_bytes())?;
            file.write_all(&text)?;
            file.persist(&path)?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::warn!(path = %path.display(), %error, "the audit cache cannot be written");
        }
    }
}

/// What a file is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub(super) struct FileKey {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileKey {
    /// None for a file that is not there, or changed so lately that it cannot be told from its next version.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let key = Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let (seconds, nanoseconds) = key.modified.max(key.changed);
        let last = UNIX_EPOCH
            + Duration::new(
                u64::try_from(seconds).unwrap_or(0),
                u32::try_from(nanoseconds).unwrap_or(0),
            );
        let age = SystemTime::now().duration_since(last).ok()?;
        (age >= UNSETTLED).then_some(key)
    }
}

/// The digest of some parts, as a key.
pub(super) fn key_of(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in [FORMAT.as_bytes(), env!("CARGO_PKG_VERSION").as_bytes()]
        .iter()
        .chain(parts)
    {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

/// The key of a file's entry: its values depend on the scales that other files may hold.
pub(super) fn file_key(key: &FileKey, file: &TreeFile, names: &Names) -> String {
    let mut scales = Sha256::new();
    for (tensor, values) in names.scales(&file.path) {
        scales.update(tensor.as_bytes());
        scales.update([0]);
        for value in values {
            scales.update(value.to_le_bytes());
        }
    }
    let kind = match (
        is_weight_file(&file.path),
        file.path.ends_with(".safetensors"),
    ) {
        (_, true) => "safetensors",
        (true, false) => "archive",
        (false, false) => "other",
    };
    key_of(&[
        b"file",
        &serde_json::to_vec(key).unwrap_or_default(),
        kind.as_bytes(),
        &scales.finalize(),
    ])
}

/// What was found in a file.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct FileEntry {
    size: u64,
    sha256: String,
    refused: Option<String>,
    tensors: Vec<TensorEntry>,
}

/// What was found in a tensor.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct TensorEntry {
    pub(super) name: String,
    dtype: StoredDType,
    shape: Vec<usize>,
    offset: u64,
    sha256: String,
    canonical: Option<String>,
    /// NaN, infinite, not zero, respelled.
    values: [bool; 4],
    pub(super) sketch: Option<WeightSketch>,
}

impl FileEntry {
    pub(super) fn of(result: &FileResult) -> Self {
        let tensors = result.tensors.iter().map(|found| {
            let Values {
                nan,
                infinite,
                nonzero,
                respelled,
            } = found.values;
            TensorEntry {
                name: found.tensor.name.clone(),
                dtype: found.tensor.dtype,
                shape: found.tensor.shape.clone(),
                offset: found.tensor.offset,
                sha256: hex(&found.sha256),
                canonical: found.canonical.map(|digest| hex(&digest)),
                values: [nan, infinite, nonzero, respelled],
                sketch: None,
            }
        });
        Self {
            size: result.size,
            sha256: hex(&result.sha256),
            refused: result.refused.clone(),
            tensors: tensors.collect(),
        }
    }

    /// What reading the file would have given. None when the entry is not one that was written here.
    pub(super) fn recall(&self, path: &str, names: &Names) -> Option<FileResult> {
        let tensors = self.tensors.iter().map(|entry| {
            let [nan, infinite, nonzero, respelled] = entry.values;
            Some(TensorResult {
                known: names.find(path, &entry.name).cloned(),
                tensor: StoredTensor {
                    name: entry.name.clone(),
                    dtype: entry.dtype,
                    shape: entry.shape.clone(),
                    offset: entry.offset,
                },
                sha256: unhex(&entry.sha256)?,
                canonical: match &entry.canonical {
                    Some(digest) => Some(unhex(digest)?),
                    None => None,
                },
                values: Values {
                    nan,
                    infinite,
                    nonzero,
                    respelled,
                },
            })
        });
        Some(FileResult {
            size: self.size,
            sha256: unhex(&self.sha256)?,
            tensors: tensors.collect::<Option<_>>()?,
            refused: self.refused.clone(),
        })
    }

    /// The tensors, to look at their sketches or give them some.
    pub(super) fn tensors(&mut self) -> &mut [TensorEntry] {
        &mut self.tensors
    }

    /// The sketch of a tensor.
    pub(super) fn sketch(&self, tensor: &str) -> Option<&WeightSketch> {
        let found = self.tensors.iter().find(|entry| entry.name == tensor)?;
        found.sketch.as_ref()
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn damaged_entries_are_none() {
        let keep = tempfile::tempdir().unwrap();
        let cache = Cache::open(keep.path()).unwrap();
        let key = key_of(&[b"a"]);
        assert_eq!(cache.get::<u64>(Kind::Pair, &key), None);
        cache.put(Kind::Pair, &key, &7_u64);
        assert_eq!(cache.get(Kind::Pair, &key), Some(7_u64));
        let path = cache.path(Kind::Pair, &key).unwrap();
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [&flipped[..], &good[..64], &good[..10], b""] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(cache.get::<u64>(Kind::Pair, &key), None);
        }
        cache.put(Kind::Pair, &key, &8_u64);
        assert_eq!(cache.get(Kind::Pair, &key), Some(8_u64));
        assert_eq!(Cache::none().get::<u64>(Kind::Pair, &key), None);
        assert_ne!(key_of(&[b"ab", b"c"]), key_of(&[b"a", b"bc"]));
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let keep = tempfile::tempdir().unwrap();
        fs::set_permissions(keep.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = Cache::open(keep.path()).unwrap_err();
        assert!(error.to_string().contains("--no-cache"), "{error}");
    }

    #[test]
    fn what_changed_just_now_has_no_key() {
        let keep = tempfile::tempdir().unwrap();
        let path = keep.path().join("file");
        fs::write(&path, "x").unwrap();
        assert_eq!(FileKey::of(&path), None);
        assert_eq!(FileKey::of(&keep.path().join("missing")), None);
    }
}
