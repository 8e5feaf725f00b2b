//! Broken connections and refusals, each exactly where it hurts.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::seen::Seen;
use crate::{files, generate, signal};

/// What one connection gets.
enum Answer {
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// These bytes, and then nothing for as long as the client stays.
    Hold(Vec<u8>),
}

struct Server {
    host: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Answers one connection after the other; 500 when there are more than answers.
    fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let mut answers = VecDeque::from(answers);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(request) = Seen::read(&stream) else {
                    continue;
                };
                log.lock().unwrap().push(request);
                let answer = answers.pop_front();
                match answer.unwrap_or_else(|| error(500, "script_is_over", "more requests")) {
                    Answer::Bytes(bytes) => drop((&stream).write_all(&bytes)),
                    Answer::Hold(bytes) => {
                        (&stream).write_all(&bytes).unwrap();
                        std::thread::spawn(move || (&stream).read(&mut [0]));
                    }
                }
            }
        });
        Self { host, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

fn answer(status: &str, head: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in head {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    [text.as_bytes(), b"\r\n", body].concat()
}

fn ok(body: &Value) -> Answer {
    let body = body.to_string();
    let length = body.len().to_string();
    Answer::Bytes(answer(
        "200 OK",
        &[("Content-Length", &length)],
        body.as_bytes(),
    ))
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = json!({"error": {"code": code, "message": message, "request_id": "req-7"}});
    Answer::Bytes(answer(
        &format!("{status} X"),
        &[],
        body.to_string().as_bytes(),
    ))
}

fn events(events: &[(u32, &str, Value)]) -> Vec<u8> {
    let mut text = String::from(": hello\n\n");
    for (id, kind, data) in events {
        write!(text, "id: {id}\nevent: {kind}\ndata: {data}\n\n").unwrap();
    }
    answer(
        "200 OK",
        &[("Content-Type", "text/event-stream")],
        text.as_bytes(),
    )
}

const ID: &str = "video_0123456789abcdef0123456789abcdef";

fn video(status: &str) -> Value {
    json!({
        "id": ID, "object": "video", "status": status, "model": "tiny",
        "parameters": {"seed": 42, "num_frames": 5, "width": 64, "height": 64},
        "timings": {"denoise_s": 1.5},
    })
}

fn clip() -> Vec<u8> {
    (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect()
}

fn etag(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// Job taken, done at once, and then this for its content.
fn done_at_once(content: Answer) -> Vec<Answer> {
    let completed = json!({"type": "completed", "video": video("completed")});
    vec![
        ok(&video("queued")),
        Answer::Bytes(events(&[(1, "completed", completed)])),
        content,
    ]
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_clip_comes_through_lost_answers_broken_streams_and_a_cut_download() {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip();
    let (length, etag) = (clip.len().to_string(), etag(&clip));
    let head = [("Content-Length", length.as_str()), ("ETag", etag.as_str())];
    let rest = (clip.len() - 40_000).to_string();
    let range = format!("bytes 40000-{}/{length}", clip.len() - 1);
    let tail = [("Content-Length", rest.as_str()), ("Content-Range", &range)];
    let progress = json!({"stage": "denoise", "done": 1, "total": 2, "progress": 40});
    let server = Server::start(vec![
        Answer::Bytes(Vec::new()),
        ok(&video("queued")),
        Answer::Bytes(events(&[
            (1, "queued", json!({"position": 3})),
            (2, "progress", progress),
        ])),
        ok(&video("in_progress")),
        error(503, "shutting_down", "the server is shutting down"),
        ok(&video("in_progress")),
        Answer::Bytes(events(&[
            (3, "requeued", json!({"reason": "the server was restarted"})),
            (4, "completed", json!({"video": video("completed")})),
        ])),
        Answer::Bytes(answer("200 OK", &head, &clip[..40_000])),
        Answer::Bytes(answer("206 Partial Content", &tail, &clip[40_000..])),
    ]);
    std::fs::write(folder.path().join("first.png"), b"picture").unwrap();
    std::fs::write(folder.path().join("key"), "secret-key\n").unwrap();
    let output = generate(folder.path(), &server.host)
        .args([
            "--image",
            "first.png",
            "--num-frames",
            "6",
            "--guidance-scale",
            "2.5",
        ])
        .args([
            "--preset",
            "official",
            "--scheduler",
            "euler",
            "--noise-source",
            "cuda:h100",
        ])
        .args([
            "--api-key-file",
            "key",
            "--format",
            "json",
            "--output",
            "new.mp4",
        ])
        // Of the server's own environment on the same machine.
        .env("LEOMA_NODE_DTYPE", "bf16")
        .env("LEOMA_NODE_MODEL", "/checkpoint")
        .output()
        .unwrap();
    let stderr = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(std::fs::read(folder.path().join("new.mp4")).unwrap(), clip);
    assert_eq!(files(folder.path()).len(), 3, "{:?}", files(folder.path()));
    assert!(
        stderr.contains("num_frames: asked for 6, made 5"),
        "{stderr}"
    );
    assert!(stderr.contains("the server was restarted"), "{stderr}");
    assert!(!stderr.contains("secret-key"));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["output"], "new.mp4");
    assert_eq!((&report["seed"], &report["id"]), (&json!(42), &json!(ID)));
    assert_eq!(report["stages"]["denoise_s"], 1.5);

    let seen = server.seen();
    let path = format!("/v1/videos/{ID}");
    assert_eq!(
        server.lines(),
        [
            "POST /v1/videos".to_owned(),
            "POST /v1/videos".to_owned(),
            format!("GET {path}/events"),
            format!("GET {path}"),
            format!("GET {path}/events"),
            format!("GET {path}"),
            format!("GET {path}/events"),
            format!("GET {path}/content"),
            format!("GET {path}/content"),
        ]
    );
    assert!(
        seen.iter()
            .all(|seen| seen.header("authorization") == Some("Bearer secret-key"))
    );
    let key = seen[0].header("idempotency-key").unwrap();
    assert!(key.len() >= 32, "{key}");
    assert_eq!(seen[1].header("idempotency-key"), Some(key));
    assert_eq!(seen[0].body, seen[1].body);
    assert_eq!(
        seen[0].json(),
        json!({
            "prompt": "a boat", "image": "cGljdHVyZQ==", "num_frames": 6, "guidance_scale": 2.5,
            "preset": "official", "scheduler": "euler", "noise_source": "cuda:h100",
        })
    );
    let resumed = [2, 4, 6].map(|at: usize| seen[at].header("last-event-id"));
    assert_eq!(resumed, [None, Some("2"), Some("2")]);
    assert_eq!(seen[7].header("range"), None);
    assert_eq!(seen[8].header("range"), Some("bytes=40000-"));
    assert_eq!(seen[8].header("if-range"), Some(etag.as_str()));
}

#[test]
fn a_clip_that_ended_while_nobody_listened_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip();
    let etag = etag(&clip);
    let server = Server::start(vec![
        ok(&video("queued")),
        Answer::Bytes(events(&[])),
        ok(&video("completed")),
        Answer::Bytes(answer("200 OK", &[("ETag", &etag)], &clip)),
    ]);
    let output = generate(folder.path(), &server.host).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out.mp4\n");
    assert_eq!(std::fs::read(folder.path().join("out.mp4")).unwrap(), clip);
}

#[test]
fn a_clip_that_changed_between_two_parts_starts_over() {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip();
    let (length, etag) = (clip.len().to_string(), etag(&clip));
    let old = [("Content-Length", length.as_str()), ("ETag", "\"another\"")];
    let new = [("Content-Length", length.as_str()), ("ETag", etag.as_str())];
    let mut script = done_at_once(Answer::Bytes(answer("200 OK", &old, &vec![9; 50_000])));
    script.push(Answer::Bytes(answer("200 OK", &new, &clip)));
    let server = Server::start(script);
    let output = generate(folder.path(), &server.host).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(std::fs::read(folder.path().join("out.mp4")).unwrap(), clip);
}

#[test]
fn a_damaged_clip_is_not_published_and_an_old_one_stays() {
    for (head, code) in [(vec![("ETag", "\"0000\"")], 1), (vec![], 69)] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("out.mp4"), "old").unwrap();
        let content = answer("200 OK", &head, &clip());
        let server = Server::start(done_at_once(Answer::Bytes(content)));
        let output = generate(folder.path(), &server.host).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert_eq!(files(folder.path()), ["out.mp4"]);
        assert_eq!(
            std::fs::read(folder.path().join("out.mp4")).unwrap(),
            b"old"
        );
    }
}

#[test]
fn refusals_end_with_the_servers_words_and_the_code_of_their_fault() {
    for (status, code, exit) in [
        (400, "invalid_request", 2),
        (401, "unauthorized", 2),
        (404, "not_found", 2),
        (413, "too_large", 2),
        (429, "busy", 1),
        (503, "shutting_down", 1),
        (507, "disk_full", 1),
        (500, "artifact", 2),
        (500, "internal", 69),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(vec![error(status, code, "because of the moon")]);
        let output = generate(folder.path(), &server.host).output().unwrap();
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(exit), "{status}: {stderr}");
        for part in ["because of the moon", code, &status.to_string(), "req-7"] {
            assert!(stderr.contains(part), "{part}: {stderr}");
        }
        assert!(files(folder.path()).is_empty());
        assert_eq!(server.lines().len(), 1, "a refusal is not tried again");
    }
}

