//! Opening a LoRA file: what it changes, by how much, and in which expert.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::keys::{self, Key, Role, Targets};
use super::merge::{Change, Patch};
use super::{LoraReport, LoraSpec, LoraTarget};
use crate::error::{Error, Result};
use crate::weights::checkpoint::Component;
use crate::weights::folder::TensorFile;
use crate::weights::source::FileSource;
use crate::weights::stream;

/// Unknown names that a warning lists.
const LISTED: usize = 3;
/// Bytes hashed at a time.
const CHUNK: usize = 4 << 20;
/// Metadata in which diffusers keeps rank and alpha.
const METADATA: &str = "lora_adapter_metadata";

/// A LoRA ready to be merged.
#[derive(Debug)]
pub(in crate::weights) struct LoraFile {
    /// Changes per expert and tensor (diffusers name).
    pub(in crate::weights) patches: BTreeMap<Component, BTreeMap<String, Vec<Patch>>>,
    pub(in crate::weights) report: LoraReport,
    pub(in crate::weights) warnings: Vec<String>,
}

/// The tensors of one layer, by role: names in the file.
type Layer = BTreeMap<Role, String>;

impl LoraFile {
    /// Opens the file of `spec` for a model with these experts.
    ///
    /// # Errors
    /// [`Error::Caller`] when the expert is not said, [`Error::Artifact`] naming tensor, file and what is
    /// expected.
    pub(in crate::weights) fn open(
        spec: &LoraSpec,
        experts: &BTreeMap<Component, Arc<FileSource>>,
    ) -> Result<Self> {
        let file = Arc::new(TensorFile::open(&spec.path)?);
        let refuse = |message: String| Error::artifact(&spec.path, message);
        let mut keys = Vec::new();
        let mut ignored = Vec::new();
        for name in file.entries.keys() {
            if let Some(method) = keys::other_method(name) {
                return Err(refuse(format!(
                    "tensor `{name}` is of a {method} adapter, which is not supported; merge it into the \
                     checkpoint with the program that made it"
                )));
            }
            match keys::parse(name) {
                Some(key) => keys.push((name, key)),
                None => ignored.push(name.as_str()),
            }
        }
        let targets: BTreeMap<Component, Targets> = experts
            .iter()
            .map(|(&component, source)| {
                let tensors = source
                    .entries()
                    .map(|(name, entry)| (name, entry.shape.as_slice()));
                (component, Targets::new(tensors))
            })
            .collect();
        // Names of nothing in the model say nothing about its experts.
        let prefixes: BTreeSet<Option<Component>> = keys
            .iter()
            .filter(|(_, key)| {
                targets
                    .values()
                    .any(|targets| targets.tensor(key).is_some())
            })
            .map(|(_, key)| key.expert)
            .collect();
        let mut warnings = Vec::new();
        let two = experts.contains_key(&Component::Transformer2);
        let components = choose(spec, &prefixes, two, &mut warnings)?;
        let alphas = Alphas::read(&file)?;

        let mut patches: BTreeMap<Component, BTreeMap<String, Vec<Patch>>> = BTreeMap::new();
        for (&component, targets) in &targets {
            let mut layers: BTreeMap<&str, (Layer, Vec<&Key<'_>>)> = BTreeMap::new();
            for (name, key) in &keys {
                if !components.takes(key.expert, component) {
                    continue;
                }
                if targets.tensor(key).is_none() {
                    // A norm without parameters has nothing to change, and trainers write zeros for it.
                    let nothing = key.role == Role::Diff && all_zero(&file, name)?;
                    let known = nothing || ignored.contains(&name.as_str());
                    if !known {
                        ignored.push(name);
                    }
                    continue;
                }
                let (layer, keys) = layers.entry(key.module).or_default();
                if let Some(other) = layer.insert(key.role, (*name).clone()) {
                    return Err(refuse(format!(
                        "`{name}` and `{other}` are the same part of one layer"
                    )));
                }
                keys.push(key);
            }
            let changes = patches.entry(component).or_default();
            for (module, (layer, keys)) in &layers {
                for (tensor, patch) in
                    layer_patches(&file, spec, module, layer, keys, targets, &alphas)?
                {
                    changes.entry(tensor).or_default().push(patch);
                }
            }
        }
        patches.retain(|_, changes| !changes.is_empty());
        let changed = patches.values().map(BTreeMap::len).sum();
        let listed = || {
            let names: Vec<_> = ignored
                .iter()
                .take(LISTED)
                .map(|name| format!("`{name}`"))
                .collect();
            names.join(", ")
        };
        if changed == 0 {
            return Err(refuse(format!(
                "none of the {} tensors belongs to this model's transformer (first: {}); it is a LoRA of \
                 another model, or no LoRA",
                file.entries.len(),
                listed()
            )));
        }
        if !ignored.is_empty() {
            warnings.push(format!(
                "{}: {} of {} tensors belong to nothing in this model and are ignored (first: {})",
                spec.path.display(),
                ignored.len(),
                file.entries.len(),
                listed()
            ));
        }
        let report = LoraReport {
            file: spec
                .path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            sha256: sha256(&file)?,
            strength: spec.strength,
            experts: patches.keys().copied().collect(),
            changed,
            ignored: ignored.len(),
        };
        Ok(Self {
            patches,
            report,
            warnings,
        })
    }
}

/// Where the tensors of a file go.
enum Chosen {
    /// All of them to these experts.
    All(LoraTarget),
    /// Each to the expert that its prefix names.
    ByPrefix,
}

impl Chosen {
    fn takes(&self, prefix: Option<Component>, component: Component) -> bool {
        match self {
            Self::All(target) => target.components().contains(&component),
            Self::ByPrefix => prefix == Some(component),
        }
    }
}

/// Decides where a file goes. Nothing is guessed: of two experts one has to be named, by the caller or by
/// the file.
fn choose(
    spec: &LoraSpec,
    prefixes: &BTreeSet<Option<Component>>,
    two_experts: bool,
    warnings: &mut Vec<String>,
) -> Result<Chosen> {
    let path = spec.path.display();
    let wrong = |message: String| Err(Error::caller("lora", message));
    let unnamed = prefixes.contains(&None);
    let first = prefixes.contains(&Some(Component::Transformer));
    let second = prefixes.contains(&Some(Component::Transformer2));
    if !two_experts {
        if second {
            return wrong(format!(
                "{path} changes `transformer_2`; this model has one expert"
            ));
        }
        return match spec.target {
            Some(LoraTarget::Low) => wrong(format!(
                "{path}@low: this model has one expert; leave @low out"
            )),
            _ => Ok(Chosen::All(LoraTarget::High)),
        };
    }
    match spec.target {
        _ if second && unnamed => wrong(format!(
            "{path} mixes names with the prefix `transformer_2.` and names without a prefix; what is for which \
             expert cannot be told"
        )),
        None if unnamed => wrong(format!(
            "{path} does not say for which of the two experts it is; write {path}@high, {path}@low or \
             {path}@both"
        )),
        None | Some(LoraTarget::Both) if second => Ok(Chosen::ByPrefix),
        None if first => {
            warnings.push(format!(
                "{path}: all names begin with `transformer.`, so it goes to the high-noise expert, as in \
                 diffusers; for the low-noise one write {path}@low"
            ));
            Ok(Chosen::All(LoraTarget::High))
        }
        // Nothing in it fits the model, which is told later.
        None => Ok(Chosen::All(LoraTarget::Both)),
        Some(LoraTarget::High) if second => wrong(format!(
            "{path}@high: it holds names with the prefix `transformer_2.`, the low-noise expert; leave @high out"
        )),
        Some(LoraTarget::Low) if second && first => wrong(format!(
            "{path}@low: it has a set for each expert, by prefix; leave @low out"
        )),
        Some(target) => Ok(Chosen::All(target)),
    }
}

/// The changes that one module of the file makes, with their tensor.
fn layer_patches(
    file: &Arc<TensorFile>,
    spec: &LoraSpec,
    module: &str,
    layer: &Layer,
    keys: &[&Key<'_>],
    targets: &Targets,
    alphas: &Alphas,
) -> Result<Vec<(String, Patch)>> {
    let refuse = |message: String| Error::artifact(&file.path, message);
    let patch = |factor: f64, change| Patch {
        file: Arc::clone(file),
        factor: (spec.strength * factor) as f32,
        change,
    };
    let target = |role: Role| {
        let key = keys.iter().find(|key| key.role == role)?;
        let tensor = targets.tensor(key)?;
        let shape = targets.shape(&tensor)?.to_vec();
        Some((tensor, shape))
    };
    let shape_of = |name: &str| {
        file.entries
            .get(name)
            .map(|entry| entry.shape.clone())
            .unwrap_or_default()
    };
    let mut patches = Vec::new();

    let mut factor = 1.0;
    match (layer.get(&Role::Down), layer.get(&Role::Up)) {
        (Some(down), Some(up)) => {
            let Some((tensor, shape)) = target(Role::Down) else {
                return Ok(patches);
            };
            let rank = shape_of(down).first().copied().unwrap_or(0);
            let (rows, columns) = split(&shape);
            for (name, expected) in [(down, [rank, columns]), (up, [rows, rank])] {
                let found = shape_of(name);
                if rank == 0 || split(&found) != (expected[0], expected[1]) {
                    return Err(refuse(format!(
                        "tensor `{name}` has shape {found:?}; for `{tensor}` {shape:?} and rank {rank} it must \
                         have {expected:?}: this LoRA was made for another model"
                    )));
                }
            }
            factor = match layer.get(&Role::Alpha) {
                Some(name) => scalar(file, name)? / rank as f64,
                None => alphas.factor(module, rank),
            };
            let (down, up) = (down.clone(), up.clone());
            patches.push((tensor, patch(factor, Change::Product { down, up })));
        }
        (Some(only), None) | (None, Some(only)) => {
            return Err(refuse(format!(
                "`{only}` has no counterpart; a LoRA has two matrices per layer: the file is incomplete"
            )));
        }
        (None, None) => {}
    }
    for (role, factor) in [
        (Role::UpBias, factor),
        (Role::Diff, 1.0),
        (Role::DiffBias, 1.0),
        (Role::DiffModulation, 1.0),
    ] {
        let Some(name) = layer.get(&role) else {
            continue;
        };
        let Some((tensor, shape)) = target(role) else {
            continue;
        };
        let found = shape_of(name);
        let without_ones = |shape: &[usize]| {
            shape
                .iter()
                .copied()
                .filter(|&n| n != 1)
                .collect::<Vec<_>>()
        };
        if without_ones(&found) != without_ones(&shape) {
            return Err(refuse(format!(
                "tensor `{name}` has shape {found:?}; `{tensor}` is {shape:?}: this LoRA was made for another \
                 model"
            )));
        }
        patches.push((tensor, patch(factor, Change::Sum(name.clone()))));
    }
    Ok(patches)
}

/// First axis, and the others together.
pub(super) fn split(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [rows, others @ ..] => (*rows, others.iter().product()),
    }
}

/// Rank and alpha as diffusers keeps them: one text for the file.
#[derive(Debug, Default)]
struct Alphas(serde_json::Map<String, Value>);

impl Alphas {
    fn read(file: &TensorFile) -> Result<Self> {
        let Some(text) = file.metadata.get(METADATA) else {
            return Ok(Self::default());
        };
        let refuse =
            |what: String| Error::artifact(&file.path, format!("metadata `{METADATA}` {what}"));
        let values: serde_json::Map<String, Value> =
            serde_json::from_str(text).map_err(|error| refuse(format!("is bad JSON: {error}")))?;
        for (key, value) in &values {
            let name = key.rsplit('.').next().unwrap_or(key);
            if name == "use_dora" && value == &Value::Bool(true) {
                return Err(refuse(
                    "says that this is a DoRA adapter, which is not supported".into(),
                ));
            }
            // Names, not expressions: what they would match cannot be told from the file's names alone.
            let pattern = value
                .as_object()
                .filter(|_| name.ends_with("_pattern"))
                .and_then(|patterns| {
                    patterns
                        .keys()
                        .find(|pattern| pattern.contains(['*', '\\', '(', '[', '+']))
                });
            if let Some(pattern) = pattern {
                return Err(refuse(format!(
                    "has the expression `{pattern}` in `{key}`; names are supported"
                )));
            }
        }
        Ok(Self(values))
    }

