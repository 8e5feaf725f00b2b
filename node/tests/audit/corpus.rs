//! Every input that the fuzzers keep, and every one that ever was a finding, without libFuzzer.

use std::fs;
use std::path::{Path, PathBuf};

// What a target does with an input is said once, for both.
#[allow(unreachable_pub)]
#[path = "../../../scripts/fuzz/src/entry.rs"]
mod entry;

/// The inputs of a target: `corpus/TARGET` is there, `crashes/TARGET` once something was found.
fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/fuzz");
    let mut found = Vec::new();
    for kind in ["corpus", "crashes"] {
        let folder = fuzz.join(kind).join(target);
        if kind == "crashes" && !folder.exists() {
            continue;
        }
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    assert!(found.len() > 1, "the inputs of {target} are gone");
    found.sort();
    found
}

/// Says which input it was when one fails.
fn each(target: &str, with: impl Fn(&[u8])) {
    for (path, bytes) in inputs(target) {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| with(&bytes)));
        assert!(done.is_ok(), "{}: see above", path.display());
    }
}

#[test]
fn headers_of_the_corpus() {
    each("header", entry::header);
}

#[test]
fn pickles_of_the_corpus() {
    each("pickle", entry::pickle);
}

#[test]
fn indexes_and_configurations_of_the_corpus() {
    let victim = entry::Victim::new();
    each("index", |bytes| entry::index(&victim, bytes));
    each("config", |bytes| entry::config(&victim, bytes));
}
