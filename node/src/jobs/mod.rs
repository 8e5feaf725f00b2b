//! Durable jobs: what `/v1/videos` is made of.
//!
//! ```text
//! create ──► store (row + picture) ──► runner ──► engine ──► store (file + row)
//!               └───────── events, for any number of listeners, from the first ─────────┘
//! ```
//!
//! The store is the truth; this module moves jobs through it. A job is claimed only when the device is free
//! for it, so that a crash counts against the job that was running and no other. What ends without being the
//! job's doing (shutdown, full disk) puts it back into the queue.

mod live;
mod runner;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::engine::{EngineError, Priority, Stage};
use crate::store::{
    Idempotency, Inserted, JobError, JobRecord, JobStatus, NewJob, Page, Store, StoreError,
};
use crate::telemetry::Metrics;

pub use live::Live;
use live::Unfinished;
pub use runner::{PrepareJob, run};

/// Jobs read at a time while starting.
const PAGE: usize = 100;

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Jobs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    unfinished: Unfinished,
    /// A job has come, or a reason to wait has gone.
    wake: Notify,
    /// Whether nothing is started at present, for lack of room.
    paused: AtomicBool,
    /// After a clip could not be kept although there seemed to be room (a quota): when to try again.
    full: Mutex<Full>,
    metrics: Arc<Metrics>,
}

/// Waits between jobs that ended on a full disk: twice as long each time, until one is kept.
#[derive(Debug, Default)]
struct Full {
    times: u32,
    until: Option<Instant>,
}

impl Full {
    fn again(&mut self) {
        let wait = Duration::from_secs(1 << self.times.min(9));
        self.times += 1;
        self.until = Some(Instant::now() + wait);
    }

