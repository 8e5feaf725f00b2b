//! The one table from errors to status codes, and their JSON form.
//!
//! Validation failures are 400, not 422: the callers of this interface treat 422 as a server fault.

use std::any::Any;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::engine::EngineError;

/// An answer that is not a clip.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retry_after: Option<Duration>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// 400 with the field's name in front.
    pub(super) fn invalid(field: &str, message: impl std::fmt::Display) -> Self {
        let detail = format!("{field}: {message}");
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// 413 with the field's name in front.
    pub(super) fn too_large(field: &str, message: impl std::fmt::Display) -> Self {
        let detail = format!("{field}: {message}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    pub(super) fn not_found(method: &Method, path: &str) -> Self {
        let detail =
            format!("no route for {method} {path}; there are POST /generate and GET /health");
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(super) fn method_not_allowed(method: &Method, path: &str) -> Self {
        let detail = format!("{path} does not take {method}; see the Allow header");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    }

    /// Status code of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let status = match &error {
            EngineError::Caller { .. } => StatusCode::BAD_REQUEST,
            EngineError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            EngineError::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            EngineError::ShuttingDown | EngineError::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            EngineError::DiskFull { .. } => StatusCode::INSUFFICIENT_STORAGE,
            EngineError::Artifact { .. }
            | EngineError::Local { .. }
            | EngineError::Panicked { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let retry_after = match &error {
            EngineError::Busy { retry_after, .. } => Some(*retry_after),
            _ => None,
        };
        Self {
            status,
            code: error.code(),
            detail: error.to_string(),
            retry_after,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(json!({ "detail": self.detail, "code": self.code }));
        let mut response = (self.status, body).into_response();
        if let Some(delay) = self.retry_after {
            let seconds = HeaderValue::from(delay.as_secs().max(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// A defect in a handler: the connection gets an answer and the server goes on.
pub(super) fn handler_panicked(_payload: Box<dyn Any + Send + 'static>) -> Response {
    let detail = "internal error; the server's log has the place";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_error_has_its_status() {
        let message = String::new;
        let table = [
            (EngineError::caller("fps", "zero"), 400),
            (EngineError::too_large("image", "huge"), 413),
            (
                EngineError::Busy {
                    ahead: 2,
                    retry_after: Duration::from_secs(9),
                },
                429,
            ),
            (EngineError::ShuttingDown, 503),
            (EngineError::Cancelled, 503),
            (EngineError::DiskFull { message: message() }, 507),
            (EngineError::Artifact { message: message() }, 500),
            (EngineError::local("no memory"), 500),
            (EngineError::Panicked { message: message() }, 500),
        ];
        for (error, status) in table {
            let busy = error.code() == "busy";
            let response = ApiError::from(error.clone()).into_response();
            assert_eq!(response.status(), status, "{error:?}");
            assert_eq!(
                response.headers().contains_key(header::RETRY_AFTER),
                busy,
                "{error:?}"
            );
        }
    }
}
