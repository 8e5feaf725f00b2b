//! Weights as stored: the same names, shapes and places from every layout.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::super::test_support::{Tiny, to_official};
use super::super::{Component, ModelKind, StoredWeights, stored_tensors};

/// Every weight's bytes, by component and name.
fn contents(stored: &StoredWeights) -> BTreeMap<(Component, String), (Vec<usize>, Vec<u8>)> {
    stored
        .weights
        .iter()
        .map(|weight| {
            let mut bytes = vec![0; usize::try_from(weight.tensor.bytes()).unwrap()];
            let file = File::open(&weight.path).unwrap();
            file.read_exact_at(&mut bytes, weight.tensor.offset)
                .unwrap();
            let key = (weight.component, weight.name.clone());
            (key, (weight.tensor.shape.clone(), bytes))
        })
        .collect()
}

#[test]
fn a_folder_lists_what_its_files_hold() {
    let tiny = Tiny::new(ModelKind::I2vA14b);
    let stored = StoredWeights::open(&tiny.root).unwrap();
    assert!(stored.problems.is_empty(), "{:?}", stored.problems);
    assert_eq!(stored.kind, Some(ModelKind::I2vA14b));
    let path = tiny.weights(Component::Transformer2);
    let listed = stored_tensors(&File::open(&path).unwrap(), &path).unwrap();
    let mut expected: Vec<_> = stored
        .weights
        .iter()
        .filter(|weight| weight.path == path)
        .map(|weight| weight.tensor.clone())
        .collect();
    expected.sort_by_key(|tensor| tensor.offset);
    assert!(!listed.is_empty());
    assert_eq!(listed, expected);
}

#[test]
fn both_layouts_list_the_same() {
    let tiny = Tiny::new(ModelKind::T2vA14b);
    let official = tiny.root.with_file_name("official");
    to_official(&tiny.root, &official);
    assert_eq!(
        contents(&StoredWeights::open(&tiny.root).unwrap()),
        contents(&StoredWeights::open(&official).unwrap())
    );
}

#[test]
fn one_file_is_its_network() {
    let tiny = Tiny::new(ModelKind::Ti2v5b);
    let whole = contents(&StoredWeights::open(&tiny.root).unwrap());
    for component in [
        Component::Transformer,
        Component::Vae,
        Component::TextEncoder,
    ] {
        let one = contents(&StoredWeights::open(&tiny.weights(component)).unwrap());
        assert!(!one.is_empty());
        for (key, value) in &one {
            assert_eq!(key.0, component);
            assert_eq!(whole.get(key), Some(value));
        }
    }
}

#[test]
fn a_folder_of_files_is_their_networks() {
    let tiny = Tiny::new(ModelKind::Ti2v5b);
    let whole = contents(&StoredWeights::open(&tiny.root).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let put = |component, name: &str| {
        fs::copy(tiny.weights(component), folder.path().join(name)).unwrap();
    };
    put(Component::Transformer, "wan_ti2v.safetensors");
    put(Component::Vae, "wan_vae.safetensors");
    let loose = StoredWeights::open(folder.path()).unwrap();
    assert!(loose.problems.is_empty(), "{:?}", loose.problems);
    let loose = contents(&loose);
    let networks = [Component::Transformer, Component::Vae];
    assert!(networks.iter().all(|c| loose.keys().any(|key| key.0 == *c)));
    for (key, value) in &loose {
        assert_eq!(whole.get(key), Some(value));
    }
    // A damaged file is named, and hides nothing of the others.
    fs::write(folder.path().join("more.safetensors"), b"no header").unwrap();
    let damaged = StoredWeights::open(folder.path()).unwrap();
    assert!(
        damaged
            .problems
            .iter()
            .any(|p| p.to_string().contains("more.safetensors"))
    );
    assert_eq!(contents(&damaged), loose);
    // Which of two files of one network is meant, nobody knows.
    put(Component::Vae, "wan_vae_2.safetensors");
    assert!(
        StoredWeights::open(folder.path())
            .unwrap()
            .weights
            .is_empty()
    );
}

#[test]
fn a_file_of_nothing_known_is_refused() {
    let tiny = Tiny::new(ModelKind::Ti2v5b);
    let error = StoredWeights::open(&tiny.path("model_index.json")).unwrap_err();
    assert!(error.to_string().contains("model_index.json"), "{error}");
}
