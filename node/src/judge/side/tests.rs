//! The table of modes, and judges that are slow or break.
#![allow(clippy::unwrap_used, clippy::unnecessary_literal_bound)]

use super::*;
use crate::judge::profile::Profile;
use crate::judge::rubric::{Rules, Scores};
use crate::judge::sampling::FrameRule;
use crate::media::RgbImage8;

fn configuration() -> Configuration {
    Configuration::remote(
        Profile::Whitepaper,
        "m",
        Rules::default(),
        FrameRule::default(),
    )
}

fn verdict(score: u8) -> Outcome {
    Verdict::of_scores("test", &configuration(), Scores::new([score; 6])).into()
}

fn none(reason: Reason) -> Outcome {
    NoVerdict::new("test", reason, Fault::Transient, "why").into()
}

fn input() -> Arc<JudgeInput> {
    let frame = || RgbImage8::new(16, 16, vec![9; 768]).unwrap();
    let clip = ((0..16).map(|_| frame()).collect(), (16, 1));
    let input = JudgeInput::new(
        String::new(),
        clip,
        (frame(), vec![1]),
        "a boat".into(),
        None,
    );
    Arc::new(input.unwrap())
}

/// Does whatever it is told.
struct Scripted(Configuration, fn() -> Outcome);

impl Judge for Scripted {
    fn id(&self) -> &str {
        "scripted"
    }

    fn configuration(&self) -> &Configuration {
        &self.0
    }

    fn judge(&self, _: &JudgeInput, _: Duration) -> Outcome {
        self.1()
    }
}

fn scripted(work: fn() -> Outcome) -> Arc<dyn Judge> {
    Arc::new(Scripted(configuration(), work))
}

fn bench(mode: Mode, remote: fn() -> Outcome, local: fn() -> Outcome) -> Bench {
    Bench {
        mode,
        remote: Ok(scripted(remote)),
        local: Ok(scripted(local)),
        calibration: None,
        deadline: Duration::from_secs(60),
    }
}

#[test]
fn the_table_of_modes() {
    let unknown = || Err("no calibration".to_owned());
    let (good, bad, lost) = (verdict(90), verdict(10), none(Reason::Transport));
    for (mode, remote, local, pass, by) in [
        (Mode::Remote, &good, &bad, Some(true), Some(Side::Remote)),
        (Mode::Shadow, &good, &bad, Some(true), Some(Side::Remote)),
        (Mode::Shadow, &bad, &good, Some(false), Some(Side::Remote)),
        (Mode::Shadow, &lost, &good, None, None),
        (Mode::Local, &good, &bad, Some(false), Some(Side::Local)),
        (Mode::Local, &good, &lost, None, None),
        (Mode::Both, &good, &good, Some(true), Some(Side::Both)),
        (Mode::Both, &good, &bad, Some(false), Some(Side::Local)),
        (Mode::Both, &bad, &good, Some(false), Some(Side::Remote)),
        (Mode::Both, &lost, &bad, Some(false), Some(Side::Local)),
        (Mode::Both, &lost, &good, None, None),
        (Mode::Fallback, &bad, &good, Some(false), Some(Side::Remote)),
        // One lost request does not hand the decision over.
        (Mode::Fallback, &lost, &good, None, None),
    ] {
        let decision = decide(
            mode,
            &Rules::default(),
            Some(remote),
            Some(local),
            unknown(),
        );
        assert_eq!(
            (decision.pass, decision.by),
            (pass, by),
            "{mode:?}: {}",
            decision.why
        );
    }
    assert_eq!(
        decide(Mode::Remote, &Rules::default(), None, None, unknown()).pass,
        None
    );
}

