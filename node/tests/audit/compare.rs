//! `audit compare`.

use std::os::unix::fs::symlink;

use crate::models::{Models, copy, disturb};
use crate::{Done, audit};

fn compare(models: &Models, a: &str, b: &str, more: &[&str]) -> Done {
    let mut arguments = vec!["compare", a, b];
    arguments.extend(more);
    audit(models.root(), &arguments)
}

const ORIGINAL: &str = "entrants/alice/original";
const PERTURBED: &str = "entrants/carol/perturbed";
const OTHER: &str = "entrants/dave/other";
const BASE: [&str; 2] = ["--base", "base"];

#[test]
fn verdicts_and_exit_codes() {
    let models = Models::new();
    copy(&models.path(ORIGINAL), &models.path("copy"));
    // The text encoder is not what is trained.
    disturb(&models.path("copy/text_encoder"), 5, 0.001);
    for (b, verdict, code) in [
        (ORIGINAL, "identical", 1),
        ("copy", "perturbed", 1),
        (PERTURBED, "perturbed", 1),
        (OTHER, "same_base_only", 0),
        ("base", "same_base_only", 0),
    ] {
        let mut more = BASE.to_vec();
        more.extend(["--format", "json"]);
        let done = compare(&models, ORIGINAL, b, &more);
        let report = done.json();
        assert_eq!(
            (&report["verdict"], done.code),
            (&verdict.into(), code),
            "{b}: {}",
            report["statement"]
        );
        assert_eq!(report["a"]["name"], ORIGINAL);
        assert_eq!(report["evidence"]["problems"], serde_json::json!([]));
    }
    // Without the base nothing is said about models that are not equal; whoever wants that counted says so.
    let done = compare(&models, ORIGINAL, PERTURBED, &["--format", "json"]);
    assert_eq!(
        (&done.json()["verdict"], done.code),
        (&"inconclusive".into(), 0)
    );
    let done = compare(&models, ORIGINAL, PERTURBED, &["--fail-on", "medium"]);
    assert_eq!(done.code, 1, "{}", done.out);
    symlink("/etc/hostname", models.path("copy/out.txt")).unwrap();
    let done = compare(&models, ORIGINAL, "copy", &BASE);
    assert_eq!(done.code, 2);
    assert!(
        done.error.contains("not compared: out.txt"),
        "{}",
        done.error
    );
    assert_eq!(compare(&models, ORIGINAL, "missing", &BASE).code, 2);
}

#[test]
fn a_verdict_that_clears_needs_everything_read() {
    let models = Models::new();
    let header = models.path(OTHER).join("text_encoder");
    let file = crate::models::files(&header)
        .into_iter()
        .find(|path| {
            path.extension()
                .is_some_and(|ending| ending == "safetensors")
        })
        .unwrap();
    std::fs::write(file, b"no header at all").unwrap();
    let mut more = BASE.to_vec();
    more.extend(["--format", "json"]);
    let done = compare(&models, ORIGINAL, OTHER, &more);
    let report = done.json();
    assert_eq!(
        (&report["outcome"], done.code),
        (&"incomplete".into(), 2),
        "{}",
        report["statement"]
    );
}

#[test]
fn every_form() {
    let models = Models::new();
    let form = |form: &str| {
        compare(
            &models,
            ORIGINAL,
            PERTURBED,
            &["--base", "base", "--format", form],
        )
    };
    let text = form("text").out;
    for part in [
        "perturbed\n",
        "consistent with one model being the other with small changes",
        "found: 1 finding of severity high or above",
        "What this does not prove:",
        "The order in time comes from the chain and from the Hub.",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let lines = form("jsonl").lines();
    let kinds: Vec<_> = lines
        .iter()
        .map(|line| line["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["pair", "finding", "summary"]);
    let sarif = form("sarif").sarif();
    assert_eq!(sarif["runs"][0]["results"][0]["ruleId"], "CP002");
    let page = form("html");
    let page = page.page();
    assert_eq!(page.matches("<svg").count(), 2);
    assert!(page.contains("Every layer beside every layer"), "{page}");
}
