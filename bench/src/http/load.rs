//! Load on one server: a closed loop of clients, or an open loop that keeps to its schedule.
//!
//! In the open loop a request's time counts from when it was due, not from when it was sent: a server that
//! stalls also makes the requests late that had to wait for it (no coordinated omission).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::samples::Numbers;
use super::wire::{Connection, Reply, Url};

/// Requests that may be under way in the open loop; more are counted as failed.
const MAX_IN_FLIGHT: usize = 900;
/// Time after which an unused connection is not trusted any more: servers close idle ones, uvicorn after 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// How a server is driven.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// Clients that each ask again when they are answered.
    Closed {
        /// Clients.
        concurrency: usize,
        /// Requests of all clients together.
        requests: usize,
    },
    /// Requests at fixed distances in time.
    Open {
        /// Requests per second.
        rate: f64,
        /// For how long.
        seconds: f64,
    },
}

/// What came of a load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// From the first request to the last answer, in seconds.
    pub(crate) wall_s: f64,
    /// Times of the requests answered 200, in microseconds.
    pub(crate) ok_us: Numbers,
    /// Times of the requests answered 429, in microseconds.
    pub(crate) refused_us: Numbers,
    /// Requests with another answer or none.
    pub(crate) failed: u64,
    /// What they got in its place, and how often.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) failures: BTreeMap<String, u64>,
    /// How late requests were sent (open loop): above a millisecond the generator is the slow one.
    pub(crate) lag_us: Numbers,
}

impl Outcome {
    fn record(&mut self, reply: io::Result<Reply>, since: Instant) {
        let micros = since.elapsed().as_micros().min(u128::from(u32::MAX)) as u32;
        match reply {
            Ok(Reply { status: 200, .. }) => self.ok_us.0.push(micros),
            Ok(Reply { status: 429, .. }) => self.refused_us.0.push(micros),
            Ok(Reply { status, .. }) => self.fail(format!("HTTP {status}")),
            Err(error) => self.fail(error.kind().to_string()),
        }
    }

    fn fail(&mut self, what: String) {
        self.failed += 1;
        *self.failures.entry(what).or_default() += 1;
    }
}

/// Drives the server. Everything runs on the calling thread.
pub(crate) fn drive(url: &Url, request: &Rc<[u8]>, mode: Mode) -> io::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        match mode {
            Mode::Closed {
                concurrency,
                requests,
            } => closed(url, request, concurrency, requests).await,
            Mode::Open { rate, seconds } => open(url, request, rate, seconds).await,
        }
    })
}

async fn closed(
    url: &Url,
    request: &Rc<[u8]>,
    concurrency: usize,
    requests: usize,
) -> io::Result<Outcome> {
    let mut connections = Vec::new();
    for _ in 0..concurrency {
        connections.push(Connection::open(url).await?);
    }
    let outcome = Rc::new(RefCell::new(Outcome::default()));
    let left = Rc::new(Cell::new(requests));
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for mut connection in connections {
        let (url, request) = (url.clone(), Rc::clone(request));
        let (outcome, left) = (Rc::clone(&outcome), Rc::clone(&left));
        clients.spawn_local(async move {
            while let Some(rest) = left.get().checked_sub(1) {
                left.set(rest);
                let since = Instant::now();
                let reply = ask(&mut connection, &url, &request).await;
                outcome.borrow_mut().record(reply, since);
            }
        });
    }
    while clients.join_next().await.is_some() {}
    let mut outcome = outcome.take();
    outcome.wall_s = start.elapsed().as_secs_f64();
    Ok(outcome)
}

