//! What the subnet asks of a commitment: the repository's name, a pinned revision, and not to be a later
//! copy. The comparisons are those of the reference service, down to letter case.

use serde::Serialize;

use crate::audit::finding::{Finding, Rule};

/// A commitment, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Submission<'a> {
    /// `user/name`.
    pub repo: &'a str,
    /// What was committed as the revision.
    pub revision: &'a str,
    /// SS58 address of the miner's hotkey.
    pub hotkey: &'a str,
    /// The commit that the Hub resolves the revision to, where it was asked.
    pub resolved: Option<&'a str>,
    /// The revision that the deployment reports, where it reports one.
    pub deployed: Option<&'a str>,
}

/// Checks a commitment.
pub fn check(submission: &Submission<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |rule, message: String| findings.push(Finding::new(rule, "", message));
    let Submission {
        repo,
        revision,
        hotkey,
        ..
    } = *submission;
    for (field, value) in [("model_name", repo), ("model_revision", revision)] {
        if value.is_empty() {
            find(
                Rule::CommitmentField,
                format!("the commitment has no {field}"),
            );
        }
    }
    if !is_address(hotkey) {
        let message = format!("{hotkey:?} is not an SS58 address (47 or 48 characters of base 58)");
        find(Rule::HotkeyMalformed, message);
    }
    let name = repo.rsplit('/').next().unwrap_or(repo).trim();
    let lower = name.to_lowercase();
    if !repo.is_empty() && !lower.starts_with("leoma") {
        find(
            Rule::RepoPrefix,
            format!(
                "the name `{name}` has to begin with `leoma`; the form is `leoma-DESCRIPTION-HOTKEY`"
            ),
        );
    }
    if !repo.is_empty() && (hotkey.is_empty() || !lower.ends_with(&hotkey.to_lowercase())) {
        find(
            Rule::RepoHotkey,
            format!("the name `{name}` has to end with the hotkey {hotkey}"),
        );
    }
    if !revision.is_empty() && !is_commit(revision) {
        find(
            Rule::RevisionNotPinned,
            format!(
                "`{revision}` is not a full commit hash (40 characters 0-9, a-f); branches, tags and short \
                 hashes are refused"
            ),
        );
    }
    // An empty report counts as none.
    let deployed = submission.deployed.filter(|deployed| !deployed.is_empty());
    for (what, other) in [
        ("the deployment runs", deployed),
        ("the Hub resolves it to", submission.resolved),
    ] {
        if let Some(other) = other.filter(|other| *other != revision) {
            find(
                Rule::RevisionMismatch,
                format!("{revision} was committed, {what} {other}"),
            );
        }
    }
    findings
}

/// Whether this is a full commit hash as git writes it.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40
        && revision
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether this looks like an SS58 address, by the service's own pattern; the checksum is not looked at.
pub fn is_address(hotkey: &str) -> bool {
    (47..=48).contains(&hotkey.len())
        && hotkey
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() && !matches!(b, b'0' | b'O' | b'I' | b'l'))
}

/// A model that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Committed {
    /// Who it is.
    pub uid: u32,
    /// Block of the commitment.
    pub block: u64,
    /// The subnet's hash of the model.
    pub model_hash: String,
}

/// The duplicate rule: of models with the same hash the earliest, by block and then by uid, stays; of each
/// other one the uid of that earliest is given, in the order of `models`.
pub fn duplicates(models: &[Committed]) -> Vec<Option<u32>> {
    models
        .iter()
        .map(|model| {
            let earliest = models
                .iter()
                .filter(|other| other.model_hash == model.model_hash)
                .min_by_key(|other| (other.block, other.uid))?;
            ((earliest.block, earliest.uid) != (model.block, model.uid)).then_some(earliest.uid)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOTKEY: &str = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn rules(submission: &Submission<'_>) -> Vec<Rule> {
        check(submission)
            .iter()
            .map(|finding| finding.rule)
            .collect()
    }

    #[test]
    fn names() {
        let lower = HOTKEY.to_lowercase();
        let good = [
            format!("me/leoma-fast-{HOTKEY}"),
            format!("me/LEOMA{HOTKEY}"),
            format!("me/Leoma-x-{lower}"),
            format!("leoma{HOTKEY}"),
            format!("a/b/leoma-{HOTKEY} "),
        ];
        let submission = |repo| Submission {
            repo,
            revision: COMMIT,
            hotkey: HOTKEY,
            ..Submission::default()
        };
        for repo in &good {
            assert_eq!(rules(&submission(repo)), [], "{repo}");
        }
        let (other_name, other_end) = (
            format!("leoma/wan-{HOTKEY}"),
            format!("me/leoma-{HOTKEY}-v2"),
        );
        assert_eq!(rules(&submission(&other_name)), [Rule::RepoPrefix]);
        assert_eq!(rules(&submission("me/leoma-fast")), [Rule::RepoHotkey]);
        assert_eq!(rules(&submission(&other_end)), [Rule::RepoHotkey]);
        assert_eq!(rules(&submission("")), [Rule::CommitmentField]);
        let other = Submission {
            hotkey: "5short",
            ..submission("me/leoma-5short")
        };
        assert_eq!(rules(&other), [Rule::HotkeyMalformed]);
    }

    #[test]
    fn revisions() {
        let repo = format!("me/leoma-{HOTKEY}");
        let submission = |revision| Submission {
            repo: &repo,
            revision,
            hotkey: HOTKEY,
            ..Submission::default()
        };
        let upper = COMMIT.to_uppercase().replace('0', "A");
        for revision in ["main", "0123456", &upper, &COMMIT[1..]] {
            assert_eq!(
                rules(&submission(revision)),
                [Rule::RevisionNotPinned],
                "{revision}"
            );
        }
        assert_eq!(rules(&submission("")), [Rule::CommitmentField]);
        let other = COMMIT.replace('0', "f");
        let deployed = Submission {
            deployed: Some(&other),
            resolved: Some(COMMIT),
            ..submission(COMMIT)
        };
        assert_eq!(rules(&deployed), [Rule::RevisionMismatch]);
        assert!(check(&deployed)[0].message.contains("deployment"));
        let silent = Submission {
            deployed: Some(""),
            ..submission(COMMIT)
        };
        assert_eq!(rules(&silent), []);
        let moved = Submission {
            resolved: Some(&other),
            ..submission(COMMIT)
        };
        assert_eq!(rules(&moved), [Rule::RevisionMismatch]);
    }

    #[test]
    fn the_earliest_block_wins_then_the_lowest_uid() {
        let model = |uid, block, hash: &str| Committed {
            uid,
            block,
            model_hash: hash.into(),
        };
        let models = [
            model(4, 9, "a"),
            model(1, 8, "a"),
            model(7, 5, "b"),
            model(3, 8, "a"),
            model(2, 8, "c"),
        ];
        assert_eq!(duplicates(&models), [Some(1), None, None, Some(1), None]);
    }
}
