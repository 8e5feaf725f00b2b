//! What the cache holds, and taking things out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::{HubError, Result};
use super::layout::{Layout, read_commit, remove_file};
use super::lock::Lock;
use super::name::{Commit, RepoId, Revision};
use super::tree::Tree;

/// Deepest folder that is looked into; paths of repositories are shorter.
const MAX_DEPTH: usize = 64;

/// A repository in the cache.
#[derive(Debug, Clone, Serialize)]
pub struct CachedRepo {
    /// Name.
    pub repo: String,
    /// Folder.
    pub path: PathBuf,
    /// Bytes of all contents, each counted once; unfinished ones too.
    pub size_bytes: u64,
    /// Bytes of unfinished downloads.
    pub unfinished_bytes: u64,
    /// Its commits.
    pub revisions: Vec<CachedRevision>,
}

/// A commit in the cache.
#[derive(Debug, Clone, Serialize)]
pub struct CachedRevision {
    /// Commit.
    pub commit: String,
    /// Branches and tags that stood for it when they were last asked.
    pub refs: Vec<String>,
    /// Folder with its files.
    pub path: PathBuf,
    /// Files that are there.
    pub files: usize,
    /// Bytes of them; contents that commits share are counted in each.
    pub size_bytes: u64,
    /// Files of the commit that are not there; unknown without its listing.
    pub missing: Option<usize>,
}

/// What was taken out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Removed {
    /// Commits.
    pub commits: Vec<String>,
    /// Contents.
    pub blobs: usize,
    /// Bytes that are free now.
    pub bytes: u64,
}

/// Models in the cache, by name. A cache that does not exist is empty.
///
/// # Errors
/// [`HubError::Io`] when the cache cannot be read.
pub fn list(cache: &Path) -> Result<Vec<CachedRepo>> {
    let mut repos = Vec::new();
    for name in names(cache)? {
        let Some(repo) = RepoId::from_folder_name(&name) else {
            continue;
        };
        let layout = Layout::new(cache, &repo);
        if layout.folder().is_dir() {
            repos.push(describe(&layout, &repo)?);
        }
    }
    repos.sort_by(|a, b| a.repo.cmp(&b.repo));
    Ok(repos)
}

/// The commit that a revision is in the cache, and the folder of its files. Asks nobody; files may be missing.
pub fn find(cache: &Path, repo: &RepoId, revision: &Revision) -> Option<(Commit, PathBuf)> {
    let layout = Layout::new(cache, repo);
    let commit = revision.commit().or_else(|| layout.read_ref(revision))?;
    let path = layout.snapshot(&commit);
    path.is_dir().then_some((commit, path))
}

fn describe(layout: &Layout, repo: &RepoId) -> Result<CachedRepo> {
    let refs = references(layout);
    let mut revisions = Vec::new();
    for commit in commits(layout)? {
        let path = layout.snapshot(&commit);
        let mut files = Vec::new();
        walk(&path, "", &mut files);
        let there: BTreeMap<&str, u64> = files
            .iter()
            .filter_map(|(path, size)| Some((path.as_str(), (*size)?)))
            .collect();
        let missing = Tree::read(&layout.tree(&commit)).map(|tree| {
            let missing = tree
                .files()
                .filter(|(path, file)| there.get(path) != Some(&file.size));
            missing.count()
        });
        revisions.push(CachedRevision {
            refs: refs
                .iter()
                .filter(|(_, of)| *of == commit)
                .map(|(name, _)| name.clone())
                .collect(),
            path,
            files: there.len(),
            size_bytes: there.values().sum(),
            missing,
            commit: commit.to_string(),
        });
    }
    let (mut size_bytes, mut unfinished_bytes) = (0, 0);
    for name in names(&layout.blobs())? {
        let found = fs::metadata(layout.blob(&name));
        let size = found.map_or(0, |found| on_disk(&found));
        size_bytes += size;
        if name.ends_with(".incomplete") {
            unfinished_bytes += size;
        }
    }
    Ok(CachedRepo {
        repo: repo.to_string(),
        path: layout.folder(),
        size_bytes,
        unfinished_bytes,
        revisions,
    })
}

