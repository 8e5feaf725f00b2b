//! Stop signals: what runs is finished or put back, nobody hangs, exit codes tell.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::client::{Ask, Reply};
use crate::node::{FAST, Place, assert_whole_mp4, clip, flat, hangs, until};

#[test]
fn a_stop_signal_lets_what_runs_finish() {
    let place = Place::new();
    let mut node = place.start(
        "step_s = 1.0\ndecode_s = 0.2\n",
        &["--drain-timeout", "40s"],
    );
    let running = node.create(&clip("running"));
    let waiting = node.create(&clip("waiting"));
    node.wait_stage(&running, "denoise");
    let mut admitted = node.start_generate(&flat("admitted"));
    node.wait_load(1, 1);
    node.signal(Signal::TERM);

    let draining = until("the node does not say that it drains", || {
        let reply = node.get("/ready");
        if reply.status == 503 {
            Ok(reply)
        } else {
            Err(reply.text())
        }
    });
    let checks = &draining.json()["checks"];
    assert_eq!(checks["draining"]["ok"], false, "{checks}");
    assert_eq!(checks["model"]["ok"], true, "{checks}");
    for (path, body) in [("/generate", flat("late")), ("/v1/videos", clip("late"))] {
        let refused = node.send(&Ask::post(path, &body));
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert_eq!(refused.code(), "shutting_down");
        assert!(refused.number("retry-after") >= 1);
    }
    assert_eq!(node.get("/health").status, 200);
    // Who follows a job that is being finished sees how it ends.
    assert_eq!(node.events(&running).last().unwrap()["type"], "completed");

    let reply = Reply::read(&mut admitted, false).unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_whole_mp4(&reply.body);
    assert_eq!(node.end(), Some(0));

    // It was finished then, not now.
    let node = place.start(&hangs("running", "load"), &[]);
    node.completed(&running);
    node.completed(&waiting);
    assert_eq!(node.list(), [running, waiting]);
}

#[test]
fn without_time_to_drain_a_running_job_goes_back_to_the_queue_uncounted() {
    let place = Place::new();
    let mut id = None;
    // More often than crashes are forgiven.
    for round in 0..3 {
        let mut node = place.start(&hangs("held", "denoise"), &["--drain-timeout", "0s"]);
        let id = id.get_or_insert_with(|| node.create(&clip("held")));
        node.wait_stage(id, "denoise");
        let mut client = node.start_generate(&flat("client"));
        node.wait_load(1, 1);
        node.signal(Signal::TERM);
        match Reply::read(&mut client, false) {
            Ok(reply) => assert_eq!(reply.status, 503, "round {round}: {}", reply.text()),
            Err(error) => panic!("round {round}: {error}"),
        }
        assert_eq!(node.end(), Some(0), "round {round}");
    }
    let node = place.start(FAST, &[]);
    let id = id.unwrap();
    node.completed(&id);
    assert_eq!(node.list(), [id]);
}

#[test]
fn a_running_client_is_told_when_there_is_no_time_to_drain() {
    let place = Place::new();
    let mut node = place.start(&hangs("held", "denoise"), &["--drain-timeout", "0s"]);
    let mut client = node.start_generate(&flat("held"));
    node.wait_load(1, 0);
    node.signal(Signal::INT);
    let reply = Reply::read(&mut client, false).unwrap();
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(node.end(), Some(0));
}

#[test]
fn what_does_not_finish_in_time_is_stopped() {
    let place = Place::new();
    let mut node = place.start(&hangs("held", "denoise"), &["--drain-timeout", "300ms"]);
    let id = node.create(&clip("held"));
    node.wait_stage(&id, "denoise");
    let start = Instant::now();
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(300));
    place.start(FAST, &[]).completed(&id);
}

#[test]
fn a_second_signal_ends_at_once() {
    let place = Place::new();
    let mut node = place.start(&hangs("held", "denoise"), &["--drain-timeout", "1h"]);
    let id = node.create(&clip("held"));
    node.wait_stage(&id, "denoise");
    node.signal(Signal::TERM);
    until("the first signal is not noticed", || {
        let reply = node.get("/ready");
        if reply.status == 503 {
            Ok(())
        } else {
            Err(reply.text())
        }
    });
    assert!(node.running());
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(130));
    place.start(FAST, &[]).completed(&id);
}

#[test]
fn a_node_that_loads_says_so_and_can_be_stopped() {
    let place = Place::new();
    let mut node = place.launch(place.serve("start_s = 600.0\n", &[]));
    let log = node.log_path().to_owned();
    let address: std::net::SocketAddr = until("no address in the log", || {
        let log = std::fs::read_to_string(&log).unwrap();
        let line = log.lines().find(|line| line.contains("answers /health"));
        let word = line.and_then(|line| {
            line.split_whitespace()
                .find_map(|word| word.trim_matches(':').parse().ok())
        });
        word.ok_or(log)
    });
    node.address = address;
    assert_eq!(node.get("/health").status, 200);
    let ready = node.get("/ready");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["checks"]["model"]["detail"], "loading");
    for (path, body) in [("/generate", flat("early")), ("/v1/videos", clip("early"))] {
        let refused = node.send(&Ask::post(path, &body));
        assert_eq!((refused.status, refused.code().as_str()), (503, "loading"));
        assert!(refused.number("retry-after") >= 1);
    }
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(0));
}

#[test]
fn idle_connections_do_not_hold_the_node() {
    let place = Place::new();
    let mut node = place.start(FAST, &["--drain-timeout", "1h"]);
    let idle: Vec<_> = (0..5)
        .map(|_| TcpStream::connect(node.address).unwrap())
        .collect();
    node.expect_well();
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(0));
    drop(idle);
}
