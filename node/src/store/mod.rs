//! The store: jobs that survive the process, in SQLite and plain files.
//!
//! ```text
//! DIR/lock             held while a process owns the folder
//! DIR/reserve        held back from the disk, so that a full one can still be put in order
//! DIR/jobs.sqlite      one row per job; the row is the truth, files without one are litter
//! DIR/inputs/ID        the picture as the caller sent it, until the job ends
//! DIR/results/ID.mp4   the result (.png for a still), and ID.jpg its poster
//! ```
//!
//! Files are written through to the disk before the row that names them, and removed after the row that
//! stops naming them. So a process that is killed at any point leaves at worst files that no row names,
//! which the next start removes, and jobs in progress, which it queues again.
//!
//! One thread owns the connection. [`Store`] is its handle: cheap to clone, asynchronous, and closed when
//! the last clone is dropped. Nothing here knows the engine or HTTP.

mod clock;
mod db;
mod error;
mod files;
mod record;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod upkeep;

use std::fmt::{self, Debug, Formatter};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use db::{Db, NewRow, Staged};
use error::Failure;
use files::Files;

pub use error::StoreError;
pub use record::{
    Counts, Disk, Finished, Idempotency, Inserted, JobError, JobRecord, JobStatus, NewJob, Page,
    Recovered, ResultFile, StoreOptions, Swept,
};
pub(crate) use schema::{Look, open_file};

/// Calls that may wait for the thread; more wait to be let in.
const WAITING_CALLS: usize = 256;

type Work = Box<dyn FnOnce(&mut Db) + Send>;

/// Handle of the job store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
    files: Files,
    min_free_bytes: u64,
}

impl Drop for Inner {
    /// Waits for the thread, so that the folder is free again once the last handle is gone.
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the job store's thread panicked");
        }
    }
}

