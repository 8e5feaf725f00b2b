#![allow(clippy::unwrap_used)]

mod damage;

use std::fs;
use std::io::Cursor;
use std::path::Path;

use super::*;
use crate::audit::tests::noise;

const WEIGHTS: usize = 40;
const ELEMENTS: usize = 4000;

fn sketched(values: impl Fn(usize) -> Vec<f32>) -> Sketch {
    let weights = (0..WEIGHTS).map(|index| {
        let sketch = WeightSketch::of(&values(index));
        (format!("transformer/blocks.{index}"), sketch)
    });
    Sketch {
        weights: weights.collect(),
    }
}

fn base() -> Sketch {
    sketched(|index| noise(ELEMENTS, 1000 + index as u64))
}

/// A weight of a training of the base.
fn training(index: usize, seed: u64) -> Vec<f32> {
    let base = noise(ELEMENTS, 1000 + index as u64);
    let change = noise(ELEMENTS, 77_000 + 100 * seed + index as u64);
    let both = base.iter().zip(change);
    both.map(|(c, d)| c + 0.02 * d).collect()
}

/// A training of the base; `hidden` is what is laid over it.
fn tuned(seed: u64, hidden: f32) -> Sketch {
    sketched(|index| {
        let over = noise(ELEMENTS, 500_000 + 100 * seed + index as u64);
        let both = training(index, seed).into_iter().zip(over);
        both.map(|(x, o)| x + hidden * o).collect()
    })
}

fn entry(name: &str) -> Entry {
    Entry {
        name: name.into(),
        revision: "c".repeat(40),
        role: Role::Model,
        origin: Origin::Local,
        hotkey: None,
        block: None,
        committed_at: None,
        model_hash: None,
        named: None,
        unnamed: None,
        added_at: "2026-01-01T00:00:00.000Z".into(),
    }
}

fn new() -> (tempfile::TempDir, Registry) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("deep/registry.sqlite")).unwrap();
    (dir, registry)
}

#[test]
fn a_disguised_copy_is_found_and_an_independent_training_is_not() {
    let (_dir, mut registry) = new();
    for seed in 0..12 {
        let entry = entry(&format!("user/leoma-{seed}"));
        assert!(registry.add(&entry, &tuned(seed, 0.0)).unwrap());
    }
    registry
        .add(
            &Entry {
                role: Role::Base,
                ..entry("Wan-AI/base")
            },
            &base(),
        )
        .unwrap();
    let find = |sketch: &Sketch| {
        let found = registry.candidates(&entry("thief/leoma"), Some((sketch, &base())), 10);
        let found = found.unwrap().into_iter();
        found.map(|c| (c.entry.name, c.reason)).collect::<Vec<_>>()
    };
    let copy = find(&tuned(5, 0.01));
    assert_eq!(copy.len(), 1, "{copy:?}");
    assert_eq!(copy[0].0, "user/leoma-5");
    let Reason::Alike(likeness) = copy[0].1 else {
        panic!("{copy:?}")
    };
    // 1 / sqrt(1 + 0.5²).
    assert!((likeness.cosine - 0.894).abs() < 0.05, "{likeness:?}");
    assert_eq!(find(&tuned(50, 0.0)), []);
    assert_eq!(find(&base()), []);
    // What was folded says what the whole sketch says.
    let whole = tuned(5, 0.01).likeness(&tuned(5, 0.0), &base()).unwrap();
    assert!((whole.cosine - likeness.cosine).abs() < 0.05, "{whole:?}");
    assert!((whole.same_squares - likeness.same_squares).abs() < 1e-12);
}

/// Every third weight rotated and noise on all of them: neither the sums of all nor any sum of squares is as it was.
#[test]
fn displaced_weights_are_no_hiding_place() {
    let hidden = sketched(|index| {
        let mut values = training(index, 5);
        if index % 3 == 0 {
            values.rotate_left(777);
        }
        let over = noise(ELEMENTS, 900_000 + index as u64);
        values
            .iter()
            .zip(over)
            .map(|(x, o)| x + 0.004 * o)
            .collect()
    });
    let (_dir, mut registry) = new();
    for seed in 0..12 {
        let entry = entry(&format!("user/leoma-{seed}"));
        registry.add(&entry, &tuned(seed, 0.0)).unwrap();
    }
    registry.add(&entry("thief/leoma"), &hidden).unwrap();
    let find = |name: &str, sketch: &Sketch| {
        let found = registry.candidates(&entry(name), Some((sketch, &base())), 10);
        let names = found.unwrap().into_iter().map(|found| found.entry.name);
        names.collect::<Vec<_>>()
    };
    // Whichever of the two is registered.
    assert_eq!(find("thief/leoma", &hidden), ["user/leoma-5"]);
    assert_eq!(find("user/leoma-5", &tuned(5, 0.0)), ["thief/leoma"]);
    assert_eq!(find("user/leoma-6", &tuned(6, 0.0)), [""; 0]);
}