#[test]
fn a_failed_job_ends_with_its_reason() {
    for (code, exit) in [("artifact", 2), ("internal", 69), ("cancelled", 1)] {
        let folder = tempfile::tempdir().unwrap();
        let mut failed = video("failed");
        failed["error"] = json!({"code": code, "message": "every frame is black"});
        let server = Server::start(vec![
            ok(&video("queued")),
            Answer::Bytes(events(&[(1, "failed", json!({"video": failed}))])),
        ]);
        let output = generate(folder.path(), &server.host).output().unwrap();
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(exit), "{stderr}");
        assert!(
            stderr.contains("every frame is black") && stderr.contains(ID),
            "{stderr}"
        );
        assert!(files(folder.path()).is_empty());
    }
}

#[test]
fn a_server_that_is_not_there_or_not_ours_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let output = generate(folder.path(), &host).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&host), "{}", stderr(&output));

    let page = answer("200 OK", &[("Content-Type", "text/html")], b"<html>");
    let server = Server::start(vec![ok(&video("queued")), Answer::Bytes(page)]);
    let output = generate(folder.path(), &server.host).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert!(stderr(&output).contains("leoma-node server"));
}

#[test]
fn options_of_the_computing_machine_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (option, value) in [
        ("--model", "dir"),
        ("--dtype", "f32"),
        ("--device", "cpu"),
        ("--offload", "none"),
        ("--dump", "d.safetensors"),
        ("--frames-dir", "frames"),
        ("--noise", "n.safetensors"),
        ("--print-config", ""),
        ("--guidance-scale", "nan"),
        ("--api-key-file", "missing"),
        ("--output", "no/such/folder/out.mp4"),
    ] {
        let mut command = generate(folder.path(), "http://127.0.0.1:9");
        command.arg(option);
        if !value.is_empty() {
            command.arg(value);
        }
        let output = command.output().unwrap();
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{option}: {stderr}");
        let name = option.trim_start_matches('-').replace('-', "_");
        assert!(
            stderr.contains(&format!("error: {name}: ")),
            "{option}: {stderr}"
        );
        assert!(output.stdout.is_empty() && files(folder.path()).is_empty());
    }
    let output = generate(folder.path(), "localhost:8000").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("host: "), "{}", stderr(&output));
}

