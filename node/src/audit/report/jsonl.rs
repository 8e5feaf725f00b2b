//! A report as JSON objects, one a line: what a log or a table takes in.

use leoma_models::{Error, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Pair, Report, Repository};

pub(super) fn render(report: &Report) -> Result<String> {
    let mut lines = Lines(String::new());
    for repository in report.repositories() {
        lines.add("repository", &about(repository))?;
        for file in &repository.files {
            lines.of(repository, "file", file)?;
        }
        for tensor in repository.tensors.iter().flatten() {
            lines.of(repository, "tensor", tensor)?;
        }
    }
    for pair in report.pairs() {
        lines.add("pair", &of_pair(pair))?;
    }
    for (source, finding) in report.findings() {
        let mut line = json!(finding);
        line["repository"] = source.to_string().into();
        line["name"] = finding.rule.name().into();
        lines.add("finding", &line)?;
    }
    let summary = json!({
        "outcome": report.outcome,
        "fail_on": report.fail_on,
        "repositories": report.repositories().count(),
        "pairs": report.pairs().len(),
        "findings": report.findings().count(),
        "tool": report.tool,
        "version": report.version,
    });
    lines.add("summary", &summary)?;
    Ok(lines.0)
}

/// A repository without its lists.
fn about(repository: &Repository) -> Value {
    json!({
        "repository": repository.source.to_string(),
        "path": repository.source.path,
        "commit": repository.source.commit,
        "from": repository.from,
        "model_hash": repository.model_hash,
        "model_digest": repository.model_digest,
        "files": repository.files.len(),
        "bytes": repository.bytes(),
        "findings": repository.findings.len(),
        "problems": repository.problems,
    })
}

/// A pair without its weights.
fn of_pair(pair: &Pair) -> Value {
    json!({
        "a": pair.a.to_string(),
        "b": pair.b.to_string(),
        "base": pair.base.as_ref().map(ToString::to_string),
        "how": pair.how,
        "verdict": pair.verdict,
        "statement": pair.statement,
        "evidence": pair.measured.as_ref().map(|measured| &measured.evidence),
    })
}

struct Lines(String);

impl Lines {
    fn of<T: Serialize>(&mut self, repository: &Repository, kind: &str, value: &T) -> Result<()> {
        let mut line = serde_json::to_value(value).map_err(failed)?;
        line["repository"] = repository.source.to_string().into();
        self.add(kind, &line)
    }

    fn add(&mut self, kind: &str, value: &Value) -> Result<()> {
        let mut line = json!({ "kind": kind });
        if let (Some(line), Some(value)) = (line.as_object_mut(), value.as_object()) {
            line.extend(value.clone());
        }
        self.0
            .push_str(&serde_json::to_string(&line).map_err(failed)?);
        self.0.push('\n');
        Ok(())
    }
}

fn failed(error: serde_json::Error) -> Error {
    Error::local(format!("cannot write JSON: {error}"))
}
