//! A blob that is not whole yet: its bytes under a temporary name, and a journal of which of them are there.
//!
//! ```text
//! blobs/ETAG.leoma.incomplete   the bytes, at their places, with holes
//! blobs/ETAG.leoma.journal      {"version":1,"etag":…,"size":…,"done":[[START,END],…]}
//! ```
//!
//! The plain name `ETAG.incomplete` is avoided: older versions of the Python tools append to such a file from
//! its end, and take one with holes for whole. The journal is a hint about what need not be fetched again. A
//! wrong one cannot do harm, because the digest of all bytes is taken from the file before it gets its name.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::{HubError, Result};
use super::layout::{remove_file, sync_folder, write_atomically};
use super::ranges::Ranges;

const VERSION: u32 = 1;
/// Largest journal that is read; one line per piece of a very large file is far less.
const MAX_JOURNAL_BYTES: u64 = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    version: u32,
    etag: String,
    size: u64,
    done: Ranges,
}

/// The file, and what of it is there.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    path: PathBuf,
    journal: PathBuf,
    etag: String,
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Written.
    done: Ranges,
    /// Being fetched by somebody.
    taken: Ranges,
    /// Of `done`, what the journal on disk tells.
    saved: u64,
    /// Nobody waits for the digest any more.
    stopped: bool,
    /// The file has its name, or is gone: there is nothing to save.
    over: bool,
}

