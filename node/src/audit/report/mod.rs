//! What the audit commands say, and the forms in which they say it.
//!
//! ```text
//! Report ──► text     for people
//!        ──► json     one object; `docs/schemas/audit-report.schema.json`
//!        ──► jsonl    an object per repository, finding, comparison; `audit-line.schema.json`
//!        ──► sarif    SARIF 2.1.0, for code scanning
//!        ──► html     one file that needs nothing else
//!        ──► in-toto  the statement that the model-signing tools sign
//! ```
//!
//! All commands fill in the same model, and no form knows which command it was.

mod html;
mod in_toto;
mod jsonl;
mod picture;
mod sarif;
#[cfg(test)]
mod tests;
mod text;
pub(super) mod words;

use std::fmt;

use leoma_models::Result;
use serde::{Deserialize, Serialize};

use super::compare::layers::Layers;
use super::compare::{Comparison, ErrorRate, Evidence, TensorComparison, Thresholds, Verdict};
use super::finding::{Finding, Rule, Severity};
use super::identity::{FileDigest, ModelDigest, TensorDigest};
use super::preflight::Preflight;
use crate::report::json::pretty;

pub use crate::report::Tool;

/// Version of the JSON forms. A new field does not change it, anything else does.
pub const VERSION: u32 = 1;

/// What no report of this kind proves; part of the forms for people.
pub const LIMITS: [&str; 4] = [
    "Who was first is not in the weights. The order in time comes from the chain and from the Hub. The block of a \
     commitment is the chain's; the date of a commit is git's, and whoever pushes can set it.",
    "A verdict says what weights are consistent with. Its limits were measured on small models that were trained for \
     minutes, not on models of the released sizes: it is a reason to look closer, not by itself one to accuse.",
    "That nothing was found does not prove that there is nothing: docs/audit.md lists what the comparison \
     cannot see.",
    "A pickle whose walk finds nothing can still be harmful. Nothing found in a repository was executed.",
];

/// The forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// One JSON object.
    Json,
    /// JSON objects, one a line.
    Jsonl,
    /// SARIF 2.1.0.
    Sarif,
    /// One page that needs nothing else.
    Html,
    /// The statement of in-toto that the model-signing tools sign.
    InToto,
}

impl Form {
    /// All forms with their names.
    pub const ALL: [(&'static str, Self); 6] = [
        ("text", Self::Text),
        ("json", Self::Json),
        ("jsonl", Self::Jsonl),
        ("sarif", Self::Sarif),
        ("html", Self::Html),
        ("in-toto", Self::InToto),
    ];
}

/// How an audit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything was read, and nothing of the severity that was asked for was found.
    Clean,
    /// Something was found.
    Found,
    /// Something could not be read: nothing here may be called clean.
    Incomplete,
}

impl Outcome {
    /// The exit code that says so.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Found => 1,
            Self::Incomplete => 2,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::Found => "found",
            Self::Incomplete => "incomplete",
        })
    }
}

/// A report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// What made it.
    pub tool: Tool,
    /// How the audit ended.
    pub outcome: Outcome,
    /// The severity from which on a finding counts as found.
    pub fail_on: Severity,
    /// Where the sources' documentation is published; SARIF leads there.
    #[serde(skip)]
    pub docs_url: Option<String>,
    /// What was audited.
    #[serde(flatten)]
    pub body: Body,
}

/// What was audited.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Body {
    /// What one repository holds.
    Hash(Box<Repository>),
    /// Two repositories beside each other.
    Compare(Box<Pair>),
    /// Many repositories.
    Scan(Box<Scan>),
    /// What a miner wants to know before submitting one.
    Preflight(Box<Preflight>),
}

/// A repository by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Source {
    /// As the caller named it; `user/name` for one of the Hub.
    pub name: String,
    /// The commit that was read, for one of the Hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Its folder; none when only the Hub was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.commit
            .as_ref()
            .map_or(Ok(()), |commit| write!(f, "@{commit}"))
    }
}

