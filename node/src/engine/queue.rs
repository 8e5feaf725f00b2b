//! The bounded queue between callers and the engine thread.
//!
//! Admission never waits: a job either gets a place at once or is refused with an estimate. The place
//! is given back as soon as the caller drops its [`Ticket`], not when the thread comes to the entry.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{oneshot, watch};

use super::{Clip, Control, EngineError, Job, Progress};

/// Assumed length of a job before one has finished, for the first `Retry-After`.
const FIRST_ESTIMATE: Duration = Duration::from_secs(30);
/// Bounds of `Retry-After`.
const RETRY_AFTER_S: (u64, u64) = (1, 600);

/// How busy the engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Jobs on the device: 0 or 1.
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
    pub(super) job: Job,
    pub(super) control: Control,
    pub(super) answer: oneshot::Sender<Result<Clip, EngineError>>,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Entry>,
    running: Option<Running>,
    open: bool,
    mean_job: Option<Duration>,
}

#[derive(Debug)]
struct Running {
    cancel: Arc<AtomicBool>,
    since: Instant,
}

/// The queue, shared by callers and the engine thread.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    capacity: usize,
    next_id: AtomicU64,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            running: None,
            open: true,
            mean_job: None,
        };
        Self {
            state: Mutex::new(state),
            wake: Condvar::new(),
            capacity,
            next_id: AtomicU64::new(1),
        }
    }

    /// No code that can panic runs under this lock, so a poisoned one is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn load(&self) -> Load {
        let state = self.lock();
        Load {
            running: usize::from(state.running.is_some()),
            queued: state.waiting.len(),
            queue_capacity: self.capacity,
        }
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
        // One job may run and `capacity` may wait behind it.
        let ahead = state.waiting.len() + usize::from(state.running.is_some());
        if ahead <= self.capacity {
            return Ok(());
        }
        Err(EngineError::Busy {
            ahead,
            retry_after: retry_after(state),
        })
    }

    pub(super) fn push(self: &Arc<Self>, job: Job) -> Result<Ticket, EngineError> {
        let mut state = self.lock();
        self.room(&state)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (control, cancel, progress) = Control::new();
        let (answer, receiver) = oneshot::channel();
        state.waiting.push_back(Entry {
            id,
            job,
            control,
            answer,
        });
        drop(state);
        self.wake.notify_one();
        Ok(Ticket {
            id,
            cancel,
            progress,
            answer: receiver,
            queue: Arc::clone(self),
        })
    }

    /// Waits for the next job; `None` when the queue is closed and empty.
    pub(super) fn next(&self) -> Option<Entry> {
        let mut state = self.lock();
        loop {
            if let Some(entry) = state.waiting.pop_front() {
                let cancel = Arc::clone(entry.control.cancel_flag());
                state.running = Some(Running {
                    cancel,
                    since: Instant::now(),
                });
                return Some(entry);
            }
            if !state.open {
                return None;
            }
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Frees the device for the next job. `completed` jobs feed the estimate.
    pub(super) fn finish(&self, completed: bool) {
        let mut state = self.lock();
        let Some(running) = state.running.take() else {
            return;
        };
        if completed {
            let took = running.since.elapsed();
            state.mean_job = Some(state.mean_job.map_or(took, |mean| (mean * 3 + took) / 4));
        }
    }

    /// Takes no more jobs; those admitted are still done.
    pub(super) fn close(&self) {
        self.lock().open = false;
        self.wake.notify_all();
    }

    /// Fails the waiting jobs and asks the running one to stop.
    pub(super) fn cancel_all(&self) {
        let mut state = self.lock();
        if let Some(running) = &state.running {
            running.cancel.store(true, Ordering::Relaxed);
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for entry in waiting {
            // The receiver may be gone; then nobody waits for this answer.
            let _ = entry.answer.send(Err(EngineError::ShuttingDown));
        }
    }

    fn forget(&self, id: u64) {
        let mut state = self.lock();
        let at = state.waiting.iter().position(|entry| entry.id == id);
        let removed = at.and_then(|at| state.waiting.remove(at));
        drop(state);
        drop(removed); // the picture in it can be large: freed outside the lock
    }
}

/// When a place is likely free: the rest of the running job.
fn retry_after(state: &State) -> Duration {
    let mean = state.mean_job.unwrap_or(FIRST_ESTIMATE);
    let running = state
        .running
        .as_ref()
        .map_or(Duration::ZERO, |r| r.since.elapsed());
    let (least, most) = RETRY_AFTER_S;
    let seconds = mean.saturating_sub(running).as_secs_f64().ceil() as u64;
    Duration::from_secs(seconds.clamp(least, most))
}

/// A caller's hold on an admitted job. Dropping it cancels the job.
#[derive(Debug)]
pub struct Ticket {
    id: u64,
    cancel: Arc<AtomicBool>,
    progress: watch::Receiver<Progress>,
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
        self.progress.clone()
    }

    /// Waits for the clip.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn outcome(mut self) -> Result<Clip, EngineError> {
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
        self.cancel.store(true, Ordering::Relaxed);
        self.queue.forget(self.id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::testing::job;

    #[test]
    fn a_dropped_ticket_gives_its_place_back_at_once() {
        let queue = Arc::new(Queue::new(0));
        let first = queue.push(job()).unwrap();
        let refused = queue.push(job()).unwrap_err();
        assert_eq!(
            refused,
            EngineError::Busy {
                ahead: 1,
                retry_after: FIRST_ESTIMATE
            }
        );
        drop(first);
        assert_eq!(queue.load().queued, 0);
        queue.push(job()).unwrap();
    }

    #[test]
    fn the_running_job_does_not_count_as_waiting() {
        let queue = Arc::new(Queue::new(1));
        let _first = queue.push(job()).unwrap();
        let entry = queue.next().unwrap();
        let _second = queue.push(job()).unwrap();
        assert_eq!(
            queue.load(),
            Load {
                running: 1,
                queued: 1,
                queue_capacity: 1
            }
        );
        assert_eq!(queue.admit().unwrap_err().code(), "busy");
        drop(entry);
        queue.finish(true);
        queue.admit().unwrap();
    }

    #[test]
    fn a_closed_queue_drains_and_refuses() {
        let queue = Arc::new(Queue::new(4));
        let _ticket = queue.push(job()).unwrap();
        queue.close();
        assert_eq!(queue.push(job()).unwrap_err(), EngineError::ShuttingDown);
        assert!(queue.next().is_some());
        assert!(queue.next().is_none());
    }

    #[test]
    fn cancelling_all_reaches_running_and_waiting() {
        let queue = Arc::new(Queue::new(4));
        let _first = queue.push(job()).unwrap();
        let mut second = queue.push(job()).unwrap();
        let running = queue.next().unwrap();
        queue.cancel_all();
        assert!(running.control.cancelled());
        assert_eq!(
            second.answer.try_recv().unwrap().unwrap_err(),
            EngineError::ShuttingDown
        );
    }
}
