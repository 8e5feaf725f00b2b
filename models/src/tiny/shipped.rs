//! The trained tiny checkpoint that is part of the program (`models/assets/tiny-wan`, docs/tiny-model.md).
//!
//! Loaders map files, so the bytes are laid out as a folder once and checked whenever it is asked for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// One file: its path in the checkpoint, and its bytes.
type File = (&'static str, &'static [u8]);

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../../assets/tiny-wan/", $name)))),*]
    };
}

static FILES: &[File] = &files![
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "README.md",
];

/// Lays the trained tiny checkpoint out under `cache` and returns its folder.
///
/// The folder's name holds a digest of the content, so that versions do not meet. Files that are there and
/// whole are left; others are written beside and renamed, so that several processes may do this at a time.
///
/// # Errors
/// [`Error::Io`] when `cache` cannot be written.
pub fn shipped_checkpoint(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join(format!("tiny-wan-{}", digest()));
    for (name, bytes) in FILES {
        let path = folder.join(name);
        if !holds(&path, bytes)? {
            write(&path, bytes)?;
        }
    }
    Ok(folder)
}

/// The first 12 digits of a digest of all names and contents.
fn digest() -> String {
    let mut all = Sha256::new();
    for (name, bytes) in FILES {
        all.update(name.as_bytes());
        all.update(Sha256::digest(bytes));
    }
    let digest = all.finalize();
    digest
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Whether the file is there with these bytes.
fn holds(path: &Path, bytes: &[u8]) -> Result<bool> {
    match fs::metadata(path) {
        Ok(found) if found.len() != bytes.len() as u64 => Ok(false),
        Ok(_) => Ok(fs::read(path).map_err(|source| Error::io(path, source))? == bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(path, error)),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|source| Error::io(parent, source))?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| {
        // A part of a file is of no use to anyone; the error that matters is the one at hand.
        let _ = fs::remove_file(&beside);
        Error::io(path, source)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::weights::{Checkpoint, ModelKind, validate};

    #[test]
    fn it_is_a_whole_checkpoint_and_small() {
        let size: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(size <= 24_000_000, "{size} bytes");
        let cache = tempfile::tempdir().unwrap();
        let folder = shipped_checkpoint(cache.path()).unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        assert_eq!(checkpoint.kind(), ModelKind::Ti2v5b);
        assert_eq!(checkpoint.warnings(), &[] as &[String]);
        validate(&checkpoint).unwrap();
    }

    #[test]
    fn what_was_damaged_is_written_again_and_the_rest_left() {
        let cache = tempfile::tempdir().unwrap();
        let folder = shipped_checkpoint(cache.path()).unwrap();
        let (damaged, whole) = (
            folder.join("model_index.json"),
            folder.join("vae/config.json"),
        );
        let before = fs::metadata(&whole).unwrap().modified().unwrap();
        fs::write(&damaged, "{}").unwrap();
        assert_eq!(shipped_checkpoint(cache.path()).unwrap(), folder);
        assert!(
            fs::read_to_string(&damaged)
                .unwrap()
                .contains("expand_timesteps")
        );
        assert_eq!(fs::metadata(&whole).unwrap().modified().unwrap(), before);
        // Nothing is left beside the files.
        let names = fs::read_dir(&folder).unwrap();
        assert!(
            names
                .map(|entry| entry.unwrap().path())
                .all(|path| path.extension() != Some("tmp".as_ref()))
        );
    }
}