/// What a repository's digests were made from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Every byte was read.
    #[default]
    Bytes,
    /// The Hub's word.
    Metadata,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct File {
    /// Path in the repository.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Hexadecimal SHA-256; the Hub does not know it of small files.
    pub sha256: Option<String>,
}

impl From<FileDigest> for File {
    fn from(file: FileDigest) -> Self {
        Self {
            path: file.path,
            size: file.size,
            sha256: Some(file.sha256),
        }
    }
}

/// What was found in a repository.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Repository {
    /// Which one.
    #[serde(flatten)]
    pub source: Source,
    /// What the digests were made from.
    pub from: Basis,
    /// The subnet's hash. None without weight files, and when one of them could not be read.
    pub model_hash: Option<String>,
    /// Digests of all values; None when only files were looked at, or not all weights could be read.
    pub model_digest: Option<ModelDigest>,
    /// All files, by path.
    pub files: Vec<File>,
    /// All tensors, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Vec<TensorDigest>>,
    /// What was found, sorted.
    pub findings: Vec<Finding>,
    /// What keeps the layout from being recognised, or the model from loading.
    pub problems: Vec<String>,
}

impl Repository {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// Whether something could not be read.
    pub fn is_incomplete(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| matches!(finding.rule, Rule::CouldNotRead | Rule::TooManyFiles))
    }
}

/// How two repositories were set beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// Their digests are equal.
    Digests,
    /// Their values were read.
    Values,
}

/// The figures of a comparison of values.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Measured {
    /// The figures.
    pub evidence: Evidence,
    /// The limits that they were held against.
    pub thresholds: Thresholds,
    /// How often they were wrong where the truth is known; none where that was not measured.
    #[serde(default)]
    pub error_rate: Option<ErrorRate>,
    /// Every weight, by network and name.
    pub per_tensor: Vec<TensorComparison>,
}

/// Two repositories beside each other.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Pair {
    /// One of them.
    pub a: Source,
    /// The other.
    pub b: Source,
    /// What both were made from.
    pub base: Option<Source>,
    /// How they were compared.
    pub how: How,
    /// What the weights are consistent with.
    pub verdict: Verdict,
    /// Why, in plain sentences.
    pub statement: String,
    /// The figures, where values were read.
    #[serde(flatten)]
    pub measured: Option<Measured>,
    /// Every layer of one beside every layer of the other, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
}

impl Pair {
    /// The result of a comparison of values.
    pub fn of(a: Source, b: Source, base: Option<Source>, comparison: Comparison) -> Self {
        Self {
            a,
            b,
            base,
            how: How::Values,
            verdict: comparison.verdict,
            statement: comparison.statement,
            measured: Some(Measured {
                evidence: comparison.evidence,
                error_rate: comparison.thresholds.error_rate(),
                thresholds: comparison.thresholds,
                per_tensor: comparison.per_tensor,
            }),
            layers: None,
        }
    }

    /// The rule that this verdict falls under.
    pub fn rule(&self) -> Option<Rule> {
        match self.verdict {
            Verdict::Identical | Verdict::Repacked => Some(Rule::SameWeights),
            Verdict::Perturbed => Some(Rule::PerturbedCopy),
            Verdict::Merged => Some(Rule::MergedCopy),
            Verdict::Inconclusive => Some(Rule::UndecidedLikeness),
            Verdict::SameBaseOnly | Verdict::Unrelated => None,
        }
    }

    /// What one side's report says about the other.
    pub fn finding(&self, other: &Source) -> Option<Finding> {
        let message = format!("{} with {other}: {}", self.verdict, self.statement);
        Some(Finding::new(self.rule()?, "", message))
    }

