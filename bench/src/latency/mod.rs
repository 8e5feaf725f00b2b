//! `leoma-bench latency`: how long Wan 2.2 takes on this device, stage by stage.
//!
//! The path of a run: [`args`] → [`scenario`] (what to measure) → [`device`] → [`schedule`] (in which order),
//! which drives a runner ([`live`]) and judges with [`doubts`] → [`result`] → [`export`]. Two results are held
//! against each other by [`compare`]; [`page`] writes the page of all devices.

mod args;
mod cards;
mod ceilings;
mod compare;
mod device;
mod doubts;
mod export;
mod live;
mod page;
mod result;
mod scenario;
mod schedule;
mod telemetry;
mod work;

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};

pub(crate) use args::{CompareArgs, LatencyArgs};
pub(crate) use compare::run as compare;
pub(crate) use page::render as page;
pub(crate) use result::{LatencyReport, SCHEMA};

use crate::env::{self, Machine, slug};
use crate::run::{note, remove_when_interrupted, this_program};
use live::{LiveHost, LiveRunner, Place};
use scenario::{Scenario, Set};
use schedule::Setting;

/// Measures what `args` ask for. Progress goes to standard error, tables and paths to standard output.
///
/// # Errors
/// When a scenario cannot be read or run, or an output not be written.
pub(crate) fn run(args: &LatencyArgs) -> Result<()> {
    let mut machine = Machine::read(args.threads());
    if !machine.load_average.is_finite() {
        machine.load_average = 0.0;
    }
    let opened = device::open(&args.device, &machine, &mut note)?;
    let set = args.set.unwrap_or(if opened.device.is_cpu() {
        Set::Tiny
    } else {
        Set::Released
    });
    let mut scenarios = scenario::select(&args.scenarios, set, args.filter.as_deref())?;
    for scenario in &mut scenarios {
        scenario.rounds = args.rounds.map_or(scenario.rounds, usize::from);
        scenario.warmups = args.warmups.map_or(scenario.warmups, usize::from);
    }
    if args.list {
        return list(&scenarios);
    }
    let work = tempfile::tempdir().context("cannot create a work folder")?;
    remove_when_interrupted(work.path().to_path_buf())?;
    let beside = this_program()?.with_file_name("leoma-node");
    let node = args
        .node
        .clone()
        .or_else(|| beside.is_file().then_some(beside));
    let price = args.price();
    let mut host = LiveHost::new();
    let mut report = LatencyReport {
        schema: SCHEMA.into(),
        date: env::today(),
        label: args.label.as_deref().map_or(opened.label, slug),
        machine,
        device: opened.info,
        price: price.clone(),
        runs: Vec::new(),
    };
    for scenario in &scenarios {
        note(&format!("{}: {}", scenario.name, scenario.describe()));
        let place = Place {
            device: &opened.device,
            model: args.model.as_deref(),
            node: node.as_deref(),
            work: work.path(),
        };
        let mut runner = LiveRunner::new(scenario, &place)
            .with_context(|| format!("scenario `{}`", scenario.name))?;
        let setting = Setting {
            host: &mut host,
            probe: opened.probe.clone(),
            interval: Duration::from_millis(args.sample_ms),
            price: price.as_ref(),
            profile: &report.machine.profile,
            progress: &mut |line| note(line),
        };
        let run = schedule::measure(&runner.scenario().clone(), &mut runner, setting);
        report
            .runs
            .push(run.with_context(|| format!("scenario `{}`", scenario.name))?);
    }
    doubt_the_device(&mut report);
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", export::markdown(&report))?;
    for output in &args.output {
        writeln!(
            stdout,
            "{}",
            output.write(&report, &args.out_dir)?.display()
        )?;
    }
    Ok(())
}

/// Prints scenarios with their arithmetic.
fn list(scenarios: &[Scenario]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    for scenario in scenarios {
        let networks = work::networks(scenario.kind()?, scenario.size == scenario::ModelSize::Tiny);
        let work = work::Work::new(scenario, &networks, 0);
        let flops = |stage| work.of(stage).map_or(0.0, |cost| cost.flops());
        let total = flops(result::Stage::DenoiseStep) * scenario.steps as f64
            + flops(result::Stage::Decode);
        writeln!(
            stdout,
            "{}\n    {}\n    {} tokens, {} per clip",
            scenario.name,
            scenario.describe(),
            work.tokens,
            export::rate(total, "FLOP")
        )?;
    }
    Ok(())
}

/// What about the device makes all figures doubtful.
fn doubt_the_device(report: &mut LatencyReport) {
    let mut found = Vec::new();
    if let Some(others) = report.device.other_processes.filter(|&others| others > 0) {
        found.push(result::Doubt {
            about: "device".into(),
            what: format!("{others} other processes were on the device"),
            remedy: "end them; a share of the device is not the device".into(),
        });
    }
    if report.device.mig == Some(true) {
        found.push(result::Doubt {
            about: "device".into(),
            what: "it is divided into instances (MIG), and only one was measured".into(),
            remedy: "name the instance in --label".into(),
        });
    }
    if report.machine.load_average > report.machine.cores as f64 {
        found.push(result::Doubt {
            about: "host".into(),
            what: format!(
                "the load average was {:.1} at the start",
                report.machine.load_average
            ),
            remedy: "wait until the machine is quiet".into(),
        });
    }
    for run in &mut report.runs {
        run.doubts.extend(found.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::schedule::tests::{report, run_with, scenario};
    use super::*;

    #[test]
    fn a_shared_or_divided_device_makes_every_run_doubtful() {
        let mut found = report(vec![run_with(&scenario(), |_| ())]);
        let before = found.runs[0].doubts.len();
        doubt_the_device(&mut found);
        assert_eq!(found.runs[0].doubts.len(), before);
        found.device.other_processes = Some(2);
        found.device.mig = Some(true);
        found.machine.load_average = 9.0;
        doubt_the_device(&mut found);
        let all = &found.runs[0].doubts[before..];
        let words: Vec<&str> = all.iter().map(|doubt| doubt.what.as_str()).collect();
        assert!(words[0].contains("2 other processes") && words[1].contains("MIG"));
        assert!(words[2].contains("load average was 9.0"));
    }
}