/// Where the two files of a blob in the making are.
pub(super) fn paths(blob: &Path) -> (PathBuf, PathBuf) {
    let with = |suffix: &str| {
        let mut name = blob.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    (with(".leoma.incomplete"), with(".leoma.journal"))
}

/// The next journal, until it is whole. Only the holder of the lock writes one, so one name is enough, and what
/// a killed process leaves is found again.
fn new_journal(journal: &Path) -> PathBuf {
    let mut name = journal.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Removes all that belongs to a blob in the making.
pub(super) fn remove(blob: &Path) -> Result<()> {
    let (path, journal) = paths(blob);
    // The journal first: without it the bytes mean nothing.
    remove_file(&journal)?;
    remove_file(&new_journal(&journal))?;
    remove_file(&path)
}

/// Whether something belongs to a blob in the making.
pub(super) fn is_begun(blob: &Path) -> bool {
    let (path, journal) = paths(blob);
    [&path, &journal, &new_journal(&journal)]
        .iter()
        .any(|path| path.exists())
}

/// How many bytes of a blob in the making are there already.
pub(super) fn bytes_there(blob: &Path, etag: &str, size: u64) -> u64 {
    let (path, journal) = paths(blob);
    match fs::metadata(&path) {
        Ok(file) if file.len() == size => read_journal(&journal, etag, size).total(),
        _ => 0,
    }
}

/// How many bytes of the disk a blob in the making has taken already.
pub(super) fn bytes_reserved(blob: &Path) -> u64 {
    let (path, _) = paths(blob);
    fs::metadata(&path).map_or(0, |file| file.blocks().saturating_mul(512))
}

/// What a journal says; nothing when it is not about this content or was not written by this version.
fn read_journal(path: &Path, etag: &str, size: u64) -> Ranges {
    let read = || {
        let length = fs::metadata(path).ok()?.len();
        let text = fs::read(path)
            .ok()
            .filter(|_| length <= MAX_JOURNAL_BYTES)?;
        let journal: Journal = serde_json::from_slice(&text).ok()?;
        let ours = journal.version == VERSION
            && journal.etag == etag
            && journal.size == size
            && journal.done.is_valid(size);
        ours.then_some(journal.done)
    };
    read().unwrap_or_default()
}

impl Part {
    /// Opens what an earlier attempt left, or begins. Only the holder of the blob's lock may.
    pub(super) fn open(blob: &Path, etag: &str, size: u64) -> Result<Self> {
        let (path, journal) = paths(blob);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| HubError::io("open", &path, e))?;
        let length = file
            .metadata()
            .map_err(|e| HubError::io("read", &path, e))?
            .len();
        // Without its file, or beside another's, a journal says nothing.
        let done = if length == size {
            read_journal(&journal, etag, size)
        } else {
            Ranges::default()
        };
        if done == Ranges::default() {
            remove_file(&journal)?;
            file.set_len(0)
                .and_then(|()| file.set_len(size))
                .map_err(|e| HubError::io("write", &path, e))?;
        }
        if let Err(error) = reserve(&file, size) {
            if done == Ranges::default() {
                // What was reserved of it is of no use to anybody.
                remove_file(&path)?;
            }
            return Err(HubError::io("reserve room for", &path, error));
        }
        Ok(Self {
            file,
            path,
            journal,
            etag: etag.to_owned(),
            size,
            state: Mutex::new(State {
                saved: done.total(),
                done,
                ..State::default()
            }),
            changed: Condvar::new(),
        })
    }

    /// Bytes there.
    pub(super) fn done(&self) -> u64 {
        self.state().done.total()
    }

    /// Whether all bytes are there.
    pub(super) fn is_whole(&self) -> bool {
        self.state().done.frontier() == self.size
    }

    /// Takes the first `limit` bytes that are neither there nor being fetched.
    pub(super) fn take(&self, limit: u64) -> Option<Range<u64>> {
        let mut state = self.state();
        let gap = state
            .done
            .gaps(0..self.size)
            .into_iter()
            .find_map(|gap| state.taken.gaps(gap).into_iter().next())?;
        let piece = gap.start..gap.end.min(gap.start.saturating_add(limit));
        state.taken.add(piece.clone());
        Some(piece)
    }

    /// Nobody fetches these bytes any more.
    pub(super) fn give_back(&self, piece: Range<u64>) {
        self.state().taken.remove(piece);
    }

    /// Writes bytes at their place, except those that are there: each byte is written once, so that what was
    /// hashed is what is published. Returns how many were new.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<u64> {
        let mut state = self.state();
        let mut new = 0;
        for gap in state.done.gaps(offset..offset + bytes.len() as u64) {
            let [from, to] = [gap.start, gap.end].map(|at| (at - offset) as usize);
            let chunk = bytes.get(from..to).unwrap_or_default();
            self.file
                .write_all_at(chunk, gap.start)
                .map_err(|e| HubError::io("write", &self.path, e))?;
            new += chunk.len() as u64;
            state.done.add(gap);
        }
        if new > 0 {
            self.changed.notify_all();
        }
        Ok(new)
    }

    /// Writes the journal, when there is something new to tell. With `durable`, the bytes it tells of are on
    /// the disk before it.
    pub(super) fn save(&self, durable: bool) -> Result<()> {
        let done = {
            let state = self.state();
            if state.over || state.done.total() == state.saved {
                return Ok(());
            }
            state.done.clone()
        };
        if durable {
            self.file
                .sync_data()
                .map_err(|e| HubError::io("write", &self.path, e))?;
        }
        let total = done.total();
        let journal = Journal {
            version: VERSION,
            etag: self.etag.clone(),
            size: self.size,
            done,
        };
        let text = serde_json::to_vec(&journal)
            .map_err(|e| HubError::io("write", &self.journal, io::Error::other(e)))?;
        write_atomically(&self.journal, &new_journal(&self.journal), &text)?;
        let mut state = self.state();
        state.saved = total;
        if state.over {
            drop(state);
            remove_file(&self.journal)?;
        }
        Ok(())
    }

    /// Writes the bytes through to the disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| HubError::io("write", &self.path, e))
    }

    /// Gives the file its name.
    pub(super) fn rename(&self, blob: &Path) -> Result<()> {
        fs::rename(&self.path, blob).map_err(|e| HubError::io("write", blob, e))?;
        self.state().over = true;
        Ok(())
    }

    /// Makes the name last.
    pub(super) fn settle(blob: &Path) -> Result<()> {
        sync_folder(blob)?;
        remove(blob)
    }

    /// Removes everything.
    pub(super) fn discard(&self, blob: &Path) -> Result<()> {
        self.state().over = true;
        remove(blob)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the room on the disk now, so that it cannot run out half-way. Some file systems cannot.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, size) {
        Ok(()) => Ok(()),
        Err(error) if error == rustix::io::Errno::NOSPC || error == rustix::io::Errno::DQUOT => {
            Err(error.into())
        }
        Err(_) => Ok(()),
    }
}

/// A thread that hashes the bytes as far as they go without a hole, right behind those that write them.
///
/// It reads them back, from memory still, so that the digest is of what the file holds.
#[derive(Debug)]
pub(super) struct Follower {
    part: Arc<Part>,
    thread: Option<JoinHandle<io::Result<Option<String>>>>,
}

impl Follower {
    pub(super) fn start(part: &Arc<Part>, kind: &Digest) -> Self {
        let (part, kind) = (Arc::clone(part), kind.clone());
        let follow = Arc::clone(&part);
        let thread = std::thread::spawn(move || {
            let mut hasher = kind.hasher(follow.size);
            let mut hashed = 0;
            while hashed < follow.size {
                let frontier = {
                    let mut state = follow.state();
                    while state.done.frontier() == hashed && !state.stopped {
                        state = follow
                            .changed
                            .wait(state)
                            .unwrap_or_else(PoisonError::into_inner);
                    }
                    if state.stopped {
                        return Ok(None);
                    }
                    state.done.frontier()
                };
                hasher.read(&follow.file, hashed, frontier)?;
                hashed = frontier;
            }
            Ok(Some(hasher.finish()))
        });
        Self {
            part,
            thread: Some(thread),
        }
    }

