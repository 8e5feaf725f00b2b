//! Reading a request body: bounded in bytes, in patience and in what all requests together may hold.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::ApiError;

/// A client that sends nothing for this long has gone.
const IDLE: Duration = Duration::from_secs(30);
/// A refused client gets this long to finish sending, so that it reads the answer and not a reset
/// connection.
const LINGER: Duration = Duration::from_secs(5);
/// Slowest upload that is waited for, on top of a minute.
const MIN_BYTES_PER_S: u64 = 64 << 10;
/// Bodies of the largest size that may be held at a time.
const BODIES: usize = 16;
/// Unit of the budget.
const KIB: usize = 1 << 10;

/// What all bodies together may hold in memory.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    max_bytes: usize,
    kib: Arc<Semaphore>,
}

impl Budget {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            kib: Arc::new(Semaphore::new(BODIES * (max_bytes / KIB + 1))),
        }
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let kib = (bytes / KIB + 1) as u32;
        Arc::clone(&self.kib)
            .try_acquire_many_owned(kib)
            .map_err(|_| {
                let message = "too many large requests are being read; try again in a second";
                ApiError::busy(message, Duration::from_secs(1))
            })
    }
}

/// A body and its share of the budget.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) bytes: Vec<u8>,
    _share: OwnedSemaphorePermit,
}

/// Reads the whole body.
///
/// # Errors
/// 413 beyond the limit, 408 from a client that stalls, 429 when too much is being read, 400 when the
/// connection breaks.
pub(super) async fn read(request: Request, budget: &Budget) -> Result<Read, ApiError> {
    let max_bytes = budget.max_bytes;
    let (parts, mut body) = request.into_parts();
    let declared = content_length(&parts.headers);
    if declared.is_some_and(|bytes| bytes > max_bytes as u64) {
        drain(&parts.headers, body).await;
        return Err(too_large(max_bytes));
    }
    let expected = declared.map_or(max_bytes, |bytes| bytes as usize);
    let share = match budget.take(expected) {
        Ok(share) => share,
        Err(busy) => {
            drain(&parts.headers, body).await;
            return Err(busy);
        }
    };
    let patience = Duration::from_secs(60 + expected as u64 / MIN_BYTES_PER_S);
    let until = Instant::now() + patience;
    let mut bytes = Vec::with_capacity(declared.unwrap_or(0) as usize);
    while let Some(data) = next(&mut body, until).await? {
        if bytes.len() + data.len() > max_bytes {
            drop(bytes);
            drain(&parts.headers, body).await;
            return Err(too_large(max_bytes));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Read {
        bytes,
        _share: share,
    })
}

/// Throws away the body of a request that is refused before it is read.
pub(super) async fn discard(request: Request) {
    let (parts, body) = request.into_parts();
    drain(&parts.headers, body).await;
}

async fn drain(headers: &HeaderMap, mut body: Body) {
    // A client that asked first has not sent anything yet and will not after a refusal.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let until = Instant::now() + LINGER;
    let rest = async { while let Ok(Some(_)) = next(&mut body, until).await {} };
    // When time is up the connection is closed on the sender: nothing is owed to it any more.
    let _ = timeout_at(until, rest).await;
}

/// The next piece of data; trailers are skipped.
async fn next(body: &mut Body, until: Instant) -> Result<Option<Bytes>, ApiError> {
    loop {
        let idle = IDLE.min(until.saturating_duration_since(Instant::now()));
        let Ok(frame) = timeout(idle, body.frame()).await else {
            let message = "the body did not come in time; send it faster, or a smaller picture";
            return Err(ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "timeout",
                message,
            ));
        };
        match frame {
            None => return Ok(None),
            Some(Err(error)) => {
                return Err(ApiError::invalid(
                    "body",
                    format!("cannot be read: {error}"),
                ));
            }
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn too_large(max_bytes: usize) -> ApiError {
    ApiError::too_large(
        "body",
        format!("this server takes at most {max_bytes} bytes"),
    )
}
