//! What is running and how well: health, readiness, info, metrics, models.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::{Limits, Readiness};
use super::openapi::ErrorBody;
use super::{ApiError, App};
use crate::cuda::{Build, build};
use crate::engine::{Load, ModelInfo};
use crate::telemetry::GIT_SHA;
use crate::time;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(info))
        .routes(routes!(metrics))
        .routes(routes!(models))
}

/// Whether the process lives.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// Version of the node.
    version: &'static str,
    /// Since the start.
    uptime_seconds: f64,
}

/// Alive
///
/// Answers as long as the process lives; asks neither device nor disk.
#[utoipa::path(get, path = "/health", tag = "Node",
    responses((status = 200, description = "The process lives", body = Health)))]
async fn health(State(app): State<App>) -> Json<Health> {
    Json(Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: app.uptime().as_secs_f64(),
    })
}

/// Ready
///
/// Whether work is taken: the model is loaded, the last self-test passed, there is room on the disk, the
/// node is not stopping.
#[utoipa::path(get, path = "/ready", tag = "Node",
    responses(
        (status = 200, description = "Work is taken", body = Readiness),
        (status = 503, description = "Work is not taken", body = Readiness)))]
async fn ready(State(app): State<App>) -> Response {
    let readiness = app.readiness();
    (readiness.status(), Json(readiness)).into_response()
}

/// What is running.
#[derive(Debug, Serialize, ToSchema)]
struct Info {
    /// Version of the node.
    version: &'static str,
    /// Commit it was built from.
    git_sha: Option<&'static str>,
    /// What it was built for.
    build: Build,
    /// What is loaded; absent while it is loading.
    model: Option<ModelInfo>,
    /// Vocabulary of the Chutes routes.
    profile: String,
    /// What one request may ask for.
    limits: Limits,
    /// How busy the engine is.
    load: Option<Load>,
    /// Mode in which clips are judged; null where they are not.
    judge: Option<&'static str>,
    /// Durable jobs by status.
    jobs: JobCounts,
    /// Since the start.
    uptime_seconds: f64,
    /// Time of the server, to see skew.
    time: String,
    /// Whether a key is needed.
    auth: bool,
}

/// Durable jobs by status.
#[derive(Debug, Serialize, ToSchema)]
struct JobCounts {
    /// Waiting.
    queued: u64,
    /// On the device.
    in_progress: u64,
    /// With a clip.
    completed: u64,
    /// Without.
    failed: u64,
}

/// What is running
///
/// Version, model, limits, load: what a bug report needs.
#[utoipa::path(get, path = "/info", tag = "Node",
    responses(
        (status = 200, description = "What is running", body = Info),
        (status = 500, description = "This machine failed", body = ErrorBody)))]
async fn info(State(app): State<App>) -> Result<Json<Info>, ApiError> {
    let engine = app.engine().ok();
    let counts = app.jobs().store().counts().await?;
    Ok(Json(Info {
        version: env!("CARGO_PKG_VERSION"),
        git_sha: GIT_SHA,
        build: build(),
        model: engine.map(|engine| engine.info().clone()),
        profile: app.profile().to_string(),
        limits: app.limits().clone(),
        load: engine.map(|engine| engine.load()),
        judge: app.desk().map(|desk| desk.mode().name()),
        jobs: JobCounts {
            queued: counts.queued,
            in_progress: counts.in_progress,
            completed: counts.completed,
            failed: counts.failed,
        },
        uptime_seconds: app.uptime().as_secs_f64(),
        time: time::now_rfc3339(),
        auth: app.access().needs_key(),
    }))
}

/// Metrics
///
/// Counters, gauges and histograms in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "Node",
    responses((status = 200, description = "The metrics", content((String = "application/openmetrics-text")))))]
async fn metrics(State(app): State<App>) -> Response {
    if let Ok(engine) = app.engine() {
        let load = engine.load();
        app.metrics().queue_depth.set(load.queued as i64);
        app.metrics().jobs_running.set(load.running as i64);
    }
    if let Some(desk) = app.desk() {
        let (running, waiting) = desk.load();
        app.metrics().judge_running.set(running as i64);
        app.metrics().judge_waiting.set(waiting as i64);
    }
    app.readiness();
    app.jobs().count().await;
    if let Ok(bytes) = app.jobs().store().stored_bytes().await {
        app.metrics().store_bytes.set(bytes as i64);
    }
    if let Ok(disk) = app.jobs().store().disk() {
        app.metrics().disk_free_bytes.set(disk.free_bytes as i64);
    }
    let kind =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], app.metrics().encode()).into_response()
}

/// The models that are served.
#[derive(Debug, Serialize, ToSchema)]
struct ModelList {
    /// Always `list`.
    #[schema(example = "list")]
    object: &'static str,
    /// One.
    data: Vec<Model>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
struct Model {
    /// Name, for the field `model`.
    id: String,
    /// Always `model`.
    #[schema(example = "model")]
    object: &'static str,
    /// Unix time of the node's start.
    created: u64,
    /// Always `local`.
    owned_by: &'static str,
    /// `ti2v-5b`, `i2v-a14b`, …
    kind: String,
    /// Number types: `f32`, `bf16`, `f16`, `fp8`.
    dtype: String,
    /// Where bf16 rounds: `diffusers` or `official`; null where nothing is bf16.
    bf16_rounding: Option<String>,
    /// Whether clips lose precision that the checkpoint does not ask to lose (`fp8`).
    lossy: bool,
    /// Where it runs.
    device: String,
    /// What computes attention.
    attention: String,
    /// `text_to_video`, `image_to_video`.
    tasks: Vec<&'static str>,
    /// What the preset fills in, by field name.
    #[schema(value_type = Object)]
    defaults: Value,
}

/// Models
///
/// The one that is loaded, with what it can do and what is filled in for fields that are left out.
#[utoipa::path(get, path = "/v1/models", tag = "Videos",
    responses(
        (status = 200, description = "The models", body = ModelList),
        (status = 503, description = "The model is loading", body = ErrorBody)))]
async fn models(State(app): State<App>) -> Result<Json<ModelList>, ApiError> {
    let info = app.engine()?.info();
    let tasks = [
        ("text_to_video", info.text_to_video),
        ("image_to_video", info.image_to_video),
    ];
    Ok(Json(ModelList {
        object: "list",
        data: vec![Model {
            id: info.name.clone(),
            object: "model",
            created: (time::now_unix() - app.uptime().as_secs_f64()) as u64,
            owned_by: "local",
            kind: info.kind.clone(),
            dtype: info.dtype.clone(),
            bf16_rounding: info.bf16_rounding.clone(),
            lossy: info.lossy,
            device: info.device.clone(),
            attention: info.attention.clone(),
            tasks: tasks
                .into_iter()
                .filter(|(_, can)| *can)
                .map(|(task, _)| task)
                .collect(),
            defaults: info.defaults.clone(),
        }],
    }))
}
