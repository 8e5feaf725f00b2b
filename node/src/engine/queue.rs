//! The bounded queue between callers and the engine thread.
//!
//! Admission never waits: a job either gets a place at once or is refused with an estimate. The place
//! is given back as soon as the caller drops its [`Ticket`], not when the thread comes to the entry.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::estimate::{Cost, Line, Speed};
use super::{Clip, Control, EngineError, Job, Progress, Stage};
use crate::telemetry::Metrics;

/// Assumed length of a job before one has finished, for the first `Retry-After`.
const FIRST_ESTIMATE: Duration = Duration::from_secs(30);
/// Bounds of `Retry-After`.
const RETRY_AFTER_S: (u64, u64) = (1, 600);

/// Which of two waiting jobs goes first.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// When nothing else waits.
    Low,
    /// Jobs that nobody waits for on an open connection.
    #[default]
    Normal,
    /// Callers that wait with a deadline.
    High,
}

/// A job on its way into the queue.
#[derive(Debug)]
pub struct Submission {
    /// What to make.
    pub job: Arc<Job>,
    /// Order among the waiting.
    pub priority: Priority,
    /// Time from now in which the clip must be there; without one the job waits as long as it takes.
    pub deadline: Option<Duration>,
    /// Gets every progress, none merged.
    pub listener: Option<mpsc::UnboundedSender<Progress>>,
    /// Whether the queue's capacity holds for this job. The durable queue has its own and hands over one
    /// job at a time.
    pub bounded: bool,
}

/// How busy the engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Load {
    /// Jobs on the device: being denoised or decoded.
    pub running: usize,
    /// Jobs waiting.
    pub queued: usize,
    /// Jobs that may wait.
    pub queue_capacity: usize,
}

/// A job on its way to the engine thread.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) job: Arc<Job>,
    pub(super) priority: Priority,
    pub(super) control: Control,
    pub(super) since: Instant,
    pub(super) deadline: Option<Duration>,
    pub(super) answer: Answer,
}

/// Where the outcome of a job goes; whoever is first to know it tells.
#[derive(Debug, Clone)]
pub(super) struct Answer(Arc<Mutex<Option<oneshot::Sender<Result<Clip, EngineError>>>>>);

impl Answer {
    fn slot(&self) -> MutexGuard<'_, Option<oneshot::Sender<Result<Clip, EngineError>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn send(&self, outcome: Result<Clip, EngineError>) {
        if let Some(sender) = self.slot().take() {
            let _ = sender.send(outcome); // nobody is left to hear it when the caller has gone
        }
    }

    /// Whether nobody waits any more.
    pub(super) fn is_closed(&self) -> bool {
        self.slot().as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// Where a job is being worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Station {
    /// On the engine thread.
    Denoise,
    /// Between the threads, off the device: no signs of life are expected.
    Handover,
    /// On the decoder thread.
    Decode,
}

/// A job that has left the waiting.
#[derive(Debug)]
struct AtWork {
    id: u64,
    station: Station,
    control: Control,
    answer: Answer,
    cost: Cost,
    /// When it came to the station.
    since: Instant,
}

#[derive(Debug)]
struct State {
    /// Highest priority first, then in order of arrival.
    waiting: Vec<Entry>,
    /// At most one on each thread and two between them.
    at_work: Vec<AtWork>,
    open: bool,
    speed: Speed,
    mean_job: Option<Duration>,
}

impl State {
    fn ahead(&self) -> usize {
        self.waiting.len() + self.at_work.len()
    }

    /// The job on the device.
    fn denoising(&self) -> Option<&AtWork> {
        self.at_work
            .iter()
            .find(|job| job.station == Station::Denoise)
    }

    /// Jobs at the decoder and on the way there.
    fn decoding(&self) -> impl Iterator<Item = &AtWork> {
        self.at_work
            .iter()
            .filter(|job| job.station != Station::Denoise)
    }

    fn job(&mut self, id: u64) -> Option<&mut AtWork> {
        self.at_work.iter_mut().find(|job| job.id == id)
    }

    fn remove(&mut self, id: u64) -> Option<AtWork> {
        let at = self.at_work.iter().position(|job| job.id == id)?;
        Some(self.at_work.swap_remove(at))
    }
}

/// The queue, shared by callers and the engine's threads.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    capacity: usize,
    next_id: AtomicU64,
    /// Told whenever a place may have become free.
    moved: watch::Sender<()>,
    /// Told once, apart from the moves: who waits only for the end is not woken by every job.
    shut: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

impl Queue {
    pub(super) fn new(capacity: usize, metrics: Arc<Metrics>) -> Self {
        let state = State {
            waiting: Vec::new(),
            at_work: Vec::new(),
            open: true,
            speed: Speed::default(),
            mean_job: None,
        };
        Self {
            state: Mutex::new(state),
            wake: Condvar::new(),
            capacity,
            next_id: AtomicU64::new(1),
            moved: watch::Sender::new(()),
            shut: watch::Sender::new(false),
            metrics,
        }
    }

