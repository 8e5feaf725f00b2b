//! What a repository holds, to the bit: digests of its files, of its tensors and of the model as a whole.
//!
//! | digest | over | does not depend on |
//! |---|---|---|
//! | file `sha256` | the bytes of the file | |
//! | `model_hash` | the SHA-256 of weight files (`model_hash.rs`) | names, folders, how often a file occurs |
//! | tensor `sha256` | `dtype [shape]\n` and the stored bytes | file, shard, order, name |
//! | tensor `canonical_sha256` | `bf16 [shape]\n` and the values as bf16 | and the type it is stored in |
//! | model `named` | sorted lines `network/name canonical_sha256\n` | files, layout, type |
//! | model `unnamed` | the sorted set of `canonical_sha256\n` | and all names |

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use leoma_models::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::finding::{Finding, Rule};
use super::model_hash::{hex, is_weight_file, model_hash};
use super::pass::{self, FileResult, TensorResult};
use super::tree::{Blob, Tree};
use super::weights::{Component, Names, StoredDType};

/// How a repository is read.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Digests of tensors as well as of files.
    pub tensors: bool,
    /// Called with the bytes read since the last call, from any thread; `false` ends the audit.
    pub progress: &'a (dyn Fn(u64) -> bool + Sync),
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            tensors: true,
            progress: &|_| true,
        }
    }
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("tensors", &self.tensors)
            .finish_non_exhaustive()
    }
}

/// A file and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct FileDigest {
    /// Path in the repository.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Hexadecimal SHA-256 of the content.
    pub sha256: String,
}

/// A tensor and its digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorDigest {
    /// Name in its file.
    pub name: String,
    /// Path of its file.
    pub file: String,
    /// The network it belongs to, where the layout is known.
    pub component: Option<Component>,
    /// The weight it is, under its diffusers name; none for scales and settings.
    pub weight: Option<String>,
    /// Stored type.
    #[serde(serialize_with = "as_name")]
    pub dtype: StoredDType,
    /// Lengths of its axes.
    pub shape: Vec<usize>,
    /// Hexadecimal SHA-256 over type, shape and stored bytes.
    pub sha256: String,
    /// Hexadecimal SHA-256 over shape and values as bf16; none for bytes that are no weights.
    pub canonical_sha256: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn as_name<S: serde::Serializer>(dtype: &StoredDType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(dtype.as_str())
}

/// Digests of the values of a whole model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct ModelDigest {
    /// Bound to the names of weights.
    pub named: String,
    /// Free of names.
    pub unnamed: String,
}

/// What a repository holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The subnet's hash, as if every weight file were in large-file storage, or as the Hub's cache says.
    /// None without weight files, and when one of them could not be read.
    pub model_hash: Option<String>,
    /// All files, by path.
    pub files: Vec<FileDigest>,
    /// All tensors, by file and name. Empty when only files were asked for.
    pub tensors: Vec<TensorDigest>,
    /// None when only files were asked for, or when not all weights could be read.
    pub model_digest: Option<ModelDigest>,
    /// Links, unreadable files, refused headers, damaged values.
    pub findings: Vec<Finding>,
    /// What keeps the layout from being recognised, or the model from loading: weights that are not known by
    /// name are listed under their own.
    pub problems: Vec<String>,
}

impl Identity {
    /// Whether something could not be read: then nothing in here may be called clean.
    pub fn is_incomplete(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.rule == Rule::CouldNotRead)
    }
}

/// Reads a repository at `root` (a folder, or one file) once and says what it holds.
///
/// # Errors
/// [`leoma_models::Error::Io`] when `root` cannot be listed, [`leoma_models::Error::Cancelled`]. What is
/// wrong inside of it is among the findings.
pub fn identify(root: &Path, options: &Options<'_>) -> Result<Identity> {
    identify_tree(&Tree::open(root)?, options)
}

/// As [`identify`], of a repository whose files have been listed.
///
/// # Errors
/// As [`identify`].
pub fn identify_tree(tree: &Tree, options: &Options<'_>) -> Result<Identity> {
    let names = if options.tensors {
        Names::of(tree)
    } else {
        Names::default()
    };
    let known = tree.files.iter().map(|_| None).collect();
    identify_known(tree, names, options, known, &mut |_, _| {})
}

/// As [`identify_tree`], without reading files whose results are `known`; by the order of the tree's files.
/// `read` is told what was found in the others.
pub(super) fn identify_known(
    tree: &Tree,
    names: Names,
    options: &Options<'_>,
    known: Vec<Option<FileResult>>,
    read: &mut dyn FnMut(usize, &FileResult),
) -> Result<Identity> {
    let was_known: Vec<bool> = known.iter().map(Option::is_some).collect();
    let results = pass::run(tree, &names, options, known)?;
    let mut made = Made {
        findings: tree.findings.clone(),
        complete: tree.findings.iter().all(|finding| !blinds(finding.rule)),
        ..Made::default()
    };
    for (index, (file, result)) in tree.files.iter().zip(results).enumerate() {
        match result {
            Ok(result) => {
                if was_known.get(index) == Some(&false) {
                    read(index, &result);
                }
                made.file(&file.path, file.blob.as_ref(), result);
            }
            Err(error) => made.unread(&file.path, &error),
        }
    }
    Ok(made.finish(names, options.tensors))
}

