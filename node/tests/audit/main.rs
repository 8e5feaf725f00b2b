//! `leoma-node audit` as an auditor runs it: results, forms, exit codes, on tiny repositories whose history is
//! known.
#![allow(clippy::unwrap_used, missing_docs)]

mod compare;
mod corpus;
mod hash;
mod models;
mod preflight;
mod rules;
mod scan;
mod schema;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// What a command gave.
struct Done {
    code: i32,
    out: String,
    error: String,
}

/// The command in a folder, with an environment that says nothing but where its cache is.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leoma-node"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["LEOMA_NODE_", "HF_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    command
        .arg("audit")
        .args(arguments)
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .env("HF_HUB_OFFLINE", "1")
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

fn finished(output: Output) -> Done {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done {
        code: output.status.code().unwrap(),
        out: text(output.stdout),
        error: text(output.stderr),
    }
}

fn audit(folder: &Path, arguments: &[&str]) -> Done {
    finished(command(folder, arguments).output().unwrap())
}

impl Done {
    /// The report, which must be valid by its schema.
    fn json(&self) -> Value {
        let report: Value = serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.error));
        schema::check("audit-report", &report);
        report
    }

    /// The lines, each of which must be valid by its schema.
    fn lines(&self) -> Vec<Value> {
        let lines: Vec<Value> = self
            .out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        for line in &lines {
            schema::check("audit-line", line);
        }
        assert_eq!(lines.last().unwrap()["kind"], "summary");
        lines
    }

    /// SARIF, which must be valid by our part of its schema, with rules and results that belong together.
    fn sarif(&self) -> Value {
        let log: Value = serde_json::from_str(&self.out).unwrap();
        schema::check("audit-sarif", &log);
        let run = &log["runs"][0];
        for result in run["results"].as_array().unwrap() {
            let index = result["ruleIndex"].as_u64().unwrap() as usize;
            assert_eq!(
                run["tool"]["driver"]["rules"][index]["id"],
                result["ruleId"]
            );
            let place = &result["locations"][0]["physicalLocation"]["artifactLocation"];
            if let Some(base) = place["uriBaseId"].as_str() {
                assert!(run["originalUriBaseIds"][base].is_object(), "{base}");
            }
        }
        assert_eq!(run["invocations"][0]["exitCode"], self.code);
        log
    }

    /// A page that needs nothing else and runs nothing.
    fn page(&self) -> &str {
        assert!(self.out.starts_with("<!doctype html>"), "{}", self.out);
        for never in ["<script", "src=", "href=", "url(", "@import", "javascript:"] {
            assert!(!self.out.contains(never), "the page holds {never}");
        }
        for always in ["prefers-color-scheme: dark", "What this does not prove"] {
            assert!(self.out.contains(always), "the page lacks {always}");
        }
        &self.out
    }
}

/// The rules of all findings of a repository, with their paths.
fn rules(repository: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    repository["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (text(&finding["rule"]), text(&finding["path"])))
        .collect()
}