    /// No code that can panic runs under this lock, so a poisoned one is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn load(&self) -> Load {
        let state = self.lock();
        Load {
            running: state.at_work.len(),
            queued: state.waiting.len(),
            queue_capacity: self.capacity,
        }
    }

    pub(super) fn speed(&self) -> Speed {
        self.lock().speed
    }

    pub(super) fn set_speed(&self, speed: Speed) {
        self.lock().speed = speed;
    }

    /// Whether a job would be admitted now.
    ///
    /// # Errors
    /// [`EngineError::Busy`] or [`EngineError::ShuttingDown`].
    pub(super) fn admit(&self) -> Result<(), EngineError> {
        self.room(&self.lock())
    }

    fn room(&self, state: &State) -> Result<(), EngineError> {
        if !state.open {
            return Err(EngineError::ShuttingDown);
        }
        // One job may be denoised and `capacity` may wait behind it; the one being decoded has left.
        let ahead = state.waiting.len() + usize::from(state.denoising().is_some());
        if ahead <= self.capacity {
            return Ok(());
        }
        Err(EngineError::Busy {
            ahead: state.ahead(),
            retry_after: retry_after(state),
        })
    }

    pub(super) fn push(self: &Arc<Self>, submission: Submission) -> Result<Ticket, EngineError> {
        let Submission {
            job,
            priority,
            deadline,
            listener,
            bounded,
        } = submission;
        let mut state = self.lock();
        if bounded {
            self.room(&state)?;
        } else if !state.open {
            return Err(EngineError::ShuttingDown);
        }
        let expected = state.speed.expect(job.cost);
        if let Some(deadline) = deadline {
            in_time(&state, &job, priority, deadline)?;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let control = Control::new(listener);
        control.expect(expected);
        let (answer, receiver) = oneshot::channel();
        let at = state
            .waiting
            .partition_point(|waiting| waiting.priority >= priority);
        let ticket = Ticket {
            id,
            control: control.share(),
            answer: receiver,
            queue: Arc::clone(self),
        };
        state.waiting.insert(
            at,
            Entry {
                id,
                job,
                priority,
                control,
                since: Instant::now(),
                deadline,
                answer: Answer(Arc::new(Mutex::new(Some(answer)))),
            },
        );
        drop(state);
        self.wake.notify_all();
        Ok(ticket)
    }

    /// Waits up to `patience` for the next job.
    pub(super) fn next(&self, patience: Duration) -> Next {
        let mut state = self.lock();
        let until = Instant::now() + patience;
        loop {
            if !state.waiting.is_empty() {
                let entry = state.waiting.remove(0);
                entry.control.beat();
                state.at_work.push(AtWork {
                    id: entry.id,
                    station: Station::Denoise,
                    control: entry.control.share(),
                    answer: entry.answer.clone(),
                    cost: entry.job.cost,
                    since: Instant::now(),
                });
                return Next::Job(Box::new(entry));
            }
            if !state.open {
                return Next::Closed;
            }
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return Next::Idle;
            };
            state = self
                .wake
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The job's latents are there and wait for the decoder; the device is free for the next.
    pub(super) fn denoised(&self, id: u64) {
        let mut state = self.lock();
        if let Some(job) = state.job(id) {
            job.station = Station::Handover;
            let (cost, took) = (job.cost, job.since.elapsed());
            state.speed.denoised(cost, took);
        }
        drop(state);
        self.moved.send_replace(());
    }

    /// The job has come to the decoder.
    pub(super) fn decoding(&self, id: u64) {
        let mut state = self.lock();
        if let Some(job) = state.job(id) {
            job.control.beat();
            job.since = Instant::now();
            job.station = Station::Decode;
        }
        drop(state);
        self.moved.send_replace(());
    }

    /// A job has left the engine; `completed` ones feed the estimate, with their time in the engine.
    pub(super) fn left(&self, id: u64, completed: Option<Duration>) {
        let mut state = self.lock();
        if let (Some(job), Some(whole)) = (state.remove(id), completed) {
            state.speed.decoded(job.cost, job.since.elapsed());
            let mean = state.mean_job.map_or(whole, |mean| (mean * 3 + whole) / 4);
            state.mean_job = Some(mean);
        }
        drop(state);
        self.moved.send_replace(());
    }

    /// Jobs that the backend should be working on, and how long it has been silent about each.
    pub(super) fn silent(&self) -> Vec<(u64, Control, Duration)> {
        self.lock()
            .at_work
            .iter()
            .filter(|job| job.station != Station::Handover)
            .map(|job| (job.id, job.control.share(), job.control.silence()))
            .collect()
    }

    /// Waits until nothing waits for the device or is on it, so that a background job does not get in
    /// anyone's way; a job that is being decoded has left the device.
    pub(super) async fn calm(&self) -> Result<(), EngineError> {
        let mut moved = self.moved.subscribe();
        loop {
            moved.mark_unchanged();
            {
                let state = self.lock();
                if !state.open {
                    return Err(EngineError::ShuttingDown);
                }
                if state.waiting.is_empty() && state.denoising().is_none() {
                    return Ok(());
                }
            }
            if moved.changed().await.is_err() {
                return Err(EngineError::ShuttingDown);
            }
        }
    }

    /// Waits until no more jobs are taken.
    pub(super) async fn closed(&self) {
        let mut shut = self.shut.subscribe();
        // The sender lives as long as the queue.
        let _ = shut.wait_for(|shut| *shut).await;
    }

    /// Takes no more jobs; those admitted are still done.
    pub(super) fn close(&self) {
        self.lock().open = false;
        self.wake.notify_all();
        self.shut.send_replace(true);
        self.moved.send_replace(());
    }

    /// Fails the waiting jobs with `error` and asks the running ones to stop. A lost device will not answer
    /// for the running ones, so that they are told as well.
    pub(super) fn cancel_all(&self, error: &EngineError) {
        let mut state = self.lock();
        for job in &state.at_work {
            job.control.cancel();
            if matches!(error, EngineError::DeviceLost { .. }) {
                job.answer.send(Err(error.clone()));
            }
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for entry in waiting {
            entry.answer.send(Err(error.clone()));
        }
        self.moved.send_replace(());
    }

    /// Counts a job whose caller left before it was begun.
    pub(super) fn count_abandoned(&self) {
        self.metrics.cancelled(Stage::Queued.name());
        self.metrics.finished(EngineError::Cancelled.code());
    }

    fn forget(&self, id: u64) {
        let mut state = self.lock();
        let at = state.waiting.iter().position(|entry| entry.id == id);
        let removed = at.map(|at| state.waiting.remove(at));
        drop(state);
        if removed.is_some() {
            self.count_abandoned();
            self.moved.send_replace(());
        }
        drop(removed); // the picture in it can be large: freed outside the lock
    }
}

/// What the engine thread finds.
pub(super) enum Next {
    Job(Box<Entry>),
    /// Nothing came in time.
    Idle,
    /// Nothing will come any more.
    Closed,
}

/// Refuses a job that would come too late, as far as earlier jobs tell.
fn in_time(
    state: &State,
    job: &Job,
    priority: Priority,
    deadline: Duration,
) -> Result<(), EngineError> {
    let seconds = |cost: Cost| {
        let expected = state.speed.expect(cost);
        expected.denoise_s.zip(expected.decode_s)
    };
    let Some((denoise, decode)) = seconds(job.cost) else {
        return Ok(());
    };
    let alone = Duration::from_secs_f64(denoise + decode);
    if alone > deadline {
        return Err(EngineError::TooSlow {
            estimate: alone,
            deadline,
        });
    }
    let mut line = Line::default();
    for job in state.decoding() {
        let (_, whole) = seconds(job.cost).unwrap_or_default();
        let done = match job.station {
            Station::Decode => job.since.elapsed().as_secs_f64(),
            _ => 0.0,
        };
        line.add(0.0, (whole - done).max(0.0));
    }
    if let Some(job) = state.denoising() {
        let (whole, decode) = seconds(job.cost).unwrap_or_default();
        line.add((whole - job.since.elapsed().as_secs_f64()).max(0.0), decode);
    }
    for entry in state.waiting.iter().filter(|e| e.priority >= priority) {
        let (denoise, decode) = seconds(entry.job.cost).unwrap_or_default();
        line.add(denoise, decode);
    }
    let estimate = Duration::from_secs_f64(line.add(denoise, decode));
    if estimate <= deadline {
        return Ok(());
    }
    Err(EngineError::Deadline {
        ahead: state.ahead(),
        estimate,
        deadline,
        retry_after: bounded(estimate.saturating_sub(deadline)),
    })
}

/// When a place is likely free: the rest of the job that is being denoised.
fn retry_after(state: &State) -> Duration {
    let Some(job) = state.denoising() else {
        return bounded(state.mean_job.unwrap_or(FIRST_ESTIMATE));
    };
    let whole = state.speed.expect(job.cost).denoise_s.map_or_else(
        || state.mean_job.unwrap_or(FIRST_ESTIMATE),
        Duration::from_secs_f64,
    );
    bounded(whole.saturating_sub(job.since.elapsed()))
}

fn bounded(wait: Duration) -> Duration {
    let (least, most) = RETRY_AFTER_S;
    Duration::from_secs((wait.as_secs_f64().ceil() as u64).clamp(least, most))
}

/// A caller's hold on an admitted job. Dropping it cancels the job.
#[derive(Debug)]
pub struct Ticket {
    id: u64,
    control: Control,
    answer: oneshot::Receiver<Result<Clip, EngineError>>,
    queue: Arc<Queue>,
}

impl Ticket {
    /// Number of the job, for the log.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How far the job is, now and as it changes.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.control.watch()
    }

    /// Asks the job to stop; its outcome is then [`EngineError::Cancelled`], unless it was faster.
    pub fn cancel(&self) {
        self.control.cancel();
    }

    /// Waits for the clip.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn outcome(&mut self) -> Result<Clip, EngineError> {
        (&mut self.answer).await.unwrap_or_else(|_| {
            Err(EngineError::local(
                "the engine thread has ended; restart the server",
            ))
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Harmless after the answer: the entry and its flag are no longer looked at.
        self.control.cancel();
        self.queue.forget(self.id);
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
