//! The engine's threads and the handle to them.
//!
//! The engine thread owns the model and denoises; the decoder thread turns latents into files meanwhile; the
//! watchdog looks for signs of life.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::control::Control;
use super::estimate::Speed;
use super::health::{CanaryReport, Health, Watch};
use super::queue::{Entry, Next, Queue, Submission};
use super::{Admission, Backend, Clip, Decode, EngineError, Job, Load, ModelInfo, Ticket};
use crate::generation::GenerationRequest;
use crate::telemetry::Metrics;

/// How the engine works.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Jobs that may wait behind the one being denoised.
    pub queue_capacity: usize,
    /// Silence after which a running job is given up; `None` never.
    pub stall_timeout: Option<Duration>,
    /// From being asked to stop to being given up for good, with the whole process.
    pub stall_grace: Duration,
    /// Time between self-tests; `None` only at the start.
    pub canary_interval: Option<Duration>,
    /// Where counts and times go.
    pub metrics: Arc<Metrics>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            queue_capacity: 4,
            stall_timeout: Some(Duration::from_secs(1800)),
            stall_grace: Duration::from_secs(10),
            canary_interval: None,
            metrics: Arc::default(),
        }
    }
}

/// Handle to the engine. Shared by every connection; dropping it closes the queue.
#[derive(Debug)]
pub struct Engine {
    queue: Arc<Queue>,
    info: ModelInfo,
    admission: Arc<dyn Admission>,
    health: watch::Receiver<Health>,
    /// Closed by the threads when they end.
    alive: watch::Receiver<()>,
}

