//! Downloads from a Hub on this machine that cuts, lies, throttles and fails.
#![allow(clippy::unwrap_used, missing_docs)]

mod commands;
mod cuts;
mod dates;
mod faults;
mod killed;
mod metadata;
mod offline;
mod plain;
mod publish;
mod python;
mod server;
mod together;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leoma_node::hub::{
    Event, HubError, HubSettings, PullOptions, RepoId, Report, Revision, Snapshot, pull,
};

use server::Hub;

const REPO: &str = "miner/leoma-model";
const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";

/// Settings for a Hub and a cache.
fn settings(hub: &Hub, cache: &Path) -> HubSettings {
    HubSettings {
        endpoint: hub.url().parse().unwrap(),
        token: None,
        cache: cache.to_owned(),
        offline: false,
    }
}

/// Small pieces and little patience, because files and time are small here.
fn options() -> PullOptions {
    PullOptions {
        connections: 4,
        piece_bytes: 10_000,
        // A machine that is busy is no server that is silent.
        stall: Duration::from_secs(60),
        patience: Duration::from_secs(2),
        reserve_bytes: 0,
        ..PullOptions::default()
    }
}

/// What was told.
#[derive(Default)]
struct Told {
    lines: Mutex<Vec<String>>,
    bytes: Mutex<i64>,
}

impl Told {
    fn report(self: &Arc<Self>) -> Report {
        let told = Arc::clone(self);
        Arc::new(move |event: Event<'_>| {
            match event {
                Event::Bytes(bytes) | Event::Kept(bytes) => {
                    *told.bytes.lock().unwrap() += bytes as i64
                }
                Event::StartedOver { lost, .. } => *told.bytes.lock().unwrap() -= lost as i64,
                _ => {}
            }
            if !matches!(event, Event::Bytes(_) | Event::Kept(_)) {
                told.lines.lock().unwrap().push(format!("{event:?}"));
            }
        })
    }

    fn count(&self, word: &str) -> usize {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line.starts_with(word)).count()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}

/// One download.
fn fetch(
    settings: &HubSettings,
    revision: &str,
    options: &PullOptions,
) -> (Result<Snapshot, HubError>, Arc<Told>) {
    fetch_repo(settings, REPO, revision, options)
}

fn fetch_repo(
    settings: &HubSettings,
    repo: &str,
    revision: &str,
    options: &PullOptions,
) -> (Result<Snapshot, HubError>, Arc<Told>) {
    let told = Arc::new(Told::default());
    let repo: RepoId = repo.parse().unwrap();
    let revision: Revision = revision.parse().unwrap();
    let result = block_on(pull(settings, &repo, &revision, options, &told.report()));
    (result, told)
}

fn folder(cache: &Path) -> PathBuf {
    cache.join("models--miner--leoma-model")
}

/// Every file and link below a folder: its content, or where it leads.
fn below(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap();
            let name = path
                .strip_prefix(folder)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                found.insert(name, format!("-> {}", target.display()));
            } else {
                let text = fs::read(&path).unwrap();
                found.insert(name, String::from_utf8_lossy(&text).into_owned());
            }
        }
    }
    found
}

/// What must hold of a cache at any moment: names of blobs are those of their contents, and links lead to blobs.
fn assert_sound(cache: &Path) {
    let folder = folder(cache);
    for entry in fs::read_dir(folder.join("blobs")).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.contains('.') {
            let ours = name.ends_with(".leoma.incomplete")
                || name.ends_with(".leoma.journal")
                || name.ends_with(".leoma.journal.new");
            assert!(ours, "{name}");
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let found = match name.len() {
            64 => server::large(bytes).etag(),
            _ => server::small(bytes).etag(),
        };
        assert_eq!(found, name, "a poisoned blob");
    }
    for (path, target) in below(&folder.join("snapshots")) {
        assert!(target.starts_with("-> "), "{path}");
        let pointed = folder.join("snapshots").join(&path);
        assert!(fs::metadata(&pointed).is_ok(), "{path} leads to nothing");
    }
}
