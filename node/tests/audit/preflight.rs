//! `audit preflight` and `audit registry` as a miner and an auditor use them.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::models::{Models, copy};
use super::{audit, schema};

const HOTKEY: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Holds the output against a file beside this one; `LEOMA_UPDATE_DOCS=1` writes it anew.
fn snapshot(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/audit/snapshots")
        .join(name);
    if std::env::var_os("LEOMA_UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, found).unwrap();
    }
    let known = fs::read_to_string(&path).unwrap();
    assert!(
        found == known,
        "{name} has changed; LEOMA_UPDATE_DOCS=1 writes it anew. Found:\n{found}"
    );
}

fn preflight(models: &Models, source: &str, repo: &str, more: &[&str]) -> super::Done {
    let mut arguments = vec![
        "preflight",
        source,
        "--hotkey",
        HOTKEY,
        "--repo-id",
        repo,
        "--revision",
        COMMIT,
        "--registry",
        "known.sqlite",
    ];
    arguments.extend(more);
    audit(models.root(), &arguments)
}

fn add(models: &Models, arguments: &[&str]) {
    let mut all = vec![
        "registry",
        "add",
        "--registry",
        "known.sqlite",
        "--no-progress",
    ];
    all.extend(arguments);
    let done = audit(models.root(), &all);
    assert_eq!(done.code, 0, "{}", done.error);
}

#[test]
fn a_miner_is_told_what_to_mend() {
    let models = Models::new();
    let repo = format!("dave/leoma-waves-{HOTKEY}");
    add(&models, &["base", "--as-base"]);
    add(
        &models,
        &[
            "entrants/alice/original",
            "--name",
            "alice/leoma-first",
            "--revision",
            COMMIT,
            "--block",
            "4200000",
        ],
    );

    // A training of one's own, rightly named. The tiny model is smaller than the subnet takes: nothing else is wrong.
    let own = preflight(&models, "entrants/dave/other", &repo, &["--base", "base"]);
    assert_eq!(own.code, 1, "{}", own.error);
    snapshot("preflight-own.txt", &own.out);
    let own = preflight(
        &models,
        "entrants/dave/other",
        &repo,
        &["--base", "base", "--format", "json"],
    )
    .json();
    assert_eq!(state(&own, "copies"), "good");
    assert_eq!(own["relatives"], Value::Array(Vec::new()));

    // Somebody else's with noise, under a name that is not right, with code beside it.
    let folder = models.path("entrants/carol/perturbed");
    fs::write(folder.join("run.py"), "print('hello')\n").unwrap();
    let more = ["--base", "base", "--against", "entrants/alice/original"];
    let copied = preflight(
        &models,
        "entrants/carol/perturbed",
        "carol/fast-model",
        &more,
    );
    assert_eq!(copied.code, 1, "{}", copied.error);
    snapshot("preflight-copied.txt", &copied.out);
    let mut more = more.to_vec();
    more.extend(["--format", "json"]);
    let copied = preflight(
        &models,
        "entrants/carol/perturbed",
        "carol/fast-model",
        &more,
    );
    snapshot("preflight-copied.json", &without_weights(copied.json()));
    let copied = copied.json();
    for (name, expected) in [
        ("loads", "good"),
        ("submission", "fix"),
        ("contents", "fix"),
        ("copies", "fix"),
        ("memory", "good"),
    ] {
        assert_eq!(state(&copied, name), expected, "{name}");
    }
    assert_eq!(copied["pairs"][0]["verdict"], "perturbed");
    assert_eq!(copied["relatives"][0]["entry"]["block"], 4_200_000);
    let page = preflight(
        &models,
        "entrants/carol/perturbed",
        "carol/fast-model",
        &["--base", "base", "--format", "html"],
    );
    assert!(page.page().contains("<h2>Is it somebody else's?</h2>"));
}

#[test]
fn an_equal_model_is_named_without_a_base_and_a_broken_one_is_not_called_ready() {
    let models = Models::new();
    add(
        &models,
        &[
            "entrants/alice/original",
            "--name",
            "alice/leoma-first",
            "--block",
            "7",
        ],
    );
    copy(
        &models.path("entrants/alice/original"),
        &models.path("mine"),
    );
    let repo = format!("me/leoma-{HOTKEY}");
    let found = preflight(&models, "mine", &repo, &["--format", "json"]).json();
    assert_eq!(found["relatives"][0]["reason"]["kind"], "same_model_hash");
    let findings = &found["checks"][4]["findings"];
    assert_eq!(findings[0]["rule"], "LM005", "{findings}");

    fs::write(models.path("mine/vae/config.json"), "{").unwrap();
    let broken = preflight(&models, "mine", &repo, &["--format", "json"]);
    let report = broken.json();
    assert_eq!(state(&report, "loads"), "fix");
    assert_eq!(report["ready"], false);
    assert_ne!(broken.code, 0);
    let gone = preflight(&models, "nowhere", &repo, &[]);
    assert_eq!(gone.code, 2, "{}", gone.out);
}