    fn waits(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}

/// Where the events of a job are to be had.
#[derive(Debug)]
pub enum Events {
    /// The job goes on.
    Live(Arc<Live>),
    /// The job is finished; these are all.
    Finished(Vec<Value>),
}

impl Jobs {
    /// The service over a store; takes up the jobs that wait in it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Store, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        let jobs = Self(Arc::new(Shared {
            store,
            unfinished: Unfinished::default(),
            wake: Notify::new(),
            paused: AtomicBool::new(false),
            full: Mutex::default(),
            metrics,
        }));
        let mut after: Option<String> = None;
        loop {
            let status = Some(JobStatus::Queued);
            let page = jobs.0.store.list(after.as_deref(), PAGE, false, status);
            let page = page.await?;
            for job in &page.jobs {
                let live = jobs.0.unfinished.open(&job.id);
                live.queued(Map::new());
                if job.attempts > 0 {
                    live.requeued("the node was restarted");
                }
            }
            after = page.jobs.last().map(|job| job.id.clone());
            if !page.has_more {
                return Ok(jobs);
            }
        }
    }

    fn full(&self) -> MutexGuard<'_, Full> {
        self.0.full.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store behind the service.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Takes jobs, all or none; the same key gives the same jobs.
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub async fn create(
        &self,
        jobs: Vec<NewJob>,
        key: Option<Idempotency>,
    ) -> Result<Vec<JobRecord>, StoreError> {
        let this = self.clone();
        to_the_end(async move { this.take(jobs, key).await }).await
    }

    async fn take(
        &self,
        jobs: Vec<NewJob>,
        key: Option<Idempotency>,
    ) -> Result<Vec<JobRecord>, StoreError> {
        let jobs = match self.0.store.insert(jobs, key).await? {
            Inserted::Existing(jobs) => return Ok(jobs),
            Inserted::New(jobs) => jobs,
        };
        for job in &jobs {
            let live = self.0.unfinished.open(&job.id);
            let position = self.0.store.queue_position(&job.id).await.unwrap_or(None);
            let fields = Map::from_iter([("position".to_owned(), position.into())]);
            live.queued(fields);
            // Already begun, perhaps already finished: then nobody else closes the entry.
            if position.is_none()
                && let Ok(Some(job)) = self.0.store.get(&job.id).await
                && job.status.is_terminal()
            {
                self.0.unfinished.close(&job.id);
            }
        }
        self.0.wake.notify_one();
        Ok(jobs)
    }

    /// One job.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn get(&self, id: &str) -> Result<Option<JobRecord>, StoreError> {
        self.0.store.get(id).await
    }

    /// Jobs in the order of their creation.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn list(
        &self,
        after: Option<&str>,
        limit: usize,
        newest_first: bool,
        status: Option<JobStatus>,
    ) -> Result<Page, StoreError> {
        self.0.store.list(after, limit, newest_first, status).await
    }

    /// The live entry of an unfinished job.
    pub fn live(&self, id: &str) -> Option<Arc<Live>> {
        self.0.unfinished.get(id)
    }

    /// The events of a job from the first; `None` when there is no such job.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn events(&self, id: &str) -> Result<Option<Events>, StoreError> {
        if let Some(live) = self.0.unfinished.get(id) {
            return Ok(Some(Events::Live(live)));
        }
        let Some(job) = self.0.store.get(id).await? else {
            return Ok(None);
        };
        Ok(Some(if job.status.is_terminal() {
            Events::Finished(finished_events(job))
        } else {
            // Between the row and its entry: the entry is about to come.
            Events::Live(self.0.unfinished.open(id))
        }))
    }

    /// Ends an unfinished job as `failed` with the code `cancelled`; `None` when it is finished already or
    /// unknown.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn cancel(&self, id: &str) -> Result<Option<JobRecord>, StoreError> {
        let (this, id) = (self.clone(), id.to_owned());
        to_the_end(async move { this.stop(&id).await }).await
    }

    async fn stop(&self, id: &str) -> Result<Option<JobRecord>, StoreError> {
        let live = self.0.unfinished.get(id);
        let events = live.as_ref().map(|live| live.events_ending("failed"));
        let error = JobError {
            code: EngineError::Cancelled.code().to_owned(),
            message: "cancelled on request".into(),
        };
        let ended = self.0.store.fail(id, error, events.unwrap_or_default());
        let Some(job) = ended.await.inspect_err(|_| {
            if let Some(live) = &live {
                live.goes_on();
            }
        })?
        else {
            return Ok(None);
        };
        // The engine counts what has come to it.
        if job.started_at.is_none() {
            self.0.metrics.cancelled(Stage::Queued.name());
            self.0.metrics.finished(EngineError::Cancelled.code());
        }
        if let Some(live) = live {
            live.end("failed");
            live.stop();
        }
        self.0.unfinished.close(id);
        Ok(Some(job))
    }

    /// Removes a finished job; false when there is no such job.
    ///
    /// # Errors
    /// As [`Store::delete`].
    pub async fn delete(&self, id: &str) -> Result<bool, StoreError> {
        self.0.store.delete(id).await
    }

    /// Whether jobs are being started.
    pub fn paused(&self) -> bool {
        self.0.paused.load(Ordering::Relaxed)
    }

    /// Removes what retention does not cover and refreshes the gauges, now and every `interval`.
    pub async fn keep_tidy(&self, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.tidy().await;
        }
    }

    async fn tidy(&self) {
        let Shared { store, metrics, .. } = &*self.0;
        match store.sweep().await {
            Ok(swept) if !swept.jobs.is_empty() => {
                tracing::info!(
                    jobs = swept.jobs.len(),
                    bytes = swept.bytes,
                    "past retention: removed"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "cannot remove what is past retention"),
        }
        if let Ok(bytes) = store.stored_bytes().await {
            metrics.store_bytes.set(bytes as i64);
        }
        if let Ok(disk) = store.disk() {
            metrics.disk_free_bytes.set(disk.free_bytes as i64);
        }
        self.count().await;
    }

    /// Refreshes the gauges of jobs by status.
    pub async fn count(&self) {
        let Ok(counts) = self.0.store.counts().await else {
            return;
        };
        for (state, count) in [
            ("queued", counts.queued),
            ("in_progress", counts.in_progress),
            ("completed", counts.completed),
            ("failed", counts.failed),
        ] {
            let label = crate::telemetry::StateLabel { state };
            self.0.metrics.jobs.get_or_create(&label).set(count as i64);
        }
    }
}

/// Runs work that must not be left half done when the client goes away and the request is dropped: a job
/// would wait in the store without anybody knowing of it.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a change of jobs did not end");
        Err(StoreError::Internal)
    })
}

/// The events of a finished job. One that was ended while the node started has none of its own.
fn finished_events(job: JobRecord) -> Vec<Value> {
    let mut events = job.events;
    let kind = job.status.as_str();
    if events.last().is_none_or(|event| event["type"] != kind) {
        let at = job.completed_at.unwrap_or(job.created_at);
        events.push(serde_json::json!({ "seq": events.len(), "at": at, "type": kind }));
    }
    events
}

/// Priorities in the store: a number that sorts.
pub fn priority_number(priority: Priority) -> i32 {
    match priority {
        Priority::Low => -1,
        Priority::Normal => 0,
        Priority::High => 1,
    }
}

/// The priority behind a number.
pub fn priority_of(number: i32) -> Priority {
    match number {
        ..0 => Priority::Low,
        0 => Priority::Normal,
        1.. => Priority::High,
    }
}
