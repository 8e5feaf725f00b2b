//! What a miner wants to know before paying for a registration: does it load, on which cards does it run, does
//! it keep the rules, is it too near to somebody else's.
//!
//! Nothing is decided here that is not decided elsewhere: the loader loads, the planner plans, the scan scans.
//! This puts it in the order in which a colleague would tell it.

mod cards;
mod chain;
mod text;

use std::cell::RefCell;
use std::fmt::Write as _;

use leoma_models::weights::{Checkpoint, validate};
use leoma_models::{Error, Result};
use serde::Serialize;

use super::finding::{Finding, Rule, Severity};
use super::registry::{Candidate, Entry, Reason, Registry, RegistryError};
use super::report::{Pair, Repository};
use super::rules::arch::{self, ArchLock};
use super::rules::submission::{self, Submission};
use super::scan::{self, Place, Probe, scan};
use super::tree::Tree;

pub use cards::{CARDS, Card, Clip};
pub use chain::ChainFile;
pub(super) use text::{conclusion, render};

/// Registered models named in a report at most.
const NAMED: usize = 8;

/// What is to be submitted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Submitted {
    /// `user/name`.
    pub repo_id: String,
    /// What is to be committed as the revision.
    pub revision: String,
    /// SS58 address of the miner's hotkey.
    pub hotkey: String,
    /// The revision that the deployment reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployed: Option<String>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing to do.
    Good,
    /// Worth knowing.
    Note,
    /// Could not be looked at: nobody knows.
    Unknown,
    /// Has to be mended.
    Fix,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Which question: `loads`, `submission`, `contents`, `architecture`, `copies`, `memory`.
    pub name: &'static str,
    /// How it came out.
    pub state: State,
    /// The answer, in plain sentences.
    pub says: String,
    /// What it rests on.
    pub findings: Vec<Finding>,
}

/// The page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preflight {
    /// What is to be submitted.
    pub submitted: Submitted,
    /// Whether nothing has to be mended and everything could be looked at.
    pub ready: bool,
    /// The questions, in the order in which they matter.
    pub checks: Vec<Check>,
    /// Cards and what a clip needs on them.
    pub cards: Vec<Card>,
    /// The clip that they were asked about.
    pub clip: Clip,
    /// The repository, with all findings.
    pub repository: Repository,
    /// Registered models that it equals or resembles.
    pub relatives: Vec<Candidate>,
    /// Models on this machine that it was compared with.
    pub pairs: Vec<Pair>,
}

/// What a preflight is given beside the repository.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// What is to be submitted.
    pub submitted: &'a Submitted,
    /// The subnet's `chain.toml`.
    pub chain: Option<&'a ChainFile>,
    /// Other models on this machine, to compare with.
    pub against: &'a [Place],
    /// Known models.
    pub registry: Option<&'a Registry>,
    /// How to scan: base, cache, thresholds, progress.
    pub scan: scan::Options<'a>,
}

/// Looks at the repository at `place`.
///
/// # Errors
/// [`Error::Cancelled`], or what kept the registry or the base from being read. What is wrong with the repository is
/// in the answer.
pub fn preflight(place: &Place, given: &Given<'_>) -> Result<Preflight, PreflightError> {
    let relatives = RefCell::new(Vec::new());
    let failed = RefCell::new(None);
    let asked = |probe: Probe<'_>| {
        // The scan asks for every place.
        if let Some(registry) = given.registry.filter(|_| *probe.source == place.source) {
            let submitted = given.submitted;
            let wanted = Entry::of(&submitted.repo_id, &submitted.revision, &probe);
            match registry.candidates(&wanted, probe.sketch.zip(probe.base), NAMED) {
                Ok(found) => {
                    relatives.replace(found);
                }
                Err(error) => {
                    failed.replace(Some(error));
                }
            }
        }
        // They are told below, with what is known of them.
        Vec::new()
    };
    let mut places = vec![place.clone()];
    places.extend_from_slice(given.against);
    let mut scanned = scan(
        &places,
        &scan::Options {
            known: Some(&asked),
            ..given.scan
        },
    )?;
    if let Some(error) = failed.into_inner() {
        return Err(PreflightError::Registry(error));
    }
    let relatives = relatives.into_inner();
    let repository = if scanned.repositories.is_empty() {
        Repository::default()
    } else {
        scanned.repositories.swap_remove(0)
    };
    let mut pairs = scanned.pairs;
    pairs.retain(|pair| pair.a == repository.source || pair.b == repository.source);

    let (loads, checkpoint) = loads(place);
    let clip = given.chain.map(ChainFile::clip).unwrap_or_default();
    let cards = checkpoint
        .as_ref()
        .map(|checkpoint| cards::fit(checkpoint, clip))
        .unwrap_or_default();
    let mut checks = vec![
        loads,
        submitted(given.submitted, &repository),
        contents(&repository),
        architecture(place, given)?,
        copies(&repository, &relatives, given),
        cards::check(&cards, clip),
    ];
    let mut repository = repository;
    // Findings of all questions are the repository's.
    for check in &mut checks {
        for finding in &check.findings {
            if !repository.findings.contains(finding) {
                repository.findings.push(finding.clone());
            }
        }
    }
    repository.findings.sort();
    let ready = checks.iter().all(|check| check.state <= State::Note);
    Ok(Preflight {
        submitted: given.submitted.clone(),
        ready,
        checks,
        cards,
        clip,
        repository,
        relatives,
        pairs,
    })
}

