//! The files of a repository: a folder, a snapshot in the Hub's cache, or one file.
//!
//! Links inside the Hub cache's own blobs are followed, and links from one file of the folder to another.
//! Any other link is a finding and stays closed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use leoma_models::{Error, Result};
use serde::Serialize;

use super::finding::{Finding, Rule};

/// Most files of a repository.
const MAX_FILES: usize = 200_000;
/// Deepest folder.
const MAX_DEPTH: usize = 32;
/// Longest path within a repository.
const MAX_PATH: usize = 1024;
/// What downloads and version control leave beside the files of a repository; not part of it.
const BOOKKEEPING: [&str; 3] = [".git", ".cache/huggingface", ".cache/leoma"];
/// Hidden files that repositories usually have.
const USUAL_HIDDEN: [&str; 2] = [".gitattributes", ".gitignore"];

/// What the Hub's cache calls a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Blob {
    /// A large file: the name is the SHA-256 of its content.
    Lfs(String),
    /// A small file: the name is git's hash of it.
    Git(String),
}

impl Blob {
    fn of(target: &Path) -> Option<Self> {
        let name = target.file_name()?.to_str()?;
        let hex = name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match name.len() {
            64 if hex => Some(Self::Lfs(name.to_owned())),
            40 if hex => Some(Self::Git(name.to_owned())),
            _ => None,
        }
    }
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeFile {
    /// Path in the repository, with `/`.
    pub path: String,
    /// The real file, links followed.
    pub target: PathBuf,
    /// Bytes, when it was listed.
    pub size: u64,
    /// Its name in the Hub's cache.
    pub blob: Option<Blob>,
}

/// The files of a repository, and what is wrong with those that may not be read.
#[derive(Debug)]
pub struct Tree {
    /// As the caller named it.
    pub root: PathBuf,
    /// Sorted by path.
    pub files: Vec<TreeFile>,
    /// Links, special files, odd names.
    pub findings: Vec<Finding>,
    /// `root` is a file.
    single: bool,
}

impl Tree {
    /// Lists the files below `root`, or `root` itself when it is a file.
    ///
    /// # Errors
    /// [`Error::Io`] when `root` cannot be read. What cannot be read below it becomes a finding.
    pub fn open(root: &Path) -> Result<Self> {
        let canonical = fs::canonicalize(root).map_err(|source| Error::io(root, source))?;
        let metadata = fs::metadata(&canonical).map_err(|source| Error::io(root, source))?;
        let mut walk = Walk {
            blobs: blobs_of(&canonical),
            canonical,
            files: Vec::new(),
            findings: Vec::new(),
        };
        if metadata.is_file() {
            let name = root.file_name().unwrap_or_default().to_string_lossy();
            walk.add(name.into_owned(), walk.canonical.clone(), metadata.len());
        } else {
            walk.folder();
        }
        walk.files.sort_by(|a, b| a.path.cmp(&b.path));
        walk.findings.sort();
        Ok(Self {
            root: root.to_owned(),
            files: walk.files,
            findings: walk.findings,
            single: metadata.is_file(),
        })
    }

    /// A file's path as the caller would write it, for messages.
    pub(super) fn shown(&self, file: &TreeFile) -> PathBuf {
        if self.single {
            self.root.clone()
        } else {
            self.root.join(&file.path)
        }
    }

