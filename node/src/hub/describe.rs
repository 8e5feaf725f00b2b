//! What the Hub says of a revision, without a download: the commit it stands for, and its files.

use serde::Deserialize;

use super::error::Result;
use super::http::protocol;
use super::name::{Commit, RepoId, Revision, shown};
use super::pull::{PullOptions, Puller};
use super::settings::HubSettings;
use super::{Event, Report};

/// A revision as the Hub describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Repository, as it was asked for.
    pub repo: RepoId,
    /// The commit that the revision stood for when it was asked.
    pub commit: Commit,
    /// Its files, by path.
    pub files: Vec<DescribedFile>,
}

/// A file as the Hub describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedFile {
    /// Path in the repository.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the content, for files in large file storage.
    pub sha256: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    id: Option<String>,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: String,
}

/// Asks the Hub what a revision is: one question, so that the files are those of the commit. Offline, what the
/// cache holds of an earlier answer is used.
///
/// # Errors
/// [`super::HubError`]: the repository is not shown, or the Hub cannot be asked.
pub async fn describe(
    settings: &HubSettings,
    repo: &RepoId,
    revision: &Revision,
    report: &Report,
) -> Result<Described> {
    let options = PullOptions::default();
    let puller = Puller::new(settings, repo, revision, &options, report)?;
    if puller.offline {
        return from_cache(&puller, repo).await;
    }
    let mut url = puller.http.info_address(repo, revision);
    url.query_pairs_mut().append_pair("blobs", "true");
    let (answer, _) = puller.ask::<Answer>(&url).await?;
    if let Some(id) = answer.id.filter(|id| id != repo.as_str()) {
        report(Event::Renamed {
            from: repo,
            to: &shown(&id),
        });
    }
    let commit: Commit = answer.sha.parse().map_err(|_| {
        let sha = shown(&answer.sha);
        protocol(&url, format!("`{sha}` in place of a commit"))
    })?;
    if revision.commit().is_some_and(|asked| asked != commit) {
        let message = format!("commit {commit} in place of {revision}");
        return Err(protocol(&url, message));
    }
    let mut files: Vec<DescribedFile> = answer
        .siblings
        .into_iter()
        .map(|sibling| DescribedFile {
            path: sibling.rfilename,
            size: sibling.size.unwrap_or_default(),
            sha256: sibling.lfs.map(|lfs| lfs.sha256),
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Described {
        repo: repo.clone(),
        commit,
        files,
    })
}

async fn from_cache(puller: &Puller<'_>, repo: &RepoId) -> Result<Described> {
    let commit = puller.commit().await?;
    let tree = puller.tree(&commit).await?.ok_or_else(|| {
        puller.missing_offline("the Hub's listing of this commit is not in the cache")
    })?;
    let files = tree.files().map(|(path, file)| DescribedFile {
        path: path.to_owned(),
        size: file.size,
        sha256: file.lfs_sha256.clone(),
    });
    Ok(Described {
        repo: repo.clone(),
        files: files.collect(),
        commit,
    })
}
