//! What every answer has in common: a request id, errors in the route's form, safe headers, a metric.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;

use super::App;
use super::error::{ApiError, ErrorForm};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The outermost layer.
pub(super) async fn envelope(State(app): State<App>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = request_id(request.headers());
    let form = ErrorForm::of(request.uri().path());
    let method = method_label(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());

    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let headers = std::mem::take(response.headers_mut());
        response = error.render(form, &id);
        // What a layer added to the error stays, e.g. `WWW-Authenticate` and `Allow`.
        for (name, value) in headers {
            if let Some(name) = name
                && name != header::CONTENT_LENGTH
                && name != header::CONTENT_TYPE
            {
                response.headers_mut().insert(name, value);
            }
        }
        if matches!(error.status().as_u16(), 400 | 413 | 429 | 507) {
            app.metrics().refused(error.code());
        }
        let (status, code) = (error.status().as_u16(), error.code());
        let message = error.message();
        if status == 429 {
            // Under overload these come by the thousand; the metric counts them.
            tracing::debug!(
                request_id = id,
                route,
                status,
                code,
                message,
                "request refused"
            );
        } else {
            tracing::info!(
                request_id = id,
                route,
                status,
                code,
                message,
                "request refused"
            );
        }
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    let status = response.status().as_u16();
    app.metrics()
        .request(&route, method, status, start.elapsed());
    response
}

/// The caller's id where it is one that can be written anywhere, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            (1..=128).contains(&id.len())
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
        })
        .map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned)
}

/// Methods are chosen by callers; labels are not.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
