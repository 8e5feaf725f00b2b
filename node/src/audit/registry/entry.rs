//! What the registry knows about a model.

use std::fmt::Write as _;
use std::path::PathBuf;

use leoma_models::Fault;
use serde::{Deserialize, Serialize};

use super::when::utc;
use crate::audit::rules::submission::{is_address, is_commit};
use crate::audit::scan::Probe;
use crate::store::StoreError;

/// What a registered model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What entrants fine-tune: seen from it, others are compared; never a candidate itself.
    Base,
    /// An entrant.
    Model,
}

/// Who hashed the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// This registry's owner.
    Local,
    /// Somebody else, whose list was imported: a claim.
    Imported,
}

/// A registered model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Repository, or whatever the owner calls it.
    pub name: String,
    /// Full commit, or empty for a folder.
    pub revision: String,
    /// Base or entrant.
    pub role: Role,
    /// Who hashed it.
    pub origin: Origin,
    /// SS58 address of the miner.
    pub hotkey: Option<String>,
    /// Block of the commitment.
    pub block: Option<u64>,
    /// Date of the commit as the Hub gives it: git's, which whoever pushes can set. RFC 3339, UTC, to the millisecond.
    pub committed_at: Option<String>,
    /// The subnet's hash.
    pub model_hash: Option<String>,
    /// Digest of all weights with their names.
    pub named: Option<String>,
    /// Digest of all values.
    pub unnamed: Option<String>,
    /// When it was registered, RFC 3339.
    pub added_at: String,
}

/// Why the registry could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Name and revision are taken.
    #[error(
        "{name} at revision {revision:?} is registered with another {field}: {known}, not {found}; a \
         commit's content does not change, so one of the two is wrong. Remove the entry if it is that one"
    )]
    Conflict {
        /// The model.
        name: String,
        /// Its revision.
        revision: String,
        /// What differs.
        field: &'static str,
        /// What the registry has.
        known: String,
        /// What was to be added.
        found: String,
    },
    /// There is no such model.
    #[error(
        "{name} at revision {revision:?} is not registered; `audit registry list` shows what is"
    )]
    Unknown {
        /// The model.
        name: String,
        /// Its revision.
        revision: String,
    },
    /// A value that cannot be.
    #[error("{field}: {message}")]
    Value {
        /// Option or field.
        field: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A line of a list that cannot be imported.
    #[error("{}: line {line}: {message}; nothing was imported", path.display())]
    Line {
        /// The list.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

impl RegistryError {
    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Store(StoreError::Corrupt { .. } | StoreError::NewerSchema { .. })
            | Self::Line { .. } => Fault::Artifact,
            Self::Store(_) => Fault::Transient,
            Self::Conflict { .. } | Self::Unknown { .. } | Self::Value { .. } => Fault::Caller,
        }
    }
}

impl Entry {
    /// A model that is scanned, to be looked for.
    pub(in crate::audit) fn of(name: &str, revision: &str, probe: &Probe<'_>) -> Self {
        Self {
            name: name.to_owned(),
            revision: revision.to_owned(),
            role: Role::Model,
            origin: Origin::Local,
            hotkey: None,
            block: None,
            committed_at: None,
            model_hash: probe.model_hash.map(str::to_owned),
            named: probe.model_digest.map(|digest| digest.named.clone()),
            unnamed: probe.model_digest.map(|digest| digest.unnamed.clone()),
            added_at: String::new(),
        }
    }

    /// Who it is, since when, and who says so.
    pub fn who(&self) -> String {
        let mut who = self.name.clone();
        if !self.revision.is_empty() {
            let _ = write!(who, " at {}", self.revision);
        }
        if let Some(block) = self.block {
            let _ = write!(who, ", committed in block {block}");
        }
        if let Some(time) = &self.committed_at {
            let _ = write!(who, ", dated {time} by git");
        }
        if self.origin == Origin::Imported {
            who.push_str(" (as an imported list says)");
        }
        who
    }

    /// The entry as it is kept. Refuses values that cannot be.
    pub(super) fn checked(&self) -> Result<Self, RegistryError> {
        let wrong = |field, message: String| Err(RegistryError::Value { field, message });
        if self.name.trim().is_empty() {
            return wrong("name", "is empty".into());
        }
        if !self.revision.is_empty() && !is_commit(&self.revision) {
            let message = format!(
                "{:?} is not a full commit (40 characters 0-9, a-f); leave it out for a folder",
                self.revision
            );
            return wrong("revision", message);
        }
        if let Some(hotkey) = self.hotkey.as_deref().filter(|hotkey| !is_address(hotkey)) {
            let message =
                format!("{hotkey:?} is not an SS58 address (47 or 48 characters of base 58)");
            return wrong("hotkey", message);
        }
        if self
            .block
            .is_some_and(|block| i64::try_from(block).is_err())
        {
            return wrong("block", "is larger than any block".into());
        }
        for (field, digest) in self.digests() {
            let plain = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            if let Some(digest) = digest.filter(|d| d.len() != 64 || !d.bytes().all(plain)) {
                return wrong(
                    field,
                    format!("{digest:?} is not a SHA-256 (64 characters 0-9, a-f)"),
                );
            }
        }
        let mut kept = self.clone();
        if let Some(time) = &self.committed_at {
            kept.committed_at = utc(time);
            if kept.committed_at.is_none() {
                let message = format!("{time:?} is no time in UTC, such as 2026-05-01T12:00:00Z");
                return wrong("committed_at", message);
            }
        }
        Ok(kept)
    }

    fn digests(&self) -> [(&'static str, Option<&str>); 3] {
        [
            ("model_hash", self.model_hash.as_deref()),
            ("named", self.named.as_deref()),
            ("unnamed", self.unnamed.as_deref()),
        ]
    }

    /// This entry with what `other` knows about the same model beyond it.
    pub(super) fn merged(&self, other: &Self) -> Result<Self, RegistryError> {
        let (name, revision) = (&self.name, &self.revision);
        let conflict = |field, known: String, found: String| RegistryError::Conflict {
            name: name.clone(),
            revision: revision.clone(),
            field,
            known,
            found,
        };
        let mut merged = self.clone();
        for (((field, known), (_, found)), place) in
            self.digests().into_iter().zip(other.digests()).zip([
                &mut merged.model_hash,
                &mut merged.named,
                &mut merged.unnamed,
            ])
        {
            match (known, found) {
                (Some(known), Some(found)) if known != found => {
                    return Err(conflict(field, known.into(), found.into()));
                }
                (None, Some(found)) => *place = Some(found.to_owned()),
                _ => {}
            }
        }
        for (field, known, found) in [
            ("hotkey", &mut merged.hotkey, &other.hotkey),
            (
                "committed_at",
                &mut merged.committed_at,
                &other.committed_at,
            ),
        ] {
            match (&known, found) {
                (Some(known), Some(found)) if known != found => {
                    return Err(conflict(field, known.clone(), found.clone()));
                }
                (None, Some(found)) => *known = Some(found.clone()),
                _ => {}
            }
        }
        match (self.block, other.block) {
            (Some(known), Some(found)) if known != found => {
                return Err(conflict("block", known.to_string(), found.to_string()));
            }
            (None, found) => merged.block = found,
            _ => {}
        }
        // What was hashed here stays that.
        if other.origin == Origin::Local {
            merged.origin = Origin::Local;
        }
        Ok(merged)
    }
}
