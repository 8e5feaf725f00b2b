//! `audit scan`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::Value;

use crate::models::{Models, copy, disturb, files, settle};
use crate::{Done, audit, command, finished, rules};

fn scan(models: &Models, more: &[&str]) -> Done {
    let mut arguments = vec!["scan", "entrants", "--base", "base"];
    arguments.extend(more);
    audit(models.root(), &arguments)
}

fn json(models: &Models, more: &[&str]) -> Value {
    let mut arguments = vec!["--format", "json"];
    arguments.extend(more);
    scan(models, &arguments).json()
}

fn named<'a>(report: &'a Value, name: &str) -> &'a Value {
    let repositories = report["repositories"].as_array().unwrap();
    repositories
        .iter()
        .find(|repository| repository["name"] == format!("entrants/{name}"))
        .unwrap_or_else(|| panic!("no {name}"))
}

/// What a report says, without what was read for it.
fn said(mut report: Value) -> Value {
    report.as_object_mut().unwrap().remove("read");
    report
}

#[test]
fn copies_are_found_and_others_are_not() {
    let models = Models::new();
    copy(
        &models.path("entrants/alice/original"),
        &models.path("entrants/bob/copy"),
    );
    copy(&models.path("base"), &models.path("entrants/erin/base"));
    let done = scan(&models, &["--format", "json"]);
    let report = done.json();
    assert_eq!((done.code, &report["outcome"]), (1, &"found".into()));
    let only = |name: &str| {
        let rules = rules(named(&report, name));
        rules.into_iter().map(|(rule, _)| rule).collect::<Vec<_>>()
    };
    assert_eq!(only("alice/original"), ["CP001", "CP002"]);
    assert_eq!(only("bob/copy"), ["CP001"]);
    assert_eq!(only("carol/perturbed"), ["CP002"]);
    assert_eq!(only("dave/other"), [""; 0]);
    assert_eq!(only("erin/base"), ["CP005"]);
    let pairs: Vec<_> = report["pairs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| {
            let text = |name: &str| pair[name]["name"].as_str().unwrap().to_owned();
            (
                pair["verdict"].as_str().unwrap(),
                pair["how"].as_str().unwrap(),
                text("a"),
                text("b"),
            )
        })
        .collect();
    let path = |name: &str| format!("entrants/{name}");
    assert_eq!(
        pairs,
        [
            (
                "identical",
                "digests",
                path("alice/original"),
                path("bob/copy")
            ),
            (
                "perturbed",
                "values",
                path("alice/original"),
                path("carol/perturbed")
            ),
        ]
    );
    // What all of them share is read for a sketch once.
    let bytes = |folder: &str| -> u64 {
        let all = files(&models.path(folder)).into_iter();
        all.map(|path| path.metadata().unwrap().len()).sum()
    };
    let sketched = report["read"]["sketched_bytes"].as_u64().unwrap();
    assert!(
        sketched < bytes("base") + 3 * bytes("base/transformer"),
        "{sketched}"
    );

    let text = scan(&models, &[]);
    assert!(
        text.out.contains("perturbed      entrants/alice/original"),
        "{}",
        text.out
    );
    let lines = scan(&models, &["--format", "jsonl"]).lines();
    assert_eq!(
        lines
            .iter()
            .filter(|line| line["kind"] == "finding")
            .count(),
        5
    );
    let sarif = scan(&models, &["--format", "sarif"]).sarif();
    assert_eq!(sarif["runs"][0]["results"].as_array().unwrap().len(), 5);
    let page = scan(&models, &["--format", "html"]);
    assert_eq!(page.page().matches("<svg").count(), 2);
    // Nobody is accused by default of what only a base could show.
    let alone = audit(models.root(), &["scan", "entrants", "--format", "json"]).json();
    assert_eq!(alone["pairs"].as_array().unwrap().len(), 1);
}

#[test]
fn bad_repositories_are_findings() {
    let models = Models::new();
    let other = models.path("entrants/dave/other");
    fs::write(other.join("<img src=x onerror=alert(1)>.py"), "import os").unwrap();
    fs::write(other.join("\u{1b}[2J.txt"), "x").unwrap();
    symlink("/etc/hostname", other.join("out.json")).unwrap();
    // Protocol 0: os.system("true").
    fs::write(other.join("extra.pkl"), b"cposix\nsystem\n(S'true'\ntR.").unwrap();
    fs::create_dir_all(models.path("entrants/empty/nothing")).unwrap();
    fs::create_dir_all(models.path("entrants/lora")).unwrap();
    fs::write(
        models.path("entrants/lora/weights.safetensors"),
        b"truncated",
    )
    .unwrap();
    let done = scan(&models, &["--format", "json"]);
    let report = done.json();
    assert_eq!(done.code, 1, "{}", done.out);
    let found = |name: &str| -> Vec<String> {
        let mut all: Vec<_> = rules(named(&report, name))
            .into_iter()
            .map(|(rule, _)| rule)
            .collect();
        all.sort();
        all.dedup();
        all
    };
    assert_eq!(
        found("dave/other"),
        ["WS002", "WS003", "WS005", "WS010", "WS014", "WS019"]
    );
    assert_eq!(found("empty/nothing"), ["LM006"]);
    assert_eq!(found("lora"), ["WS009", "WS019"]);

    let text = scan(&models, &[]).out;
    assert!(!text.contains('\u{1b}'), "a name reaches the terminal");
    assert!(text.contains("critical WS003"), "{text}");
    let page = scan(&models, &["--format", "html"]);
    assert!(page.out.contains("&lt;img") && !page.out.contains("<img"));
    let sarif = scan(&models, &["--format", "sarif"]).sarif();
    assert!(sarif.to_string().contains("%3Cimg%20"), "{sarif}");

    // What is not there is said, and the rest is scanned.
    let done = audit(
        models.root(),
        &["scan", "entrants/alice", "missing", "--format", "json"],
    );
    let report = done.json();
    assert_eq!((done.code, &report["outcome"]), (2, &"incomplete".into()));
    assert_eq!(
        rules(&report["repositories"][1]),
        [("WS000".into(), String::new())]
    );
    assert!(report["repositories"][0]["model_hash"].is_string());
}

