//! The report for people at a terminal.

use std::fmt::Write as _;

use super::sentences::{self, estimate, plain as figure, share};
use super::{Disagreement, LIMITS, Report};
use crate::report::words::plain;

/// Clips that are listed; the other forms have more.
const LISTED: usize = 10;
/// Width of the names of rows.
const WIDTH: usize = 22;

/// Writing into a text cannot fail.
macro_rules! line {
    ($text:expr, $($words:tt)*) => { { let _ = writeln!($text, $($words)*); } };
}

pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    line!(text, "{}", plain(&report.title()));
    line!(text, "{}\n", sentences::conclusion(report));
    for sentence in sentences::all(report) {
        line!(text, "- {}", plain(&sentence));
    }
    if report.judged > 0 {
        decisions(&mut text, report);
        scores(&mut text, report);
        clips(&mut text, report);
    }
    for problem in &report.log.problems {
        let place = problem.place();
        line!(text, "note: {}: {}", plain(&place), plain(&problem.reason));
    }
    line!(text, "\nWhat this does not prove:");
    for limit in LIMITS {
        line!(text, "- {limit}");
    }
    text
}

fn row(text: &mut String, name: &str, value: &str) {
    line!(text, "  {name:<WIDTH$} {value}");
}

fn decisions(text: &mut String, report: &Report) {
    let decision = &report.decision;
    let counts = &decision.confusion;
    line!(
        text,
        "\nPass and fail                  remote passes  remote fails"
    );
    line!(
        text,
        "  {:<WIDTH$}       {:>13}  {:>12}",
        "local passes",
        counts.both_pass,
        counts.false_pass
    );
    line!(
        text,
        "  {:<WIDTH$}       {:>13}  {:>12}",
        "local fails",
        counts.false_fail,
        counts.both_fail
    );
    row(text, "same decision", &estimate(&decision.agreement));
    row(text, "kappa", &estimate(&decision.kappa));
    row(
        text,
        "kappa of the remote",
        &estimate(&report.ceiling.kappa),
    );
    row(text, "false pass", &share(&decision.false_pass));
    row(text, "false fail", &share(&decision.false_fail));
    line!(text, "\nChances of a remote pass");
    row(text, "area under the curve", &estimate(&report.chances.auc));
    row(text, "Brier score", &estimate(&report.chances.brier));
    row(text, "calibration error", &estimate(&report.chances.ece));
    row(text, "kappa, calibrated", &estimate(&report.chances.kappa));
}

fn scores(text: &mut String, report: &Report) {
    line!(
        text,
        "\nScores                   {:<25} {:<25} {:>10} {:>10}",
        "quadratic kappa",
        "Spearman",
        "mean gap",
        "distance"
    );
    for scored in &report.scores {
        let points = |value| figure(value);
        line!(
            text,
            "  {:<WIDTH$} {:<25} {:<25} {:>10} {:>10}",
            scored.name(),
            estimate(&scored.quadratic_kappa),
            estimate(&scored.spearman),
            points(scored.mean_gap),
            points(scored.mean_distance)
        );
    }
}

fn clips(text: &mut String, report: &Report) {
    if report.disagreements.is_empty() {
        line!(text, "\nNo clip lies far apart.");
        return;
    }
    line!(text, "\nClips on which they differ: {}", report.disagreeing);
    for clip in report.disagreements.iter().take(LISTED) {
        line!(text, "  {}", one(clip));
    }
    if report.disagreeing > LISTED {
        line!(
            text,
            "  {} more; --format html shows the worst with their frames",
            report.disagreeing - LISTED
        );
    }
}

fn one(clip: &Disagreement) -> String {
    let reasons: Vec<&str> = clip.reasons.iter().map(|reason| reason.words()).collect();
    let decided = |passes| if passes { "pass" } else { "fail" };
    format!(
        "task {} video {:.16}: local {:.0} {}, remote {:.0} {} ({})",
        plain(&clip.pair.task_id),
        plain(&clip.pair.video),
        clip.local_overall,
        decided(clip.local_pass),
        clip.pair.remote_overall,
        decided(clip.pair.remote_pass),
        reasons.join(", ")
    )
}
