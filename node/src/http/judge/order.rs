//! A request to judge: from JSON to files, and from files to what judges take.

use std::io::Write as _;

use axum::http::StatusCode;
use leoma_models::Fault;
use serde_json::{Map, Value};

use super::super::base64::Kind;
use super::super::fields::{Fields, FileSource};
use super::super::form::Form;
use super::super::{ApiError, App, Limits};
use crate::judge::canonical::sha256;
use crate::judge::clip::{self, ClipLimits, DecodedClip};
use crate::judge::input::{JudgeInput, MAX_PROMPT_CHARS};
use crate::judge::side::Mode;
use crate::judge::verdict::{NoVerdict, Reason};
use crate::media::{ImageLimits, decode};

/// How forms are read.
pub(super) const FORM: Form = Form {
    texts: &["video", "first_frame", "prompt", "task_id", "mode"],
    lists: &[],
};

/// Characters of a task's name.
const MAX_TASK_CHARS: usize = 200;
/// Bytes of a clip's frames.
const MAX_DECODED_BYTES: u64 = 1 << 30;

/// Everything but the files.
#[derive(Debug)]
pub(super) struct Words {
    /// What the clip was to show.
    prompt: String,
    /// The subnet's task, where there is one.
    task_id: Option<String>,
    /// Which judges run.
    pub(super) mode: Mode,
    /// Whether the evidence bundle is wanted.
    pub(super) evidence: bool,
}

/// A request as it came: its files may lie elsewhere.
#[derive(Debug)]
pub(super) struct Asked {
    words: Words,
    video: FileSource,
    first_frame: FileSource,
}

/// A request with its files.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) words: Words,
    video: Vec<u8>,
    first_frame: Vec<u8>,
}

/// Why there is nothing to judge.
#[derive(Debug)]
pub(super) enum Unusable {
    /// By the caller's fault.
    Refused(ApiError),
    /// By another's: that of the clip, or of this machine.
    NoVerdict(Box<NoVerdict>),
}

impl Asked {
    /// Reads a request to a server that judges in mode `served`.
    ///
    /// # Errors
    /// 400 naming the field, 413 for a file beyond the limit.
    pub(super) fn parse(
        map: Map<String, Value>,
        served: Mode,
        limits: &Limits,
    ) -> Result<Self, ApiError> {
        let fields = Fields(map);
        let missing = |field: &str, what: &str| ApiError::invalid(field, format!("is {what}"));
        let prompt = fields
            .text("prompt", MAX_PROMPT_CHARS)?
            .ok_or_else(|| missing("prompt", "missing; say what the clip was to show"))?;
        if prompt.trim().is_empty() {
            return Err(missing("prompt", "empty; say what the clip was to show"));
        }
        let words = Words {
            prompt,
            task_id: task(&fields)?,
            mode: mode(&fields, served)?,
            evidence: fields.flag("evidence")?.unwrap_or(false),
        };
        // The smaller file first.
        let first_frame = fields
            .file("first_frame", limits.max_image_bytes, Kind::Picture)?
            .ok_or_else(|| {
                missing(
                    "first_frame",
                    "missing; send the frame that the clip had to begin with",
                )
            })?;
        let video = fields
            .file("video", limits.max_body_bytes, Kind::Video)?
            .ok_or_else(|| missing("video", "missing; send the clip"))?;
        Ok(Self {
            words,
            video,
            first_frame,
        })
    }

    /// Fetches what lies elsewhere.
    ///
    /// # Errors
    /// 400 and 413 naming the field.
    pub(super) async fn fetch(self, app: &App) -> Result<Order, ApiError> {
        let first_frame = match self.first_frame {
            FileSource::Bytes(bytes) => bytes,
            FileSource::Link { field, url } => app.fetch(field, &url).await?,
        };
        let most = app.limits().max_body_bytes;
        let video = match self.video {
            FileSource::Bytes(bytes) => bytes,
            FileSource::Link { field, url } => app.fetch_up_to(field, &url, most).await?,
        };
        Ok(Order {
            words: self.words,
            video,
            first_frame,
        })
    }
}

fn task(fields: &Fields) -> Result<Option<String>, ApiError> {
    match fields.get("task_id") {
        // The subnet counts its tasks.
        Some(Value::Number(number)) if number.is_u64() => Ok(Some(number.to_string())),
        _ => fields.text("task_id", MAX_TASK_CHARS),
    }
}

/// A request may do with fewer judges than the server has, never with others.
fn mode(fields: &Fields, served: Mode) -> Result<Mode, ApiError> {
    let Some(name) = fields.text("mode", 64)? else {
        return Ok(served);
    };
    let allowed = Mode::ALL.into_iter().filter(|mode| {
        (served.asks_remote() || !mode.asks_remote()) && (served.asks_local() || !mode.asks_local())
    });
    let allowed: Vec<Mode> = allowed.collect();
    let found = allowed.iter().find(|mode| mode.name() == name);
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = allowed.iter().map(|mode| mode.name()).collect();
        let message = format!(
            "is none of those of this server, which was started with --judge {}: send {}",
            served.name(),
            names.join(", ")
        );
        ApiError::invalid("mode", message)
    })
}