    /// `alpha / r` of a module of rank `rank`; 1 where nothing is said.
    fn factor(&self, module: &str, rank: usize) -> f64 {
        let (prefix, layer) = match module.split_once('.') {
            Some((prefix @ ("transformer" | "transformer_2"), layer)) => (prefix, layer),
            _ => ("transformer", module),
        };
        let get = |name: &str| self.0.get(&format!("{prefix}.{name}"));
        // A pattern is a whole name or the end of one.
        let pattern = get("alpha_pattern")
            .and_then(Value::as_object)
            .and_then(|patterns| {
                patterns
                    .iter()
                    .find(|(pattern, _)| {
                        let pattern = pattern.trim_start_matches('^');
                        layer == pattern || layer.ends_with(&format!(".{pattern}"))
                    })
                    .and_then(|(_, alpha)| alpha.as_f64())
            });
        let Some(alpha) = pattern.or_else(|| get("lora_alpha").and_then(Value::as_f64)) else {
            return 1.0;
        };
        let rank = rank as f64;
        match get("use_rslora") {
            Some(Value::Bool(true)) => alpha / rank.sqrt(),
            _ => alpha / rank,
        }
    }
}

/// Reads a tensor of one value.
fn scalar(file: &TensorFile, name: &str) -> Result<f64> {
    let values = read(file, name)?;
    match values.as_slice() {
        [value] => Ok(f64::from(*value)),
        _ => Err(Error::artifact(
            &file.path,
            format!(
                "`{name}` has {} values; an alpha is one number",
                values.len()
            ),
        )),
    }
}

fn all_zero(file: &TensorFile, name: &str) -> Result<bool> {
    Ok(read(file, name)?.iter().all(|value| *value == 0.0))
}

fn read(file: &TensorFile, name: &str) -> Result<Vec<f32>> {
    let Some(entry) = file.entries.get(name) else {
        return Ok(Vec::new());
    };
    let (tensor, _) = stream::load(
        &file.file,
        &file.path,
        name,
        entry,
        DType::F32,
        &Device::Cpu,
        false,
    )?;
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// Hexadecimal SHA-256 of the whole file.
fn sha256(file: &TensorFile) -> Result<String> {
    let path: &Path = &file.path;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; CHUNK];
    let mut offset = 0;
    loop {
        match file.file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(stream::hex(&hasher.finalize())),
            Ok(count) => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(path, error)),
        }
    }
}
