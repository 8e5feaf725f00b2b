//! Tiny checkpoints: the true architecture in a few megabytes, for demonstrations and tests.
//!
//! One is trained and part of the program ([`shipped_checkpoint`]); the others are made by [`make_tiny`]:
//! diffusers layout, float32, the same bytes for the same seed on every machine. The weights are random but
//! scaled like trained ones: norms near one, fan-in scaled layers, small modulation, so that activations
//! stay in range and every part of the model shows in the result.

mod byte_level;
mod configs;
pub(crate) mod init;
mod judge;
mod shipped;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};

pub use self::shipped::shipped_checkpoint;
use crate::error::{Error, Result};
use crate::random::Networks;
use crate::text::tiny_tokenizer_files;
use crate::weights::{Component, ModelKind, tensor_shapes};

pub use judge::make_tiny_judge;

/// Sizes of the tiny networks.
pub(crate) fn networks(kind: ModelKind) -> Networks {
    configs::Configs::new(kind).into_networks()
}

/// Writes a tiny checkpoint of `kind` into the new folder `out`.
///
/// The folder appears under its name only when it is complete.
///
/// # Errors
/// [`Error::Caller`] when `out` exists and is not an empty folder; [`Error::Io`] when writing fails.
pub fn make_tiny(kind: ModelKind, seed: u64, out: &Path) -> Result<()> {
    in_new_folder(out, |folder| write_all(kind, seed, folder))
}

/// Lets `write` fill a folder that appears as `out` only when it is complete.
fn in_new_folder(out: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    refuse_occupied(out)?;
    let name = out
        .file_name()
        .ok_or_else(|| Error::caller("out", format!("{} does not name a folder", out.display())))?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&parent).map_err(|source| Error::io(&parent, source))?;
    let staging = parent.join(format!(
        ".{}.{}.tmp",
        name.to_string_lossy(),
        std::process::id()
    ));
    fs::create_dir(&staging).map_err(|source| Error::io(&staging, source))?;
    let staging = Staging(staging);

    write(&staging.0)?;
    // Renaming a folder onto an existing empty one replaces it.
    fs::rename(&staging.0, out).map_err(|source| Error::io(out, source))
}

fn refuse_occupied(out: &Path) -> Result<()> {
    let occupied = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => true,
        Err(error) => return Err(Error::io(out, error)),
    };
    if occupied {
        return Err(Error::caller(
            "out",
            format!(
                "{} exists and is not an empty folder; choose another name or remove it",
                out.display()
            ),
        ));
    }
    Ok(())
}

/// The folder being written; removed unless it has been renamed.
struct Staging(PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        // Gone already after the rename; nothing to do about a failure here.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write_all(kind: ModelKind, seed: u64, folder: &Path) -> Result<()> {
    let configs = configs::Configs::new(kind);
    for (name, text) in configs.files() {
        write(&folder.join(name), text.as_bytes())?;
    }
    for (name, text) in tiny_tokenizer_files() {
        write(&folder.join("tokenizer").join(name), text.as_bytes())?;
    }
    for component in Component::ALL {
        if component == Component::Transformer2 && !kind.has_two_experts() {
            continue;
        }
        let file = match component {
            Component::TextEncoder => "model.safetensors",
            _ => "diffusion_pytorch_model.safetensors",
        };
        let shapes = tensor_shapes(configs.sizes(component));
        let bytes = serialize(seed, component, &shapes)?;
        write(&folder.join(component.as_str()).join(file), &bytes)?;
    }
    Ok(())
}

/// A safetensors file with random tensors of these names and shapes.
fn serialize(seed: u64, component: Component, shapes: &[(String, Vec<usize>)]) -> Result<Vec<u8>> {
    serialize_with(shapes, |name, shape| {
        init::tensor(seed, component, name, shape)
    })
}

/// A safetensors file with the f32 values that `values` gives for each name and shape.
fn serialize_with(
    shapes: &[(String, Vec<usize>)],
    values: impl Fn(&str, &[usize]) -> Vec<f32>,
) -> Result<Vec<u8>> {
    let data: Vec<Vec<u8>> = shapes
        .iter()
        .map(|(name, shape)| {
            values(name, shape)
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        })
        .collect();
    let failed = |error| Error::local(format!("a tiny model does not serialize: {error}"));
    let views = shapes
        .iter()
        .zip(&data)
        .map(|((name, shape), data)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), data)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(failed)?;
    // transformers refuses files that do not say which framework wrote them.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).map_err(failed)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|source| Error::io(parent, source))?;
    }
    fs::write(path, bytes).map_err(|source| Error::io(path, source))
}

#[cfg(test)]
mod tests;
