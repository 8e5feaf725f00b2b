//! More clients than can be served, and clients that take their time.

use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::client::{Ask, PATIENCE, Reply};
use crate::kill::picture;
use crate::node::{FAST, Node, Place, assert_whole_mp4, clip, flat};

/// Requests at once against a queue of this length.
const QUEUE: usize = 4;
const CLIENTS: usize = 20 * QUEUE;

/// Everybody asks twice; how many were served.
fn storm(node: &Node) -> usize {
    let mut body = flat("a boat");
    body["image"] = json!(picture());
    let ask = Ask::post("/generate", &body);
    let served = |_| {
        let (ask, address) = (&ask, node.address);
        move || {
            let mut served = 0;
            for _ in 0..2 {
                let reply = ask.send(address).unwrap();
                match reply.status {
                    200 => {
                        assert_whole_mp4(&reply.body);
                        served += 1;
                    }
                    429 => {
                        assert_eq!(reply.code(), "busy");
                        assert!((1..=600).contains(&reply.number("retry-after")));
                        assert!(reply.json()["detail"].is_string());
                    }
                    _ => panic!("{}: {}", reply.status, reply.text()),
                }
            }
            served
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(served(n))).collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum()
    })
}

#[test]
fn overload_is_refused_and_leaves_nothing_behind() {
    let place = Place::new();
    let script = "step_s = 0.02\ndecode_s = 0.02\nclip = \"fixed\"\n";
    let node = place.start(script, &["--queue", "4"]);
    let first = storm(&node);
    let after_first = node.rss_kib();
    let second = storm(&node);
    let after_second = node.rss_kib();
    for served in [first, second] {
        // At least those for which there was room at the first moment, and never all.
        assert!((QUEUE..2 * CLIENTS).contains(&served), "{served}");
    }
    let refused = node.metric("leoma_refusals_total{reason=\"busy\"}");
    assert_eq!(refused, (4 * CLIENTS - first - second) as f64);
    let growth = after_second as f64 / after_first as f64;
    assert!(growth < 1.1, "{after_first} KiB, then {after_second} KiB");
    node.wait_load(0, 0);
    node.expect_well();
}

#[test]
fn a_full_store_refuses_jobs() {
    let place = Place::new();
    let options = ["--max-jobs", "3"];
    let node = place.start(&crate::node::hangs("held", "denoise"), &options);
    let held = node.create(&clip("held"));
    node.wait_stage(&held, "denoise");
    let waiting: Vec<_> = (0..3).map(|_| node.create(&clip("waits"))).collect();
    let refused = node.send(&Ask::post("/v1/videos", &clip("one more")));
    assert_eq!((refused.status, refused.code().as_str()), (429, "busy"));
    assert!(refused.number("retry-after") >= 1);
    node.delete(&held);
    for id in &waiting {
        node.completed(id);
    }
}

#[test]
fn clients_that_do_nothing_or_little_do_not_keep_others_waiting() {
    let place = Place::new();
    let node = place.start(FAST, &[]);
    let mut body = clip("a large clip");
    body["image"] = json!(noise(640, 352));
    body["size"] = json!("640x352");
    body["num_frames"] = json!(33);
    body["crf"] = json!(0);
    let id = node.create(&body);
    let size = node.completed(&id)["bytes"].as_u64().unwrap();
    let whole = node.content(&id).unwrap();

    let idle: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(node.address).unwrap())
        .collect();
    let content = Ask::get(&format!("/v1/videos/{id}/content"));
    let mut slow = content.open(node.address).unwrap();
    let mut start = [0; 16];
    slow.read_exact(&mut start).unwrap();
    for _ in 0..20 {
        assert_eq!(node.get("/health").status, 200);
        let mut little = [0; 8];
        slow.read_exact(&mut little).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(node.generate(&flat("meanwhile")).status, 200);
    assert_eq!(node.content(&id).unwrap(), whole);
    assert!(size > 512 << 10, "no large clip: {size} bytes");
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(&whole[whole.len() - 1000..]));
    drop(idle);
    node.expect_well();
}

/// A picture that does not compress.
fn noise(width: u32, height: u32) -> String {
    use base64::Engine as _;
    let mut state = 1u32;
    let image = image::RgbImage::from_fn(width, height, |_, _| {
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        image::Rgb([byte(), byte(), byte()])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    base64::engine::general_purpose::STANDARD.encode(bytes.into_inner())
}

#[test]
fn the_longest_idle_connection_makes_room() {
    let place = Place::new();
    let node = place.start(FAST, &["--max-connections", "8"]);
    let mut idle: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(node.address).unwrap())
        .collect();
    assert_eq!(node.get("/health").status, 200);
    // The first was sent away, the last still has its place.
    let mut last = idle.pop().unwrap();
    Ask::get("/health").write(&mut last).unwrap();
    assert_eq!(Reply::read(&mut last, false).unwrap().status, 200);
    let mut first = idle.swap_remove(0);
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(first.read(&mut [0; 1]).map_or(true, |bytes| bytes == 0));
}
