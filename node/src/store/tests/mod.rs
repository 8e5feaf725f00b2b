//! The store on real files.
#![allow(clippy::unwrap_used)]

mod crash;
mod database;
mod jobs;
mod kill;
mod lists;
mod retention;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// Limits that stop nothing.
fn options() -> StoreOptions {
    StoreOptions {
        retention_age: None,
        retention_bytes: u64::MAX,
        min_free_bytes: 0,
        max_queued: 1000,
    }
}

fn open(dir: &Path) -> (Store, Recovered) {
    Store::open(dir, options()).unwrap()
}

/// A store in a fresh folder.
fn fresh() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let (store, recovered) = open(dir.path());
    assert_eq!(recovered, Recovered::default());
    (dir, store)
}

fn job() -> NewJob {
    NewJob {
        priority: 0,
        request: json!({"prompt": "a boat", "seed": u64::MAX}),
        image: None,
        batch_id: None,
    }
}

fn job_with_picture(bytes: &[u8]) -> NewJob {
    NewJob {
        image: Some(bytes.to_vec()),
        ..job()
    }
}

fn key(name: &str, request: u8) -> Idempotency {
    Idempotency {
        key: name.into(),
        fingerprint: [request; 32],
    }
}

fn finished(media: &[u8]) -> Finished {
    Finished {
        media: media.to_vec(),
        content_type: "video/mp4".into(),
        poster_jpeg: Some(b"poster".to_vec()),
        effective: json!({"seed": 7}),
        timings: json!({"denoise_s": 1.5}),
        events: vec![json!({"type": "queued"}), json!({"type": "completed"})],
    }
}

fn cancelled() -> JobError {
    JobError {
        code: "cancelled".into(),
        message: "cancelled on request".into(),
    }
}

async fn insert(store: &Store, job: NewJob) -> String {
    match store.insert(vec![job], None).await.unwrap() {
        Inserted::New(jobs) if jobs.len() == 1 => jobs[0].id.clone(),
        other => panic!("{other:?}"),
    }
}

async fn claim(store: &Store) -> JobRecord {
    store.claim_next().await.unwrap().unwrap()
}

/// Inserts, starts and completes a job.
async fn make(store: &Store, media: &[u8]) -> String {
    let id = insert(store, job()).await;
    assert_eq!(claim(store).await.id, id);
    store.complete(&id, finished(media)).await.unwrap();
    id
}

async fn status(store: &Store, id: &str) -> JobStatus {
    store.get(id).await.unwrap().unwrap().status
}

/// Names in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// The folder as a killed process would leave it at this moment: nothing is closed or flushed first.
fn as_killed(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for folder in ["", "inputs", "results"] {
        let target = copy.path().join(folder);
        fs::create_dir_all(&target).unwrap();
        for entry in fs::read_dir(dir.join(folder)).unwrap() {
            let entry = entry.unwrap();
            // The index of the log is in shared memory and does not count after a crash.
            if entry.file_type().unwrap().is_file() && entry.file_name() != "jobs.sqlite-shm" {
                fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
            }
        }
    }
    copy
}
