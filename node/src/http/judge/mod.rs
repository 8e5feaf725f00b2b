//! `POST /v1/judge`: does a clip pass?
//!
//! The body becomes an [`order::Order`], waits at the [`desk`] for its turn, is decoded in a process of its own and
//! shown to the judges. Decoding and judging have threads of their own: they take seconds, and the server does not
//! wait for them when it ends, as it would for those of the runtime. Whatever is not the caller's fault is an answer
//! with status 200, a judge's failure as well: it says nothing about the clip.

mod desk;
mod order;
mod schema;

use std::time::Instant;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use tokio::sync::oneshot;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::openapi::ErrorBody;
use super::{ApiError, App, body};
use crate::engine::EngineError;
use crate::judge::evidence::Evidence;
use crate::judge::input::JudgeInput;
use crate::judge::log::Log;
use crate::judge::side::{Bench, Judgement};
use crate::judge::verdict::{NoVerdict, fault_name};
use order::{Asked, FORM, Unusable};
use schema::{JudgeAnswer, JudgeBody, Judged, NothingJudged};

pub(super) use desk::Desk;
pub use desk::JudgeOptions;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(judge))
}

/// Judge a clip
///
/// Shows a clip, the frame it had to begin with and its prompt to the judges that the server was started with. A
/// verdict is answered with 200 whether the clip passes or fails, and so is no verdict: `decision.pass` is null, or
/// `no_verdict` stands in place of the judgement.
#[utoipa::path(
    post, path = "/v1/judge", tag = "Judge",
    request_body(content((JudgeBody = "application/json"), (JudgeBody = "multipart/form-data"))),
    responses(
        (status = 200, description = "Pass, fail or no verdict", body = JudgeAnswer),
        (status = 400, description = "The request cannot be used", body = ErrorBody),
        (status = 404, description = "The server has no judge", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 413, description = "Body or file too large", body = ErrorBody),
        (status = 429, description = "Too many large requests are being read", body = ErrorBody),
        (status = 500, description = "This machine failed", body = ErrorBody),
        (status = 503, description = "Too many clips are being judged, or the server is stopping", body = ErrorBody)))]
async fn judge(State(app): State<App>, request: Request) -> Result<Json<JudgeAnswer>, ApiError> {
    let desk = match (app.desk(), app.draining()) {
        (None, _) => Err(off()),
        (Some(_), true) => Err(EngineError::ShuttingDown.into()),
        // A full line is said before the body is kept in memory.
        (Some(desk), false) => desk.admit().map(|()| desk),
    };
    let desk = match desk {
        Ok(desk) => desk,
        Err(refused) => {
            body::discard(request).await;
            return Err(refused);
        }
    };
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    let mut read = body::read(request, app.budget()).await?;
    let bytes = std::mem::take(&mut read.bytes);
    let map = FORM.object(&app, content_type.as_ref(), bytes).await?;
    let served = desk.mode();
    let asked = app
        .on_worker(move |app| Asked::parse(map, served, app.limits()))
        .await?;
    let place = desk.enter()?;
    drop(read);
    // A client that goes away ends this here and at every `await` below: nobody is asked for it any more.
    let order = asked.fetch(&app).await?;
    let turn = place.turn().await?;

    let start = Instant::now();
    let (mode, evidence) = (order.words.mode, order.words.evidence);
    let (turn, input) = on_own_thread(move || (turn, order.input())).await?;
    let input = match input {
        Ok(input) => input,
        Err(Unusable::Refused(error)) => return Err(error),
        Err(Unusable::NoVerdict(no_verdict)) => {
            note_nothing(&app, &no_verdict, start);
            return Ok(Json(JudgeAnswer::NoVerdict(NothingJudged { no_verdict })));
        }
    };
    let bench = desk.bench(mode, app.engine().ok());
    let log = desk.log();
    let decoded_s = start.elapsed().as_secs_f64();
    let judged = on_own_thread(move || {
        let judged = judged(&bench, log.as_ref(), input, evidence);
        drop(turn);
        judged
    });
    let judged = judged.await??;
    note(&app, &judged.judgement, decoded_s, start);
    Ok(Json(JudgeAnswer::Judged(judged)))
}

fn off() -> ApiError {
    let message =
        "this server judges no clips; start it with --judge MODE, or use `leoma-node judge`";
    ApiError::new(StatusCode::NOT_FOUND, "judge_off", message)
}

/// Runs what takes seconds.
async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let (sender, done) = oneshot::channel();
    let started = std::thread::Builder::new()
        .name("judge".into())
        .spawn(move || {
            // Nobody is left to tell when the client has gone.
            let _ = sender.send(work());
        });
    started.map_err(|error| EngineError::local(format!("cannot start a thread: {error}")))?;
    done.await.map_err(|_| {
        let message = "judging failed; the server's log has the place".to_owned();
        EngineError::Panicked { message }.into()
    })
}

fn judged(
    bench: &Bench,
    log: Option<&Log>,
    input: JudgeInput,
    with_evidence: bool,
) -> Result<Judged, ApiError> {
    let input = std::sync::Arc::new(input);
    let judgement = bench.judge(&input);
    let mut judged = Judged {
        judgement: Box::new(judgement),
        evidence_sha256: None,
        evidence: None,
    };
    let configurations = bench.configurations(&judged.judgement);
    if with_evidence {
        let now = crate::time::now_rfc3339();
        let kept = Evidence::new(&input, &configurations, (*judged.judgement).clone(), now)
            .and_then(|evidence| Ok((evidence.to_bytes()?, evidence.digest)))
            .map_err(|error| EngineError::local(format!("evidence: {error}")))?;
        judged.evidence = Some(String::from_utf8_lossy(&kept.0).into_owned());
        judged.evidence_sha256 = Some(kept.1);
    }
    if let Some(log) = log {
        let judgement = (*judged.judgement).clone();
        let written = log.record(&input, &configurations, judgement, |line| {
            line.evidence_sha256.clone_from(&judged.evidence_sha256);
        });
        // The verdict is there and may have been paid for: a full disk must not lose it.
        if let Err(error) = written {
            tracing::error!(%error, "the verdict log lacks a judgement");
        }
    }
    Ok(judged)
}

/// Counts a judgement and writes it down; prompts and what models say stay out of the log.
fn note(app: &App, judgement: &Judgement, decoded_s: f64, start: Instant) {
    let outcome = match judgement.decision.pass {
        Some(true) => "pass",
        Some(false) => "fail",
        None => "no_verdict",
    };
    let seconds = start.elapsed().as_secs_f64();
    app.metrics().judged(outcome, seconds);
    tracing::info!(
        outcome,
        mode = judgement.mode.name(),
        by = ?judgement.decision.by,
        decoded_s,
        seconds,
        "clip judged"
    );
}

/// The same for what no judge was shown.
fn note_nothing(app: &App, none: &NoVerdict, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    app.metrics().judged("no_verdict", seconds);
    tracing::info!(
        outcome = "no_verdict",
        reason = none.reason.name(),
        fault = fault_name(none.fault),
        message = %none.message,
        seconds,
        "clip judged"
    );
}