/// Takes a repository, or one commit of it, out of the cache. Contents that other commits of it use stay. With
/// `dry_run` nothing is removed and the same is returned.
///
/// # Errors
/// [`HubError::Missing`] when it is not there; [`HubError::Io`] when another process is downloading it, or a
/// file cannot be removed.
pub fn remove(
    cache: &Path,
    repo: &RepoId,
    revision: Option<&Revision>,
    dry_run: bool,
) -> Result<Removed> {
    let layout = Layout::new(cache, repo);
    let missing = |message: String| HubError::Missing {
        what: repo.to_string(),
        message,
    };
    if !layout.folder().is_dir() {
        return Err(missing(format!("is not in {}", cache.display())));
    }
    let all = commits(&layout)?;
    let gone: BTreeSet<Commit> = match revision {
        None => all.iter().cloned().collect(),
        Some(revision) => {
            let commit = revision.commit().or_else(|| layout.read_ref(revision));
            let commit = commit.filter(|commit| all.contains(commit));
            let commit = commit
                .ok_or_else(|| missing(format!("revision {revision} is not in the cache")))?;
            BTreeSet::from([commit])
        }
    };
    let last = gone.len() == all.len();
    let kept: BTreeSet<String> = all
        .iter()
        .filter(|commit| !gone.contains(*commit))
        .flat_map(|commit| targets(&layout.snapshot(commit)))
        .collect();
    let used: BTreeSet<String> = gone
        .iter()
        .flat_map(|commit| targets(&layout.snapshot(commit)))
        .collect();
    // With the last commit goes what no commit uses, unfinished downloads among it.
    let blobs: Vec<String> = names(&layout.blobs())?
        .into_iter()
        .filter(|name| {
            let etag = name.split('.').next().unwrap_or_default();
            // An unfinished file of a content goes with it.
            !kept.contains(etag) && (last || used.contains(etag))
        })
        .collect();
    let bytes = blobs
        .iter()
        // A link to a store that repositories share frees nothing.
        .filter_map(|name| fs::symlink_metadata(layout.blob(name)).ok())
        .map(|found| on_disk(&found))
        .sum();
    let removed = Removed {
        commits: gone.iter().map(ToString::to_string).collect(),
        blobs: blobs.len(),
        bytes,
    };
    if dry_run {
        return Ok(removed);
    }
    for name in &blobs {
        hold(&layout, name)?;
    }
    for (name, commit) in references(&layout) {
        if gone.contains(&commit) {
            remove_file(&layout.refs().join(name))?;
        }
    }
    // Names first: what is left after a break is contents without names, which the next removal takes.
    for commit in &gone {
        remove_folder(&layout.snapshot(commit))?;
        remove_file(&layout.tree(commit))?;
    }
    for name in &blobs {
        let _lock = hold(&layout, name)?;
        remove_file(&layout.blob(name))?;
    }
    if last {
        remove_folder(&layout.folder())?;
        remove_folder(&layout.locks())?;
    }
    Ok(removed)
}

/// Takes the lock of a blob, or of one in the making: whoever downloads it must not lose it.
fn hold(layout: &Layout, name: &str) -> Result<Lock> {
    let etag = name.split('.').next().unwrap_or_default();
    Lock::try_take(&layout.lock(etag))?.ok_or_else(|| {
        let source = io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another process is downloading this; wait for it or stop it",
        );
        HubError::io("remove", &layout.blob(etag), source)
    })
}

/// Names in a folder; none when it does not exist.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HubError::io("list", folder, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| HubError::io("list", folder, e))?;
        // Other names are not ours.
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn commits(layout: &Layout) -> Result<Vec<Commit>> {
    let names = names(&layout.snapshots())?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Branches and tags with what they stood for.
fn references(layout: &Layout) -> Vec<(String, Commit)> {
    let mut files = Vec::new();
    let folder = layout.refs();
    walk(&folder, "", &mut files);
    files
        .into_iter()
        .filter_map(|(name, _)| read_commit(&folder.join(&name)).map(|commit| (name, commit)))
        .collect()
}

/// Files below a folder by path, with the size of those that can be opened. Folders behind links are not
/// looked into.
pub(super) fn walk(folder: &Path, prefix: &str, found: &mut Vec<(String, Option<u64>)>) {
    if prefix.matches('/').count() > MAX_DEPTH {
        return;
    }
    // What cannot be listed is not there for anybody else either.
    for name in names(folder).unwrap_or_default() {
        let path = folder.join(&name);
        let Ok(entry) = fs::symlink_metadata(&path) else {
            continue;
        };
        if entry.is_dir() {
            walk(&path, &format!("{prefix}{name}/"), found);
        } else {
            let file = fs::metadata(&path).ok().filter(|file| file.is_file());
            found.push((format!("{prefix}{name}"), file.map(|file| file.len())));
        }
    }
}

/// Names of the blobs that a commit's links point to.
fn targets(snapshot: &Path) -> BTreeSet<String> {
    let mut files = Vec::new();
    walk(snapshot, "", &mut files);
    files
        .iter()
        .filter_map(|(path, _)| {
            let target = fs::read_link(snapshot.join(path)).ok()?;
            Some(target.file_name()?.to_str()?.to_owned())
        })
        .collect()
}

/// Bytes that a file takes on the disk: one with holes has more bytes than that.
fn on_disk(file: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    if file.is_file() {
        (file.blocks() * 512).min(file.len())
    } else {
        0
    }
}

/// Removes a folder and what is in it, links and not what they lead to.
fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(HubError::io("remove", folder, error))
        }
        _ => Ok(()),
    }
}
