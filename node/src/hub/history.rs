//! What the Hub says about a commit: its date.

use serde::Deserialize;

use super::Report;
use super::error::{HubError, Result};
use super::http::protocol;
use super::name::{Commit, RepoId, Revision, shown};
use super::pull::{PullOptions, Puller};
use super::settings::HubSettings;

/// A commit in the Hub's list of them.
#[derive(Debug, Deserialize)]
struct Listed {
    id: String,
    date: String,
}

/// The date of a commit, as the Hub writes it (RFC 3339).
///
/// It is git's: whoever pushes a commit can give it any. When the commit arrived, the Hub does not say.
///
/// # Errors
/// [`HubError::Offline`] when the network must not be used: the cache keeps no dates. Otherwise whatever kept the Hub
/// from answering.
pub async fn commit_date(
    settings: &HubSettings,
    repo: &RepoId,
    commit: &Commit,
    report: &Report,
) -> Result<String> {
    if settings.offline {
        return Err(HubError::Offline {
            what: format!("{repo}@{commit}"),
            message: "the cache keeps no dates, and HF_HUB_OFFLINE is set; unset it".into(),
        });
    }
    let revision: Revision = commit.as_str().parse()?;
    let options = PullOptions::default();
    let puller = Puller::new(settings, repo, &revision, &options, report)?;
    let mut url = puller.http.commits_address(repo, commit);
    url.query_pairs_mut().append_pair("limit", "1");
    let (listed, _) = puller.ask::<Vec<Listed>>(&url).await?;
    // The list goes back in time from the commit that was asked for.
    match listed.into_iter().next() {
        Some(first) if first.id == commit.as_str() => Ok(shown(&first.date)),
        Some(first) => {
            let message = format!("commit `{}` in place of {commit}", shown(&first.id));
            Err(protocol(&url, message))
        }
        None => Err(protocol(&url, format!("no commits, not even {commit}"))),
    }
}