impl Debug for Store {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("database", &self.inner.files.database())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the data folder, making it when it is missing, and puts right what an earlier run left.
    ///
    /// # Errors
    /// When another process owns the folder, or the database is damaged, foreign or newer. Nothing is
    /// changed then.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<(Self, Recovered), StoreError> {
        let files = Files::create(dir)?;
        let lock = files.lock()?;
        let connection = schema::open(&files).or_else(|error| {
            if !error.is_disk_full() {
                return Err(error);
            }
            files.release_reserve();
            schema::open(&files)
        })?;
        let min_free_bytes = options.min_free_bytes;
        let mut db = Db::new(connection, files.clone(), options, lock);
        let recovered = db
            .on_reserve(Db::recover)
            .map_err(|failure| failure.in_file(files.database()))?;
        files.keep_reserve();
        let (work, mut calls) = mpsc::channel::<Work>(WAITING_CALLS);
        let thread = thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                while let Some(call) = calls.blocking_recv() {
                    // A defect costs the call it is in, not the jobs of everybody else.
                    if catch_unwind(AssertUnwindSafe(|| call(&mut db))).is_err() {
                        tracing::error!("a call of the job store panicked");
                    }
                }
            })
            .map_err(|e| StoreError::io("start the thread for", files.database(), e))?;
        let inner = Inner {
            work: Some(work),
            thread: Some(thread),
            files,
            min_free_bytes,
        };
        let store = Self {
            inner: Arc::new(inner),
        };
        Ok((store, recovered))
    }

    /// Stores jobs, all or none, once per key.
    ///
    /// # Errors
    /// [`StoreError::QueueFull`], [`StoreError::IdempotencyMismatch`], [`StoreError::DiskFull`].
    pub async fn insert(
        &self,
        jobs: Vec<NewJob>,
        key: Option<Idempotency>,
    ) -> Result<Inserted, StoreError> {
        if jobs.is_empty() {
            return Ok(Inserted::New(Vec::new()));
        }
        let mut rows = Vec::with_capacity(jobs.len());
        let mut pictures = Vec::new();
        for job in jobs {
            let row = NewRow {
                id: files::new_id(),
                priority: job.priority,
                request: job.request,
                image_bytes: job.image.as_ref().map(|bytes| bytes.len() as u64),
                batch_id: job.batch_id,
            };
            if let Some(bytes) = job.image {
                pictures.push((row.id.clone(), bytes));
            }
            rows.push(row);
        }
        if !pictures.is_empty() {
            // Asked before anything is written: a refused request costs no disk work.
            let (count, key) = (rows.len(), key.clone());
            let needed = pictures.iter().map(|(_, bytes)| bytes.len() as u64).sum();
            let known = self
                .call(move |db| db.admit(count, key.as_ref(), needed))
                .await?;
            if let Some(jobs) = known {
                return Ok(Inserted::Existing(jobs));
            }
        }
        let files = self.inner.files.clone();
        let written = blocking(move || files.write_inputs(pictures)).await?;
        self.call(move |db| {
            let inserted = db.insert(&rows, key.as_ref())?;
            if matches!(inserted, Inserted::New(_)) {
                written.keep();
            }
            Ok(inserted)
        })
        .await
    }

    /// Starts the job that is next: the highest priority, then the oldest.
    pub async fn claim_next(&self) -> Result<Option<JobRecord>, StoreError> {
        self.call(Db::claim_next).await
    }

    /// Puts a job in progress back into the queue, at its old place; any other job is left as it is.
    ///
    /// With `count_attempt` false the attempt is given back, because it was not the job's doing that it ended.
    pub async fn requeue(&self, id: &str, count_attempt: bool) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |db| db.on_reserve(|db| db.requeue(&id, count_attempt)))
            .await
    }

    /// Publishes the result of a job in progress.
    ///
    /// A job that is not in progress any more, because it was cancelled meanwhile, stays as it is and
    /// the result is dropped; the record says which.
    pub async fn complete(&self, id: &str, finished: Finished) -> Result<JobRecord, StoreError> {
        let files = self.inner.files.clone();
        let staged = blocking(move || stage(&files, finished)).await?;
        let id = id.to_owned();
        self.call(move |db| db.complete(&id, staged)).await
    }

    /// Ends a job without a result; `None` when there is no such job or it has ended already.
    pub async fn fail(
        &self,
        id: &str,
        error: JobError,
        events: Vec<Value>,
    ) -> Result<Option<JobRecord>, StoreError> {
        let id = id.to_owned();
        self.call(move |db| db.on_reserve(|db| db.fail(&id, &error, &events)))
            .await
    }

    /// Notes what an unfinished job is made with; a finished one is left as it is.
    pub async fn set_effective(&self, id: &str, effective: Value) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |db| db.set_effective(&id, &effective)).await
    }

    /// One job.
    pub async fn get(&self, id: &str) -> Result<Option<JobRecord>, StoreError> {
        let id = id.to_owned();
        self.call(move |db| db.get(&id)).await
    }

    /// Jobs in the order of their creation, `limit` of them, from the one after `after`.
    ///
    /// # Errors
    /// [`StoreError::UnknownCursor`] when there is no job `after`.
    pub async fn list(
        &self,
        after: Option<&str>,
        limit: usize,
        newest_first: bool,
        status: Option<JobStatus>,
    ) -> Result<Page, StoreError> {
        let after = after.map(str::to_owned);
        self.call(move |db| db.list(after.as_deref(), limit, newest_first, status))
            .await
    }

    /// How many waiting jobs go before this one; `None` when it does not wait.
    pub async fn queue_position(&self, id: &str) -> Result<Option<usize>, StoreError> {
        let id = id.to_owned();
        self.call(move |db| db.queue_position(&id)).await
    }

    /// Removes a finished job with its files; false when there is no such job.
    ///
    /// # Errors
    /// [`StoreError::NotFinished`].
    pub async fn delete(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.call(move |db| db.on_reserve(|db| db.delete(&id)))
            .await
    }

    /// Removes what retention no longer covers: finished jobs by age, then the oldest finished until the
    /// results fit, and the keys that no job is left for. Works on a full disk.
    pub async fn sweep(&self) -> Result<Swept, StoreError> {
        self.call(|db| db.on_reserve(Db::sweep)).await
    }

    /// Jobs per status.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        self.call(Db::counts).await
    }

    /// Bytes of results, posters and pictures that jobs hold.
    pub async fn stored_bytes(&self) -> Result<u64, StoreError> {
        self.call(Db::stored_bytes).await
    }

    /// Where the result of a job is, or would be.
    pub fn result_path(&self, id: &str, content_type: &str) -> PathBuf {
        self.inner.files.result(id, content_type)
    }

    /// Where the poster of a job is, or would be.
    pub fn poster_path(&self, id: &str) -> PathBuf {
        self.inner.files.poster(id)
    }

    /// The picture of an unfinished job as the caller sent it; `None` when there is none.
    pub async fn image(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.get(id).await? {
            Some(job) if job.has_image && !job.status.is_terminal() => {
                let (files, id) = (self.inner.files.clone(), job.id);
                blocking(move || files.read_input(&id)).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Space on the disk; asks the system at once, on the caller's thread.
    pub fn disk(&self) -> Result<Disk, StoreError> {
        let free_bytes = self.inner.files.free_bytes()?;
        Ok(Disk {
            free_bytes,
            ok: free_bytes >= self.inner.min_free_bytes,
        })
    }

    /// A note by its name.
    pub async fn get_note(&self, key: &str) -> Result<Option<String>, StoreError> {
        let key = key.to_owned();
        self.call(move |db| db.get_note(&key)).await
    }

    /// Writes a note; replaces one of that name.
    pub async fn set_note(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.call(move |db| db.set_note(&key, &value)).await
    }

    /// Runs `call` on the store's thread. It runs to its end even when the caller leaves.
    async fn call<T, F>(&self, call: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Db) -> Result<T, Failure> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |db| {
            // The caller may have left; the work is done all the same.
            let _ = reply.send(call(db));
        });
        let sender = self.inner.work.as_ref().ok_or(StoreError::Internal)?;
        sender.send(work).await.map_err(|_| StoreError::Internal)?;
        answer
            .await
            .map_err(|_| StoreError::Internal)?
            .map_err(|failure| failure.in_file(self.inner.files.database()))
    }
}

/// Runs work on files where it holds nobody up.
async fn blocking<T, F>(work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StoreError> + Send + 'static,
{
    spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "file work of the job store did not end");
        StoreError::Internal
    })?
}

/// Writes a result through to the disk, under temporary names.
fn stage(files: &Files, finished: Finished) -> Result<Staged, StoreError> {
    let digest = Sha256::digest(&finished.media);
    let result = ResultFile {
        bytes: finished.media.len() as u64,
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        content_type: finished.content_type,
    };
    let media = files.stage(&finished.media)?;
    let poster = match &finished.poster_jpeg {
        Some(bytes) => Some((files.stage(bytes)?, bytes.len() as u64)),
        None => None,
    };
    Ok(Staged {
        result,
        media,
        poster,
        effective: finished.effective,
        timings: finished.timings,
        events: finished.events,
    })
}
