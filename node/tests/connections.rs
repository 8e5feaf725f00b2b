//! Many, slow and silent clients over real sockets: what each may do, and that others do not notice.
#![allow(clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::routing::get;
use leoma_node::http::{ServerOptions, raise_file_limit, serve};
use tokio::sync::{oneshot, watch};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// More than the kernel holds for a client that reads nothing.
const BIG_BYTES: usize = 64 << 20;

/// What the handlers share with the test.
#[derive(Clone)]
struct Shared {
    gate: watch::Receiver<bool>,
    events: mpsc::Sender<&'static str>,
}

struct Server {
    address: SocketAddr,
    gate: watch::Sender<bool>,
    events: mpsc::Receiver<&'static str>,
    stop: Option<oneshot::Sender<()>>,
    drained: mpsc::Receiver<bool>,
}

/// Tells when the server lets go of a body.
struct Gone(mpsc::Sender<&'static str>);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.0.send("gone"); // few tests listen
    }
}

/// Answers when the gate opens.
async fn wait(State(mut shared): State<Shared>) -> &'static str {
    shared.events.send("started").unwrap();
    shared.gate.wait_for(|open| *open).await.unwrap();
    "done"
}

/// Sends its head at once and the body when the gate opens.
async fn quiet(State(mut shared): State<Shared>) -> Body {
    Body::from_stream(futures_util::stream::once(async move {
        shared.gate.wait_for(|open| *open).await.unwrap();
        Ok::<_, std::io::Error>(Bytes::from_static(b"at last"))
    }))
}

/// Sends much, in pieces, without end of its own before `BIG_BYTES`.
async fn big(State(shared): State<Shared>) -> Body {
    let gone = Gone(shared.events);
    let piece = Bytes::from(vec![7; 1 << 20]);
    let pieces = (0..BIG_BYTES >> 20).map(move |_| {
        let _held = &gone;
        Ok::<_, std::io::Error>(piece.clone())
    });
    Body::from_stream(futures_util::stream::iter(pieces))
}

impl Server {
    fn start(options: ServerOptions) -> Self {
        let (events_in, events) = mpsc::channel();
        let (gate, opened) = watch::channel(false);
        let routes = Router::new()
            .route("/ok", get(async || "ok"))
            .route("/wait", get(wait))
            .route("/quiet", get(quiet))
            .route("/big", get(big))
            .with_state(Shared {
                gate: opened,
                events: events_in,
            });
        let (address_in, address) = mpsc::channel();
        let (drained_in, drained) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                address_in.send(listener.local_addr().unwrap()).unwrap();
                let stopped = async { drop(stopped.await) };
                let drained = serve(listener, routes, &options, stopped, || {}).await;
                let _ = drained_in.send(drained); // only shutdown tests listen
            });
        });
        Self {
            address: address.recv_timeout(PATIENCE).unwrap(),
            gate,
            events,
            stop: Some(stop),
            drained,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A connection with one request sent and its answer not read.
    fn ask(&self, path: &str) -> TcpStream {
        let mut stream = self.connect();
        send(&mut stream, path);
        stream
    }

    /// A connection that has had one answer.
    fn kept_alive(&self) -> TcpStream {
        let mut stream = self.ask("/ok");
        assert_eq!(answer(&mut stream), "ok");
        stream
    }

    fn expect_event(&self, event: &str) {
        assert_eq!(self.events.recv_timeout(PATIENCE).unwrap(), event);
    }

    fn expect_serving(&self) {
        drop(self.kept_alive());
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.gate.send_replace(true);
    }
}

fn send(stream: &mut TcpStream, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
}

/// Reads one answer with a `Content-Length`: its body.
fn answer(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let (_, length) = head.split_once("content-length: ").unwrap();
    let length = length.split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

/// Reads to the last chunk of what `/quiet` answers.
fn expect_at_last(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    while !rest.ends_with(b"\r\n0\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        rest.push(byte[0]);
    }
    assert!(rest.ends_with(b"at last\r\n0\r\n\r\n"));
}

/// Waits until the server closes the connection: the bytes that came before.
fn closed(stream: &mut TcpStream) -> usize {
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return total,
            Ok(read) => total += read,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return total,
            Err(error) => panic!("still open: {error}"),
        }
    }
}

