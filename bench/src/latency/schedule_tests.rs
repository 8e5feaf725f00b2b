#![allow(clippy::unwrap_used)]
use super::super::result::{DeviceInfo, LatencyReport, SCHEMA};
use super::super::scenario::{Set, built_in};
use super::super::telemetry::Reading;
use super::super::work::networks;
use super::*;

/// Takes the seconds that its script says and remembers what it was asked.
pub(crate) struct Fake {
    scenario: Scenario,
    pub(crate) asked: Vec<&'static str>,
    /// Seconds of the steps, by round; the last entry serves all later rounds.
    pub(crate) steps: Vec<f64>,
    pub(crate) swap: bool,
    pub(crate) fail: bool,
}

impl Fake {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            scenario: scenario.clone(),
            asked: Vec::new(),
            steps: vec![0.5],
            swap: false,
            fail: false,
        }
    }
}

impl Runner for Fake {
    fn subject(&self) -> Subject {
        let kind = self.scenario.kind().unwrap();
        Subject {
            attention_backend: "fake attention".into(),
            weights: "tiny checkpoint".into(),
            work: Work::new(&self.scenario, &networks(kind, true), 20),
        }
    }

    fn load(&mut self) -> Result<f64> {
        self.asked.push("load");
        Ok(2.0)
    }

    fn clip(&mut self, stages: &mut dyn Stages) -> Result<f64> {
        let round = self.asked.iter().filter(|asked| **asked == "clip").count();
        self.asked.push("clip");
        if self.fail {
            anyhow::bail!("the device is gone");
        }
        let step = self.steps[round.min(self.steps.len() - 1)];
        stages.over(Stage::TextEncode, 0.25);
        stages.over(Stage::ImageEncode, 0.125);
        for _ in 0..self.scenario.measured_steps {
            stages.over(Stage::DenoiseStep, step);
        }
        stages.over(Stage::Decode, 1.0);
        if self.swap {
            stages.over(Stage::Swap, 3.0);
        }
        // An eighth of a second between the stages.
        Ok(1.5 + step * self.scenario.measured_steps as f64)
    }

    fn ceilings(&mut self) -> Result<Vec<Ceiling>> {
        self.asked.push("ceilings");
        let ceiling = |kind, what: &str, rate: f64| Ceiling {
            kind,
            what: what.to_owned(),
            work: 0.1 * rate,
            samples_s: vec![0.1; 5],
            rate,
        };
        Ok(vec![
            ceiling(CeilingKind::Gemm, "small product", 1e9),
            ceiling(CeilingKind::Gemm, "large product", 1e11),
            ceiling(CeilingKind::Attention, "attention", 5e10),
            ceiling(CeilingKind::Copy, "copy", 1e10),
        ])
    }

    fn mux(&mut self) -> Result<Result<Vec<f64>, String>> {
        self.asked.push("mux");
        Ok(Err("no leoma-node beside this program".into()))
    }
}

#[derive(Default)]
struct Quiet {
    peaks: u64,
    others: f64,
}

impl Host for Quiet {
    fn take_peak(&mut self) -> u64 {
        self.peaks += 1;
        self.peaks << 20
    }

    fn take_others(&mut self) -> f64 {
        self.others
    }
}

struct Steady;

impl Probe for Steady {
    fn read(&self) -> Reading {
        Reading {
            power_w: Some(360.0),
            sm_mhz: Some(1800),
            used_bytes: Some(7 << 30),
            throttle: Some(0x4),
            ..Reading::default()
        }
    }
}

pub(crate) fn scenario() -> Scenario {
    let mut scenario = built_in(Set::Tiny).unwrap().remove(0);
    scenario.rounds = 6;
    scenario
}

/// One measured run; `change` turns the fake.
pub(crate) fn run_with(scenario: &Scenario, change: impl FnOnce(&mut Fake)) -> Run {
    let mut fake = Fake::new(scenario);
    change(&mut fake);
    let price = Price {
        per_hour: 2.0,
        currency: "EUR".into(),
    };
    let setting = Setting {
        host: &mut Quiet::default(),
        probe: Err("NVML is not there".into()),
        interval: Duration::from_millis(1),
        price: Some(&price),
        profile: "release",
        progress: &mut |_| (),
    };
    measure(scenario, &mut fake, setting).unwrap()
}

