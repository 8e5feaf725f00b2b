//! Reading a request body: bounded in bytes and in patience.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::ApiError;

/// A client that sends nothing for this long has gone.
const IDLE: Duration = Duration::from_secs(30);
/// A refused client gets this long to finish sending, so that it reads the answer and not a reset
/// connection.
const LINGER: Duration = Duration::from_secs(5);

/// Reads the whole body.
///
/// # Errors
/// 413 beyond `max_bytes`, 408 from a client that stalls, 400 when the connection breaks.
pub(super) async fn read(request: Request, max_bytes: usize) -> Result<Vec<u8>, ApiError> {
    let (parts, mut body) = request.into_parts();
    let declared = content_length(&parts.headers);
    if declared.is_some_and(|bytes| bytes > max_bytes as u64) {
        drain(&parts.headers, body).await;
        return Err(too_large(max_bytes));
    }
    let mut bytes = Vec::with_capacity(declared.unwrap_or(0) as usize);
    while let Some(data) = next(&mut body, IDLE).await? {
        if bytes.len() + data.len() > max_bytes {
            drop(bytes);
            drain(&parts.headers, body).await;
            return Err(too_large(max_bytes));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
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
    let deadline = Instant::now() + LINGER;
    let rest = async { while let Ok(Some(_)) = next(&mut body, LINGER).await {} };
    // When time is up the connection is closed on the sender: nothing is owed to it any more.
    let _ = timeout_at(deadline, rest).await;
}

/// The next piece of data; trailers are skipped.
async fn next(body: &mut Body, idle: Duration) -> Result<Option<Bytes>, ApiError> {
    loop {
        let Ok(frame) = timeout(idle, body.frame()).await else {
            let detail = format!("no data for {} s while reading the body", idle.as_secs());
            return Err(ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "timeout",
                detail,
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
