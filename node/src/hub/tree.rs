//! What a commit consists of: asked of the Hub once, kept in the cache in the Python tools' form.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::ser::{PrettyFormatter, Serializer};

use super::digest::Digest;
use super::error::{HubError, Result};
use super::layout::{sync_folder, write_atomically};
use super::name::{is_lower_hex, is_safe_path, shown};

/// Most files of a commit.
pub(super) const MAX_FILES: usize = 200_000;
/// Largest listing that is read from the cache.
const MAX_TREE_BYTES: u64 = 128 << 20;
const FORMAT_VERSION: u32 = 1;

/// The files of a commit, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(pub(super) BTreeMap<String, TreeFile>);

/// One file of a commit, as the Hub describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeFile {
    /// Bytes.
    pub size: u64,
    /// Git object id of the file or, for one in large file storage, of its pointer.
    pub blob_id: String,
    /// SHA-256 of the content, for files in large file storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lfs_sha256: Option<String>,
    /// Size that large file storage has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lfs_size: Option<u64>,
    /// Name in the Hub's chunk storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xet_hash: Option<String>,
}

impl TreeFile {
    /// What the content must be. Its hex is the name of the blob.
    pub(super) fn digest(&self) -> Digest {
        match &self.lfs_sha256 {
            Some(sha256) => Digest::Sha256(sha256.clone()),
            None => Digest::GitSha1(self.blob_id.clone()),
        }
    }

    fn check(&self, path: &str) -> Result<(), String> {
        let shown = shown(path);
        if !is_safe_path(path) {
            return Err(format!("`{shown}` is no path of a file below a folder"));
        }
        if !is_lower_hex(&self.blob_id, 40) {
            return Err(format!("{shown} has no git object id"));
        }
        if self
            .lfs_sha256
            .as_ref()
            .is_some_and(|sha| !is_lower_hex(sha, 64))
        {
            return Err(format!("{shown} has no SHA-256"));
        }
        if self.lfs_size.is_some_and(|size| size != self.size) {
            return Err(format!("{shown} has two sizes"));
        }
        Ok(())
    }
}

/// An entry of the Hub's answer.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    oid: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    lfs: Option<Lfs>,
    #[serde(rename = "xetHash", default)]
    xet_hash: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    oid: String,
    #[serde(default)]
    size: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format_version: u32,
    files: BTreeMap<String, TreeFile>,
}

impl Tree {
    /// Files by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &TreeFile)> {
        self.0.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// One file.
    pub fn get(&self, path: &str) -> Option<&TreeFile> {
        self.0.get(path)
    }

    /// Adds a page of the Hub's listing.
    ///
    /// # Errors
    /// [`HubError::Unusable`] for names that must not become paths: a repository that has one is refused whole,
    /// before anything of it is stored.
    pub(super) fn extend(&mut self, repo: &str, page: Vec<Entry>) -> Result<()> {
        let unusable = |message: String| HubError::Unusable {
            what: repo.to_owned(),
            message,
        };
        for entry in page {
            if entry.kind != "file" {
                continue;
            }
            let (lfs_sha256, lfs_size) = match entry.lfs {
                Some(lfs) => (Some(lfs.oid), Some(lfs.size.unwrap_or(entry.size))),
                None => (None, None),
            };
            let file = TreeFile {
                size: entry.size,
                blob_id: entry.oid,
                lfs_sha256,
                lfs_size,
                // The Python tools refuse a listing with any other.
                xet_hash: entry.xet_hash.filter(|hash| is_lower_hex(hash, 64)),
            };
            file.check(&entry.path).map_err(unusable)?;
            self.0.insert(entry.path, file);
            if self.0.len() > MAX_FILES {
                return Err(unusable(format!("has more than {MAX_FILES} files")));
            }
        }
        Ok(())
    }

