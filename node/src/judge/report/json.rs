//! The report as one JSON object. A figure without a value says why, and holds null: never "not a number".

use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::{Value, json};

use super::{Disagreement, LIMITS, Report, Share, TableCheck, VERSION, sentences};
use crate::judge::calibration::Drift;
use crate::judge::rubric::Dimension;
use crate::judge::statistics::Figure;
use crate::judge::statistics::bootstrap::{Estimate, Interval};
use crate::judge::statistics::pairs::{LocalJudge, RemoteJudge};
use crate::report::Tool;
use crate::report::json::pretty;
use crate::time::rfc3339;

impl Serialize for Estimate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Estimate", 5)?;
        fields.serialize_field("value", &self.value.ok())?;
        match self.value {
            Ok(_) => fields.skip_field("undefined")?,
            Err(reason) => fields.serialize_field("undefined", &reason)?,
        }
        let (interval, reason) = match self.interval {
            Interval::Between(low, high) => (Some((low, high)), None),
            Interval::Insufficient => (None, Some("insufficient")),
            Interval::Unstable => (None, Some("unstable")),
            Interval::NoValue => (None, None),
        };
        fields.serialize_field("interval", &interval)?;
        match reason {
            Some(reason) => fields.serialize_field("no_interval", reason)?,
            None => fields.skip_field("no_interval")?,
        }
        fields.serialize_field("n", &self.n)?;
        fields.serialize_field("tasks", &self.tasks)?;
        fields.end()
    }
}

pub(super) fn render(report: &Report) -> leoma_models::Result<String> {
    pretty(&value(report))
}

fn value(report: &Report) -> Value {
    let decision = &report.decision;
    let chances = &report.chances;
    json!({
        "version": VERSION,
        "tool": Tool::THIS,
        "local_judge": report.local,
        "remote_judge": report.remote,
        "sufficient": report.is_sufficient(),
        "log": {
            "lines": report.log.lines,
            "without_verdicts": report.log.without_verdicts,
            "unusable": report.log.unusable,
            "problems": report.log.problems,
            "clips": report.clips,
            "judged": report.judged,
            "tasks": report.tasks,
            "duplicates": report.duplicates,
            "repeats": report.ceiling.kappa.n,
            "orphans": report.orphans,
            "others": report.others.iter().map(other).collect::<Vec<_>>(),
            "from": report.span.map(|(from, _)| rfc3339(from)),
            "to": report.span.map(|(_, to)| rfc3339(to)),
        },
        "decision": {
            "confusion": decision.confusion,
            "agreement": decision.agreement,
            "kappa": decision.kappa,
            "false_pass": share(&decision.false_pass),
            "false_fail": share(&decision.false_fail),
        },
        "scores": report.scores.iter().map(|scored| json!({
            "name": scored.name(),
            "quadratic_kappa": scored.quadratic_kappa,
            "spearman": scored.spearman,
            "mean_gap": figure(scored.mean_gap),
            "mean_distance": figure(scored.mean_distance),
            "ceiling": scored.ceiling,
        })).collect::<Vec<_>>(),
        "chances": {
            "source": chances.source,
            "method": chances.method,
            "refusal": chances.refusal,
            "auc": chances.auc,
            "brier": chances.brier,
            "base_brier": figure(chances.base_brier),
            "ece": chances.ece,
            "kappa": chances.kappa,
            "bins": chances.bins,
        },
        "ceiling": {
            "agreement": report.ceiling.agreement,
            "kappa": report.ceiling.kappa,
            "quadratic_kappa": report.ceiling.quadratic_kappa,
            "spearman": report.ceiling.spearman,
        },
        "drift": drift(&report.drift),
        "course": report.course,
        "calibration": report.table.as_ref().map(table),
        "disagreeing": report.disagreeing,
        "disagreements": report.disagreements.iter().map(disagreement).collect::<Vec<_>>(),
        "sentences": sentences::all(report),
        "limits": LIMITS,
    })
}

fn figure(figure: Figure) -> Option<f64> {
    figure.ok()
}

fn other((local, remote, records): &(LocalJudge, RemoteJudge, usize)) -> Value {
    json!({ "local_judge": local, "remote_judge": remote, "records": records })
}

fn share(share: &Share) -> Value {
    json!({ "part": share.part, "whole": share.whole, "rate": share.rate, "wilson": share.wilson })
}

fn drift(drift: &Drift) -> Value {
    json!({ "baseline": figure(drift.baseline), "recent": figure(drift.recent), "alarm": drift.alarm })
}

fn table(check: &TableCheck) -> Value {
    json!({
        "fitted_at": check.fitted_at,
        "valid": check.invalid.is_none(),
        "invalid": check.invalid.as_ref().map(ToString::to_string),
        "unfit_for_fallback": check.unfit,
        "drift": drift(&check.drift),
    })
}

/// A clip without its pictures.
fn disagreement(clip: &Disagreement) -> Value {
    let pair = &clip.pair;
    let by_key = |score: &dyn Fn(usize) -> Option<f64>| -> serde_json::Map<String, Value> {
        let scores = Dimension::ALL.into_iter();
        scores
            .map(|dimension| (dimension.key().to_owned(), score(dimension as usize).into()))
            .collect()
    };
    json!({
        "id": pair.id,
        "task_id": pair.task_id,
        "video": pair.video,
        "time": rfc3339(pair.time),
        "reasons": clip.reasons,
        "local": {
            "overall": clip.local_overall,
            "pass": clip.local_pass,
            "scores": by_key(&|place| pair.local.get(place).copied().flatten()),
        },
        "remote": {
            "overall": pair.remote_overall,
            "pass": pair.remote_pass,
            "scores": by_key(&|place| pair.remote.get(place).copied()),
        },
        "prompt": pair.prompt,
        "remarks": pair.remarks,
    })
}
