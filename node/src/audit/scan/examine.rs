//! One repository of a scan: its files, what they hold, what is wrong with them, and its sketch.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use leoma_models::{Error, Result};
use serde::{Deserialize, Serialize};

use super::cache::{Cache, FileEntry, FileKey, Kind, file_key, key_of};
use super::{Place, Progress};
use crate::audit::compare::sketch::{Sketch, WeightSketch};
use crate::audit::finding::{Finding, Rule};
use crate::audit::identity::{self, Identity, ModelDigest, identify_known};
use crate::audit::model_hash::is_weight_file;
use crate::audit::report::{self, Read, Repository};
use crate::audit::rules::content;
use crate::audit::tree::Tree;
use crate::audit::weights::{Names, relative};

/// A repository that was examined.
#[derive(Debug)]
pub(super) struct Examined {
    pub(super) repository: Repository,
    pub(super) sketch: Option<Sketch>,
    /// Stands for all its files as they are; none when they cannot be told from their next version.
    pub(super) fingerprint: Option<String>,
}

/// What all repositories of a scan share.
pub(super) struct Examiner<'a> {
    pub(super) cache: &'a Cache,
    /// Sketches are wanted.
    pub(super) sketches: bool,
    pub(super) progress: &'a (dyn Fn(Progress<'_>) -> bool + Sync),
    /// Sketches of tensors without scales, by digest: what repositories share is read once.
    by_content: Mutex<HashMap<String, WeightSketch>>,
    pub(super) read: Read,
}

/// What is remembered of a repository.
#[derive(Deserialize, Serialize)]
struct Entry {
    model_hash: Option<String>,
    model_digest: Option<ModelDigest>,
    files: Vec<report::File>,
    findings: Vec<Finding>,
    problems: Vec<String>,
    sketch: Option<Sketch>,
    /// A sketch was tried.
    sketched: bool,
}

/// The sum of a file's key and its path, over all files.
fn fingerprint(tree: &Tree, keys: &[Option<FileKey>]) -> Option<String> {
    // What could not be read may be readable the next time.
    if tree
        .findings
        .iter()
        .any(|finding| finding.rule == Rule::CouldNotRead)
    {
        return None;
    }
    let mut parts = Vec::new();
    for (file, key) in tree.files.iter().zip(keys) {
        parts.push(serde_json::to_vec(&(&file.path, &file.blob, (*key)?)).ok()?);
    }
    parts.push(serde_json::to_vec(&tree.findings).ok()?);
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Some(key_of(&parts))
}

