//! Every vocabulary in use for Wan endpoints gets a true clip from a tiny model.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::process::Node;
use crate::server::{Reply, picture, send};

/// codec, size, frames of a file.
fn probe(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::with_suffix(".mp4").unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let probe = std::process::Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-select_streams",
            "v:0",
            "-count_frames",
            "-of",
            "csv=p=0",
        ])
        .args([
            "-show_entries",
            "stream=codec_name,width,height,nb_read_frames",
        ])
        .arg(file.path())
        .output()
        .unwrap();
    String::from_utf8_lossy(&probe.stdout).trim().to_owned()
}

fn post(node: &Node, path: &str, headers: &str, body: &Value) -> Reply {
    let head = format!("POST {path} HTTP/1.1\r\nContent-Type: application/json\r\n{headers}");
    send(node.address, &head, body.to_string().as_bytes())
}

#[test]
fn each_vocabulary_gets_its_clip() {
    let node = Node::start(&[]);
    let image = picture(100, 70);
    let data_uri = format!("data:image/png;base64,{image}");
    let requests = [
        // The subnet's sampler, its fields exactly.
        (
            "/generate",
            json!({"prompt": "p", "image": image, "fps": 16, "frames": 5, "resolution": "96x64", "fast": true}),
        ),
        // The public Wan 2.2 chute.
        (
            "/generate",
            json!({"prompt": "p", "image": image, "frames": 5, "fps": 16, "resolution": "96*64", "fast": true,
                   "seed": 7, "guidance_scale": 1, "guidance_scale_2": 1, "negative_prompt": "n"}),
        ),
        // The miner's template.
        (
            "/generate",
            json!({"prompt": "p", "image": data_uri, "negative_prompt": "low quality", "num_frames": 5, "fps": 16,
                   "seed": null, "guidance_scale": 5.0, "num_inference_steps": 2, "width": 96, "height": 64}),
        ),
        // A chute of the field with its own name for the picture, wrapped as its schema is published.
        (
            "/generate",
            json!({"args": {"prompt": "p", "image_b64": image, "frames": 5, "steps": 2, "resolution": "96x64"}}),
        ),
        // The SDK's Wan 2.1 example.
        (
            "/image2video",
            json!({"prompt": "p", "first_image_b64": image, "sample_shift": 3.0, "guidance_scale": 5.0,
                   "seed": 42, "steps": 2, "fps": 16, "frames": 5, "resolution": "96*64", "single_frame": false}),
        ),
        (
            "/text2video",
            json!({"prompt": "p", "resolution": "96*64", "sample_shift": null, "steps": 2, "frames": 4,
                   "single_frame": false}),
        ),
    ];
    for (path, mut body) in requests {
        if path == "/generate" && body.get("args").is_none() {
            body["steps"] = json!(2);
        }
        let reply = post(&node, path, "", &body);
        assert_eq!(reply.status, 200, "{path} {reply:?}");
        assert_eq!(reply.header("content-type"), "video/mp4");
        assert_eq!(probe(&reply.body), "h264,96,64,5", "{path}");
        assert_eq!(reply.header("x-leoma-size"), "96x64");
        assert!(reply.header("server-timing").contains("denoise;dur="));
        assert_eq!(reply.header("x-chutes-invocationid").len(), 36);
    }

    for (path, extra) in [("/text2image", false), ("/text2video", true)] {
        let body = json!({"prompt": "p", "resolution": "96*64", "steps": 2, "single_frame": extra});
        let reply = post(&node, path, "", &body);
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.header("content-type"), "image/png");
        let still = image::load_from_memory(&reply.body).unwrap();
        assert_eq!((still.width(), still.height()), (96, 64));
    }
    let missing = post(&node, "/image2video", "", &json!({"prompt": "p"}));
    assert_eq!(
        (missing.status, missing.code().as_str()),
        (400, "invalid_request")
    );
}

#[test]
fn profiles_change_what_an_omitted_field_means() {
    let node = Node::start(&["--profile", "chutes-wan21"]);
    let body = json!({"prompt": "p", "image_b64": picture(64, 64), "resolution": "96*64", "frames": 5, "steps": 1});
    let reply = post(&node, "/image2video", "", &body);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("x-leoma-seed"), "42");
    let comment = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(comment.contains("\"image_preparation\":\"cover-crop\""));
    assert!(comment.contains("\"flow_shift\":3.0") && comment.contains("Vibrant colors"));

    let node = Node::start(&["--profile", "chutes-wan22"]);
    let body = json!({"prompt": "p", "resolution": "96*64", "frames": 5, "steps": 1});
    let seeds = [0, 1].map(|_| {
        post(&node, "/generate", "", &body)
            .header("x-leoma-seed")
            .to_owned()
    });
    assert_ne!(seeds[0], seeds[1], "a seed of its own for each request");
}

#[test]
fn a_traced_request_streams_its_progress_and_then_the_file() {
    let node = Node::start(&[]);
    let body = json!({"prompt": "p", "resolution": "96x64", "frames": 5, "steps": 3, "seed": 3});
    let plain = post(&node, "/generate", "", &body);
    // HTTP/1.0 has no chunks: the stream ends with the connection.
    let head = format!(
        "POST /generate HTTP/1.0\r\nHost: localhost\r\nX-Chutes-Trace: true\r\nContent-Length: {}\r\n\r\n{body}",
        body.to_string().len()
    );
    let mut stream = std::net::TcpStream::connect(node.address).unwrap();
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    let (head, events) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("text/event-stream"), "{head}");
    let events = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str::<Value>(data).unwrap())
        .collect::<Vec<_>>();
    let (last, traces) = events.split_last().unwrap();
    let message = |event: &Value| {
        event["trace"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert!(
        traces
            .iter()
            .any(|event| message(event).starts_with("denoise: step")),
        "{traces:?}"
    );
    for trace in traces {
        assert_eq!(trace["trace"]["function"], "generate");
        assert_eq!(trace["trace"]["invocation_id"].as_str().unwrap().len(), 36);
    }
    assert_eq!(last["result"]["content_type"], "video/mp4");
    let bytes = STANDARD
        .decode(last["result"]["bytes"].as_str().unwrap())
        .unwrap();
    assert_eq!(bytes, plain.body, "the same file as without tracing");
}

#[test]
fn the_platforms_interface_shows_a_hot_chute() {
    let node = Node::start(&[
        "--chute-username",
        "alice",
        "--chute-name",
        "wan",
        "--revision",
        "abc123",
    ]);
    let list = send(node.address, "GET /chutes/ HTTP/1.1\r\n", b"").json();
    assert_eq!(list["total"], 1);
    let id = list["items"][0]["chute_id"].as_str().unwrap().to_owned();
    let chute = send(node.address, &format!("GET /chutes/{id} HTTP/1.1\r\n"), b"").json();
    assert_eq!(chute["slug"], "alice-wan");
    assert_eq!(
        (&chute["hot"], &chute["revision"]),
        (&json!(true), &json!("abc123"))
    );
    let paths = chute["cords"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cord| cord["public_api_path"].clone());
    assert!(paths.eq(["/generate", "/image2video", "/text2video", "/text2image"].map(Value::from)));
    assert_eq!(
        chute["cords"][0]["input_schema"]["required"],
        json!(["prompt"])
    );
    let other = send(node.address, "GET /chutes/nobodys HTTP/1.1\r\n", b"");
    assert_eq!(other.status, 404);
    assert_eq!(
        other.json()["detail"],
        "Chute not found, or does not belong to you"
    );
}
