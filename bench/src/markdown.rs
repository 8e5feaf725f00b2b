//! Results as Markdown, printed or written into a page between two comments.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::http::{self, HttpReport};
use crate::measure::Subject;
use crate::report::{Measurement, Memory, Offload, Report, holds};
use crate::stats::Ratio;

/// Where a page's tables begin and end.
const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// Tables of several results. A measurement that is in more than one comes from the last.
pub(crate) fn render(reports: &[Report]) -> String {
    let mut kept: Vec<(&Report, &Measurement)> = Vec::new();
    let mut offload: Option<(&Report, &Offload)> = None;
    let mut comparison: Option<(&Report, &HttpReport)> = None;
    let mut overload: Option<(&Report, &HttpReport)> = None;
    for report in reports {
        for measurement in &report.measurements {
            match kept
                .iter_mut()
                .find(|(_, earlier)| earlier.name == measurement.name)
            {
                Some(slot) => *slot = (report, measurement),
                None => kept.push((report, measurement)),
            }
        }
        if let Some(found) = &report.offload {
            offload = Some((report, found));
        }
        if let Some(found) = &report.http {
            if found.overloads.is_empty() {
                comparison = Some((report, found));
            } else {
                overload = Some((report, found));
            }
        }
    }
    let mut text = String::new();
    time_table(&mut text, &kept);
    memory_table(&mut text, &kept, offload);
    warnings(&mut text, &kept);
    let mut used: Vec<&Report> = kept.iter().map(|(report, _)| *report).collect();
    used.extend(offload.map(|(report, _)| report));
    let serving = [
        ("Serving", comparison),
        ("Serving under overload", overload),
    ];
    for (title, (report, found)) in serving
        .into_iter()
        .filter_map(|(title, found)| Some((title, found?)))
    {
        let _ = writeln!(text, "\n### {title}\n");
        http::render(&mut text, found);
        used.push(report);
    }
    environments(&mut text, reports, &used);
    text
}

/// Replaces what is between the markers of the page.
///
/// # Errors
/// When the page cannot be read or written, or has no markers in order.
pub(crate) fn write_into(page: &Path, tables: &str) -> Result<()> {
    let old =
        fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let new = replace_between(&old, tables)
        .with_context(|| format!("{} cannot take the tables", page.display()))?;
    fs::write(page, new).with_context(|| format!("cannot write {}", page.display()))
}

pub(crate) fn replace_between(page: &str, tables: &str) -> Result<String> {
    let Some((before, rest)) = page.split_once(BEGIN) else {
        bail!("it has no line `{BEGIN}`");
    };
    let Some((_, after)) = rest.split_once(END) else {
        bail!("it has no line `{END}` after `{BEGIN}`");
    };
    Ok(format!(
        "{before}{BEGIN}\n{}\n{END}{after}",
        tables.trim_end()
    ))
}

fn time_table(text: &mut String, kept: &[(&Report, &Measurement)]) {
    if kept.is_empty() {
        return;
    }
    text.push_str(
        "| measurement | wall, leoma | wall, PyTorch | ratio (95 %) | CPU time ratio | relative L2 | line | verdict |\n\
         |---|---:|---:|---:|---:|---:|---:|---|\n",
    );
    for (_, measurement) in kept {
        for (&subject, wall) in &measurement.wall {
            let name = match subject {
                Subject::LeomaCachedKv => format!("`{}`, K/V cached", measurement.name),
                _ => format!("`{}`", measurement.name),
            };
            let cpu = measurement
                .cpu
                .get(&subject)
                .map_or(f64::NAN, |cpu| cpu.ratio);
            let distance = measurement
                .relative_l2
                .get(&subject)
                .copied()
                .unwrap_or(f64::NAN);
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {cpu:.2} | {distance:.1e} | ≤ {} | {} |",
                seconds(wall.median_s),
                seconds(wall.reference_median_s),
                interval(wall),
                measurement.limit,
                measurement.verdict(subject).label(),
            );
        }
    }
    text.push('\n');
    for (_, measurement) in kept {
        let _ = writeln!(
            text,
            "- `{}`: {}; {} rounds.",
            measurement.name, measurement.what, measurement.plan.pairs
        );
    }
}

fn memory_table(
    text: &mut String,
    kept: &[(&Report, &Measurement)],
    offload: Option<(&Report, &Offload)>,
) {
    let memories: Vec<(&str, &Memory)> = kept
        .iter()
        .filter_map(|(_, measurement)| {
            Some((measurement.name.as_str(), measurement.memory.as_ref()?))
        })
        .collect();
    if !memories.is_empty() {
        text.push_str(
            "\n| peak memory above the loaded weights | leoma | PyTorch | ratio | line | verdict |\n\
             |---|---:|---:|---:|---:|---|\n",
        );
    }
    for (name, memory) in memories {
        let _ = writeln!(
            text,
            "| `{name}` | {} | {} | {:.2} | ≤ {} | {} |",
            mebibytes(memory.leoma.above_loaded_bytes()),
            mebibytes(memory.pytorch.above_loaded_bytes()),
            memory.ratio(),
            memory.limit,
            verdict(memory.ratio(), memory.limit),
        );
        if !(memory.leoma.peak_was_reset && memory.pytorch.peak_was_reset) {
            text.push_str(
                "\nThe system did not let the peak be reset, so it includes the loading of weights.\n",
            );
        }
    }
    if let Some((_, offload)) = offload {
        text.push_str(
            "\n| one expert at a time | peak of the process | one expert | ratio | line | verdict |\n\
             |---|---:|---:|---:|---:|---|\n",
        );
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.2} | ≤ {} | {} |",
            offload.what,
            mebibytes(offload.peak_bytes),
            mebibytes(offload.expert_bytes),
            offload.ratio(),
            offload.limit,
            verdict(offload.ratio(), offload.limit),
        );
    }
}

