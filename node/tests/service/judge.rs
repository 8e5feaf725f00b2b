//! `POST /v1/judge`, with a model server whose answers are a script and with clips that are decoded.

use std::net::TcpStream;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leoma_node::media::{Fps, Mp4Options, Mp4Writer, encode_png};
use serde_json::{Value, json};

use crate::client::{Ask, Reply};
use crate::mock::{Answer, Mock, error, says};
use crate::node::{FAST, Node, Place, until};

const WIDTH: usize = 64;
const HEIGHT: usize = 48;
const PROMPT: &str = "a red box nobody else knows of";

/// A frame in which something moves.
fn frame(number: usize) -> Vec<u8> {
    let pixels = (0..HEIGHT).flat_map(|y| {
        (0..WIDTH).flat_map(move |x| {
            let inside = (x + WIDTH - 2 * number % WIDTH) % WIDTH < 16 && (16..32).contains(&y);
            if inside {
                [220, 40, 40]
            } else {
                [(x * 3) as u8, (y * 4) as u8, 90]
            }
        })
    });
    pixels.collect()
}

/// A clip of one second and its first frame, as files.
struct Files {
    video: Vec<u8>,
    first: Vec<u8>,
}

impl Files {
    fn new(place: &Place) -> Self {
        let options = Mp4Options {
            width: WIDTH as u32,
            height: HEIGHT as u32,
            fps: Fps::from(16),
            crf: 18,
            metadata: Vec::new(),
        };
        let path = place.path("clip.mp4");
        let mut writer = Mp4Writer::create(&path, &options).unwrap();
        for number in 0..17 {
            writer.push(&frame(number)).unwrap();
        }
        writer.finish().unwrap();
        Self {
            video: std::fs::read(path).unwrap(),
            first: encode_png(WIDTH as u32, HEIGHT as u32, &frame(0)).unwrap(),
        }
    }

    fn body(&self) -> Value {
        let video = format!("data:video/mp4;base64,{}", STANDARD.encode(&self.video));
        json!({"video": video, "first_frame": STANDARD.encode(&self.first), "prompt": PROMPT})
    }

    /// The same as a form.
    fn form(&self, more: &[(&str, &str)]) -> Ask {
        let mut body = Vec::new();
        let files = [("video", &self.video), ("first_frame", &self.first)];
        for (name, file) in files {
            let head = format!(
                "--x\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"a\"\r\n\r\n"
            );
            body.extend([head.as_bytes(), file, b"\r\n"].concat());
        }
        for (name, text) in more.iter().chain(&[("prompt", PROMPT)]) {
            let part =
                format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n");
            body.extend_from_slice(part.as_bytes());
        }
        body.extend_from_slice(b"--x--\r\n");
        Ask::new("POST", "/v1/judge")
            .header("Content-Type", "multipart/form-data; boundary=x")
            .body(body)
    }
}

/// A server that judges and asks `base` where it asks remotely.
fn start(place: &Place, base: &str, options: &[&str]) -> Node {
    let mut command = place.serve(FAST, options);
    command
        .env("LEOMA_NODE_JUDGE_BASE_URL", base)
        .env("LEOMA_NODE_JUDGE_MODEL", "m")
        .env("LEOMA_NODE_JUDGE_STATE_DIR", place.path("state"));
    place.start_command(command)
}

fn judge(node: &Node, body: &Value) -> Reply {
    node.send(&Ask::post("/v1/judge", body))
}

/// What the model says in profile `subnet`.
fn scores(overall: u8) -> Answer {
    let aspects = json!({
        "first_frame_fidelity": 90, "prompt_adherence": 85, "motion_quality": 70, "temporal_consistency": 80,
        "visual_quality": 75, "camera_composition": 60,
    });
    says(&json!({"overall_score": overall, "confidence": 80, "aspect_scores": aspects}).to_string())
}

