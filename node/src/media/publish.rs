//! A file appears under its name only when it is whole.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::error::{MediaError, Result};

/// A temporary file in the folder of the file it will become; removed when dropped.
#[derive(Debug)]
pub(crate) struct Pending {
    file: NamedTempFile,
    target: PathBuf,
}

impl Pending {
    /// Opens a temporary file beside `target`.
    pub(crate) fn beside(target: &Path) -> Result<Self> {
        if target.is_dir() {
            let source = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(MediaError::writing(target, source));
        }
        let file = temporary(folder(target)).map_err(|e| MediaError::writing(target, e))?;
        Ok(Self {
            file,
            target: target.to_owned(),
        })
    }

    /// Opens a temporary file in `folder` that is read back and never published.
    #[cfg(feature = "ffmpeg")]
    pub(crate) fn within(folder: &Path) -> Result<Self> {
        let file = temporary(folder).map_err(|e| MediaError::writing(folder, e))?;
        Ok(Self {
            file,
            target: folder.to_owned(),
        })
    }

    /// Where the bytes go for now.
    #[cfg(feature = "ffmpeg")]
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file for now.
    pub(crate) fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    #[cfg(feature = "ffmpeg")]
    /// The name the file will have, for messages.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Sorts an error met while writing this file.
    pub(crate) fn error(&self, source: io::Error) -> MediaError {
        MediaError::writing(&self.target, source)
    }

    /// Writes everything to the disk and renames; replaces a file of that name.
    pub(crate) fn publish(self) -> Result<PathBuf> {
        let Self { file, target } = self;
        file.as_file()
            .sync_all()
            .map_err(|e| MediaError::writing(&target, e))?;
        file.persist(&target)
            .map_err(|e| MediaError::writing(&target, e.error))?;
        // The rename itself survives a power cut only when the folder is written too. Some file
        // systems refuse to sync a folder; the file is whole either way.
        if let Ok(folder) = File::open(folder(&target)) {
            let _ = folder.sync_all();
        }
        Ok(target)
    }

    /// The bytes written so far; the file is removed.
    #[cfg(feature = "ffmpeg")]
    pub(crate) fn into_bytes(self) -> Result<Vec<u8>> {
        fs::read(self.file.path()).map_err(|e| MediaError::writing(&self.target, e))
    }
}

fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    // An absolute name: the encoder library reads names with a colon as addresses.
    let folder = fs::canonicalize(folder)?;
    tempfile::Builder::new()
        .prefix(".leoma-")
        .suffix(".part")
        // As any program would create it; the process's umask still applies.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
}

fn folder(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
