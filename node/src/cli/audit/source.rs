//! What an audit is about: a folder, a file, or `user/name@revision` of the Hub.

use std::path::Path;

use anyhow::{Context, Result};

use crate::audit::Rule;
use crate::audit::report::Source;
use crate::audit::scan::Place;
use crate::audit::tree::Tree;
use crate::cli::hub::{Show, download, settings};
use crate::cli::local_model::repository;
use crate::hub::{PullOptions, RepoId, Revision, Snapshot};

/// What a name stands for.
#[derive(Debug)]
pub(super) enum Named {
    /// A folder or file.
    Local(Place),
    /// A repository of the Hub.
    Hub(RepoId, Revision),
}

/// Tells folders and repositories apart: what exists is a folder or file.
///
/// # Errors
/// [`crate::hub::HubError`] for a revision that cannot be one.
pub(super) fn named(text: &str) -> Result<Named> {
    if !Path::new(text).exists() {
        let (name, revision) = text
            .rsplit_once('@')
            .map_or((text, None), |(name, revision)| (name, Some(revision)));
        if let Some(repo) = repository(Path::new(name)) {
            let revision = revision.map_or_else(|| Ok(Revision::default()), str::parse)?;
            return Ok(Named::Hub(repo, revision));
        }
    }
    Ok(Named::Local(Place::local(Path::new(text))))
}

/// What a name stands for, on this machine: of the Hub's repositories, all files are fetched that are not there.
///
/// # Errors
/// Whatever kept it from being there.
pub(super) fn fetched(text: &str, show: Show) -> Result<Place> {
    match named(text)? {
        Named::Local(place) => Ok(place),
        Named::Hub(repo, revision) => {
            let options = PullOptions::default();
            let snapshot = download(&settings()?, &repo, &revision, &options, show)
                .with_context(|| format!("there is no folder {text}"))?;
            Ok(of_snapshot(&snapshot))
        }
    }
}

/// Refuses what a reader of weights would be led out of.
///
/// # Errors
/// [`leoma_models::Error::Artifact`] that names the link.
pub(super) fn closed(place: &Place) -> Result<()> {
    let tree = Tree::open(&place.path)?;
    let out = tree
        .findings
        .iter()
        .find(|finding| matches!(finding.rule, Rule::LinkOutside | Rule::NotRegular));
    match out {
        None => Ok(()),
        Some(finding) => {
            let message = format!("not compared: {}: {}", finding.path, finding.message);
            Err(leoma_models::Error::artifact(&place.path, message).into())
        }
    }
}

fn of_snapshot(snapshot: &Snapshot) -> Place {
    Place {
        source: Source {
            name: snapshot.repo.to_string(),
            commit: Some(snapshot.commit.to_string()),
            path: Some(snapshot.path.display().to_string()),
        },
        path: snapshot.path.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn folders_and_repositories() {
        let commit = "0".repeat(40);
        let pinned = format!("user/name@{commit}");
        let hub = |text: &str| match named(text).unwrap() {
            Named::Hub(repo, revision) => Some(format!("{repo} {revision}")),
            Named::Local(_) => None,
        };
        assert_eq!(hub("user/name").as_deref(), Some("user/name main"));
        assert_eq!(hub(&pinned), Some(format!("user/name {commit}")));
        for local in ["src/hub", "./user/name", "name", "a/b/c@main"] {
            assert_eq!(hub(local), None, "{local}");
        }
        assert!(named("user/name@..").is_err());
    }
}
