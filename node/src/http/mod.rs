//! The HTTP surface: routes, limits, errors. Knows the engine's jobs, never a tensor.
//!
//! | route | answer |
//! |---|---|
//! | `POST /generate` | `200 video/mp4`, the whole file |
//! | `GET /health` | `200`, what is loaded and how busy it is; never touches the device |
//!
//! Every error is JSON, `{"detail": "…", "code": "…"}`; `error.rs` holds the table of status codes.

mod auth;
mod base64;
mod body;
mod connection;
mod error;
mod fetch;
mod fields;
mod generate;
mod public_address;
mod server;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Method, Uri};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

use crate::engine::Engine;

pub use auth::{Access, AccessOptions, check_access, check_key, is_public, read_key_file};
pub use error::ApiError;
pub use fetch::{FetchError, FetchOptions, Fetcher, Resolver, Rule};
pub use server::{ServerOptions, raise_file_limit, serve};

/// What one request may ask for. The checkpoint's own rules come on top.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request body.
    pub max_body_bytes: usize,
    /// Bytes of the picture after base64.
    pub max_image_bytes: usize,
    /// Characters of the prompt, and of the negative prompt.
    pub max_prompt_chars: usize,
    /// Frames of a clip.
    pub max_frames: usize,
    /// Pixels of a frame.
    pub max_pixels: usize,
    /// Denoising steps.
    pub max_steps: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 << 20,
            max_image_bytes: 16 << 20,
            // The text encoder reads 512 tokens; the public Wan endpoints take this many characters.
            max_prompt_chars: 16_384,
            max_frames: 241,
            max_pixels: 1280 * 1280,
            max_steps: 200,
        }
    }
}

/// What the handlers share.
#[derive(Debug, Clone)]
struct App {
    engine: Arc<Engine>,
    limits: Arc<Limits>,
    /// Requests being decoded at a time: each may hold a picture of a hundred megabytes of pixels.
    preparing: Arc<Semaphore>,
}

/// Places in [`App::preparing`].
const PREPARING: usize = 4;

/// All routes over one engine.
pub fn router(engine: Arc<Engine>, limits: Limits) -> Router {
    Router::new()
        .route("/generate", post(generate::generate))
        .route("/health", get(health))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(error::handler_panicked))
        .with_state(App {
            engine,
            limits: Arc::new(limits),
            preparing: Arc::new(Semaphore::new(PREPARING)),
        })
}

async fn health(State(app): State<App>) -> Json<Value> {
    Json(json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "model": app.engine.info(),
        "load": app.engine.load(),
    }))
}

async fn not_found(method: Method, uri: Uri) -> ApiError {
    ApiError::not_found(&method, uri.path())
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::method_not_allowed(&method, uri.path())
}
