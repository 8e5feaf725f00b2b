//! A report for people at a terminal.

use std::fmt::Write as _;

use super::words::{sentences, size};
use super::{Basis, Body, LIMITS, Outcome, Pair, Report, Repository, Scan, Source};
use crate::audit::finding::Finding;
use crate::audit::preflight;
use crate::report::words::{count, plain};

/// Most findings of one rule that are listed for a repository; the rest is counted.
const LISTED: usize = 20;

/// Writing into a text cannot fail.
macro_rules! line {
    ($text:expr, $($words:tt)*) => { { let _ = writeln!($text, $($words)*); } };
}

pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    match &report.body {
        Body::Hash(repository) => hash(&mut text, repository),
        Body::Compare(one) => pair(&mut text, one),
        Body::Scan(many) => scan(&mut text, many),
        // Its conclusion comes first.
        Body::Preflight(page) => return preflight::render(page),
    }
    line!(text, "{}", conclusion(report));
    let mut findings = report.findings();
    let is_accusing = findings.any(|(_, finding)| finding.rule.id().starts_with("CP"));
    if !report.pairs().is_empty() || is_accusing {
        line!(text, "\nWhat this does not prove:");
        for limit in LIMITS {
            line!(text, "- {limit}");
        }
    }
    text
}

/// The outcome in a sentence.
pub(super) fn conclusion(report: &Report) -> String {
    if let Body::Preflight(page) = &report.body {
        return preflight::conclusion(page);
    }
    let all: Vec<_> = report.findings().collect();
    let counting = all
        .iter()
        .filter(|(_, finding)| finding.severity >= report.fail_on)
        .count();
    let below = all.len() - counting;
    let below = if below > 0 {
        format!(", {} below that", count(below, "finding"))
    } else {
        String::new()
    };
    match report.outcome {
        Outcome::Clean => format!(
            "clean: nothing of severity {} or above was found{below}",
            report.fail_on
        ),
        Outcome::Found => format!(
            "found: {} of severity {} or above{below}",
            count(counting, "finding"),
            report.fail_on
        ),
        Outcome::Incomplete => {
            let counting = if counting > 0 {
                format!(
                    "; {} of severity {} or above",
                    count(counting, "finding"),
                    report.fail_on
                )
            } else {
                String::new()
            };
            format!(
                "incomplete: not everything could be read, so nothing here is clean{counting}{below}"
            )
        }
    }
}

fn or_none(value: Option<&str>) -> &str {
    value.unwrap_or("none")
}

fn heading(text: &mut String, source: &Source) {
    line!(text, "{source}");
    if let Some(path) = source.path.as_ref().filter(|path| **path != source.name) {
        line!(text, "  in {path}");
    }
}

fn identity(text: &mut String, repository: &Repository) {
    let from = match repository.from {
        Basis::Bytes => "",
        Basis::Metadata => ", by the Hub's metadata; no byte was read",
    };
    line!(
        text,
        "  {}, {}{from}",
        count(repository.files.len(), "file"),
        size(repository.bytes())
    );
    line!(
        text,
        "  model_hash  {}",
        or_none(repository.model_hash.as_deref())
    );
    if let Some(digest) = &repository.model_digest {
        line!(text, "  named       {}", digest.named);
        line!(text, "  unnamed     {}", digest.unnamed);
    }
}

fn hash(text: &mut String, repository: &Repository) {
    heading(text, &repository.source);
    identity(text, repository);
    for file in &repository.files {
        let sha256 = file.sha256.as_deref().unwrap_or("-");
        line!(text, "{sha256:64}  {}  {}", file.size, plain(&file.path));
    }
    if let Some(tensors) = &repository.tensors {
        line!(
            text,
            "{}; --format json has their digests",
            count(tensors.len(), "tensor")
        );
    }
    line!(text, "");
    problems(text, repository);
    findings(text, &repository.findings);
}

fn problems(text: &mut String, repository: &Repository) {
    for problem in repository.problems.iter().take(LISTED) {
        line!(text, "  note: {}", plain(problem));
    }
    if repository.problems.len() > LISTED {
        line!(text, "  note: {} more", repository.problems.len() - LISTED);
    }
}

fn findings(text: &mut String, findings: &[Finding]) {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    // The worst first, then by rule, so that what is many can be counted.
    sorted.sort_by_key(|finding| {
        (
            std::cmp::Reverse(finding.severity),
            finding.rule,
            &finding.path,
        )
    });
    for same in sorted.chunk_by(|a, b| a.rule == b.rule && a.severity == b.severity) {
        for finding in same.iter().take(LISTED) {
            line!(text, "  {}", plain(&finding.to_string()));
        }
        if let Some(first) = same.first().filter(|_| same.len() > LISTED) {
            line!(
                text,
                "  {} {}: {} more",
                first.severity,
                first.rule,
                same.len() - LISTED
            );
        }
    }
}

fn pair(text: &mut String, pair: &Pair) {
    line!(text, "A     {}", pair.a);
    line!(text, "B     {}", pair.b);
    match &pair.base {
        Some(base) => line!(text, "base  {base}"),
        None => line!(text, "base  none"),
    }
    line!(text, "\n{}\n{}", pair.verdict, pair.statement);
    if let Some(measured) = &pair.measured {
        line!(text, "");
        for sentence in sentences(measured) {
            line!(text, "- {sentence}");
        }
        for problem in &measured.evidence.problems {
            line!(text, "- not read: {}", plain(problem));
        }
    }
    line!(text, "");
}

fn scan(text: &mut String, scan: &Scan) {
    if let Some(base) = &scan.base {
        line!(text, "base: {}", base.source);
        identity(text, base);
        problems(text, base);
        findings(text, &base.findings);
        line!(text, "");
    }
    for repository in &scan.repositories {
        heading(text, &repository.source);
        identity(text, repository);
        problems(text, repository);
        findings(text, &repository.findings);
        line!(text, "");
    }
    if !scan.pairs.is_empty() {
        line!(text, "Pairs that were set beside each other:");
        for pair in &scan.pairs {
            line!(
                text,
                "  {:14} {}  {}",
                pair.verdict.to_string(),
                pair.a,
                pair.b
            );
        }
        line!(text, "");
    }
    let read = &scan.read;
    line!(
        text,
        "{}, {} digested, {} sketched, {} compared; known from before: {}, {}, {}",
        count(scan.repositories.len(), "repository"),
        size(read.digested_bytes),
        size(read.sketched_bytes),
        count(read.compared_pairs, "pair"),
        count(read.known_repositories, "repository"),
        count(read.known_files, "file"),
        count(read.known_pairs, "pair")
    );
    if scan.base.is_none() && scan.repositories.len() > 1 {
        line!(
            text,
            "note: without --base only equal weights are recognised; disguised copies are not looked for"
        );
    }
}
