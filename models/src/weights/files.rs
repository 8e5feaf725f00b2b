//! Which files make up a model: a checkpoint folder, single files in place of its networks, LoRAs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::checkpoint::Component;
use super::folder::TensorFile;
use super::infer::TransformerFacts;
use super::lora::LoraSpec;
use super::source::FileSource;
use crate::error::{Error, Result};
use crate::wan::TransformerConfig;

/// The files of a model. The folder gives configurations, tokenizer and every network that no file
/// replaces.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelFiles {
    /// Checkpoint folder of either layout. Weights of replaced networks may be missing from it.
    pub root: PathBuf,
    /// Single files in place of the folder's networks: safetensors as ComfyUI and LightX2V distribute them,
    /// or a file of either layout. Whether a file is the high-noise or the low-noise expert cannot be told
    /// from it: the key says so.
    pub replaced: BTreeMap<Component, PathBuf>,
    /// LoRAs, in the order in which they are added.
    pub loras: Vec<LoraSpec>,
}

impl ModelFiles {
    /// A folder as it is.
    pub fn new(root: impl AsRef<Path>) -> Self {
        Self {
            root: root.as_ref().to_owned(),
            ..Self::default()
        }
    }

    /// Opens the file in place of a network, when there is one.
    pub(super) fn replacement(&self, component: Component) -> Option<Result<Vec<TensorFile>>> {
        let path = self.replaced.get(&component)?;
        Some(open_single(path).map(|file| vec![file]))
    }
}

fn open_single(path: &Path) -> Result<TensorFile> {
    let ending = path
        .extension()
        .and_then(|ending| ending.to_str())
        .unwrap_or("");
    if path.is_dir() {
        return Err(Error::artifact(
            path,
            "is a folder; name one safetensors file",
        ));
    }
    if !["safetensors", "pth", "pt"].contains(&ending) && path.exists() {
        let what = if ending == "gguf" {
            "GGUF files are"
        } else {
            "files of this ending are"
        };
        return Err(Error::artifact(
            path,
            format!("{what} not supported; use the safetensors file of the same model"),
        ));
    }
    TensorFile::open(path)
}

/// Whether a single file is a transformer of the sizes that the folder's configuration asks for; else what
/// it is, in one sentence instead of hundreds of tensors that do not fit.
pub(super) fn check_transformer(source: &FileSource, config: &TransformerConfig) -> Result<()> {
    let refuse = |message: String| {
        let path = source
            .files()
            .first()
            .map_or_else(PathBuf::new, |file| file.path.clone());
        Err(Error::artifact(path, message))
    };
    if source.entries().any(|(name, _)| name.contains("lora_")) {
        return refuse("is a LoRA, not a whole network; give it with --lora".into());
    }
    let Some(found) = TransformerFacts::read(source) else {
        return refuse(
            "holds no transformer of Wan (no `patch_embedding.weight` with `blocks.0`); name the file of an \
             expert"
                .into(),
        );
    };
    let expected = TransformerFacts::of(config);
    if found == expected {
        Ok(())
    } else {
        refuse(format!(
            "holds a transformer of {found}; the checkpoint's configuration asks for {expected}: give the file \
             of the same model, or another --model folder"
        ))
    }
}
