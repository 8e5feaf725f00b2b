//! Moves jobs from the store through the engine and back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::live::Live;
use super::{Jobs, priority_of};
use crate::engine::{Clip, Engine, EngineError, Job, Progress, Submission, Ticket};
use crate::store::{Finished, JobError, JobRecord, StoreError};

/// How often a reason to wait is looked at again.
const PAUSE: Duration = Duration::from_secs(1);
/// Times a job is begun before the device's failures are taken to be its own doing.
const ATTEMPTS: u32 = 2;

/// Turns what the store holds of a request back into a job, on a thread where that may take its time.
pub type PrepareJob =
    Arc<dyn Fn(&Value, Option<Vec<u8>>) -> Result<Job, EngineError> + Send + Sync>;

/// Runs jobs until the engine is closed, then sees the begun ones to their end.
pub async fn run(jobs: Jobs, engine: Arc<Engine>, prepare: PrepareJob) {
    let mut begun = JoinSet::new();
    loop {
        while begun.try_join_next().is_some() {}
        // Only then is a job claimed: while it waits in the store, nothing that happens counts against it.
        if engine.calm().await.is_err() {
            break;
        }
        if !room_on_disk(&jobs) {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        match jobs.0.store.claim_next().await {
            // What ended together with the node before runs alone, so that a second end is its own doing
            // and no other job's.
            Ok(Some(record)) if record.attempts > 1 && !begun.is_empty() => {
                until_written(|| jobs.0.store.requeue(&record.id, false)).await;
                while begun.join_next().await.is_some() {}
            }
            Ok(Some(record)) => {
                let alone = record.attempts > 1;
                if let Some(following) = begin(&jobs, &engine, &prepare, record).await {
                    begun.spawn(following);
                }
                while alone && begun.join_next().await.is_some() {}
            }
            Ok(None) => tokio::select! {
                () = jobs.0.wake.notified() => {}
                () = engine.closed() => {}
            },
            Err(error) => {
                tracing::error!(%error, "cannot take the next job");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    while begun.join_next().await.is_some() {}
}

/// Whether there is room for a result; a full disk pauses and loses nothing.
fn room_on_disk(jobs: &Jobs) -> bool {
    let room = match jobs.0.store.disk() {
        Ok(disk) => disk.ok && !jobs.full().waits(),
        Err(error) => {
            tracing::error!(%error, "cannot look at the disk");
            false
        }
    };
    let was_paused = jobs.0.paused.swap(!room, Ordering::Relaxed);
    match (was_paused, room) {
        (false, false) => tracing::error!("the disk is full: jobs wait until there is room"),
        (true, true) => tracing::info!("there is room on the disk again"),
        _ => {}
    }
    room
}

/// Hands a claimed job to the engine; what is left is to follow it.
async fn begin(
    jobs: &Jobs,
    engine: &Arc<Engine>,
    prepare: &PrepareJob,
    record: JobRecord,
) -> Option<impl Future<Output = ()> + use<>> {
    let live = jobs.0.unfinished.open(&record.id);
    // It may be begun before its creator has told that it waits.
    live.queued(Map::new());
    live.event("started", Map::new());
    let jobs = jobs.clone();
    let prepared = prepared(&jobs, prepare, &record).await;
    let (listener, progress) = mpsc::unbounded_channel();
    let ticket = prepared.and_then(|job| {
        engine.submit(Submission {
            job: Arc::new(job),
            priority: priority_of(record.priority),
            deadline: None,
            listener: Some(listener),
            bounded: false,
        })
    });
    match ticket {
        Ok(ticket) => {
            tracing::info!(
                job = ticket.id(),
                video = record.id,
                "job handed to the engine"
            );
            Some(async move { follow(jobs, record, live, ticket, progress).await })
        }
        Err(error) => {
            end(&jobs, &record, &live, Err(error)).await;
            None
        }
    }
}

async fn prepared(
    jobs: &Jobs,
    prepare: &PrepareJob,
    record: &JobRecord,
) -> Result<Job, EngineError> {
    let image = jobs.0.store.image(&record.id).await.map_err(store_error)?;
    let (prepare, request) = (Arc::clone(prepare), record.request.clone());
    tokio::task::spawn_blocking(move || prepare(&request, image))
        .await
        .unwrap_or_else(|error| {
            Err(EngineError::Panicked {
                message: error.to_string(),
            })
        })
}

fn store_error(error: StoreError) -> EngineError {
    let message = error.to_string();
    if error.is_disk_full() {
        EngineError::DiskFull { message }
    } else {
        EngineError::Local { message }
    }
}

async fn follow(
    jobs: Jobs,
    record: JobRecord,
    live: Arc<Live>,
    mut ticket: Ticket,
    mut progress: mpsc::UnboundedReceiver<Progress>,
) {
    let outcome = {
        let outcome = ticket.outcome();
        let mut outcome = std::pin::pin!(outcome);
        loop {
            tokio::select! {
                biased;
                Some(progress) = progress.recv() => live.progress(progress),
                () = live.stopped() => break None,
                outcome = &mut outcome => break Some(outcome),
            }
        }
    };
    match outcome {
        Some(outcome) => {
            // News that came together with the end.
            while let Ok(news) = progress.try_recv() {
                live.progress(news);
            }
            end(&jobs, &record, &live, outcome).await;
        }
        // Cancelled: the store has it, and dropping the ticket stops the engine.
        None => drop(ticket),
    }
}

/// Writes the outcome down, as often as it takes.
async fn end(
    jobs: &Jobs,
    record: &JobRecord,
    live: &Arc<Live>,
    outcome: Result<Clip, EngineError>,
) {
    match outcome {
        Ok(clip) => complete(jobs, record, live, clip).await,
        Err(error) => match verdict(&error, record.attempts) {
            Verdict::Again { counts } => requeue(jobs, record, live, &error, counts).await,
            Verdict::Failed => fail(jobs, record, live, &error).await,
        },
    }
}

enum Verdict {
    /// Back into the queue; `counts`: the attempt may have been the job's own doing.
    Again {
        counts: bool,
    },
    Failed,
}

fn verdict(error: &EngineError, attempts: u32) -> Verdict {
    match error {
        // Only shutdown cancels a job that nobody cancelled.
        EngineError::ShuttingDown | EngineError::Cancelled | EngineError::DiskFull { .. } => {
            Verdict::Again { counts: false }
        }
        EngineError::DeviceLost { .. } if attempts < ATTEMPTS => Verdict::Again { counts: true },
        _ => Verdict::Failed,
    }
}

async fn complete(jobs: &Jobs, record: &JobRecord, live: &Arc<Live>, clip: Clip) {
    let timings = Value::Object(
        clip.stages()
            .into_iter()
            .chain([("queue", clip.queue_s)])
            .map(|(name, seconds)| (format!("{name}_s"), json!(seconds)))
            .collect(),
    );
    let finished = Finished {
        content_type: clip.media.format.content_type().to_owned(),
        media: clip.media.bytes.into(),
        poster_jpeg: Some(clip.media.poster.into()).filter(|poster: &Vec<u8>| !poster.is_empty()),
        effective: record.request["parameters"].clone(),
        timings,
        events: live.events_ending("completed"),
    };
    match jobs.0.store.complete(&record.id, finished).await {
        // It may have been cancelled meanwhile; then that has been told.
        Ok(job) if job.status == crate::store::JobStatus::Completed => {
            *jobs.full() = super::Full::default();
            live.end("completed");
            jobs.0.unfinished.close(&record.id);
        }
        Ok(_) => jobs.0.unfinished.close(&record.id),
        Err(error) => {
            tracing::error!(video = record.id, %error, "cannot keep the clip");
            let error = store_error(error);
            match error {
                EngineError::DiskFull { .. } => {
                    jobs.0.paused.store(true, Ordering::Relaxed);
                    requeue(jobs, record, live, &error, false).await;
                }
                error => fail(jobs, record, live, &error).await,
            }
        }
    }
}

async fn requeue(
    jobs: &Jobs,
    record: &JobRecord,
    live: &Arc<Live>,
    error: &EngineError,
    counts: bool,
) {
    tracing::warn!(
        video = record.id,
        code = error.code(),
        "back into the queue"
    );
    if matches!(error, EngineError::DiskFull { .. }) {
        jobs.full().again();
    }
    until_written(|| jobs.0.store.requeue(&record.id, counts)).await;
    live.requeued(&error.to_string());
    jobs.0.wake.notify_one();
}

async fn fail(jobs: &Jobs, record: &JobRecord, live: &Arc<Live>, error: &EngineError) {
    let told = JobError {
        code: error.code().to_owned(),
        message: error.to_string(),
    };
    until_written(|| {
        let events = live.events_ending("failed");
        jobs.0.store.fail(&record.id, told.clone(), events)
    })
    .await;
    live.end("failed");
    jobs.0.unfinished.close(&record.id);
}

/// Tries until the store takes it: an outcome that is not written down would be lost with the process.
async fn until_written<T, F>(mut write: impl FnMut() -> F)
where
    F: Future<Output = Result<T, StoreError>>,
{
    while let Err(error) = write().await {
        tracing::error!(%error, "cannot write the outcome of a job; trying again");
        tokio::time::sleep(PAUSE).await;
    }
}
