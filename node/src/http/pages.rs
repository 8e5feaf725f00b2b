//! The pages: playground, gallery, status and API reference, all inside the program.

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

use super::{ApiError, App};

/// What a page may load and do: its own files, clips it fetched with the key, nothing else.
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; \
object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'";

macro_rules! assets {
    ($($name:literal $kind:literal),* $(,)?) => {
        [$(Asset {
            name: $name,
            kind: $kind,
            bytes: include_bytes!(concat!("../../assets/web/", $name)),
        }),*]
    };
}

struct Asset {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

static PAGES: [Asset; 4] = assets![
    "index.html" "text/html; charset=utf-8",
    "gallery.html" "text/html; charset=utf-8",
    "status.html" "text/html; charset=utf-8",
    "docs.html" "text/html; charset=utf-8",
];

static ASSETS: [Asset; 12] = assets![
    "app.css" "text/css; charset=utf-8",
    "icon.svg" "image/svg+xml",
    "api.js" "text/javascript; charset=utf-8",
    "docs.js" "text/javascript; charset=utf-8",
    "example-1.png" "image/png",
    "example-2.png" "image/png",
    "example-3.png" "image/png",
    "gallery.js" "text/javascript; charset=utf-8",
    "job.js" "text/javascript; charset=utf-8",
    "playground.js" "text/javascript; charset=utf-8",
    "status.js" "text/javascript; charset=utf-8",
    "ui.js" "text/javascript; charset=utf-8",
];

pub(super) fn routes() -> Router<App> {
    let page = |name: &'static str| {
        get(move |request: Request| async move { served(&PAGES, name, &request) })
    };
    Router::new()
        .route("/", page("index.html"))
        .route("/gallery", page("gallery.html"))
        .route("/status", page("status.html"))
        .route("/docs", page("docs.html"))
        .route(
            "/favicon.ico",
            get(|| async { Redirect::permanent("/assets/icon.svg") }),
        )
        .route("/assets/{name}", get(asset))
}

async fn asset(Path(name): Path<String>, request: Request) -> Response {
    served(&ASSETS, &name, &request)
}

fn served(from: &'static [Asset], name: &str, request: &Request) -> Response {
    let Some(asset) = from.iter().find(|asset| asset.name == name) else {
        return ApiError::no_route(&Method::GET, request.uri().path()).into_response();
    };
    let etag = format!("\"{:x}\"", sha2_prefix(asset.bytes));
    let known = request
        .headers()
        .get(header::IF_NONE_MATCH)
        .is_some_and(|value| value.as_bytes() == etag.as_bytes());
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, asset.kind)], asset.bytes).into_response()
    };
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    // Asked for again each time, answered without a body while it is the same: a new version shows at once.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn sha2_prefix(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    digest
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The security policy goes with every answer: harmless on data, and no page can be forgotten.
pub(super) async fn policy(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    response
}