#[test]
fn the_local_judge_stands_in_only_when_it_is_calibrated() {
    let good = verdict(90);
    let map = |p_pass, critical_floor| {
        Ok(Calibrated {
            p_pass,
            critical_floor,
        })
    };
    for reason in [
        Reason::Unavailable,
        Reason::Budget,
        Reason::Quota,
        Reason::ModelGone,
    ] {
        let gone = none(reason);
        for (calibrated, pass) in [
            (map(0.5, 50), Some(true)),
            (map(0.49, 80), Some(false)),
            (map(0.9, 49), Some(false)),
            (Err("another model".into()), None),
        ] {
            let decision = decide(
                Mode::Fallback,
                &Rules::default(),
                Some(&gone),
                Some(&good),
                calibrated,
            );
            assert_eq!(decision.pass, pass, "{reason:?}: {}", decision.why);
            assert_eq!(decision.by, pass.map(|_| Side::Local));
            assert!(decision.why.contains(reason.name()), "{}", decision.why);
        }
        let decision = decide(
            Mode::Fallback,
            &Rules::default(),
            Some(&gone),
            Some(&gone),
            map(1.0, 100),
        );
        assert_eq!(decision.pass, None);
    }
}

#[test]
fn one_lost_request_and_one_spent_task_hand_nothing_over() {
    let sure = Calibrated {
        p_pass: 1.0,
        critical_floor: 100,
    };
    for reason in [Reason::TaskBudget, Reason::Transport, Reason::Refused] {
        let decision = decide(
            Mode::Fallback,
            &Rules::default(),
            Some(&none(reason)),
            Some(&verdict(90)),
            Ok(sure),
        );
        assert_eq!((decision.pass, decision.by), (None, None), "{reason:?}");
    }
}

struct Map;

impl Calibration for Map {
    fn apply(&self, local: &Verdict, remote: &Configuration) -> Result<Calibrated, String> {
        if remote.model != "m" {
            return Err("another model".into());
        }
        Ok(Calibrated {
            p_pass: f64::from(local.overall) / 100.0,
            critical_floor: local.critical_floor,
        })
    }
}

#[test]
fn both_run_and_the_record_holds_both() {
    let mut bench = bench(Mode::Shadow, || verdict(90), || verdict(40));
    bench.calibration = Some(Arc::new(Map));
    let judgement = bench.judge(&input());
    assert_eq!(
        judgement.remote.as_ref().and_then(Outcome::pass),
        Some(true)
    );
    let local = judgement.local.as_ref().and_then(Outcome::verdict).unwrap();
    assert_eq!((local.pass, local.calibrated_p_pass), (false, Some(0.4)));
    assert_eq!(judgement.decision.pass, Some(true));
    let text = serde_json::to_string(&judgement).unwrap();
    assert_eq!(serde_json::from_str::<Judgement>(&text).unwrap(), judgement);

    bench.mode = Mode::Remote;
    assert!(bench.judge(&input()).local.is_none());
    bench.mode = Mode::Local;
    assert!(bench.judge(&input()).remote.is_none());
    bench.mode = Mode::Shadow;
    bench.remote = Err(NoVerdict::new(
        "remote",
        Reason::Key,
        Fault::Local,
        "no key",
    ));
    let judgement = bench.judge(&input());
    assert_eq!(judgement.decision.pass, None);
    assert!(judgement.local.is_some() && judgement.decision.why.contains("no key"));
}

#[test]
fn a_judge_that_breaks_or_sleeps_is_no_verdict() {
    let broken = bench(Mode::Local, || verdict(1), || panic!("on purpose"));
    let judgement = broken.judge(&input());
    let Some(Outcome::NoVerdict(none)) = &judgement.local else {
        panic!("{judgement:?}")
    };
    assert_eq!((none.reason, none.fault), (Reason::Internal, Fault::Local));

    // Longer than anybody waits.
    let mut slow = bench(
        Mode::Local,
        || verdict(90),
        || {
            std::thread::sleep(Duration::from_secs(600));
            verdict(1)
        },
    );
    slow.deadline = Duration::from_millis(1);
    let judgement = slow.judge(&input());
    let Some(Outcome::NoVerdict(none)) = &judgement.local else {
        panic!("{judgement:?}")
    };
    assert_eq!(
        (none.reason, none.fault),
        (Reason::Deadline, Fault::Transient)
    );
}
