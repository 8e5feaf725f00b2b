//! kill -9 at every stage: no job is lost, none is made twice, no half file is seen.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::node::{FAST, Place, assert_whole_mp4, clip, hangs, is_finished, kinds};

/// A picture, so that there is an input file and the stage that encodes it.
pub(crate) fn picture() -> String {
    use base64::Engine as _;
    let image = image::RgbImage::from_fn(48, 48, |x, y| {
        image::Rgb([(x * 5) as u8, (y * 5) as u8, (x ^ y) as u8])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    base64::engine::general_purpose::STANDARD.encode(bytes.into_inner())
}

/// Kills the node while one job is held at `at`, shown as `stage`, and another waits.
fn survives_kill(at: &str, stage: &str) {
    let place = Place::new();
    let node = place.start(&hangs("victim", at), &[]);
    let mut body = clip("the victim");
    body["image"] = json!(picture());
    let victim = node.create_once(&body, Some("the key"));
    let waiting = node.create(&clip("waits"));
    node.wait_stage(&victim, stage);
    // The last stage has no name of its own.
    thread::sleep(Duration::from_millis(50));
    let shown = node.video(&waiting);
    if stage == "vae_decode" {
        // The device is free for the next while one is decoded.
        assert_eq!(shown["status"], "in_progress");
    } else {
        assert_eq!(shown["status"], "queued");
        assert_eq!(shown["queue_position"], 0);
    }
    assert!(node.content(&victim).is_none());
    node.kill();

    let mut node = place.start(FAST, &[]);
    assert_eq!(node.list(), [victim.clone(), waiting.clone()]);
    assert_eq!(node.create_once(&body, Some("the key")), victim);
    for id in [&victim, &waiting] {
        // What is served on the way is nothing or the whole file.
        while !is_finished(&node.video(id)) {
            let _ = node.content(id);
        }
        let video = node.completed(id);
        assert_eq!(video["progress"], 100);
    }
    assert_eq!(node.create_once(&body, Some("the key")), victim);
    assert_eq!(node.list(), [victim.clone(), waiting.clone()]);

    let events = node.events(&victim);
    let expected = ["queued", "requeued", "started", "progress", "completed"];
    assert_eq!(kinds(&events), expected);
    assert!(events[1]["reason"].is_string(), "{events:?}");
    let mut expected = vec!["queued", "requeued", "started", "progress", "completed"];
    if stage != "vae_decode" {
        expected.remove(1);
    }
    assert_eq!(kinds(&node.events(&waiting)), expected);

    let mut files = [&victim, &waiting]
        .into_iter()
        .flat_map(|id| [format!("{id}.jpg"), format!("{id}.mp4")])
        .collect::<Vec<_>>();
    files.sort();
    assert_eq!(place.files("results"), files);
    assert!(place.files("inputs").is_empty());
    assert!(node.running());
}

#[test]
fn kill_while_weights_are_read() {
    survives_kill("load", "load");
}

#[test]
fn kill_while_the_prompt_is_encoded() {
    survives_kill("text_encode", "text_encode");
}

#[test]
fn kill_while_the_picture_is_encoded() {
    survives_kill("image_encode", "image_encode");
}

#[test]
fn kill_in_the_middle_of_denoising() {
    survives_kill("denoise", "denoise");
}

#[test]
fn kill_while_decoding() {
    survives_kill("vae_decode", "vae_decode");
}

#[test]
fn kill_while_the_file_is_made() {
    survives_kill("video_encode", "vae_decode");
}

/// The moment between the first byte of the file and the row that names it.
#[test]
fn kill_while_the_file_is_published() {
    let place = Place::new();
    let mut made: Vec<String> = Vec::new();
    for round in 0..6 {
        let node = place.start(FAST, &[]);
        for id in &made {
            node.completed(id);
        }
        let before = place.files("results").len();
        let mut body = clip(&format!("round {round}"));
        // Larger than one write.
        body["size"] = json!("256x256");
        body["crf"] = json!(0);
        let id = node.create(&body);
        while place.files("results").len() == before {
            assert!(node.content(&id).is_none_or(|clip| !clip.is_empty()));
        }
        // Of several rounds some are before and some after the row is written.
        thread::sleep(Duration::from_millis(2 * round));
        node.kill();
        made.push(id);
    }
    let node = place.start(FAST, &[]);
    assert_eq!(node.list(), made);
    for id in &made {
        node.completed(id);
        assert_eq!(node.events(id).last().unwrap()["type"], "completed");
    }
    assert_eq!(place.files("results").len(), 2 * made.len());
}

#[test]
fn kill_of_an_idle_node_loses_nothing_that_is_finished() {
    let place = Place::new();
    let node = place.start(FAST, &[]);
    let id = node.create(&clip("done"));
    node.completed(&id);
    let (clip, events) = (node.content(&id).unwrap(), node.events(&id));
    node.kill();
    let node = place.start(FAST, &[]);
    assert_eq!(node.content(&id).unwrap(), clip);
    assert_whole_mp4(&clip);
    assert_eq!(node.events(&id), events);
}

#[test]
fn a_job_that_takes_the_node_down_twice_is_given_up() {
    let place = Place::new();
    let script = hangs("victim", "denoise");
    let mut node = place.start(&script, &[]);
    let victim = node.create(&clip("the victim"));
    let other = node.create(&clip("innocent"));
    for _ in 0..2 {
        node.wait_stage(&victim, "denoise");
        node.kill();
        node = place.start(&script, &[]);
    }
    assert_eq!(node.failed(&victim), "crashed");
    assert!(node.content(&victim).is_none());
    assert_eq!(node.events(&victim).last().unwrap()["type"], "failed");
    node.completed(&other);
    node.kill();
    let node = place.start(FAST, &[]);
    assert_eq!(node.failed(&victim), "crashed");
    assert_eq!(node.list(), [victim, other]);
}

/// Two jobs are on the device; which of them took the node down shows only when one runs alone.
#[test]
fn a_job_is_not_given_up_for_what_another_did() {
    let place = Place::new();
    let script = hangs("victim", "vae_decode");
    let node = place.start(&script, &[]);
    let victim = node.create(&clip("the victim"));
    let other = node.create(&clip("innocent"));
    node.wait_stage(&victim, "vae_decode");
    node.wait(&other, |video| video["status"] == "in_progress");
    node.kill();
    let node = place.start(&script, &[]);
    let late = node.create(&clip("late"));
    node.wait_stage(&victim, "vae_decode");
    thread::sleep(Duration::from_millis(200));
    for id in [&other, &late] {
        assert_eq!(node.video(id)["status"], "queued");
    }
    node.kill();
    let node = place.start(&script, &[]);
    assert_eq!(node.failed(&victim), "crashed");
    node.completed(&other);
    node.completed(&late);
}

#[test]
fn a_folder_has_one_node() {
    let place = Place::new();
    let node = place.start(FAST, &[]);
    let output = place.serve(FAST, &[]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains(place.data().to_str().unwrap()),
        "{message}"
    );
    assert!(output.stdout.is_empty());
    node.expect_well();
    // The lock goes with the process, however that ends.
    node.kill();
    place.start(FAST, &[]).expect_well();
}
