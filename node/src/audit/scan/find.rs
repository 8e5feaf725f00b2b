//! Which repositories are in a folder.
//!
//! A folder with files of its own is a repository; one with folders only is looked into. So nothing that
//! lies beside weights is passed over.

use std::fs;
use std::path::{Path, PathBuf};

use leoma_models::{Error, Result};

use super::super::report::Source;

/// Deepest folder in which repositories are looked for.
const MAX_DEPTH: usize = 6;
/// Most entries of a folder that holds repositories.
const MAX_ENTRIES: usize = 100_000;
/// Folders of a checkpoint: what holds one of them is a repository, even without files of its own.
const NETWORKS: [&str; 10] = [
    "transformer",
    "transformer_2",
    "vae",
    "text_encoder",
    "tokenizer",
    "scheduler",
    "image_encoder",
    "high_noise_model",
    "low_noise_model",
    "google",
];

/// A repository to be scanned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What it is called.
    pub source: Source,
    /// Its folder, or file.
    pub path: PathBuf,
}

impl Place {
    /// A folder or file, called by its path.
    pub fn local(path: &Path) -> Self {
        let name = path.display().to_string();
        Self {
            source: Source {
                name: name.clone(),
                commit: None,
                path: Some(name),
            },
            path: path.to_owned(),
        }
    }

    fn cached(repo: &str, commit: &str, path: PathBuf) -> Self {
        Self {
            source: Source {
                name: repo.to_owned(),
                commit: Some(commit.to_owned()),
                path: Some(path.display().to_string()),
            },
            path,
        }
    }
}

/// The repositories at `root`: itself, those in the folders below it, or the commits of a cache of the Hub.
///
/// # Errors
/// [`Error::Io`] when a folder cannot be listed, [`Error::Artifact`] for one that cannot be told apart.
pub fn find(root: &Path) -> Result<Vec<Place>> {
    let mut found = Vec::new();
    let metadata = fs::metadata(root).map_err(|source| Error::io(root, source))?;
    if metadata.is_dir() {
        look(root, 0, &mut found)?;
    } else {
        found.push(Place::local(root));
    }
    // Hidden folders only, or a cache without commits: that nothing is there is a finding, too.
    if found.is_empty() {
        found.push(Place::local(root));
    }
    found.sort_by(|a, b| (&a.source.name, &a.path).cmp(&(&b.source.name, &b.path)));
    Ok(found)
}

fn look(folder: &Path, depth: usize, found: &mut Vec<Place>) -> Result<()> {
    let mut folders = Vec::new();
    let mut is_repository = false;
    for (index, entry) in fs::read_dir(folder)
        .map_err(|source| Error::io(folder, source))?
        .enumerate()
    {
        let entry = entry.map_err(|source| Error::io(folder, source))?;
        if index >= MAX_ENTRIES {
            return Err(Error::artifact(
                folder,
                format!(
                    "has more than {MAX_ENTRIES} entries; name the repositories in it one by one"
                ),
            ));
        }
        let kind = entry
            .file_type()
            .map_err(|source| Error::io(entry.path(), source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() {
            is_repository |= NETWORKS.contains(&name.as_str());
            folders.push((name, entry.path()));
        } else if name != "CACHEDIR.TAG" {
            // Links count: what is behind them is a repository's own affair, and is not followed here.
            is_repository = true;
        }
    }
    folders.sort();
    if let Some(repo) = cached_name(folder, &folders) {
        return commits(&repo, &folder.join("snapshots"), found);
    }
    // An empty folder, too: that it holds nothing is a finding.
    if is_repository || folders.is_empty() {
        found.push(Place::local(folder));
        return Ok(());
    }
    if depth >= MAX_DEPTH {
        return Err(Error::artifact(
            folder,
            format!(
                "no files in {MAX_DEPTH} folders one in another; name the repositories one by one"
            ),
        ));
    }
    for (name, path) in folders {
        if !name.starts_with('.') {
            look(&path, depth + 1, found)?;
        }
    }
    Ok(())
}

/// The repository of the Hub that a folder of its cache is of.
fn cached_name(folder: &Path, inside: &[(String, PathBuf)]) -> Option<String> {
    let name = folder.file_name()?.to_str()?.strip_prefix("models--")?;
    let has_commits = inside.iter().any(|(name, _)| name == "snapshots");
    has_commits.then(|| name.replacen("--", "/", 1))
}

fn commits(repo: &str, snapshots: &Path, found: &mut Vec<Place>) -> Result<()> {
    for entry in fs::read_dir(snapshots).map_err(|source| Error::io(snapshots, source))? {
        let entry = entry.map_err(|source| Error::io(snapshots, source))?;
        let commit = entry.file_name().to_string_lossy().into_owned();
        found.push(Place::cached(repo, &commit, entry.path()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(root: &Path) -> Vec<String> {
        let found = find(root).unwrap();
        found
            .iter()
            .map(|place| {
                let name = place.source.to_string();
                name.strip_prefix(&format!("{}/", root.display()))
                    .map_or(name.clone(), str::to_owned)
            })
            .collect()
    }

    #[test]
    fn repositories_are_folders_with_files_of_their_own() {
        let keep = tempfile::tempdir().unwrap();
        let root = keep.path();
        for path in [
            "user/one/model_index.json",
            "user/one/vae/w.safetensors",
            "two/transformer/w.safetensors",
            "three/evil.py",
            "three/below/w.safetensors",
            ".hidden/x",
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        fs::create_dir(root.join("empty")).unwrap();
        assert_eq!(names(root), ["empty", "three", "two", "user/one"]);
        assert_eq!(names(&root.join(".hidden")).len(), 1);
        let hidden = tempfile::tempdir().unwrap();
        fs::create_dir(hidden.path().join(".git")).unwrap();
        assert_eq!(names(hidden.path()), [hidden.path().display().to_string()]);
        fs::write(root.join("README.md"), "x").unwrap();
        assert_eq!(names(root), [root.display().to_string()]);
        assert_eq!(
            names(&root.join("three/evil.py")),
            [root.join("three/evil.py").display().to_string()]
        );
        assert!(find(&root.join("missing")).is_err());
    }

    #[test]
    fn a_cache_of_the_hub_has_a_repository_for_every_commit() {
        let keep = tempfile::tempdir().unwrap();
        let root = keep.path();
        fs::write(root.join("CACHEDIR.TAG"), "x").unwrap();
        for (repo, commit) in [
            ("models--a--b", "11"),
            ("models--a--b", "22"),
            ("models--c--d--e", "33"),
        ] {
            let path = root.join(repo).join("snapshots").join(commit);
            fs::create_dir_all(&path).unwrap();
            fs::create_dir_all(root.join(repo).join("blobs")).unwrap();
            fs::create_dir_all(root.join(".locks").join(repo)).unwrap();
        }
        assert_eq!(names(root), ["a/b@11", "a/b@22", "c/d--e@33"]);
        assert_eq!(names(&root.join("models--a--b")), ["a/b@11", "a/b@22"]);
    }
}
