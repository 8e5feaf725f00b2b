//! Load, clients that leave, failing jobs, shutdown.

use std::io::Write;
use std::time::Duration;

use leoma_node::http::{Limits, ServerOptions};
use serde_json::json;

use crate::server::{Reply, Server, leave, picture};

#[test]
fn a_full_queue_is_429_at_once_with_retry_after() {
    let server = Server::start(1);
    let mut running = server.start_generate(&json!({"prompt": "wait"}));
    server.expect_event("started");
    let mut waiting = server.start_generate(&json!({"prompt": "a boat"}));
    server.expect_load(1, 1);
    // Refused before the body is looked at, small or large.
    for body in [b"{}".to_vec(), vec![b' '; 6 << 20]] {
        let reply = server.post("/generate", &body);
        assert_eq!((reply.status, reply.code().as_str()), (429, "busy"));
        let seconds: u64 = reply.header("retry-after").parse().unwrap();
        assert!((1..=600).contains(&seconds));
    }
    server.gate.open();
    assert_eq!(Reply::read_one(&mut running).status, 200);
    assert_eq!(Reply::read_one(&mut waiting).status, 200);
    server.expect_still_serving();
}

#[test]
fn a_client_that_leaves_stops_its_running_job() {
    let server = Server::start(0);
    let client = server.start_generate(&json!({"prompt": "wait", "image": picture(8, 8)}));
    server.expect_event("started");
    leave(&client);
    server.expect_event("cancelled");
    server.expect_load(0, 0);
    server.expect_still_serving();
}

#[test]
fn a_client_that_leaves_gives_its_place_in_the_queue_back() {
    let server = Server::start(1);
    let _running = server.start_generate(&json!({"prompt": "wait"}));
    server.expect_event("started");
    let waiting = server.start_generate(&json!({"prompt": "wait"}));
    server.expect_load(1, 1);
    leave(&waiting);
    server.expect_load(1, 0);
    assert_eq!(server.get("/info").json()["load"]["running"], 1);
}

#[test]
fn health_answers_during_a_job() {
    let server = Server::start(1);
    let _running = server.start_generate(&json!({"prompt": "wait"}));
    server.expect_event("started");
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/info").json()["load"]["running"], 1);
}

#[test]
fn a_failing_job_fails_alone() {
    let server = Server::start(1);
    for (prompt, status, code) in [
        ("panic", 500, "internal"),
        ("artifact", 500, "artifact"),
        ("local", 500, "local"),
        ("disk full", 507, "disk_full"),
        ("panic in check", 500, "internal"),
    ] {
        let reply = server.generate(&json!({"prompt": prompt}));
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{prompt}"
        );
        server.expect_still_serving();
    }
}

#[test]
fn half_requests_do_not_disturb_others() {
    let server = Server::start(0);
    let mut head_only = server.connect();
    head_only.write_all(b"POST /generate HTT").unwrap();
    let mut body_missing = server.connect();
    body_missing
        .write_all(
            b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"pro",
        )
        .unwrap();
    // An unread body holds no place in the queue, which has none to spare.
    server.expect_still_serving();
    leave(&body_missing);
    server.expect_still_serving();
}

#[test]
fn a_head_that_never_ends_is_cut_off() {
    let options = ServerOptions {
        header_timeout: Duration::from_millis(200),
        ..ServerOptions::default()
    };
    let server = Server::with(0, Limits::default(), options);
    let mut slow = server.connect();
    slow.write_all(b"GET /health HTTP/1.1\r\nHost").unwrap();
    let mut rest = Vec::new();
    // Ends, with or without a word, long before the client's own patience does.
    std::io::Read::read_to_end(&mut slow, &mut rest).unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    server.expect_still_serving();
}

#[test]
fn shutdown_finishes_what_is_running_and_takes_no_more() {
    let mut server = Server::start(1);
    let mut running = server.start_generate(&json!({"prompt": "wait"}));
    server.expect_event("started");
    let mut idle = server.connect();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    assert_eq!(Reply::read_one(&mut idle).status, 200);
    server.stop();
    while std::net::TcpStream::connect(server.address).is_ok() {
        std::thread::sleep(Duration::from_millis(2));
    }
    server.gate.open();
    assert_eq!(Reply::read_one(&mut running).status, 200);
    assert!(server.drained());
}

#[test]
fn shutdown_does_not_wait_for_ever() {
    let options = ServerOptions {
        drain_timeout: Duration::from_millis(100),
        ..ServerOptions::default()
    };
    let mut server = Server::with(1, Limits::default(), options);
    let mut running = server.start_generate(&json!({"prompt": "wait"}));
    server.expect_event("started");
    server.stop();
    assert!(!server.drained());
    // What `serve` does next: the job stops at its next step.
    server.engine.cancel_all();
    server.expect_event("cancelled");
    let _ = std::io::Read::read(&mut running, &mut [0; 16]); // cut off or refused
}
