//! One downloader per blob across processes: the lock files that the Python tools use.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::{HubError, Result};

/// Time between two looks at a lock that another process holds.
const POLL: Duration = Duration::from_millis(100);

/// A lock; released when dropped or when the process ends, however it ends. The file stays, as theirs do.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock if nobody has it.
    pub(super) fn try_take(path: &Path) -> Result<Option<Self>> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| HubError::io("create", folder, e))?;
        }
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                // A cache that users share: all of the group may wait.
                .mode(0o664)
                .open(path)
                .map_err(|e| HubError::io("open", path, e))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK | Errno::ACCESS) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(HubError::io("lock", path, error.into())),
            }
            // Who cleans up may have removed the file between opening and locking: then the lock is on
            // nothing that others see.
            let ours = file.metadata().map_err(|e| HubError::io("read", path, e))?;
            let there = fs::metadata(path);
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                return Ok(Some(Self { _file: file }));
            }
        }
    }

    /// Waits for the lock; `waiting` is called once for every look at it.
    pub(super) async fn take(path: &Path, mut waiting: impl FnMut()) -> Result<Self> {
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(lock);
            }
            waiting();
            tokio::time::sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_holder_at_a_time_even_when_the_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("models--a--b").join("0f.lock");
        let held = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(held);
        let held = Lock::try_take(&path).unwrap().unwrap();
        fs::remove_file(&path).unwrap();
        // A lock on a removed file is nobody's.
        let next = Lock::try_take(&path).unwrap().unwrap();
        drop(held);
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(next);
    }

    #[tokio::test]
    async fn waiting_ends_with_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0f.lock");
        let mut held = Lock::try_take(&path).unwrap();
        let mut looks = 0;
        let waiting = || {
            looks += 1;
            held = None;
        };
        Lock::take(&path, waiting).await.unwrap();
        assert_eq!(looks, 1);
    }
}
