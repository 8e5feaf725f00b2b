//! What is happening to the jobs that are not finished: their events, for whoever listens, from the first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::engine::Progress;
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
    /// The last event, while it is being written down: nothing comes before it any more.
    ending: Option<Value>,
    finished: bool,
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first event; what was told before it is not told again.
    pub(super) fn queued(&self, fields: Map<String, Value>) {
        let state = self.lock();
        if state.events.is_empty() {
            self.append(state, "queued", fields);
        }
    }

    /// Appends an event. Nothing follows the last one.
    pub(super) fn event(&self, kind: &str, fields: Map<String, Value>) {
        let state = self.lock();
        if !state.finished && state.ending.is_none() {
            self.append(state, kind, fields);
        }
    }

    /// Tells the end as it is in the store.
    pub(super) fn end(&self, kind: &str) {
        let mut state = self.lock();
        if state.finished {
            return;
        }
        state.finished = true;
        match state.ending.take().filter(|event| event["type"] == kind) {
            Some(event) => self.push(state, event),
            None => self.append(state, kind, Map::new()),
        }
    }

    fn append(&self, state: MutexGuard<'_, State>, kind: &str, mut fields: Map<String, Value>) {
        fields.insert("seq".into(), state.events.len().into());
        fields.insert("at".into(), now_unix().into());
        fields.insert("type".into(), kind.into());
        self.push(state, Value::Object(fields));
    }

    fn push(&self, mut state: MutexGuard<'_, State>, event: Value) {
        state.events.push(event);
        let count = state.events.len();
        drop(state);
        self.grown.send_replace(count);
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
        let mut state = self.lock();
        state.progress = None;
        state.ending = None;
        drop(state);
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

    /// All events, with one more that ends them, for the store. The event itself is told by [`Self::end`],
    /// when the store has it; until then there are no others, or a listener would count further than the
    /// store.
    pub(super) fn events_ending(&self, kind: &str) -> Vec<Value> {
        let mut state = self.lock();
        let mut events = state.events.clone();
        let event = json!({ "seq": events.len(), "at": now_unix(), "type": kind });
        events.push(event.clone());
        state.ending = Some(event);
        events
    }

    /// The end was not written down: the job goes on.
    pub(super) fn goes_on(&self) {
        self.lock().ending = None;
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
