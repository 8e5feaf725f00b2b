//! The HTTP contract over a real socket, with a scripted backend in place of a model.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod faults;
#[cfg(feature = "ffmpeg")]
mod process;
mod server;
mod videos;
#[cfg(feature = "ffmpeg")]
mod vocabularies;

use serde_json::json;
use server::{Reply, Server, picture};

#[test]
fn the_samplers_request_gets_the_file_and_its_parameters() {
    let server = Server::start(2);
    let body = json!({
        "prompt": "a boat", "image": picture(8, 8), "fps": 16, "frames": 81,
        "resolution": "480p", "fast": true,
    });
    let reply = server.generate(&body);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), "video/mp4");
    assert_eq!(reply.header("x-leoma-seed"), "42");
    assert_eq!(reply.header("x-leoma-steps"), "30");
    assert_eq!(reply.header("x-leoma-frames"), "81");
    assert_eq!(reply.header("x-leoma-fps"), "16");
    assert_eq!(reply.header("x-leoma-size"), "832x480");
    assert_eq!(reply.header("x-leoma-fast"), "false");
    assert_eq!(reply.body, server::MP4);
}

#[test]
fn info_tells_what_is_loaded_and_how_busy_it_is() {
    let server = Server::start(3);
    let reply = server.get("/health");
    assert_eq!(reply.status, 200);
    let health = reply.json();
    assert_eq!(health["status"], "ok");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    let body = server.get("/info").json();
    assert_eq!(body["model"]["kind"], "ti2v-5b");
    assert_eq!(
        body["load"],
        json!({"running": 0, "queued": 0, "queue_capacity": 3})
    );
}

#[test]
fn unknown_routes_and_methods_are_json_too() {
    let server = Server::start(1);
    for (request, status, code) in [
        ("GET /nowhere", 404, "no_route"),
        ("POST /v1/../generate", 404, "no_route"),
        ("GET /generate", 405, "method_not_allowed"),
        ("DELETE /health", 405, "method_not_allowed"),
    ] {
        let reply = server.send(&format!("{request} HTTP/1.1\r\n"), b"");
        assert_eq!(reply.status, status, "{request}");
        assert_eq!(reply.code(), code, "{request}");
    }
    assert_eq!(server.get("/generate").header("allow"), "POST");
}

#[test]
fn several_requests_share_a_connection() {
    let server = Server::start(1);
    let mut connection = server.connect();
    for _ in 0..3 {
        let head = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
        std::io::Write::write_all(&mut connection, head.as_bytes()).unwrap();
        assert_eq!(Reply::read_one(&mut connection).status, 200);
    }
}
