//! The order of a measurement: load, warm-up rounds, measured rounds, ceilings, MP4. What runs is behind a
//! trait.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::doubts;
use super::result::{Ceiling, CeilingKind, Clip, Price, Run, Stage, StageResult, best};
use super::scenario::Scenario;
use super::telemetry::{Probe, Sampler, Telemetry};
use super::work::Work;
use crate::stats::Summary;

/// Runs the parts of one scenario.
pub(crate) trait Runner {
    /// What the scenario is made of.
    fn subject(&self) -> Subject;

    /// Reads everything that stays in memory; once, before the first round. Seconds.
    fn load(&mut self) -> Result<f64>;

    /// Makes one clip and tells `stages` when a stage is over. Seconds of the whole, gaps between stages included.
    fn clip(&mut self, stages: &mut dyn Stages) -> Result<f64>;

    /// Rates of the device at the model's shapes.
    fn ceilings(&mut self) -> Result<Vec<Ceiling>>;

    /// Seconds of writing the clip as MP4, or why that was not measured.
    fn mux(&mut self) -> Result<Result<Vec<f64>, String>>;
}

/// Takes what a clip's stages took.
pub(crate) trait Stages {
    /// A stage is over; denoising reports every step.
    fn over(&mut self, stage: Stage, seconds: f64);
}

/// What a scenario turned out to be.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// See [`Run::attention_backend`].
    pub(crate) attention_backend: String,
    /// See [`Run::weights`].
    pub(crate) weights: String,
    /// Arithmetic and bytes of the stages.
    pub(crate) work: Work,
}

/// The machine around a measurement.
pub(crate) trait Host {
    /// Most resident memory since the last call.
    fn take_peak(&mut self) -> u64;
    /// Share of all cores that other processes took since the last call.
    fn take_others(&mut self) -> f64;
}

/// What a measurement needs besides its runner.
pub(crate) struct Setting<'a> {
    /// The machine.
    pub(crate) host: &'a mut dyn Host,
    /// The device, or why it cannot be looked at.
    pub(crate) probe: Result<Arc<dyn Probe>, String>,
    /// Time between looks.
    pub(crate) interval: Duration,
    /// Price of the device.
    pub(crate) price: Option<&'a Price>,
    /// Cargo profile of this program.
    pub(crate) profile: &'a str,
    /// Called with a line of progress.
    pub(crate) progress: &'a mut dyn FnMut(&str),
}

/// Samples and peaks of a stage while they come in.
#[derive(Debug, Default, Clone)]
struct Slot {
    seconds: Vec<f64>,
    warmup: Vec<f64>,
    host_peak: Option<u64>,
    device_peak: Option<u64>,
}

/// Sorts what comes in by stage.
struct Collector<'a> {
    slots: [Slot; Stage::ALL.len()],
    warmup: bool,
    host: &'a mut dyn Host,
    sampler: Option<&'a Sampler>,
}

impl Stages for Collector<'_> {
    fn over(&mut self, stage: Stage, seconds: f64) {
        let slot = &mut self.slots[stage as usize];
        if self.warmup {
            slot.warmup.push(seconds);
        } else {
            slot.seconds.push(seconds);
        }
        // Warm-up rounds may hold more memory than later ones: they count.
        let device = self.sampler.and_then(Sampler::take_peak);
        slot.host_peak = slot.host_peak.max(Some(self.host.take_peak()));
        slot.device_peak = slot.device_peak.max(device);
    }
}

