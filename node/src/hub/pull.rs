//! A commit of a repository, brought into the cache as far as it is not there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{StreamExt, TryStreamExt};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::blob::{Shared, Wanted, fetch, is_there, tidy};
use super::digest;
use super::error::{HubError, Result};
use super::http::{Http, next_page, protocol};
use super::layout::{Layout, remove_file};
use super::name::{Commit, RepoId, Revision, shown};
use super::part::bytes_reserved;
use super::retry::Retry;
use super::select::Selection;
use super::settings::HubSettings;
use super::tree::{Entry, MAX_FILES, Tree, TreeFile};
use super::{Event, Report};

/// Files that are fetched at the same time; their connections are counted together.
const FILES_AT_ONCE: usize = 4;
/// Longest wait for an answer about a repository: nothing is under way yet that would be lost.
const ASKING: Duration = Duration::from_secs(30);
/// Most pages of a listing; the Hub gives 1,000 entries at a time, folders among them.
const MAX_PAGES: usize = 2 * MAX_FILES / 1000;
/// Names in a message; the rest is counted.
const NAMED: usize = 3;

/// How to download.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Files that are wanted.
    pub selection: Selection,
    /// Also read what is there already, and fetch again what is not as the Hub says.
    pub verify: bool,
    /// Connections at a time.
    pub connections: usize,
    /// Bytes asked for at a time; larger files come in several such pieces at once.
    pub piece_bytes: u64,
    /// Longest silence of a server on a connection.
    pub stall: Duration,
    /// Time without any progress of a file after which it is given up.
    pub patience: Duration,
    /// Bytes of the disk that are left free.
    pub reserve_bytes: u64,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            verify: false,
            connections: 8,
            piece_bytes: 32 << 20,
            stall: Duration::from_secs(30),
            patience: Duration::from_secs(600),
            reserve_bytes: 1 << 30,
        }
    }
}

/// A commit whose wanted files are all there.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// Repository.
    #[serde(serialize_with = "as_text")]
    pub repo: RepoId,
    /// What was asked for.
    #[serde(serialize_with = "as_text")]
    pub revision: Revision,
    /// What it stands for.
    #[serde(serialize_with = "as_text")]
    pub commit: Commit,
    /// Folder with the files.
    pub path: PathBuf,
    /// Files that were wanted.
    pub files: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes that came over the network.
    pub downloaded_bytes: u64,
}

fn as_text<T: ToString, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

/// Brings the wanted files of a revision into the cache.
///
/// # Errors
/// Whatever kept a file from being there, whole and as the Hub describes it. What arrived is kept, and the next
/// call goes on from there.
pub async fn pull(
    settings: &HubSettings,
    repo: &RepoId,
    revision: &Revision,
    options: &PullOptions,
    report: &Report,
) -> Result<Snapshot> {
    let puller = Puller::new(settings, repo, revision, options, report)?;
    puller.run().await
}

/// Someone who asks about one revision of one repository.
pub(super) struct Puller<'a> {
    layout: Layout,
    pub(super) http: Http,
    pub(super) offline: bool,
    repo: &'a RepoId,
    revision: &'a Revision,
    options: &'a PullOptions,
    report: &'a Report,
}

/// The part of the Hub's description that is used.
#[derive(Debug, Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    id: Option<String>,
}

impl<'a> Puller<'a> {
    pub(super) fn new(
        settings: &HubSettings,
        repo: &'a RepoId,
        revision: &'a Revision,
        options: &'a PullOptions,
        report: &'a Report,
    ) -> Result<Self> {
        Ok(Self {
            layout: Layout::new(&settings.cache, repo),
            http: Http::new(&settings.endpoint, settings.token.clone(), options.stall)?,
            offline: settings.offline,
            repo,
            revision,
            options,
            report,
        })
    }
}

