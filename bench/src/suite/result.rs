//! What a part leaves: rows of checks and measurements with raw samples, and the conditions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::parts::Part;

/// Version of the files' layout.
const SCHEMA: &str = "leoma-gpu-suite/1";

/// How a row came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// A check that holds.
    Pass,
    /// A check that does not hold, or an error.
    Fail,
    /// A figure without a limit.
    Measured,
    /// Not run; the detail says why.
    Skipped,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Pass => "ok",
            Self::Fail => "FAIL",
            Self::Measured => "measured",
            Self::Skipped => "skipped",
        }
    }
}

/// One check or measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    /// In words: what was compared with which limit, or why it was skipped.
    pub(crate) detail: String,
    /// Figures by name, units in the names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) values: BTreeMap<String, f64>,
    /// Raw samples by side, in seconds, in the order taken.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) samples_s: BTreeMap<String, Vec<f64>>,
}

impl Row {
    pub(crate) fn new(
        name: impl Into<String>,
        verdict: Verdict,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            verdict,
            detail: detail.into(),
            values: BTreeMap::new(),
            samples_s: BTreeMap::new(),
        }
    }

    /// A check: holds or does not.
    pub(crate) fn check(name: impl Into<String>, holds: bool, detail: impl Into<String>) -> Self {
        let verdict = if holds { Verdict::Pass } else { Verdict::Fail };
        Self::new(name, verdict, detail)
    }

    /// Adds a figure. One that is not finite stays out: JSON has no such number.
    pub(crate) fn value(mut self, name: &str, value: f64) -> Self {
        if value.is_finite() {
            self.values.insert(name.to_owned(), value);
        }
        self
    }
}

/// Everything one part found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PartResult {
    schema: String,
    pub(crate) number: u8,
    pub(crate) part: String,
    /// The shim stood in for the card: nothing here says anything about one.
    pub(crate) dry_run: bool,
    /// The program and the machine, by name.
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) seconds: f64,
    pub(crate) rows: Vec<Row>,
}

impl PartResult {
    pub(crate) fn new(part: &Part, dry_run: bool) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            number: part.number,
            part: part.name.to_owned(),
            dry_run,
            environment: BTreeMap::new(),
            seconds: 0.0,
            rows: Vec::new(),
        }
    }

    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        self.rows.push(Row::new(name, Verdict::Skipped, why));
    }

    pub(crate) fn fail(&mut self, name: &str, why: &str) {
        self.rows.push(Row::new(name, Verdict::Fail, why));
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// Writes the part's file, whole or not at all.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(file(self.number, &self.part));
        let partial = path.with_extension("partial");
        std::fs::write(&partial, serde_json::to_vec_pretty(self)?)
            .and_then(|()| std::fs::rename(&partial, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Name of a part's file.
pub(crate) fn file(number: u8, name: &str) -> String {
    format!("part-{number}-{name}.json")
}

/// The table at the end: per part the counts, every failure, and the rows that carry figures.
pub(crate) fn table(results: &[PartResult]) -> String {
    let mut text = String::new();
    for result in results {
        let count = |verdict| {
            result
                .rows
                .iter()
                .filter(|row| row.verdict == verdict)
                .count()
        };
        let _ = writeln!(
            text,
            "{} {}{}: {} ok, {} failed, {} skipped, {} measured, {:.0} s",
            result.number,
            result.part,
            if result.dry_run { " (dry run)" } else { "" },
            count(Verdict::Pass),
            count(Verdict::Fail),
            count(Verdict::Skipped),
            count(Verdict::Measured),
            result.seconds
        );
        // What passed is in the files; the table shows what is to be read.
        for row in &result.rows {
            if row.verdict != Verdict::Pass {
                let _ = writeln!(
                    text,
                    "  {:<8} {}: {}",
                    row.verdict.word(),
                    row.name,
                    row.detail
                );
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::parts::PARTS;
    use super::*;

    fn example() -> PartResult {
        let mut result = PartResult::new(&PARTS[0], true);
        result.rows.push(
            Row::check("a", true, "1e-7 of 2e-6")
                .value("error", 1e-7)
                .value("nothing", f64::NAN),
        );
        result.rows.push(Row::check("b", false, "3e-3 of 2e-6"));
        result.skip("c", "no torch");
        result
    }

    #[test]
    fn a_file_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let result = example();
        result.write(folder.path()).unwrap();
        let back = PartResult::read(&folder.path().join(PARTS[0].file())).unwrap();
        assert_eq!(
            serde_json::to_value(&back).unwrap(),
            serde_json::to_value(&result).unwrap()
        );
        assert_eq!(back.rows[0].values.len(), 1);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_table_names_what_did_not_pass() {
        let text = table(&[example()]);
        assert!(
            text.starts_with("1 kernels (dry run): 1 ok, 1 failed, 1 skipped"),
            "{text}"
        );
        assert!(
            text.contains("FAIL     b: 3e-3 of 2e-6") && text.contains("no torch"),
            "{text}"
        );
        assert!(!text.contains("1e-7"), "{text}");
    }
}