fn options() -> ServerOptions {
    ServerOptions {
        max_connections: 4096,
        header_timeout: PATIENCE * 10,
        idle_timeout: PATIENCE * 10,
        write_timeout: PATIENCE * 10,
        drain_timeout: PATIENCE,
    }
}

#[test]
fn thousands_of_idle_connections_disturb_nobody() {
    // Both ends live in this process.
    let room = raise_file_limit().saturating_sub(200) / 2;
    let count = room.min(2000) as usize;
    assert!(count >= 400, "raise the limit of open files: `ulimit -n`");
    let server = Server::start(options());
    let mut idle: Vec<_> = (0..count).map(|_| server.connect()).collect();
    for stream in idle.iter_mut().step_by(2) {
        stream.write_all(b"GET /ok HTTP/1.1\r\nHo").unwrap();
    }
    let start = Instant::now();
    for _ in 0..100 {
        server.expect_serving();
    }
    assert!(start.elapsed() < Duration::from_secs(10));
    // None of them was given up.
    for stream in idle.iter_mut().step_by(2) {
        stream.write_all(b"st: x\r\n\r\n").unwrap();
        assert_eq!(answer(stream), "ok");
    }
    for stream in idle.iter_mut().skip(1).step_by(2) {
        send(stream, "/ok");
        assert_eq!(answer(stream), "ok");
    }
}

#[test]
fn room_is_made_by_the_longest_idle_connection_and_never_by_a_busy_one() {
    let server = Server::start(ServerOptions {
        max_connections: 4,
        ..options()
    });
    let mut busy = server.ask("/wait");
    server.expect_event("started");
    let mut streaming = server.ask("/quiet");
    let mut head = [0; 12];
    streaming.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let mut first = server.kept_alive();
    let mut second = server.kept_alive();
    // `first` was served last: it now waits less long than `second`.
    send(&mut first, "/ok");
    assert_eq!(answer(&mut first), "ok");
    let mut third = server.kept_alive();
    assert_eq!(closed(&mut second), 0);
    for stream in [&mut first, &mut third] {
        send(stream, "/ok");
        assert_eq!(answer(stream), "ok");
    }
    // A flood of connections that say nothing pushes out its own kind.
    let flood: Vec<_> = (0..200).map(|_| server.connect()).collect();
    server.expect_serving();
    drop(flood);
    server.gate.send_replace(true);
    assert_eq!(answer(&mut busy), "done");
    expect_at_last(&mut streaming);
}

