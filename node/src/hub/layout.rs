//! The cache on disk, as the Python tools have it:
//!
//! ```text
//! HF_HUB_CACHE/
//!   CACHEDIR.TAG
//!   .locks/models--USER--NAME/ETAG.lock
//!   models--USER--NAME/
//!     blobs/ETAG                   content, named by its digest
//!     refs/main                    the commit that a branch stood for when it was last asked
//!     snapshots/COMMIT/PATH        link to ../../blobs/ETAG
//!     trees/COMMIT.json            what the commit consists of
//! ```
//!
//! Every file appears under its name by a rename, so that a name always stands for a whole one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use super::error::{HubError, Result};
use super::name::{Commit, RepoId, Revision};

/// What the Python tools write into `CACHEDIR.TAG`.
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This file is a cache directory tag created by huggingface_hub.\n\
    # For information about cache directory tags, see:\n\
    #\thttps://bford.info/cachedir/\n";
/// Longest reference that is read: a commit and a line end.
const MAX_REF_BYTES: u64 = 64;

/// One repository's place in the cache.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    cache: PathBuf,
    repo: RepoId,
}

impl Layout {
    pub(super) fn new(cache: &Path, repo: &RepoId) -> Self {
        Self {
            cache: cache.to_owned(),
            repo: repo.clone(),
        }
    }

    fn hub(&self) -> hf_hub::CacheRepo {
        hf_hub::Cache::new(self.cache.clone()).model(self.repo.as_str().to_owned())
    }

    /// The repository's folder.
    pub(super) fn folder(&self) -> PathBuf {
        self.cache.join(self.repo.folder_name())
    }

    /// Where contents are.
    pub(super) fn blobs(&self) -> PathBuf {
        self.folder().join("blobs")
    }

    /// The content with this digest.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.blobs().join(etag)
    }

    /// The lock that guards making a blob.
    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        self.locks().join(format!("{etag}.lock"))
    }

    /// Locks of this repository.
    pub(super) fn locks(&self) -> PathBuf {
        self.cache.join(".locks").join(self.repo.folder_name())
    }

    /// Where all commits are.
    pub(super) fn snapshots(&self) -> PathBuf {
        self.folder().join("snapshots")
    }

    /// The files of a commit.
    pub(super) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.hub().pointer_path(commit.as_str())
    }

    /// Where branches are.
    pub(super) fn refs(&self) -> PathBuf {
        self.folder().join("refs")
    }

    /// What a commit consists of.
    pub(super) fn tree(&self, commit: &Commit) -> PathBuf {
        self.folder().join("trees").join(format!("{commit}.json"))
    }

    /// Makes the folders.
    pub(super) fn create(&self) -> Result<()> {
        let blobs = self.blobs();
        fs::create_dir_all(&blobs).map_err(|e| HubError::io("create", &blobs, e))?;
        let tag = self.cache.join("CACHEDIR.TAG");
        if !tag.exists() {
            // For backup programs; nothing depends on it.
            let _ = fs::write(&tag, CACHEDIR_TAG);
        }
        Ok(())
    }

    /// The commit that a branch or tag stood for when it was last asked.
    pub(super) fn read_ref(&self, revision: &Revision) -> Option<Commit> {
        read_commit(&self.refs().join(revision.as_str()))
    }

    /// Remembers what a branch or tag stands for.
    pub(super) fn write_ref(&self, revision: &Revision, commit: &Commit) -> Result<()> {
        if revision.as_str() == commit.as_str() || self.read_ref(revision).as_ref() == Some(commit)
        {
            return Ok(());
        }
        let path = self.refs().join(revision.as_str());
        create_parent(&path)?;
        write_atomically(&path, &self.temporary(), commit.as_str().as_bytes())
    }

    /// Links a file of a commit to its content.
    pub(super) fn link(&self, commit: &Commit, path: &str, etag: &str) -> Result<()> {
        let pointer = self.snapshot(commit).join(path);
        // From snapshots/COMMIT/a/b up to the repository's folder.
        let up = "../".repeat(path.matches('/').count() + 2);
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        if fs::read_link(&pointer).is_ok_and(|there| there == target) {
            return Ok(());
        }
        create_parent(&pointer)?;
        let temporary = self.temporary();
        let linked = std::os::unix::fs::symlink(&target, &temporary)
            .and_then(|()| fs::rename(&temporary, &pointer));
        linked.map_err(|e| {
            let _ = fs::remove_file(&temporary);
            HubError::io("link", &pointer, e)
        })?;
        sync_folder(&pointer)
    }

    /// A name that no other process has, outside the folders whose files mean something.
    pub(super) fn temporary(&self) -> PathBuf {
        let unique = uuid::Uuid::new_v4().simple();
        self.folder().join(format!(".leoma-{unique}.tmp"))
    }

    /// The size of a file of a commit, when it is there.
    pub(super) fn size_of(&self, commit: &Commit, path: &str) -> Option<u64> {
        let found = fs::metadata(self.snapshot(commit).join(path)).ok()?;
        found.is_file().then_some(found.len())
    }

    /// Bytes that this process may still write.
    pub(super) fn free_bytes(&self) -> Result<u64> {
        let folder = self.folder();
        let stat = statvfs(&folder).map_err(|e| HubError::io("measure", &folder, e.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// The commit that a reference holds.
pub(super) fn read_commit(path: &Path) -> Option<Commit> {
    let found = fs::metadata(path).ok()?;
    if !found.is_file() || found.len() > MAX_REF_BYTES {
        return None;
    }
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Writes a small file so that its name always stands for a whole one. `temporary` is a name on the same disk.
pub(super) fn write_atomically(path: &Path, temporary: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(temporary, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(temporary);
        HubError::io("write", path, e)
    })?;
    sync_folder(path)
}

fn create_parent(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(folder).map_err(|e| HubError::io("create", folder, e))
}

/// Makes the name of a file last: it survives a power cut only when its folder is written too. Some file
/// systems refuse to; the file is whole either way.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    let opened = File::open(folder).map_err(|e| HubError::io("open", folder, e))?;
    match opened.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            Err(HubError::io("write", folder, error))
        }
        _ => Ok(()),
    }
}