impl Order {
    /// Decodes both files; takes seconds.
    pub(super) fn input(self) -> Result<JudgeInput, Unusable> {
        let first =
            decode(&self.first_frame, &ImageLimits::default()).map_err(|error| {
                match error.fault() {
                    Fault::Caller if error.is_too_large() => {
                        Unusable::Refused(ApiError::too_large("first_frame", error))
                    }
                    fault => unusable(fault, format!("first_frame: {error}")),
                }
            })?;
        let sha256 = sha256(&self.video);
        let clip = frames(&self.video)?;
        let Words {
            prompt, task_id, ..
        } = self.words;
        JudgeInput::new(
            sha256,
            (clip.frames, clip.fps),
            (first, self.first_frame),
            prompt,
            task_id,
        )
        .map_err(|none| match none.fault {
            Fault::Caller => unusable(Fault::Caller, none.message.into()),
            _ => Unusable::NoVerdict(Box::new(none)),
        })
    }
}

/// The frames of a clip, through a file: the process that decodes it reads no memory of this one.
fn frames(video: &[u8]) -> Result<DecodedClip, Unusable> {
    let local = |error: std::io::Error| {
        let message = format!("video: cannot be kept for decoding: {error}");
        unusable(Fault::Local, message)
    };
    let mut file = tempfile::NamedTempFile::new().map_err(local)?;
    file.write_all(video).map_err(local)?;
    let limits = ClipLimits {
        max_decoded_bytes: MAX_DECODED_BYTES,
        ..ClipLimits::default()
    };
    clip::decode(file.path(), &limits).map_err(|error| {
        let text = error.to_string();
        // Where it lies here is nobody's business.
        let own = format!("{}: ", file.path().display());
        let message = format!("video: {}", text.strip_prefix(&own).unwrap_or(&text));
        match error.fault() {
            // The file is ours, not the caller's.
            Fault::Caller => unusable(Fault::Local, message),
            fault => unusable(fault, message),
        }
    })
}

fn unusable(fault: Fault, message: String) -> Unusable {
    match fault {
        Fault::Caller => Unusable::Refused(ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            message,
        )),
        fault => Unusable::NoVerdict(Box::new(NoVerdict::new(
            "input",
            Reason::Input,
            fault,
            message,
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn parse(body: Value, served: Mode) -> Result<Asked, ApiError> {
        let limits = Limits {
            max_body_bytes: 6,
            max_image_bytes: 3,
            ..Limits::default()
        };
        Asked::parse(body.as_object().unwrap().clone(), served, &limits)
    }

    fn whole() -> Value {
        json!({"prompt": "p", "video": "AAAAAAAA", "first_frame": "data:image/png;base64,AAAA"})
    }

    #[test]
    fn what_is_left_out_is_the_servers() {
        let asked = parse(whole(), Mode::Shadow).unwrap();
        assert_eq!(asked.video, FileSource::Bytes(vec![0; 6]));
        assert_eq!(asked.first_frame, FileSource::Bytes(vec![0; 3]));
        let words = asked.words;
        assert_eq!((words.mode, words.evidence), (Mode::Shadow, false));
        assert_eq!(words.task_id, None);
        for (given, task) in [(json!(17), "17"), (json!("a-7"), "a-7")] {
            let mut body = whole();
            body["task_id"] = given;
            let words = parse(body, Mode::Shadow).unwrap().words;
            assert_eq!(words.task_id.as_deref(), Some(task));
        }
    }

    #[test]
    fn every_wrong_field_is_named() {
        for (field, value, status) in [
            ("prompt", Value::Null, 400),
            ("prompt", json!(" "), 400),
            ("prompt", json!("p".repeat(4097)), 400),
            ("video", Value::Null, 400),
            ("video", json!(""), 400),
            ("video", json!("%%%%"), 400),
            ("video", json!("AAAAAAAAAAAA"), 413),
            ("video", json!(7), 400),
            ("first_frame", Value::Null, 400),
            ("first_frame", json!("AAAAAAAA"), 413),
            ("first_frame", json!([]), 400),
            ("task_id", json!(1.5), 400),
            ("task_id", json!("x".repeat(201)), 400),
            ("mode", json!("best"), 400),
            ("evidence", json!("yes"), 400),
        ] {
            let mut body = whole();
            body[field] = value;
            let error = parse(body, Mode::Shadow).unwrap_err();
            assert_eq!(error.status(), status, "{error:?}");
            assert!(
                error.message().starts_with(&format!("{field}: ")),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_mode_may_not_ask_a_judge_that_the_server_does_not_have() {
        let asked = |mode: Mode, served| {
            let mut body = whole();
            body["mode"] = mode.name().into();
            parse(body, served).is_ok()
        };
        for mode in Mode::ALL {
            for both in [Mode::Shadow, Mode::Both, Mode::Fallback] {
                assert!(asked(mode, both), "{mode:?} {both:?}");
            }
            for one in [Mode::Remote, Mode::Local] {
                assert_eq!(asked(mode, one), mode == one, "{mode:?} {one:?}");
            }
        }
    }

    #[test]
    fn a_picture_that_is_none_is_the_callers_fault() {
        let asked = parse(whole(), Mode::Local).unwrap();
        let (FileSource::Bytes(video), FileSource::Bytes(first_frame)) =
            (asked.video, asked.first_frame)
        else {
            panic!("both are files");
        };
        let order = Order {
            words: asked.words,
            video,
            first_frame,
        };
        let Err(Unusable::Refused(error)) = order.input() else {
            panic!("three zeros are no picture");
        };
        assert_eq!(error.status(), 400);
        assert!(error.message().starts_with("first_frame: "), "{error:?}");
    }
}