/// A report whose every value is fixed, for the exporters.
pub(crate) fn report(runs: Vec<Run>) -> LatencyReport {
    LatencyReport {
        schema: SCHEMA.into(),
        date: "2026-01-31".into(),
        label: "test-cpu-2t".into(),
        machine: crate::env::tests::machine(),
        device: DeviceInfo {
            kind: "cpu".into(),
            name: "Test CPU".into(),
            driver: None,
            cuda: None,
            memory_bytes: None,
            power_limit_w: None,
            max_sm_mhz: None,
            max_memory_mhz: None,
            ecc: None,
            mig: None,
            other_processes: None,
            absent: Some("computing on the CPU".into()),
        },
        price: Some(Price {
            per_hour: 2.0,
            currency: "EUR".into(),
        }),
        runs,
    }
}

fn abouts(run: &Run) -> Vec<&str> {
    run.doubts
        .iter()
        .map(|doubt| doubt.about.as_str())
        .collect()
}

#[test]
fn warm_ups_stand_apart_and_all_samples_are_kept() {
    let mut scenario = scenario();
    scenario.warmups = 2;
    let mut fake = Fake::new(&scenario);
    fake.steps = vec![9.0, 8.0, 0.5];
    let setting = Setting {
        host: &mut Quiet::default(),
        probe: Err("none".into()),
        interval: Duration::from_millis(1),
        price: None,
        profile: "release",
        progress: &mut |_| (),
    };
    let run = measure(&scenario, &mut fake, setting).unwrap();
    let mut order = vec!["load"];
    order.extend(["clip"; 8]);
    order.extend(["ceilings", "mux"]);
    assert_eq!(fake.asked, order);
    let steps = run.stage(Stage::DenoiseStep).unwrap();
    let count = scenario.measured_steps;
    assert_eq!(steps.samples_s, vec![0.5; 6 * count]);
    assert_eq!(steps.warmup_s[..count], vec![9.0; count]);
    assert_eq!((steps.warmup_s.len(), steps.per_round), (2 * count, count));
    assert_eq!(steps.summary.unwrap().median, 0.5);
    assert_eq!(run.stage(Stage::Load).unwrap().samples_s, [2.0]);
    // 0.25 + 0.125 + 6 x 0.5 + 1, and what lies between the stages.
    assert_eq!(run.clip.rounds_s, [4.5; 6]);
    assert_eq!(
        (run.clip.seconds, run.clip.interval_s),
        (4.5, Some([4.5; 2]))
    );
    assert_eq!(run.clip.cost, None);
    assert_eq!(run.telemetry.absent.as_deref(), Some("none"));
    assert!(run.lossless);
}

#[test]
fn stages_that_did_not_run_say_why() {
    let run = run_with(&scenario(), |_| ());
    let absent = |stage| run.stage(stage).unwrap().absent.clone();
    assert!(absent(Stage::Mux).unwrap().contains("leoma-node"));
    assert!(absent(Stage::Swap).unwrap().contains("stays in memory"));
    assert_eq!(absent(Stage::Decode), None);
    let swapping = run_with(&scenario(), |fake| fake.swap = true);
    assert_eq!(swapping.stage(Stage::Swap).unwrap().samples_s, [3.0; 6]);
    // It is part of the time of the stages during which it happened.
    assert_eq!(swapping.clip.seconds, 4.5);
}

#[test]
fn peaks_belong_to_the_stage_in_which_they_were_seen() {
    let run = run_with(&scenario(), |_| ());
    let peak = |stage: Stage| run.stage(stage).unwrap().host_peak_bytes.unwrap();
    assert!(peak(Stage::Load) < peak(Stage::TextEncode));
    assert!(peak(Stage::TextEncode) < peak(Stage::Decode));
    assert_eq!(run.stage(Stage::Decode).unwrap().device_peak_bytes, None);
}

#[test]
fn fractions_are_of_the_best_ceiling_of_each_kind() {
    let run = run_with(&scenario(), |_| ());
    assert_eq!(run.best(CeilingKind::Gemm).unwrap().what, "large product");
    let steps = run.stage(Stage::DenoiseStep).unwrap();
    let fraction = steps.fraction.unwrap();
    assert!((steps.ceiling_s.unwrap() / 0.5 - fraction).abs() < 1e-12 && fraction > 0.0);
    assert!((steps.flops.unwrap() / 0.5 - steps.flops_per_s.unwrap()).abs() < 1.0);
    assert!(run.stage(Stage::ImageEncode).unwrap().fraction.is_none());
}