#[test]
fn a_clip_passes_or_fails_or_has_no_verdict() {
    let place = Place::new();
    let files = Files::new(&place);
    let mock = Mock::start(vec![
        scores(82),
        scores(74),
        error(401, "invalid_api_key", "who are you"),
    ]);
    let options = ["--judge", "remote", "--judge-profile", "subnet"];
    let node = start(&place, &mock.base, &options);
    assert_eq!(node.get("/info").json()["judge"], "remote");

    let mut body = files.body();
    body["task_id"] = 17.into();
    body["evidence"] = true.into();
    let reply = judge(&node, &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let passed = reply.json();
    assert_eq!(passed["judgement"]["decision"]["pass"], true, "{passed}");
    assert_eq!(passed["judgement"]["remote"]["overall"], 82);
    assert_eq!(passed["judgement"]["local"], Value::Null);
    // The bundle is whole: written as it is, it can be checked.
    let bundle = passed["evidence"].as_str().unwrap();
    let evidence: Value = serde_json::from_str(bundle).unwrap();
    assert_eq!(evidence["digest"], passed["evidence_sha256"]);
    assert_eq!(evidence["task_id"], "17");
    std::fs::write(place.path("evidence.json"), bundle).unwrap();
    std::fs::write(place.path("first.png"), &files.first).unwrap();
    let checked = place
        .program(&["judge", "verify", "evidence.json"])
        .args(["--video", "clip.mp4", "--first-frame", "first.png"])
        .output()
        .unwrap();
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");

    let failed = node.send(&files.form(&[("mode", "remote")]));
    assert_eq!(failed.status, 200, "{}", failed.text());
    let failed = failed.json();
    assert_eq!(failed["judgement"]["decision"]["pass"], false, "{failed}");
    assert_eq!(failed["evidence_sha256"], Value::Null);
    assert!(failed.get("evidence").is_none());

    let none = judge(&node, &files.body());
    assert_eq!(none.status, 200, "{}", none.text());
    let none = none.json();
    assert_eq!(none["judgement"]["decision"]["pass"], Value::Null, "{none}");
    assert_eq!(none["judgement"]["remote"]["reason"], "key");

    assert_eq!(mock.asked().len(), 3);
    for outcome in ["pass", "fail", "no_verdict"] {
        let sample = format!("leoma_judgements_total{{outcome=\"{outcome}\"}}");
        assert_eq!(node.metric(&sample), 1.0, "{outcome}");
    }
    let log = node.log();
    assert_eq!(log.matches("clip judged").count(), 3, "{log}");
    assert!(!log.contains(PROMPT), "{log}");
}

#[test]
fn the_local_judge_needs_nobody_and_a_request_gets_no_other() {
    let place = Place::new();
    let files = Files::new(&place);
    let node = start(&place, "http://127.0.0.1:9/v1", &["--judge", "local"]);
    let judged = judge(&node, &files.body());
    assert_eq!(judged.status, 200, "{}", judged.text());
    let judged = judged.json();
    let judgement = &judged["judgement"];
    assert_eq!(judgement["mode"], "local");
    assert_eq!(judgement["remote"], Value::Null);
    // Signals pass nothing.
    assert_ne!(judgement["decision"]["pass"], true, "{judgement}");
    assert!(judgement["local"]["details"]["signals"].is_object());

    for mode in ["remote", "shadow", "fallback", "best"] {
        let mut body = files.body();
        body["mode"] = mode.into();
        let refused = judge(&node, &body);
        assert_eq!(refused.status, 400, "{mode}");
        assert!(refused.text().contains("mode: "), "{}", refused.text());
    }
}

#[test]
fn what_judge_is_set_to_holds_here_too() {
    let place = Place::new();
    let files = Files::new(&place);
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/embeddings");
    let mut command = place.serve(FAST, &["--judge", "local"]);
    command
        .env("LEOMA_NODE_JUDGE_DINOV2", models.join("dinov2"))
        .env("LEOMA_NODE_JUDGE_LOG", place.path("verdicts.jsonl"));
    let node = place.start_command(command);
    let mut body = files.body();
    body["task_id"] = 17.into();
    body["evidence"] = true.into();
    let judged = judge(&node, &body);
    assert_eq!(judged.status, 200, "{}", judged.text());
    let judged = judged.json();
    let found = &judged["judgement"]["local"]["details"]["embeddings"];
    assert!(found["values"]["dino_first"].is_f64(), "{judged}");
    assert_eq!(found["values"].get("clip_text"), None);

    let log = std::fs::read_to_string(place.path("verdicts.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 1, "{log}");
    let line: Value = serde_json::from_str(&log).unwrap();
    assert_eq!(
        (&line["task_id"], &line["prompt"]),
        (&json!("17"), &json!(PROMPT))
    );
    assert_eq!(line["evidence_sha256"], judged["evidence_sha256"]);
    assert_eq!(
        line["judgement"]["decision"],
        judged["judgement"]["decision"]
    );

    // A log that cannot be written loses no verdict.
    std::fs::remove_file(place.path("verdicts.jsonl")).unwrap();
    std::fs::create_dir(place.path("verdicts.jsonl")).unwrap();
    let judged = judge(&node, &files.body());
    assert_eq!(judged.status, 200, "{}", judged.text());
    let said = node.log();
    assert!(said.contains("the verdict log lacks a judgement"), "{said}");
    assert!(!said.contains(PROMPT), "{said}");
}

#[test]
fn what_is_wrong_is_named_and_whose_fault_it_is() {
    let place = Place::new();
    let files = Files::new(&place);
    let options = ["--judge", "local", "--max-body-bytes", "100KiB"];
    let node = start(&place, "http://127.0.0.1:9/v1", &options);
    let link = json!("https://example.org/a.mp4");
    for (field, value, status, says) in [
        ("prompt", Value::Null, 400, "prompt: is missing"),
        ("prompt", json!("  "), 400, "prompt: is empty"),
        ("video", Value::Null, 400, "video: is missing"),
        ("video", json!("%%%"), 400, "video: is not base64"),
        ("video", link, 400, "video: is a link"),
        ("first_frame", Value::Null, 400, "first_frame: is missing"),
        (
            "first_frame",
            json!("data:,x"),
            400,
            "first_frame: is a data: URI",
        ),
        (
            "first_frame",
            json!("AAAA"),
            400,
            "first_frame: the image is",
        ),
        (
            "video",
            json!("A".repeat(120 << 10)),
            413,
            "body: this server takes at most",
        ),
    ] {
        let mut body = files.body();
        body[field] = value;
        let reply = judge(&node, &body);
        assert_eq!(reply.status, status, "{}", reply.text());
        assert!(reply.text().contains(says), "{} lacks {says}", reply.text());
    }
    let broken = node.send(&Ask::new("POST", "/v1/judge").body(b"{".to_vec()));
    assert_eq!(broken.status, 400, "{}", broken.text());

    // A clip that is none is the clip's fault, and that is an answer.
    let mut body = files.body();
    body["video"] = STANDARD.encode("this is no video").into();
    let none = judge(&node, &body);
    assert_eq!(none.status, 200, "{}", none.text());
    let none = none.json()["no_verdict"].clone();
    assert_eq!(
        (&none["reason"], &none["fault"]),
        (&json!("input"), &json!("artifact"))
    );
    let message = none["message"].as_str().unwrap();
    assert!(message.starts_with("video: not a video"), "{message}");
}

#[test]
fn a_server_without_a_judge_says_how_to_get_one() {
    let place = Place::new();
    let node = place.start(FAST, &[]);
    let reply = judge(&node, &json!({}));
    assert_eq!((reply.status, reply.code().as_str()), (404, "judge_off"));
    assert!(reply.text().contains("--judge MODE"), "{}", reply.text());
    assert_eq!(node.get("/info").json()["judge"], Value::Null);
}

#[test]
fn a_full_line_is_503_and_moves_on_when_clients_leave() {
    let place = Place::new();
    let files = Files::new(&place);
    let mock = Mock::start(vec![Answer::Silence; 8]);
    let options = ["--judge", "remote", "--judge-deadline", "60s"];
    let node = start(&place, &mock.base, &options);
    let ask = Ask::post("/v1/judge", &files.body());
    let wait = |running: f64, waiting: f64| {
        until("the line is not as wanted", || {
            let found =
                ["running", "waiting"].map(|name| node.metric(&format!("leoma_judge_{name} ")));
            if found == [running, waiting] {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        });
    };
    let mut clients: Vec<TcpStream> = (0..6).map(|_| ask.open(node.address).unwrap()).collect();
    wait(2.0, 4.0);
    for _ in 0..2 {
        let refused = node.send(&ask);
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (503, "judge_busy")
        );
        assert_eq!(refused.number("retry-after"), 10);
    }
    // All leave: those that wait are gone at once, those that are being judged when that is over.
    clients.clear();
    wait(2.0, 0.0);
    assert!(mock.asked().len() <= 2, "nobody is asked for who has left");
}
