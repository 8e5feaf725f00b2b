//! Reports of models that nobody has: what the forms say, and what they escape.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::audit::compare::{Evidence, Thresholds};

fn source(name: &str) -> Source {
    Source {
        name: name.into(),
        commit: Some("0".repeat(40)),
        path: Some("/models/x y".into()),
    }
}

fn repository(findings: Vec<Finding>) -> Repository {
    Repository {
        source: source("user/<leoma>"),
        files: vec![File {
            path: "a\"b'<c>&d\u{202e}".into(),
            size: 1_500_000,
            sha256: None,
        }],
        findings,
        ..Repository::default()
    }
}

fn pair(verdict: Verdict, problems: Vec<String>) -> Pair {
    let weight = |layer: usize, cosine: Option<f64>| -> TensorComparison {
        serde_json::from_value(serde_json::json!({
            "component": "transformer", "name": format!("blocks.{layer}.attn1.to_q.weight"), "shape": [8, 8],
            "equal": false, "same_type": true, "moved_a": 0.01, "moved_b": 0.02, "cosine": cosine,
            "coefficient": cosine, "relative_l2": 0.1, "undone_a": null, "undone_b": null,
        }))
        .unwrap()
    };
    let comparison = Comparison {
        verdict,
        statement: "Because of <this>.".into(),
        evidence: Evidence {
            tensors: 3,
            cosine: Some(0.5),
            problems,
            ..Evidence::default()
        },
        thresholds: Thresholds::default(),
        per_tensor: vec![
            weight(10, Some(1.0)),
            weight(2, Some(-0.5)),
            weight(3, None),
        ],
    };
    Pair::of(source("a"), source("b"), Some(source("c")), comparison)
}

fn hash(findings: Vec<Finding>) -> Report {
    Report::new(Body::Hash(Box::new(repository(findings))), Severity::High)
}

fn compared(pair: Pair) -> Report {
    Report::new(Body::Compare(Box::new(pair)), Severity::High)
}

/// Figures of the documentation, which come from a run of the labelled set.
#[test]
fn the_error_rate_is_the_documented_one() {
    let rate = Thresholds::default().error_rate().unwrap();
    assert_eq!((rate.missed, rate.accused), (0, 0), "the sentence below");
    let sentence = format!(
        "On the third part {} of {} copies were found and nobody of {} others was accused",
        rate.copies, rate.copies, rate.others
    );
    assert!(include_str!("../../../../docs/audit.md").contains(&sentence));
    let others = Thresholds {
        perturbed: 0.9,
        ..Thresholds::default()
    };
    assert_eq!(others.error_rate(), None);
}

#[test]
fn outcomes() {
    let finding = |rule| Finding::new(rule, "x", "y");
    let outcome =
        |findings: &[Rule]| hash(findings.iter().map(|rule| finding(*rule)).collect()).outcome;
    assert_eq!(outcome(&[]), Outcome::Clean);
    assert_eq!(
        outcome(&[Rule::HiddenFile, Rule::PickleFile]),
        Outcome::Clean
    );
    assert_eq!(outcome(&[Rule::HiddenFile, Rule::CodeFile]), Outcome::Found);
    assert_eq!(
        outcome(&[Rule::CouldNotRead, Rule::LinkOutside]),
        Outcome::Incomplete
    );
    assert_eq!(outcome(&[Rule::TooManyFiles]), Outcome::Incomplete);
    let unread = || vec!["vae: no header".to_owned()];
    for (verdict, problems, outcome) in [
        (Verdict::Perturbed, Vec::new(), Outcome::Found),
        (Verdict::Perturbed, unread(), Outcome::Found),
        (Verdict::SameBaseOnly, Vec::new(), Outcome::Clean),
        (Verdict::SameBaseOnly, unread(), Outcome::Incomplete),
        (Verdict::Inconclusive, Vec::new(), Outcome::Clean),
        (Verdict::Inconclusive, unread(), Outcome::Incomplete),
    ] {
        assert_eq!(
            compared(pair(verdict, problems)).outcome,
            outcome,
            "{verdict}"
        );
    }
    let codes = [Outcome::Clean, Outcome::Found, Outcome::Incomplete].map(Outcome::exit_code);
    assert_eq!(codes, [0, 1, 2]);
}

#[test]
fn the_page_escapes_what_comes_from_a_repository() {
    let finding = Finding::new(Rule::CodeFile, "<script>.py", "<script>alert(1)</script>");
    let page = hash(vec![finding]).render(Form::Html).unwrap();
    assert!(!page.contains("<script") && !page.contains("<leoma>") && !page.contains('\u{202e}'));
    assert!(
        page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"),
        "{page}"
    );
    assert!(
        page.contains("a&quot;b&#39;&lt;c&gt;&amp;d\u{fffd}"),
        "{page}"
    );
}

#[test]
fn the_picture_has_layers_in_order_and_a_field_for_each() {
    let page = compared(pair(Verdict::Perturbed, Vec::new()))
        .render(Form::Html)
        .unwrap();
    let rows = ["transformer 2", "transformer 3", "transformer 10"];
    let places: Vec<_> = rows
        .iter()
        .map(|row| page.find(&format!(">{row}</text>")).unwrap())
        .collect();
    assert!(places.is_sorted(), "{places:?}");
    let fields = ["same", "against", "none"]
        .map(|class| page.matches(&format!("<rect class=\"{class}\"")).count());
    assert_eq!(fields, [1, 1, 1]);
    assert!(page.contains("transformer 2, attn1.to_q: -0.500"), "{page}");
}

#[test]
fn sarif_has_a_place_for_every_finding() {
    let findings = vec![
        Finding::new(Rule::CodeFile, "a b/ü.py", "code"),
        Finding::new(Rule::NoWeights, "", "nothing"),
    ];
    let text = hash(findings).render(Form::Sarif).unwrap();
    let log: serde_json::Value = serde_json::from_str(&text).unwrap();
    let run = &log["runs"][0];
    let location = |result: usize| &run["results"][result]["locations"][0];
    assert_eq!(
        location(0)["physicalLocation"]["artifactLocation"],
        serde_json::json!({"uri": "a%20b/%C3%BC.py", "uriBaseId": "REPOSITORY0"})
    );
    assert_eq!(
        run["originalUriBaseIds"]["REPOSITORY0"]["uri"],
        "file:///models/x%20y/"
    );
    assert!(location(1)["physicalLocation"].is_null());
    assert_eq!(run["results"][1]["level"], "error");
    assert_eq!(
        run["tool"]["driver"]["rules"].as_array().unwrap().len(),
        Rule::ALL.len()
    );
    assert!(run["tool"]["driver"]["rules"][0].get("helpUri").is_none());
}

#[test]
fn many_findings_of_a_rule_are_counted_in_text_and_listed_elsewhere() {
    let findings: Vec<_> = (0..30)
        .map(|i| Finding::new(Rule::HiddenFile, format!(".{i:02}"), "hidden"))
        .collect();
    let report = hash(findings);
    let text = report.render(Form::Text).unwrap();
    assert_eq!(text.matches("low WS008").count(), 21, "{text}");
    assert!(text.contains("low WS008 hidden-file: 10 more"), "{text}");
    assert!(
        text.contains("clean: nothing of severity high or above was found, 30 findings below that")
    );
    let lines = report.render(Form::Jsonl).unwrap();
    assert_eq!(lines.matches("\"kind\":\"finding\"").count(), 30);
}
