//! Clients that leave, jobs that are cancelled.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::client::{Ask, Reply};
use crate::node::{FAST, Node, Place, clip, flat, hangs, is_finished, kinds, until};

/// All cancellations so far, by stage.
fn cancellations(node: &Node, stage: &str) -> f64 {
    node.metric(&format!("leoma_cancellations_total{{stage=\"{stage}\"}}"))
}

fn wait_cancelled(node: &Node, stage: &str, count: f64) {
    until("the cancellation is not counted", || {
        let found = cancellations(node, stage);
        if found == count { Ok(()) } else { Err(found) }
    });
}

fn leave(client: TcpStream) {
    client.shutdown(Shutdown::Both).unwrap();
}

#[test]
fn a_client_that_leaves_stops_its_job_wherever_it_is() {
    let place = Place::new();
    let script = hangs("prompt", "text_encode") + &hangs("steps", "denoise");
    let node = place.start(&(script + &hangs("pixels", "vae_decode")), &[]);
    for (round, (prompt, stage)) in [
        ("prompt", "text_encode"),
        ("steps", "denoise"),
        ("pixels", "vae_decode"),
    ]
    .into_iter()
    .enumerate()
    {
        let running = node.start_generate(&flat(prompt));
        node.wait_load(1, 0);
        // Time to reach the place where it stays.
        thread::sleep(Duration::from_millis(100));
        // Behind a job that is being decoded nobody waits.
        if stage != "vae_decode" {
            let waiting = node.start_generate(&flat("waits"));
            node.wait_load(1, 1);
            leave(waiting);
            node.wait_load(1, 0);
            wait_cancelled(&node, "queued", (round + 1) as f64);
        }
        assert_eq!(cancellations(&node, stage), 0.0);
        leave(running);
        node.wait_load(0, 0);
        wait_cancelled(&node, stage, 1.0);
        node.expect_well();
    }
    let finished = node.metric("leoma_jobs_finished_total{outcome=\"cancelled\"}");
    assert_eq!(finished, 5.0);
}

#[test]
fn a_traced_client_that_leaves_stops_its_job() {
    let place = Place::new();
    let node = place.start(&hangs("held", "denoise"), &[]);
    let ask = Ask::post("/generate", &flat("held")).header("X-Chutes-Trace", "true");
    let mut client = ask.open(node.address).unwrap();
    let mut some = [0; 64];
    client.read_exact(&mut some).unwrap();
    node.wait_load(1, 0);
    leave(client);
    node.wait_load(0, 0);
    node.expect_well();
}

#[test]
fn who_stops_listening_disturbs_nobody() {
    let place = Place::new();
    let node = place.start("step_s = 0.3\ndecode_s = 0.1\n", &[]);
    let id = node.create(&clip("followed"));
    let events = Ask::get(&format!("/v1/videos/{id}/events"));
    let mut stays = events.open(node.address).unwrap();
    for _ in 0..10 {
        let mut leaves = events.open(node.address).unwrap();
        let mut some = [0; 64];
        leaves.read_exact(&mut some).unwrap();
        leave(leaves);
    }
    let followed = Reply::read(&mut stays, false).unwrap().events();
    node.completed(&id);
    assert_eq!(
        kinds(&followed),
        ["queued", "started", "progress", "completed"]
    );
    // Live and afterwards the same is told.
    let later = node.events(&id);
    assert_eq!(followed, later);
    // Who was away takes up where it was.
    let rest = node.send(&events.clone().header("Last-Event-ID", "1"));
    assert_eq!(rest.events(), later[2..]);
}

/// The answer never arrives, but the job was taken.
#[test]
fn a_job_is_made_also_when_its_client_does_not_wait_for_the_answer() {
    let place = Place::new();
    let node = place.start(FAST, &[]);
    for round in 0..20 {
        let client = Ask::post("/v1/videos", &clip("left alone"))
            .open(node.address)
            .unwrap();
        thread::sleep(Duration::from_micros(300 * round));
        leave(client);
        // Nothing else wakes the queue meanwhile.
        until("a job waits for ever", || {
            let list = node.get("/v1/videos").json();
            let videos = list["data"].as_array().unwrap();
            let waiting = videos.iter().find(|video| !is_finished(video));
            waiting.map_or(Ok(()), |video| Err(video.to_string()))
        });
    }
    // The first are gone before they are read, the last are answered.
    assert!(!node.list().is_empty());
    for id in node.list() {
        node.completed(&id);
    }
}

