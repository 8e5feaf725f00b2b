//! The one table from errors to status codes, and their two JSON forms.
//!
//! Validation failures are 400, not 422: the callers of the Chutes routes treat 422 as a server fault.

use std::any::Any;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::engine::EngineError;
use crate::store::StoreError;

/// An answer that is not what was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<Duration>,
}

/// Which of the two JSON forms a route's errors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorForm {
    /// `{"detail": …, "code": …}`, as Chutes clients read it.
    Detail,
    /// `{"error": {"code": …, "message": …, "request_id": …}}`, as OpenAI clients read it.
    Error,
    /// Both in one object: nobody knows whose client asks for a path that is none.
    Both,
}

impl ErrorForm {
    pub(super) fn of(path: &str) -> Self {
        let first = path.trim_start_matches('/').split('/').next();
        match first {
            Some("generate" | "image2video" | "text2video" | "text2image" | "chutes") => {
                Self::Detail
            }
            Some(
                "" | "v1" | "health" | "ready" | "info" | "metrics" | "openapi.json" | "docs"
                | "gallery" | "status" | "assets" | "favicon.ico",
            ) => Self::Error,
            _ => Self::Both,
        }
    }
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    /// 400 with the field's name in front.
    pub(super) fn invalid(field: &str, message: impl std::fmt::Display) -> Self {
        let message = format!("{field}: {message}");
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// 413 with the field's name in front.
    pub(super) fn too_large(field: &str, message: impl std::fmt::Display) -> Self {
        let message = format!("{field}: {message}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    pub(super) fn no_route(method: &Method, path: &str) -> Self {
        let message = format!("no route for {method} {path}; GET /docs lists what there is");
        Self::new(StatusCode::NOT_FOUND, "no_route", message)
    }

    pub(super) fn no_video(id: &str) -> Self {
        // An id is short and ours; anything else is not repeated.
        let named = if id.len() <= 64 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            format!("there is no video {id}; it may have been deleted or be past retention")
        } else {
            "there is no such video".into()
        };
        Self::new(StatusCode::NOT_FOUND, "not_found", named)
    }

    pub(super) fn method_not_allowed(method: &Method, path: &str) -> Self {
        let message = format!("{path} does not take {method}; see the Allow header");
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            message,
        )
    }

