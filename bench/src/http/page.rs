//! The HTTP tables of the page.

use std::fmt::Write as _;

use super::load::Mode;
use super::result::{DRIFT, HALF, HttpReport, Overload, Phase, REFUSAL_S, Round};
use crate::markdown::{interval, mebibytes, verdict};
use crate::stats;

/// Writes all tables of a run.
pub(crate) fn render(text: &mut String, report: &HttpReport) {
    let _ = writeln!(text, "{}", report.what);
    for phase in &report.phases {
        phase_table(text, phase, report);
    }
    if !report.overloads.is_empty() {
        overload_table(text, &report.overloads);
    }
    let doubts: Vec<String> = report
        .warnings
        .iter()
        .cloned()
        .chain(report.doubts())
        .map(|doubt| format!("- {doubt}"))
        .collect();
    if !doubts.is_empty() {
        let _ = writeln!(text, "\nDoubts:\n\n{}", doubts.join("\n"));
    }
}

fn phase_table(text: &mut String, phase: &Phase, report: &HttpReport) {
    let job_s = report.job_s;
    let names: Vec<&str> = phase.sides.iter().map(|side| side.name.as_str()).collect();
    let _ = writeln!(
        text,
        "\n| {} | {} | ratio (95 %) | line | verdict |\n|---|{}---:|---:|---|",
        phase.label(),
        names.join(" | "),
        "---:|".repeat(names.len())
    );
    let mut row = |name: &str,
                   held: bool,
                   unit: &dyn Fn(f64) -> String,
                   figure: &dyn Fn(&Round) -> f64| {
        let values = phase
            .sides
            .iter()
            .map(|side| unit(stats::median(&side.each(figure))));
        let values: Vec<String> = values.collect();
        let ratio = phase.compare(figure);
        let (line, word) = match &ratio {
            Some(ratio) if held && report.pair => (format!("≤ {HALF}"), verdict(ratio.ratio, HALF)),
            _ => (String::new(), ""),
        };
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {line} | {word} |",
            values.join(" | "),
            ratio.as_ref().map_or_else(String::new, interval)
        );
    };
    row(
        "CPU time per request",
        true,
        &milliseconds,
        &Round::cpu_per_request,
    );
    row("p50 overhead", false, &milliseconds, &|round| {
        round.overhead(0.5, job_s)
    });
    row("p99 overhead", true, &milliseconds, &|round| {
        round.overhead(0.99, job_s)
    });
    row("p99.9 overhead", false, &milliseconds, &|round| {
        round.overhead(0.999, job_s)
    });
    if matches!(phase.mode, Mode::Closed { .. }) {
        row(
            "requests per second",
            false,
            &|value| format!("{value:.0}"),
            &Round::throughput,
        );
    }
    row(
        "load generator, share of a core",
        false,
        &|value| format!("{value:.2}"),
        &Round::client_load,
    );
    let memory = phase.sides.iter().map(|side| match side.memory.course() {
        Some([start, _, end]) => format!("{} → {}", mebibytes(start as u64), mebibytes(end as u64)),
        None => "unknown".to_owned(),
    });
    let _ = writeln!(
        text,
        "| resident memory, start → end | {} | | | |",
        memory.collect::<Vec<_>>().join(" | ")
    );
    let rounds = phase.sides.first().map_or(0, |side| side.rounds.len());
    let each = match phase.mode {
        Mode::Closed { requests, .. } => format!("{requests} requests"),
        Mode::Open { seconds, .. } => format!("{seconds} s"),
    };
    let _ = writeln!(
        text,
        "\nMedians of {rounds} rounds of {each} per server, in turns."
    );
}

fn overload_table(text: &mut String, overloads: &[Overload]) {
    text.push_str("\n| overload | found | line | verdict |\n|---|---:|---:|---|\n");
    for overload in overloads {
        let Overload {
            name,
            capacity,
            times,
            ..
        } = overload;
        let mut row = |what: &str, found: String, line: &str, word: &str| {
            let _ = writeln!(text, "| {name}: {what} | {found} | {line} | {word} |");
        };
        row("capacity", format!("{capacity:.1} clips/s"), "", "");
        row("load", format!("{times:.0} times that"), "", "");
        row(
            "clips served, of its capacity",
            format!("{:.0} %", 100.0 * overload.served()),
            "",
            "",
        );
        row(
            "refusals (429)",
            overload.round.outcome.refused_us.0.len().to_string(),
            "",
            "",
        );
        row("refusal, p50", milliseconds(overload.refusal(0.5)), "", "");
        let p99 = overload.refusal(0.99);
        let line = format!("≤ {}", milliseconds(REFUSAL_S));
        row(
            "refusal, p99",
            milliseconds(p99),
            &line,
            verdict(p99, REFUSAL_S),
        );
        row(
            "failed requests",
            overload.round.outcome.failed.to_string(),
            "",
            "",
        );
        if let (Some(course), Some(drift)) = (overload.memory.course(), overload.memory.drift()) {
            let course = course.map(|bytes| mebibytes(bytes as u64)).join(" → ");
            let found = format!("{course} ({:.1} %)", 100.0 * drift);
            let line = format!("≤ {:.0} %", 100.0 * DRIFT);
            let what = "resident memory, start → middle → end";
            row(what, found, &line, verdict(drift, DRIFT));
        }
    }
}

fn milliseconds(seconds: f64) -> String {
    let value = seconds * 1e3;
    match value {
        value if value.is_nan() => "unknown".to_owned(),
        value if value < 10.0 => format!("{value:.2} ms"),
        value => format!("{value:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::result::tests::{overload, phase, report, round};
    use super::*;

    #[test]
    fn a_row_per_figure_with_its_line() {
        let phase = phase(round(0.8, &[400; 4]), round(4.0, &[2000; 4]));
        let mut text = String::new();
        render(
            &mut text,
            &report(vec![phase], vec![overload(900, vec![2048; 40])]),
        );
        for row in [
            "| closed loop of 4 | leoma-node | FastAPI | ratio (95 %) | line | verdict |",
            "| CPU time per request | 200 ms | 1000 ms | **0.20** (0.20–0.20) | ≤ 0.5 | holds |",
            "| p99 overhead | 0.40 ms | 2.00 ms | **0.20** (0.20–0.20) | ≤ 0.5 | holds |",
            "| requests per second | 4 | 4 | **1.00** (1.00–1.00) |  |  |",
            "| resident memory, start → end | 2 MiB → 2 MiB | 2 MiB → 2 MiB | | | |",
            "| leoma-node: clips served, of its capacity | 95 % |  |  |",
            "| leoma-node: refusal, p99 | 0.90 ms | ≤ 20 ms | holds |",
            "| leoma-node: resident memory, start → middle → end | 2 MiB → 2 MiB → 2 MiB (0.0 %) | ≤ 5 % | holds |",
        ] {
            assert!(text.contains(row), "{row}\n{text}");
        }
        assert!(!text.contains("Doubts"), "{text}");
    }
}
