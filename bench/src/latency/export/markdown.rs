//! Tables for people; lossless and lossy runs never in one table.

use std::fmt::Write as _;

use super::{bytes, fraction, rate, seconds};
use crate::latency::result::{CeilingKind, LatencyReport, Run, StageResult};

/// The result as Markdown.
pub(crate) fn render(report: &LatencyReport) -> String {
    let mut text = String::new();
    let (device, machine) = (&report.device, &report.machine);
    let _ = writeln!(text, "# {}, {}\n", device.name, report.date);
    let _ = writeln!(
        text,
        "{} build at {}, {}, {} threads on {}.",
        machine.profile, machine.git, machine.rustc, machine.threads, machine.cpu_model
    );
    let mut facts: Vec<String> = Vec::new();
    let mut fact = |name: &str, value: Option<String>| {
        facts.extend(value.map(|value| format!("{name} {value}")));
    };
    fact("driver", device.driver.clone());
    fact("CUDA", device.cuda.clone());
    fact(
        "memory",
        device.memory_bytes.map(|memory| bytes(memory as f64)),
    );
    fact(
        "power limit",
        device.power_limit_w.map(|power| format!("{power:.0} W")),
    );
    fact(
        "ECC",
        device
            .ecc
            .map(|on| if on { "on" } else { "off" }.to_owned()),
    );
    fact(
        "MIG",
        device
            .mig
            .map(|on| if on { "on" } else { "off" }.to_owned()),
    );
    let _ = writeln!(text, "{}.", facts.join(", "));
    if let Some(reason) = &device.absent {
        let _ = writeln!(text, "No power, clocks or temperature: {reason}.");
    }
    for (title, lossless) in [("Lossless", true), ("Lossy", false)] {
        let runs: Vec<&Run> = report
            .runs
            .iter()
            .filter(|run| run.lossless == lossless)
            .collect();
        if runs.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n## {title}\n");
        clips(&mut text, report, &runs);
        for run in runs {
            stages(&mut text, run);
        }
    }
    text
}

fn clips(text: &mut String, report: &LatencyReport, runs: &[&Run]) {
    let currency = report
        .price
        .as_ref()
        .map_or("", |price| price.currency.as_str());
    text.push_str("| scenario | clip | 95 % | clips per hour |");
    if report.price.is_some() {
        let _ = write!(text, " {currency} per clip |");
    }
    text.push_str(" energy | attention |\n|---|---:|---:|---:|");
    if report.price.is_some() {
        text.push_str("---:|");
    }
    text.push_str("---:|---|\n");
    for run in runs {
        let clip = &run.clip;
        let mark = if clip.extrapolated {
            " (extrapolated)"
        } else {
            ""
        };
        let _ = write!(
            text,
            "| `{}` | {}{mark} | {} | {:.1} |",
            run.scenario.name,
            seconds(clip.seconds),
            interval(clip.interval_s),
            clip.per_hour
        );
        if report.price.is_some() {
            let cost = clip
                .cost
                .map_or_else(|| "—".to_owned(), |cost| format!("{cost:.4}"));
            let _ = write!(text, " {cost} |");
        }
        let energy = clip.energy_j.map_or_else(
            || "—".to_owned(),
            |joule| format!("{:.1} Wh", joule / 3600.0),
        );
        let _ = writeln!(text, " {energy} | {} |", run.attention_backend);
    }
}

fn stages(text: &mut String, run: &Run) {
    let _ = writeln!(
        text,
        "\n### {}\n\n{}; {} tokens, weights: {}; {} rounds after {} warm-up.\n",
        run.scenario.name,
        run.scenario.describe(),
        run.tokens,
        run.weights,
        run.scenario.rounds,
        run.scenario.warmups
    );
    text.push_str(
        "| stage | n | median | 95 % | MAD | min | p95 | rate | of ceiling | host peak | device peak |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for stage in &run.stages {
        if let Some(row) = row(stage) {
            text.push_str(&row);
        }
    }
    text.push('\n');
    for stage in &run.stages {
        if let Some(reason) = &stage.absent {
            let _ = writeln!(text, "- {}: not measured: {reason}.", stage.stage.name());
        }
    }
    text.push_str("\n| ceiling | rate |\n|---|---:|\n");
    for ceiling in &run.ceilings {
        let unit = if ceiling.kind == CeilingKind::Copy {
            "B/s"
        } else {
            "FLOP/s"
        };
        let _ = writeln!(text, "| {} | {} |", ceiling.what, rate(ceiling.rate, unit));
    }
    if !run.doubts.is_empty() {
        text.push_str("\nDoubts:\n\n");
        for doubt in &run.doubts {
            let _ = writeln!(text, "- {}: {}; {}.", doubt.about, doubt.what, doubt.remedy);
        }
    }
}

fn row(stage: &StageResult) -> Option<String> {
    let summary = stage.summary.as_ref()?;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "—".to_owned());
    let memory = |peak: Option<u64>| or_dash(peak.map(|peak| bytes(peak as f64)));
    Some(format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        stage.stage.name(),
        summary.n,
        seconds(summary.median),
        interval(summary.interval),
        seconds(summary.mad),
        seconds(summary.min),
        seconds(summary.p95),
        or_dash(stage.flops_per_s.map(|flops| rate(flops, "FLOP/s"))),
        or_dash(stage.fraction.map(fraction)),
        memory(stage.host_peak_bytes),
        memory(stage.device_peak_bytes),
    ))
}

fn interval(ends: Option<[f64; 2]>) -> String {
    ends.map_or_else(
        || "—".to_owned(),
        |[low, high]| format!("{} – {}", seconds(low), seconds(high)),
    )
}
