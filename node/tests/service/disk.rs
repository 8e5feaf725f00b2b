//! A disk without room: nothing is taken, nothing is lost.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::client::Ask;
use crate::node::{FAST, Place, clip, hangs};

#[test]
fn a_full_disk_pauses_and_loses_nothing() {
    let place = Place::new();
    let mut node = place.start(&hangs("held", "denoise"), &["--drain-timeout", "0s"]);
    let held = node.create_once(&clip("held"), Some("held"));
    node.wait_stage(&held, "denoise");
    let waiting = node.create(&clip("waiting"));
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(0));

    // More than any disk has.
    let node = place.start(FAST, &["--min-free-bytes", "8000TB"]);
    let refused = node.send(&Ask::post("/v1/videos", &clip("late")));
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (507, "disk_full")
    );
    let ready = node.get("/ready");
    assert_eq!(ready.status, 503);
    let checks = &ready.json()["checks"];
    assert_eq!(checks["disk"]["ok"], false, "{checks}");
    assert_eq!(checks["model"]["ok"], true, "{checks}");
    let detail = checks["disk"]["detail"].as_str().unwrap();
    assert!(detail.contains("--min-free-bytes"), "{detail}");
    assert_eq!(node.get("/health").status, 200);
    // A repeated request is known all the same.
    assert_eq!(node.create_once(&clip("held"), Some("held")), held);
    // Long enough for several looks at the queue.
    thread::sleep(Duration::from_millis(1500));
    for id in [&held, &waiting] {
        assert_eq!(node.video(id)["status"], "queued");
    }
    assert_eq!(node.list().len(), 2);
    // What waits can still be cancelled.
    let other = node.delete(&waiting);
    assert_eq!(other.json()["error"]["code"], "cancelled");
    node.kill();

    let node = place.start(FAST, &[]);
    node.completed(&held);
    assert_eq!(node.failed(&waiting), "cancelled");
    assert_eq!(node.get("/ready").status, 200);
    node.expect_well();
}

#[test]
fn a_paused_node_stops_when_asked() {
    let place = Place::new();
    let mut node = place.start(FAST, &["--min-free-bytes", "8000TB"]);
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(0));
}
