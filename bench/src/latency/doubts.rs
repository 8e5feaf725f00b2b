//! Why a number may lie, and what would help.

use super::result::{CeilingKind, Doubt, Run, Stage, StageResult};
use super::scenario::ModelSize;
use crate::stats::{self, ENOUGH};

/// Share of the median above which a spread is worth a word.
const SPREAD: f64 = 0.05;
/// Share of the cores that other processes may take.
const OTHERS: f64 = 0.05;
/// Share by which the clock may move.
const CLOCK: f64 = 0.03;
/// Shortest sample whose clock can be trusted, in seconds.
const SHORT_S: f64 = 1e-3;

/// Everything doubtful about a run. `others` is the share of the cores that other processes took, `profile` the
/// program's Cargo profile.
pub(crate) fn of(run: &Run, others: f64, profile: &str) -> Vec<Doubt> {
    let mut all = Vec::new();
    let mut say = |about: &str, what: String, remedy: &str| {
        all.push(Doubt {
            about: about.to_owned(),
            what,
            remedy: remedy.to_owned(),
        });
    };
    if profile != "release" {
        say(
            "run",
            format!("this is a {profile} build"),
            "build with `cargo build --release`",
        );
    }
    if !run.lossless {
        say(
            "run",
            format!(
                "{} is lossy: the clip is not the one a reference makes",
                run.scenario.precision
            ),
            "compare it with lossy runs only, or measure bf16",
        );
    }
    if run.clip.extrapolated {
        let (measured, steps) = (run.scenario.measured_steps, run.scenario.steps);
        say(
            "clip",
            format!(
                "{measured} of {steps} steps ran; the clip's time takes the others to last as long"
            ),
            "leave out `measured_steps` to run them all",
        );
    }
    if run.weights == "random" {
        say(
            "load",
            "random weights were made in memory, so the time says nothing about reading a checkpoint".into(),
            "pass a checkpoint with --model",
        );
    }
    if run.scenario.size == ModelSize::Tiny {
        say(
            "run",
            "a tiny model: overheads weigh more and fractions of the ceilings less than in a released one".into(),
            "use the set `released` on an accelerator",
        );
    }
    if others > OTHERS {
        say(
            "run",
            format!(
                "other processes took {:.0} % of the cores meanwhile",
                100.0 * others
            ),
            "end them, or wait until they are done",
        );
    }
    for stage in &run.stages {
        samples(stage, &mut say);
    }
    let compared = [Stage::TextEncode, Stage::DenoiseStep, Stage::Decode];
    for stage in run
        .stages
        .iter()
        .filter(|found| compared.contains(&found.stage))
    {
        if let Some(fraction) = stage.fraction.filter(|&fraction| fraction > 1.0) {
            say(
                stage.stage.name(),
                format!(
                    "{:.0} % of the ceiling: the ceiling was measured too low",
                    100.0 * fraction
                ),
                "measure on a quiet machine, with larger shapes",
            );
        }
    }
    if let Some(gemm) = run.best(CeilingKind::Gemm) {
        let spread = gemm.samples_s.len() >= ENOUGH && stats::spread(&gemm.samples_s) > SPREAD;
        if spread {
            say(
                "ceilings",
                format!(
                    "{}: times spread by {:.0} %",
                    gemm.what,
                    100.0 * stats::spread(&gemm.samples_s)
                ),
                "measure on a quiet machine; fractions of the ceilings move with it",
            );
        }
    }
    let throttled: Vec<String> = run
        .telemetry
        .throttled
        .iter()
        .map(|(reason, share)| format!("{reason} ({:.0} % of the time)", 100.0 * share))
        .collect();
    if !throttled.is_empty() {
        say(
            "device",
            format!("its clocks were held down: {}", throttled.join(", ")),
            "cool it, or state the limit with the result",
        );
    }
    if let Some((low, median)) = run.telemetry.clock_range()
        && low < median * (1.0 - CLOCK)
    {
        say(
            "device",
            format!("its clock moved between {low:.0} and {median:.0} MHz while the rounds ran"),
            "warm it up for longer (--warmups)",
        );
    }
    all
}

/// What a stage's samples give away.
fn samples(stage: &StageResult, say: &mut impl FnMut(&str, String, &str)) {
    let name = stage.stage.name();
    let Some(summary) = &stage.summary else {
        return;
    };
    let values = &stage.samples_s;
    if matches!(stage.stage, Stage::Load | Stage::Mux) {
        return;
    }
    if summary.median < SHORT_S {
        say(
            name,
            format!(
                "samples of {:.2} ms are too short for the clock",
                1e3 * summary.median
            ),
            "use a larger scenario",
        );
        return;
    }
    if summary.n < ENOUGH {
        say(
            name,
            format!("{} samples are too few for an interval", summary.n),
            "raise --rounds to 5 or more",
        );
        return;
    }
    let first: Vec<f64> = values.iter().copied().take(stage.per_round).collect();
    let rest: Vec<f64> = values.iter().copied().skip(stage.per_round).collect();
    let outliers = stats::outliers(values);
    if stats::min(&first) > 1.1 * stats::median(&rest) {
        say(
            name,
            "the first round was slower than the others".into(),
            "raise --warmups",
        );
    } else if !outliers.is_empty() {
        say(
            name,
            format!("{} of {} samples are outliers", outliers.len(), summary.n),
            "look at the raw samples; measure on a quiet machine",
        );
    } else if summary.spread() > SPREAD {
        say(
            name,
            format!(
                "samples spread by {:.0} % around their median",
                100.0 * summary.spread()
            ),
            "raise --rounds, or measure on a quiet machine",
        );
    }
}