#[test]
fn with_all_places_busy_the_next_connection_waits() {
    let server = Server::start(ServerOptions {
        max_connections: 2,
        ..options()
    });
    let mut busy = [server.ask("/wait"), server.ask("/wait")];
    server.expect_event("started");
    server.expect_event("started");
    let mut waiting = server.ask("/ok");
    waiting
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let early = waiting.read(&mut [0; 16]).map_err(|error| error.kind());
    assert!(
        matches!(early, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        "{early:?}"
    );
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    server.gate.send_replace(true);
    assert_eq!(answer(&mut waiting), "ok");
    for stream in &mut busy {
        assert_eq!(answer(stream), "done");
    }
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let server = Server::start(ServerOptions {
        write_timeout: Duration::from_millis(300),
        ..options()
    });
    let mut stream = server.ask("/big");
    server.expect_event("gone");
    assert!(closed(&mut stream) < BIG_BYTES);
    server.expect_serving();
}

#[test]
fn a_client_that_takes_its_time_gets_everything() {
    let server = Server::start(ServerOptions {
        write_timeout: Duration::from_secs(2),
        ..options()
    });
    let mut stream = server.ask("/big");
    let start = Instant::now();
    let mut total = 0;
    let mut buffer = vec![0; 4 << 20];
    while total < BIG_BYTES {
        let mut filled = 0;
        while filled < buffer.len() && total < BIG_BYTES {
            let read = stream.read(&mut buffer[filled..]).unwrap();
            assert!(read > 0, "cut off after {total} bytes");
            filled += read;
            total += read;
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    assert!(start.elapsed() > Duration::from_secs(2));
}

#[test]
fn an_answer_with_nothing_to_say_is_not_cut_off() {
    let short = Duration::from_millis(100);
    let server = Server::start(ServerOptions {
        header_timeout: short,
        idle_timeout: short,
        write_timeout: short,
        ..options()
    });
    let mut quiet = server.ask("/quiet");
    let mut busy = server.ask("/wait");
    server.expect_event("started");
    std::thread::sleep(short * 8);
    server.gate.send_replace(true);
    assert_eq!(answer(&mut busy), "done");
    expect_at_last(&mut quiet);
}

#[test]
fn a_head_that_comes_in_drops_is_cut_off() {
    let server = Server::start(ServerOptions {
        header_timeout: Duration::from_millis(300),
        ..options()
    });
    let mut fresh = server.connect();
    let mut used = server.kept_alive();
    let mut silent = server.connect();
    let drops = |stream: &mut TcpStream| {
        stream.write_all(b"GET /ok HTTP/1.1\r\nX: ").unwrap();
        let start = Instant::now();
        // Ends by an error once the server has closed its side.
        while stream.write_all(b"x").is_ok() {
            assert!(start.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    drops(&mut fresh);
    drops(&mut used);
    assert_eq!(closed(&mut silent), 0);
    server.expect_serving();
}

#[test]
fn a_head_has_a_largest_size_whether_it_ends_or_not() {
    let server = Server::start(options());
    for (bytes, end, status) in [
        (30 << 10, "\r\n\r\n", "200"),
        (40 << 10, "\r\n\r\n", "431"),
        (40 << 10, "", "431"),
    ] {
        let mut stream = server.connect();
        let filler = "x".repeat(bytes);
        // The server may hang up while the rest is on its way.
        let _ = write!(stream, "GET /ok HTTP/1.1\r\nHost: x\r\nX: {filler}{end}");
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, format!("HTTP/1.1 {status}").as_bytes(), "{bytes}");
    }
}

#[test]
fn time_between_requests_has_its_own_limit() {
    let server = Server::start(ServerOptions {
        header_timeout: Duration::from_millis(200),
        ..options()
    });
    let mut stream = server.kept_alive();
    std::thread::sleep(Duration::from_secs(1));
    send(&mut stream, "/ok");
    assert_eq!(answer(&mut stream), "ok");

    let server = Server::start(ServerOptions {
        idle_timeout: Duration::from_millis(200),
        ..options()
    });
    let mut stream = server.kept_alive();
    assert_eq!(closed(&mut stream), 0);
    server.expect_serving();
}

#[test]
fn shutdown_finishes_answers_and_waits_for_nobody_else() {
    let mut server = Server::start(options());
    let mut busy = server.ask("/wait");
    server.expect_event("started");
    let mut idle = server.kept_alive();
    let mut fresh = server.connect();
    let mut half = server.connect();
    half.write_all(b"GET /ok HTTP/1.1\r\nHo").unwrap();
    // Answered after `half` was accepted, so `half` is not just a connection in the backlog.
    server.expect_serving();
    server.stop();
    for stream in [&mut idle, &mut fresh, &mut half] {
        assert_eq!(closed(stream), 0);
    }
    while TcpStream::connect(server.address).is_ok() {
        std::thread::sleep(Duration::from_millis(2));
    }
    server.gate.send_replace(true);
    assert_eq!(answer(&mut busy), "done");
    assert!(server.drained.recv_timeout(PATIENCE).unwrap());
}

#[test]
fn the_file_limit_is_raised_to_what_is_allowed() {
    let raised = raise_file_limit();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(limit.current, limit.maximum);
    assert_eq!(limit.current.unwrap_or(u64::MAX), raised);
    assert_eq!(raise_file_limit(), raised);
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let server = Server::start(ServerOptions {
        max_connections: 1,
        ..options()
    });
    for _ in 0..20 {
        let busy = server.ask("/wait");
        server.expect_event("started");
        drop(busy);
    }
    server.expect_serving();
}
