//! The date of a commit, as `audit registry` asks for it, keeps it and gives it away.

use leoma_models::tiny::make_tiny;
use leoma_models::weights::ModelKind;
use leoma_node::audit::tree::Tree;
use serde_json::Value;

use crate::commands::{leoma, run};
use crate::server::{Act, At, Content, Hub, large, small};
use crate::*;

const DATE: &str = "2026-05-01T12:00:00.000Z";

/// A repository with a checkpoint, and nothing else.
fn tiny(hub: &Hub, seed: u64, commit: &str) {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("tiny");
    make_tiny(ModelKind::Ti2v5b, seed, &folder).unwrap();
    let tree = Tree::open(&folder).unwrap();
    let files: Vec<(&str, Content)> = tree
        .files
        .iter()
        .map(|file| {
            let bytes = fs::read(&file.target).unwrap();
            let content = if file.path.ends_with(".safetensors") {
                large(bytes)
            } else {
                small(bytes)
            };
            (file.path.as_str(), content)
        })
        .collect();
    hub.commit(REPO, "main", commit, &files);
}

#[test]
fn the_date_comes_from_the_hub_and_goes_where_the_model_goes() {
    let hub = Hub::start();
    tiny(&hub, 1, FIRST);
    hub.date(REPO, FIRST, "2026-05-01T12:00:00Z");
    let cache = tempfile::tempdir().unwrap();
    let registry = |arguments: &[&str], file: &str| {
        let mut all = vec!["audit", "registry"];
        all.extend(arguments);
        all.extend(["--registry", file]);
        run(&mut leoma(&hub, cache.path(), &all))
    };
    let pinned = format!("{REPO}@{FIRST}");
    let add = ["add", pinned.as_str(), "--block", "12", "--no-progress"];
    let (code, _, error) = registry(&add, "known.sqlite");
    assert_eq!(code, 0, "{error}");
    assert!(!error.contains("warning"), "{error}");
    let asked = hub.asked();
    let dates: Vec<_> = asked.iter().filter(|one| one.at == At::Commits).collect();
    assert!(dates.len() == 1 && dates[0].what == REPO, "{dates:?}");

    let (_, out, _) = registry(&["list"], "known.sqlite");
    assert!(out.starts_with("       12  2026-05-01  "), "{out}");
    let (_, out, _) = registry(&["list", "--format", "json"], "known.sqlite");
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(list["models"][0]["committed_at"], DATE);
    let (code, out, _) = registry(&["check"], "known.sqlite");
    assert_eq!(
        (code, out.as_str()),
        (0, "1 models, as they were written\n")
    );

    // Another auditor, another copy of the model: since when the first one is there, by whose word.
    assert_eq!(registry(&["export", "list.jsonl"], "known.sqlite").0, 0);
    let (code, _, error) = registry(&["import", "list.jsonl"], "other.sqlite");
    assert_eq!(code, 0, "{error}");
    make_tiny(ModelKind::Ti2v5b, 1, &cache.path().join("copy")).unwrap();
    let arguments = [
        "audit",
        "scan",
        "copy",
        "--registry",
        "other.sqlite",
        "--no-cache",
    ];
    let (code, out, error) = run(&mut leoma(&hub, cache.path(), &arguments));
    assert_eq!(code, 1, "{error}");
    for part in [
        format!("committed in block 12, dated {DATE} by git (as an imported list says)"),
        "the date of a commit is git's, and whoever pushes can set it".to_owned(),
    ] {
        assert!(out.contains(&part), "{part}: {out}");
    }
}

#[test]
fn a_date_that_is_not_to_be_had_is_said_and_can_be_added() {
    let hub = Hub::start();
    tiny(&hub, 1, FIRST);
    let cache = tempfile::tempdir().unwrap();
    let pinned = format!("{REPO}@{FIRST}");
    let add = |more: &[&str], env: &[(&str, &str)]| {
        let file = ["--registry", "known.sqlite", "--no-progress"];
        let mut all = vec!["audit", "registry", "add", pinned.as_str()];
        all.extend(file.iter().chain(more));
        run(leoma(&hub, cache.path(), &all).envs(env.iter().copied()))
    };
    let date = || {
        let list = ["audit", "registry", "list", "--format", "json"];
        let mut all = list.to_vec();
        all.extend(["--registry", "known.sqlite"]);
        let (_, out, _) = run(&mut leoma(&hub, cache.path(), &all));
        let list: Value = serde_json::from_str(&out).unwrap();
        list["models"][0]["committed_at"].clone()
    };
    // No list, no date, no answer.
    let (code, _, error) = add(&[], &[]);
    assert_eq!(code, 0, "{error}");
    assert!(
        error.contains("warning: registered without the date of its commit")
            && error.contains("no commits"),
        "{error}"
    );
    hub.date(REPO, FIRST, "last week");
    let (code, _, error) = add(&[], &[]);
    assert!(code == 0 && error.contains("last week"), "{error}");
    hub.script(|asked| match asked.at {
        At::Commits => Act::Status(404, vec![("x-error-code", "RevisionNotFound".into())]),
        _ => Act::Right,
    });
    let (code, _, error) = add(&[], &[]);
    assert!(code == 0 && error.contains("warning"), "{error}");
    hub.script(|_| Act::Right);
    hub.date(REPO, FIRST, "2026-05-01T12:00:00Z");
    hub.asked();
    // Nobody is asked when nobody is to be asked.
    let (code, _, error) = add(&[], &[("HF_HUB_OFFLINE", "1")]);
    assert!(code == 0 && error.contains("HF_HUB_OFFLINE"), "{error}");
    assert!(hub.asked().is_empty());
    assert_eq!(date(), Value::Null);

    let (code, _, error) = add(&["--committed-at", "yesterday"], &[]);
    assert!(code == 2 && error.contains("committed-at"), "{error}");
    let (code, _, error) = add(&[], &[]);
    assert!(code == 0 && !error.contains("warning"), "{error}");
    assert_eq!(date(), DATE);
    // What the registry knows is not written over.
    let (code, _, error) = add(&["--committed-at", "2026-04-01T12:00:00Z"], &[]);
    assert!(
        code == 2 && error.contains("another committed_at"),
        "{error}"
    );
    assert_eq!(date(), DATE);
}
