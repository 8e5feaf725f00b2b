//! `audit hash`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::models::{Models, files, sha256};
use crate::{audit, rules, schema};

#[test]
fn a_repository_in_every_form() {
    let models = Models::new();
    let hash = |more: &[&str]| {
        let mut arguments = vec!["hash", "base"];
        arguments.extend(more);
        audit(models.root(), &arguments)
    };
    let done = hash(&["--format", "json"]);
    let report = done.json();
    assert_eq!(done.code, 0, "{}", done.out);
    assert_eq!(
        (&report["kind"], &report["outcome"]),
        (&"hash".into(), &"clean".into())
    );
    assert_eq!(report["problems"], serde_json::json!([]));

    // By hand: every file, and the subnet's rule.
    let base = models.path("base");
    let mut weights = BTreeSet::new();
    for (path, listed) in files(&base).iter().zip(report["files"].as_array().unwrap()) {
        let bytes = fs::read(path).unwrap();
        let name = path.strip_prefix(&base).unwrap().to_str().unwrap();
        assert_eq!(listed["path"], name);
        assert_eq!(listed["size"], bytes.len());
        assert_eq!(listed["sha256"], sha256(&bytes), "{name}");
        if [".safetensors", ".bin", ".pt", ".pth", ".ckpt"]
            .iter()
            .any(|ending| name.ends_with(ending))
        {
            weights.insert(sha256(&bytes));
        }
    }
    let all: String = weights.into_iter().collect();
    assert_eq!(report["model_hash"], sha256(all.as_bytes()));
    assert!(report["tensors"].as_array().unwrap().len() > 50);

    let few = hash(&["--files-only", "--format", "json"]).json();
    assert!(few.get("tensors").is_none() && few["model_digest"].is_null());
    assert_eq!(few["files"], report["files"]);

    let text = hash(&[]).out;
    assert!(
        text.contains(report["model_hash"].as_str().unwrap()),
        "{text}"
    );
    assert!(
        text.ends_with("clean: nothing of severity high or above was found\n"),
        "{text}"
    );
    let lines = hash(&["--format", "jsonl"]).lines();
    let count = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!(
        [
            count("repository"),
            count("file"),
            count("tensor"),
            count("summary")
        ],
        [
            1,
            report["files"].as_array().unwrap().len(),
            report["tensors"].as_array().unwrap().len(),
            1
        ]
    );
    let sarif = hash(&["--format", "sarif", "--docs-url", "https://docs.example/x/"]).sarif();
    assert_eq!(
        sarif["runs"][0]["tool"]["driver"]["rules"][3]["helpUri"],
        "https://docs.example/x/docs/rules/WS003.md"
    );
    assert!(
        hash(&["--format", "html"])
            .page()
            .contains("Nothing was found.")
    );
}

#[test]
fn a_statement_for_the_model_signing_tools() {
    let models = Models::new();
    let base = models.path("base");
    fs::write(base.join(".gitattributes"), "x").unwrap();
    // Paths are ordered by folder: `a/x` before `a-b`.
    for name in ["a-b.txt", "a/x.txt"] {
        fs::create_dir_all(base.join(name).parent().unwrap()).unwrap();
        fs::write(base.join(name), name).unwrap();
    }
    let done = audit(
        models.root(),
        &["hash", "base", "--format", "in-toto", "--files-only"],
    );
    assert_eq!(done.code, 0, "{}", done.error);
    let statement: Value = serde_json::from_str(&done.out).unwrap();
    schema::check("audit-statement", &statement);
    let resources = statement["predicate"]["resources"].as_array().unwrap();
    let names: Vec<&str> = resources
        .iter()
        .map(|file| file["name"].as_str().unwrap())
        .collect();
    assert_eq!(names[..2], ["a/x.txt", "a-b.txt"]);
    assert!(!names.contains(&".gitattributes"));
    let mut root = Vec::new();
    for file in resources {
        let path = base.join(file["name"].as_str().unwrap());
        let digest = sha256(&fs::read(path).unwrap());
        assert_eq!(file["digest"], digest);
        for pair in digest.as_bytes().chunks(2) {
            root.push(u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
        }
    }
    assert_eq!(statement["subject"][0]["name"], "base");
    assert_eq!(statement["subject"][0]["digest"]["sha256"], sha256(&root));

    symlink("/etc/hostname", base.join("out.txt")).unwrap();
    let done = audit(models.root(), &["hash", "base", "--format", "in-toto"]);
    assert_eq!((done.code, done.out.as_str()), (2, ""));
    assert!(done.error.contains("no statement"), "{}", done.error);
    let done = audit(
        models.root(),
        &["compare", "base", "base", "--format", "in-toto"],
    );
    assert_eq!(done.code, 2);
}

#[test]
fn what_could_not_be_read_is_never_clean() {
    let models = Models::new();
    let hash = |more: &[&str]| {
        let mut arguments = vec!["hash", "base", "--files-only", "--format", "json"];
        arguments.extend(more);
        audit(models.root(), &arguments)
    };
    let base = models.path("base");
    symlink("/etc/hostname", base.join("vae/out.txt")).unwrap();
    let done = hash(&[]);
    let report = done.json();
    assert_eq!((done.code, &report["outcome"]), (1, &"found".into()));
    assert_eq!(rules(&report), [("WS010".into(), "vae/out.txt".into())]);
    assert!(
        report["model_hash"].is_null(),
        "a hash of part of the files"
    );

    // A link to nothing cannot be read, whoever asks; even where only worse counts, it is not clean.
    symlink("nowhere", base.join("broken")).unwrap();
    for more in [&[][..], &["--fail-on", "critical"]] {
        let done = hash(more);
        assert_eq!(
            (done.code, &done.json()["outcome"]),
            (2, &"incomplete".into())
        );
    }
    for arguments in [
        &["hash", "missing"][..],
        &["hash", "user/name", "--metadata-only"],
        &["hash", "base", "--metadata-only"],
        &["hash", "base", "--format", "xml"],
        &["hash"],
    ] {
        let done = audit(models.root(), arguments);
        assert_eq!(done.code, 2, "{arguments:?}: {}", done.error);
        assert!(
            done.error.contains("error:") && done.out.is_empty(),
            "{}",
            done.error
        );
    }
}

#[test]
fn severity_decides_what_counts() {
    let models = Models::new();
    fs::write(models.path("base/.env"), "KEY=1").unwrap();
    let code = |more: &[&str]| {
        let mut arguments = vec!["hash", "base", "--files-only"];
        arguments.extend(more);
        audit(models.root(), &arguments).code
    };
    assert_eq!(code(&[]), 0);
    assert_eq!(code(&["--fail-on", "low"]), 1);
    assert_eq!(code(&["--fail-on", "medium"]), 0);
    let done = audit(
        models.root(),
        &["hash", "base", "--files-only", "-o", "report.txt"],
    );
    assert_eq!((done.code, done.out.as_str()), (0, ""));
    let text = fs::read_to_string(models.path("report.txt")).unwrap();
    assert!(
        text.contains("low WS008 hidden-file .env") && text.contains("1 finding below that"),
        "{text}"
    );
}