#[test]
fn a_part_of_the_steps_is_extrapolated_and_said_so() {
    let mut scenario = scenario();
    scenario.steps = 30;
    scenario.measured_steps = 2;
    let run = run_with(&scenario, |_| ());
    assert!(run.clip.extrapolated);
    assert_eq!(run.clip.seconds, 1.5 + 30.0 * 0.5);
    assert_eq!(run.clip.interval_s, Some([run.clip.seconds; 2]));
    assert_eq!(run.clip.cost, Some(2.0 * run.clip.seconds / 3600.0));
    assert!((run.clip.per_hour - 3600.0 / run.clip.seconds).abs() < 1e-9);
    assert!(
        run.doubts
            .iter()
            .any(|doubt| doubt.what.contains("2 of 30 steps"))
    );
}

#[test]
fn the_device_is_watched_while_the_rounds_run() {
    let scenario = scenario();
    let setting = Setting {
        host: &mut Quiet::default(),
        probe: Ok(Arc::new(Steady)),
        interval: Duration::from_micros(100),
        price: None,
        profile: "release",
        progress: &mut |_| (),
    };
    let run = measure(&scenario, &mut Fake::new(&scenario), setting).unwrap();
    let decode = run.stage(Stage::Decode).unwrap();
    assert_eq!(decode.device_peak_bytes, Some(7 << 30));
    assert_eq!(run.clip.energy_j, Some(360.0 * run.clip.seconds));
    assert!(abouts(&run).contains(&"device"), "{:?}", run.doubts);
}

#[test]
fn doubts_say_what_was_seen_and_what_would_help() {
    let calm = run_with(&scenario(), |_| ());
    // A tiny model is always doubtful as a measure of a large one; nothing else is here.
    assert_eq!(abouts(&calm), ["run"], "{:?}", calm.doubts);

    let mut few = scenario();
    few.rounds = 2;
    let run = run_with(&few, |_| ());
    assert!(
        run.doubts
            .iter()
            .any(|doubt| doubt.about == "decode" && doubt.remedy.contains("--rounds"))
    );

    let slow = run_with(&scenario(), |fake| fake.steps = vec![0.5, 0.9, 0.5]);
    assert!(
        slow.doubts
            .iter()
            .any(|doubt| doubt.what.contains("first round") && doubt.remedy.contains("--warmups"))
    );

    let bump = run_with(&scenario(), |fake| {
        fake.steps = vec![0.5, 0.5, 0.5, 9.0, 0.5]
    });
    assert!(
        bump.doubts
            .iter()
            .any(|doubt| doubt.what.contains("outliers")),
        "{:?}",
        bump.doubts
    );

    let debug = of_profile("debug", 0.0);
    assert!(
        debug
            .doubts
            .iter()
            .any(|doubt| doubt.what.contains("debug build"))
    );
    let busy = of_profile("release", 0.4);
    assert!(
        busy.doubts
            .iter()
            .any(|doubt| doubt.what.contains("40 % of the cores"))
    );

    let mut lossy = scenario();
    lossy.precision = leoma_models::Precision::Fp8;
    let run = run_with(&lossy, |_| ());
    assert!(!run.lossless && run.doubts.iter().any(|doubt| doubt.what.contains("lossy")));
}

fn of_profile(profile: &str, others: f64) -> Run {
    let scenario = scenario();
    let setting = Setting {
        host: &mut Quiet {
            others,
            ..Quiet::default()
        },
        probe: Err("none".into()),
        interval: Duration::from_millis(1),
        price: None,
        profile,
        progress: &mut |_| (),
    };
    measure(&scenario, &mut Fake::new(&scenario), setting).unwrap()
}

#[test]
fn a_failing_clip_ends_the_measurement() {
    let scenario = scenario();
    let mut fake = Fake::new(&scenario);
    fake.fail = true;
    let setting = Setting {
        host: &mut Quiet::default(),
        probe: Err("none".into()),
        interval: Duration::from_millis(1),
        price: None,
        profile: "release",
        progress: &mut |_| (),
    };
    let error = measure(&scenario, &mut fake, setting).unwrap_err();
    assert_eq!(error.to_string(), "the device is gone");
}
