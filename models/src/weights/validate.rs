//! What a checkpoint holds against what its configuration asks for.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use super::checkpoint::{Checkpoint, Component, Sizes};
use super::source::FileSource;
use crate::error::{Error, Result};
use crate::{text, wan};

/// How many tensors of each sort are listed.
const LISTED: usize = 20;

/// Compares the headers of all components with the tensors that their configurations ask for.
///
/// # Errors
/// [`Error::Artifact`] that lists what is missing, unexpected and misshapen, the first 20 of each and the
/// counts. Nothing large has been read or allocated by then.
pub fn validate(checkpoint: &Checkpoint) -> Result<()> {
    let mut all = Differences::default();
    for (component, sizes, source) in checkpoint.parts() {
        all.compare(component, sizes, source);
    }
    match all.message() {
        None => Ok(()),
        Some(message) => Err(Error::artifact(checkpoint.root(), message)),
    }
}

/// Differences of one or more components.
#[derive(Debug, Default)]
pub(super) struct Differences {
    missing: Vec<String>,
    unexpected: Vec<String>,
    misshapen: Vec<String>,
}

impl Differences {
    pub(super) fn compare(&mut self, component: Component, sizes: Sizes<'_>, source: &FileSource) {
        let file = |name: &str| {
            let path = source
                .file_of(name)
                .map_or_else(PathBuf::new, std::borrow::ToOwned::to_owned);
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        let expected: BTreeMap<String, Vec<usize>> = tensor_shapes(sizes).into_iter().collect();
        for (name, shape) in &expected {
            match source.entry(name) {
                None => self.missing.push(format!("{component}/{name} {shape:?}")),
                Some(entry) if entry.shape != *shape => self.misshapen.push(format!(
                    "{component}/{name} is {:?} in {}, the configuration asks for {shape:?}",
                    entry.shape,
                    file(name)
                )),
                Some(_) => {}
            }
        }
        for (name, entry) in source.entries() {
            if !expected.contains_key(name) {
                self.unexpected.push(format!(
                    "{component}/{name} {:?} in {}",
                    entry.shape,
                    file(name)
                ));
            }
        }
    }

    /// The differences as text, or `None` when there are none.
    pub(super) fn message(&self) -> Option<String> {
        let sorts = [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("misshapen", &self.misshapen),
        ];
        if sorts.iter().all(|(_, names)| names.is_empty()) {
            return None;
        }
        let counts: Vec<_> = sorts
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(sort, names)| format!("{} {sort}", names.len()))
            .collect();
        let mut text = format!(
            "tensors do not fit the configuration ({})",
            counts.join(", ")
        );
        for (sort, names) in sorts {
            for name in names.iter().take(LISTED) {
                // Writing to a String cannot fail.
                let _ = write!(text, "\n  {sort}: {name}");
            }
            if names.len() > LISTED {
                let _ = write!(text, "\n  {sort}: … and {} more", names.len() - LISTED);
            }
        }
        text.push_str("\nfetch the checkpoint again, or correct its config.json");
        Some(text)
    }
}

/// Every tensor that a component of these sizes needs, under diffusers names.
pub(crate) fn tensor_shapes(sizes: Sizes<'_>) -> Vec<(String, Vec<usize>)> {
    match sizes {
        Sizes::Transformer(config) => wan::transformer::tensor_shapes(config),
        Sizes::Vae(config) => wan::vae::AutoencoderKlWan::tensor_shapes(config),
        Sizes::Text(config) => text::tensor_shapes(config),
    }
}
