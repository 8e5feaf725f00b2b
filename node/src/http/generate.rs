//! `POST /generate`: one clip per request, answered when it is done.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::{ApiError, App, body, fields};
use crate::engine::{Clip, EffectiveParameters, EngineError, Job};

/// Answers with the MP4 file. When the client goes away, this future is dropped and the ticket in it
/// cancels the job.
pub(super) async fn generate(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    let start = Instant::now();
    // A full queue is said before the body is kept in memory.
    if let Err(full) = app.engine.admit() {
        body::discard(request).await;
        return Err(full.into());
    }
    let bytes = body::read(request, app.limits.max_body_bytes).await?;
    let job = prepare(&app, bytes).await;
    let job = job.inspect_err(|error| tracing::info!(?error, "request refused"))?;
    let ticket = app.engine.submit(job)?;
    let id = ticket.id();
    tracing::info!(job = id, "job queued");
    let clip = ticket.outcome().await?;
    tracing::info!(
        job = id,
        seconds = start.elapsed().as_secs_f64(),
        "clip sent"
    );
    Ok(respond(clip))
}

/// Decoding megabytes of JSON, base64 and pixels does not belong on the network threads.
async fn prepare(app: &App, bytes: Vec<u8>) -> Result<Job, ApiError> {
    // Never closed, so this is always a place.
    let place = Arc::clone(&app.preparing).acquire_owned().await;
    let app = app.clone();
    let work = tokio::task::spawn_blocking(move || {
        let _place = place; // given back when the work is over, also when the client has left
        let request = fields::parse(&bytes, app.engine.info(), &app.limits)?;
        drop(bytes);
        Ok(app.engine.prepare(&request)?)
    });
    work.await.unwrap_or_else(|e| {
        Err(EngineError::local(format!("reading the request failed: {e}")).into())
    })
}

fn respond(clip: Clip) -> Response {
    let mut headers = parameter_headers(&clip.effective);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("video/mp4"));
    (headers, clip.mp4).into_response()
}

/// What the clip was made with, so that a caller can ask for the same again.
fn parameter_headers(effective: &EffectiveParameters) -> HeaderMap {
    let EffectiveParameters {
        seed,
        num_inference_steps,
        num_frames,
        fps,
        height,
        width,
    } = *effective;
    let number = |n: u64| HeaderValue::from(n);
    let size = HeaderValue::from_str(&format!("{width}x{height}"))
        .unwrap_or_else(|_| HeaderValue::from_static("unknown")); // digits and x are always valid
    [
        ("x-leoma-seed", number(seed)),
        ("x-leoma-steps", number(num_inference_steps as u64)),
        ("x-leoma-frames", number(num_frames as u64)),
        ("x-leoma-fps", number(u64::from(fps))),
        ("x-leoma-size", size),
        // No distilled weights are loaded, so `fast` changes nothing.
        ("x-leoma-fast", HeaderValue::from_static("false")),
    ]
    .into_iter()
    .map(|(name, value)| (HeaderName::from_static(name), value))
    .collect()
}
