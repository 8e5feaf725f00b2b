//! The architecture lock of the subnet's later design: pipeline class, components and the configuration
//! keys that fix the shape of the networks must be the base model's.

use std::collections::BTreeMap;

use leoma_models::{Error, Result};
use serde_json::{Map, Value};

use super::{MAX_CONFIG, read_object};
use crate::audit::finding::{Finding, Rule};
use crate::audit::tree::Tree;

/// Keys of the transformers' configurations that are compared.
const TRANSFORMER: [&str; 9] = [
    "num_layers",
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "out_channels",
    "patch_size",
    "freq_dim",
    "ffn_dim",
    "text_dim",
];
/// Keys of the autoencoder's configuration that are compared.
const VAE: [&str; 4] = ["latent_channels", "z_dim", "base_dim", "dim_mult"];
/// Libraries that components may come from.
const LIBRARIES: [&str; 2] = ["diffusers", "transformers"];
/// Smallest repository, in bytes.
pub const MIN_SIZE: u64 = 1 << 30;
/// Largest repository, in bytes.
pub const MAX_SIZE: u64 = 200 << 30;

const INDEX: &str = "model_index.json";

/// What a repository has to agree with.
#[derive(Debug, Clone, PartialEq)]
pub struct ArchLock {
    /// Class of the pipeline.
    pub pipeline: String,
    components: BTreeMap<String, [String; 2]>,
    /// By configuration file: the locked keys that the base defines.
    keys: BTreeMap<String, BTreeMap<String, Value>>,
}

impl ArchLock {
    /// The lock of a base model in diffusers layout, with keys beyond the usual ones for all networks.
    ///
    /// # Errors
    /// [`Error::Artifact`] when the base has no `model_index.json` or one of its files is malformed.
    pub fn of(base: &Tree, extra_keys: &[String]) -> Result<Self> {
        let index = base.file(INDEX).ok_or_else(|| {
            Error::artifact(
                &base.root,
                "has no model_index.json; the lock needs a base in diffusers layout",
            )
        })?;
        let index = read_object(base, index, MAX_CONFIG)?;
        let pipeline = index
            .get("_class_name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let mut keys = BTreeMap::new();
        for (component, locked) in [
            ("transformer", &TRANSFORMER[..]),
            ("transformer_2", &TRANSFORMER),
            ("vae", &VAE),
        ] {
            let path = format!("{component}/config.json");
            let Some(file) = base.file(&path) else {
                continue;
            };
            let config = read_object(base, file, MAX_CONFIG)?;
            let locked = locked
                .iter()
                .copied()
                .chain(extra_keys.iter().map(String::as_str));
            let locked = locked.filter_map(|key| Some((key.to_owned(), config.get(key)?.clone())));
            keys.insert(path, locked.collect());
        }
        Ok(Self {
            pipeline: pipeline.to_owned(),
            components: components(&index),
            keys,
        })
    }

    /// Compares a repository's configuration files with the lock.
    pub fn check(&self, tree: &Tree) -> Vec<Finding> {
        let mut findings = Vec::new();
        match tree
            .file(INDEX)
            .map(|file| read_object(tree, file, MAX_CONFIG))
        {
            None => findings.push(Finding::new(
                Rule::WrongPipeline,
                INDEX,
                "missing; the subnet accepts the diffusers layout only",
            )),
            Some(Err(error)) => {
                findings.push(Finding::new(Rule::ConfigRefused, INDEX, error.to_string()));
            }
            Some(Ok(index)) => self.check_index(&index, &mut findings),
        }
        for (path, locked) in &self.keys {
            match tree
                .file(path)
                .map(|file| read_object(tree, file, MAX_CONFIG))
            {
                None => findings.push(Finding::new(Rule::ComponentsDiffer, path, "missing")),
                Some(Err(error)) => {
                    findings.push(Finding::new(Rule::ConfigRefused, path, error.to_string()));
                }
                Some(Ok(config)) => {
                    for (key, expected) in locked {
                        let found = config.get(key);
                        if found != Some(expected) {
                            let found = found.map_or("missing".to_owned(), ToString::to_string);
                            let message = format!("`{key}` is {found}, the base has {expected}");
                            findings.push(Finding::new(Rule::ConfigDiffers, path, message));
                        }
                    }
                }
            }
        }
        findings
    }

    fn check_index(&self, index: &Map<String, Value>, findings: &mut Vec<Finding>) {
        let mut find = |rule, message: String| findings.push(Finding::new(rule, INDEX, message));
        let class = index
            .get("_class_name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if class != self.pipeline {
            let message = format!(
                "`_class_name` is {class:?}, the base has {:?}",
                self.pipeline
            );
            find(Rule::WrongPipeline, message);
        }
        let found = components(index);
        for (name, [library, class]) in &found {
            if !LIBRARIES.contains(&library.as_str()) {
                let message =
                    format!("`{name}` comes from {library:?}; only diffusers and transformers may");
                find(Rule::CustomCode, message);
            }
            match self.components.get(name) {
                None => find(
                    Rule::ComponentsDiffer,
                    format!("`{name}` is not in the base"),
                ),
                Some(expected) if *expected != [library.clone(), class.clone()] => find(
                    Rule::ComponentsDiffer,
                    format!(
                        "`{name}` is {library}.{class}, the base has {}.{}",
                        expected[0], expected[1]
                    ),
                ),
                Some(_) => {}
            }
        }
        for name in self
            .components
            .keys()
            .filter(|name| !found.contains_key(*name))
        {
            find(
                Rule::ComponentsDiffer,
                format!("`{name}` of the base is missing"),
            );
        }
    }
}

/// The components of a pipeline; those that are `[null, null]` are none.
fn components(index: &Map<String, Value>) -> BTreeMap<String, [String; 2]> {
    index
        .iter()
        .filter(|(name, _)| !name.starts_with('_'))
        .filter_map(|(name, value)| match value.as_array()?.as_slice() {
            [Value::Null, Value::Null] => None,
            [library, class] => {
                let text = |value: &Value| {
                    value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned)
                };
                Some((name.clone(), [text(library), text(class)]))
            }
            _ => None,
        })
        .collect()
}

