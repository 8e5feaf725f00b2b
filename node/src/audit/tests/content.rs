//! What is refused in a repository: every rule by a file that breaks it, and none by a good repository.

use std::fs;
use std::io::Write;
use std::path::Path;

use leoma_models::tiny::make_tiny;
use leoma_models::weights::ModelKind;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::super::rules::content::check;
use super::super::tree::Tree;
use super::super::{Finding, Rule};
use super::{Raw, write_safetensors};

const EVIL: &[u8] = b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R.";

fn findings(root: &Path) -> Vec<Finding> {
    check(&Tree::open(root).unwrap())
}

fn rules(root: &Path) -> Vec<(Rule, String)> {
    findings(root)
        .into_iter()
        .map(|f| (f.rule, f.path))
        .collect()
}

fn archive(path: &Path, members: &[(&str, &[u8])]) {
    let mut zip = ZipWriter::new(fs::File::create(path).unwrap());
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in members {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

#[test]
fn a_good_repository_is_clean() {
    let keep = tempfile::tempdir().unwrap();
    let root = keep.path().join("model");
    make_tiny(ModelKind::T2vA14b, 1, &root).unwrap();
    fs::write(root.join("README.md"), "# Words").unwrap();
    fs::write(root.join(".gitattributes"), "*.safetensors filter=lfs").unwrap();
    assert_eq!(findings(&root), []);
}

#[test]
fn pickles_are_walked_and_reported() {
    let keep = tempfile::tempdir().unwrap();
    let root = keep.path();
    fs::write(root.join("raw.bin"), EVIL).unwrap();
    // A pickle under a name that says something else.
    fs::write(root.join("notes.txt"), EVIL).unwrap();
    archive(
        &root.join("model.pth"),
        &[
            ("archive/data.pkl", EVIL),
            ("archive/data/0", b"\x80\x02raw numbers"),
            ("archive/x.py", b""),
        ],
    );
    fs::write(root.join("cut.pt"), b"PK\x03\x04 and then nothing").unwrap();
    let found = findings(root);
    let of = |path: &str| -> Vec<Rule> {
        found
            .iter()
            .filter(|f| f.path == path)
            .map(|f| f.rule)
            .collect()
    };
    assert_eq!(of("raw.bin"), [Rule::PickleFile, Rule::PickleImport]);
    assert_eq!(of("notes.txt"), [Rule::PickleFile, Rule::PickleImport]);
    assert_eq!(
        of("model.pth"),
        [Rule::PickleFile, Rule::PickleImport, Rule::CodeFile]
    );
    assert_eq!(of("cut.pt"), [Rule::PickleMalformed]);
    assert!(
        found.iter().any(|f| f.message.contains("`posix.system`")),
        "{found:?}"
    );
}

#[test]
fn code_is_found_by_name_and_by_content() {
    let keep = tempfile::tempdir().unwrap();
    let root = keep.path();
    fs::write(root.join("pipeline.py"), "import os").unwrap();
    fs::write(root.join("data"), b"\x7fELF\x02\x01").unwrap();
    fs::write(root.join("run"), "#!/bin/sh").unwrap();
    fs::write(root.join("more.zip"), b"PK\x03\x04").unwrap();
    fs::create_dir(root.join("transformer")).unwrap();
    fs::write(
        root.join("transformer/config.json"),
        r#"{"auto_map": {"AutoModel": "x.Y"}}"#,
    )
    .unwrap();
    fs::write(root.join("model_index.json"), "[1]").unwrap();
    let at = |rule, path: &str| (rule, path.to_owned());
    assert_eq!(
        rules(root),
        [
            at(Rule::CodeFile, "data"),
            at(Rule::CodeFile, "pipeline.py"),
            at(Rule::CodeFile, "run"),
            at(Rule::NestedArchive, "more.zip"),
            at(Rule::CustomCode, "transformer/config.json"),
            at(Rule::ConfigRefused, "model_index.json"),
        ]
    );
}

#[test]
fn indices_have_to_tell_the_truth() {
    let keep = tempfile::tempdir().unwrap();
    let root = keep.path();
    let tensor = |name: &str| Raw::f32(name, &[2], &[1.0, 2.0]);
    let first = "m-00001-of-00002.safetensors";
    let second = "m-00002-of-00002.safetensors";
    write_safetensors(&root.join(first), &[tensor("a"), tensor("b")], 0);
    write_safetensors(&root.join(second), &[tensor("c")], 0);
    // The same names in another set are a variant, not a duplicate.
    write_safetensors(&root.join("m.fp16.safetensors"), &[tensor("a")], 0);
    let index = |text: &str| {
        fs::write(
            root.join("m.safetensors.index.json"),
            text.replace("A1", first).replace("A2", second),
        )
        .unwrap();
        findings(root)
    };
    assert_eq!(
        index(r#"{"weight_map": {"a": "A1", "b": "A1", "c": "A2"}}"#),
        []
    );
    for (text, said) in [
        (
            r#"{"weight_map": {"a": "A1", "c": "A2"}}"#,
            "leaves 1 tensor",
        ),
        (
            r#"{"weight_map": {"a": "A1", "b": "A1", "c": "A1"}}"#,
            "holds `c`",
        ),
        (
            r#"{"weight_map": {"a": "A1", "b": "A1", "c": "gone.safetensors"}}"#,
            "missing",
        ),
        (
            r#"{"weight_map": {"a": "A1", "b": "A1", "c": "../x.safetensors"}}"#,
            "beside their index",
        ),
        (
            r#"{"weight_map": {"a": "A1", "b": "A1", "c": "/etc/passwd"}}"#,
            "beside their index",
        ),
        (r#"{"weight_map": {"a": 1}}"#, "not text"),
        (r#"{"weights": {}}"#, "no `weight_map`"),
        ("{", "bad JSON"),
    ] {
        let found = index(text);
        assert!(
            found
                .iter()
                .any(|f| f.rule == Rule::IndexMismatch && f.message.contains(said)),
            "{text}: {found:?}"
        );
    }
    write_safetensors(&root.join(second), &[tensor("c"), tensor("a")], 0);
    let found = index(r#"{"weight_map": {"a": "A1", "b": "A1", "c": "A2"}}"#);
    assert!(
        found
            .iter()
            .any(|f| f.rule == Rule::DuplicateTensor && f.path == second),
        "{found:?}"
    );
}
