//! `leoma-bench compare`: two results, stage by stage, with intervals and a verdict.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Result, bail};

use super::args::CompareArgs;
use super::export::seconds;
use super::result::{LatencyReport, Run, Stage};
use crate::failure::bad_input;
use crate::stats;

/// Ratios this near to 1 are no difference, however sure: two builds of one source differ as much.
const SAME: f64 = 0.01;

/// What a pair of stages says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Faster,
    Slower,
    Indistinguishable,
    TooFew,
}

impl Verdict {
    fn of(interval: Option<[f64; 2]>) -> Self {
        match interval {
            None => Self::TooFew,
            Some([_, high]) if high < 1.0 - SAME => Self::Faster,
            Some([low, _]) if low > 1.0 + SAME => Self::Slower,
            Some(_) => Self::Indistinguishable,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::Indistinguishable => "indistinguishable",
            Self::TooFew => "too few samples",
        }
    }
}

/// Compares what `args` name and prints it.
///
/// # Errors
/// When the results are not of one job (unless forced), and with `--check` when a stage is slower.
pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    let before = LatencyReport::load(&args.before)?;
    let after = LatencyReport::load(&args.after)?;
    let (text, slower) = compare(&before, &after, args.force)?;
    write!(std::io::stdout().lock(), "{text}")?;
    if args.check && !slower.is_empty() {
        bail!("slower: {}", slower.join(", "));
    }
    Ok(())
}

/// The comparison as Markdown, and the names of what is slower.
fn compare(
    before: &LatencyReport,
    after: &LatencyReport,
    force: bool,
) -> Result<(String, Vec<String>)> {
    let mut text = String::new();
    let (a, b) = (&before.machine, &after.machine);
    let _ = writeln!(
        text,
        "Before: {} at {}, {}. After: {} at {}, {}. Ratios are after over before: below 1 is faster.\n",
        before.device.name, a.git, before.date, after.device.name, b.git, after.date
    );
    let mut warn = |what: String| {
        let _ = writeln!(text, "Warning: {what}.");
    };
    if before.device.name != after.device.name {
        warn(format!(
            "the devices differ ({}, {}): the ratio is of devices, not of code",
            before.device.name, after.device.name
        ));
    }
    if (&a.cpu_model, a.threads) != (&b.cpu_model, b.threads) {
        warn("processor or threads of the hosts differ".to_owned());
    }
    if before.device.driver != after.device.driver {
        warn("the drivers differ".to_owned());
    }
    if a.profile != b.profile {
        warn(format!(
            "one is a {} build, the other a {} build",
            a.profile, b.profile
        ));
    }
    let mut slower = Vec::new();
    let mut pairs = 0;
    for run in &after.runs {
        let Some(earlier) = before
            .runs
            .iter()
            .find(|earlier| earlier.scenario.name == run.scenario.name)
        else {
            continue;
        };
        refuse_different(earlier, run, force)?;
        pairs += 1;
        slower.extend(table(&mut text, earlier, run));
    }
    if pairs == 0 {
        let names = |report: &LatencyReport| {
            let names: Vec<&str> = report
                .runs
                .iter()
                .map(|run| run.scenario.name.as_str())
                .collect();
            names.join(", ")
        };
        return Err(bad_input(format!(
            "the results have no scenario in common: {} in one, {} in the other",
            names(before),
            names(after)
        )));
    }
    Ok((text, slower))
}

fn refuse_different(before: &Run, after: &Run, force: bool) -> Result<()> {
    if force {
        return Ok(());
    }
    let name = &after.scenario.name;
    if before.lossless != after.lossless {
        return Err(bad_input(format!(
            "scenario `{name}` is lossless in one result and lossy in the other: they do not make the same clip; \
             pass --force to compare them all the same"
        )));
    }
    if !before.scenario.same_job(&after.scenario) {
        return Err(bad_input(format!(
            "scenario `{name}` is another job in each result ({}; {}); pass --force to compare them all the same",
            before.scenario.describe(),
            after.scenario.describe()
        )));
    }
    Ok(())
}