#[test]
fn ctrl_c_cancels_the_job_and_leaves_no_file() {
    for name in ["INT", "TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let progress = json!({"stage": "denoise", "done": 1, "total": 50});
        let server = Server::start(vec![
            ok(&video("queued")),
            Answer::Hold(events(&[(1, "progress", progress)])),
            ok(&video("failed")),
        ]);
        let client = generate(folder.path(), &server.host).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.lines().len() < 2 {
            assert!(Instant::now() < deadline, "the client does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        signal(name, client.id());
        let output = client.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
        assert_eq!(server.lines()[2], format!("DELETE /v1/videos/{ID}"));
        assert!(output.stdout.is_empty() && files(folder.path()).is_empty());
    }
}

#[test]
fn ctrl_c_before_the_job_has_a_name_still_cancels_it() {
    let folder = tempfile::tempdir().unwrap();
    // The answer comes in two halves, the second one after the signal.
    let Answer::Bytes(whole) = ok(&video("queued")) else {
        unreachable!("made of bytes");
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    let client = generate(folder.path(), &host).spawn().unwrap();
    let (mut first, _) = listener.accept().unwrap();
    assert_eq!(Seen::read(&first).unwrap().line, "POST /v1/videos");
    first.write_all(&whole[..20]).unwrap();
    signal("INT", client.id());
    std::thread::sleep(Duration::from_millis(300));
    first.write_all(&whole[20..]).unwrap();
    drop(first);
    let (mut second, _) = listener.accept().unwrap();
    let cancel = Seen::read(&second).unwrap();
    assert_eq!(cancel.line, format!("DELETE /v1/videos/{ID}"));
    let Answer::Bytes(cancelled) = ok(&video("failed")) else {
        unreachable!("made of bytes");
    };
    second.write_all(&cancelled).unwrap();
    drop(second);
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
}
