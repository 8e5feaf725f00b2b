//! What goes into the store and what comes out.

use std::fmt::{self, Debug, Formatter};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Limits of the store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Finished jobs older than this are removed by [`Store::sweep`](super::Store::sweep); `None` keeps them.
    pub retention_age: Option<Duration>,
    /// Bytes of results that are kept; beyond, the oldest finished go.
    pub retention_bytes: u64,
    /// Free bytes of the disk below which nothing new is taken.
    pub min_free_bytes: u64,
    /// Jobs that may wait.
    pub max_queued: usize,
}

/// A job to be stored.
#[derive(Clone)]
pub struct NewJob {
    /// Higher goes first.
    pub priority: i32,
    /// The request without its picture.
    pub request: Value,
    /// The picture file as the caller sent it.
    pub image: Option<Vec<u8>>,
    /// What the jobs of one request have in common.
    pub batch_id: Option<String>,
}

impl Debug for NewJob {
    /// Leaves prompt and picture out: what users write and send stays out of the logs.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewJob")
            .field("priority", &self.priority)
            .field("image_bytes", &self.image.as_ref().map(Vec::len))
            .field("batch_id", &self.batch_id)
            .finish_non_exhaustive()
    }
}

/// A caller's name for a request, so that sending it twice makes one job.
#[derive(Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The name.
    pub key: String,
    /// Digest of the request: the same name for another request is an error.
    pub fingerprint: [u8; 32],
}

impl Debug for Idempotency {
    /// Leaves the key out: callers put anything into it.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency").finish_non_exhaustive()
    }
}

/// What an insertion led to.
#[derive(Debug, Clone, PartialEq)]
pub enum Inserted {
    /// The jobs were stored.
    New(Vec<JobRecord>),
    /// The key is known: the jobs it made, as they are now.
    Existing(Vec<JobRecord>),
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Waits.
    Queued,
    /// Is being made.
    InProgress,
    /// Has a result.
    Completed,
    /// Ended without a result; cancelled jobs too.
    Failed,
}

impl JobStatus {
    /// The word in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// Whether the job changes no more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        [
            Self::Queued,
            Self::InProgress,
            Self::Completed,
            Self::Failed,
        ]
        .into_iter()
        .find(|status| status.as_str() == word)
    }
}

/// Why a job ended without a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// A stable word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// The result of a completed job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultFile {
    /// Length of the file.
    pub bytes: u64,
    /// SHA-256 of the file in hexadecimal.
    pub sha256: String,
    /// Media type: `video/mp4` or `image/png`.
    pub content_type: String,
}

/// A job as it is stored.
#[derive(Clone, PartialEq, Serialize)]
pub struct JobRecord {
    /// `video_` and 32 hexadecimal digits.
    pub id: String,
    /// Where it stands.
    pub status: JobStatus,
    /// Unix seconds.
    pub created_at: f64,
    /// Unix seconds; of the latest attempt.
    pub started_at: Option<f64>,
    /// Unix seconds; of failed jobs too.
    pub completed_at: Option<f64>,
    /// Higher goes first.
    pub priority: i32,
    /// How often it was started.
    pub attempts: u32,
    /// The request without its picture.
    pub request: Value,
    /// Whether the request came with a picture. The file goes when the job ends.
    pub has_image: bool,
    /// What it is made with, once known.
    pub effective: Option<Value>,
    /// Seconds by stage.
    pub timings: Option<Value>,
    /// Why it failed.
    pub error: Option<JobError>,
    /// What it became.
    pub result: Option<ResultFile>,
    /// The events of a finished job, for late subscribers.
    pub events: Vec<Value>,
    /// What the jobs of one request have in common.
    pub batch_id: Option<String>,
}

impl Debug for JobRecord {
    /// Leaves request and events out: what users write stays out of the logs.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobRecord")
            .field("id", &self.id)
            .field("status", &self.status)
            .field("priority", &self.priority)
            .field("attempts", &self.attempts)
            .field("has_image", &self.has_image)
            .field("error", &self.error)
            .field("result", &self.result)
            .finish_non_exhaustive()
    }
}

/// What a finished job leaves behind.
#[derive(Clone)]
pub struct Finished {
    /// The whole file.
    pub media: Vec<u8>,
    /// Media type: `video/mp4` or `image/png`.
    pub content_type: String,
    /// A still of it as JPEG.
    pub poster_jpeg: Option<Vec<u8>>,
    /// What it was made with.
    pub effective: Value,
    /// Seconds by stage.
    pub timings: Value,
    /// All its events.
    pub events: Vec<Value>,
}

impl Debug for Finished {
    /// Leaves contents out: what users write stays out of the logs.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finished")
            .field("media_bytes", &self.media.len())
            .field("content_type", &self.content_type)
            .field("poster_bytes", &self.poster_jpeg.as_ref().map(Vec::len))
            .finish_non_exhaustive()
    }
}

/// Part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The jobs in order.
    pub jobs: Vec<JobRecord>,
    /// Whether more follow.
    pub has_more: bool,
}

/// What opening found of an earlier run that ended in the middle of something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Jobs that wait again.
    pub requeued: Vec<String>,
    /// Jobs that were given up: ended twice with the node, or their files are gone.
    pub failed: Vec<String>,
}

/// What a sweep removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Jobs removed.
    pub jobs: Vec<String>,
    /// Bytes of results and posters freed.
    pub bytes: u64,
    /// Idempotency keys forgotten.
    pub keys: usize,
}

/// Jobs per status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Waiting.
    pub queued: u64,
    /// Being made.
    pub in_progress: u64,
    /// With a result.
    pub completed: u64,
    /// Without.
    pub failed: u64,
}

/// Space on the disk of the data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Bytes this process may still write.
    pub free_bytes: u64,
    /// Whether that is enough to take new jobs.
    pub ok: bool,
}
