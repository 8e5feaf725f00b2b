//! The video object: a job as OpenAI clients read it, with what else is known about it.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::super::App;
use crate::engine::{Priority, Progress, Stage};
use crate::jobs::priority_of;
use crate::store::{JobRecord, JobStatus};

/// A job and its clip.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Video {
    /// `video_` and 32 hex digits.
    pub(super) id: String,
    /// Always `video`.
    #[schema(pattern = "^video$")]
    object: &'static str,
    /// Where the job is.
    pub(super) status: Status,
    /// Share that is done, 0 to 100.
    progress: u8,
    /// Unix time.
    created_at: u64,
    /// Unix time.
    started_at: Option<u64>,
    /// Unix time.
    completed_at: Option<u64>,
    /// Unix time at which a finished job is removed.
    expires_at: Option<u64>,
    /// Name of the model.
    model: String,
    /// What the clip shows.
    prompt: String,
    /// `WIDTHxHEIGHT`.
    size: String,
    /// Length of the clip.
    seconds: String,
    /// Order among the waiting.
    priority: Priority,
    /// Waiting jobs that go before this one.
    queue_position: Option<usize>,
    /// What is being done.
    #[schema(value_type = Option<String>)]
    stage: Option<Stage>,
    /// Denoising steps that are done.
    step: Option<usize>,
    /// Denoising steps in all.
    steps: Option<u64>,
    /// Time left, where it can be told.
    eta_seconds: Option<f64>,
    /// Every value the clip is made with.
    #[schema(value_type = Object)]
    parameters: Value,
    /// Seconds per stage of a finished job.
    #[schema(value_type = Option<Object>)]
    timings: Option<Value>,
    /// Size of the file.
    bytes: Option<u64>,
    /// Media type of the file.
    content_type: Option<String>,
    /// Why there is no clip.
    error: Option<VideoError>,
    /// The batch it came in.
    batch_id: Option<String>,
    /// After `DELETE`: whether the job is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) deleted: Option<bool>,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    /// Waiting.
    Queued,
    /// On the device.
    InProgress,
    /// There is a clip.
    Completed,
    /// There is none, and `error` says why.
    Failed,
}

impl From<JobStatus> for Status {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Queued => Self::Queued,
            JobStatus::InProgress => Self::InProgress,
            JobStatus::Completed => Self::Completed,
            JobStatus::Failed => Self::Failed,
        }
    }
}

impl From<Status> for JobStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Queued => Self::Queued,
            Status::InProgress => Self::InProgress,
            Status::Completed => Self::Completed,
            Status::Failed => Self::Failed,
        }
    }
}

/// Why a job failed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VideoError {
    /// A stable word for programs.
    code: String,
    /// What happened and what can be done.
    message: String,
}

/// A page of videos.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VideoList {
    /// Always `list`.
    #[schema(example = "list")]
    pub(super) object: &'static str,
    /// The videos.
    pub(super) data: Vec<Video>,
    /// Id of the first.
    pub(super) first_id: Option<String>,
    /// Id of the last.
    pub(super) last_id: Option<String>,
    /// Whether more follow.
    pub(super) has_more: bool,
}

impl VideoList {
    pub(super) fn new(data: Vec<Video>, has_more: bool) -> Self {
        Self {
            object: "list",
            first_id: data.first().map(|video| video.id.clone()),
            last_id: data.last().map(|video| video.id.clone()),
            data,
            has_more,
        }
    }
}

/// Progress belongs to jobs on the device.
fn progress_of(app: &App, record: &JobRecord) -> Option<Progress> {
    let running = record.status == JobStatus::InProgress;
    running
        .then(|| app.jobs().live(&record.id)?.last_progress())
        .flatten()
}

impl Video {
    /// The object of a job; asks the store for its place when it waits.
    pub(super) async fn of(app: &App, record: JobRecord) -> Self {
        let position = match record.status {
            JobStatus::Queued => {
                let position = app.jobs().store().queue_position(&record.id).await;
                position.unwrap_or(None)
            }
            _ => None,
        };
        Self::placed(app, record, position)
    }

    pub(super) fn placed(app: &App, record: JobRecord, queue_position: Option<usize>) -> Self {
        let progress = progress_of(app, &record);
        let parameters = &record.request["parameters"];
        let number = |name: &str| parameters[name].as_u64().unwrap_or(0);
        let fps = number("fps").max(1);
        let steps = parameters["num_inference_steps"].as_u64();
        let step = progress.map(|progress| match progress.stage {
            Stage::Denoise => progress.done,
            Stage::VaeDecode => steps.unwrap_or(0) as usize,
            _ => 0,
        });
        let percent = match record.status {
            JobStatus::Completed => 100,
            _ => progress.map_or(0, |progress| progress.percent as u8),
        };
        let expires_at = app.retention_age().zip(record.completed_at);
        Self {
            object: "video",
            status: record.status.into(),
            progress: percent,
            created_at: record.created_at as u64,
            started_at: record.started_at.map(|at| at as u64),
            completed_at: record.completed_at.map(|at| at as u64),
            expires_at: expires_at.map(|(age, at)| at as u64 + age.as_secs()),
            model: text(&record.request, "model"),
            prompt: text(parameters, "prompt"),
            size: format!("{}x{}", number("width"), number("height")),
            seconds: format!("{:.2}", number("num_frames") as f64 / fps as f64),
            priority: priority_of(record.priority),
            queue_position,
            stage: progress.map(|progress| progress.stage),
            step,
            steps,
            eta_seconds: progress.and_then(|progress| progress.eta_s),
            parameters: parameters.clone(),
            timings: record.timings,
            bytes: record.result.as_ref().map(|file| file.bytes),
            content_type: record.result.map(|file| file.content_type),
            error: record.error.map(|error| VideoError {
                code: error.code,
                message: error.message,
            }),
            batch_id: record.batch_id,
            deleted: None,
            id: record.id,
        }
    }
}

fn text(object: &Value, name: &str) -> String {
    object[name].as_str().unwrap_or_default().to_owned()
}
