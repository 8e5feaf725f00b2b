//! The result of `leoma-bench audit`, and its table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::env::Machine;
use crate::measure::Sample;
use crate::stats::median;

/// Form of the JSON result.
pub(crate) const SCHEMA: &str = "leoma-bench/audit/1";

/// A whole run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AuditReport {
    pub(crate) schema: String,
    pub(crate) date: String,
    pub(crate) machine: Machine,
    /// Of the tools that took part.
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) measured: Vec<Measured>,
}

/// One measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// `case/variant`.
    pub(crate) name: String,
    /// What is run, in words.
    pub(crate) what: String,
    /// Bytes that every subject works through.
    pub(crate) bytes: u64,
    /// Every run, by subject.
    pub(crate) samples: BTreeMap<String, Vec<Sample>>,
    /// Most memory of the subject's process, where it was watched.
    #[serde(default)]
    pub(crate) peak_bytes: BTreeMap<String, u64>,
    /// Subjects that are not here, and why.
    #[serde(default)]
    pub(crate) absent: BTreeMap<String, String>,
    /// What must hold.
    pub(crate) goals: Vec<Goal>,
}

/// A line that has to be reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Goal {
    /// In words, with the figure found.
    pub(crate) text: String,
    pub(crate) reached: bool,
}

impl Measured {
    fn median(&self, subject: &str, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        let times: Vec<f64> = self.samples.get(subject)?.iter().map(of).collect();
        Some(median(&times)).filter(|time| time.is_finite())
    }

    /// Median CPU time of a subject, in seconds.
    pub(crate) fn cpu(&self, subject: &str) -> Option<f64> {
        self.median(subject, |sample| sample.cpu_s)
    }

    /// GB per second of CPU time.
    pub(crate) fn rate(&self, subject: &str) -> Option<f64> {
        Some(self.bytes as f64 / 1e9 / self.cpu(subject)?)
    }

    /// GB per second by the clock, where something else than the processor sets the pace.
    pub(crate) fn clock_rate(&self, subject: &str) -> Option<f64> {
        Some(self.bytes as f64 / 1e9 / self.median(subject, |sample| sample.wall_s)?)
    }

    /// Notes whether `subject` is at least `times` as fast per byte as `peer`.
    pub(crate) fn goal_faster(&mut self, subject: &str, peer: &str, times: f64) {
        if let (Some(ours), Some(theirs)) = (self.cpu(subject), self.cpu(peer)) {
            let ratio = theirs / ours;
            self.goals.push(Goal {
                text: format!("{subject} {ratio:.2} times {peer} (at least {times})"),
                reached: ratio >= times,
            });
        }
    }
}

impl AuditReport {
    /// Goals that were missed, with their measurement.
    pub(crate) fn missed(&self) -> Vec<String> {
        self.measured
            .iter()
            .flat_map(|one| one.goals.iter().map(move |goal| (one, goal)))
            .filter(|(_, goal)| !goal.reached)
            .map(|(one, goal)| format!("{}: {}", one.name, goal.text))
            .collect()
    }

    /// Tables for a page.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        let _ = writeln!(
            text,
            "{}, {} cores, {}, commit {}, {}; load {:.2} before the first case. Medians of CPU time.\n",
            machine.cpu_model,
            machine.cores,
            self.date,
            machine.git,
            machine.profile,
            machine.load_average
        );
        text.push_str("| measurement | subject | CPU time | GB/s of CPU time | peak memory |\n|---|---|---|---|---|\n");
        for one in &self.measured {
            for subject in one.samples.keys() {
                let time = one
                    .cpu(subject)
                    .map_or("-".into(), |time| format!("{time:.3} s"));
                let rate = one.rate(subject).filter(|_| one.bytes > 0);
                let rate = rate.map_or("-".into(), |rate| format!("{rate:.2}"));
                let peak = one.peak_bytes.get(subject);
                let peak = peak.map_or("-".into(), |peak| {
                    format!("{:.0} MiB", *peak as f64 / f64::from(1 << 20))
                });
                let _ = writeln!(
                    text,
                    "| {} | {subject} | {time} | {rate} | {peak} |",
                    one.name
                );
            }
            for (subject, why) in &one.absent {
                let _ = writeln!(text, "| {} | {subject} | {why} | | |", one.name);
            }
        }
        text.push_str("\n| goal | |\n|---|---|\n");
        for one in &self.measured {
            for goal in &one.goals {
                let mark = if goal.reached {
                    "reached"
                } else {
                    "**missed**"
                };
                let _ = writeln!(text, "| {}: {} | {mark} |", one.name, goal.text);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn measured() -> Measured {
        let sample = |cpu_s| Sample { wall_s: 9.0, cpu_s };
        Measured {
            name: "hash/1".into(),
            what: String::new(),
            bytes: 2_000_000_000,
            samples: BTreeMap::from([
                ("ours".into(), vec![sample(0.5), sample(9.0), sample(0.4)]),
                ("theirs".into(), vec![sample(2.0)]),
            ]),
            peak_bytes: BTreeMap::new(),
            absent: BTreeMap::new(),
            goals: Vec::new(),
        }
    }

    #[test]
    fn rates_are_of_medians_of_cpu_time() {
        let mut one = measured();
        assert_eq!(one.rate("ours"), Some(4.0));
        assert_eq!(one.rate("nobody"), None);
        assert_eq!(one.clock_rate("ours"), Some(2.0 / 9.0));
        one.goal_faster("ours", "theirs", 4.0);
        one.goal_faster("ours", "theirs", 4.1);
        one.goal_faster("ours", "nobody", 1.0);
        let reached: Vec<_> = one.goals.iter().map(|goal| goal.reached).collect();
        assert_eq!(reached, [true, false]);
    }
}