/// What kept a preflight from an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreflightError {
    /// The base, or the machine.
    #[error(transparent)]
    Model(#[from] Error),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

fn loads(place: &Place) -> (Check, Option<Checkpoint>) {
    let opened = Checkpoint::open(&place.path).and_then(|checkpoint| {
        validate(&checkpoint)?;
        Ok(checkpoint)
    });
    let (state, says, checkpoint) = match opened {
        Ok(checkpoint) => {
            let mut says = format!(
                "It loads: {} in the {} layout, every tensor that is needed is there in its shape.",
                checkpoint.kind().as_str(),
                checkpoint.layout()
            );
            for warning in checkpoint.warnings() {
                let _ = write!(says, " Mind: {warning}.");
            }
            let state = if checkpoint.warnings().is_empty() {
                State::Good
            } else {
                State::Note
            };
            (state, says, Some(checkpoint))
        }
        Err(error) => (State::Fix, format!("It does not load: {error}."), None),
    };
    let check = Check {
        name: "loads",
        state,
        says,
        findings: Vec::new(),
    };
    (check, checkpoint)
}

/// Name, revision and hotkey, and whether these files are those of the revision.
fn submitted(submitted: &Submitted, repository: &Repository) -> Check {
    let findings = submission::check(&Submission {
        repo: &submitted.repo_id,
        revision: &submitted.revision,
        hotkey: &submitted.hotkey,
        resolved: repository.source.commit.as_deref(),
        deployed: submitted.deployed.as_deref(),
    });
    let mut says = if findings.is_empty() {
        "The name, the hotkey and the pinned revision are what the validators ask for.".to_owned()
    } else {
        "The validators would refuse the submission.".to_owned()
    };
    let mut state = worst(&findings);
    if repository.source.commit.is_none() && findings.is_empty() {
        state = state.max(State::Note);
        says.push_str(
            " I looked at a folder and cannot tell whether it is what you pushed: run this again on \
             REPO@REVISION before you commit.",
        );
    }
    Check {
        name: "submission",
        state,
        says,
        findings,
    }
}

/// What a careful reader refuses.
fn contents(repository: &Repository) -> Check {
    let findings: Vec<Finding> = repository
        .findings
        .iter()
        .filter(|finding| !is_about_copies(finding.rule))
        .cloned()
        .collect();
    let unread = repository.is_incomplete();
    let says = if unread {
        "Not everything could be read, so I cannot say that it is clean.".to_owned()
    } else if findings.is_empty() {
        format!(
            "{} files, nothing in them that a careful reader would stop at.",
            repository.files.len()
        )
    } else {
        "A careful reader would stop at some of the files.".to_owned()
    };
    let state = if unread {
        State::Unknown.max(worst(&findings))
    } else {
        worst(&findings)
    };
    Check {
        name: "contents",
        state,
        says,
        findings,
    }
}

/// The architecture lock, seen from the base.
fn architecture(place: &Place, given: &Given<'_>) -> Result<Check> {
    let check = |state, says: String, findings| Check {
        name: "architecture",
        state,
        says,
        findings,
    };
    let Some(base) = given.scan.base else {
        let base = given
            .chain
            .and_then(|chain| chain.base_repo())
            .map_or_else(String::new, |repo| format!(" (`chain.toml` names {repo})"));
        let says = format!(
            "I was not given the base{base}, so I could not compare the architecture with it: use --base."
        );
        return Ok(check(State::Note, says, Vec::new()));
    };
    let extra = given.chain.map(ChainFile::extra_keys).unwrap_or_default();
    let lock = ArchLock::of(&Tree::open(&base.path)?, extra)?;
    let tree = match Tree::open(&place.path) {
        Ok(tree) => tree,
        Err(error) => {
            let finding = Finding::new(Rule::CouldNotRead, "", error.to_string());
            let says = "The folder could not be read.".to_owned();
            return Ok(check(State::Fix, says, vec![finding]));
        }
    };
    let mut findings = lock.check(&tree);
    if let Some(pipeline) = given.chain.and_then(ChainFile::pipeline)
        && pipeline != lock.pipeline
    {
        let message = format!(
            "the base is a {}, and chain.toml asks for {pipeline}: is it the right base?",
            lock.pipeline
        );
        findings.push(Finding::new(Rule::WrongPipeline, "", message));
    }
    // A tiny model for development is smaller than any that the subnet takes, and that is worth saying.
    findings.extend(arch::check_size(&tree));
    let says = if findings.is_empty() {
        "Pipeline, components and locked configuration keys are the base's.".to_owned()
    } else {
        "The architecture lock would refuse it.".to_owned()
    };
    Ok(check(worst(&findings), says, findings))
}

fn is_about_copies(rule: Rule) -> bool {
    rule.id().starts_with("CP") || rule == Rule::DuplicateModel
}

/// Whose it equals or resembles.
fn copies(repository: &Repository, relatives: &[Candidate], given: &Given<'_>) -> Check {
    let mut findings: Vec<Finding> = repository
        .findings
        .iter()
        .filter(|finding| is_about_copies(finding.rule))
        .cloned()
        .collect();
    findings.extend(relatives.iter().map(told));
    let mut state = worst(&findings);
    let has_base = given.scan.base.is_some();
    let others = given.against.len();
    let asked = match (given.registry.is_some(), others) {
        (false, 0) => {
            state = state.max(State::Note);
            "I have nobody to compare it with: give me a --registry, or other models with --against.".to_owned()
        }
        (registry, others) => {
            let mut whom = Vec::new();
            if registry {
                whom.push("the registered models".to_owned());
            }
            if others > 0 {
                whom.push(format!("{others} on this machine"));
            }
            format!("Compared with {}.", whom.join(" and "))
        }
    };
    let mut says = match findings.iter().map(|finding| finding.severity).max() {
        None => format!("{asked} Nothing says that it is anybody else's."),
        Some(Severity::High | Severity::Critical) => format!(
            "{asked} It looks like somebody else's work. If it is yours, be ready to show the training; the \
             earliest commitment wins."
        ),
        Some(_) => format!("{asked} There is something that others may ask you about."),
    };
    let is_dated = |relative: &Candidate| relative.entry.committed_at.is_some();
    if relatives.iter().any(is_dated) {
        says.push_str(
            " The date of a commit is git's, and whoever pushes can set it: it supports an order in time and proves \
             none.",
        );
    }
    if !has_base && (given.registry.is_some() || others > 0) {
        state = state.max(State::Note);
        says.push_str(" Without --base only equal weights are recognised, not disguised ones.");
    }
    Check {
        name: "copies",
        state,
        says,
        findings,
    }
}

/// A relative as a finding: who it is, since when, and what to do.
fn told(relative: &Candidate) -> Finding {
    let who = relative.entry.who();
    let (rule, message) = match relative.reason {
        Reason::SameModelHash => (
            Rule::DuplicateModel,
            format!(
                "has the model hash of {who}; the earliest of equal models stays, the others are out"
            ),
        ),
        Reason::SameWeights => (
            Rule::SameWeights,
            format!("has the weights of {who} in other files"),
        ),
        Reason::SameValues => (
            Rule::SameWeights,
            format!("has the values of {who} under other names"),
        ),
        Reason::Alike(likeness) => (
            Rule::UndecidedLikeness,
            format!(
                "its sketch is near that of {who} (cosine of the differences from the base about {:.2}, {:.0} % of \
                 the sums of squares agree); get that model and use --against to know",
                likeness.cosine,
                100.0 * likeness.same_squares
            ),
        ),
    };
    Finding::new(rule, "", message)
}

/// How a check came out, by its worst finding.
fn worst(findings: &[Finding]) -> State {
    match findings.iter().map(|finding| finding.severity).max() {
        None => State::Good,
        Some(Severity::Info | Severity::Low | Severity::Medium) => State::Note,
        Some(Severity::High | Severity::Critical) => State::Fix,
    }
}
