//! One connection: what it is doing now, how long it may go on with it, and who must go first.
//!
//! hyper has one timer, for the whole of a request's head, and does not tell what a connection is
//! doing. Here the socket and the service report to a [`Watch`], and [`drive`] enforces the limits:
//!
//! | state | ends after |
//! |---|---|
//! | new, or a head half received | `header_timeout` |
//! | between two requests | `idle_timeout`; earlier when its place is needed |
//! | a request is being answered | no limit here: the handler's matter |
//! | bytes to send and the client takes none | `write_timeout` |

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::server::ServerOptions;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change under these locks is complete in itself, so a panic elsewhere leaves them usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connections that wait for a request, the longest waiting first.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: Mutex<Waiting>,
    joined: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// By order of arrival; the waker reaches the task that drives the connection.
    wakers: BTreeMap<u64, Waker>,
}

impl Line {
    fn join(&self, waker: Waker) -> u64 {
        let mut waiting = lock(&self.waiting);
        let number = waiting.next;
        waiting.next += 1;
        waiting.wakers.insert(number, waker);
        drop(waiting);
        self.joined.notify_one();
        number
    }

    /// Leaves the line; false: was sent away before.
    fn leave(&self, number: u64) -> bool {
        lock(&self.waiting).wakers.remove(&number).is_some()
    }

    fn holds(&self, number: u64) -> bool {
        lock(&self.waiting).wakers.contains_key(&number)
    }

    /// Sends the longest waiting connection away; false: none waits.
    pub(super) fn evict(&self) -> bool {
        let first = lock(&self.waiting).wakers.pop_first();
        if let Some((_, waker)) = first {
            waker.wake();
            return true;
        }
        false
    }

    /// Sends all waiting connections away.
    pub(super) fn evict_all(&self) {
        while self.evict() {}
    }

    /// A place for one more connection: a free one, else that of the longest waiting connection, else
    /// the first one that a busy connection leaves.
    pub(super) async fn make_room(
        &self,
        places: &Arc<Semaphore>,
    ) -> io::Result<OwnedSemaphorePermit> {
        loop {
            if let Ok(place) = Arc::clone(places).try_acquire_owned() {
                return Ok(place);
            }
            let freed = Arc::clone(places).acquire_owned();
            if self.evict() {
                return freed.await.map_err(io::Error::other);
            }
            tokio::select! {
                place = freed => return place.map_err(io::Error::other),
                () = self.joined.notified() => {}
            }
        }
    }
}

/// What one connection is doing; shared by its socket, its service and its driver.
#[derive(Debug)]
pub(super) struct Watch {
    line: Arc<Line>,
    header_timeout: std::time::Duration,
    idle_timeout: std::time::Duration,
    write_timeout: std::time::Duration,
    phase: Mutex<Phase>,
}

#[derive(Debug)]
struct Phase {
    /// Requests whose answer is not complete yet.
    serving: u32,
    /// A request was served before: the next one may take its time to come.
    kept_alive: bool,
    /// Since when no request is being served.
    quiet_since: Instant,
    /// Since when a head is being received.
    head_since: Option<Instant>,
    /// Since when the client takes no bytes.
    blocked_since: Option<Instant>,
    /// Number in the line of those that wait.
    number: Option<u64>,
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// By itself: the client left, or the last answer was sent.
    Finished(hyper::Result<()>),
    /// Its place was needed.
    Evicted,
    /// Too slow, with what.
    TimedOut(&'static str),
}

impl Watch {
    pub(super) fn new(line: &Arc<Line>, options: &ServerOptions) -> Arc<Self> {
        Arc::new(Self {
            line: Arc::clone(line),
            header_timeout: options.header_timeout,
            idle_timeout: options.idle_timeout,
            write_timeout: options.write_timeout,
            phase: Mutex::new(Phase {
                serving: 0,
                kept_alive: false,
                quiet_since: Instant::now(),
                head_since: None,
                blocked_since: None,
                number: None,
            }),
        })
    }

    fn received(&self) {
        let mut phase = lock(&self.phase);
        if phase.serving == 0 && phase.head_since.is_none() {
            phase.head_since = Some(Instant::now());
        }
    }

    fn sent(&self, progress: bool) {
        let mut phase = lock(&self.phase);
        if progress {
            phase.blocked_since = None;
        } else if phase.blocked_since.is_none() {
            phase.blocked_since = Some(Instant::now());
        }
    }

    /// A request is here; None: too late, the connection was sent away.
    fn begin(self: &Arc<Self>) -> Option<Serving> {
        let mut phase = lock(&self.phase);
        if let Some(number) = phase.number.take()
            && !self.line.leave(number)
        {
            phase.number = Some(number);
            return None;
        }
        phase.serving += 1;
        phase.head_since = None;
        Some(Serving(Arc::clone(self)))
    }

