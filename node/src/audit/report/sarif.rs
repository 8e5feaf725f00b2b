//! A report as SARIF 2.1.0, for services that show findings beside files.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Outcome, Report, Source};
use crate::audit::finding::{Finding, Rule, Severity};
use crate::audit::model_hash::hex;

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

pub(super) fn render(report: &Report) -> String {
    // A folder of its own for every repository: paths are relative to it.
    let mut bases: BTreeMap<(String, Option<String>), (String, Source)> = BTreeMap::new();
    let mut results = Vec::new();
    for (source, finding) in report.findings() {
        let number = bases.len();
        let (base, _) = bases
            .entry((source.to_string(), source.path.clone()))
            .or_insert_with(|| (format!("REPOSITORY{number}"), source.clone()));
        results.push(result(&source, &finding, base));
    }
    let places: BTreeMap<&str, Value> = bases
        .values()
        .filter_map(|(base, source)| {
            let path = std::path::absolute(source.path.as_ref()?).ok()?;
            // One file is described by the folder that it is in.
            let folder = if path.is_file() {
                path.parent()?
            } else {
                &path
            };
            let uri = format!("file://{}/", escaped(&folder.to_string_lossy()));
            Some((base.as_str(), json!({ "uri": uri })))
        })
        .collect();
    let log = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": report.tool.name,
                "semanticVersion": report.tool.version,
                "rules": rules(report.docs_url.as_deref()),
            } },
            "invocations": [{
                "executionSuccessful": report.outcome != Outcome::Incomplete,
                "exitCode": report.outcome.exit_code(),
                "exitCodeDescription": super::text::conclusion(report),
            }],
            "originalUriBaseIds": places,
            "columnKind": "utf16CodeUnits",
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Info | Severity::Low => "note",
        Severity::Medium => "warning",
        Severity::High | Severity::Critical => "error",
    }
}

/// What code scanning sorts by, from 0 to 10.
fn score(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "0.0",
        Severity::Low => "2.0",
        Severity::Medium => "5.0",
        Severity::High => "8.0",
        Severity::Critical => "9.5",
    }
}

fn rules(docs_url: Option<&str>) -> Vec<Value> {
    let described = |rule: &Rule| {
        let mut described = describe(*rule);
        // An absolute address or none: SARIF has no other.
        if let Some(url) = docs_url {
            described["helpUri"] = format!("{}/{}", url.trim_end_matches('/'), rule.page()).into();
        }
        described
    };
    Rule::ALL.iter().map(described).collect()
}

fn describe(rule: Rule) -> Value {
    let page = rule.page();
    json!({
        "id": rule.id(),
        "name": rule.name(),
        "shortDescription": { "text": rule.summary() },
        "fullDescription": { "text": rule.summary() },
        "help": {
            "text": format!("{} {page} of the leoma-node sources says why it matters and what to do.", rule.summary()),
            "markdown": format!("{} [{page}]({page}) says why it matters and what to do.", rule.summary()),
        },
        "defaultConfiguration": { "level": level(rule.severity()) },
        "properties": {
            "security-severity": score(rule.severity()),
            "severity": rule.severity(),
            "page": page,
            "tags": [tag(rule)],
        },
    })
}

/// What a group of rules is about.
fn tag(rule: Rule) -> &'static str {
    match rule.id().get(..2) {
        Some("WS") => "weights",
        Some("LM") => "submission",
        Some("AL") => "architecture",
        _ => "likeness",
    }
}

fn result(source: &Source, finding: &Finding, base: &str) -> Value {
    let name = source.to_string();
    let mut location = json!({
        "logicalLocations": [{ "name": name, "fullyQualifiedName": name, "kind": "resource" }],
    });
    if !finding.path.is_empty() {
        let mut place = json!({ "uri": escaped(&finding.path) });
        if source.path.is_some() {
            place["uriBaseId"] = base.into();
        }
        location["physicalLocation"] = json!({ "artifactLocation": place });
    }
    // The same finding has the same fingerprint in the next report.
    let mut print = Sha256::new();
    for part in [
        &source.name,
        finding.rule.id(),
        &finding.path,
        &finding.message,
    ] {
        print.update(part.as_bytes());
        print.update([0]);
    }
    json!({
        "ruleId": finding.rule.id(),
        "ruleIndex": Rule::ALL.iter().position(|rule| *rule == finding.rule),
        "level": level(finding.severity),
        "message": { "text": format!("{name}: {}", finding.message) },
        "locations": [location],
        "partialFingerprints": { "leomaFinding/v1": hex(&print.finalize()) },
        "properties": { "severity": finding.severity },
    })
}

/// A path as part of a URI.
fn escaped(path: &str) -> String {
    use std::fmt::Write as _;
    path.bytes()
        .fold(String::with_capacity(path.len()), |mut text, byte| {
            let plain = byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
            // Writing into a text cannot fail.
            let _ = if plain {
                write!(text, "{}", char::from(byte))
            } else {
                write!(text, "%{byte:02X}")
            };
            text
        })
}
