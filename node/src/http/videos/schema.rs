//! What `/v1/videos` takes, for the OpenAPI document. Reading is in `create.rs` and `fields.rs`.

use serde::Serialize;
use utoipa::ToSchema;

use super::object::{Video, VideoList};

/// A video to make. Names of other Wan endpoints are taken as well (see `POST /generate`); one thing under
/// two names must have one value; unknown fields are ignored; the preset fills what is left out.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes JSON that is read by name")]
pub(super) struct CreateVideo {
    /// What the clip shows.
    #[schema(
        min_length = 1,
        max_length = 16384,
        example = "a paper boat drifts across a still lake"
    )]
    prompt: Option<String>,
    /// Several prompts in place of one: a batch.
    #[schema(min_items = 1, max_items = 32)]
    prompts: Option<Vec<String>>,
    /// First frame: PNG, JPEG or WebP, as a file in a form, in base64 in JSON.
    #[schema(format = Binary)]
    input_reference: Option<String>,
    /// As `input_reference`.
    #[schema(format = Binary)]
    image: Option<String>,
    /// Several first frames in place of one: a batch. One prompt goes with all, or each has its own.
    #[schema(min_items = 1, max_items = 32)]
    images: Option<Vec<String>>,
    /// Name of the model; only the one that is loaded.
    model: Option<String>,
    /// What should not be seen.
    #[schema(max_length = 16384)]
    negative_prompt: Option<String>,
    /// `WIDTHxHEIGHT`, `480p` or `720p`.
    #[schema(example = "832x480")]
    size: Option<String>,
    /// Length; the number of frames follows from it and `fps`.
    #[schema(example = "4")]
    seconds: Option<String>,
    /// Frames; counts that are not 4n + 1 are rounded as diffusers does.
    #[schema(minimum = 1)]
    num_frames: Option<u32>,
    /// Pixels; with `height`.
    #[schema(minimum = 1)]
    width: Option<u32>,
    /// Pixels; with `width`.
    #[schema(minimum = 1)]
    height: Option<u32>,
    /// Frames per second of the file.
    #[schema(minimum = 1, maximum = 240)]
    fps: Option<u32>,
    /// Denoising steps.
    #[schema(minimum = 1)]
    num_inference_steps: Option<u32>,
    /// Guidance; at most 1 switches the second pass off.
    #[schema(minimum = 0, maximum = 100)]
    guidance_scale: Option<f64>,
    /// Guidance of the low-noise expert, for models with two.
    #[schema(minimum = 0, maximum = 100)]
    guidance_scale_2: Option<f64>,
    /// Shift of the noise schedule.
    flow_shift: Option<f64>,
    /// Share of the noise range from which the high-noise expert works, for models with two.
    #[schema(minimum = 0, maximum = 1)]
    boundary_ratio: Option<f64>,
    /// `unipc`, `euler` or `dpmpp`.
    scheduler: Option<String>,
    /// Generator of the initial noise: `cpu`, `cuda:h100`, …
    noise_source: Option<String>,
    /// x264 quality, 0 (lossless) to 51.
    #[schema(maximum = 51)]
    crf: Option<u8>,
    /// Family of defaults: `leoma`, `diffusers`, `official` or `tiny`.
    preset: Option<String>,
    /// Seed of the noise.
    #[schema(minimum = 0, format = "uint64")]
    seed: Option<u64>,
    /// Order among the waiting: `low`, `normal` or `high`.
    priority: Option<String>,
    /// One frame as PNG in place of a clip.
    single_frame: Option<bool>,
}

/// One job, or a batch's list of jobs.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes the two answers")]
pub(super) enum Created {
    /// One job.
    One(Box<Video>),
    /// A batch.
    Batch(VideoList),
}

/// A job that was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VideoDeleted {
    /// The job.
    pub(super) id: String,
    /// Always `video.deleted`.
    #[schema(pattern = "^video\\.deleted$")]
    pub(super) object: &'static str,
    /// Always true.
    pub(super) deleted: bool,
}

/// A cancelled job (`deleted: false`) or a removed one.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Ended {
    /// It was unfinished and is now `failed` with the code `cancelled`.
    Cancelled(Box<Video>),
    /// It was finished and is gone.
    Deleted(VideoDeleted),
}