    /// The file at a path of the repository.
    pub fn file(&self, path: &str) -> Option<&TreeFile> {
        let found = self
            .files
            .binary_search_by(|file| file.path.as_str().cmp(path));
        found.ok().and_then(|index| self.files.get(index))
    }
}

struct Walk {
    canonical: PathBuf,
    /// The blob folder of the cache that the repository is a snapshot of.
    blobs: Option<PathBuf>,
    files: Vec<TreeFile>,
    findings: Vec<Finding>,
}

impl Walk {
    fn folder(&mut self) {
        // Folders still to be listed, with their paths in the repository.
        let mut waiting = vec![(self.canonical.clone(), String::new(), 0)];
        while let Some((folder, path, depth)) = waiting.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) => {
                    self.unreadable(&path, &error);
                    continue;
                }
            };
            for entry in entries {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        self.unreadable(&path, &error);
                        break;
                    }
                };
                if self.files.len() >= MAX_FILES {
                    self.find(
                        Rule::TooManyFiles,
                        "",
                        format!("more than {MAX_FILES} files; the rest was not looked at"),
                    );
                    return;
                }
                let name = entry.file_name();
                let text = name.to_string_lossy();
                let child = if path.is_empty() {
                    text.into_owned()
                } else {
                    format!("{path}/{text}")
                };
                if BOOKKEEPING.contains(&child.as_str()) {
                    continue;
                }
                self.check_name(&name, &child);
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() && depth + 1 >= MAX_DEPTH => self.find(
                        Rule::TooManyFiles,
                        &child,
                        format!("deeper than {MAX_DEPTH} folders; not looked at"),
                    ),
                    Ok(kind) if kind.is_dir() => {
                        waiting.push((entry.path(), child, depth + 1));
                    }
                    Ok(kind) if kind.is_symlink() => self.link(&entry.path(), child),
                    Ok(kind) if kind.is_file() => match entry.metadata() {
                        Ok(metadata) => self.add(child, entry.path(), metadata.len()),
                        Err(error) => self.unreadable(&child, &error),
                    },
                    Ok(_) => {
                        let message = "a pipe, socket or device; it was not opened".to_owned();
                        self.find(Rule::NotRegular, &child, message);
                    }
                    Err(error) => self.unreadable(&child, &error),
                }
            }
        }
    }

    fn link(&mut self, link: &Path, path: String) {
        let target = match fs::canonicalize(link) {
            Ok(target) => target,
            Err(error) => return self.unreadable(&path, &error),
        };
        let in_cache = self
            .blobs
            .as_ref()
            .is_some_and(|blobs| target.starts_with(blobs));
        if !in_cache && !target.starts_with(&self.canonical) {
            let message = "links to something outside of the repository".to_owned();
            return self.find(Rule::LinkOutside, &path, message);
        }
        match fs::metadata(&target) {
            Ok(metadata) if metadata.is_file() => self.add(path, target, metadata.len()),
            Ok(_) => {
                let message = "links to a folder or special file; it was not followed".to_owned();
                self.find(Rule::NotRegular, &path, message);
            }
            Err(error) => self.unreadable(&path, &error),
        }
    }

    fn add(&mut self, path: String, target: PathBuf, size: u64) {
        let in_cache = self
            .blobs
            .as_ref()
            .is_some_and(|blobs| target.starts_with(blobs));
        let blob = if in_cache { Blob::of(&target) } else { None };
        self.files.push(TreeFile {
            path,
            target,
            size,
            blob,
        });
    }

    fn check_name(&mut self, name: &std::ffi::OsStr, path: &str) {
        let odd = match name.to_str() {
            None => Some("is not UTF-8"),
            Some(name) if name.contains('\\') => Some("holds a backslash"),
            Some(name) if name.contains(':') => Some("holds a colon"),
            Some(name) if name.chars().any(char::is_control) => Some("holds control characters"),
            Some(name) if name.ends_with([' ', '.']) => Some("ends with a blank or a dot"),
            Some(_) if path.len() > MAX_PATH => Some("is too long"),
            Some(_) => None,
        };
        if let Some(what) = odd {
            let message = format!("the path {what}");
            self.find(Rule::UnsafePath, &path.escape_debug().to_string(), message);
        }
        let name = name.to_string_lossy();
        if name.starts_with('.') && !USUAL_HIDDEN.contains(&name.as_ref()) && path != ".cache" {
            let message = "hidden; checkpoints have no use for it".to_owned();
            self.find(Rule::HiddenFile, path, message);
        }
    }

    fn unreadable(&mut self, path: &str, error: &io::Error) {
        self.find(Rule::CouldNotRead, path, error.to_string());
    }

    fn find(&mut self, rule: Rule, path: &str, message: String) {
        self.findings.push(Finding::new(rule, path, message));
    }
}

