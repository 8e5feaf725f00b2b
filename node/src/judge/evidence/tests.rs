//! Bundles that hold, and bundles that somebody has changed.
#![allow(clippy::unwrap_used)]

use leoma_models::Fault;
use serde_json::json;

use super::*;
use crate::judge::profile::Profile;
use crate::judge::remote::{self, chat::Ask};
use crate::judge::rubric::{Rules, Scores};
use crate::judge::sampling::FrameRule;
use crate::judge::side::{Decision, Mode, Side};
use crate::judge::verdict::{Answer, NoVerdict, Outcome, Reason, Usage, Verdict};
use crate::media::RgbImage8;

fn input() -> JudgeInput {
    let frame = |level: usize| {
        let pixels = (0..32 * 24 * 3)
            .map(|i| ((i * 7 + level * 3) % 256) as u8)
            .collect();
        RgbImage8::new(32, 24, pixels).unwrap()
    };
    JudgeInput::new(
        canonical::sha256(b"video"),
        ((0..81).map(frame).collect(), (16, 1)),
        (frame(0), b"\x89PNG first frame".to_vec()),
        "a \"boat\" drifts".into(),
        Some("17".into()),
    )
    .unwrap()
}

fn configuration(profile: Profile) -> Configuration {
    Configuration::remote(profile, "m", Rules::default(), FrameRule::default())
}

fn content(profile: Profile) -> String {
    let scores = json!({
        "first_frame_fidelity": 90, "prompt_adherence": 80, "motion_quality": 70, "temporal_consistency": 60,
        "visual_quality": 50, "camera_composition": 40,
    });
    match profile {
        Profile::Subnet => json!({"overall_score": 76, "confidence": 60, "aspect_scores": scores}),
        Profile::Whitepaper => {
            json!({"issues": [], "aspect_scores": scores, "confidence": 60, "text_in_frames": false})
        }
    }
    .to_string()
}

/// A judgement as the remote judge makes it.
fn bundle(profile: Profile, input: &JudgeInput) -> Evidence {
    let configuration = configuration(profile);
    let shown = input.shown(configuration.frames).unwrap();
    let limit = profile.max_tokens().0;
    let ask = Ask::scores(
        profile,
        "m",
        limit,
        &input.prompt,
        &input.first_bytes,
        &shown,
    );
    let mut answer = Answer {
        finish_reason: Some("stop".into()),
        request_sha256: canonical::sha256(&ask.render(&|_| false).body),
        ..Answer::default()
    };
    let content = content(profile);
    answer.keep(&content);
    let reading = profile.read(Some(&content), false, true);
    let remote: Outcome = Verdict::of_reading(
        remote::ID,
        &configuration,
        reading,
        Usage::default(),
        vec![answer],
    )
    .into();
    let judgement = Judgement {
        mode: Mode::Remote,
        decision: Decision {
            pass: remote.pass(),
            by: Some(Side::Remote),
            why: "x".into(),
        },
        remote: Some(remote),
        local: None,
    };
    let made = Evidence::new(
        input,
        &[&configuration],
        judgement,
        "2026-11-22T00:00:00.000Z".into(),
    );
    made.unwrap()
}

fn failed(report: &Report) -> Vec<&str> {
    let failed = report
        .checks
        .iter()
        .filter(|check| matches!(check.result, CheckResult::Failed(_)));
    failed.map(|check| check.name.as_str()).collect()
}

#[test]
fn a_bundle_holds_with_and_without_its_files() {
    let input = input();
    for profile in Profile::ALL {
        let evidence = bundle(profile, &input);
        let bytes = evidence.to_bytes().unwrap();
        let alone = verify(&bytes, None);
        assert!(alone.passed(), "{alone:?}");
        let media = verify(&bytes, Some(Media { input: &input }));
        let skipped = |check: &&Check| matches!(check.result, CheckResult::Skipped(_));
        assert!(
            media.passed() && media.checks.iter().find(skipped).is_none(),
            "{media:?}"
        );
        assert!(media.checks.iter().any(|check| check.name == "requests"));
        // What is signed is stable, and the digest is about it.
        assert_eq!(
            canonical::sha256(&evidence.signable().unwrap()),
            evidence.digest
        );
    }
}

#[test]
fn one_flipped_bit_anywhere_fails_it() {
    let bytes = bundle(Profile::Subnet, &input()).to_bytes().unwrap();
    for at in (0..bytes.len()).step_by(5) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(
            !verify(&changed, None).passed(),
            "byte {at} of {}",
            bytes.len()
        );
    }
    for changed in [
        b"".to_vec(),
        [bytes.as_slice(), b"\n"].concat(),
        bytes[1..].to_vec(),
    ] {
        assert!(!verify(&changed, None).passed());
    }
}