/// Whether the repository's size is one that the subnet accepts.
pub fn check_size(tree: &Tree) -> Option<Finding> {
    let size = tree
        .files
        .iter()
        .fold(0_u64, |sum, file| sum.saturating_add(file.size));
    if (MIN_SIZE..=MAX_SIZE).contains(&size) {
        return None;
    }
    let [size, least, most] = [size, MIN_SIZE, MAX_SIZE].map(indicatif::BinaryBytes);
    let message = format!("{size}; {least} to {most} are accepted");
    Some(Finding::new(Rule::SizeOutOfRange, "", message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::path::Path;

    use leoma_models::tiny::make_tiny;
    use leoma_models::weights::ModelKind;

    use super::*;

    fn edit(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) {
        let mut object = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        change(&mut object);
        fs::write(path, serde_json::to_vec(&object).unwrap()).unwrap();
    }

    #[test]
    fn every_locked_thing_is_compared() {
        let keep = tempfile::tempdir().unwrap();
        let (base, other) = (keep.path().join("base"), keep.path().join("other"));
        make_tiny(ModelKind::I2vA14b, 1, &base).unwrap();
        make_tiny(ModelKind::I2vA14b, 2, &other).unwrap();
        let lock = ArchLock::of(&Tree::open(&base).unwrap(), &[]).unwrap();
        assert_eq!(lock.pipeline, "WanImageToVideoPipeline");
        let check = || lock.check(&Tree::open(&other).unwrap());
        assert_eq!(check(), []);
        // A key that is not locked may differ.
        edit(&other.join("transformer/config.json"), |config| {
            config.insert("_diffusers_version".into(), "9".into());
        });
        assert_eq!(check(), []);
        edit(&other.join("transformer_2/config.json"), |config| {
            config.insert("num_layers".into(), 3.into());
            config.remove("ffn_dim");
        });
        edit(&other.join(INDEX), |index| {
            index.insert("_class_name".into(), "Mine".into());
            index.insert("extra".into(), serde_json::json!(["my_code", "Net"]));
            index.insert("nothing".into(), serde_json::json!([null, null]));
            index.remove("scheduler");
        });
        fs::remove_file(other.join("vae/config.json")).unwrap();
        let found: Vec<_> = check().iter().map(|f| (f.rule, f.path.clone())).collect();
        let at = |rule, path: &str| (rule, path.to_owned());
        assert_eq!(
            found,
            [
                at(Rule::WrongPipeline, INDEX),
                at(Rule::CustomCode, INDEX),
                at(Rule::ComponentsDiffer, INDEX),
                at(Rule::ComponentsDiffer, INDEX),
                at(Rule::ConfigDiffers, "transformer_2/config.json"),
                at(Rule::ConfigDiffers, "transformer_2/config.json"),
                at(Rule::ComponentsDiffer, "vae/config.json"),
            ]
        );
        fs::write(other.join(INDEX), "{").unwrap();
        assert_eq!(check()[0].rule, Rule::ConfigRefused);
        assert!(check_size(&Tree::open(&other).unwrap()).is_some());
    }
}
