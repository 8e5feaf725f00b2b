//! `GET /v1/videos/{id}/events`: what happened to a job, from the first event on, as it happens.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;

use super::super::openapi::ErrorBody;
use super::super::{ApiError, App};
use super::object::Video;
use crate::jobs::{Events, Live};

/// Follow a video
///
/// Server-sent events: `queued`, `started`, `progress`, `requeued`, and last `completed` or `failed`. They
/// begin with the first event of the job, or after `Last-Event-ID`, and the stream ends with the last.
#[utoipa::path(
    get, path = "/v1/videos/{id}/events", tag = "Videos",
    params(("id" = String, Path, description = "Id of the video"),
        ("Last-Event-ID" = Option<String>, Header, description = "Number of the last event that was seen")),
    responses(
        (status = 200, description = "The events", content((String = "text/event-stream"))),
        (status = 404, description = "There is no such video", body = ErrorBody),
        (status = 500, description = "This machine failed", body = ErrorBody)))]
pub(super) async fn events(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let events = app.jobs().events(&id).await?;
    let source = events.ok_or_else(|| ApiError::no_video(&id))?;
    let seen = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok()?.trim().parse::<usize>().ok());
    let reader = Reader {
        app,
        id,
        next: seen.map_or(0, |seen| seen.saturating_add(1)),
        pending: Vec::new(),
        source: Some(source),
    };
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    // Comments keep proxies from closing a stream that has nothing to tell.
    let alive = KeepAlive::new().interval(Duration::from_secs(15));
    Ok(Sse::new(events).keep_alive(alive).into_response())
}

struct Reader {
    app: App,
    id: String,
    next: usize,
    /// Events to send, the first one last.
    pending: Vec<Value>,
    /// Where more come from; absent when nothing more will come.
    source: Option<Events>,
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop() {
                self.next += 1;
                return Some(self.event(event).await);
            }
            match self.source.take()? {
                Events::Finished(events) => {
                    self.pending = events.into_iter().skip(self.next).rev().collect();
                }
                Events::Live(live) => {
                    let mut grown = live.grown();
                    grown.mark_unchanged();
                    let (mut events, finished) = live.events_from(self.next);
                    if events.is_empty() && !finished {
                        self.wait(&live, grown).await?;
                        continue;
                    }
                    events.reverse();
                    self.pending = events;
                    if !finished {
                        self.source = Some(Events::Live(live));
                    }
                }
            }
        }
    }

    /// Waits for the next event; at shutdown the stream ends, and the client comes back for the rest.
    async fn wait(
        &mut self,
        live: &Arc<Live>,
        mut grown: tokio::sync::watch::Receiver<usize>,
    ) -> Option<()> {
        tokio::select! {
            changed = grown.changed() => changed.ok()?,
            () = self.app.stopping() => return None,
        }
        self.source = Some(Events::Live(Arc::clone(live)));
        Some(())
    }

    /// The last event carries the video as it now is.
    async fn event(&self, mut value: Value) -> Event {
        let kind = value["type"].as_str().unwrap_or("progress").to_owned();
        if matches!(kind.as_str(), "completed" | "failed")
            && let Ok(Some(job)) = self.app.jobs().get(&self.id).await
        {
            let video = Video::of(&self.app, job).await;
            value["video"] = serde_json::to_value(video).unwrap_or_default();
        }
        Event::default()
            .id(value["seq"].to_string())
            .event(kind)
            .data(value.to_string())
    }
}