#[test]
fn another_set_of_weights_is_no_hiding_place() {
    let (_dir, mut registry) = new();
    registry
        .add(&entry("user/leoma-1"), &tuned(1, 0.0))
        .unwrap();
    let mut fewer = tuned(1, 0.0);
    fewer.weights.remove("transformer/blocks.3");
    let found = registry.candidates(&entry("thief/leoma"), Some((&fewer, &base())), 10);
    assert_eq!(found.unwrap()[0].entry.name, "user/leoma-1");
}

#[test]
fn equal_digests_are_found_without_a_base_and_nobody_is_their_own_copy() {
    let (_dir, mut registry) = new();
    let digest = |letter: &str| Some(letter.repeat(64));
    let known = Entry {
        model_hash: digest("a"),
        named: digest("b"),
        unnamed: digest("c"),
        ..entry("user/first")
    };
    registry.add(&known, &tuned(1, 0.0)).unwrap();
    let reason = |entry: &Entry| {
        let found = registry.candidates(entry, None, 10).unwrap();
        found.first().map(|candidate| candidate.reason)
    };
    let other = |model_hash, named, unnamed| Entry {
        model_hash,
        named,
        unnamed,
        ..entry("user/second")
    };
    let same = other(digest("a"), digest("b"), digest("c"));
    assert_eq!(reason(&same), Some(Reason::SameModelHash));
    let repacked = other(digest("f"), digest("b"), digest("c"));
    assert_eq!(reason(&repacked), Some(Reason::SameWeights));
    let renamed = other(digest("f"), digest("f"), digest("c"));
    assert_eq!(reason(&renamed), Some(Reason::SameValues));
    assert_eq!(reason(&other(None, None, None)), None);
    assert_eq!(reason(&known), None);
}

#[test]
fn what_is_learned_later_is_added_and_contradictions_are_refused() {
    let (_dir, mut registry) = new();
    let first = Entry {
        model_hash: Some("a".repeat(64)),
        ..entry("user/leoma")
    };
    assert!(registry.add(&first, &tuned(1, 0.0)).unwrap());
    let more = Entry {
        hotkey: Some("5".repeat(48)),
        block: Some(77),
        ..first.clone()
    };
    assert!(!registry.add(&more, &tuned(1, 0.0)).unwrap());
    assert_eq!(registry.entries().unwrap(), std::slice::from_ref(&more));
    for (field, changed) in [
        (
            "model_hash",
            Entry {
                model_hash: Some("b".repeat(64)),
                ..more.clone()
            },
        ),
        (
            "block",
            Entry {
                block: Some(78),
                ..more.clone()
            },
        ),
        (
            "hotkey",
            Entry {
                hotkey: Some("6".repeat(48)),
                ..more.clone()
            },
        ),
    ] {
        let error = registry.add(&changed, &tuned(1, 0.0)).unwrap_err();
        assert!(
            matches!(error, RegistryError::Conflict { field: found, .. } if found == field),
            "{error}"
        );
    }
    assert_eq!(registry.entries().unwrap(), std::slice::from_ref(&more));
    assert!(registry.remove(&more.name, &more.revision).unwrap());
    assert!(!registry.remove(&more.name, &more.revision).unwrap());
    assert!(matches!(
        registry.sketch(&more.name, &more.revision).unwrap_err(),
        RegistryError::Unknown { .. }
    ));
}

#[test]
fn values_that_cannot_be_are_refused() {
    let (_dir, mut registry) = new();
    for (field, entry) in [
        (
            "name",
            Entry {
                name: " ".into(),
                ..entry("")
            },
        ),
        (
            "revision",
            Entry {
                revision: "main".into(),
                ..entry("a")
            },
        ),
        (
            "hotkey",
            Entry {
                hotkey: Some("0OIl".into()),
                ..entry("a")
            },
        ),
        (
            "block",
            Entry {
                block: Some(u64::MAX),
                ..entry("a")
            },
        ),
        (
            "committed_at",
            Entry {
                committed_at: Some("yesterday".into()),
                ..entry("a")
            },
        ),
        (
            "unnamed",
            Entry {
                unnamed: Some("A".repeat(64)),
                ..entry("a")
            },
        ),
    ] {
        let error = registry.add(&entry, &Sketch::default()).unwrap_err();
        assert!(
            matches!(error, RegistryError::Value { field: found, .. } if found == field),
            "{error}"
        );
    }
    assert_eq!(registry.entries().unwrap(), []);
}

