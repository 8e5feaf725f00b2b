//! What `/v1/judge` takes and answers, for the OpenAPI document and for the answer itself.

use serde::Serialize;
use utoipa::ToSchema;

use crate::judge::side::Judgement;
use crate::judge::verdict::NoVerdict;

/// A clip to judge. Unknown fields are ignored.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes JSON that is read by name")]
pub(super) struct JudgeBody {
    /// The clip, as a file in a form, in base64 in JSON, or an https address where the server fetches them.
    #[schema(format = Binary)]
    video: String,
    /// The frame that it had to begin with: PNG, JPEG or WebP, given as the clip is.
    #[schema(format = Binary)]
    first_frame: String,
    /// What it was to show.
    #[schema(
        min_length = 1,
        max_length = 4096,
        example = "a paper boat drifts across a still lake"
    )]
    prompt: String,
    /// The subnet's task that the clip belongs to: the budget of a task counts by it.
    task_id: Option<String>,
    /// Which judges run: `remote`, `shadow`, `local`, `both` or `fallback`; only judges that the server has.
    mode: Option<String>,
    /// Whether the answer holds the evidence bundle.
    evidence: Option<bool>,
}

/// A judgement, or why there is none.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum JudgeAnswer {
    /// The judges were asked.
    Judged(Judged),
    /// There was nothing that they could be asked about.
    NoVerdict(NothingJudged),
}

/// A judgement.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Judged {
    /// `mode`, `remote` and `local` outcomes, and `decision`: `pass` is true, false, or null for no verdict.
    #[schema(value_type = Object)]
    pub(super) judgement: Box<Judgement>,
    /// Digest of the evidence bundle, where one was asked for.
    pub(super) evidence_sha256: Option<String>,
    /// The bundle itself: written to a file as it is, `leoma-node judge verify` checks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) evidence: Option<String>,
}

/// No judge was asked.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NothingJudged {
    /// `reason`, `fault` (`artifact`: the clip is no clip; anything else says nothing about it) and `message`.
    #[schema(value_type = Object)]
    pub(super) no_verdict: Box<NoVerdict>,
}
