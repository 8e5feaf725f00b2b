//! Reading files once, without pushing out of the page cache what others have there.
//!
//! Whether a file is in the cache is asked before the first read. One that is not is read with the system
//! told what comes next, and its pages are given back behind the reader. Nothing is mapped: a file that
//! shrinks is an error, not a crash.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use leoma_models::{Error, Result};
use rustix::fs::{Mode, OFlags};

/// Bytes the system is asked to read ahead.
#[cfg(target_os = "linux")]
const AHEAD: u64 = 8 << 20;
/// Bytes it is asked for, and given back, at a time.
#[cfg(target_os = "linux")]
const STEP: u64 = 1 << 20;

/// An open file and how it is read.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    /// For messages.
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
    /// The pages were not there before: they are given back.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    cold: bool,
    /// Asked for up to here.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    asked: u64,
    /// Given back up to here.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    returned: u64,
}

impl Source {
    /// Opens a regular file; `target` is a path without links, `shown` the one for messages.
    pub(super) fn open(target: &Path, shown: &Path) -> Result<Self> {
        let failed = |source: io::Error| Error::io(shown, source);
        // Not through a link that has been put there meanwhile, and without waiting for a pipe's writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            rustix::fs::open(target, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let file = File::from(file);
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(Error::artifact(shown, "not a regular file"));
        }
        let cold = !in_cache(&file, metadata.size());
        Ok(Self {
            size: metadata.size(),
            modified: metadata.modified().ok(),
            path: shown.to_owned(),
            file,
            cold,
            asked: 0,
            returned: 0,
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Reads `buffer` from `offset` on. Reads should go forward: behind them, pages are given back.
    pub(super) fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.advise(offset, offset + buffer.len() as u64);
        self.file.read_exact_at(buffer, offset).map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                Error::artifact(
                    &self.path,
                    "was cut while it was being read; run the audit again",
                )
            } else {
                Error::io(&self.path, source)
            }
        })
    }

    /// An error when the file is not the one that was opened any more.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let now = self
            .file
            .metadata()
            .map_err(|source| Error::io(&self.path, source))?;
        if now.size() == self.size && now.modified().ok() == self.modified {
            return Ok(());
        }
        Err(Error::artifact(
            &self.path,
            "changed while it was being read; run the audit again",
        ))
    }

    #[cfg(target_os = "linux")]
    fn advise(&mut self, offset: u64, end: u64) {
        use rustix::fs::{Advice, fadvise};
        use std::num::NonZeroU64;
        if !self.cold {
            return;
        }
        // Hints: where they fail nothing changes.
        let advise = |from: u64, to: u64, advice| {
            if let Some(length) = NonZeroU64::new(to.saturating_sub(from)) {
                let _ = fadvise(&self.file, from, Some(length), advice);
            }
        };
        while self.asked < (end + AHEAD).min(self.size) {
            let next = (self.asked + STEP).min(self.size);
            advise(self.asked, next, Advice::WillNeed);
            self.asked = next;
        }
        // Everything before the piece about to be read has been used.
        if offset >= self.returned + STEP || offset < self.returned {
            advise(self.returned.min(offset), offset, Advice::DontNeed);
            self.returned = offset;
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn advise(&mut self, _: u64, _: u64) {}
}

#[cfg(target_os = "linux")]
impl Drop for Source {
    fn drop(&mut self) {
        if self.cold {
            // A hint; and the rest of the file, wherever reading ended.
            let _ = rustix::fs::fadvise(
                &self.file,
                self.returned,
                None,
                rustix::fs::Advice::DontNeed,
            );
        }
    }
}

/// Whether most of a file is in the page cache, from a few places that are read without waiting.
#[cfg(target_os = "linux")]
fn in_cache(file: &File, size: u64) -> bool {
    use rustix::io::{ReadWriteFlags, preadv2};
    const PLACES: u64 = 16;
    let there = (0..PLACES).filter(|place| {
        let offset = size / PLACES * place;
        let mut byte = [0_u8];
        let mut buffers = [io::IoSliceMut::new(&mut byte)];
        // A system that cannot say is taken to have the file: then nothing is given back.
        !matches!(
            preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT),
            Err(rustix::io::Errno::AGAIN)
        )
    });
    2 * there.count() as u64 > PLACES
}

#[cfg(not(target_os = "linux"))]
fn in_cache(_: &File, _: u64) -> bool {
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_no_file_is_refused() {
        let keep = tempfile::tempdir().unwrap();
        let path = keep.path().join("file");
        fs::write(&path, "content").unwrap();
        let mut buffer = [0; 4];
        let mut source = Source::open(&path, &path).unwrap();
        source.read(&mut buffer, 3).unwrap();
        assert_eq!(&buffer, b"tent");
        let error = source.read(&mut buffer, 4).unwrap_err();
        assert!(error.to_string().contains("cut while"), "{error}");
        source.check_unchanged().unwrap();
        fs::write(&path, "other content").unwrap();
        assert!(source.check_unchanged().is_err());

        let link = keep.path().join("link");
        symlink(&path, &link).unwrap();
        for other in [link.as_path(), keep.path(), &keep.path().join("missing")] {
            assert!(Source::open(other, other).is_err(), "{}", other.display());
        }
    }

    /// Pages that were there stay; pages that were not are given back. Where the file system keeps no
    /// pages on a disk (tmpfs) there is nothing to see.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_page_cache_is_left_as_it_was() {
        use rustix::fs::{Advice, fadvise};
        const SIZE: usize = 4 << 20;
        let mut named = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut named, &vec![1; SIZE]).unwrap();
        named.as_file().sync_all().unwrap();
        let read = || {
            let mut source = Source::open(named.path(), named.path()).unwrap();
            let mut buffer = vec![0; 1 << 18];
            for offset in (0..SIZE).step_by(buffer.len()) {
                source.read(&mut buffer, offset as u64).unwrap();
            }
            source.cold
        };
        assert!(in_cache(named.as_file(), SIZE as u64));
        assert!(!read());
        assert!(in_cache(named.as_file(), SIZE as u64));
        fadvise(named.as_file(), 0, None, Advice::DontNeed).unwrap();
        if in_cache(named.as_file(), SIZE as u64) {
            return;
        }
        assert!(read());
        assert!(!in_cache(named.as_file(), SIZE as u64));
    }
}