#[test]
fn the_registry_is_listed_given_away_and_taken_over() {
    let models = Models::new();
    add(&models, &["base", "--as-base"]);
    add(
        &models,
        &[
            "entrants/alice/original",
            "--name",
            "alice/leoma",
            "--hotkey",
            HOTKEY,
        ],
    );
    // What is learned later.
    add(
        &models,
        &[
            "entrants/alice/original",
            "--name",
            "alice/leoma",
            "--block",
            "12",
        ],
    );
    let registry = |arguments: &[&str], file: &str| {
        let mut all = vec!["registry"];
        all.extend(arguments);
        all.extend(["--registry", file]);
        audit(models.root(), &all)
    };
    let listed = registry(&["list"], "known.sqlite");
    assert_eq!(listed.out.lines().count(), 2, "{}", listed.out);
    assert!(
        listed
            .out
            .lines()
            .next()
            .unwrap()
            .trim_start()
            .starts_with("12 "),
        "{}",
        listed.out
    );
    let list: Value =
        serde_json::from_str(&registry(&["list", "--format", "json"], "known.sqlite").out).unwrap();
    schema::check("audit-registry", &list);
    assert_eq!(list["models"][0]["hotkey"], HOTKEY);

    assert_eq!(registry(&["export", "list.jsonl"], "known.sqlite").code, 0);
    let lines = fs::read_to_string(models.path("list.jsonl")).unwrap();
    for line in lines.lines() {
        schema::check("audit-registry-line", &serde_json::from_str(line).unwrap());
    }
    let imported = registry(&["import", "list.jsonl"], "other.sqlite");
    assert_eq!(
        (imported.code, imported.error.as_str()),
        (0, "2 models added, 0 were known\n")
    );
    let listed = registry(&["list"], "other.sqlite");
    assert!(listed.out.contains("imported"), "{}", listed.out);

    // Nothing else is there.
    let near = registry(&["near", "alice/leoma"], "known.sqlite");
    assert_eq!(
        near.out, "nothing like it is registered\n",
        "{}",
        near.error
    );
    add(
        &models,
        &["entrants/carol/perturbed", "--name", "carol/leoma"],
    );
    let near = registry(&["near", "alice/leoma", "--base", "base"], "known.sqlite");
    assert!(
        near.out.starts_with("carol/leoma: cosine"),
        "{}{}",
        near.out,
        near.error
    );
    assert_eq!(
        registry(&["near", "alice/leoma", "--base", "no"], "known.sqlite").code,
        2
    );

    // A scan finds what is registered by its sketch alone.
    let scanned = audit(
        models.root(),
        &[
            "scan",
            "entrants/carol",
            "--base",
            "base",
            "--registry",
            "other.sqlite",
            "--format",
            "json",
        ],
    );
    let findings = scanned.json()["repositories"][0]["findings"].to_string();
    assert!(
        findings.contains("CP004") && findings.contains("alice/leoma"),
        "{findings}"
    );

    assert_eq!(registry(&["remove", "alice/leoma"], "known.sqlite").code, 0);
    let again = registry(&["remove", "alice/leoma"], "known.sqlite");
    assert_eq!(again.code, 2);
    assert!(again.error.contains("is not registered"), "{}", again.error);
    for (arguments, says) in [
        (vec!["add", "base", "--hotkey", "no"], "hotkey"),
        (vec!["add", "base", "--revision", "main"], "revision"),
        (vec!["import", "base/model_index.json"], "line 1"),
    ] {
        let done = registry(&arguments, "known.sqlite");
        assert_eq!(done.code, 2, "{arguments:?}");
        assert!(done.error.contains(says), "{}", done.error);
    }
}

fn state<'a>(report: &'a Value, name: &str) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name).unwrap();
    check["state"].as_str().unwrap()
}

/// The report without its longest lists.
fn without_weights(mut report: Value) -> String {
    for pair in report["pairs"].as_array_mut().unwrap() {
        for long in ["per_tensor", "layers", "evidence"] {
            pair.as_object_mut().unwrap().remove(long);
        }
    }
    // The time of the entry is that of the test.
    for relative in report["relatives"].as_array_mut().unwrap() {
        relative["entry"]["added_at"] = "2026-01-01T00:00:00.000Z".into();
        // Sums over threads.
        relative["reason"]["cosine"] = rounded(&relative["reason"]["cosine"]);
    }
    serde_json::to_string_pretty(&report).unwrap() + "\n"
}

fn rounded(value: &Value) -> Value {
    value
        .as_f64()
        .map_or(Value::Null, |x| (x * 1000.0).round().into())
}