/// Removes a file that may not be there.
pub(super) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(HubError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn layout(dir: &Path) -> (Layout, Commit) {
        let layout = Layout::new(dir, &"a/b".parse().unwrap());
        layout.create().unwrap();
        (layout, "1".repeat(40).parse().unwrap())
    }

    #[test]
    fn links_are_relative_and_replace_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, commit) = layout(dir.path());
        fs::write(layout.blob("0f"), "content").unwrap();
        for (path, target) in [
            ("config.json", "../../blobs/0f"),
            ("vae/x/y.json", "../../../../blobs/0f"),
        ] {
            let pointer = layout.snapshot(&commit).join(path);
            create_parent(&pointer).unwrap();
            fs::write(&pointer, "old").unwrap();
            for _ in 0..2 {
                layout.link(&commit, path, "0f").unwrap();
                assert_eq!(fs::read_link(&pointer).unwrap(), Path::new(target));
            }
            assert_eq!(layout.size_of(&commit, path), Some(7));
        }
        assert_eq!(layout.size_of(&commit, "vae"), None);
        let snapshot = dir
            .path()
            .join("models--a--b/snapshots")
            .join(commit.as_str());
        assert_eq!(fs::read_dir(snapshot).unwrap().count(), 2);
    }

    #[test]
    fn references() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, commit) = layout(dir.path());
        let main = Revision::default();
        assert_eq!(layout.read_ref(&main), None);
        layout.write_ref(&main, &commit).unwrap();
        let path = dir.path().join("models--a--b/refs/main");
        assert_eq!(fs::read_to_string(&path).unwrap(), commit.as_str());
        let pull = "refs/pr/3".parse().unwrap();
        layout.write_ref(&pull, &commit).unwrap();
        assert_eq!(layout.read_ref(&pull), Some(commit.clone()));
        // A commit needs no reference.
        layout
            .write_ref(&commit.as_str().parse().unwrap(), &commit)
            .unwrap();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
        for wrong in ["", "main", &"1".repeat(100)] {
            fs::write(&path, wrong).unwrap();
            assert_eq!(layout.read_ref(&main), None, "{wrong}");
        }
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        fs::create_dir(&path).unwrap();
        let error = write_atomically(&path, &dir.path().join("new"), b"x").unwrap_err();
        assert!(error.to_string().contains("folder"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
