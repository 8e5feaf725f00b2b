//! The figures in plain sentences: what they say, and where they say nothing.

use super::{ChanceSource, Report, Share};
use crate::judge::calibration::{Drift, FALL, WINDOW};
use crate::judge::statistics::Figure;
use crate::judge::statistics::bootstrap::{ENOUGH_TASKS, Estimate, Interval};
use crate::report::words::count;

/// A figure with its interval.
pub(super) fn estimate(estimate: &Estimate) -> String {
    let value = match estimate.value {
        Ok(value) => value,
        Err(reason) => return format!("undefined ({reason})"),
    };
    match estimate.interval {
        Interval::Between(low, high) => format!("{value:.3} ({low:.3} to {high:.3})"),
        Interval::Insufficient => format!("insufficient ({})", count(estimate.tasks, "task")),
        Interval::Unstable | Interval::NoValue => format!("{value:.3} (no interval)"),
    }
}

/// A figure without an interval.
pub(super) fn plain(figure: Figure) -> String {
    figure.map_or_else(
        |reason| format!("undefined ({reason})"),
        |value| format!("{value:.3}"),
    )
}

/// A share with its count.
pub(super) fn share(share: &Share) -> String {
    let counted = format!("{} of {}", share.part, share.whole);
    match (share.rate.value, share.rate.interval) {
        (Err(_), _) => counted,
        (Ok(_), Interval::Insufficient) => format!("{counted}, insufficient"),
        (Ok(rate), Interval::Between(low, high)) => {
            format!(
                "{counted}, {} ({} to {})",
                percent(rate),
                percent(low),
                percent(high)
            )
        }
        (Ok(rate), _) => format!("{counted}, {}", percent(rate)),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// The conclusion in a sentence.
pub(super) fn conclusion(report: &Report) -> String {
    if report.judged == 0 {
        return "no clip of this log has a verdict of both judges".into();
    }
    if !report.is_sufficient() {
        return format!(
            "insufficient: the clips with both verdicts come from {}, and {ENOUGH_TASKS} are needed before agreement \
             means anything",
            count(report.tasks, "task")
        );
    }
    let kappa = estimate(&report.decision.kappa);
    let fallen = report.drift.alarm || report.table.as_ref().is_some_and(|table| table.drift.alarm);
    let alarm = if fallen {
        "; it has fallen for the newest clips"
    } else {
        ""
    };
    format!("kappa of pass and fail is {kappa}{alarm}")
}

/// All of them, in their order.
pub(super) fn all(report: &Report) -> Vec<String> {
    let mut all = vec![format!(
        "{} from {} have a verdict of both judges.",
        count(report.judged, "clip"),
        count(report.tasks, "task")
    )];
    if report.judged == 0 {
        return all;
    }
    if !report.is_sufficient() {
        all.push(format!(
            "That is insufficient: under {ENOUGH_TASKS} tasks no figure of agreement is given, because chance alone \
             can make any of them."
        ));
    }
    let decision = &report.decision;
    if let (Ok(share), true) = (decision.agreement.value, report.is_sufficient()) {
        let scale = match decision.kappa.value {
            Ok(_) => ": 0 is chance, 1 is perfect",
            Err(_) => "",
        };
        all.push(format!(
            "They decide alike in {} of them. Cohen's kappa, which takes out what chance gives, is {}{scale}.",
            percent(share),
            estimate(&decision.kappa)
        ));
    }
    if decision.false_pass.whole > 0 {
        all.push(format!(
            "Of the clips that the remote judge fails, the local one lets pass: {}.",
            self::share(&decision.false_pass)
        ));
    }
    if decision.false_fail.whole > 0 {
        all.push(format!(
            "Of the clips that the remote judge lets pass, the local one fails: {}.",
            self::share(&decision.false_fail)
        ));
    }
    all.push(ceiling(report));
    all.extend(chances(report));
    all.extend(drift(&report.drift, "the clips before them"));
    all.extend(table(report));
    all.extend(others(report));
    all
}

fn ceiling(report: &Report) -> String {
    let ceiling = &report.ceiling.kappa;
    if ceiling.n == 0 {
        return "The remote judge was never asked twice about a clip, so nobody knows how far it agrees with itself, and \
             kappa has no ceiling to be held against."
            .into();
    }
    let asked = count(ceiling.n, "clip");
    if !ceiling.is_sufficient() || ceiling.value.is_err() {
        return format!(
            "The remote judge was asked twice about {asked}: too little to know how far it agrees with itself \
             ({}).",
            estimate(ceiling)
        );
    }
    let at_ceiling = match (report.decision.kappa.value, ceiling.between()) {
        (Ok(local), Some((low, _))) if local >= low => {
            " The local judge's kappa is not below that interval: these repeats do not show that it agrees less than \
             the remote judge asked again."
        }
        (Ok(_), Some(_)) => " The local judge's kappa lies below that interval.",
        _ => "",
    };
    format!(
        "Asked twice about {asked}, the remote judge agrees with itself with a kappa of {}; agreement above that is \
         noise.{at_ceiling}",
        estimate(ceiling)
    )
}

fn chances(report: &Report) -> Option<String> {
    let chances = &report.chances;
    let source = match chances.source {
        ChanceSource::None => {
            let why = chances.refusal.as_deref()?;
            return Some(format!("There are no chances of a pass to look at: {why}"));
        }
        ChanceSource::Logged => "The chances of a pass in the log",
        ChanceSource::OutOfFold => "Chances of a pass, calibrated on other tasks of this log,",
    };
    if !chances.brier.is_sufficient() {
        return None;
    }
    Some(format!(
        "{source} are off by {} on average (expected calibration error); their Brier score is {}, where always saying \
         the share that passes would give {}.",
        estimate(&chances.ece),
        estimate(&chances.brier),
        plain(chances.base_brier)
    ))
}

fn drift(drift: &Drift, before: &str) -> Option<String> {
    let (Ok(was), Ok(is)) = (drift.baseline, drift.recent) else {
        return None;
    };
    Some(if drift.alarm {
        format!(
            "Alarm: kappa of the last {WINDOW} clips is {is:.3}, after {was:.3} for {before}. A fall of {FALL} or \
             more calls for a look at both judges and a new calibration."
        )
    } else {
        format!(
            "Kappa of the last {WINDOW} clips is {is:.3}, after {was:.3} for {before}: no fall of {FALL} or more."
        )
    })
}

fn table(report: &Report) -> Vec<String> {
    let Some(table) = &report.table else {
        return Vec::new();
    };
    let mut all = Vec::new();
    match &table.invalid {
        Some(invalid) => all.push(format!("The calibration that was given is invalid here: {invalid}.")),
        None if table.unfit.is_empty() => all.push(
            "The calibration that was given fits these judges, and its own figures allow the local judge to stand in \
             for the remote one. They do not say which damage it misses; `judge bench` shows that of the signals, and \
             nothing holds it against this table."
                .into(),
        ),
        None => all.push(format!(
            "The calibration that was given fits these judges, but the local judge must not stand in for the remote \
             one with it: {}.",
            table.unfit.join("; ")
        )),
    }
    all.extend(drift(&table.drift, "the tasks held out when it was made"));
    all
}

fn others(report: &Report) -> Vec<String> {
    let mut all = Vec::new();
    let log = &report.log;
    if log.unusable > 0 {
        all.push(format!(
            "{} of the log could not be read and are not in any figure.",
            count(log.unusable, "line")
        ));
    }
    if report.duplicates > 0 {
        all.push(format!(
            "{} of clips that were there already were left out.",
            count(report.duplicates, "record")
        ));
    }
    if report.orphans > 0 {
        all.push(format!(
            "{} of clips whose first verdict is not in the log were left out.",
            count(report.orphans, "repeat")
        ));
    }
    let records: usize = report.others.iter().map(|(.., records)| records).sum();
    if records > 0 {
        all.push(format!(
            "{} of {} of judges are not in this report: judges are compared one by one.",
            count(records, "record"),
            count(report.others.len(), "other combination")
        ));
    }
    all
}
