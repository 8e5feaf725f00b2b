//! `X-Chutes-Trace: true`: the invocation as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::error::ErrorForm;
use super::super::{ApiError, App, time};
use super::Cord;
use crate::engine::{Clip, EngineError, Progress, Stage, Ticket};

/// Who is traced.
struct Trace {
    invocation: String,
    chute: String,
    cord: Cord,
    ticket: Option<Ticket>,
    progress: watch::Receiver<Progress>,
    /// Whether the first message has been sent.
    greeted: bool,
}

/// Dropping the answer drops the ticket in it, which cancels the job.
pub(super) fn stream(app: &App, cord: Cord, invocation: &str, ticket: Ticket) -> Response {
    let trace = Trace {
        invocation: invocation.to_owned(),
        chute: app.chute().id().to_string(),
        cord,
        progress: ticket.progress(),
        ticket: Some(ticket),
        greeted: false,
    };
    let events = stream::unfold(trace, |mut trace| async move {
        let data = trace.next().await?;
        let event = Event::default().data(data.to_string());
        Some((Ok::<_, Infallible>(event), trace))
    });
    Sse::new(events)
        .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
        .into_response()
}

impl Trace {
    async fn next(&mut self) -> Option<Value> {
        let ticket = self.ticket.as_mut()?;
        if !self.greeted {
            self.greeted = true;
            return Some(self.message("invocation accepted, waiting for the device"));
        }
        tokio::select! {
            // The end may not wait behind news of the way there.
            biased;
            outcome = ticket.outcome() => {
                self.ticket = None;
                Some(last(outcome))
            }
            Ok(()) = self.progress.changed() => {
                let progress = *self.progress.borrow_and_update();
                Some(self.message(&sentence(progress)))
            }
        }
    }

    fn message(&self, message: &str) -> Value {
        json!({ "trace": {
            "timestamp": time::now_rfc3339(),
            "invocation_id": self.invocation,
            "child_id": self.invocation,
            "chute_id": self.chute,
            "function": self.cord.name(),
            "message": message,
        } })
    }
}

fn sentence(progress: Progress) -> String {
    let Progress {
        stage, done, total, ..
    } = progress;
    let left = progress
        .eta_s
        .map_or_else(String::new, |s| format!(", about {s:.0} s left"));
    match stage {
        Stage::Denoise => format!("denoise: step {done} of {total}{left}"),
        stage => format!("{}: {done} of {total}{left}", stage.name()),
    }
}

fn last(outcome: Result<Clip, EngineError>) -> Value {
    match outcome {
        Ok(clip) => json!({ "result": {
            "content_type": clip.media.format.content_type(),
            "bytes": STANDARD.encode(&clip.media.bytes),
        } }),
        Err(error) => json!({ "error": ApiError::from(error).body(ErrorForm::Detail, "") }),
    }
}
