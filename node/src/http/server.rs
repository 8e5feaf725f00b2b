//! Connections: accepted up to a cap, held to time limits, drained on shutdown.
//!
//! axum's own `serve` has neither time limits nor a connection cap, so the accept loop is written out
//! here over the same hyper connection type; `connection.rs` watches each of them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::{End, Line, Watch, WatchedService, WatchedStream, drive};

/// After a shutdown signal, time for heads that are on their way to arrive.
const HEAD_GRACE: Duration = Duration::from_secs(1);

/// Bytes of a request's head. What a slow client has sent of it is held until it is cut off, so this
/// times the connections is memory that anybody can fill.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// How connections are treated.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections open at a time. One more takes the place of the one that waits longest for a
    /// request; while all are busy it waits.
    pub max_connections: usize,
    /// Time for a client to send the head of a request, counted from its first byte; on a new
    /// connection from its start.
    pub header_timeout: Duration,
    /// Time between an answer and the first byte of the next request.
    pub idle_timeout: Duration,
    /// Time for which a client may take nothing of what is ready for it.
    pub write_timeout: Duration,
    /// Time for requests in flight to finish after a shutdown signal.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Serves until `shutdown` resolves, then closes the port, calls `draining` and lets the requests in
/// flight finish. Returns whether all of them did within the drain timeout.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: &ServerOptions,
    shutdown: impl Future<Output = ()>,
    draining: impl FnOnce(),
) -> bool {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(options.max_connections));
    let line = Arc::new(Line::default());
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &places, &line) => accepted,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            // A client that left before its turn.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // Out of file descriptors or memory: a connection that does nothing has some.
                tracing::warn!(%error, "cannot accept a connection");
                line.evict();
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let watch = Watch::new(&line, options);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // `drive` keeps the time.
            .header_read_timeout(None)
            .max_header_size(MAX_HEAD_BYTES)
            .serve_connection(
                TokioIo::new(WatchedStream::new(stream, &watch)),
                WatchedService::new(router.clone(), &watch),
            );
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            match drive(&watch, connection).await {
                End::Finished(Ok(())) => {}
                End::Finished(Err(error)) => tracing::debug!(%error, "connection ended"),
                End::Evicted => tracing::debug!("idle connection closed to make room"),
                End::TimedOut(reason) => tracing::debug!(reason, "connection cut off"),
            }
            drop(place);
        });
    }
    drop(listener);
    draining();
    let stragglers = async {
        tokio::time::sleep(HEAD_GRACE).await;
        line.evict_all();
        std::future::pending().await
    };
    let drained = async {
        tokio::select! {
            () = graceful.shutdown() => {}
            () = stragglers => {}
        }
    };
    tokio::time::timeout(options.drain_timeout, drained)
        .await
        .is_ok()
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    line: &Line,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let (stream, _peer) = listener.accept().await?;
    // Fails only on a connection that is gone already; its task will find out.
    let _ = stream.set_nodelay(true);
    let place = line.make_room(places).await?;
    Ok((stream, place))
}

/// Lets this process open as many files and sockets as it may; the number it has now.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
