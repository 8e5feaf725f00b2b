//! The HTTP surface: routes, limits, errors. Knows the engine's jobs, never a tensor.
//!
//! | folder or file | routes |
//! |---|---|
//! | `chutes/` | `POST /generate` and its kin, `GET /chutes/{id}` |
//! | `videos/` | `/v1/videos`: durable jobs |
//! | `judge/` | `/v1/judge`: does a clip pass? |
//! | `ops.rs` | `/health`, `/ready`, `/info`, `/metrics`, `/v1/models` |
//! | `openapi.rs` | `/openapi.json`, made from the same list as the routes |
//! | `pages.rs` | `/`, `/gallery`, `/status`, `/docs`, `/assets/` |
//!
//! Every request passes `envelope.rs` (id, form of errors, metrics), then `auth.rs`. `error.rs` holds the table
//! of status codes.

mod app;
mod auth;
mod base64;
mod body;
mod chutes;
mod connection;
mod envelope;
mod error;
mod fetch;
mod fields;
mod form;
mod judge;
mod openapi;
mod ops;
mod pages;
mod public_address;
mod server;
mod videos;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::time;

pub use app::{App, AppOptions, Check, Limits, Readiness};
pub use auth::{Access, AccessOptions, check_access, check_key, is_public, read_key_file};
pub use chutes::{ChuteIdentity, Profile};
pub use error::ApiError;
pub use fetch::{FetchError, FetchOptions, Fetcher, Resolver, Rule};
pub use judge::JudgeOptions;
pub use server::{ServerOptions, raise_file_limit, serve};

/// All routes.
pub fn router(app: App) -> Router {
    let (routes, document) = documented().split_for_parts();
    let access = app.access().clone();
    routes
        .merge(openapi::route(document))
        .merge(pages::routes())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(error::handler_panicked))
        .layer(from_fn_with_state(access, check_access))
        .layer(from_fn_with_state(app.clone(), envelope::envelope))
        .layer(from_fn(pages::policy))
        .with_state(app)
}

/// The routes that are in the OpenAPI document, with the document.
fn documented() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(chutes::routes())
        .merge(videos::routes())
        .merge(judge::routes())
        .merge(ops::routes())
}

async fn not_found(method: Method, uri: Uri) -> ApiError {
    ApiError::no_route(&method, uri.path())
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::method_not_allowed(&method, uri.path())
}