fn warnings(text: &mut String, kept: &[(&Report, &Measurement)]) {
    let all: Vec<String> = kept
        .iter()
        .flat_map(|(_, measurement)| {
            measurement
                .warnings
                .iter()
                .map(|warning| format!("- `{}`: {warning}", measurement.name))
        })
        .collect();
    if !all.is_empty() {
        let _ = writeln!(text, "\nDoubts:\n\n{}", all.join("\n"));
    }
}

fn environments(text: &mut String, reports: &[Report], used: &[&Report]) {
    text.push_str("\nConditions:\n\n");
    for report in reports
        .iter()
        .filter(|report| used.iter().any(|other| std::ptr::eq(*other, *report)))
    {
        let env = &report.environment.machine;
        let versions: Vec<String> = report
            .environment
            .peer_versions
            .iter()
            .map(|(name, version)| format!(", {name} {version}"))
            .collect();
        let threads = match report.http {
            Some(_) => "one worker process each".to_owned(),
            None => format!("{} threads on both sides", env.threads),
        };
        let _ = writeln!(
            text,
            "- {}: {}, {} cores, {threads}, {}, {} build at {}{}; load average at the start {:.1}.",
            report.date,
            env.cpu_model,
            env.cores,
            env.rustc,
            env.profile,
            env.git,
            versions.concat(),
            env.load_average,
        );
    }
}

pub(crate) fn verdict(ratio: f64, limit: f64) -> &'static str {
    if holds(ratio, limit) {
        "holds"
    } else {
        "misses"
    }
}

pub(crate) fn interval(ratio: &Ratio) -> String {
    format!(
        "**{:.2}** ({:.2}–{:.2})",
        ratio.ratio, ratio.ratio_low, ratio.ratio_high
    )
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}

pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::peer::MemoryProbe;
    use crate::report::tests::{measurement, report};

    #[test]
    fn a_row_per_measurement_with_verdict() {
        let text = render(&[report(vec![measurement(&[1.2; 4], &[1.0; 4], 3e-6)])]);
        let row = text.lines().nth(2).unwrap();
        assert_eq!(
            row,
            "| `dit-block/5b` | 1.20 s | 1.00 s | **1.20** (1.20–1.20) | 1.20 | 3.0e-6 | ≤ 1.25 | holds |"
        );
        assert!(text.contains("- `dit-block/5b`: a block; 10 rounds."));
        assert!(text.contains("2 threads on both sides"));
        assert!(!text.contains("peak memory") && !text.contains("Doubts"));
    }

    #[test]
    fn wrong_results_and_doubts_are_not_hidden() {
        let text = render(&[report(vec![measurement(&[1e-3; 4], &[1.0; 4], 1e-2)])]);
        assert!(text.contains("WRONG RESULT"));
        assert!(text.contains("Doubts") && text.contains("too short"));
    }

    #[test]
    fn the_last_report_of_a_measurement_counts() {
        let first = report(vec![measurement(&[9.0; 4], &[1.0; 4], 0.0)]);
        let mut second = report(vec![measurement(&[0.5; 4], &[1.0; 4], 0.0)]);
        second.date = "2026-02-01".into();
        let text = render(&[first, second]);
        assert!(text.contains("500 ms") && !text.contains("9.00 s"));
        assert!(text.contains("2026-02-01") && !text.contains("2026-01-31"));
    }

    #[test]
    fn memory_tables() {
        let mut found = measurement(&[1.0; 4], &[1.0; 4], 0.0);
        let probe = |mib: u64| MemoryProbe {
            before_bytes: 1 << 30,
            peak_bytes: (1 << 30) + (mib << 20),
            peak_was_reset: true,
        };
        found.memory = Some(Memory {
            weights_bytes: 1,
            leoma: probe(60),
            pytorch: probe(100),
            limit: 0.5,
        });
        let mut all = report(vec![found]);
        all.offload = Some(Offload {
            what: "two experts".into(),
            expert_bytes: 100 << 20,
            peak_bytes: 110 << 20,
            limit: 1.25,
        });
        let text = render(&[all]);
        assert!(text.contains("| `dit-block/5b` | 60 MiB | 100 MiB | 0.60 | ≤ 0.5 | misses |"));
        assert!(text.contains("| two experts | 110 MiB | 100 MiB | 1.10 | ≤ 1.25 | holds |"));
    }

    #[test]
    fn only_the_part_between_the_markers_changes() {
        let page = format!("# Speed\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replace_between(&page, "| new |\n").unwrap();
        assert_eq!(new, format!("# Speed\n{BEGIN}\n| new |\n{END}\nafter\n"));
        assert_eq!(replace_between(&new, "| new |\n").unwrap(), new);
        assert!(replace_between("# Speed\n", "x").is_err());
        assert!(replace_between(&format!("{END}\n{BEGIN}\n"), "x").is_err());
    }
}
