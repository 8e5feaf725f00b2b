#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;
use crate::error::Fault;
use crate::weights::{Checkpoint, validate};

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(
                files(&path)
                    .into_iter()
                    .map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)),
            );
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn every_kind_opens_as_itself_and_is_small() {
    for kind in ModelKind::ALL {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("model");
        make_tiny(kind, 3, &out).unwrap();
        let size: usize = files(&out).values().map(Vec::len).sum();
        assert!(size < 6_000_000, "{kind} has {size} bytes");
        let checkpoint = Checkpoint::open(&out).unwrap();
        assert_eq!(checkpoint.kind(), kind);
        assert_eq!(checkpoint.has_second_expert(), kind.has_two_experts());
        assert_eq!(checkpoint.warnings(), &[] as &[String]);
        validate(&checkpoint).unwrap();
        // Nothing is left beside it.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, seed| {
        let out = folder.path().join(name);
        make_tiny(ModelKind::Ti2v5b, seed, &out).unwrap();
        files(&out)
    };
    let first = make("a", 7);
    assert!(first == make("b", 7));
    assert!(first != make("c", 8));
}

#[test]
fn an_occupied_folder_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    fs::create_dir(&out).unwrap();
    make_tiny(ModelKind::Wan21T2v, 0, &out).unwrap();
    let before = files(&out);
    let error = make_tiny(ModelKind::Ti2v5b, 0, &out).unwrap_err();
    assert_eq!(error.fault(), Fault::Caller);
    assert!(files(&out) == before);
    let file = folder.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert_eq!(
        make_tiny(ModelKind::Ti2v5b, 0, &file).unwrap_err().fault(),
        Fault::Caller
    );
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}