impl<'a> Examiner<'a> {
    pub(super) fn new(
        cache: &'a Cache,
        sketches: bool,
        progress: &'a (dyn Fn(Progress<'_>) -> bool + Sync),
    ) -> Self {
        Self {
            cache,
            sketches,
            progress,
            by_content: Mutex::default(),
            read: Read::default(),
        }
    }

    /// Examines one repository. What is wrong with it is among its findings.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub(super) fn examine(&mut self, place: &Place) -> Result<Examined> {
        let tree = match Tree::open(&place.path) {
            Ok(tree) => tree,
            Err(error) => return Ok(unreadable(place, &error)),
        };
        let bytes = tree.files.iter().map(|file| file.size).sum();
        (self.progress)(Progress::Repository(&place.source, bytes));
        let keys: Vec<_> = tree
            .files
            .iter()
            .map(|file| FileKey::of(&file.target))
            .collect();
        let fingerprint = fingerprint(&tree, &keys);
        let known = fingerprint
            .as_ref()
            .and_then(|key| self.cache.get::<Entry>(Kind::Repository, key))
            .filter(|entry| entry.sketched || !self.sketches);
        if let Some(entry) = known {
            self.read.known_repositories += 1;
            return Ok(entry.examined(place, fingerprint));
        }
        let (entry, is_whole) = self.read(&tree, &keys)?;
        // Only what did not change while it was read stands for these files.
        let unchanged = tree
            .files
            .iter()
            .zip(&keys)
            .all(|(file, key)| FileKey::of(&file.target) == *key);
        let fingerprint = fingerprint.filter(|_| unchanged && is_whole);
        if let Some(key) = &fingerprint {
            self.cache.put(Kind::Repository, key, &entry);
        }
        Ok(entry.examined(place, fingerprint))
    }

    /// Reads what is not known of a repository; and whether all of it could be read.
    fn read(&mut self, tree: &Tree, keys: &[Option<FileKey>]) -> Result<(Entry, bool)> {
        let names = Names::of(tree);
        let file_keys: Vec<Option<String>> = tree
            .files
            .iter()
            .zip(keys)
            .map(|(file, key)| Some(file_key(key.as_ref()?, file, &names)))
            .collect();
        let mut entries: Vec<Option<FileEntry>> = file_keys
            .iter()
            .map(|key| self.cache.get(Kind::File, key.as_ref()?))
            .collect();
        let known: Vec<_> = tree
            .files
            .iter()
            .zip(&entries)
            .map(|(file, entry)| entry.as_ref()?.recall(&file.path, &names))
            .collect();
        self.read.known_files += known.iter().flatten().count();
        let mut fresh = vec![false; entries.len()];
        let recognised = !names.is_empty();
        let digested = AtomicU64::new(0);
        let options = identity::Options {
            tensors: true,
            progress: &|bytes| {
                digested.fetch_add(bytes, Ordering::Relaxed);
                (self.progress)(Progress::Bytes(bytes))
            },
        };
        let mut identity = identify_known(tree, names, &options, known, &mut |index, result| {
            if let (Some(entry), Some(fresh)) = (entries.get_mut(index), fresh.get_mut(index)) {
                *entry = Some(FileEntry::of(result));
                *fresh = true;
            }
        })?;
        self.read.digested_bytes += digested.into_inner();
        identity.findings.extend(content::check(tree));
        let sketch = self.sketch(tree, recognised, &mut identity, &mut entries, &mut fresh)?;
        for ((key, entry), fresh) in file_keys.iter().zip(&entries).zip(fresh) {
            if let (Some(key), Some(entry), true) = (key, entry, fresh) {
                self.cache.put(Kind::File, key, entry);
            }
        }
        identity.findings.sort();
        identity.findings.dedup();
        let is_whole = !identity.is_incomplete();
        let entry = Entry {
            model_hash: identity.model_hash,
            model_digest: identity.model_digest,
            files: identity.files.into_iter().map(Into::into).collect(),
            findings: identity.findings,
            problems: identity.problems,
            sketch,
            sketched: self.sketches,
        };
        Ok((entry, is_whole))
    }

    /// The repository's sketch, where it is wanted and can be made; else the reason is a finding.
    fn sketch(
        &mut self,
        tree: &Tree,
        recognised: bool,
        identity: &mut Identity,
        entries: &mut [Option<FileEntry>],
        fresh: &mut [bool],
    ) -> Result<Option<Sketch>> {
        if !tree.files.iter().any(|file| is_weight_file(&file.path)) {
            identity.findings.push(Finding::new(
                Rule::NoWeights,
                "",
                "no weight file; there is nothing to compare",
            ));
            return Ok(None);
        }
        let mut not_compared = |message: String| {
            let finding = Finding::new(Rule::NotRecognised, "", message);
            identity.findings.push(finding);
        };
        if !recognised {
            let problem = identity.problems.first().map_or("", String::as_str);
            not_compared(format!("not compared: {problem}"));
            return Ok(None);
        }
        if !identity.problems.is_empty() {
            let message = format!(
                "{} problem(s) keep it from loading, and the weights concerned from being compared; first: {}",
                identity.problems.len(),
                identity.problems.first().map_or("", String::as_str)
            );
            not_compared(message);
        }
        if !self.sketches {
            return Ok(None);
        }
        let made = self.make_sketch(tree, identity, entries);
        match made {
            Ok((sketch, places)) => {
                for (file, tensor, sketch) in places {
                    give(tree, &file, &tensor, sketch, entries, fresh);
                }
                Ok(Some(sketch))
            }
            Err(Error::Cancelled) => Err(Error::Cancelled),
            Err(error @ Error::Io { .. }) => {
                identity
                    .findings
                    .push(Finding::new(Rule::CouldNotRead, "", error.to_string()));
                Ok(None)
            }
            Err(error) => {
                let message = format!("not compared: {error}");
                identity
                    .findings
                    .push(Finding::new(Rule::NotRecognised, "", message));
                Ok(None)
            }
        }
    }

    fn make_sketch(
        &mut self,
        tree: &Tree,
        identity: &Identity,
        entries: &[Option<FileEntry>],
    ) -> Result<(Sketch, Vec<(String, String, WeightSketch)>)> {
        let by_path: HashMap<&str, &FileEntry> = tree
            .files
            .iter()
            .zip(entries)
            .filter_map(|(file, entry)| Some((file.path.as_str(), entry.as_ref()?)))
            .collect();
        let digests: HashMap<(&str, &str), &str> = identity
            .tensors
            .iter()
            .map(|tensor| {
                (
                    (tensor.file.as_str(), tensor.name.as_str()),
                    tensor.sha256.as_str(),
                )
            })
            .collect();
        let by_content = self
            .by_content
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = |file: &Path, tensor: &str, scaled: bool| {
            let path = relative(&tree.root, file);
            let of_file = by_path
                .get(path.as_str())
                .and_then(|entry| entry.sketch(tensor));
            let of_content = || {
                let digest = digests.get(&(path.as_str(), tensor))?;
                by_content.get(*digest).filter(|_| !scaled)
            };
            of_file.or_else(of_content).cloned()
        };
        let progress = |bytes| (self.progress)(Progress::Bytes(bytes));
        let made = Sketch::of_known(&tree.root, &known, &progress)?;
        drop(by_content);
        self.read.sketched_bytes += made.bytes;
        let mut by_content = self
            .by_content
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut places = Vec::with_capacity(made.places.len());
        for (file, tensor, scaled, sketch) in made.places {
            let path = relative(&tree.root, &file);
            if let Some(digest) = digests
                .get(&(path.as_str(), tensor.as_str()))
                .filter(|_| !scaled)
            {
                by_content.insert((*digest).to_owned(), sketch.clone());
            }
            places.push((path, tensor, sketch));
        }
        Ok((made.sketch, places))
    }
}