impl Puller<'_> {
    async fn run(self) -> Result<Snapshot> {
        let commit = self.commit().await?;
        (self.report)(Event::Resolved {
            revision: self.revision,
            commit: &commit,
        });
        let tree = self.tree(&commit).await?;
        let Some(tree) = tree else {
            return self.unlisted(commit);
        };
        let files: Vec<(&str, &TreeFile)> = tree
            .files()
            .filter(|(path, _)| self.options.selection.wants(path))
            .collect();
        if files.is_empty() && !tree.0.is_empty() {
            return Err(HubError::Invalid {
                field: "include",
                message: format!(
                    "none of the {} files of {}@{commit} is wanted; look at --include and --exclude",
                    tree.0.len(),
                    self.repo
                ),
            });
        }
        let downloaded_bytes = if self.offline {
            self.require_all(&commit, &files)?;
            0
        } else {
            self.bring(&commit, &files).await?
        };
        Ok(Snapshot {
            repo: self.repo.clone(),
            revision: self.revision.clone(),
            path: self.layout.snapshot(&commit),
            files: files.len(),
            bytes: files.iter().map(|(_, file)| file.size).sum(),
            commit,
            downloaded_bytes,
        })
    }

    /// What the revision stands for. A full commit stands for itself.
    pub(super) async fn commit(&self) -> Result<Commit> {
        let known = self.revision.commit();
        if let Some(commit) = known {
            return Ok(commit);
        }
        let before = self.layout.read_ref(self.revision);
        if self.offline {
            return before.ok_or_else(|| self.missing_offline("it was never downloaded"));
        }
        let url = self.http.info_address(self.repo, self.revision);
        let asked = self.ask::<Info>(&url).await.and_then(|(info, _)| {
            if let Some(id) = info.id.filter(|id| id != self.repo.as_str()) {
                (self.report)(Event::Renamed {
                    from: self.repo,
                    to: &shown(&id),
                });
            }
            let sha = shown(&info.sha);
            info.sha
                .parse()
                .map_err(|_| protocol(&url, format!("`{sha}` in place of a commit")))
        });
        match (asked, before) {
            // What was complete yesterday can be used today; which commit it is, is said.
            (Err(error), Some(commit)) if error.is_passing() && self.is_complete(&commit) => {
                (self.report)(Event::Unasked {
                    revision: self.revision,
                    commit: &commit,
                    reason: &error.to_string(),
                });
                Ok(commit)
            }
            (asked, _) => asked,
        }
    }

    /// What the commit consists of; `None` when only an earlier download of another program could tell.
    pub(super) async fn tree(&self, commit: &Commit) -> Result<Option<Tree>> {
        let kept = self.layout.tree(commit);
        if let Some(tree) = Tree::read(&kept) {
            return Ok(Some(tree));
        }
        if self.offline {
            return Ok(None);
        }
        let mut tree = Tree::default();
        let mut next = Some(self.http.tree_address(self.repo, commit));
        let name = format!("{}@{commit}", self.repo);
        let mut pages = 0;
        while let Some(url) = next {
            pages += 1;
            // A page is of the Hub, and so is the token that goes with the question.
            if !self.http.is_hub(&url) || pages > MAX_PAGES {
                return Err(protocol(
                    &url,
                    "a listing that goes on elsewhere or without end".into(),
                ));
            }
            let (page, headers) = self.ask::<Vec<Entry>>(&url).await?;
            tree.extend(&name, page)?;
            next = next_page(&headers, &url);
        }
        self.layout.create()?;
        tree.write(&kept, &self.layout.temporary())?;
        Ok(Some(tree))
    }

    /// Asks the Hub's API, again when the answer does not come.
    pub(super) async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        url: &Url,
    ) -> Result<(T, reqwest::header::HeaderMap)> {
        let mut retry = Retry::new(self.options.patience.min(ASKING));
        loop {
            let answer = self.http.json(url, self.repo, self.revision.as_str()).await;
            let read = answer.and_then(|(body, headers)| {
                let value = serde_json::from_slice(&body);
                let value = value.map_err(|error| protocol(url, error.to_string()))?;
                Ok((value, headers))
            });
            let error = match read {
                Ok(read) => return Ok(read),
                Err(error) => error,
            };
            let reason = error.to_string();
            let delay = retry.delay(error)?;
            (self.report)(Event::Retrying {
                file: self.repo.as_str(),
                reason: &reason,
                delay,
            });
            tokio::time::sleep(delay).await;
        }
    }

    /// Fetches and links what is missing; returns the bytes that came.
    async fn bring(&self, commit: &Commit, files: &[(&str, &TreeFile)]) -> Result<u64> {
        // Equal files are one blob.
        let mut blobs: BTreeMap<String, (Vec<&str>, &TreeFile)> = BTreeMap::new();
        for (path, file) in files {
            let digest = file.digest();
            let entry = blobs.entry(digest.hex().to_owned());
            entry.or_insert_with(|| (Vec::new(), file)).0.push(path);
        }
        if self.options.verify {
            self.drop_damaged(&blobs).await?;
        }
        let (there, missing): (Vec<_>, Vec<_>) = blobs
            .iter()
            .partition(|(etag, (_, file))| is_there(&self.layout.blob(etag), file.size));
        let bytes = missing.iter().map(|(_, (_, file))| file.size).sum();
        (self.report)(Event::Planned {
            files: files.len(),
            missing: missing.len(),
            bytes,
        });
        if !missing.is_empty() {
            self.layout.create()?;
            self.require_room(&missing)?;
        }
        for (etag, (paths, file)) in there {
            tidy(&self.layout.blob(etag), &self.layout.lock(etag))?;
            self.link(commit, paths, etag, file)?;
        }
        let shared = Arc::new(Shared {
            http: Http::new(self.http.endpoint(), self.http.token(), self.options.stall)?,
            connections: Semaphore::new(self.options.connections.max(1)),
            workers: self.options.connections.max(1),
            piece_bytes: self.options.piece_bytes.max(1),
            patience: self.options.patience,
            report: Arc::clone(self.report),
        });
        let fetches = missing.into_iter().map(|(etag, (paths, file))| {
            let shared = Arc::clone(&shared);
            let wanted = Arc::new(Wanted {
                repo: self.repo.clone(),
                commit: commit.clone(),
                path: paths.first().copied().unwrap_or_default().to_owned(),
                size: file.size,
                digest: file.digest(),
            });
            async move {
                let (blob, lock) = (self.layout.blob(etag), self.layout.lock(etag));
                let fetched = fetch(&shared, wanted, &blob, &lock).await?;
                self.link(commit, paths, etag, file)?;
                Ok::<u64, HubError>(fetched)
            }
        });
        let fetched: Vec<u64> = futures_util::stream::iter(fetches)
            .buffer_unordered(FILES_AT_ONCE)
            .try_collect()
            .await?;
        // Only now: who reads the branch offline finds the commit before or this one, whole.
        self.layout.write_ref(self.revision, commit)?;
        Ok(fetched.iter().sum())
    }

    fn link(&self, commit: &Commit, paths: &[&str], etag: &str, file: &TreeFile) -> Result<()> {
        for path in paths {
            let is_file = std::fs::symlink_metadata(self.layout.snapshot(commit).join(path))
                .is_ok_and(|found| found.is_file());
            // Where links were not possible, others put the content itself in its place.
            if !(is_file && self.layout.size_of(commit, path) == Some(file.size)) {
                self.layout.link(commit, path, etag)?;
            }
            (self.report)(Event::Linked { file: path });
        }
        Ok(())
    }

    /// Removes blobs whose content is not what their name says.
    async fn drop_damaged(&self, blobs: &BTreeMap<String, (Vec<&str>, &TreeFile)>) -> Result<()> {
        for (etag, (paths, file)) in blobs {
            let blob = self.layout.blob(etag);
            if !is_there(&blob, file.size) {
                continue;
            }
            let (kind, path) = (file.digest(), blob.clone());
            let read = tokio::task::spawn_blocking(move || digest::of_file(&path, &kind)).await;
            let read = read.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            let (_, found) = read.map_err(|e| HubError::io("read", &blob, e))?;
            if found != *etag {
                remove_file(&blob)?;
                (self.report)(Event::Removed {
                    file: paths.first().copied().unwrap_or_default(),
                    reason: &format!(
                        "its {} is {found}, the Hub's is {etag}",
                        file.digest().kind()
                    ),
                });
            }
        }
        Ok(())
    }

    /// Refuses before the first byte when the files would not fit.
    fn require_room(&self, missing: &[(&String, &(Vec<&str>, &TreeFile))]) -> Result<()> {
        let needed = missing.iter().try_fold(0u64, |sum, (etag, (_, file))| {
            // What an earlier attempt reserved is taken from the disk already.
            let reserved = bytes_reserved(&self.layout.blob(etag));
            sum.checked_add(file.size.saturating_sub(reserved))
        });
        let (free, reserve) = (self.layout.free_bytes()?, self.options.reserve_bytes);
        let needed = needed.unwrap_or(u64::MAX);
        if free < reserve.saturating_add(needed) {
            return Err(HubError::DiskFull {
                path: self.layout.folder(),
                needed,
                reserve,
                free,
            });
        }
        Ok(())
    }

    /// Whether all wanted files of a commit are there, as far as that can be known without asking.
    fn is_complete(&self, commit: &Commit) -> bool {
        Tree::read(&self.layout.tree(commit)).is_some_and(|tree| {
            let mut wanted = tree
                .files()
                .filter(|(path, _)| self.options.selection.wants(path));
            wanted.all(|(path, file)| self.layout.size_of(commit, path) == Some(file.size))
        })
    }

    /// Offline: names what is not there.
    fn require_all(&self, commit: &Commit, files: &[(&str, &TreeFile)]) -> Result<()> {
        let missing: Vec<&str> = files
            .iter()
            .filter(|(path, file)| self.layout.size_of(commit, path) != Some(file.size))
            .map(|(path, _)| *path)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut names: Vec<String> = missing.iter().take(NAMED).map(|path| shown(path)).collect();
        if missing.len() > NAMED {
            names.push(format!("{} more", missing.len() - NAMED));
        }
        let what = format!("{} of {} files are not there", missing.len(), files.len());
        Err(self.missing_offline(&format!("{what}: {}", names.join(", "))))
    }

    /// Offline, and no listing: what another program downloaded is taken as it is.
    fn unlisted(&self, commit: Commit) -> Result<Snapshot> {
        let path = self.layout.snapshot(&commit);
        let mut found = Vec::new();
        super::cache::walk(&path, "", &mut found);
        found.retain(|(path, _)| self.options.selection.wants(path));
        if found.is_empty() {
            let message = format!("commit {commit} was never downloaded");
            return Err(self.missing_offline(&message));
        }
        Ok(Snapshot {
            repo: self.repo.clone(),
            revision: self.revision.clone(),
            commit,
            path,
            files: found.len(),
            bytes: found.iter().map(|(_, size)| size.unwrap_or(0)).sum(),
            downloaded_bytes: 0,
        })
    }

    pub(super) fn missing_offline(&self, message: &str) -> HubError {
        HubError::Offline {
            what: format!("{}@{}", self.repo, self.revision),
            message: format!(
                "{message}, in {}, and HF_HUB_OFFLINE is set; unset it and run `leoma-node models pull {} \
                 --revision {}`",
                self.layout.folder().display(),
                self.repo,
                self.revision
            ),
        }
    }
}