    /// What could not be read, where the verdict clears: a verdict that clears needs everything read.
    pub fn unread(&self) -> &[String] {
        match &self.measured {
            Some(measured) if !self.verdict.is_copy() => &measured.evidence.problems,
            _ => &[],
        }
    }
}

/// What an audit read, and what it knew from an earlier one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Read {
    /// Bytes that were digested.
    pub digested_bytes: u64,
    /// Bytes that were read for sketches.
    pub sketched_bytes: u64,
    /// Pairs whose values were read.
    pub compared_pairs: usize,
    /// Repositories that had not changed.
    pub known_repositories: usize,
    /// Files that had not changed, of repositories that had.
    pub known_files: usize,
    /// Pairs of which neither had changed.
    pub known_pairs: usize,
}

/// Many repositories.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Scan {
    /// What they were made from.
    pub base: Option<Repository>,
    /// Sorted by name.
    pub repositories: Vec<Repository>,
    /// Pairs with equal digests, and pairs that were near enough to be compared.
    pub pairs: Vec<Pair>,
    /// What was read.
    pub read: Read,
}

impl Report {
    /// A report, whose outcome follows from what is in it.
    pub fn new(body: Body, fail_on: Severity) -> Self {
        let mut report = Self {
            version: VERSION,
            tool: Tool::THIS,
            outcome: Outcome::Clean,
            fail_on,
            docs_url: None,
            body,
        };
        report.outcome = report.judge();
        report
    }

    fn judge(&self) -> Outcome {
        let unread = self.repositories().any(Repository::is_incomplete)
            || matches!(&self.body, Body::Compare(pair) if !pair.unread().is_empty());
        if unread {
            return Outcome::Incomplete;
        }
        let found = self
            .findings()
            .any(|(_, finding)| finding.severity >= self.fail_on);
        let to_mend = matches!(&self.body, Body::Preflight(page) if !page.ready);
        if found || to_mend {
            Outcome::Found
        } else {
            Outcome::Clean
        }
    }

    /// The repositories that are described; the base is the last one.
    pub fn repositories(&self) -> impl Iterator<Item = &Repository> {
        let (one, many, base) = match &self.body {
            Body::Hash(repository) => (Some(&**repository), &[][..], None),
            Body::Compare(_) => (None, &[][..], None),
            Body::Scan(scan) => (None, scan.repositories.as_slice(), scan.base.as_ref()),
            Body::Preflight(page) => (Some(&page.repository), &[][..], None),
        };
        one.into_iter().chain(many).chain(base)
    }

    /// The pairs that were set beside each other.
    pub fn pairs(&self) -> &[Pair] {
        match &self.body {
            Body::Hash(_) => &[],
            Body::Compare(pair) => std::slice::from_ref(pair),
            Body::Scan(scan) => &scan.pairs,
            Body::Preflight(page) => &page.pairs,
        }
    }

    /// All findings, with the repository that each is about.
    pub fn findings(&self) -> impl Iterator<Item = (Source, Finding)> {
        let of_pair = match &self.body {
            Body::Compare(pair) => pair.finding(&pair.b).map(|found| (pair.a.clone(), found)),
            _ => None,
        };
        let of_repositories = self.repositories().flat_map(|repository| {
            repository
                .findings
                .iter()
                .map(|finding| (repository.source.clone(), finding.clone()))
        });
        of_pair.into_iter().chain(of_repositories)
    }

    /// The report in one of its forms, with a line end.
    ///
    /// # Errors
    /// [`leoma_models::Error::Caller`] for a form that this report does not have;
    /// [`leoma_models::Error::Artifact`] for a statement about a repository that could not be read whole.
    pub fn render(&self, form: Form) -> Result<String> {
        Ok(match form {
            Form::Text => text::render(self),
            Form::Json => pretty(self)?,
            Form::Jsonl => jsonl::render(self)?,
            Form::Sarif => sarif::render(self),
            Form::Html => html::render(self),
            Form::InToto => in_toto::render(self)?,
        })
    }
}
