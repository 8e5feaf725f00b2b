//! `GET /v1/videos/{id}/content`: the file, whole or in part.

use std::path::PathBuf;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum_extra::headers::{ETag, HeaderMapExt, IfNoneMatch, IfRange};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;
use utoipa::{IntoParams, ToSchema};

use super::super::openapi::ErrorBody;
use super::super::{ApiError, App};
use super::find;
use crate::store::JobStatus;

/// Which file of a video.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ContentQuery {
    /// The clip, or a small JPEG of its middle.
    #[param(default = "video")]
    variant: Option<Variant>,
}

/// Which file of a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Variant {
    /// The clip.
    Video,
    /// The poster.
    Thumbnail,
}

/// The clip's file
///
/// Whole, or the part that a `Range` asks for. The ETag is the file's SHA-256.
#[utoipa::path(
    get, path = "/v1/videos/{id}/content", tag = "Videos",
    params(("id" = String, Path, description = "Id of the video"), ContentQuery,
        ("Range" = Option<String>, Header, description = "One range of bytes; other requests get the whole file")),
    responses(
        (status = 200, description = "The file", content(
            (Vec<u8> = "video/mp4"), (Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"))),
        (status = 206, description = "Part of the file", content(
            (Vec<u8> = "video/mp4"), (Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"))),
        (status = 304, description = "The caller has it"),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        (status = 404, description = "There is no such video", body = ErrorBody),
        (status = 409, description = "The video is not completed", body = ErrorBody),
        (status = 416, description = "The range lies outside the file", body = ErrorBody),
        (status = 500, description = "This machine failed", body = ErrorBody)))]
pub(super) async fn content(
    State(app): State<App>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = Query::<ContentQuery>::try_from_uri(&uri)
        .map_err(|error| ApiError::invalid("query", error.body_text()))?;
    let job = find(&app, &id).await?;
    let Some(result) = job.result else {
        let message = match job.status {
            JobStatus::Failed => "the video failed, so that there is no file; its `error` says why",
            _ => "the video is not completed yet; follow its events, or ask again later",
        };
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "not_completed",
            message,
        ));
    };
    let store = app.jobs().store();
    let file = match query.variant.unwrap_or(Variant::Video) {
        Variant::Video => Served {
            path: store.result_path(&id, &result.content_type),
            extension: if result.content_type == "image/png" {
                "png"
            } else {
                "mp4"
            },
            content_type: result.content_type,
            etag: format!("\"{}\"", result.sha256),
            id,
        },
        Variant::Thumbnail => Served {
            path: store.poster_path(&id),
            extension: "jpg",
            content_type: "image/jpeg".into(),
            etag: format!("\"{}-thumbnail\"", result.sha256),
            id,
        },
    };
    file.answer(&headers).await
}

/// A file that never changes while it exists.
struct Served {
    path: PathBuf,
    extension: &'static str,
    content_type: String,
    etag: String,
    id: String,
}

impl Served {
    async fn answer(self, asked: &HeaderMap) -> Result<Response, ApiError> {
        let missing = |error: &std::io::Error| {
            tracing::error!(path = %self.path.display(), %error, "a result cannot be read");
            let message = "the file of this video cannot be read; the server's log has the reason";
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "local", message)
        };
        let mut file = tokio::fs::File::open(&self.path)
            .await
            .map_err(|e| match e.kind() {
                // Between the look at the row and this one the job was deleted.
                std::io::ErrorKind::NotFound => ApiError::no_video(&self.id),
                _ => missing(&e),
            })?;
        let size = file.metadata().await.map_err(|e| missing(&e))?.len();

        let mut headers = HeaderMap::new();
        let mut set = |name, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set(header::ETAG, &self.etag);
        set(header::ACCEPT_RANGES, "bytes");
        // It never changes, and others must not see it.
        set(
            header::CACHE_CONTROL,
            "private, max-age=31536000, immutable",
        );
        let etag: Option<ETag> = self.etag.parse().ok();
        let known = asked
            .typed_get::<IfNoneMatch>()
            .zip(etag.as_ref())
            .is_some_and(|(condition, etag)| !condition.precondition_passes(etag));
        if known {
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
        set(header::CONTENT_TYPE, &self.content_type);
        set(
            header::CONTENT_DISPOSITION,
            &format!("inline; filename=\"{}.{}\"", self.id, self.extension),
        );
        let stale = asked
            .typed_get::<IfRange>()
            .is_some_and(|condition| condition.is_modified(etag.as_ref(), None));
        let part = if stale {
            Part::Whole
        } else {
            Part::asked(asked, size)
        };
        let (start, length) = match part {
            Part::Of(start, length) => (start, length),
            Part::Whole => {
                set(header::CONTENT_LENGTH, &size.to_string());
                let body = Body::from_stream(ReaderStream::new(file));
                return Ok((headers, body).into_response());
            }
            Part::Outside => return Ok(outside(size)),
        };
        set(header::CONTENT_LENGTH, &length.to_string());
        let last = start + length - 1;
        set(
            header::CONTENT_RANGE,
            &format!("bytes {start}-{last}/{size}"),
        );
        file.seek(std::io::SeekFrom::Start(start))
            .await
            .map_err(|e| missing(&e))?;
        let body = Body::from_stream(ReaderStream::new(file.take(length)));
        Ok((StatusCode::PARTIAL_CONTENT, headers, body).into_response())
    }
}

/// What of a file is asked for.
#[derive(Debug, PartialEq)]
enum Part {
    /// All of it: nothing less was asked for, or nothing that is a range, or several at once, which may be
    /// answered so.
    Whole,
    /// Start and length.
    Of(u64, u64),
    /// Nothing that there is.
    Outside,
}

impl Part {
    fn asked(headers: &HeaderMap, size: u64) -> Self {
        let mut values = headers.get_all(header::RANGE).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Self::Whole;
        };
        let Some((first, last)) = value.to_str().ok().and_then(single_range) else {
            return Self::Whole;
        };
        let (start, end) = match (first, last) {
            // The last bytes; a file that is shorter is wanted whole.
            (None, Some(count)) => (size.saturating_sub(count), size),
            (Some(first), None) => (first, size),
            (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(size)),
            _ => return Self::Whole,
        };
        if start < end {
            Self::Of(start, end - start)
        } else {
            Self::Outside
        }
    }
}

/// `bytes=FIRST-LAST`, where one of the two may be missing.
fn single_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, range) = text.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    (digits(first) && digits(last)).then(|| (number(first), number(last)))
}

/// Digits, or nothing. A number too large to count with lies behind every file.
fn number(digits: &str) -> Option<u64> {
    (!digits.is_empty()).then(|| digits.parse().unwrap_or(u64::MAX))
}

fn outside(size: u64) -> Response {
    let message = format!("the range lies outside the file of {size} bytes");
    let mut response = ApiError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "range_not_satisfiable",
        message,
    )
    .into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}