impl Engine {
    /// Starts the threads, loads the model, tests it and returns once it is ready for jobs.
    ///
    /// # Errors
    /// What `load` returned, [`EngineError::Panicked`] if it panicked, what the self-test found, or
    /// [`EngineError::Local`] if a thread cannot be started.
    pub fn start<B, E>(
        options: EngineOptions,
        load: impl FnOnce() -> Result<B, E> + Send + 'static,
    ) -> Result<Self, E>
    where
        B: Backend + 'static,
        E: From<EngineError> + Send + 'static,
    {
        let queue = Arc::new(Queue::new(
            options.queue_capacity,
            Arc::clone(&options.metrics),
        ));
        let (alive_sender, alive) = watch::channel(());
        let (ready, loaded) = mpsc::channel();
        let (health_sender, health) = watch::channel(Health::default());
        let health_sender = Arc::new(health_sender);

        // One job may wait for the decoder: its latents are small beside what denoising the next one needs.
        let (latents, decoder_inbox) = mpsc::sync_channel::<Handover>(1);
        let finish = Finish {
            queue: Arc::clone(&queue),
            metrics: Arc::clone(&options.metrics),
            health: Arc::clone(&health_sender),
        };
        let decoder = Decoder {
            finish: finish.clone(),
            inbox: decoder_inbox,
            _alive: alive_sender.clone(),
        };
        spawn("decoder", move || decoder.run())?;

        let watchdog = Watch {
            queue: Arc::downgrade(&queue),
            stall_timeout: options.stall_timeout,
            grace: options.stall_grace,
            health: Arc::clone(&health_sender),
        };
        spawn("watchdog", move || watchdog.run())?;

        let canary_interval = options.canary_interval;
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
            let baseline = match guarded(|| backend.canary(&Control::new(None))) {
                Ok(values) => values,
                Err(error) => {
                    tracing::error!(%error, "the self-test failed");
                    let _ = ready.send(Err(error.into()));
                    return;
                }
            };
            finish.health.send_modify(|health| health.canary_passed());
            let mut worker = Worker {
                finish,
                latents,
                canary: Canary {
                    baseline,
                    interval: canary_interval,
                    last: Instant::now(),
                },
            };
            if ready
                .send(Ok((backend.info(), backend.admission())))
                .is_ok()
            {
                worker.run(&mut backend);
            }
        };
        spawn("engine", body)?;
        let (info, admission) = loaded.recv().unwrap_or_else(|_| {
            let message = "the engine thread ended while the model was loading";
            Err(EngineError::local(message).into())
        })?;
        Ok(Self {
            queue,
            info,
            admission,
            health,
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

    /// How well the engine is, now and as it changes. Never waits for the device.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// What was learned about the device's speed, to be kept over a restart.
    pub fn speed(&self) -> Speed {
        self.queue.speed()
    }

    /// Starts with what an earlier run learned.
    pub fn set_speed(&self, speed: Speed) {
        self.queue.set_speed(speed);
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
    /// [`EngineError::Busy`] when the queue is full, [`EngineError::Deadline`] or [`EngineError::TooSlow`]
    /// when the clip would come too late, [`EngineError::ShuttingDown`] after [`Self::close`].
    pub fn submit(&self, submission: Submission) -> Result<Ticket, EngineError> {
        self.queue.push(submission)
    }

    /// Waits until the device is free and nobody waits for it.
    ///
    /// # Errors
    /// [`EngineError::ShuttingDown`] after [`Self::close`].
    pub async fn calm(&self) -> Result<(), EngineError> {
        self.queue.calm().await
    }

    /// Waits until no more jobs are taken.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Takes no more jobs; those admitted are still done.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Fails the waiting jobs and asks the running ones to stop.
    pub fn cancel_all(&self) {
        self.queue.cancel_all(&EngineError::ShuttingDown);
    }

    /// After [`Self::close`]: waits until the threads have ended; false if they have not within `limit`.
    pub async fn ended(&self, limit: Duration) -> bool {
        let mut alive = self.alive.clone();
        tokio::time::timeout(limit, async { while alive.changed().await.is_ok() {} })
            .await
            .is_ok()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
        self.cancel_all();
    }
}

/// What passes from the engine thread to the decoder.
type Handover = (Box<Entry>, Instant, Box<dyn Decode>);

/// What both threads do with a finished job.
#[derive(Clone)]
struct Finish {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    health: Arc<watch::Sender<Health>>,
}

impl Finish {
    /// Counts, logs and answers. The caller has freed the job's place before, so that whoever hears the
    /// answer may ask again at once.
    fn answer(&self, entry: &Entry, start: Instant, result: Result<Clip, EngineError>) {
        let seconds = start.elapsed().as_secs_f64();
        let stage = entry.control.watch().borrow().stage;
        for step in entry.control.take_steps() {
            self.metrics.step_seconds.observe(step);
        }
        // The watchdog's cancellation is not the caller's.
        let result = match (result, self.health.borrow().stalled(entry.id)) {
            (Err(EngineError::Cancelled), Some(after)) => Err(EngineError::Stalled { after }),
            (result, _) => result,
        };
        match &result {
            Ok(clip) => {
                self.metrics.finished("completed");
                for (stage, seconds) in clip.stages() {
                    self.metrics.stage(stage, seconds);
                }
                let made = &clip.effective;
                tracing::info!(
                    job = entry.id,
                    seconds,
                    queue_s = clip.queue_s,
                    width = made.width,
                    height = made.height,
                    frames = made.num_frames,
                    steps = made.num_inference_steps,
                    bytes = clip.media.bytes.len(),
                    "job done"
                );
                tracing::debug!(job = entry.id, result = ?clip);
            }
            Err(EngineError::Cancelled) => {
                self.metrics.finished("cancelled");
                self.metrics.cancelled(stage.name());
                tracing::info!(
                    job = entry.id,
                    seconds,
                    stage = stage.name(),
                    "job cancelled"
                );
            }
            Err(error) => {
                self.metrics.finished(error.code());
                tracing::error!(job = entry.id, seconds, code = error.code(), %error, "job failed");
                if let EngineError::DeviceLost { message } = error {
                    self.lost(message);
                }
            }
        }
        entry.answer.send(result);
    }

    /// The device needs a new process: nothing more is started, the waiting are told.
    fn lost(&self, message: &str) {
        self.health.send_modify(|health| {
            health.lost.get_or_insert_with(|| message.to_owned());
        });
        self.queue.close();
        self.queue.cancel_all(&EngineError::DeviceLost {
            message: message.to_owned(),
        });
    }
}

impl Drop for Finish {
    /// A defect outside of any job ends a thread: what needs it would wait for ever.
    fn drop(&mut self) {
        if thread::panicking() {
            self.lost("a thread of the engine ended on an internal error");
        }
    }
}

/// The engine thread.
struct Worker {
    finish: Finish,
    latents: mpsc::SyncSender<Handover>,
    canary: Canary,
}

/// The self-test: fixed work whose result must not change.
struct Canary {
    baseline: Vec<f32>,
    interval: Option<Duration>,
    last: Instant,
}

impl Canary {
    fn due_in(&self) -> Option<Duration> {
        self.interval
            .map(|interval| interval.saturating_sub(self.last.elapsed()))
    }
}

/// How long the engine thread waits for a job when no self-test is due.
const IDLE: Duration = Duration::from_secs(3600);

impl Worker {
    fn run(&mut self, backend: &mut impl Backend) {
        loop {
            let due = self.canary.due_in();
            if due.is_some_and(|due| due.is_zero()) {
                self.test(backend);
                continue;
            }
            match self.finish.queue.next(due.unwrap_or(IDLE)) {
                Next::Job(entry) => self.denoise(entry, backend),
                Next::Idle => {}
                Next::Closed => return,
            }
        }
    }

    fn denoise(&mut self, entry: Box<Entry>, backend: &mut impl Backend) {
        let start = Instant::now();
        let refused = self.too_late(&entry);
        if entry.answer.is_closed() || refused.is_some() {
            self.finish.queue.left(entry.id, None);
            if entry.answer.is_closed() {
                self.finish.queue.count_abandoned();
            } else if let Some(error) = refused {
                self.finish.metrics.refused(error.code());
                entry.answer.send(Err(error));
            }
            return;
        }
        let queue_s = entry.since.elapsed().as_secs_f64();
        self.finish.metrics.stage("queue", queue_s);
        tracing::debug!(job = entry.id, queue_s, priority = ?entry.priority, request = ?entry.job, "job started");
        match guarded(|| backend.denoise(&entry.job, &entry.control)) {
            Ok(decode) => {
                self.finish.queue.denoised(entry.id);
                if let Err(mpsc::SendError((entry, start, _))) =
                    self.latents.send((entry, start, decode))
                {
                    self.finish.queue.left(entry.id, None);
                    let error = EngineError::local("the decoder thread has ended");
                    self.finish.answer(&entry, start, Err(error));
                }
            }
            Err(error) => {
                self.finish.queue.left(entry.id, None);
                self.finish.answer(&entry, start, Err(error));
            }
        }
    }

    /// A job whose deadline passed while it waited is not begun.
    fn too_late(&self, entry: &Entry) -> Option<EngineError> {
        let deadline = entry.deadline?;
        let waited = entry.since.elapsed();
        let expected = self.finish.queue.speed().expect(entry.job.cost);
        let work = expected.denoise_s.unwrap_or(0.0) + expected.decode_s.unwrap_or(0.0);
        let estimate = waited + Duration::from_secs_f64(work);
        (estimate > deadline).then_some(EngineError::Deadline {
            ahead: 0,
            estimate,
            deadline,
            retry_after: Duration::from_secs(1),
        })
    }

    fn test(&mut self, backend: &mut impl Backend) {
        self.canary.last = Instant::now();
        let report = match guarded(|| backend.canary(&Control::new(None))) {
            Ok(values) => CanaryReport::compare(&self.canary.baseline, &values),
            Err(EngineError::DeviceLost { message }) => {
                self.finish.lost(&message);
                CanaryReport::failed(message)
            }
            Err(error) => CanaryReport::failed(error.to_string()),
        };
        match report.fault() {
            None => tracing::debug!("self-test passed"),
            Some(fault) => tracing::error!(fault, "the self-test failed: not ready"),
        }
        self.finish
            .health
            .send_modify(|health| health.set_canary(report));
    }
}

/// The decoder thread.
struct Decoder {
    finish: Finish,
    inbox: mpsc::Receiver<Handover>,
    _alive: watch::Sender<()>,
}

impl Decoder {
    fn run(&self) {
        while let Ok((entry, start, decode)) = self.inbox.recv() {
            self.finish.queue.decoding(entry.id);
            let waited = start.saturating_duration_since(entry.since);
            let result = guarded(|| decode.decode(&entry.control)).map(|mut clip| {
                clip.queue_s = waited.as_secs_f64();
                clip
            });
            let completed = result.is_ok().then(|| start.elapsed());
            self.finish.queue.left(entry.id, completed);
            self.finish.answer(&entry, start, result);
        }
    }
}

fn spawn<E: From<EngineError>>(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), E> {
    thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map(drop)
        .map_err(|e| EngineError::local(format!("cannot start the {name} thread: {e}")).into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_asks_for_a_new_process() {
        let (sender, health) = watch::channel(Health::default());
        let metrics = Arc::<Metrics>::default();
        let queue = Arc::new(Queue::new(1, Arc::clone(&metrics)));
        let finish = Finish {
            queue: Arc::clone(&queue),
            metrics,
            health: Arc::new(sender),
        };
        let thread = thread::spawn(move || {
            let _finish = finish;
            std::panic::panic_any("a defect");
        });
        assert!(thread.join().is_err());
        assert!(health.borrow().lost.is_some());
        assert_eq!(queue.admit(), Err(EngineError::ShuttingDown));
    }
}
