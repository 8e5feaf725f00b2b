//! What the Chutes routes take and answer, for the OpenAPI document. Reading is in `fields.rs`.

use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

/// A generation. All names in use for Wan endpoints are taken; one thing under two names must have one
/// value; unknown fields are ignored; what is left out comes from the node's profile and preset. May be
/// wrapped once as `{"args": {…}}` or `{"input_args": {…}}`.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes JSON that is read by name")]
pub(super) struct GenerateBody {
    /// What the clip shows.
    #[schema(
        min_length = 1,
        max_length = 16384,
        example = "a paper boat drifts across a still lake"
    )]
    prompt: String,
    /// First frame: PNG, JPEG or WebP in base64 (either alphabet, `data:` in front allowed), or an https
    /// address where the node allows it.
    image: Option<String>,
    /// As `image`.
    image_b64: Option<String>,
    /// As `image`.
    first_image_b64: Option<String>,
    /// What should not be seen.
    #[schema(max_length = 16384)]
    negative_prompt: Option<String>,
    /// Frames; counts that are not 4n + 1 are rounded as diffusers does.
    #[schema(minimum = 1, example = 81)]
    frames: Option<u32>,
    /// As `frames`.
    #[schema(minimum = 1)]
    num_frames: Option<u32>,
    /// Frames per second of the file.
    #[schema(minimum = 1, maximum = 240)]
    fps: Option<u32>,
    /// `480p`, `720p`, or width x height.
    #[schema(example = "480p")]
    resolution: Option<String>,
    /// Pixels; with `height` in place of `resolution`.
    #[schema(minimum = 1)]
    width: Option<u32>,
    /// Pixels; with `width`.
    #[schema(minimum = 1)]
    height: Option<u32>,
    /// Denoising steps.
    #[schema(minimum = 1)]
    steps: Option<u32>,
    /// As `steps`.
    #[schema(minimum = 1)]
    num_inference_steps: Option<u32>,
    /// Guidance; at most 1 switches the second pass off.
    #[schema(minimum = 0, maximum = 100)]
    guidance_scale: Option<f64>,
    /// Guidance of the low-noise expert of A14B models; ignored by models with one expert.
    #[schema(minimum = 0, maximum = 100)]
    guidance_scale_2: Option<f64>,
    /// Shift of the noise schedule.
    sample_shift: Option<f64>,
    /// As `sample_shift`.
    shift: Option<f64>,
    /// As `sample_shift`.
    flow_shift: Option<f64>,
    /// Seed of the noise.
    #[schema(minimum = 0, format = "uint64")]
    seed: Option<u64>,
    /// Accepted; without distilled weights it changes nothing, and `X-Leoma-Fast` says so.
    fast: Option<bool>,
    /// `/text2video` only: one frame as PNG.
    single_frame: Option<bool>,
}

/// Why a cord gives no clip.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "describes answers that are made elsewhere")]
pub(super) enum Refused {
    /// The request cannot be used
    #[response(status = 400)]
    Unusable(DetailError),
    /// The body came too slowly
    #[response(status = 408)]
    Slow(DetailError),
    /// Body or picture too large
    #[response(status = 413)]
    Large(DetailError),
    /// Busy, or the clip would come too late; see Retry-After
    #[response(status = 429)]
    Busy(DetailError),
    /// The checkpoint or this machine failed
    #[response(status = 500)]
    Failed(DetailError),
    /// Starting or stopping
    #[response(status = 503)]
    Unavailable(DetailError),
    /// No room to write the clip
    #[response(status = 507)]
    Full(DetailError),
}

/// An error as Chutes clients read it.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct DetailError {
    /// What is wrong, in the words Chutes clients know where there are any.
    detail: String,
    /// A stable word for programs.
    code: String,
    /// What is wrong and what would be right.
    message: String,
}

/// A chute as the platform's interface shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Chute {
    /// UUID of user and name.
    pub(super) chute_id: String,
    /// Name.
    pub(super) name: String,
    /// One line.
    pub(super) tagline: String,
    /// Always empty.
    pub(super) readme: String,
    /// Whether anyone may call it.
    pub(super) public: bool,
    /// Label under which a platform would serve it.
    pub(super) slug: String,
    /// Whether it takes requests now.
    pub(super) hot: bool,
    /// Revision of the model, where the operator told it.
    pub(super) revision: Option<String>,
    /// Version of the node.
    pub(super) version: String,
    /// Always absent.
    pub(super) standard_template: Option<String>,
    /// Requests taken at a time.
    pub(super) concurrency: usize,
    /// Owner.
    pub(super) user: ChuteUser,
    /// What can be called.
    pub(super) cords: Vec<ChuteCord>,
}

/// Owner of a chute.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChuteUser {
    /// Name.
    pub(super) username: String,
}

/// A callable of a chute.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChuteCord {
    /// Always POST.
    pub(super) method: &'static str,
    /// Path.
    pub(super) path: String,
    /// Name of the function.
    pub(super) function: &'static str,
    /// Always false.
    pub(super) stream: bool,
    /// Always false.
    pub(super) passthrough: bool,
    /// Path.
    pub(super) public_api_path: String,
    /// Always POST.
    pub(super) public_api_method: &'static str,
    /// JSON schema of the body.
    #[schema(value_type = Object)]
    pub(super) input_schema: serde_json::Value,
    /// Media type of the answer.
    pub(super) output_content_type: &'static str,
}

/// Chutes of this node: one.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChuteList {
    /// How many.
    pub(super) total: usize,
    /// Always 0.
    pub(super) page: usize,
    /// Page size.
    pub(super) limit: usize,
    /// The chutes.
    pub(super) items: Vec<Chute>,
}
