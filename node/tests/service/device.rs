//! The device: lost, hung, drifting; and jobs that fail for other reasons.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Ask, Reply};
use crate::node::{FAST, Place, clip, fault, flat, hangs, kinds, until};

/// From the loss to the end of the process.
const LOST: Duration = Duration::from_secs(5);

#[test]
fn a_lost_device_ends_the_process_and_the_job_runs_in_the_next() {
    let place = Place::new();
    let script = hangs("patient", "load") + &fault("doomed", "denoise", "device_lost");
    let mut node = place.start(&script, &[]);
    let id = node.create(&clip("doomed"));
    let start = Instant::now();
    assert_eq!(node.end(), Some(75));
    assert!(start.elapsed() < LOST, "{:?}", start.elapsed());

    let node = place.start(FAST, &[]);
    node.completed(&id);
    let events = node.events(&id);
    assert_eq!(events[0]["type"], "queued");
    assert!(kinds(&events).contains(&"requeued"));
    node.expect_well();
}

#[test]
fn who_waits_is_told_that_the_device_is_lost() {
    let place = Place::new();
    let script = hangs("held", "vae_decode") + &fault("doomed", "denoise", "device_lost");
    let mut node = place.start(&script, &[]);
    let held = node.create(&clip("held"));
    node.wait_stage(&held, "vae_decode");
    let reply = node.generate(&flat("doomed"));
    let start = Instant::now();
    assert_eq!((reply.status, reply.code().as_str()), (503, "device_lost"));
    assert!(reply.number("retry-after") >= 1);
    assert_eq!(node.end(), Some(75));
    assert!(start.elapsed() < LOST, "{:?}", start.elapsed());
    let node = place.start(FAST, &[]);
    node.completed(&held);
    node.expect_well();
}

#[test]
fn a_job_that_loses_the_device_twice_is_given_up() {
    let place = Place::new();
    // Slow enough for the second job to be sent before the first one ends the process.
    let script = "step_s = 0.2\n".to_owned() + &fault("doomed", "denoise", "device_lost");
    let mut node = place.start(&script, &[]);
    // Together: after the first there may be nobody to take the second.
    let mut both = clip("");
    both.as_object_mut().unwrap().remove("prompt");
    both["prompts"] = json!(["doomed", "innocent"]);
    let list = node.send(&Ask::post("/v1/videos", &both)).json();
    let [doomed, other] = [0, 1].map(|n| list["data"][n]["id"].as_str().unwrap().to_owned());
    assert_eq!(node.end(), Some(75));
    let mut node = place.start(&script, &[]);
    assert_eq!(node.end(), Some(75));
    let node = place.start(&script, &[]);
    assert_eq!(node.failed(&doomed), "device_lost");
    let events = node.events(&doomed);
    assert_eq!(
        events.last().unwrap()["video"]["error"]["code"],
        "device_lost"
    );
    node.completed(&other);
    node.expect_well();
    assert_eq!(node.list().len(), 3);
}

#[test]
fn a_job_deaf_to_being_stopped_ends_the_process() {
    let place = Place::new();
    let script = fault("deaf", "denoise", "deaf");
    let mut node = place.start(&script, &["--stall-timeout", "300ms"]);
    let id = node.create(&clip("deaf"));
    node.wait_stage(&id, "denoise");
    let mut waiting = node.start_generate(&flat("waits"));
    let reply = Reply::read(&mut waiting, false).unwrap();
    assert_eq!((reply.status, reply.code().as_str()), (503, "device_lost"));
    assert_eq!(node.end(), Some(75));
    let node = place.start(FAST, &[]);
    node.completed(&id);
}

#[test]
fn a_hang_costs_one_job() {
    let place = Place::new();
    let script = hangs("hung", "denoise") + &hangs("stuck", "vae_decode");
    let node = place.start(&script, &["--stall-timeout", "300ms"]);
    let reply = node.generate(&flat("hung"));
    assert_eq!((reply.status, reply.code().as_str()), (500, "stalled"));
    for prompt in ["hung", "stuck"] {
        let id = node.create(&clip(prompt));
        let next = node.create(&clip("next"));
        assert_eq!(node.failed(&id), "stalled");
        node.completed(&next);
    }
    node.expect_well();
    assert_eq!(node.get("/ready").status, 200);
}

#[test]
fn a_device_that_computes_something_else_is_not_ready() {
    let place = Place::new();
    let node = place.start("canary_drifts_after = 1\n", &["--canary-interval", "1s"]);
    assert_eq!(node.metric("leoma_ready"), 1.0);
    let ready = until("still ready", || {
        let reply = node.get("/ready");
        if reply.status == 503 {
            Ok(reply.json())
        } else {
            Err(reply.text())
        }
    });
    assert_eq!(ready["ready"], false);
    for (name, ok) in [
        ("canary", false),
        ("model", true),
        ("disk", true),
        ("draining", true),
    ] {
        assert_eq!(ready["checks"][name]["ok"], ok, "{ready}");
    }
    let detail = ready["checks"]["canary"]["detail"].as_str().unwrap();
    assert!(detail.contains("damaged"), "{detail}");
    assert_eq!(node.metric("leoma_ready"), 0.0);
    assert_eq!(node.get("/health").status, 200);
}

#[test]
fn failures_of_jobs_are_told_by_whose_fault_they_are() {
    let place = Place::new();
    let faults = [
        ("local", 500, "local"),
        ("artifact", 500, "artifact"),
        ("panic", 500, "internal"),
        ("nan", 500, "bad_output"),
        ("black", 500, "bad_output"),
        ("frozen", 500, "bad_output"),
        ("short", 500, "bad_output"),
    ];
    let script: String = faults
        .iter()
        .map(|(name, ..)| fault(&format!("<{name}>"), "denoise", name))
        .collect();
    let node = place.start(&script, &[]);
    for (name, status, code) in faults {
        let prompt = format!("<{name}>");
        let reply = node.generate(&flat(&prompt));
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{name}"
        );
        let id = node.create(&clip(&prompt));
        assert_eq!(node.failed(&id), code, "{name}");
        assert!(node.content(&id).is_none());
        assert_eq!(kinds(&node.events(&id)).last(), Some(&"failed"));
    }
    node.expect_well();
}

#[test]
fn a_disk_that_is_full_for_a_while_costs_no_attempt() {
    let place = Place::new();
    let script = fault("tight", "video_encode", "disk_full") + "first = 3\n";
    let node = place.start(&script, &[]);
    let id = node.create(&clip("tight"));
    node.completed(&id);
    let events = node.events(&id);
    let again = events.iter().filter(|event| event["type"] == "requeued");
    assert_eq!(again.count(), 3);
    assert_eq!(json!(kinds(&events)[0]), "queued");
}
