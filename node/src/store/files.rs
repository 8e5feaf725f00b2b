//! The data folder: its names, and writing so that a name always stands for a whole file.
//!
//! No name comes from a caller: files are named by ids that [`new_id`] made, and an id from outside is
//! checked before it becomes part of a path.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};
use tempfile::NamedTempFile;

use super::error::StoreError;

const ID_PREFIX: &str = "video_";
const TEMPORARY_PREFIX: &str = ".leoma-";
const TEMPORARY_SUFFIX: &str = ".part";
/// Extensions that a finished job's files may have.
const RESULT_EXTENSIONS: [&str; 3] = ["mp4", "png", "jpg"];

/// Enough for the log of the few small rows that must be written when the disk is full.
const RESERVE_BYTES: u64 = 1 << 20;

/// A name that no other job has.
pub(super) fn new_id() -> String {
    format!("{ID_PREFIX}{}", uuid::Uuid::new_v4().simple())
}

/// Whether [`new_id`] could have made this.
pub(super) fn is_id(id: &str) -> bool {
    id.strip_prefix(ID_PREFIX).is_some_and(|hex| {
        hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Paths in the data folder.
#[derive(Debug, Clone)]
pub(super) struct Files {
    dir: PathBuf,
    inputs: PathBuf,
    results: PathBuf,
    database: PathBuf,
}

impl Files {
    /// Makes what is missing of the data folder, readable by its owner alone.
    pub(super) fn create(dir: &Path) -> Result<Self, StoreError> {
        create_folder(dir)?;
        // Absolute, so that it means the same wherever the process goes.
        let dir = fs::canonicalize(dir).map_err(|e| StoreError::io("find", dir, e))?;
        let files = Self {
            inputs: dir.join("inputs"),
            results: dir.join("results"),
            database: dir.join("jobs.sqlite"),
            dir,
        };
        // A folder that was there keeps its mode: it may be shared with more than this program.
        let mode = fs::metadata(&files.dir)
            .map_err(|e| StoreError::io("read", &files.dir, e))?
            .mode();
        if mode & 0o077 != 0 {
            tracing::warn!(dir = %files.dir.display(), "other users can list the data folder; chmod 700 it");
        }
        create_folder(&files.inputs)?;
        create_folder(&files.results)?;
        Ok(files)
    }

    /// Takes the folder for this process, until the file is closed.
    pub(super) fn lock(&self) -> Result<File, StoreError> {
        let path = self.dir.join("lock");
        let file = open_private(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked {
                dir: self.dir.clone(),
            }),
            Err(error) => Err(StoreError::io("lock", &path, error.into())),
        }
    }

    /// The database file, made empty when it is missing: SQLite itself would let others read it.
    pub(super) fn ensure_database(&self) -> Result<&Path, StoreError> {
        open_private(&self.database)?;
        Ok(&self.database)
    }

    /// The database file.
    pub(super) fn database(&self) -> &Path {
        &self.database
    }

    fn input(&self, id: &str) -> PathBuf {
        self.inputs.join(file_name(id, None))
    }

    /// Where a result is, or would be.
    pub(super) fn result(&self, id: &str, content_type: &str) -> PathBuf {
        let extension = match content_type {
            "image/png" => "png",
            _ => "mp4",
        };
        self.results.join(file_name(id, Some(extension)))
    }

    /// Where a poster is, or would be.
    pub(super) fn poster(&self, id: &str) -> PathBuf {
        self.results.join(file_name(id, Some("jpg")))
    }

    /// Free bytes for this process.
    pub(super) fn free_bytes(&self) -> Result<u64, StoreError> {
        let stat =
            statvfs(&self.dir).map_err(|e| StoreError::io("measure", &self.dir, e.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Refuses when `bytes` more would leave less than `reserve` free.
    pub(super) fn require_space(&self, bytes: u64, reserve: u64) -> Result<(), StoreError> {
        let free = self.free_bytes()?;
        if free >= reserve.saturating_add(bytes) {
            return Ok(());
        }
        let message =
            format!("{free} bytes are free, {reserve} are kept free and {bytes} are needed");
        Err(StoreError::DiskFull {
            path: self.dir.clone(),
            message,
        })
    }

    fn reserve(&self) -> PathBuf {
        self.dir.join("reserve")
    }

    /// Holds some of the disk back. When there is no room for it, that is found by whoever needs it.
    pub(super) fn keep_reserve(&self) {
        let path = self.reserve();
        if fs::metadata(&path).is_ok_and(|file| file.len() == RESERVE_BYTES) {
            return;
        }
        let kept = open_private(&path).and_then(|file| {
            fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)
                .map_err(|e| StoreError::io("write", &path, e.into()))
        });
        if let Err(error) = kept {
            tracing::debug!(%error, "no reserve for a full disk");
            remove(&path);
        }
    }

    /// Gives the reserve back to the disk.
    pub(super) fn release_reserve(&self) {
        remove(&self.reserve());
    }

    /// The picture of a job.
    pub(super) fn read_input(&self, id: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.input(id);
        fs::read(&path).map_err(|e| StoreError::io("read", &path, e))
    }

    /// Whether there are files of jobs.
    pub(super) fn any(&self) -> Result<bool, StoreError> {
        for folder in [&self.inputs, &self.results] {
            let entries = fs::read_dir(folder).map_err(|e| StoreError::io("list", folder, e))?;
            for entry in entries {
                let path = entry.map_err(|e| StoreError::io("list", folder, e))?.path();
                if is_ours(&path) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether the picture of a job is there.
    pub(super) fn has_input(&self, id: &str) -> bool {
        self.input(id).is_file()
    }

    /// Writes pictures through to the disk.
    pub(super) fn write_inputs(
        &self,
        pictures: Vec<(String, Vec<u8>)>,
    ) -> Result<Pictures, StoreError> {
        let mut written = Pictures {
            files: self.clone(),
            ids: Vec::with_capacity(pictures.len()),
        };
        for (id, bytes) in pictures {
            let path = self.input(&id);
            written.ids.push(id);
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .and_then(|mut file| {
                    file.write_all(&bytes)?;
                    file.sync_all()
                })
                .map_err(|e| StoreError::io("write", &path, e))?;
        }
        if !written.ids.is_empty() {
            sync_folder(&self.inputs)?;
        }
        Ok(written)
    }

    /// Writes a future result or poster through to the disk, under a temporary name.
    pub(super) fn stage(&self, bytes: &[u8]) -> Result<NamedTempFile, StoreError> {
        let write = || {
            let mut file = tempfile::Builder::new()
                .prefix(TEMPORARY_PREFIX)
                .suffix(TEMPORARY_SUFFIX)
                .tempfile_in(&self.results)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        write().map_err(|e| StoreError::io("write in", &self.results, e))
    }

    /// Gives staged files their names and writes the folder through to the disk.
    pub(super) fn publish(&self, staged: Vec<(NamedTempFile, PathBuf)>) -> Result<(), StoreError> {
        for (file, path) in staged {
            file.persist(&path)
                .map_err(|e| StoreError::io("write", &path, e.error))?;
        }
        sync_folder(&self.results)
    }

    /// Removes the picture of a job.
    pub(super) fn remove_input(&self, id: &str) {
        remove(&self.input(id));
    }

    /// Removes result and poster of a job.
    pub(super) fn remove_results(&self, id: &str) {
        for extension in RESULT_EXTENSIONS {
            remove(&self.results.join(file_name(id, Some(extension))));
        }
    }

    /// Removes what an earlier run left half done: our files that none of `inputs` and `results` names.
    /// Names that this program does not make are left alone.
    pub(super) fn remove_orphans(
        &self,
        inputs: &HashSet<String>,
        results: &HashSet<PathBuf>,
    ) -> Result<usize, StoreError> {
        let mut removed = 0;
        for (folder, wanted) in [
            (
                &self.inputs,
                inputs.iter().map(|id| self.input(id)).collect(),
            ),
            (&self.results, results.clone()),
        ] {
            let entries = fs::read_dir(folder).map_err(|e| StoreError::io("list", folder, e))?;
            for entry in entries {
                let path = entry.map_err(|e| StoreError::io("list", folder, e))?.path();
                if is_ours(&path) && !wanted.contains(&path) {
                    remove(&path);
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// Pictures on the disk that no row names yet. Dropped, they go: the insertion failed or its caller left.
#[derive(Debug)]
pub(super) struct Pictures {
    files: Files,
    ids: Vec<String>,
}

impl Pictures {
    /// The rows are written.
    pub(super) fn keep(mut self) {
        self.ids.clear();
    }
}

impl Drop for Pictures {
    fn drop(&mut self) {
        for id in &self.ids {
            self.files.remove_input(id);
        }
    }
}

/// The name of a job's file. An id that is not ours gets a name that no file has.
fn file_name(id: &str, extension: Option<&str>) -> String {
    let id = if is_id(id) { id } else { "unknown" };
    match extension {
        Some(extension) => format!("{id}.{extension}"),
        None => id.to_owned(),
    }
}

fn is_ours(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else {
        return false;
    };
    if name.starts_with(TEMPORARY_PREFIX) && name.ends_with(TEMPORARY_SUFFIX) {
        return true;
    }
    match name.split_once('.') {
        Some((id, extension)) => is_id(id) && RESULT_EXTENSIONS.contains(&extension),
        None => is_id(name),
    }
}

fn create_folder(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| StoreError::io("create", path, e))
}

fn open_private(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| StoreError::io("open", path, e))
}

/// A new name survives a power cut only when its folder is written too.
fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| StoreError::io("write", path, e))
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            // The next start tries again.
            tracing::warn!(path = %path.display(), %error, "cannot remove a file that is no longer needed");
        }
        _ => {}
    }
}