fn table(text: &mut String, before: &Run, after: &Run) -> Vec<String> {
    let name = &after.scenario.name;
    let _ = writeln!(
        text,
        "\n### {name}\n\n{}\n\n| stage | before | after | ratio (95 %) | verdict |\n|---|---:|---:|---:|---|",
        after.scenario.describe()
    );
    if before.attention_backend != after.attention_backend {
        let _ = writeln!(
            text,
            "| attention | {} | {} |  |  |",
            before.attention_backend, after.attention_backend
        );
    }
    let mut slower = Vec::new();
    let mut row = |what: &str, before: &[f64], after: &[f64]| {
        let (ratio, interval) = stats::ratio_of_medians(after, before);
        let verdict = Verdict::of(interval);
        let ends =
            interval.map_or_else(String::new, |[low, high]| format!(" ({low:.3}–{high:.3})"));
        let _ = writeln!(
            text,
            "| {what} | {} | {} | **{ratio:.3}**{ends} | {} |",
            seconds(stats::median(before)),
            seconds(stats::median(after)),
            verdict.label()
        );
        if verdict == Verdict::Slower {
            slower.push(format!("{name}: {what}"));
        }
    };
    for stage in Stage::ALL {
        let samples = |run: &Run| -> Vec<f64> {
            run.stage(stage)
                .map(|found| found.samples_s.clone())
                .unwrap_or_default()
        };
        let (earlier, later) = (samples(before), samples(after));
        if !earlier.is_empty() && !later.is_empty() {
            row(stage.name(), &earlier, &later);
        }
    }
    if before.clip.extrapolated || after.clip.extrapolated {
        let _ = writeln!(
            text,
            "\nThe clips are extrapolated from their steps: see the stages."
        );
    } else {
        row("clip", &before.clip.rounds_s, &after.clip.rounds_s);
    }
    slower
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::schedule::tests::{report, run_with, scenario};
    use super::*;
    use crate::failure::code;

    fn with_step(step: f64) -> LatencyReport {
        report(vec![run_with(&scenario(), |fake| fake.steps = vec![step])])
    }

    #[test]
    fn stages_get_a_ratio_an_interval_and_a_verdict() {
        let (text, slower) = compare(&with_step(0.5), &with_step(0.6), false).unwrap();
        assert!(
            text.contains("| denoise-step | 500 ms | 600 ms | **1.200** (1.200–1.200) | slower |"),
            "{text}"
        );
        assert!(text.contains(
            "| decode | 1.00 s | 1.00 s | **1.000** (1.000–1.000) | indistinguishable |"
        ));
        assert!(text.contains("| load | 2.00 s | 2.00 s | **1.000** | too few samples |"));
        assert!(text.contains("| clip | 4.50 s | 5.10 s |"), "{text}");
        let name = scenario().name;
        assert_eq!(
            slower,
            [format!("{name}: denoise-step"), format!("{name}: clip")]
        );
        let (text, slower) = compare(&with_step(0.5), &with_step(0.4), false).unwrap();
        assert!(text.contains("| faster |") && slower.is_empty());
        assert!(!text.contains("Warning"));
    }

    #[test]
    fn what_is_not_one_job_is_refused_unless_forced() {
        let one = with_step(0.5);
        let mut other = with_step(0.5);
        other.runs[0].scenario.frames = 81;
        let error = compare(&one, &other, false).unwrap_err();
        assert_eq!(code(&error), 2);
        assert!(error.to_string().contains("another job") && error.to_string().contains("--force"));
        assert!(compare(&one, &other, true).is_ok());

        let mut lossy = with_step(0.5);
        lossy.runs[0].lossless = false;
        let error = compare(&one, &lossy, false).unwrap_err().to_string();
        assert!(error.contains("lossless") && error.contains("lossy"));

        let mut renamed = with_step(0.5);
        renamed.runs[0].scenario.name = "else".into();
        let error = compare(&one, &renamed, true).unwrap_err().to_string();
        assert!(error.contains("no scenario in common") && error.contains("else"));
    }

    #[test]
    fn different_machines_are_a_warning() {
        let mut other = with_step(0.5);
        other.device.name = "Other CPU".into();
        other.machine.threads = 64;
        other.machine.profile = "debug".into();
        other.device.driver = Some("1".into());
        let (text, _) = compare(&with_step(0.5), &other, false).unwrap();
        assert_eq!(text.matches("Warning").count(), 4, "{text}");
    }

    #[test]
    fn a_hair_is_no_difference() {
        assert_eq!(
            Verdict::of(Some([0.995, 0.998])),
            Verdict::Indistinguishable
        );
        assert_eq!(Verdict::of(Some([0.9, 0.98])), Verdict::Faster);
        assert_eq!(Verdict::of(Some([0.9, 1.2])), Verdict::Indistinguishable);
        assert_eq!(Verdict::of(None), Verdict::TooFew);
    }
}
