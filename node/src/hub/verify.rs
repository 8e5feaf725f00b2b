//! Reading what is in the cache, and comparing it with what the Hub said it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use super::digest::{self, Digest};
use super::error::{HubError, Result};
use super::layout::Layout;
use super::name::{RepoId, Revision};
use super::tree::Tree;

/// Files that are read at the same time; more than a disk gains from.
const READERS: usize = 4;

/// A commit in the cache, file by file.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// Repository.
    pub repo: String,
    /// Commit.
    pub commit: String,
    /// Folder with the files.
    pub path: PathBuf,
    /// Whether the Hub's listing of the commit was there. Without it, contents were compared with their names
    /// in the cache, and nobody knows what is missing.
    pub listed: bool,
    /// The files.
    pub files: Vec<FileCheck>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileCheck {
    /// Path in the repository.
    pub path: String,
    /// What it is.
    #[serde(flatten)]
    pub state: FileState,
}

/// What a file is compared with what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum FileState {
    /// As the Hub says.
    Good {
        /// Bytes.
        size: u64,
        /// SHA-256, or git object id of a small file.
        digest: String,
    },
    /// Of the commit and not there.
    Missing,
    /// There, with other bytes.
    Damaged {
        /// What was expected and what was found.
        reason: String,
    },
    /// There, and not of the commit.
    Unexpected,
}

impl Verification {
    /// Whether every file of the commit is there and right, and nothing else is.
    pub fn is_good(&self) -> bool {
        self.files
            .iter()
            .all(|file| matches!(file.state, FileState::Good { .. }))
    }

    /// Files that are there and wrong, or not of the commit.
    pub fn bad(&self) -> impl Iterator<Item = &FileCheck> {
        self.files.iter().filter(|file| {
            matches!(
                file.state,
                FileState::Damaged { .. } | FileState::Unexpected
            )
        })
    }

    /// Files of the commit that are not there.
    pub fn missing(&self) -> impl Iterator<Item = &FileCheck> {
        let missing = |file: &&FileCheck| matches!(file.state, FileState::Missing);
        self.files.iter().filter(missing)
    }
}

/// Reads every file of a commit in the cache. Uses no network.
///
/// # Errors
/// [`HubError::Missing`] when the commit is not in the cache; [`HubError::Io`] when it cannot be read.
pub fn verify(
    cache: &Path,
    repo: &RepoId,
    revision: &Revision,
    read: &(dyn Fn(u64) + Sync),
) -> Result<Verification> {
    let layout = Layout::new(cache, repo);
    let found = super::cache::find(cache, repo, revision);
    let (commit, snapshot) = found.ok_or_else(|| HubError::Missing {
        what: format!("{repo}@{revision}"),
        message: format!(
            "is not in {}; `leoma-node models pull {repo} --revision {revision}` brings it",
            cache.display()
        ),
    })?;
    let tree = Tree::read(&layout.tree(&commit));
    let mut found = Vec::new();
    super::cache::walk(&snapshot, "", &mut found);
    let found: BTreeMap<String, Option<u64>> = found.into_iter().collect();

    let mut paths: Vec<&str> = found.keys().map(String::as_str).collect();
    if let Some(tree) = &tree {
        paths.extend(tree.files().map(|(path, _)| path));
    }
    paths.sort_unstable();
    paths.dedup();
    let check = |path: &str| -> Result<FileState> {
        let expected = match &tree {
            Some(tree) => match tree.get(path) {
                Some(file) => Expected {
                    size: Some(file.size),
                    digest: file.digest(),
                },
                None => return Ok(FileState::Unexpected),
            },
            None => match own_name(&snapshot.join(path)) {
                Some(digest) => Expected { size: None, digest },
                None => return Ok(FileState::Unexpected),
            },
        };
        match found.get(path) {
            None => Ok(FileState::Missing),
            Some(None) => Ok(FileState::Damaged {
                reason: "its content is not there".into(),
            }),
            Some(Some(size)) => {
                let state = compare(&snapshot.join(path), *size, &expected)?;
                read(*size);
                Ok(state)
            }
        }
    };
    Ok(Verification {
        repo: repo.to_string(),
        commit: commit.to_string(),
        files: in_parallel(&paths, check)?,
        path: snapshot.clone(),
        listed: tree.is_some(),
    })
}

struct Expected {
    size: Option<u64>,
    digest: Digest,
}

fn compare(path: &Path, size: u64, expected: &Expected) -> Result<FileState> {
    if let Some(expected) = expected.size.filter(|&expected| expected != size) {
        let reason = format!("{size} bytes in place of {expected}");
        return Ok(FileState::Damaged { reason });
    }
    let (size, digest) =
        digest::of_file(path, &expected.digest).map_err(|e| HubError::io("read", path, e))?;
    if digest == expected.digest.hex() {
        return Ok(FileState::Good { size, digest });
    }
    let (kind, right) = (expected.digest.kind(), expected.digest.hex());
    Ok(FileState::Damaged {
        reason: format!("its {kind} is {digest}, the Hub's is {right}"),
    })
}

/// The digest that the content's name in the cache stands for.
fn own_name(pointer: &Path) -> Option<Digest> {
    let target = fs::read_link(pointer).ok()?;
    Digest::of_name(target.file_name()?.to_str()?)
}

fn in_parallel(
    paths: &[&str],
    check: impl Fn(&str) -> Result<FileState> + Sync,
) -> Result<Vec<FileCheck>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Result<FileCheck>)>> = Mutex::default();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = paths.get(index) else {
                return;
            };
            let checked = check(path).map(|state| FileCheck {
                path: (*path).to_owned(),
                state,
            });
            done.lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push((index, checked));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..READERS.min(paths.len()) {
            scope.spawn(work);
        }
    });
    let mut done = done
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, checked)| checked).collect()
}