#[test]
fn who_changes_and_hashes_again_is_found_out() {
    let input = input();
    let changes: [(&str, fn(&mut Evidence)); 11] = [
        ("prompt", |e| e.prompt.text.push('x')),
        ("configuration", |e| {
            e.configurations
                .values_mut()
                .for_each(|c| c.rules.pass_overall = 10);
        }),
        ("frames", |e| e.frames[0].index = 0),
        ("remote answer", |e| {
            remote(e).scores = Scores::new([91, 80, 70, 60, 50, 40])
        }),
        ("remote pass", |e| remote(e).pass = false),
        ("remote overall", |e| remote(e).overall = 99),
        ("remote answer digest", |e| {
            remote(e).answers[0].content = Some("{}".into())
        }),
        ("decision", |e| e.judgement.decision.pass = Some(false)),
        // A refusal is no verdict, and what refuses nothing is one.
        ("remote answer", |e| {
            remote(e).answers[0].refusal = Some("no".into())
        }),
        ("remote answer", |e| withhold(e, Reason::Refused)),
        ("remote answer", |e| withhold(e, Reason::Transport)),
    ];
    for (name, change) in changes {
        let mut evidence = bundle(Profile::Subnet, &input);
        change(&mut evidence);
        evidence.digest = canonical::sha256(&evidence.signable().unwrap());
        let report = verify(&evidence.to_bytes().unwrap(), None);
        assert!(failed(&report).contains(&name), "{name}: {report:?}");
    }
}

fn remote(evidence: &mut Evidence) -> &mut Verdict {
    match &mut evidence.judgement.remote {
        Some(Outcome::Verdict(verdict)) => verdict,
        other => panic!("{other:?}"),
    }
}

/// Puts no verdict in place of the remote one, with its answers.
fn withhold(evidence: &mut Evidence, reason: Reason) {
    let answers = std::mem::take(&mut remote(evidence).answers);
    let none = NoVerdict {
        answers,
        ..NoVerdict::new(remote::ID, reason, Fault::Transient, "x")
    };
    evidence.judgement.remote = Some(none.into());
    evidence.judgement.decision = Decision {
        pass: None,
        by: None,
        why: "x".into(),
    };
}

/// Checks a bundle whose digest is made again.
fn checked(evidence: &mut Evidence) -> Report {
    evidence.digest = canonical::sha256(&evidence.signable().unwrap());
    verify(&evidence.to_bytes().unwrap(), None)
}

#[test]
fn a_refusal_holds_as_no_verdict() {
    let mut evidence = bundle(Profile::Whitepaper, &input());
    remote(&mut evidence).answers[0].finish_reason = Some("content_filter".into());
    withhold(&mut evidence, Reason::Refused);
    let report = checked(&mut evidence);
    assert!(report.passed(), "{report:?}");
}

#[test]
fn who_stands_in_for_a_remote_judge_needs_a_chance_and_one_that_is_withdrawn() {
    let of = |reason, chance, pass: Option<bool>| {
        let mut evidence = bundle(Profile::Whitepaper, &input());
        let mut local = remote(&mut evidence).clone();
        local.judge = "signals".into();
        local.calibrated_p_pass = chance;
        withhold(&mut evidence, reason);
        if let Some(Outcome::NoVerdict(none)) = &mut evidence.judgement.remote {
            none.answers.clear();
        }
        evidence.judgement.mode = Mode::Fallback;
        evidence.judgement.local = Some(local.into());
        evidence.judgement.decision.pass = pass;
        evidence.judgement.decision.by = pass.map(|_| Side::Local);
        let report = checked(&mut evidence);
        !failed(&report).contains(&"decision")
    };
    for (reason, chance, pass, holds) in [
        (Reason::Unavailable, Some(0.7), Some(true), true),
        (Reason::Unavailable, Some(0.3), Some(true), false),
        // The critical scores may have failed it.
        (Reason::Unavailable, Some(0.7), Some(false), true),
        (Reason::Unavailable, Some(0.7), None, false),
        (Reason::Unavailable, None, None, true),
        (Reason::Unavailable, None, Some(true), false),
        // One lost request hands nothing over.
        (Reason::Transport, Some(0.7), Some(true), false),
        (Reason::Transport, Some(0.7), None, true),
    ] {
        assert_eq!(
            of(reason, chance, pass),
            holds,
            "{reason:?} {chance:?} {pass:?}"
        );
    }
}

#[test]
fn numbers_without_end_are_refused_at_once() {
    let changes: [fn(&mut Evidence); 2] = [
        |e| e.video.frames = usize::MAX,
        |e| {
            e.configurations
                .values_mut()
                .for_each(|c| c.frames.most = usize::MAX);
        },
    ];
    for change in changes {
        let mut evidence = bundle(Profile::Subnet, &input());
        change(&mut evidence);
        assert_eq!(failed(&checked(&mut evidence)), ["size"]);
    }
}

#[test]
fn other_files_are_found_out() {
    let bytes = bundle(Profile::Whitepaper, &input()).to_bytes().unwrap();
    let other = |change: fn(&mut JudgeInput)| {
        let mut other = input();
        change(&mut other);
        verify(&bytes, Some(Media { input: &other }))
    };
    let report = other(|input| input.video_sha256 = canonical::sha256(b"other"));
    assert_eq!(failed(&report), ["video"]);
    let report = other(|input| input.first_bytes.push(0));
    assert_eq!(failed(&report), ["first frame", "requests"]);
    let report = other(|input| {
        let black = RgbImage8::new(32, 24, vec![0; 32 * 24 * 3]).unwrap();
        input.frames[7] = black;
    });
    assert_eq!(failed(&report), ["pixels"]);
}

#[test]
fn what_is_in_the_file_is_looked_at() {
    let evidence = bundle(Profile::Subnet, &input());
    let mut value = serde_json::to_value(&evidence).unwrap();
    value["judgement"]["remote"]["surprise"] = 1.into();
    value.as_object_mut().unwrap().remove("digest");
    value["digest"] = canonical::digest(&value).into();
    let text = canonical::text(&value) + "\n";
    assert_eq!(failed(&verify(text.as_bytes(), None)), ["form"]);
}
