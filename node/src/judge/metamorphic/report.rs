//! The tables of the metamorphic suite as Markdown.

use std::fmt::Write as _;

use super::clips::{Kind, Shape};
use super::damage::Damage;
use super::table::{CLAIMS, INVERSIONS, Row, Sample, Split, caught, false_flags, rows};
use crate::judge::signals::gates::GateId;
use crate::judge::signals::thresholds::Thresholds;
use crate::judge::signals::{SignalId, description_table};

/// What was run, for the head of the tables.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// Size and length of the clips.
    pub shape: Shape,
    /// Clips per kind.
    pub clips: usize,
    /// Which seeds.
    pub split: Split,
}

/// Every signal with formula, purpose and failure.
pub fn signal_table() -> String {
    let ids = SignalId::ALL.into_iter();
    description_table(ids.map(|id| (id.key(), id.describe())))
}

/// The damages and their strengths.
pub fn damage_table() -> String {
    let mut text = String::from("| damage | strength |\n|---|---|\n");
    for damage in Damage::ALL {
        let _ = writeln!(text, "| {} | {} |", damage.key(), damage.strength());
    }
    text
}

/// AUC, inversions, catches and false flags.
pub fn results(setting: &Setting, samples: &[Sample], limits: &Thresholds) -> String {
    let Shape {
        width,
        height,
        frames,
        fps,
    } = setting.shape;
    let mut text = format!(
        "{} clips of each of {} kinds, {width}x{height}, {frames} frames at {fps} fps, seeds of the {} set, \
         thresholds version {}.\n\n",
        setting.clips,
        Kind::ALL.len(),
        setting.split.key(),
        limits.version
    );
    text.push_str("What the signals are for:\n\n");
    text.push_str(&auc_table(&rows(&CLAIMS, samples)));
    text.push_str("\nInversions, where the damaged clip looks better:\n\n");
    text.push_str(&auc_table(&rows(&INVERSIONS, samples)));
    text.push_str("\nDamaged clips on which the gate closes (natural strobe left out):\n\n");
    text.push_str("| damage | gate | caught |\n|---|---|---|\n");
    for (damage, gate, closed, all) in caught(samples, limits) {
        let _ = writeln!(
            text,
            "| {} | `{}` | {closed} of {all} |",
            damage.key(),
            gate.key()
        );
    }
    text.push_str("\nUndamaged clips on which gates close:\n\n");
    text.push_str("| kind | any gate | which |\n|---|---|---|\n");
    for flags in false_flags(samples, limits) {
        let which: Vec<String> = flags
            .gates
            .iter()
            .map(|(gate, count)| format!("`{}` {count}", gate.key()))
            .collect();
        let _ = writeln!(
            text,
            "| {} | {} of {} | {} |",
            flags.kind.key(),
            flags.any,
            flags.clips,
            if which.is_empty() {
                "none".to_owned()
            } else {
                which.join(", ")
            }
        );
    }
    text
}

fn auc_table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| damage | signal | moves | clips that moved so | AUC | AUC with strobe | prototype | gate |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let claim = &row.claim;
        let _ = writeln!(
            text,
            "| {} | `{}` | {} | {} of {} | {:.3} | {:.3} | {} | {} |",
            claim.damage.key(),
            claim.signal.key(),
            if claim.rises { "up" } else { "down" },
            row.moved,
            row.clips,
            row.auc,
            row.auc_with_strobe,
            claim
                .prototype
                .map_or_else(|| "–".to_owned(), |auc| format!("{auc:.2}")),
            claim
                .gate
                .map_or_else(|| "–".to_owned(), |gate| format!("`{}`", gate.key())),
        );
    }
    text
}

/// The gates, when they close and what they do.
pub fn gate_table(limits: &Thresholds) -> String {
    let mut text = String::from("| gate | closes when | caps | flags |\n|---|---|---|---|\n");
    for gate in GateId::ALL {
        let caps: Vec<String> = gate
            .caps()
            .iter()
            .map(|(dimension, points)| format!("{} {points}", dimension.key()))
            .collect();
        let caps = match (gate.is_hard_fail(), caps.is_empty()) {
            (true, _) => "fail without a judge".to_owned(),
            (false, true) => "–".to_owned(),
            (false, false) => caps.join(", "),
        };
        let flags = if gate.flags() { "yes" } else { "–" };
        let when = gate.condition(limits);
        let _ = writeln!(text, "| `{}` | {when} | {caps} | {flags} |", gate.key());
    }
    text
}
