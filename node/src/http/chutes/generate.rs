//! Public invocation: one clip per request, answered when it is done.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;

use super::super::{ApiError, App, body, fields};
use super::schema::{GenerateBody, Refused};
use super::{Cord, trace};
use crate::engine::{Clip, EffectiveParameters, Job, Priority, Submission, Ticket};

/// Statuses and bodies that all cords share.
#[derive(OpenApi)]
#[openapi(components(schemas(GenerateBody)))]
struct Components;

/// One clip
///
/// The subnet's route. Answers with the whole file. Closing the connection cancels the job.
/// `X-Chutes-Trace: true` answers with server-sent events: `{"trace": …}` while the clip is made, then
/// `{"result": {"content_type", "bytes"}}` with the file in base64, or `{"error": …}`.
#[utoipa::path(
    post, path = "/generate", tag = "Chutes", request_body = GenerateBody,
    params(("X-Chutes-Trace" = Option<String>, Header, description = "`true`: answer as server-sent events")),
    responses(
        (status = 200, description = "The clip", content(
            (Vec<u8> = "video/mp4"), (Vec<u8> = "image/png"), (String = "text/event-stream"))),
        Refused))]
pub(super) async fn generate(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    invoke(app, Cord::Generate, request).await
}

/// One clip from a picture
///
/// As `/generate`, and a picture is required.
#[utoipa::path(
    post, path = "/image2video", tag = "Chutes", request_body = GenerateBody,
    params(("X-Chutes-Trace" = Option<String>, Header, description = "`true`: answer as server-sent events")),
    responses(
        (status = 200, description = "The clip", content(
            (Vec<u8> = "video/mp4"), (String = "text/event-stream"))),
        Refused))]
pub(super) async fn image2video(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    invoke(app, Cord::Image2Video, request).await
}

/// One clip from a prompt alone
///
/// As `/generate`; a picture is ignored. Only where the model can: see `GET /v1/models`.
#[utoipa::path(
    post, path = "/text2video", tag = "Chutes", request_body = GenerateBody,
    params(("X-Chutes-Trace" = Option<String>, Header, description = "`true`: answer as server-sent events")),
    responses(
        (status = 200, description = "The clip, or a still with `single_frame`", content(
            (Vec<u8> = "video/mp4"), (Vec<u8> = "image/png"), (String = "text/event-stream"))),
        Refused))]
pub(super) async fn text2video(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    invoke(app, Cord::Text2Video, request).await
}

/// One still from a prompt
///
/// As `/text2video`, with one frame as PNG.
#[utoipa::path(
    post, path = "/text2image", tag = "Chutes", request_body = GenerateBody,
    params(("X-Chutes-Trace" = Option<String>, Header, description = "`true`: answer as server-sent events")),
    responses(
        (status = 200, description = "The picture", content(
            (Vec<u8> = "image/png"), (String = "text/event-stream"))),
        Refused))]
pub(super) async fn text2image(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    invoke(app, Cord::Text2Image, request).await
}

/// JSON schema of a cord's body, as the OpenAPI document has it.
pub(super) fn input_schema() -> serde_json::Value {
    let document = serde_json::to_value(Components::openapi()).unwrap_or_default();
    document["components"]["schemas"]["GenerateBody"].clone()
}

/// When the client goes away, this future is dropped and the ticket in it cancels the job.
async fn invoke(app: App, cord: Cord, request: Request) -> Result<Response, ApiError> {
    let engine = app.engine()?;
    // A full queue is said before the body is kept in memory.
    if let Err(full) = engine.admit() {
        body::discard(request).await;
        return Err(full.into());
    }
    let traced = request
        .headers()
        .get("x-chutes-trace")
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    let body = body::read(request, app.budget()).await?;
    let job = prepare(&app, cord, body).await?;
    let ticket = engine.submit(Submission {
        job: Arc::new(job),
        priority: Priority::High,
        deadline: app.deadline(),
        listener: None,
        bounded: true,
    })?;
    let invocation = uuid::Uuid::new_v4().to_string();
    tracing::debug!(job = ticket.id(), cord = cord.name(), "job queued");
    let mut response = if traced {
        trace::stream(&app, cord, &invocation, ticket)
    } else {
        clip(ticket).await?
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&invocation) {
        headers.insert("x-chutes-invocationid", id);
    }
    let info = engine.info();
    if let Ok(precision) = HeaderValue::from_str(&info.dtype) {
        headers.insert("x-leoma-precision", precision);
    }
    let lossy = if info.lossy { "true" } else { "false" };
    headers.insert("x-leoma-lossy", HeaderValue::from_static(lossy));
    Ok(response)
}

async fn clip(mut ticket: Ticket) -> Result<Response, ApiError> {
    let clip = ticket.outcome().await?;
    let mut headers = parameter_headers(&clip.effective);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(clip.media.format.content_type()),
    );
    if let Ok(timing) = HeaderValue::from_str(&server_timing(&clip)) {
        headers.insert("server-timing", timing);
    }
    Ok((headers, clip.media.bytes).into_response())
}

async fn prepare(app: &App, cord: Cord, body: body::Read) -> Result<Job, ApiError> {
    let profile = app.profile();
    let body_bytes = body.bytes.len();
    let parse = move |app: &App| {
        let engine = app.engine()?;
        let mut parsed = fields::parse(&body.bytes, engine.info(), app.limits())?;
        drop(body);
        profile.fill(cord, engine.info(), &mut parsed.request);
        if !cord.takes_image() {
            parsed.picture = None;
        } else if cord == Cord::Image2Video && parsed.picture.is_none() {
            return Err(ApiError::invalid(
                "image_b64",
                "is missing; send the first frame",
            ));
        }
        Ok(parsed)
    };
    app.prepare(body_bytes, parse).await
}

fn server_timing(clip: &Clip) -> String {
    let queue = [("queue", clip.queue_s)];
    let entries = queue.into_iter().chain(clip.stages());
    let entries = entries.map(|(name, seconds)| format!("{name};dur={:.1}", seconds * 1000.0));
    entries.collect::<Vec<_>>().join(", ")
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
