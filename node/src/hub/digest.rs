//! What the Hub says a file's content is, and checking it.
//!
//! The Hub names the content of a large file by its SHA-256 and that of a small one by its git object id, the
//! SHA-1 of `blob SIZE\0` and the bytes. Both are also the names of blobs in the cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::Digest as _;

use super::name::is_lower_hex;

/// Bytes hashed at a time.
const CHUNK: usize = 1 << 20;

/// What a file's content must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Digest {
    /// SHA-256 in hex: files in large file storage.
    Sha256(String),
    /// Git object id in hex: files in the repository itself.
    GitSha1(String),
}

impl Digest {
    /// The digest that a blob's name in the cache stands for.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        if is_lower_hex(name, 64) {
            Some(Self::Sha256(name.to_owned()))
        } else if is_lower_hex(name, 40) {
            Some(Self::GitSha1(name.to_owned()))
        } else {
            None
        }
    }

    /// In hex, as the blob's name.
    pub(super) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitSha1(hex) => hex,
        }
    }

    /// What it is called in a message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::GitSha1(_) => "git object id",
        }
    }

    /// A hasher of this kind, for `size` bytes.
    pub(super) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(sha2::Sha256::new()),
            Self::GitSha1(_) => {
                let mut sha1 = sha1_smol::Sha1::new();
                sha1.update(format!("blob {size}\0").as_bytes());
                Hasher::GitSha1(sha1)
            }
        }
    }
}

/// A digest in the making.
pub(super) enum Hasher {
    Sha256(sha2::Sha256),
    GitSha1(sha1_smol::Sha1),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sha256) => sha256.update(bytes),
            Self::GitSha1(sha1) => sha1.update(bytes),
        }
    }

    /// Hashes `[from, to)` of a file.
    pub(super) fn read(&mut self, file: &File, from: u64, to: u64) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK.min((to - from) as usize)];
        let mut at = from;
        while at < to {
            let count = (buffer.len() as u64).min(to - at) as usize;
            let Some(chunk) = buffer.get_mut(..count) else {
                break;
            };
            file.read_exact_at(chunk, at)?;
            self.update(chunk);
            at += count as u64;
        }
        Ok(())
    }

    /// In hex.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Sha256(sha256) => sha256
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            Self::GitSha1(sha1) => sha1.digest().to_string(),
        }
    }
}

/// Size and digest of a file.
pub(super) fn of_file(path: &Path, kind: &Digest) -> io::Result<(u64, String)> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut hasher = kind.hasher(size);
    hasher.read(&file, 0, size)?;
    Ok((size, hasher.finish()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn digests_of_known_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "hello\n").unwrap();
        // `git hash-object` and `sha256sum` of the same file.
        let git = Digest::of_name("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let sha = Digest::of_name(sha).unwrap();
        for digest in [&git, &sha] {
            assert_eq!(
                of_file(&path, digest).unwrap(),
                (6, digest.hex().to_owned())
            );
        }
        std::fs::write(&path, "").unwrap();
        let empty = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";
        assert_eq!(of_file(&path, &git).unwrap(), (0, empty.to_owned()));
        for name in ["", "main", &empty.to_uppercase(), &format!("{empty}0")] {
            assert_eq!(Digest::of_name(name), None);
        }
    }

    #[test]
    fn pieces_are_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let bytes: Vec<u8> = (0..CHUNK * 2 + 77).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let kind = Digest::of_name(&"0".repeat(64)).unwrap();
        let (size, whole) = of_file(&path, &kind).unwrap();
        let file = File::open(&path).unwrap();
        let mut hasher = kind.hasher(size);
        for (from, to) in [
            (0, 5),
            (5, 5),
            (5, CHUNK as u64 + 9),
            (CHUNK as u64 + 9, size),
        ] {
            hasher.read(&file, from, to).unwrap();
        }
        assert_eq!(hasher.finish(), whole);
        assert!(kind.hasher(size).read(&file, 0, size + 1).is_err());
    }
}
