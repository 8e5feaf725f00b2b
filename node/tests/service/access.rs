//! Who may call, over every operation of the OpenAPI document.

use std::os::unix::fs::PermissionsExt;

use leoma_node::http::is_public;
use serde_json::Value;

use crate::client::{Ask, Reply};
use crate::node::{FAST, Node, Place, clip, flat};

/// Must be seen nowhere.
const KEY: &str = "k3y-canary-5d1f0e7a9b";

fn place_with_key() -> Place {
    let place = Place::new();
    let file = place.path("key");
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    place
}

/// Method and path of every operation, with ids that nothing has.
fn operations(document: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "video_00000000000000000000000000000000");
        assert!(!path.contains('{'), "{path}");
        for method in ["get", "head", "post", "put", "patch", "delete"] {
            if item.get(method).is_some() {
                found.push((method.to_uppercase(), path.clone()));
            }
        }
    }
    assert!(found.len() >= 15, "{found:?}");
    found
}

fn public(method: &str, path: &str) -> bool {
    is_public(&method.parse().unwrap(), path)
}

fn chutes_form(path: &str) -> bool {
    let first = path.split('/').nth(1).unwrap();
    matches!(
        first,
        "generate" | "image2video" | "text2video" | "text2image" | "chutes"
    )
}

fn assert_error(reply: &Reply, path: &str, status: u16, code: &str) {
    assert_eq!(reply.status, status, "{path}: {}", reply.text());
    assert_eq!(reply.code(), code, "{path}");
    let body = reply.json();
    if chutes_form(path) {
        assert!(body["detail"].is_string(), "{path}: {body}");
    } else {
        let id = body["error"]["request_id"].as_str().unwrap();
        assert_eq!(id, reply.header("x-request-id"), "{path}");
    }
}

#[test]
fn every_route_that_is_not_public_needs_the_key() {
    let place = place_with_key();
    let file = place.path("key");
    let mut command = place.serve(FAST, &["--api-key-file", file.to_str().unwrap()]);
    // Everything that can be logged.
    command.env("LEOMA_NODE_LOG", "trace");
    let node = place.start_command(command);
    let bearer = format!("Bearer {KEY}");
    let ask = |method: &str, path: &str, key: Option<&str>| {
        let ask = Ask::new(method, path);
        node.send(&match key {
            Some(key) => ask.header("Authorization", key),
            None => ask,
        })
    };
    let document = ask("GET", "/openapi.json", Some(&bearer));
    assert_eq!(document.status, 200);
    let mut operations = operations(&document.json());
    // Not in the document.
    for (method, path) in [
        ("GET", "/openapi.json"),
        ("HEAD", "/v1/videos"),
        ("GET", "/no/such/route"),
        ("PUT", "/generate"),
        ("POST", "/health"),
        ("GET", "/v1/videos/"),
        ("GET", "//health"),
        ("GET", "/assets/../v1/videos"),
    ] {
        operations.push((method.into(), path.into()));
    }
    let mut guarded = 0;
    let mut bodies = vec![document.text()];
    for (method, path) in &operations {
        let name = format!("{method} {path}");
        if public(method, path) {
            let reply = ask(method, path, None);
            assert!(
                matches!(reply.status, 200 | 503),
                "{name}: {}",
                reply.text()
            );
            bodies.push(reply.text());
            continue;
        }
        guarded += 1;
        let wrong = format!("Bearer {}", KEY.replace('a', "b"));
        for key in [
            None,
            Some(wrong.as_str()),
            Some("Bearer"),
            Some(""),
            Some(&KEY[1..]),
            Some(&format!("{bearer} {KEY}")),
            Some(&format!("Basic {KEY}")),
        ] {
            let reply = ask(method, path, key);
            assert_eq!(reply.header("www-authenticate"), "Bearer", "{name} {key:?}");
            if method != "HEAD" {
                assert_error(&reply, path, 401, "unauthorized");
            }
            assert_eq!(reply.status, 401, "{name} {key:?}");
            bodies.push(reply.text());
        }
        for key in [bearer.as_str(), KEY, &format!("bearer {KEY}")] {
            let reply = ask(method, path, Some(key));
            assert!(
                !matches!(reply.status, 401 | 403),
                "{name}: {}",
                reply.text()
            );
            assert!(reply.status < 500, "{name}: {}", reply.text());
            bodies.push(reply.text());
        }
    }
    assert!(guarded >= 12, "{guarded}");

    // With a key the server is for others too, under whatever name they reach it.
    let elsewhere = Ask::post("/v1/videos", &clip("a boat"))
        .header("Host", "node.example:8443")
        .header("Authorization", &bearer);
    let reply = node.send(&elsewhere);
    assert_eq!(reply.status, 200, "{}", reply.text());
    bodies.push(reply.text());
    // Twice, as a smuggler would.
    let twice = Ask::get("/info")
        .header("Authorization", &bearer)
        .header("Authorization", "Bearer other");
    assert_eq!(node.send(&twice).status, 401);

    let info = ask("GET", "/info", Some(KEY));
    assert_eq!(info.json()["auth"], true);
    for text in [
        info.text(),
        ask("GET", "/metrics", Some(KEY)).text(),
        node.log(),
    ] {
        assert!(!text.is_empty());
        bodies.push(text);
    }
    for text in bodies {
        assert!(!text.contains(KEY), "{text}");
    }
}