    /// 503 with a time to come back.
    pub(super) fn unavailable(code: &'static str, message: &str, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
        }
    }

    /// 429 for a reason outside the engine.
    pub(super) fn busy(message: &str, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message)
        }
    }

    /// Status code of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// For people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The body in the route's form.
    pub(super) fn body(&self, form: ErrorForm, request_id: &str) -> serde_json::Value {
        let Self { code, message, .. } = self;
        match form {
            ErrorForm::Detail => {
                json!({ "detail": self.detail(), "code": code, "message": message })
            }
            ErrorForm::Error => {
                json!({ "error": { "code": code, "message": message, "request_id": request_id } })
            }
            ErrorForm::Both => json!({
                "detail": self.detail(),
                "code": code,
                "message": message,
                "error": { "code": code, "message": message, "request_id": request_id },
            }),
        }
    }

    /// The texts that Chutes clients know, where they say the same; the reason stands in `message`.
    fn detail(&self) -> &str {
        match (self.status, self.code) {
            (StatusCode::NOT_FOUND, "no_route") => "No matching cord found!",
            (StatusCode::UNAUTHORIZED, _) => "Authentication required.",
            (StatusCode::TOO_MANY_REQUESTS, _) => {
                "Infrastructure is at maximum capacity, try again later"
            }
            _ => &self.message,
        }
    }

    /// The whole answer in the route's form.
    pub(super) fn render(&self, form: ErrorForm, request_id: &str) -> Response {
        let mut response = (self.status, Json(self.body(form, request_id))).into_response();
        if let Some(delay) = self.retry_after {
            let seconds = HeaderValue::from(delay.as_secs().max(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let status = match &error {
            EngineError::Caller { .. }
            | EngineError::TooSlow { .. }
            | EngineError::TooLargeForDevice { .. } => StatusCode::BAD_REQUEST,
            EngineError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            EngineError::Busy { .. } | EngineError::Deadline { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            EngineError::ShuttingDown
            | EngineError::Cancelled
            | EngineError::OutOfMemory { .. }
            | EngineError::DeviceLost { .. } => StatusCode::SERVICE_UNAVAILABLE,
            EngineError::DiskFull { .. } => StatusCode::INSUFFICIENT_STORAGE,
            EngineError::Artifact { .. }
            | EngineError::BadOutput { .. }
            | EngineError::Stalled { .. }
            | EngineError::Local { .. }
            | EngineError::Panicked { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self {
            status,
            code: error.code(),
            retry_after: error.retry_after(),
            message: error.to_string(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match &error {
            StoreError::QueueFull { .. } => Self::busy(&message, Duration::from_secs(30)),
            StoreError::IdempotencyMismatch => {
                Self::new(StatusCode::CONFLICT, "idempotency_mismatch", message)
            }
            StoreError::UnknownCursor { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
            }
            error if error.is_disk_full() => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", message)
            }
            _ => {
                tracing::error!(%error, "the job store failed");
                let message = "the server's job store failed; its log has the reason";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "store", message)
            }
        }
    }
}

/// The form depends on the route and the id on the request, which only the outermost layer knows: it finds
/// the error here and renders it.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// A defect in a handler: the connection gets an answer and the server goes on.
pub(super) fn handler_panicked(_payload: Box<dyn Any + Send + 'static>) -> Response {
    let message = "internal error; the server's log has the place";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_error_has_its_status() {
        let message = String::new;
        let second = Duration::from_secs(1);
        let table = [
            (EngineError::caller("fps", "zero"), 400, false),
            (EngineError::too_large("image", "huge"), 413, false),
            (
                EngineError::TooLargeForDevice { message: message() },
                400,
                false,
            ),
            (EngineError::OutOfMemory { message: message() }, 503, true),
            (
                EngineError::Busy {
                    ahead: 2,
                    retry_after: second,
                },
                429,
                true,
            ),
            (
                EngineError::Deadline {
                    ahead: 2,
                    estimate: second,
                    deadline: second,
                    retry_after: second,
                },
                429,
                true,
            ),
            (
                EngineError::TooSlow {
                    estimate: second,
                    deadline: second,
                },
                400,
                false,
            ),
            (EngineError::ShuttingDown, 503, true),
            (EngineError::DeviceLost { message: message() }, 503, true),
            (EngineError::Cancelled, 503, false),
            (EngineError::DiskFull { message: message() }, 507, false),
            (EngineError::Artifact { message: message() }, 500, false),
            (EngineError::BadOutput { message: message() }, 500, false),
            (EngineError::Stalled { after: second }, 500, false),
            (EngineError::local("no memory"), 500, false),
            (EngineError::Panicked { message: message() }, 500, false),
        ];
        for (error, status, retry) in table {
            let response = ApiError::from(error.clone()).render(ErrorForm::Error, "id");
            assert_eq!(response.status(), status, "{error:?}");
            let found = response.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(found, retry, "{error:?}");
        }
    }

    #[test]
    fn the_form_follows_the_route() {
        for path in ["/generate", "/chutes/", "/chutes/x", "/text2image"] {
            assert_eq!(ErrorForm::of(path), ErrorForm::Detail, "{path}");
        }
        for path in ["/", "/v1/videos", "/v1", "/health"] {
            assert_eq!(ErrorForm::of(path), ErrorForm::Error, "{path}");
        }
        assert_eq!(ErrorForm::of("/generated"), ErrorForm::Both);
        let error = ApiError::no_route(&Method::POST, "/generated");
        let body = error.body(ErrorForm::Both, "id");
        assert_eq!(body["detail"], "No matching cord found!");
        assert_eq!(body["error"]["code"], "no_route");
        let error = ApiError::busy("full", Duration::from_secs(3));
        let body = error.body(ErrorForm::Detail, "id");
        assert_eq!(
            body["detail"],
            "Infrastructure is at maximum capacity, try again later"
        );
        assert_eq!(body["message"], "full");
        assert_eq!(
            error.body(ErrorForm::Error, "id")["error"]["request_id"],
            "id"
        );
    }
}
