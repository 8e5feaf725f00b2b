//! The engine thread and the handle to it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::queue::Queue;
use super::{Admission, Backend, EngineError, Job, Load, ModelInfo, Ticket};
use crate::generation::GenerationRequest;

/// Handle to the engine thread. Shared by every connection; dropping it closes the queue.
#[derive(Debug)]
pub struct Engine {
    queue: Arc<Queue>,
    info: ModelInfo,
    admission: Arc<dyn Admission>,
    /// Closed by the thread when it ends.
    alive: watch::Receiver<()>,
}

impl Engine {
    /// Starts the thread, loads the model on it and returns once it is ready for jobs.
    ///
    /// `queue_capacity` is how many jobs may wait behind the running one.
    ///
    /// # Errors
    /// What `load` returned, [`EngineError::Panicked`] if it panicked, or [`EngineError::Local`] if the
    /// thread cannot be started.
    pub fn start<B, E>(
        queue_capacity: usize,
        load: impl FnOnce() -> Result<B, E> + Send + 'static,
    ) -> Result<Self, E>
    where
        B: Backend + 'static,
        E: From<EngineError> + Send + 'static,
    {
        let queue = Arc::new(Queue::new(queue_capacity));
        let (alive_sender, alive) = watch::channel(());
        let (ready, loaded) = mpsc::channel();
        let work = Arc::clone(&queue);
        let body = move || {
            let _alive = alive_sender;
            let loaded = guarded(|| Ok(load())).unwrap_or_else(|panic| Err(panic.into()));
            let mut backend = match loaded {
                Ok(backend) => backend,
                Err(error) => {
                    let _ = ready.send(Err(error)); // `start` waits for it below
                    return;
                }
            };
            if ready
                .send(Ok((backend.info(), backend.admission())))
                .is_ok()
            {
                run(&work, &mut backend);
            }
        };
        thread::Builder::new()
            .name("engine".into())
            .spawn(body)
            .map_err(|e| EngineError::local(format!("cannot start the engine thread: {e}")))?;
        let (info, admission) = loaded.recv().unwrap_or_else(|_| {
            let message = "the engine thread ended while the model was loading";
            Err(EngineError::local(message).into())
        })?;
        Ok(Self {
            queue,
            info,
            admission,
            alive,
        })
    }

    /// What is loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// How busy the engine is. Never waits for the device.
    pub fn load(&self) -> Load {
        self.queue.load()
    }

    /// Whether a job would be admitted now; a cheap look before a large body is read.
    ///
    /// # Errors
    /// [`EngineError::Busy`] or [`EngineError::ShuttingDown`].
    pub fn admit(&self) -> Result<(), EngineError> {
        self.queue.admit()
    }

    /// Turns a request into a job. May take milliseconds (the picture is decoded): not for async threads.
    ///
    /// # Errors
    /// What is wrong with the request.
    pub fn prepare(&self, request: &GenerationRequest) -> Result<Job, EngineError> {
        self.admission.prepare(request)
    }

    /// Queues a job.
    ///
    /// # Errors
    /// [`EngineError::Busy`] when the queue is full, [`EngineError::ShuttingDown`] after
    /// [`Self::close`].
    pub fn submit(&self, job: Job) -> Result<Ticket, EngineError> {
        self.queue.push(job)
    }

    /// Takes no more jobs; those admitted are still done.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Fails the waiting jobs and asks the running one to stop.
    pub fn cancel_all(&self) {
        self.queue.cancel_all();
    }

    /// After [`Self::close`]: waits until the thread has ended; false if it has not within `limit`.
    pub async fn ended(&self, limit: Duration) -> bool {
        let mut alive = self.alive.clone();
        tokio::time::timeout(limit, async { while alive.changed().await.is_ok() {} })
            .await
            .is_ok()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.queue.close();
        self.queue.cancel_all();
    }
}

fn run(queue: &Queue, backend: &mut impl Backend) {
    while let Some(entry) = queue.next() {
        if entry.answer.is_closed() {
            queue.finish(false);
            continue;
        }
        let start = Instant::now();
        tracing::info!(job = entry.id, request = ?entry.job, "job started");
        let result = guarded(|| backend.generate(&entry.job, &entry.control));
        let seconds = start.elapsed().as_secs_f64();
        match &result {
            Ok(clip) => {
                tracing::info!(job = entry.id, seconds, result = ?clip, "job done");
            }
            Err(EngineError::Cancelled) => tracing::info!(job = entry.id, seconds, "job cancelled"),
            Err(error) => {
                tracing::error!(job = entry.id, seconds, code = error.code(), %error, "job failed");
            }
        }
        // The place is free before the answer leaves, so that a caller may ask again at once.
        queue.finish(result.is_ok());
        let _ = entry.answer.send(result); // nobody is left to hear it when the caller has gone
    }
}

/// Runs a piece of work so that a panic in it is an error of that work only.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        Err(EngineError::Panicked {
            message: panic_message(payload.as_ref()),
        })
    })
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panic without a message".into())
}