#[test]
fn without_a_key_only_this_machine_may_call() {
    let place = Place::new();
    let node = place.start(FAST, &[]);
    let document = node.get("/openapi.json").json();
    let mut operations = operations(&document);
    for path in [
        "/",
        "/docs",
        "/gallery",
        "/status",
        "/openapi.json",
        "/nowhere",
    ] {
        operations.push(("GET".into(), path.into()));
    }
    let own = format!("localhost:{}", node.address.port());
    for (method, path) in &operations {
        let ask = Ask::new(method, path);
        for host in [
            "evil.example",
            "evil.example:80",
            "127.0.0.1.evil.example",
            "10.0.0.1",
        ] {
            let reply = node.send(&ask.clone().header("Host", host));
            assert_error(&reply, path, 403, "forbidden_host");
        }
        for origin in [
            "https://evil.example",
            "null",
            "http://localhost:1",
            &format!("http://127.0.0.1:{}", node.address.port()),
            "file://",
        ] {
            let foreign = ask.clone().header("Host", &own).header("Origin", origin);
            assert_error(&node.send(&foreign), path, 403, "forbidden_origin");
        }
        let origin = format!("http://{own}");
        let reply = node.send(&ask.clone().header("Host", &own).header("Origin", &origin));
        assert_ne!(reply.status, 403, "{method} {path}");
        // No other page may read the answer.
        assert_eq!(reply.header("access-control-allow-origin"), "");
    }
    assert!(node.list().is_empty());
    assert_eq!(node.get("/info").json()["auth"], false);
}

#[test]
fn a_public_address_needs_a_key() {
    let place = place_with_key();
    let refused = |options: &[&str]| {
        let output = place.serve(FAST, options).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(output.stdout.is_empty());
        message
    };
    for host in ["0.0.0.0", "::"] {
        let message = refused(&["--host", host]);
        assert!(message.contains("--api-key-file"), "{message}");
    }
    // Keys that are none are not repeated.
    for key in ["short-canary", "canary with spaces in it", ""] {
        let message = refused(&["--api-key", key]);
        assert!(key.is_empty() || !message.contains(key), "{message}");
        let file = place.path("bad");
        std::fs::write(&file, key).unwrap();
        let message = refused(&["--api-key-file", file.to_str().unwrap()]);
        assert!(message.contains(file.to_str().unwrap()), "{message}");
        assert!(key.is_empty() || !message.contains(key), "{message}");
    }
    let file = place.path("key");
    let message = refused(&["--api-key", KEY, "--api-key-file", file.to_str().unwrap()]);
    assert!(!message.contains(KEY), "{message}");
}

#[test]
fn the_key_is_not_shown() {
    let place = place_with_key();
    let file = place.path("key");
    let mut shown = Vec::new();
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["config", "show"],
        &["config", "show", "--origin"],
        &["serve", "--port", "none"],
    ] {
        let output = place
            .program(args)
            .env("LEOMA_NODE_API_KEY", KEY)
            .output()
            .unwrap();
        shown.push(String::from_utf8_lossy(&output.stdout).into_owned());
        shown.push(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    assert!(shown.iter().any(|text| text.contains("LEOMA_NODE_API_KEY")));
    // From the environment, named in a file, and in the log of a job.
    let mut by_name = place.serve(FAST, &[]);
    by_name.env("LEOMA_NODE_API_KEY_FILE", &file);
    let mut by_value = place.serve(FAST, &[]);
    by_value.env("LEOMA_NODE_API_KEY", KEY);
    for command in [by_name, by_value] {
        let mut node = place.start_command(command);
        let reply =
            node.send(&Ask::post("/generate", &flat("a boat")).header("Authorization", KEY));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(node.get("/info").status, 401);
        stop(&mut node);
        shown.push(node.log());
    }
    for text in shown {
        assert!(!text.contains(KEY), "{text}");
    }
}

fn stop(node: &mut Node) {
    node.signal(rustix::process::Signal::TERM);
    assert_eq!(node.end(), Some(0));
}
