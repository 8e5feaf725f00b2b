//! What the audit takes from the crate that loads checkpoints: headers, names, scales. One reader of weight
//! files and one map of names serve loading and auditing.

use std::collections::HashMap;
use std::path::Path;

use super::finding::Rule;
use super::tree::Tree;

pub(super) use leoma_models::weights::{
    Component, StoredDType, StoredTensor, StoredWeights, stored_tensors,
};

/// Which weight a stored tensor is.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) component: Component,
    /// Diffusers name.
    pub(super) name: String,
    pub(super) scales: Vec<f32>,
}

/// The weights of a repository by file and stored name, as far as its layout is known.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashMap<String, HashMap<String, Known>>,
    /// What keeps the repository from loading, or its layout from being recognised.
    pub(super) problems: Vec<String>,
}

impl Names {
    /// Reads the names of a repository; one that is not recognised has none.
    ///
    /// Nor has one with links that lead out of it, or to folders: nothing behind them is opened, and a map of the
    /// other files would say that weights are missing which are there for a loader.
    pub(super) fn of(tree: &Tree) -> Self {
        let none = |problem: String| Self {
            known: HashMap::new(),
            problems: vec![problem],
        };
        let outside = |rule| matches!(rule, Rule::LinkOutside | Rule::NotRegular);
        if let Some(finding) = tree.findings.iter().find(|f| outside(f.rule)) {
            return none(format!(
                "{} leads elsewhere, so that the names of the weights were not read",
                finding.path
            ));
        }
        let root = &tree.root;
        let stored = match StoredWeights::open(root) {
            Ok(stored) => stored,
            Err(error) => return none(error.to_string()),
        };
        let mut names = Self {
            known: HashMap::new(),
            problems: stored.problems.iter().map(ToString::to_string).collect(),
        };
        for weight in stored.weights {
            let path = relative(root, &weight.path);
            names.known.entry(path).or_default().insert(
                weight.tensor.name,
                Known {
                    component: weight.component,
                    name: weight.name,
                    scales: weight.scales,
                },
            );
        }
        names
    }

    pub(super) fn find(&self, path: &str, tensor: &str) -> Option<&Known> {
        self.known.get(path)?.get(tensor)
    }

    /// The scales of a file's tensors, by stored name.
    pub(super) fn scales(&self, path: &str) -> Vec<(&str, &[f32])> {
        let mut scales: Vec<_> = self
            .known
            .get(path)
            .into_iter()
            .flatten()
            .filter(|(_, known)| !known.scales.is_empty())
            .map(|(name, known)| (name.as_str(), known.scales.as_slice()))
            .collect();
        scales.sort_unstable_by_key(|(name, _)| *name);
        scales
    }

    /// Whether no weight is known by name.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// The path of a file in the repository, as [`super::tree::TreeFile`] has it.
pub(super) fn relative(root: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(root).unwrap_or(path);
    if inside.as_os_str().is_empty() {
        return path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
    }
    let parts: Vec<_> = inside
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.to_string_lossy()),
            _ => None,
        })
        .collect();
    parts.join("/")
}