#[test]
fn a_list_goes_from_one_registry_to_another() {
    let (_dir, mut registry) = new();
    for seed in [2, 1] {
        let entry = Entry {
            block: Some(10 * seed),
            ..entry(&format!("user/{seed}"))
        };
        registry.add(&entry, &tuned(seed, 0.0)).unwrap();
    }
    let mut list = Vec::new();
    assert_eq!(registry.export(Path::new("list"), &mut list).unwrap(), 2);
    let (_other_dir, mut other) = new();
    let import =
        |other: &mut Registry, list: &[u8]| other.import(Path::new("list"), &mut Cursor::new(list));
    let both = Imported { added: 2, known: 0 };
    assert_eq!(import(&mut other, &list).unwrap(), both);
    let again = Imported { added: 0, known: 2 };
    assert_eq!(import(&mut other, &list).unwrap(), again);
    let names = |registry: &Registry| {
        registry
            .entries()
            .unwrap()
            .into_iter()
            .map(|e| (e.name, e.block, e.origin))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&other),
        [
            ("user/1".to_owned(), Some(10), Origin::Imported),
            ("user/2".to_owned(), Some(20), Origin::Imported)
        ]
    );
    assert_eq!(
        other.sketch("user/1", &"c".repeat(40)).unwrap(),
        tuned(1, 0.0)
    );
    // What its owner hashed stays that.
    import(&mut registry, &list).unwrap();
    assert!(
        names(&registry)
            .iter()
            .all(|(_, _, origin)| *origin == Origin::Local)
    );
}

#[test]
fn a_bad_list_is_refused_as_a_whole_with_the_line() {
    let (_dir, mut registry) = new();
    registry.add(&entry("user/1"), &tuned(1, 0.0)).unwrap();
    let mut good = Vec::new();
    registry.export(Path::new("list"), &mut good).unwrap();
    let good = String::from_utf8(good).unwrap();
    let (_other_dir, mut other) = new();
    for (bad, says) in [
        ("{".to_owned(), "is not a model"),
        (
            good.replace("\"registry\":1", "\"registry\":2"),
            "a newer one wrote it",
        ),
        (good.replace("cccc", "CCCC"), "not a full commit"),
        (good.replace("transformer/blocks.0", "x"), "names no weight"),
        (
            good.replacen("\"squares\":", "\"squares\":-", 1),
            "cannot be",
        ),
        (good.replace("\"origin\"", "\"evil\""), "unknown field"),
    ] {
        let list = format!("{}\n\n{bad}", good.replace("user/1", "user/2").trim_end());
        let error = other
            .import(Path::new("l.jsonl"), &mut Cursor::new(list))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("l.jsonl: line 3") && error.contains(says),
            "{error}"
        );
        assert_eq!(other.entries().unwrap(), [], "{says}");
    }
    let error = other
        .import(Path::new("l"), &mut Cursor::new(b"\xff\xfe".to_vec()))
        .unwrap_err();
    assert!(error.to_string().contains("line 1: is not text"), "{error}");
}

#[test]
fn other_files_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.sqlite");
    fs::write(&path, b"not a database at all").unwrap();
    let error = Registry::open(&path).unwrap_err();
    assert_eq!(error.fault(), leoma_models::Fault::Artifact, "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"not a database at all");
    fs::remove_file(&path).unwrap();
    assert!(Registry::existing(&path).unwrap().is_none());
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE jobs (x); PRAGMA user_version = 1;")
        .unwrap();
    let error = Registry::open(&path).unwrap_err().to_string();
    assert!(error.contains("belongs to another program"), "{error}");
}

#[test]
fn two_auditors_write_at_once() {
    let (_dir, registry) = new();
    let path = registry.path.clone();
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let path = &path;
            scope.spawn(move || {
                let mut registry = Registry::open(path).unwrap();
                for number in 0..5 {
                    registry
                        .add(
                            &entry(&format!("user/{writer}-{number}")),
                            &tuned(number, 0.0),
                        )
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(registry.entries().unwrap().len(), 10);
}
