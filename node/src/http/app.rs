//! What the handlers share, and what they all do with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use utoipa::ToSchema;

use super::body::Budget;
use super::chutes::{ChuteIdentity, Profile};
use super::fields::{self, FileSource, Parsed};
use super::judge::{Desk, JudgeOptions};
use super::{Access, ApiError, FetchError, Fetcher};
use crate::engine::{Engine, EngineError, Job};
use crate::generation::GenerationRequest;
use crate::jobs::{Jobs, PrepareJob};
use crate::media::image::png_size;
use crate::telemetry::Metrics;

/// What one request may ask for. The checkpoint's own rules come on top.
#[derive(Debug, Clone, Serialize, ToSchema)]
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

/// What an [`App`] is made of.
#[derive(Debug)]
pub struct AppOptions {
    /// What requests may ask for.
    pub limits: Limits,
    /// Who may call.
    pub access: Access,
    /// Vocabulary of the Chutes routes.
    pub profile: Profile,
    /// Time in which a waiting client must have its clip.
    pub deadline: Option<Duration>,
    /// Name as a chute.
    pub chute: ChuteIdentity,
    /// Fetches pictures and clips by address; absent: such requests are refused.
    pub fetcher: Option<Fetcher>,
    /// Judges clips; absent: such requests are refused.
    pub judge: Option<JudgeOptions>,
    /// The durable jobs.
    pub jobs: Jobs,
    /// Age at which finished jobs go, to tell it.
    pub retention_age: Option<Duration>,
    /// Age of the last good self-test beyond which the node is not ready.
    pub canary_max_age: Option<Duration>,
    /// Counts and times.
    pub metrics: Arc<Metrics>,
}

/// Shared by all handlers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: AppOptions,
    desk: Option<Desk>,
    /// Set once the model is loaded.
    engine: OnceLock<Arc<Engine>>,
    /// Requests being decoded at a time: each may hold a picture of a hundred megabytes of pixels.
    preparing: Arc<Semaphore>,
    budget: Budget,
    started: Instant,
    draining: AtomicBool,
    stopping: watch::Sender<bool>,
}

/// Places in [`Shared::preparing`].
const PREPARING: usize = 4;
/// A body that is read where it arrives: that takes less time than handing it to another thread.
pub(super) const SMALL_BODY_BYTES: usize = 32 << 10;
/// Pixels of a picture that is decoded there as well, in some tens of microseconds.
const SMALL_PICTURE: u32 = 128 * 128;

fn not_fetched(field: &str, error: FetchError) -> ApiError {
    match error {
        FetchError::TooLarge { .. } => ApiError::too_large(field, error),
        _ => ApiError::invalid(field, error),
    }
}

/// Whether a picture says of itself that it is small; a few bytes can stand for a hundred megabytes.
fn is_small(picture: &[u8]) -> bool {
    png_size(picture).is_some_and(|(w, h)| w.saturating_mul(h) <= SMALL_PICTURE)
}

impl App {
    /// Handlers without an engine yet: everything that needs one is 503 until [`Self::set_engine`].
    pub fn new(mut options: AppOptions) -> Self {
        Self(Arc::new(Shared {
            desk: options.judge.take().map(Desk::new),
            budget: Budget::new(options.limits.max_body_bytes),
            options,
            engine: OnceLock::new(),
            preparing: Arc::new(Semaphore::new(PREPARING)),
            started: Instant::now(),
            draining: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
        }))
    }

    /// The model is loaded.
    pub fn set_engine(&self, engine: Arc<Engine>) {
        // There is one engine per server; a second one would be a defect of the caller.
        let _ = self.0.engine.set(engine);
    }

    /// The engine.
    ///
    /// # Errors
    /// 503 while the model is loading.
    pub fn engine(&self) -> Result<&Arc<Engine>, ApiError> {
        self.0.engine.get().ok_or_else(|| {
            let message = "the model is still loading; GET /ready tells when it is there";
            ApiError::unavailable("loading", message, Duration::from_secs(5))
        })
    }

    /// No more work is taken; `/ready` says so.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Streams that wait for news end now.
    pub fn stop_streams(&self) {
        self.0.stopping.send_replace(true);
    }

