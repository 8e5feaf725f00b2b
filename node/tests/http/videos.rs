//! `/v1/videos` over a scripted backend.

use serde_json::{Value, json};

use crate::server::{self, Reply, Server, picture, png};

fn create(server: &Server, body: &Value) -> Reply {
    server.post("/v1/videos", body.to_string().as_bytes())
}

fn id(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["id"].as_str().unwrap().to_owned()
}

fn video(server: &Server, id: &str) -> Value {
    server.get(&format!("/v1/videos/{id}")).json()
}

fn finished(server: &Server, id: &str) -> Value {
    for _ in 0..3000 {
        let video = video(server, id);
        if matches!(video["status"].as_str(), Some("completed" | "failed")) {
            return video;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("{id} does not finish");
}

#[test]
fn a_job_is_made_followed_and_fetched() {
    let server = Server::start(2);
    let reply = create(
        &server,
        &json!({"prompt": "a boat", "input_reference": picture(8, 8), "size": "64x64", "seconds": "1", "seed": 9}),
    );
    let made = reply.json();
    assert_eq!(made["object"], "video");
    assert_eq!(made["size"], "64x64");
    assert_eq!(
        made["parameters"]["num_frames"], 17,
        "16 frames a second, 4n + 1"
    );
    let id = id(&reply);
    let done = finished(&server, &id);
    assert_eq!(
        (&done["status"], &done["progress"]),
        (&json!("completed"), &json!(100))
    );
    assert_eq!(done["bytes"], server::MP4.len());
    let content = server.get(&format!("/v1/videos/{id}/content"));
    assert_eq!(
        (content.status, content.body.as_slice()),
        (200, server::MP4)
    );
    let part = server.send(
        &format!("GET /v1/videos/{id}/content HTTP/1.1\r\nRange: bytes=4-7\r\n"),
        b"",
    );
    assert_eq!((part.status, part.body.as_slice()), (206, &b"ftyp"[..]));
    let events = server.get_stream(&format!("/v1/videos/{id}/events"));
    let kinds = events
        .lines()
        .filter_map(|line| line.strip_prefix("event: "))
        .collect::<Vec<_>>();
    assert_eq!(
        (kinds[0], kinds[1], *kinds.last().unwrap()),
        ("queued", "started", "completed")
    );
    let rest = server.get_stream_after(&format!("/v1/videos/{id}/events"), 1);
    assert!(!rest.contains("event: queued") && rest.contains("event: completed"));

    let deleted = server
        .send(&format!("DELETE /v1/videos/{id} HTTP/1.1\r\n"), b"")
        .json();
    assert_eq!(
        deleted,
        json!({"id": id, "object": "video.deleted", "deleted": true})
    );
    assert_eq!(server.get(&format!("/v1/videos/{id}")).status, 404);
}

#[test]
fn a_form_means_the_same_as_json() {
    let server = Server::start(2);
    let json = create(
        &server,
        &json!({"prompt": "a boat", "image": picture(8, 8), "size": "64x64", "seed": 9}),
    );
    let mut form = Vec::new();
    for (name, value) in [
        ("prompt", "a boat"),
        ("size", "64x64"),
        ("seed", "9"),
        ("negative_prompt", ""),
    ] {
        form.extend(
            format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
                .bytes(),
        );
    }
    form.extend(
        b"--B\r\nContent-Disposition: form-data; name=\"input_reference\"; filename=\"a.png\"\r\n\
          Content-Type: image/png\r\n\r\n",
    );
    form.extend(png(8, 8));
    form.extend(b"\r\n--B--\r\n");
    let head = "POST /v1/videos HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=B\r\n";
    let reply = server.send(head, &form);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.json()["parameters"], json.json()["parameters"]);
    let broken = server.send(
        head,
        b"--B\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nx",
    );
    assert_eq!(
        (broken.status, broken.code().as_str()),
        (400, "invalid_request")
    );
}

#[test]
fn batches_make_a_job_of_each() {
    let server = Server::start(2);
    let body = json!({"prompts": ["one", "two", "three"], "image": picture(8, 8), "size": "64x64"});
    let list = create(&server, &body).json();
    assert_eq!(list["object"], "list");
    let videos = list["data"].as_array().unwrap();
    let prompts = videos
        .iter()
        .map(|video| video["prompt"].clone())
        .collect::<Vec<_>>();
    assert_eq!(prompts, ["one", "two", "three"]);
    assert!(
        videos
            .iter()
            .all(|video| video["batch_id"] == videos[0]["batch_id"])
    );
    for video in videos {
        finished(&server, video["id"].as_str().unwrap());
    }
    // All or none.
    let wrong = create(&server, &json!({"prompts": ["one", ""]}));
    assert_eq!(wrong.status, 400);
    let page = server.get("/v1/videos?limit=2&order=asc").json();
    assert_eq!(
        (page["data"][0]["prompt"].clone(), page["has_more"].clone()),
        (json!("one"), json!(true))
    );
    let last = page["last_id"].as_str().unwrap();
    let next = server
        .get(&format!("/v1/videos?limit=2&order=asc&after={last}"))
        .json();
    assert_eq!(
        (
            next["data"].as_array().unwrap().len(),
            next["has_more"].clone()
        ),
        (1, json!(false))
    );
    for query in [
        "limit=0",
        "limit=x",
        "order=up",
        "after=video_x",
        "status=lost",
    ] {
        assert_eq!(
            server.get(&format!("/v1/videos?{query}")).status,
            400,
            "{query}"
        );
    }
}

#[test]
fn the_same_key_gives_the_same_job() {
    let server = Server::start(2);
    let send = |key: &str, body: &Value| {
        let head = format!("POST /v1/videos HTTP/1.1\r\nIdempotency-Key: {key}\r\n");
        server.send(&head, body.to_string().as_bytes())
    };
    let first = send("k", &json!({"prompt": "a boat", "frames": 5}));
    // Another spelling of the same request.
    let again = send(
        "k",
        &json!({"num_frames": 5, "prompt": "a boat", "seed": null}),
    );
    assert_eq!(id(&first), id(&again));
    let other = send("k", &json!({"prompt": "another boat", "frames": 5}));
    assert_eq!(
        (other.status, other.code().as_str()),
        (409, "idempotency_mismatch")
    );
    assert_ne!(
        id(&first),
        id(&send("l", &json!({"prompt": "a boat", "frames": 5})))
    );
}

#[test]
fn a_cancelled_job_stops_and_says_so() {
    let server = Server::start(2);
    let running = id(&create(&server, &json!({"prompt": "wait"})));
    server.expect_event("started");
    let waiting = id(&create(&server, &json!({"prompt": "a boat"})));
    assert_eq!(video(&server, &waiting)["queue_position"], 0);
    for id in [&waiting, &running] {
        let cancelled = server
            .send(&format!("DELETE /v1/videos/{id} HTTP/1.1\r\n"), b"")
            .json();
        assert_eq!(
            (&cancelled["status"], &cancelled["deleted"]),
            (&json!("failed"), &json!(false))
        );
        assert_eq!(cancelled["error"]["code"], "cancelled");
        let content = server.get(&format!("/v1/videos/{id}/content"));
        assert_eq!(
            (content.status, content.code().as_str()),
            (409, "not_completed")
        );
    }
    server.expect_event("cancelled");
    server.expect_load(0, 0);
    let events = server.get_stream(&format!("/v1/videos/{running}/events"));
    assert!(
        events.contains("event: failed") && events.contains("\"cancelled\""),
        "{events}"
    );
    server.expect_still_serving();
}

#[test]
fn failures_are_told_with_their_code() {
    let server = Server::start(2);
    for (prompt, code) in [
        ("panic", "internal"),
        ("artifact", "artifact"),
        ("local", "local"),
    ] {
        let id = id(&create(&server, &json!({"prompt": prompt})));
        let video = finished(&server, &id);
        assert_eq!(
            (&video["status"], &video["error"]["code"]),
            (&json!("failed"), &json!(code))
        );
    }
    let reply = create(&server, &json!({"prompt": "p", "model": "sora-2"}));
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (404, "model_not_found")
    );
    let reply = create(
        &server,
        &json!({"prompt": "p", "image": "https://example.org/a.png"}),
    );
    assert!(
        reply.status == 400 && reply.message().contains("fetching is off"),
        "{reply:?}"
    );
}

#[test]
fn waiting_jobs_are_bounded() {
    let server = Server::start(2);
    let _running = create(&server, &json!({"prompt": "wait"}));
    server.expect_event("started");
    let statuses = (0..9)
        .map(|_| create(&server, &json!({"prompt": "a boat"})).status)
        .collect::<Vec<_>>();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 429]);
    server.gate.open();
}