/// Bytes that a command and its children read, by the system's count.
#[cfg(target_os = "linux")]
fn bytes_read(models: &Models, more: &[&str]) -> (u64, Value) {
    let mut inner = command(
        models.root(),
        &["scan", "entrants", "--base", "base", "--format", "json"],
    );
    inner.args(more);
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", "\"$@\"; cat /proc/$$/io >&2", "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(models.root());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let done = finished(shell.output().unwrap());
    let read = done
        .error
        .lines()
        .find_map(|line| line.strip_prefix("rchar: "))
        .unwrap_or_else(|| panic!("{}", done.error));
    (read.trim().parse().unwrap(), done.json())
}

#[test]
#[cfg(target_os = "linux")]
fn only_what_changed_is_read_again() {
    let models = Models::new();
    settle();
    let size: u64 = ["base", "entrants"]
        .iter()
        .flat_map(|folder| files(&models.path(folder)))
        .map(|path| path.metadata().unwrap().len())
        .sum();
    let (first, report) = bytes_read(&models, &[]);
    assert!(first > size, "{first} of {size}");
    assert_eq!(report["read"]["known_repositories"], 0);
    let (second, again) = bytes_read(&models, &[]);
    assert_eq!(
        again["read"],
        serde_json::json!({
            "digested_bytes": 0, "sketched_bytes": 0, "compared_pairs": 0,
            "known_repositories": 4, "known_files": 0, "known_pairs": 1,
        })
    );
    // What is remembered is read, and nothing of the repositories: a weight file alone is larger.
    let cached: u64 = files(&models.path("cache"))
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert!(
        second < cached + size / 8,
        "{second} of {size}, cache {cached}"
    );
    assert_eq!(said(again), said(report.clone()));

    // One file of one repository changes: of the digests, it alone is made anew.
    let vae = models.path("entrants/dave/other/vae");
    disturb(&vae, 3, 0.01);
    settle();
    let changed = json(&models, &[]);
    let vae_size: u64 = files(&vae)
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    let read = &changed["read"];
    assert!(
        read["digested_bytes"].as_u64().unwrap() <= vae_size,
        "{read}"
    );
    assert!(
        read["sketched_bytes"].as_u64().unwrap() <= vae_size,
        "{read}"
    );
    assert_eq!(
        (&read["known_repositories"], &read["known_pairs"]),
        (&3.into(), &1.into())
    );
    let hash = |report: &Value| named(report, "dave/other")["model_hash"].clone();
    assert_ne!(hash(&changed), hash(&report));
    assert_eq!(said(changed), said(json(&models, &["--no-cache"])));
}

#[test]
fn a_damaged_cache_is_read_anew_and_two_auditors_share_one() {
    let models = Models::new();
    settle();
    let whole = said(json(&models, &["--no-cache"]));
    assert!(!models.path("cache").exists());
    let start = || {
        let arguments = ["scan", "entrants", "--base", "base", "--format", "json"];
        let mut command = command(models.root(), &arguments);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let both = [start(), start()];
    for child in both {
        let done = finished(child.wait_with_output().unwrap());
        assert_eq!(said(done.json()), whole);
    }
    let entries = files(&models.path("cache"));
    assert!(entries.len() > 10);
    for (index, entry) in entries.iter().enumerate() {
        damage(entry, index);
    }
    let report = json(&models, &[]);
    assert_eq!(report["read"]["known_repositories"], 0);
    assert_eq!(said(report), whole);
    let report = json(&models, &[]);
    assert_eq!(report["read"]["known_repositories"], 4);
    assert_eq!(said(report), whole);
    let open = models.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let done = scan(&models, &["--cache", "open"]);
    assert_eq!(done.code, 2);
    assert!(done.error.contains("--no-cache"), "{}", done.error);
}

fn damage(entry: &Path, how: usize) {
    let mut bytes = fs::read(entry).unwrap();
    match how % 3 {
        0 => bytes.truncate(bytes.len() / 2),
        1 => bytes.clear(),
        _ => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
    }
    fs::write(entry, bytes).unwrap();
}