async fn open(url: &Url, request: &Rc<[u8]>, rate: f64, seconds: f64) -> io::Result<Outcome> {
    let first = (Connection::open(url).await?, Instant::now());
    let idle = Rc::new(RefCell::new(vec![first]));
    let outcome = Rc::new(RefCell::new(Outcome::default()));
    let mut requests = JoinSet::new();
    let (start, mut schedule) = pace(rate, seconds);
    while let Some(due) = schedule.recv().await {
        let lag = due.elapsed().as_micros().min(u128::from(u32::MAX)) as u32;
        outcome.borrow_mut().lag_us.0.push(lag);
        while requests.try_join_next().is_some() {}
        if requests.len() >= MAX_IN_FLIGHT {
            outcome.borrow_mut().fail("too many unanswered".into());
            continue;
        }
        let (url, request) = (url.clone(), Rc::clone(request));
        let (idle, outcome) = (Rc::clone(&idle), Rc::clone(&outcome));
        requests.spawn_local(async move {
            let kept = idle.borrow_mut().pop();
            let reply = match kept.filter(|(_, since)| since.elapsed() < KEEP_ALIVE) {
                Some((connection, _)) => Ok(connection),
                None => Connection::open(&url).await,
            };
            let reply = match reply {
                Ok(mut connection) => {
                    let reply = ask(&mut connection, &url, &request).await;
                    if connection.is_reusable() {
                        idle.borrow_mut().push((connection, Instant::now()));
                    }
                    reply
                }
                Err(error) => Err(error),
            };
            outcome.borrow_mut().record(reply, due);
        });
    }
    while requests.join_next().await.is_some() {}
    let mut outcome = outcome.take();
    outcome.wall_s = start.elapsed().as_secs_f64();
    Ok(outcome)
}

/// Sends; a connection that the server has closed is replaced for the next time.
async fn ask(connection: &mut Connection, url: &Url, request: &[u8]) -> io::Result<Reply> {
    if !connection.is_reusable() {
        *connection = Connection::open(url).await?;
    }
    connection.ask(request, None).await
}

/// Gives every request's due time when it has come. A thread sleeps more exactly than the runtime's timer,
/// which counts in milliseconds.
fn pace(rate: f64, seconds: f64) -> (Instant, mpsc::UnboundedReceiver<Instant>) {
    let count = (rate * seconds).round().max(1.0) as u32;
    let start = Instant::now() + Duration::from_millis(5);
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for index in 0..count {
            let due = start + Duration::from_secs_f64(f64::from(index) / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.send(due).is_err() {
                break;
            }
        }
    });
    (start, receiver)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::wire::tests::scripted;
    use super::*;

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const BUSY: &str = "HTTP/1.1 429 Busy\r\nContent-Length: 0\r\n\r\n";
    const LAST: &str = "HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

    fn on_server(answers: Vec<&'static str>, delay: Duration, mode: Mode) -> Outcome {
        let server = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let url = server.block_on(scripted(answers, delay));
        drive(&url, &Rc::from(url.post("{}", None)), mode).unwrap()
    }

    #[test]
    fn a_closed_loop_sends_just_the_requests_and_sorts_the_answers() {
        let mode = Mode::Closed {
            concurrency: 1,
            requests: 9,
        };
        let outcome = on_server(vec![OK, BUSY, LAST], Duration::ZERO, mode);
        let (ok, refused) = (outcome.ok_us.0.len(), outcome.refused_us.0.len());
        assert_eq!((ok, refused, outcome.failed), (3, 3, 3));
        assert_eq!(outcome.failures["HTTP 500"], 3);
        assert!(outcome.wall_s > 0.0);
    }

    #[test]
    fn an_open_loop_does_not_wait_for_answers() {
        let mode = Mode::Open {
            rate: 100.0,
            seconds: 0.2,
        };
        let outcome = on_server(vec![OK], Duration::from_millis(300), mode);
        assert_eq!(outcome.ok_us.0.len(), 20);
        assert_eq!((outcome.failed, outcome.lag_us.0.len()), (0, 20));
        // One after the other, 20 answers of 300 ms would take 6 s.
        assert!(outcome.wall_s < 3.0, "{}", outcome.wall_s);
        assert!(outcome.ok_us.0.iter().all(|&time| time >= 300_000));
    }
}