    fn evicted(&self) -> bool {
        lock(&self.phase)
            .number
            .is_some_and(|number| !self.line.holds(number))
    }

    /// Joins or leaves the line, once hyper has done all it can for now. Not earlier: between the end
    /// of an answer's body and its last flush the connection only looks idle.
    fn settle(&self, waker: &Waker) {
        let mut phase = lock(&self.phase);
        let waits = phase.serving == 0 && phase.blocked_since.is_none();
        match phase.number {
            None if waits => {
                if phase.kept_alive {
                    phase.quiet_since = Instant::now();
                }
                phase.number = Some(self.line.join(waker.clone()));
            }
            // Stays in the number when sent away meanwhile: the next poll ends the connection.
            Some(number) if !waits && self.line.leave(number) => phase.number = None,
            _ => {}
        }
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        let phase = lock(&self.phase);
        if let Some(since) = phase.blocked_since {
            Some((since + self.write_timeout, "the client takes no bytes"))
        } else if phase.serving > 0 {
            None
        } else if let Some(since) = phase.head_since {
            let slow = "the head of a request did not arrive in time";
            Some((since + self.header_timeout, slow))
        } else if phase.kept_alive {
            Some((phase.quiet_since + self.idle_timeout, "no next request"))
        } else {
            Some((phase.quiet_since + self.header_timeout, "no request"))
        }
    }

    fn leave(&self) {
        if let Some(number) = lock(&self.phase).number.take() {
            self.line.leave(number);
        }
    }
}

/// Runs a connection to its end within its time limits.
pub(super) async fn drive(
    watch: &Watch,
    connection: impl Future<Output = hyper::Result<()>>,
) -> End {
    let mut connection = pin!(connection);
    let mut sleep = pin!(sleep_until(Instant::now() + watch.header_timeout));
    let end = poll_fn(|cx| {
        if watch.evicted() {
            return Poll::Ready(End::Evicted);
        }
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            return Poll::Ready(End::Finished(result));
        }
        watch.settle(cx.waker());
        let Some((deadline, what)) = watch.deadline() else {
            return Poll::Pending;
        };
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(End::TimedOut(what))
    })
    .await;
    watch.leave();
    end
}

/// A request being served, until the last byte of its answer is handed over.
#[derive(Debug)]
struct Serving(Arc<Watch>);

impl Drop for Serving {
    fn drop(&mut self) {
        let mut phase = lock(&self.0.phase);
        phase.serving -= 1;
        phase.kept_alive = true;
        phase.quiet_since = Instant::now();
    }
}

/// A socket that tells its watch what moves.
#[derive(Debug)]
pub(super) struct WatchedStream {
    stream: TcpStream,
    watch: Arc<Watch>,
}

impl WatchedStream {
    pub(super) fn new(stream: TcpStream, watch: &Arc<Watch>) -> Self {
        Self {
            stream,
            watch: Arc::clone(watch),
        }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.watch.sent(written.is_ready());
        written
    }
}

impl Drop for WatchedStream {
    fn drop(&mut self) {
        if lock(&self.watch.phase).blocked_since.is_some() {
            // Else the kernel keeps what a client that reads nothing was to get, for minutes.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.watch.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The routes, telling their connection's watch when a request comes and when its answer is complete.
#[derive(Debug, Clone)]
pub(super) struct WatchedService {
    routes: TowerToHyperService<Router>,
    watch: Arc<Watch>,
}

impl WatchedService {
    pub(super) fn new(router: Router, watch: &Arc<Watch>) -> Self {
        Self {
            routes: TowerToHyperService::new(router),
            watch: Arc::clone(watch),
        }
    }
}

/// The connection was sent away in the moment in which its request came.
#[derive(Debug, thiserror::Error)]
#[error("the connection's place was needed")]
pub(super) struct TooLate;

impl From<Infallible> for TooLate {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl hyper::service::Service<Request<Incoming>> for WatchedService {
    type Response = Response<WatchedBody>;
    type Error = TooLate;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let Some(serving) = self.watch.begin() else {
            return Box::pin(std::future::ready(Err(TooLate)));
        };
        let response = self.routes.call(request);
        Box::pin(async move {
            let response = response.await?;
            Ok(response.map(|body| WatchedBody {
                body,
                _serving: serving,
            }))
        })
    }
}

/// An answer's body; its request counts as being served as long as it lives.
#[derive(Debug)]
pub(super) struct WatchedBody {
    body: Body,
    _serving: Serving,
}

impl hyper::body::Body for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
