//! The clips that people should look at.

use crate::judge::rubric::Dimension;
use crate::judge::statistics::pairs::{Pair, Selection};

use serde::Serialize;

/// Points between two critical scores from which on a clip is listed.
pub const CRITICAL_GAP: f64 = 30.0;
/// Points between two overall scores from which on a clip is listed.
pub const OVERALL_GAP: f64 = 20.0;
/// Most clips of a report.
const MOST: usize = 500;

/// Why a clip is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The local judge lets it pass, the remote one does not.
    FalsePass,
    /// The local judge fails it, the remote one does not.
    FalseFail,
    /// The overall scores are more than [`OVERALL_GAP`] apart.
    Overall,
    /// Two critical scores are more than [`CRITICAL_GAP`] apart.
    Critical,
}

impl Reason {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::FalsePass => "passed locally only",
            Self::FalseFail => "passed remotely only",
            Self::Overall => "overall scores far apart",
            Self::Critical => "critical scores far apart",
        }
    }
}

/// A clip on which the judges differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Disagreement {
    /// Its record, which has at least an overall score of both.
    pub pair: Pair,
    /// The local overall score.
    pub local_overall: f64,
    /// The local decision.
    pub local_pass: bool,
    /// Why it is listed, at least one.
    pub reasons: Vec<Reason>,
}

impl Disagreement {
    fn of(pair: &Pair) -> Option<Self> {
        let (local_pass, local_overall) = (pair.local_pass?, pair.local_overall?);
        let mut reasons = Vec::new();
        match (local_pass, pair.remote_pass) {
            (true, false) => reasons.push(Reason::FalsePass),
            (false, true) => reasons.push(Reason::FalseFail),
            _ => {}
        }
        if (local_overall - pair.remote_overall).abs() > OVERALL_GAP {
            reasons.push(Reason::Overall);
        }
        let critical =
            gaps(pair).any(|(dimension, gap)| dimension.is_critical() && gap > CRITICAL_GAP);
        if critical {
            reasons.push(Reason::Critical);
        }
        (!reasons.is_empty()).then(|| Self {
            pair: pair.clone(),
            local_overall,
            local_pass,
            reasons,
        })
    }

    /// Whether the decisions differ.
    pub fn is_decision(&self) -> bool {
        self.local_pass != self.pair.remote_pass
    }

    /// Local less remote, overall.
    pub fn gap(&self) -> f64 {
        self.local_overall - self.pair.remote_overall
    }
}

/// Distances of the scores by dimension, where both are there.
fn gaps(pair: &Pair) -> impl Iterator<Item = (Dimension, f64)> {
    Dimension::ALL
        .into_iter()
        .zip(pair.local)
        .zip(pair.remote)
        .filter_map(|((dimension, local), remote)| Some((dimension, (local? - remote).abs())))
}

/// Number of such clips, and the worst of them: other decisions first, then by the distance of the overall scores,
/// then by that of any score.
pub(super) fn of(selection: &Selection<'_>) -> (usize, Vec<Disagreement>) {
    let mut found: Vec<(f64, Disagreement)> = selection
        .pairs
        .iter()
        .filter_map(|pair| {
            let farthest = gaps(pair).map(|(_, gap)| gap).fold(0.0, f64::max);
            Some((farthest, Disagreement::of(pair)?))
        })
        .collect();
    found.sort_by(|(far_a, a), (far_b, b)| {
        b.is_decision()
            .cmp(&a.is_decision())
            .then(b.gap().abs().total_cmp(&a.gap().abs()))
            .then(far_b.total_cmp(far_a))
            .then(a.pair.id.cmp(&b.pair.id))
    });
    let count = found.len();
    found.truncate(MOST);
    (count, found.into_iter().map(|(_, clip)| clip).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::statistics::pairs::Wanted;

    fn pair(id: &str, local: (f64, bool), remote: (f64, bool)) -> Pair {
        Pair {
            id: id.into(),
            video: id.into(),
            local_overall: Some(local.0),
            local_pass: Some(local.1),
            local: [Some(60.0); 6],
            remote: [60.0; 6],
            remote_overall: remote.0,
            remote_pass: remote.1,
            ..Pair::default()
        }
    }

    #[test]
    fn other_decisions_come_first_and_small_gaps_are_not_listed() {
        let mut log = vec![
            pair("same", (60.0, false), (70.0, false)),
            pair("far", (40.0, false), (61.0, false)),
            pair("near", (76.0, true), (74.0, false)),
            pair("worse", (50.0, false), (80.0, true)),
            pair("critical", (60.0, false), (60.0, false)),
            pair("camera", (60.0, false), (60.0, false)),
            pair("silent", (0.0, false), (90.0, true)),
        ];
        log[4].local[Dimension::PromptAdherence as usize] = Some(91.0);
        log[5].local[Dimension::CameraComposition as usize] = Some(99.0);
        log[6].local_pass = None;
        let selection = Selection::of(&log, Wanted::default());
        let (count, found) = of(&selection);
        let named: Vec<_> = found
            .iter()
            .map(|clip| (&*clip.pair.id, clip.reasons.clone()))
            .collect();
        assert_eq!(
            named,
            [
                ("worse", vec![Reason::FalseFail, Reason::Overall]),
                ("near", vec![Reason::FalsePass]),
                ("far", vec![Reason::Overall]),
                ("critical", vec![Reason::Critical]),
            ]
        );
        assert_eq!(count, 4);
        assert_eq!(found[0].gap(), -30.0);
    }
}