/// Measures one scenario.
///
/// # Errors
/// What the runner fails with.
pub(crate) fn measure(
    scenario: &Scenario,
    runner: &mut dyn Runner,
    setting: Setting<'_>,
) -> Result<Run> {
    let Setting {
        host,
        probe,
        interval,
        price,
        profile,
        progress,
    } = setting;
    host.take_peak();
    let load_s = runner.load()?;
    let load_peak = host.take_peak();
    progress(&format!("  load {load_s:.2} s"));
    let subject = runner.subject();

    // Memory is watched in the warm-up, too; the series begins with the first measured round.
    let start = |probe: &Arc<dyn Probe>| Sampler::start(Arc::clone(probe), interval);
    let mut sampler = probe.as_ref().ok().map(start);
    let load_device_peak = sampler.as_ref().and_then(Sampler::take_peak);
    let mut slots: [Slot; Stage::ALL.len()] = Default::default();
    let mut rounds_s = Vec::new();
    for round in 0..scenario.warmups + scenario.rounds {
        let warmup = round < scenario.warmups;
        if round == scenario.warmups {
            sampler = probe.as_ref().ok().map(start);
            host.take_others();
        }
        let mut collector = Collector {
            slots,
            warmup,
            host: &mut *host,
            sampler: sampler.as_ref(),
        };
        let round_s = runner.clip(&mut collector)?;
        slots = collector.slots;
        if warmup {
            progress(&format!("  warm-up {round_s:10.3} s"));
        } else {
            rounds_s.push(round_s);
            progress(&format!("  round {:<3} {round_s:8.3} s", rounds_s.len()));
        }
    }
    let others = host.take_others();
    let telemetry = match (sampler, probe) {
        (Some(sampler), _) => sampler.finish(),
        (None, Err(reason)) => Telemetry::absent(reason),
        (None, Ok(_)) => Telemetry::absent("the device was not looked at"),
    };
    progress("  ceilings");
    let ceilings = runner.ceilings()?;
    let mux = runner.mux()?;

    slots[Stage::Load as usize] = Slot {
        seconds: vec![load_s],
        host_peak: Some(load_peak),
        device_peak: load_device_peak,
        ..Slot::default()
    };
    let mut absent: [Option<String>; Stage::ALL.len()] = Default::default();
    match mux {
        Ok(seconds) => slots[Stage::Mux as usize].seconds = seconds,
        Err(reason) => absent[Stage::Mux as usize] = Some(reason),
    }
    if !scenario.image {
        absent[Stage::ImageEncode as usize] = Some("the scenario has no first frame".into());
    }
    if slots[Stage::Swap as usize].seconds.is_empty() {
        absent[Stage::Swap as usize] = Some("everything stays in memory".into());
    }
    let stages: Vec<StageResult> = Stage::ALL
        .into_iter()
        .zip(slots)
        .zip(absent)
        .map(|((stage, slot), absent)| {
            stage_result(stage, slot, absent, scenario, &subject.work, &ceilings)
        })
        .collect();
    let clip = clip(scenario, &stages, rounds_s, price, &telemetry);
    let mut run = Run {
        scenario: scenario.clone(),
        lossless: !scenario.precision.is_lossy(),
        attention_backend: subject.attention_backend,
        weights: subject.weights,
        tokens: subject.work.tokens,
        stages,
        ceilings,
        clip,
        telemetry,
        doubts: Vec::new(),
    };
    run.doubts = doubts::of(&run, others, profile);
    Ok(run)
}

fn stage_result(
    stage: Stage,
    slot: Slot,
    absent: Option<String>,
    scenario: &Scenario,
    work: &Work,
    ceilings: &[Ceiling],
) -> StageResult {
    let summary = Summary::of(&slot.seconds);
    let cost = work.of(stage);
    let flops = cost.map(|cost| cost.flops());
    let rate = |kind| best(ceilings, kind).map(|ceiling| ceiling.rate);
    let ceiling_s = cost.and_then(|cost| {
        let attention = match cost.attention {
            0.0 => 0.0,
            attention => attention / rate(CeilingKind::Attention)?,
        };
        // Whichever takes longer: the arithmetic or the bytes.
        let arithmetic = cost.linear / rate(CeilingKind::Gemm)? + attention;
        Some(arithmetic.max(cost.bytes / rate(CeilingKind::Copy)?))
    });
    let median = summary.map(|summary| summary.median);
    StageResult {
        stage,
        absent: absent.or_else(|| summary.is_none().then(|| "no sample was taken".to_owned())),
        per_round: match stage {
            Stage::DenoiseStep => scenario.measured_steps,
            _ => 1,
        },
        warmup_s: slot.warmup,
        samples_s: slot.seconds,
        summary,
        flops,
        bytes: cost.map(|cost| cost.bytes),
        flops_per_s: flops.zip(median).map(|(flops, median)| flops / median),
        ceiling_s,
        fraction: ceiling_s
            .zip(median)
            .map(|(ceiling, median)| ceiling / median),
        host_peak_bytes: slot.host_peak,
        device_peak_bytes: slot.device_peak,
    }
}

fn clip(
    scenario: &Scenario,
    stages: &[StageResult],
    rounds_s: Vec<f64>,
    price: Option<&Price>,
    telemetry: &Telemetry,
) -> Clip {
    let extrapolated = scenario.is_extrapolated();
    let measured = Summary::of(&rounds_s);
    // The steps that did not run last as long as the median of those that did.
    let missing = (scenario.steps - scenario.measured_steps) as f64;
    let step = stages
        .iter()
        .find(|found| found.stage == Stage::DenoiseStep)
        .and_then(|found| found.summary);
    let seconds =
        measured.map_or(0.0, |clip| clip.median) + missing * step.map_or(0.0, |step| step.median);
    let interval_s = match (
        measured.and_then(|clip| clip.interval),
        step.and_then(|step| step.interval),
    ) {
        (Some(clip), _) if !extrapolated => Some(clip),
        (Some(clip), Some(step)) => {
            Some([clip[0] + missing * step[0], clip[1] + missing * step[1]])
        }
        _ => None,
    };
    let hours = seconds / 3600.0;
    Clip {
        seconds,
        interval_s,
        extrapolated,
        rounds_s,
        per_hour: if hours > 0.0 { hours.recip() } else { 0.0 },
        cost: price.map(|price| price.per_hour * hours),
        energy_j: telemetry.mean_power_w().map(|power| power * seconds),
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
pub(crate) mod tests;
