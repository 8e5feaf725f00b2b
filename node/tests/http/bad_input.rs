//! What callers send wrong: 400 or 413 with the field and the remedy, and the server goes on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::server::{Server, picture, png};

fn refused(server: &Server, body: &Value, status: u16, says: &str) {
    let reply = server.generate(body);
    assert_eq!(reply.status, status, "{reply:?}");
    let detail = reply.message();
    assert!(detail.contains(says), "{detail:?} lacks {says:?}");
}

#[test]
fn bodies_that_are_not_json_are_400() {
    let server = Server::start(1);
    for body in [
        &b""[..],
        b"{",
        b"prompt=boat",
        b"[1]",
        b"\xff\xfe",
        b"{\"prompt\": \"\xff\"}",
    ] {
        let reply = server.post("/generate", body);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "invalid_request")
        );
        let message = reply.message();
        let known = ["body: ", "invalid request JSON payload: "];
        assert!(
            known.iter().any(|start| message.starts_with(start)),
            "{reply:?}"
        );
    }
    server.expect_still_serving();
}

#[test]
fn prompts() {
    let server = Server::start(1);
    refused(
        &server,
        &json!({"image": picture(8, 8)}),
        400,
        "prompt: is missing",
    );
    refused(&server, &json!({"prompt": ""}), 400, "prompt: is empty");
    refused(
        &server,
        &json!({"prompt": {}}),
        400,
        "prompt: expected text",
    );
    let ten_megabytes = "a".repeat(10 << 20);
    refused(
        &server,
        &json!({"prompt": ten_megabytes}),
        400,
        "prompt: has 10485760 characters",
    );
    let body = json!({"prompt": "p", "negative_prompt": "b".repeat(16_385)});
    refused(&server, &body, 400, "negative_prompt: ");
    server.expect_still_serving();
}

#[test]
fn sizes_frames_and_steps() {
    let server = Server::start(1);
    for (field, value) in [
        ("frames", json!(0)),
        ("frames", json!(-5)),
        ("frames", json!(1e18)),
        ("fps", json!(0)),
        ("steps", json!(0)),
        ("num_inference_steps", json!(1_000_000)),
        ("resolution", json!("0x0")),
        ("resolution", json!("4k")),
        ("resolution", json!("65535x65535")),
        ("guidance_scale", json!(1e9)),
        ("shift", json!("3")),
    ] {
        let mut body = json!({"prompt": "p"});
        body[field] = value;
        refused(&server, &body, 400, &format!("{field}: "));
    }
    refused(
        &server,
        &json!({"prompt": "p", "width": 0, "height": 480}),
        400,
        "width: 0",
    );
    let odd = json!({"prompt": "p", "width": 832, "height": 481});
    refused(&server, &odd, 400, "height: 481 is not a multiple of 32");
    server.expect_still_serving();
}

#[test]
fn pictures_that_are_no_base64_or_no_picture() {
    let server = Server::start(1);
    let whole = png(64, 64);
    for (image, says) in [
        (json!("%%%"), "is not base64"),
        (json!(""), "is empty"),
        (json!(12), "expected base64 text"),
        (json!("https://example.org/a.png"), "fetching is off"),
        (
            json!(STANDARD.encode("plain text, not a picture")),
            "send PNG, JPEG or WebP",
        ),
        (
            json!(STANDARD.encode(&whole[..whole.len() / 2])),
            "send the whole file",
        ),
    ] {
        refused(&server, &json!({"prompt": "p", "image": image}), 400, says);
    }
    server.expect_still_serving();
}

#[test]
fn animated_pictures_are_400() {
    let server = Server::start(1);
    // An APNG: the animation control chunk (two frames) stands before the first IDAT.
    let still = png(8, 8);
    let mut chunk = b"acTL\0\0\0\x02\0\0\0\0".to_vec();
    let crc = crc32(&chunk);
    chunk.extend_from_slice(&crc.to_be_bytes());
    let at = 8 + 25; // signature and IHDR
    let animated = [
        &still[..at],
        &8u32.to_be_bytes()[..],
        chunk.as_slice(),
        &still[at..],
    ]
    .concat();
    let body = json!({"prompt": "p", "image": STANDARD.encode(animated)});
    refused(&server, &body, 400, "animated");
    server.expect_still_serving();
}

#[test]
fn image_bombs_are_413_and_cost_nothing() {
    let server = Server::start(1);
    // A real 1x1 PNG whose header claims 60000x60000 pixels.
    let mut bomb = png(1, 1);
    bomb[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    let body = json!({"prompt": "p", "image": STANDARD.encode(bomb)});
    refused(&server, &body, 413, "60000x60000");
    server.expect_still_serving();
}

#[test]
fn large_bodies_are_413_and_the_client_can_read_so() {
    let server = Server::start(1);
    let reply = server.post("/generate", &vec![b' '; 13 << 20]);
    assert_eq!((reply.status, reply.code().as_str()), (413, "too_large"));
    // Announced but never sent: refused without waiting for it.
    let head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
                Content-Length: 99999999999\r\n\r\n";
    let mut stream = server.connect();
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    assert_eq!(crate::server::Reply::read_one(&mut stream).status, 413);
    // Chunked, so the size is not known before.
    let mut stream = server.connect();
    let head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    for _ in 0..13 {
        std::io::Write::write_all(&mut stream, &chunk).unwrap();
    }
    std::io::Write::write_all(&mut stream, b"0\r\n\r\n").unwrap();
    assert_eq!(crate::server::Reply::read_one(&mut stream).status, 413);
    server.expect_still_serving();
}

/// CRC-32 as PNG uses it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg())
        })
    })
}
