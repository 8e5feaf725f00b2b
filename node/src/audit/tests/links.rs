//! Links: what is behind one that leads out is not read, not even for the names of weights.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use leoma_models::tiny::make_tiny;
use leoma_models::weights::ModelKind;
use sha2::{Digest, Sha256};

use super::super::Rule;
use super::super::identity::{Identity, Options, identify};
use super::super::model_hash::hex;
use super::super::tree::Tree;
use super::super::weights::Names;
use super::read_safetensors;

const SHARD: &str = "transformer/diffusion_pytorch_model.safetensors";
const INDEX: &str = "transformer/diffusion_pytorch_model.safetensors.index.json";

fn model(keep: &Path) -> PathBuf {
    let root = keep.join("model");
    make_tiny(ModelKind::Ti2v5b, 3, &root).unwrap();
    root
}

fn audit(root: &Path) -> Identity {
    identify(root, &Options::default()).unwrap()
}

/// An index that says the truth about the transformer.
fn true_index(root: &Path) -> String {
    let tensors = read_safetensors(&root.join(SHARD));
    let name = SHARD.rsplit('/').next().unwrap();
    let map: serde_json::Map<_, _> = tensors
        .into_iter()
        .map(|tensor| (tensor.name, name.into()))
        .collect();
    serde_json::json!({ "weight_map": map }).to_string()
}

/// Nothing is said of the weights' names, and why.
fn nameless(root: &Path, path: &str, rule: Rule) {
    let tree = Tree::open(root).unwrap();
    let names = Names::of(&tree);
    assert!(names.is_empty(), "{path}");
    assert!(
        names.problems.len() == 1 && names.problems[0].starts_with(path),
        "{:?}",
        names.problems
    );
    let identity = audit(root);
    let found: Vec<_> = identity
        .findings
        .iter()
        .map(|finding| (finding.rule, finding.path.as_str()))
        .collect();
    assert_eq!(found, [(rule, path)]);
    assert_eq!(identity.problems, names.problems);
    assert!(
        identity
            .tensors
            .iter()
            .all(|tensor| tensor.component.is_none() && tensor.weight.is_none())
    );
    assert!(identity.tensors.iter().all(|tensor| tensor.file != path));
    // Part of a model has no digest, under whatever names.
    assert_eq!((identity.model_hash, identity.model_digest), (None, None));
}

#[test]
fn an_index_that_leads_out_is_not_believed() {
    let keep = tempfile::tempdir().unwrap();
    let root = model(keep.path());
    let index = true_index(&root);
    let inside = root.join(INDEX);
    fs::write(&inside, &index).unwrap();
    assert!(!Names::of(&Tree::open(&root).unwrap()).is_empty());
    fs::remove_file(&inside).unwrap();
    fs::write(keep.path().join("index.json"), &index).unwrap();
    for target in [
        keep.path().join("index.json"),
        PathBuf::from("../../index.json"),
    ] {
        symlink(&target, &inside).unwrap();
        nameless(&root, INDEX, Rule::LinkOutside);
        fs::remove_file(&inside).unwrap();
    }
}

#[test]
fn a_shard_that_leads_out_is_not_read() {
    let keep = tempfile::tempdir().unwrap();
    let root = model(keep.path());
    let (inside, outside) = (root.join(SHARD), keep.path().join("w.safetensors"));
    fs::rename(&inside, &outside).unwrap();
    symlink(&outside, &inside).unwrap();
    nameless(&root, SHARD, Rule::LinkOutside);
    // From one file of the repository to another is no way out.
    fs::remove_file(&inside).unwrap();
    fs::rename(&outside, root.join("w.safetensors")).unwrap();
    symlink("../w.safetensors", &inside).unwrap();
    assert!(!Names::of(&Tree::open(&root).unwrap()).is_empty());
}

#[test]
fn a_folder_behind_a_link_is_not_read() {
    let keep = tempfile::tempdir().unwrap();
    let root = model(keep.path());
    fs::rename(root.join("vae"), root.join("other")).unwrap();
    symlink("other", root.join("vae")).unwrap();
    nameless(&root, "vae", Rule::NotRegular);
}

/// The same files as a snapshot of the Hub's cache.
fn snapshot(keep: &Path, root: &Path) -> PathBuf {
    let blobs = keep.join("models--a--b/blobs");
    let snapshot = keep.join("models--a--b/snapshots").join("0".repeat(40));
    fs::create_dir_all(&blobs).unwrap();
    for (number, file) in Tree::open(root).unwrap().files.iter().enumerate() {
        let bytes = fs::read(&file.target).unwrap();
        let blob = if file.path.ends_with(".safetensors") {
            hex(&Sha256::digest(&bytes))
        } else {
            format!("{number:040x}")
        };
        fs::write(blobs.join(&blob), bytes).unwrap();
        let link = snapshot.join(&file.path);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let up = "../".repeat(file.path.matches('/').count() + 2);
        symlink(format!("{up}blobs/{blob}"), link).unwrap();
    }
    snapshot
}

#[test]
fn links_into_the_own_blobs_are_followed() {
    let keep = tempfile::tempdir().unwrap();
    let root = model(keep.path());
    let snapshot = snapshot(keep.path(), &root);
    let (plain, cached) = (audit(&root), audit(&snapshot));
    assert_eq!(cached.findings, []);
    assert_eq!(cached.problems, [""; 0]);
    assert!(cached.model_digest.is_some());
    assert_eq!(cached.model_digest, plain.model_digest);
    assert!(cached.tensors.iter().all(|tensor| tensor.weight.is_some()));
    // Another model's blobs are as much outside as anything else.
    let other = keep.path().join("models--a--c/blobs");
    fs::create_dir_all(&other).unwrap();
    let link = snapshot.join(SHARD);
    fs::rename(fs::canonicalize(&link).unwrap(), other.join("w")).unwrap();
    fs::remove_file(&link).unwrap();
    symlink(other.join("w"), &link).unwrap();
    nameless(&snapshot, SHARD, Rule::LinkOutside);
}