    /// The digest. Waits until all bytes are there.
    pub(super) fn finish(mut self) -> Result<String> {
        let joined = self.thread.take().map(JoinHandle::join);
        let hashed = match joined {
            Some(Ok(hashed)) => hashed.map_err(|e| HubError::io("read", &self.part.path, e))?,
            Some(Err(_)) | None => None,
        };
        let lost = || HubError::io("read", &self.part.path, io::Error::other("hashing stopped"));
        hashed.ok_or_else(lost)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.part.state().stopped = true;
        self.part.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ETAG: &str = "0f";

    fn open(dir: &Path, size: u64) -> Part {
        Part::open(&dir.join(ETAG), ETAG, size).unwrap()
    }

    #[test]
    fn it_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let part = open(dir.path(), 10);
        assert_eq!(part.take(4), Some(0..4));
        assert_eq!(part.take(100), Some(4..10));
        assert_eq!(part.take(4), None);
        part.give_back(4..10);
        assert_eq!(part.write(6, b"ghij").unwrap(), 4);
        assert_eq!(part.take(100), Some(4..6));
        assert_eq!(part.write(5, b"XY").unwrap(), 1);
        part.save(true).unwrap();
        drop(part);
        assert_eq!(bytes_there(&dir.path().join(ETAG), ETAG, 10), 5);
        let part = open(dir.path(), 10);
        assert_eq!((part.done(), part.is_whole()), (5, false));
        assert_eq!(part.write(0, b"abcde?????").unwrap(), 5);
        assert!(part.is_whole());
        let blob = dir.path().join(ETAG);
        part.sync().unwrap();
        part.rename(&blob).unwrap();
        Part::settle(&blob).unwrap();
        // What is over is not saved again.
        part.save(false).unwrap();
        assert_eq!(fs::read(&blob).unwrap(), b"abcdeXghij");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_journal_that_is_not_about_these_bytes_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let blob = dir.path().join(ETAG);
        let (file, journal) = paths(&blob);
        let good = r#"{"version":1,"etag":"0f","size":10,"done":[[0,5]]}"#;
        for text in [
            "",
            "{",
            "[]",
            r#"{"version":2,"etag":"0f","size":10,"done":[[0,5]]}"#,
            r#"{"version":1,"etag":"0e","size":10,"done":[[0,5]]}"#,
            r#"{"version":1,"etag":"0f","size":11,"done":[[0,5]]}"#,
            r#"{"version":1,"etag":"0f","size":10,"done":[[0,50]]}"#,
            r#"{"version":1,"etag":"0f","size":10,"done":[[5,0]]}"#,
        ] {
            fs::write(&file, "0123456789").unwrap();
            fs::write(&journal, text).unwrap();
            assert_eq!(open(dir.path(), 10).done(), 0, "{text}");
            assert!(!journal.exists(), "{text}");
        }
        fs::write(&journal, good).unwrap();
        fs::write(&file, "0123456789").unwrap();
        assert_eq!(open(dir.path(), 10).done(), 5);
        // The bytes were removed by hand, or cut.
        for length in [None, Some(4)] {
            fs::write(&journal, good).unwrap();
            fs::remove_file(&file).unwrap();
            if let Some(length) = length {
                fs::write(&file, &b"0123456789"[..length]).unwrap();
            }
            assert_eq!(bytes_there(&blob, ETAG, 10), 0);
            assert_eq!(open(dir.path(), 10).done(), 0);
        }
    }

    #[test]
    fn the_digest_is_of_what_the_file_holds() {
        let dir = tempfile::tempdir().unwrap();
        let part = Arc::new(open(dir.path(), 6));
        let kind = Digest::of_name(&"0".repeat(64)).unwrap();
        let follower = Follower::start(&part, &kind);
        for (offset, bytes) in [(3, b"lo\n"), (0, b"hel")] {
            part.write(offset, bytes).unwrap();
        }
        let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(follower.finish().unwrap(), sha);
        // One that is no longer wanted ends.
        let part = Arc::new(Part::open(&dir.path().join("1"), "1", 6).unwrap());
        let mut follower = Follower::start(&part, &kind);
        let thread = follower.thread.take().unwrap();
        drop(follower);
        assert_eq!(thread.join().unwrap().unwrap(), None);
    }
}