/// The blob folder that a snapshot of the Hub's cache links to: `models--org--name/snapshots/REV` belongs
/// to `models--org--name/blobs`.
fn blobs_of(root: &Path) -> Option<PathBuf> {
    let snapshots = root.parent()?;
    let model = snapshots.parent()?;
    let cached = snapshots.file_name()? == "snapshots"
        && model.file_name()?.to_str()?.starts_with("models--");
    cached
        .then(|| fs::canonicalize(model.join("blobs")).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.files.iter().map(|file| file.path.as_str()).collect()
    }

    fn rules(tree: &Tree) -> Vec<(Rule, &str)> {
        tree.findings
            .iter()
            .map(|f| (f.rule, f.path.as_str()))
            .collect()
    }

    #[test]
    fn links_out_are_findings_and_stay_closed() {
        let keep = tempfile::tempdir().unwrap();
        let secret = keep.path().join("secret");
        fs::write(&secret, "s").unwrap();
        let root = keep.path().join("repo");
        fs::create_dir_all(root.join("vae")).unwrap();
        fs::write(root.join("vae/a.json"), "{}").unwrap();
        symlink(&secret, root.join("out")).unwrap();
        symlink("../secret", root.join("relative")).unwrap();
        symlink("vae/a.json", root.join("inside")).unwrap();
        symlink("vae", root.join("folder")).unwrap();
        symlink("nowhere", root.join("broken")).unwrap();
        let tree = Tree::open(&root).unwrap();
        assert_eq!(paths(&tree), ["inside", "vae/a.json"]);
        assert_eq!(
            rules(&tree),
            [
                (Rule::CouldNotRead, "broken"),
                (Rule::LinkOutside, "out"),
                (Rule::LinkOutside, "relative"),
                (Rule::NotRegular, "folder"),
            ]
        );
    }

    #[test]
    fn the_cache_links_to_its_own_blobs_only() {
        let keep = tempfile::tempdir().unwrap();
        let blobs = keep.path().join("models--a--b/blobs");
        let other = keep.path().join("models--a--c/blobs");
        let snapshot = keep.path().join("models--a--b/snapshots/0123");
        for folder in [&blobs, &other, &snapshot] {
            fs::create_dir_all(folder).unwrap();
        }
        let lfs = "ab".repeat(32);
        let git = "cd".repeat(20);
        fs::write(blobs.join(&lfs), "x").unwrap();
        fs::write(blobs.join(&git), "y").unwrap();
        fs::write(other.join(&git), "z").unwrap();
        symlink(format!("../../blobs/{lfs}"), snapshot.join("w.safetensors")).unwrap();
        symlink(format!("../../blobs/{git}"), snapshot.join("config.json")).unwrap();
        symlink(other.join(&git), snapshot.join("other.json")).unwrap();
        let tree = Tree::open(&snapshot).unwrap();
        assert_eq!(paths(&tree), ["config.json", "w.safetensors"]);
        assert_eq!(
            tree.file("w.safetensors").unwrap().blob,
            Some(Blob::Lfs(lfs))
        );
        assert_eq!(tree.file("config.json").unwrap().blob, Some(Blob::Git(git)));
        assert_eq!(rules(&tree), [(Rule::LinkOutside, "other.json")]);
    }

    #[test]
    fn odd_names_special_and_hidden_files() {
        let keep = tempfile::tempdir().unwrap();
        let root = keep.path();
        for name in [".gitattributes", ".env", "a\\b", "c:d", "e\nf", "plain"] {
            fs::write(root.join(name), "x").unwrap();
        }
        fs::create_dir_all(root.join(".git/objects")).unwrap();
        fs::write(root.join(".git/objects/1"), "x").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let tree = Tree::open(root).unwrap();
        assert_eq!(
            paths(&tree),
            [".env", ".gitattributes", "a\\b", "c:d", "e\nf", "plain"]
        );
        assert_eq!(
            rules(&tree),
            [
                (Rule::HiddenFile, ".env"),
                (Rule::NotRegular, "socket"),
                (Rule::UnsafePath, "a\\\\b"),
                (Rule::UnsafePath, "c:d"),
                (Rule::UnsafePath, "e\\nf"),
            ]
        );
    }

    #[test]
    fn one_file_is_a_tree() {
        let keep = tempfile::tempdir().unwrap();
        let path = keep.path().join("w.safetensors");
        fs::write(&path, "123").unwrap();
        let tree = Tree::open(&path).unwrap();
        assert_eq!(paths(&tree), ["w.safetensors"]);
        assert_eq!(tree.files[0].size, 3);
        assert!(Tree::open(&keep.path().join("missing")).is_err());
    }
}