    pub(super) fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Resolves when streams have to end.
    pub(super) async fn stopping(&self) {
        let mut stopping = self.0.stopping.subscribe();
        // The sender lives as long as this handle.
        let _ = stopping.wait_for(|stop| *stop).await;
    }

    pub(super) fn access(&self) -> &Access {
        &self.0.options.access
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.0.options.limits
    }

    pub(super) fn profile(&self) -> Profile {
        self.0.options.profile
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.0.options.deadline
    }

    pub(super) fn chute(&self) -> &ChuteIdentity {
        &self.0.options.chute
    }

    /// Where clips are judged, on servers that do.
    pub(super) fn desk(&self) -> Option<&Desk> {
        self.0.desk.as_ref()
    }

    pub(super) fn jobs(&self) -> &Jobs {
        &self.0.options.jobs
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.options.metrics
    }

    pub(super) fn retention_age(&self) -> Option<Duration> {
        self.0.options.retention_age
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.0.budget
    }

    pub(super) fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Runs work that takes milliseconds (megabytes of JSON, base64, pixels) off the network threads.
    pub(super) async fn on_worker<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        // Never closed, so this is always a place.
        let place = Arc::clone(&self.0.preparing).acquire_owned().await;
        let app = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _place = place; // given back when the work is over, also when the client has left
            work(&app)
        });
        work.await.unwrap_or_else(|error| {
            tracing::error!(%error, "reading a request failed");
            let message = "reading the request failed; the server's log has the place".to_owned();
            Err(EngineError::Panicked { message }.into())
        })
    }

    /// Reads a request of `body_bytes` and makes a job of it.
    pub(super) async fn prepare(
        &self,
        body_bytes: usize,
        parse: impl FnOnce(&Self) -> Result<Parsed, ApiError> + Send + 'static,
    ) -> Result<Job, ApiError> {
        if body_bytes <= SMALL_BODY_BYTES {
            let Parsed {
                mut request,
                picture,
            } = parse(self)?;
            let picture = match picture {
                Some(FileSource::Link { field, url }) => Some(self.fetch(field, &url).await?),
                Some(FileSource::Bytes(bytes)) => Some(bytes),
                None => None,
            };
            let small = picture.as_deref().is_none_or(is_small);
            request.image = picture;
            return if small {
                Ok(self.engine()?.prepare(&request)?)
            } else {
                self.check(request).await
            };
        }
        enum Half {
            Whole(Box<Job>),
            Link(Box<GenerationRequest>, &'static str, String),
        }
        let half = self.on_worker(|app| {
            let Parsed {
                mut request,
                picture,
            } = parse(app)?;
            request.image = match picture {
                None => None,
                Some(FileSource::Bytes(bytes)) => Some(bytes),
                Some(FileSource::Link { field, url }) => {
                    return Ok(Half::Link(Box::new(request), field, url));
                }
            };
            Ok(Half::Whole(Box::new(app.engine()?.prepare(&request)?)))
        });
        match half.await? {
            Half::Whole(job) => Ok(*job),
            Half::Link(mut request, field, url) => {
                request.image = Some(self.fetch(field, &url).await?);
                self.check(*request).await
            }
        }
    }

    /// Makes a job of a request whose picture is there.
    pub(super) async fn check(&self, request: GenerationRequest) -> Result<Job, ApiError> {
        self.on_worker(move |app| Ok(app.engine()?.prepare(&request)?))
            .await
    }

    /// Fetches a picture, where that is allowed.
    pub(super) async fn fetch(&self, field: &str, url: &str) -> Result<Vec<u8>, ApiError> {
        let fetched = self.fetcher(field)?.fetch(url).await;
        fetched.map_err(|error| not_fetched(field, error))
    }

    /// Fetches a file of at most `max_bytes`, where that is allowed.
    pub(super) async fn fetch_up_to(
        &self,
        field: &str,
        url: &str,
        max_bytes: usize,
    ) -> Result<Vec<u8>, ApiError> {
        let fetched = self.fetcher(field)?.fetch_up_to(url, max_bytes).await;
        fetched.map_err(|error| not_fetched(field, error))
    }

    fn fetcher(&self, field: &str) -> Result<&Fetcher, ApiError> {
        self.0.options.fetcher.as_ref().ok_or_else(|| {
            let message = "is a link, and fetching is off on this server; send the file in base64";
            ApiError::invalid(field, message)
        })
    }

    /// How a stored request becomes a job again.
    pub fn prepare_stored(&self) -> PrepareJob {
        let app = self.clone();
        Arc::new(move |stored, image| {
            let unreadable = |error: ApiError| EngineError::local(error.message().to_owned());
            let engine = app.engine().map_err(unreadable)?;
            let fields = stored["fields"].as_object().cloned().unwrap_or_default();
            let parsed =
                fields::parse_map(fields, engine.info(), app.limits()).map_err(unreadable)?;
            engine.prepare(&GenerationRequest {
                image,
                ..parsed.request
            })
        })
    }

    /// Whether work can be taken, and what stands in the way.
    pub fn readiness(&self) -> Readiness {
        let model = match self.0.engine.get() {
            None => Check::failed("loading"),
            Some(engine) => match &engine.health().borrow().lost {
                Some(message) => Check::failed(message),
                None => Check::passed(&engine.info().name),
            },
        };
        let canary = self.canary();
        let disk = match self.jobs().store().disk() {
            Ok(disk) if disk.ok && !self.jobs().paused() => Check::passed("room for clips"),
            Ok(disk) => Check::failed(&format!(
                "{} MiB free: jobs wait until there is room (--min-free-bytes)",
                disk.free_bytes >> 20
            )),
            Err(error) => Check::failed(&error.to_string()),
        };
        let draining = if self.draining() {
            Check::failed("shutting down")
        } else {
            Check::passed("taking work")
        };
        let checks = Checks {
            model,
            canary,
            disk,
            draining,
        };
        let ready = [
            &checks.model,
            &checks.canary,
            &checks.disk,
            &checks.draining,
        ]
        .into_iter()
        .all(|check| check.ok);
        self.metrics().ready.set(i64::from(ready));
        Readiness { ready, checks }
    }

    fn canary(&self) -> Check {
        let Some(engine) = self.0.engine.get() else {
            return Check::failed("not run yet");
        };
        let health = engine.health();
        let health = health.borrow();
        let age = health.last_good_canary.map(|at| at.elapsed());
        self.metrics()
            .canary_age_seconds
            .set(age.map_or(-1.0, |age| age.as_secs_f64()));
        if let Some(fault) = health.canary.as_ref().and_then(|report| report.fault()) {
            return Check::failed(fault);
        }
        match (age, self.0.options.canary_max_age) {
            (None, _) => Check::failed("not run yet"),
            // A busy engine has proof of its own: the test waits until it is idle.
            (Some(age), Some(limit)) if age > limit && engine.load().running == 0 => {
                Check::failed(&format!("the last self-test was {} s ago", age.as_secs()))
            }
            (Some(age), _) => Check::passed(&format!("passed {} s ago", age.as_secs())),
        }
    }
}

/// Whether work can be taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// Whether all checks pass.
    pub ready: bool,
    /// Each check.
    pub checks: Checks,
}

/// The checks behind readiness.
#[derive(Debug, Serialize, ToSchema)]
pub struct Checks {
    /// The model is loaded and the device well.
    pub model: Check,
    /// The self-test gave its known result, not too long ago.
    pub canary: Check,
    /// There is room for clips.
    pub disk: Check,
    /// The node is not shutting down.
    pub draining: Check,
}

/// One check.
#[derive(Debug, Serialize, ToSchema)]
pub struct Check {
    /// Whether it passes.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

impl Check {
    fn passed(detail: &str) -> Self {
        Self {
            ok: true,
            detail: detail.to_owned(),
        }
    }

    fn failed(detail: &str) -> Self {
        Self {
            ok: false,
            detail: detail.to_owned(),
        }
    }
}

impl Readiness {
    pub(super) fn status(&self) -> StatusCode {
        if self.ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}