/// Puts a tensor's sketch beside its digests.
fn give(
    tree: &Tree,
    path: &str,
    tensor: &str,
    sketch: WeightSketch,
    entries: &mut [Option<FileEntry>],
    fresh: &mut [bool],
) {
    let Ok(index) = tree
        .files
        .binary_search_by(|file| file.path.as_str().cmp(path))
    else {
        return;
    };
    let (Some(Some(entry)), Some(fresh)) = (entries.get_mut(index), fresh.get_mut(index)) else {
        return;
    };
    if let Some(found) = entry
        .tensors()
        .iter_mut()
        .find(|found| found.name == tensor)
        && found.sketch.is_none()
    {
        found.sketch = Some(sketch);
        *fresh = true;
    }
}

impl Entry {
    fn examined(self, place: &Place, fingerprint: Option<String>) -> Examined {
        Examined {
            repository: Repository {
                source: place.source.clone(),
                from: report::Basis::Bytes,
                model_hash: self.model_hash,
                model_digest: self.model_digest,
                files: self.files,
                tensors: None,
                findings: self.findings,
                problems: self.problems,
            },
            sketch: self.sketch,
            fingerprint,
        }
    }
}

fn unreadable(place: &Place, error: &Error) -> Examined {
    Examined {
        repository: Repository {
            source: place.source.clone(),
            findings: vec![Finding::new(Rule::CouldNotRead, "", error.to_string())],
            ..Repository::default()
        },
        sketch: None,
        fingerprint: None,
    }
}
