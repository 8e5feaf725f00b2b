//! What is happening to the jobs that are not finished: their events, for whoever listens, from the first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::engine::{Progress, Stage};
use crate::time::now_unix;

/// The unfinished jobs by id.
#[derive(Debug, Default)]
pub(super) struct Unfinished(Mutex<HashMap<String, Arc<Live>>>);

impl Unfinished {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Live>> {
        self.lock().get(id).cloned()
    }

    /// The job's entry, made when it is missing.
    pub(super) fn open(&self, id: &str) -> Arc<Live> {
        Arc::clone(self.lock().entry(id.to_owned()).or_default())
    }

    pub(super) fn close(&self, id: &str) {
        self.lock().remove(id);
    }
}

/// One unfinished job.
#[derive(Debug, Default)]
pub struct Live {
    state: Mutex<State>,
    /// Number of events so far.
    grown: watch::Sender<usize>,
    /// Told once, when the job is to stop.
    cancel: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Value>,
    progress: Option<Progress>,
    finished: bool,
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an event. Nothing follows the last one.
    pub(super) fn event(&self, kind: &str, mut fields: Map<String, Value>) {
        let mut state = self.lock();
        if state.finished {
            return;
        }
        let seq = state.events.len();
        fields.insert("seq".into(), seq.into());
        fields.insert("at".into(), now_unix().into());
        fields.insert("type".into(), kind.into());
        state.finished = matches!(kind, "completed" | "failed");
        state.events.push(Value::Object(fields));
        drop(state);
        self.grown.send_replace(seq + 1);
    }

    pub(super) fn progress(&self, progress: Progress) {
        self.lock().progress = Some(progress);
        let fields = json!({
            "stage": progress.stage,
            "done": progress.done,
            "total": progress.total,
            "progress": progress.percent.round(),
            "eta_seconds": progress.eta_s,
        });
        if let Value::Object(fields) = fields {
            self.event("progress", fields);
        }
    }

    /// Back to waiting: what was done is lost.
    pub(super) fn requeued(&self, reason: &str) {
        self.lock().progress = None;
        self.event(
            "requeued",
            Map::from_iter([("reason".into(), reason.into())]),
        );
    }

    /// The last progress.
    pub fn last_progress(&self) -> Option<Progress> {
        self.lock().progress
    }

    /// The events from number `from` on, and whether the last of them is the last of all.
    pub fn events_from(&self, from: usize) -> (Vec<Value>, bool) {
        let state = self.lock();
        let events = state.events.get(from..).unwrap_or_default().to_vec();
        (events, state.finished)
    }

    /// All events, with one more that ends them, for the store. The event itself is told when the store
    /// has it.
    pub(super) fn events_ending(&self, kind: &str) -> Vec<Value> {
        let state = self.lock();
        let mut events = state.events.clone();
        let seq = events.len();
        events.push(json!({ "seq": seq, "at": now_unix(), "type": kind }));
        events
    }

    /// Changes with the number of events.
    pub fn grown(&self) -> watch::Receiver<usize> {
        self.grown.subscribe()
    }

    pub(super) fn stop(&self) {
        self.cancel.send_replace(true);
    }

    /// Resolves when the job is to stop.
    pub(super) async fn stopped(&self) {
        let mut cancel = self.cancel.subscribe();
        // The sender lives as long as this entry.
        let _ = cancel.wait_for(|stop| *stop).await;
    }
}

/// Stage of a job that has been handed to the engine.
pub(super) fn stage(progress: Option<Progress>) -> Stage {
    progress.map_or(Stage::Queued, |progress| progress.stage)
}