/// Whether a finding of this rule means that files are missing from the listing.
fn blinds(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::CouldNotRead | Rule::LinkOutside | Rule::NotRegular | Rule::TooManyFiles
    )
}

/// An identity in the making.
#[derive(Default)]
struct Made {
    files: Vec<FileDigest>,
    /// Of the weight files that the subnet counts.
    counted: Vec<String>,
    tensors: Vec<TensorDigest>,
    findings: Vec<Finding>,
    /// All files could be read.
    complete: bool,
    /// Some weight file's tensors are not listed.
    refused: bool,
}

impl Made {
    fn unread(&mut self, path: &str, error: &leoma_models::Error) {
        self.complete = false;
        self.findings
            .push(Finding::new(Rule::CouldNotRead, path, error.to_string()));
    }

    fn file(&mut self, path: &str, blob: Option<&Blob>, result: FileResult) {
        let sha256 = hex(&result.sha256);
        match blob {
            Some(Blob::Lfs(name)) if *name != sha256 => {
                let message = format!(
                    "the cache calls it {name}, its content is {sha256}; delete it and fetch it again"
                );
                self.findings
                    .push(Finding::new(Rule::BlobMismatch, path, message));
            }
            _ => {}
        }
        // Small files that git keeps itself do not count.
        if is_weight_file(path) && !matches!(blob, Some(Blob::Git(_))) {
            self.counted.push(sha256.clone());
        }
        if let Some(message) = result.refused {
            self.refused = true;
            let rule = if path.ends_with(".safetensors") {
                Rule::HeaderRefused
            } else {
                Rule::PickleMalformed
            };
            self.findings.push(Finding::new(rule, path, message));
        }
        for tensor in result.tensors {
            self.check_values(path, &tensor);
            self.tensors.push(TensorDigest {
                name: tensor.tensor.name,
                file: path.to_owned(),
                component: tensor.known.as_ref().map(|known| known.component),
                weight: tensor.known.map(|known| known.name),
                dtype: tensor.tensor.dtype,
                shape: tensor.tensor.shape,
                sha256: hex(&tensor.sha256),
                canonical_sha256: tensor.canonical.map(|digest| hex(&digest)),
            });
        }
        self.files.push(FileDigest {
            path: path.to_owned(),
            size: result.size,
            sha256,
        });
    }

    fn check_values(&mut self, path: &str, result: &TensorResult) {
        let name = &result.tensor.name;
        let what = match (result.values.nan, result.values.infinite) {
            (true, true) => Some("NaN and infinite values"),
            (true, false) => Some("NaN"),
            (false, true) => Some("infinite values"),
            (false, false) => None,
        };
        if let Some(what) = what {
            let message = format!("tensor `{name}` holds {what}");
            self.findings
                .push(Finding::new(Rule::NotFinite, path, message));
        }
        // Biases are zero in good models; a matrix of zeros passes nothing on.
        let matrix = result
            .tensor
            .shape
            .iter()
            .filter(|&&length| length > 1)
            .count()
            >= 2;
        if matrix && result.canonical.is_some() && !result.values.nonzero {
            let message = format!("tensor `{name}` {:?} holds zeros only", result.tensor.shape);
            self.findings
                .push(Finding::new(Rule::AllZero, path, message));
        }
    }

    fn finish(mut self, names: Names, tensors: bool) -> Identity {
        self.findings.sort();
        self.tensors
            .sort_by(|a, b| (&a.file, &a.name).cmp(&(&b.file, &b.name)));
        let whole = tensors && self.complete && !self.refused;
        Identity {
            model_hash: self.complete.then(|| model_hash(&self.counted)).flatten(),
            model_digest: whole.then(|| model_digest(&self.tensors, &names)).flatten(),
            files: self.files,
            tensors: self.tensors,
            findings: self.findings,
            problems: names.problems,
        }
    }
}

/// Digests over all weights; where no layout is known, over all tensors under their own names.
fn model_digest(tensors: &[TensorDigest], names: &Names) -> Option<ModelDigest> {
    let mut by_name: BTreeMap<String, &str> = BTreeMap::new();
    for tensor in tensors {
        let Some(digest) = tensor.canonical_sha256.as_deref() else {
            continue;
        };
        match (tensor.component, &tensor.weight) {
            (Some(component), Some(weight)) => {
                by_name.insert(format!("{component}/{weight}"), digest);
            }
            _ if names.is_empty() => {
                by_name.insert(tensor.name.clone(), digest);
            }
            _ => {}
        }
    }
    if by_name.is_empty() {
        return None;
    }
    let (mut named, mut unnamed) = (Sha256::new(), Sha256::new());
    for (name, digest) in &by_name {
        named.update(format!("{name} {digest}\n"));
    }
    for digest in by_name.values().collect::<BTreeSet<_>>() {
        unnamed.update(format!("{digest}\n"));
    }
    Some(ModelDigest {
        named: hex(&named.finalize()),
        unnamed: hex(&unnamed.finalize()),
    })
}