#[test]
fn a_cancelled_job_stays_cancelled() {
    let place = Place::new();
    let stages = [
        ("text_encode", "text_encode"),
        ("denoise", "denoise"),
        ("vae_decode", "vae_decode"),
        ("video_encode", "vae_decode"),
    ];
    let script: String = stages
        .iter()
        .map(|(at, _)| hangs(&format!("<{at}>"), at))
        .collect();
    let node = place.start(&script, &[]);
    let mut cancelled = Vec::new();
    let mut queued_cancellations = 0.0;
    for (at, stage) in stages {
        let running = node.create(&clip(&format!("<{at}>")));
        node.wait_stage(&running, stage);
        let mut follows = Ask::get(&format!("/v1/videos/{running}/events"))
            .open(node.address)
            .unwrap();
        // A job that is decoded leaves the device to the next.
        if stage != "vae_decode" {
            let waiting = node.create(&clip("waiting"));
            let reply = node.delete(&waiting);
            assert_eq!(reply.status, 200);
            assert_eq!(reply.json()["error"]["code"], "cancelled");
            queued_cancellations += 1.0;
            assert_eq!(cancellations(&node, "queued"), queued_cancellations);
            cancelled.push(waiting);
        }
        let before = cancellations(&node, stage);
        let reply = node.delete(&running);
        assert_eq!(reply.status, 200);
        let video = reply.json();
        assert_eq!(
            (&video["status"], &video["error"]["code"], &video["deleted"]),
            (&json!("failed"), &json!("cancelled"), &json!(false))
        );
        let told = Reply::read(&mut follows, false).unwrap().events();
        let last = told.last().unwrap();
        assert_eq!(last["type"], "failed");
        assert_eq!(last["video"]["error"]["code"], "cancelled");
        cancelled.push(running);
        let next = node.create(&clip("next"));
        node.completed(&next);
        node.wait_load(0, 0);
        wait_cancelled(&node, stage, before + 1.0);
        assert!(node.delete(&next).json()["deleted"].as_bool().unwrap());
    }
    assert_eq!(cancellations(&node, "queued"), queued_cancellations);
    let all = node.metric("leoma_jobs_finished_total{outcome=\"cancelled\"}");
    assert_eq!(all, cancelled.len() as f64);
    node.kill();

    let node = place.start(FAST, &[]);
    thread::sleep(Duration::from_millis(200));
    for id in &cancelled {
        assert_eq!(node.failed(id), "cancelled");
        assert_eq!(node.events(id).last().unwrap()["type"], "failed");
        assert_eq!(
            node.delete(id).json(),
            json!({"id": id, "object": "video.deleted", "deleted": true})
        );
    }
    assert!(node.list().is_empty());
    assert!(place.files("results").is_empty());
    node.expect_well();
}

#[test]
fn a_deleted_video_is_gone() {
    let place = Place::new();
    let node = place.start(FAST, &[]);
    let id = node.create_once(&clip("short lived"), Some("once"));
    node.completed(&id);
    assert_eq!(place.files("results").len(), 2);
    let reply = node.delete(&id);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["deleted"], true);
    for path in ["", "/content", "/content?variant=thumbnail", "/events"] {
        let reply = node.get(&format!("/v1/videos/{id}{path}"));
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (404, "not_found"),
            "{path}"
        );
    }
    assert_eq!(node.delete(&id).status, 404);
    assert!(node.list().is_empty());
    assert!(place.files("results").is_empty());
    // The key is free again.
    let again = node.create_once(&clip("short lived"), Some("once"));
    assert_ne!(again, id);
    node.completed(&again);
}
