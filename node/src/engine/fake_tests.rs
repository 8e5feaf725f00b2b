#![allow(clippy::unwrap_used)]
use super::*;
use crate::engine::{Engine, EngineOptions, Priority, Submission, Ticket};

fn engine(script: &str, options: EngineOptions) -> Engine {
    let script = toml::from_str(script).unwrap();
    Engine::start(options, move || {
        let scratch = std::env::temp_dir();
        FakeBackend::new(script, Preset::Leoma, scratch).map_err(EngineError::from)
    })
    .unwrap()
}

fn submit(engine: &Engine, prompt: &str) -> Ticket {
    let request = GenerationRequest {
        prompt: prompt.into(),
        width: Some(64),
        height: Some(64),
        num_frames: Some(5),
        num_inference_steps: Some(4),
        ..GenerationRequest::default()
    };
    let submission = Submission {
        job: Arc::new(engine.prepare(&request).unwrap()),
        priority: Priority::Normal,
        deadline: None,
        listener: None,
        bounded: true,
    };
    engine.submit(submission).unwrap()
}

fn outcome(mut ticket: Ticket) -> Result<Clip, EngineError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(ticket.outcome())
}

#[test]
fn every_scripted_fault_is_a_failure_of_its_kind_and_the_next_job_works() {
    let faults = [
        ("local", "local"),
        ("artifact", "artifact"),
        ("disk_full", "disk_full"),
        ("panic", "internal"),
        ("nan", "bad_output"),
        ("black", "bad_output"),
        ("frozen", "bad_output"),
        ("short", "bad_output"),
    ];
    let rules = faults.map(|(fault, _)| {
        format!("[[rule]]\nprompt_contains = \"{fault}\"\nfault = \"{fault}\"\n")
    });
    let engine = engine(&rules.concat(), EngineOptions::default());
    for (fault, code) in faults {
        let error = outcome(submit(&engine, fault)).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        let clip = outcome(submit(&engine, "a boat")).unwrap();
        assert!(clip.media.bytes.windows(4).any(|w| w == b"ftyp"));
        assert!(clip.media.poster.starts_with(&[0xff, 0xd8]));
    }
}

#[test]
fn the_same_request_gives_the_same_file() {
    let engine = engine("", EngineOptions::default());
    let first = outcome(submit(&engine, "a boat")).unwrap();
    assert_eq!(
        outcome(submit(&engine, "a boat")).unwrap().media,
        first.media
    );
}

#[test]
fn decoding_one_job_overlaps_denoising_the_next() {
    let engine = engine("step_s = 0.05\ndecode_s = 0.2", EngineOptions::default());
    let first = submit(&engine, "first");
    let second = submit(&engine, "second");
    let (mut a, mut b) = (first.progress(), second.progress());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        a.wait_for(|p| p.stage == Stage::VaeDecode).await.unwrap();
        b.wait_for(|p| p.stage == Stage::Denoise).await.unwrap();
        assert_eq!(
            a.borrow().stage,
            Stage::VaeDecode,
            "the first is still decoded"
        );
        assert_eq!(engine.load().running, 2);
    });
    outcome(first).unwrap();
    outcome(second).unwrap();
}

#[test]
fn a_hanging_job_is_given_up_and_the_engine_goes_on() {
    let options = EngineOptions {
        stall_timeout: Some(Duration::from_millis(100)),
        ..EngineOptions::default()
    };
    let engine = engine(
        "[[rule]]\nprompt_contains = \"hang\"\nfault = \"hang\"",
        options,
    );
    assert_eq!(
        outcome(submit(&engine, "hang")).unwrap_err().code(),
        "stalled"
    );
    outcome(submit(&engine, "a boat")).unwrap();
}

#[test]
fn a_job_that_does_not_even_stop_costs_the_engine() {
    let options = EngineOptions {
        stall_timeout: Some(Duration::from_millis(100)),
        stall_grace: Duration::from_millis(50),
        ..EngineOptions::default()
    };
    let engine = engine("[[rule]]\nfault = \"deaf\"", options);
    let running = submit(&engine, "deaf");
    let waiting = submit(&engine, "waits");
    assert_eq!(outcome(running).unwrap_err().code(), "device_lost");
    assert_eq!(outcome(waiting).unwrap_err().code(), "device_lost");
    assert!(engine.health().borrow().lost.is_some());
}

#[test]
fn a_lost_device_is_reported_and_nothing_more_is_taken() {
    let engine = engine(
        "[[rule]]\nprompt_contains = \"lost\"\nfault = \"device_lost\"",
        EngineOptions::default(),
    );
    assert_eq!(
        outcome(submit(&engine, "lost")).unwrap_err().code(),
        "device_lost"
    );
    assert!(engine.health().borrow().lost.is_some());
    assert_eq!(engine.admit().unwrap_err().code(), "shutting_down");
}

#[test]
fn a_drifting_self_test_is_seen() {
    let options = EngineOptions {
        canary_interval: Some(Duration::from_millis(20)),
        ..EngineOptions::default()
    };
    let engine = engine("canary_drifts_after = 3", options);
    let mut health = engine.health();
    assert!(
        health.borrow().last_good_canary.is_some(),
        "tested at the start"
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let drifted = |health: &crate::engine::Health| {
        health
            .canary
            .as_ref()
            .is_some_and(|report| report.fault().is_some())
    };
    runtime.block_on(health.wait_for(drifted)).unwrap();
}

#[test]
fn scripts_with_unknown_fields_or_nonsense_are_refused() {
    for text in [
        "stepp_s = 1",
        "step_s = -1",
        "kind = \"sdxl\"",
        "[[rule]]\nfault = \"fire\"",
    ] {
        let script = toml::from_str::<FakeScript>(text);
        let refused = match script {
            Err(_) => true,
            Ok(script) => FakeBackend::new(script, Preset::Leoma, std::env::temp_dir()).is_err(),
        };
        assert!(refused, "{text}");
    }
}
