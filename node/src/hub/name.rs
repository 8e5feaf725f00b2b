//! Names that come from outside: repositories, revisions, files of a repository.
//!
//! All of them become parts of paths and addresses, so each is checked once and then carried in its own type.

use std::fmt;
use std::str::FromStr;

use super::error::{HubError, Result};

/// Longest part of a repository's name, as the Hub has it.
const MAX_PART: usize = 96;
/// Longest branch, tag or commit that is asked for.
const MAX_REVISION: usize = 255;
/// Longest path of a file in a repository.
const MAX_PATH: usize = 1024;
/// Longest name of a file or folder: what file systems hold.
const MAX_NAME: usize = 255;

/// `user/name`, or `name` alone for the Hub's oldest models.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoId(String);

impl RepoId {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without the user's.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The repository in the cache: its folder's name.
    pub(super) fn folder_name(&self) -> String {
        hf_hub::Repo::model(self.0.clone()).folder_name()
    }

    /// The repository whose folder in the cache has this name; `None` for other folders.
    pub(super) fn from_folder_name(name: &str) -> Option<Self> {
        name.strip_prefix("models--")?
            .replacen("--", "/", 1)
            .parse()
            .ok()
    }
}

impl FromStr for RepoId {
    type Err = HubError;

    /// Takes what `huggingface_hub` takes (`utils/_validators.py`).
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |reason: &str| {
            Err(HubError::Invalid {
                field: "model",
                message: format!("`{}` {reason}; write user/name", shown(text)),
            })
        };
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 2 {
            return refuse("has more than one slash");
        }
        for part in parts {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            if part.is_empty() || part.len() > MAX_PART {
                return refuse("has an empty or too long part");
            }
            if !part.bytes().all(allowed) {
                return refuse("has other characters than letters, digits, `-`, `_` and `.`");
            }
            if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
                return refuse("has a part that begins or ends with `-` or `.`");
            }
        }
        if text.contains("--") || text.contains("..") || text.ends_with(".git") {
            return refuse("has `--` or `..` in it, or `.git` at its end");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision(String);

impl Revision {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit, when the revision is a full one: all other names can move.
    pub fn commit(&self) -> Option<Commit> {
        self.0.parse().ok()
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self("main".into())
    }
}

impl FromStr for Revision {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self> {
        // It becomes a file below `refs/`.
        let fits = text.len() <= MAX_REVISION && is_safe_path(text) && !text.contains("..");
        if fits {
            return Ok(Self(text.to_owned()));
        }
        Err(HubError::Invalid {
            field: "revision",
            message: format!("`{}` is no name of a branch, tag or commit", shown(text)),
        })
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A full commit: 40 lowercase hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Commit(String);

impl Commit {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Commit {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self> {
        if is_lower_hex(text, 40) {
            return Ok(Self(text.to_owned()));
        }
        Err(HubError::Invalid {
            field: "revision",
            message: format!("`{}` is no full commit of 40 digits", shown(text)),
        })
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the text is that many lowercase hexadecimal digits.
pub(super) fn is_lower_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a path of a repository can be joined to a folder and stays below it.
pub(super) fn is_safe_path(path: &str) -> bool {
    let safe_name =
        |name: &str| !name.is_empty() && name.len() <= MAX_NAME && name != "." && name != "..";
    path.len() <= MAX_PATH
        && path.split('/').all(safe_name)
        // A backslash is a separator elsewhere; the Python tools refuse it too.
        && !path.chars().any(|c| c == '\\' || c.is_control())
}

/// Outside text for a message: without control characters and not without end.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(120)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if text.chars().nth(120).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn repositories() {
        for (text, folder) in [
            ("gpt2", "models--gpt2"),
            ("Wan-AI/Wan2.2-TI2V-5B", "models--Wan-AI--Wan2.2-TI2V-5B"),
            ("a_b/leoma.5Gx", "models--a_b--leoma.5Gx"),
        ] {
            let id: RepoId = text.parse().unwrap();
            assert_eq!(id.folder_name(), folder);
            assert_eq!(RepoId::from_folder_name(folder), Some(id));
        }
        for text in [
            "", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a/.b", "-a/b", "a--b/c", "a/b.git",
            "a b/c", "a/b\n", "ä/b", "a\\b",
        ] {
            let error = text.parse::<RepoId>().unwrap_err();
            assert!(error.to_string().starts_with("model: "), "{text}: {error}");
        }
        assert!("a".repeat(97).parse::<RepoId>().is_err());
        for folder in ["datasets--a--b", "models--", ".locks", "models--a--b--c"] {
            assert_eq!(RepoId::from_folder_name(folder), None, "{folder}");
        }
    }

    #[test]
    fn revisions() {
        let sha = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(
            sha.parse::<Revision>().unwrap().commit().unwrap().as_str(),
            sha
        );
        for name in ["main", "refs/pr/3", "v1.0", &sha[..7], &sha.to_uppercase()] {
            assert_eq!(name.parse::<Revision>().unwrap().commit(), None, "{name}");
        }
        for wrong in [
            "", "..", "../main", "a/../b", "/a", "a/", "a\0b", "a\\b", "a..b",
        ] {
            assert!(wrong.parse::<Revision>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths() {
        for path in [
            "config.json",
            "transformer/a.safetensors",
            ".gitattributes",
            "ü/…",
        ] {
            assert!(is_safe_path(path), "{path}");
        }
        let long = "a/".repeat(600) + "b";
        for path in [
            "",
            "/etc/passwd",
            "..",
            "a/../../b",
            "a//b",
            "a/",
            "./a",
            "a\nb",
            "a\\..\\b",
            &long,
        ] {
            assert!(!is_safe_path(path), "{path}");
        }
        assert!(!is_safe_path(&"n".repeat(256)));
    }
}
