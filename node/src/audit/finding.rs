//! What an audit reports: findings, each by a rule with an identifier that does not change.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Unusual.
    Low,
    /// Should be looked at.
    Medium,
    /// Breaks a rule, or would break a reader.
    High,
    /// Dangerous to use.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        })
    }
}

/// Declares the rules: variant, identifier, name, severity, what it means. Identifiers are never reused.
macro_rules! rules {
    ($($variant:ident $id:literal $name:literal $severity:ident $summary:literal;)*) => {
        /// A rule of the audit. The identifier and the name stay as they are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $summary] $variant,)*
        }

        impl Rule {
            /// All rules, by identifier.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Identifier, such as `WS001`.
            pub fn id(self) -> &'static str {
                match self { $(Self::$variant => $id,)* }
            }

            /// Name, such as `duplicate-tensor-across-shards`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// How much a finding of this rule matters.
            pub fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// Its page of the documentation.
            fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => include_str!(concat!("../../../docs/rules/", $id, ".md")),)*
                }
            }

            /// What a finding of this rule means, in one sentence.
            pub fn summary(self) -> &'static str {
                match self { $(Self::$variant => $summary,)* }
            }
        }
    };
}

rules! {
    CouldNotRead "WS000" "could-not-read" High
        "A file or folder could not be read, so that nothing can be said about it.";
    DuplicateTensor "WS001" "duplicate-tensor-across-shards" High
        "A tensor is in several files of a network; readers differ in which one they take.";
    PickleFile "WS002" "pickle-file" Medium
        "Weights are stored as a pickle, whose readers can be made to run code.";
    PickleImport "WS003" "pickle-import" Critical
        "A pickle refers to names outside of what a dictionary of tensors needs; loading it may run code.";
    PickleMalformed "WS004" "pickle-malformed" High
        "A pickle cannot be walked to its end.";
    CodeFile "WS005" "code-file" High
        "The repository holds code; a checkpoint needs none.";
    NotFinite "WS006" "not-finite" High
        "A tensor holds NaN or infinite values.";
    AllZero "WS007" "all-zero" Low
        "A weight matrix holds zeros only.";
    HiddenFile "WS008" "hidden-file" Low
        "A file or folder is hidden and is none of those that repositories usually have.";
    HeaderRefused "WS009" "header-refused" High
        "A weight file's header is malformed, hostile or too large.";
    LinkOutside "WS010" "link-outside" Critical
        "A link leads out of the repository; it was not followed.";
    IndexMismatch "WS011" "index-mismatch" High
        "A shard index does not say what the shards hold.";
    BlobMismatch "WS012" "blob-mismatch" Critical
        "A file of the download cache is not what its name says; the cache is damaged or was tampered with.";
    NotRegular "WS013" "not-regular" High
        "A folder entry is neither file nor folder nor link; it was not opened.";
    UnsafePath "WS014" "unsafe-path" High
        "A path is not plain text, or would lead out of the repository on another system.";
    NestedArchive "WS015" "nested-archive" Medium
        "The repository holds an archive whose contents no reader of checkpoints looks at.";
    TooManyFiles "WS016" "too-many-files" High
        "The repository holds more files or deeper folders than are looked at.";
    CustomCode "WS017" "custom-code" High
        "A configuration asks its reader to load code from the repository.";
    ConfigRefused "WS018" "config-refused" High
        "A configuration file is malformed or too large.";
    NotRecognised "WS019" "not-recognised" High
        "The weights cannot be read as a model of Wan; they were hashed, but could not be compared.";
    RepoPrefix "LM001" "repo-name-prefix" High
        "The repository's name does not begin with `leoma`.";
    RepoHotkey "LM002" "repo-name-hotkey" High
        "The repository's name does not end with the hotkey.";
    RevisionNotPinned "LM003" "revision-not-pinned" High
        "The revision is not a full commit hash.";
    RevisionMismatch "LM004" "revision-mismatch" High
        "The deployed revision is not the committed one.";
    DuplicateModel "LM005" "duplicate-model" Critical
        "An earlier commitment has the same model hash.";
    NoWeights "LM006" "no-weights" High
        "The repository holds no weight file that the subnet hashes.";
    HotkeyMalformed "LM007" "hotkey-malformed" High
        "The hotkey is not an SS58 address.";
    CommitmentField "LM008" "commitment-field" High
        "The commitment lacks a field.";
    WrongPipeline "AL001" "wrong-pipeline" High
        "The pipeline is not the one that the subnet asks for.";
    ComponentsDiffer "AL002" "components-differ" High
        "The pipeline's components are not those of the base model.";
    ConfigDiffers "AL003" "config-differs" High
        "A configuration key differs from the base model's.";
    SizeOutOfRange "AL004" "size-out-of-range" High
        "The repository is smaller or larger than the subnet accepts.";
    ShapeDiffers "AL005" "shape-differs" High
        "A tensor's shape is not the base model's.";
    SameWeights "CP001" "same-weights" High
        "Another repository holds the same weights, as they are or repacked.";
    PerturbedCopy "CP002" "perturbed-copy" High
        "The weights are consistent with being another repository's with small changes.";
    MergedCopy "CP003" "merged-copy" High
        "The weights are consistent with holding a share, or parts, of another repository's training.";
    UndecidedLikeness "CP004" "undecided-likeness" Medium
        "The weights are related to another repository's, and the comparison does not decide how.";
    UnchangedBase "CP005" "unchanged-base" Medium
        "The weights are those of the base model: nothing was trained.";
}

impl Rule {
    /// The rule with an identifier.
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rule| rule.id() == id)
    }

    /// What to do about a finding: that part of its page, in one line.
    pub fn remedy(self) -> String {
        let after = self
            .text()
            .split("## What to do")
            .nth(1)
            .unwrap_or_default();
        let part = after.split("\n## ").next().unwrap_or_default();
        part.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Its page of the documentation, as a path in the source repository.
    pub fn page(self) -> String {
        format!("docs/rules/{}.md", self.id())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id(), self.name())
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = String::deserialize(deserializer)?;
        Self::from_id(&id).ok_or_else(|| serde::de::Error::custom(format!("no rule `{id}`")))
    }
}

/// Something found in a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// How much it matters; may differ from the rule's usual severity.
    pub severity: Severity,
    /// Path in the repository, with `/`; empty for the repository as a whole.
    pub path: String,
    /// What was found, in a plain sentence.
    pub message: String,
}

impl Finding {
    /// A finding of the rule's usual severity.
    pub fn new(rule: Rule, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            rule,
            severity: rule.severity(),
            path: path.into(),
            message: message.into(),
        }
    }

    /// The same finding with another severity.
    #[must_use]
    pub fn with_severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.severity, self.rule)?;
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_says_what_to_do() {
        for rule in Rule::ALL {
            let remedy = rule.remedy();
            assert!(
                remedy.len() > 20 && remedy.ends_with('.'),
                "{rule}: {remedy:?}"
            );
        }
    }

    #[test]
    fn identifiers_are_unique_and_sorted_within_their_group() {
        let ids: Vec<_> = Rule::ALL.iter().map(|rule| rule.id()).collect();
        let names: std::collections::BTreeSet<_> = Rule::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), ids.len());
        for pair in ids.windows(2) {
            assert!(
                pair[0][..2] != pair[1][..2] || pair[0] < pair[1],
                "{pair:?}"
            );
        }
    }
}