    /// The listing that the cache holds. A damaged one is as good as none.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let length = fs::metadata(path).ok()?.len();
        let text = fs::read(path).ok().filter(|_| length <= MAX_TREE_BYTES)?;
        let stored: Stored = serde_json::from_slice(&text).ok()?;
        let good = stored.format_version == FORMAT_VERSION
            && stored
                .files
                .iter()
                .all(|(path, file)| file.check(path).is_ok());
        good.then_some(Self(stored.files))
    }

    /// Keeps the listing: it is of a commit and can never change.
    pub(super) fn write(&self, path: &Path, temporary: &Path) -> Result<()> {
        let stored = Stored {
            format_version: FORMAT_VERSION,
            files: self.0.clone(),
        };
        let mut text = Vec::new();
        let mut serializer =
            Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b" "));
        stored
            .serialize(&mut serializer)
            .map_err(|e| HubError::io("write", path, io::Error::other(e)))?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| HubError::io("create", folder, e))?;
            sync_folder(folder)?;
        }
        let text = ascii(&String::from_utf8_lossy(&text));
        write_atomically(path, temporary, text.as_bytes())
    }
}

/// JSON with all other characters escaped, as Python writes it.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && c != '\x7f' {
            text.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(text, "\\u{unit:04x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn page(json: &str) -> Vec<Entry> {
        serde_json::from_str(json).unwrap()
    }

    fn tree(json: &str) -> Result<Tree> {
        let mut tree = Tree::default();
        tree.extend("a/b", page(json)).map(|()| tree)
    }

    fn named(path: &str) -> Result<Tree> {
        let oid = "0".repeat(40);
        let entry = serde_json::json!([{"type": "file", "path": path, "oid": oid, "size": 1}]);
        tree(&entry.to_string())
    }

    #[test]
    fn the_hubs_listing() {
        let json = format!(
            r#"[{{"type":"directory","path":"vae","oid":"{0}","size":0}},
                {{"type":"file","path":"config.json","oid":"{0}","size":5}},
                {{"type":"file","path":"vae/w.safetensors","oid":"{0}","size":7,"xetHash":"{1}",
                  "lfs":{{"oid":"{1}","size":7,"pointerSize":130}}}}]"#,
            "1".repeat(40),
            "2".repeat(64)
        );
        let tree = tree(&json).unwrap();
        let digests: Vec<_> = tree
            .files()
            .map(|(path, file)| (path, file.size, file.digest()))
            .collect();
        assert_eq!(
            digests,
            [
                ("config.json", 5, Digest::GitSha1("1".repeat(40))),
                ("vae/w.safetensors", 7, Digest::Sha256("2".repeat(64))),
            ]
        );
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for path in [
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "",
            "a\\b",
            "a\nb",
        ] {
            let error = named(path).unwrap_err();
            assert!(
                matches!(error, HubError::Unusable { .. }),
                "{path}: {error}"
            );
        }
        for entry in [
            r#"[{"type":"file","path":"a","oid":"../../x","size":1}]"#,
            r#"[{"type":"file","path":"a","size":1}]"#,
            r#"[{"type":"file","path":"a","oid":"0000000000000000000000000000000000000000","size":1,
                 "lfs":{"oid":"..","size":1}}]"#,
            r#"[{"type":"file","path":"a","oid":"0000000000000000000000000000000000000000","size":1,
                 "lfs":{"oid":"0000000000000000000000000000000000000000000000000000000000000000","size":2}}]"#,
        ] {
            assert!(tree(entry).is_err(), "{entry}");
        }
    }

    #[test]
    fn a_stored_listing_is_read_back_and_a_damaged_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trees/c.json");
        let tree = named("ü😀.json").unwrap();
        tree.write(&path, &dir.path().join("new")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            format!(
                "{{\n \"format_version\": 1,\n \"files\": {{\n  \"\\u00fc\\ud83d\\ude00.json\": {{\n   \
                 \"size\": 1,\n   \"blob_id\": \"{}\"\n  }}\n }}\n}}",
                "0".repeat(40)
            )
        );
        assert_eq!(Tree::read(&path), Some(tree));
        for damaged in [
            text.replace(": 1,\n \"files", ": 2,\n \"files"),
            text.replace("\\u00fc", "../"),
            text[..text.len() / 2].to_owned(),
            String::new(),
        ] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(Tree::read(&path), None);
        }
    }
}
