//! The JSON result, its verdicts and its warnings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cli::Size;
use crate::env::Environment;
use crate::files;
use crate::http::HttpReport;
use crate::measure::{Plan, Sample, Samples, Subject};
use crate::peer::MemoryProbe;
use crate::stats::{self, Ratio};

/// Version of the result's layout; a reader refuses others.
pub(crate) const SCHEMA: u32 = 1;

/// Relative L2 distance from the reference above which a result is wrong, however fast.
pub(crate) const TOLERANCE: f64 = 2e-5;

/// Everything one `run` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// Day of the run, UTC.
    pub(crate) date: String,
    /// Kind of machine.
    pub(crate) label: String,
    /// Conditions.
    pub(crate) environment: Environment,
    /// Speed measurements.
    pub(crate) measurements: Vec<Measurement>,
    /// Memory of expert offload, when that was measured.
    pub(crate) offload: Option<Offload>,
    /// Servers under load, when that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<HttpReport>,
}

/// One comparison of leoma and PyTorch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// Name, `case/variant`.
    pub(crate) name: String,
    /// What was run, in words.
    pub(crate) what: String,
    /// Sizes.
    pub(crate) size: Size,
    /// Rounds.
    pub(crate) plan: Plan,
    /// Wall-time ratio that must hold.
    pub(crate) limit: f64,
    /// Relative L2 distance of each subject's result from PyTorch's.
    pub(crate) relative_l2: BTreeMap<Subject, f64>,
    /// Raw samples in the order taken.
    pub(crate) samples: Samples,
    /// Wall time against PyTorch.
    pub(crate) wall: BTreeMap<Subject, Ratio>,
    /// CPU time against PyTorch.
    pub(crate) cpu: BTreeMap<Subject, Ratio>,
    /// Peak memory of both sides, where it was asked for.
    pub(crate) memory: Option<Memory>,
    /// Reasons to doubt the figures.
    pub(crate) warnings: Vec<String>,
}

/// Memory of both sides, each in a fresh process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Size of the weights file.
    pub(crate) weights_bytes: u64,
    /// The Rust side.
    pub(crate) leoma: MemoryProbe,
    /// The Python side.
    pub(crate) pytorch: MemoryProbe,
    /// Share of PyTorch's memory above the loaded weights that must hold.
    pub(crate) limit: f64,
}

/// Peak memory of a generation with one expert resident at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Offload {
    /// What was run, in words.
    pub(crate) what: String,
    /// Size of one expert in the compute type.
    pub(crate) expert_bytes: u64,
    /// Most memory the process held.
    pub(crate) peak_bytes: u64,
    /// Share of `expert_bytes` that must hold.
    pub(crate) limit: f64,
}

/// Whether a figure meets its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// PyTorch's time or better.
    Goal,
    /// Within the limit.
    Holds,
    /// Beyond the limit.
    Misses,
    /// The result is wrong.
    Wrong,
}

impl Verdict {
    /// Word in tables.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Goal => "goal met",
            Self::Holds => "holds",
            Self::Misses => "misses",
            Self::Wrong => "WRONG RESULT",
        }
    }
}

impl Memory {
    /// Rust memory above the loaded weights as a share of PyTorch's.
    pub(crate) fn ratio(&self) -> f64 {
        self.leoma.above_loaded_bytes() as f64 / self.pytorch.above_loaded_bytes() as f64
    }
}

impl Offload {
    /// Peak as a share of one expert.
    pub(crate) fn ratio(&self) -> f64 {
        self.peak_bytes as f64 / self.expert_bytes as f64
    }
}

impl Measurement {
    /// Puts samples into a measurement and computes ratios and warnings from them.
    pub(crate) fn new(
        name: &str,
        what: &str,
        size: Size,
        plan: Plan,
        limit: f64,
        samples: Samples,
        relative_l2: BTreeMap<Subject, f64>,
    ) -> Self {
        let take = |subject: Subject, field: fn(&Sample) -> f64| -> Vec<f64> {
            samples
                .get(&subject)
                .map(|all| all.iter().map(field).collect())
                .unwrap_or_default()
        };
        let against = |field: fn(&Sample) -> f64| -> BTreeMap<Subject, Ratio> {
            let reference = take(Subject::Pytorch, field);
            samples
                .keys()
                .filter(|&&subject| subject != Subject::Pytorch)
                .map(|&subject| (subject, stats::compare(&take(subject, field), &reference)))
                .collect()
        };
        let (wall, cpu) = (
            against(|sample| sample.wall_s),
            against(|sample| sample.cpu_s),
        );
        let warnings = sample_warnings(&samples);
        Self {
            name: name.to_owned(),
            what: what.to_owned(),
            size,
            plan,
            limit,
            relative_l2,
            samples,
            wall,
            cpu,
            memory: None,
            warnings,
        }
    }

    /// Whether the subject's result and wall time meet their lines. A distance that is not a number
    /// is a wrong result.
    pub(crate) fn verdict(&self, subject: Subject) -> Verdict {
        let right = self
            .relative_l2
            .get(&subject)
            .is_some_and(|&distance| distance <= TOLERANCE);
        match self.wall.get(&subject) {
            _ if !right => Verdict::Wrong,
            Some(wall) if wall.ratio <= 1.0 => Verdict::Goal,
            Some(wall) if wall.ratio <= self.limit => Verdict::Holds,
            _ => Verdict::Misses,
        }
    }
}

impl Report {
    /// Subjects whose result is wrong, as `name (subject)`.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.with_verdict(|verdict| verdict == Verdict::Wrong)
    }

    /// Everything beyond its limit, wrong results included.
    pub(crate) fn misses(&self) -> Vec<String> {
        let mut all =
            self.with_verdict(|verdict| matches!(verdict, Verdict::Wrong | Verdict::Misses));
        for measurement in &self.measurements {
            if measurement
                .memory
                .as_ref()
                .is_some_and(|memory| !holds(memory.ratio(), memory.limit))
            {
                all.push(format!("{} (memory)", measurement.name));
            }
        }
        if self
            .offload
            .as_ref()
            .is_some_and(|offload| !holds(offload.ratio(), offload.limit))
        {
            all.push("offload (memory)".to_owned());
        }
        all
    }

    fn with_verdict(&self, wanted: impl Fn(Verdict) -> bool) -> Vec<String> {
        self.measurements
            .iter()
            .flat_map(|measurement| {
                measurement
                    .wall
                    .keys()
                    .map(move |&subject| (measurement, subject))
            })
            .filter(|(measurement, subject)| wanted(measurement.verdict(*subject)))
            .map(|(measurement, subject)| format!("{} ({})", measurement.name, subject.label()))
            .collect()
    }

    /// Writes the result to `<dir>/<date>-<label>.json`, adding `-2`, `-3`, … rather than replacing
    /// an earlier one.
    pub(crate) fn save(&self, dir: &Path) -> Result<PathBuf> {
        let path = files::fresh(dir, &format!("{}-{}", self.date, self.label), "json")?;
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        files::write(&path, &text)?;
        Ok(path)
    }

    /// Reads a result of this schema.
    #[cfg(test)]
    pub(crate) fn load(path: &Path) -> Result<Self> {
        Self::from_value(path, files::read_json(path)?)
    }

    /// Takes a result that has been read from `path`.
    pub(crate) fn from_value(path: &Path, value: serde_json::Value) -> Result<Self> {
        if value["schema"] != SCHEMA {
            bail!(
                "{} has schema {}, this program reads {SCHEMA}: run the benchmark again",
                path.display(),
                value["schema"]
            );
        }
        serde_json::from_value(value)
            .with_context(|| format!("{} is not a benchmark result", path.display()))
    }
}

/// Whether a share is a number within its limit (0/0 is not).
pub(crate) fn holds(ratio: f64, limit: f64) -> bool {
    ratio <= limit
}

/// What the samples themselves give away.
fn sample_warnings(samples: &Samples) -> Vec<String> {
    let mut warnings = Vec::new();
    for (subject, samples) in samples {
        let label = subject.label();
        let wall: Vec<f64> = samples.iter().map(|sample| sample.wall_s).collect();
        let outliers = stats::outliers(&wall);
        let first_is_slow = outliers.first() == Some(&0) && wall[0] > stats::median(&wall);
        if first_is_slow {
            warnings.push(format!(
                "{label}: the first measured run was the slow one; more --warmups would help"
            ));
        }
        let others = outliers.len() - usize::from(first_is_slow);
        if others > 0 {
            warnings.push(format!(
                "{label}: {others} of {} runs are outliers; was the machine busy?",
                wall.len()
            ));
        }
        if stats::spread(&wall) > 0.05 {
            warnings.push(format!(
                "{label}: times spread by {:.0} % around their median",
                100.0 * stats::spread(&wall)
            ));
        }
        if stats::median(&wall) < 5e-3 {
            warnings.push(format!(
                "{label}: runs of under 5 ms are too short to compare"
            ));
        }
    }
    warnings
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use Subject::{Leoma, Pytorch};

    fn samples(ours: &[f64], theirs: &[f64]) -> Samples {
        let of = |walls: &[f64]| {
            walls
                .iter()
                .map(|&wall_s| Sample {
                    wall_s,
                    cpu_s: 2.0 * wall_s,
                })
                .collect()
        };
        Samples::from([(Leoma, of(ours)), (Pytorch, of(theirs))])
    }

    pub(crate) fn measurement(ours: &[f64], theirs: &[f64], distance: f64) -> Measurement {
        let distances = BTreeMap::from([(Leoma, distance)]);
        let samples = samples(ours, theirs);
        Measurement::new(
            "dit-block/5b",
            "a block",
            Size::Full,
            Plan::USUAL,
            1.25,
            samples,
            distances,
        )
    }

    pub(crate) fn report(measurements: Vec<Measurement>) -> Report {
        Report {
            schema: SCHEMA,
            date: "2026-01-31".into(),
            label: "test-cpu-2t".into(),
            environment: Environment {
                machine: crate::env::tests::machine(),
                peer_threads: 2,
                peer_versions: BTreeMap::from([("torch".into(), "2.15.0".into())]),
            },
            measurements,
            offload: None,
            http: None,
        }
    }

    #[test]
    fn verdicts_follow_result_then_time() {
        let verdict =
            |ours: f64, distance: f64| measurement(&[ours; 4], &[1.0; 4], distance).verdict(Leoma);
        assert_eq!(verdict(1.0, 1e-6), Verdict::Goal);
        assert_eq!(verdict(1.2, 1e-6), Verdict::Holds);
        assert_eq!(verdict(1.3, 1e-6), Verdict::Misses);
        assert_eq!(verdict(0.1, 3e-5), Verdict::Wrong);
        assert_eq!(verdict(0.1, f64::NAN), Verdict::Wrong);
    }

    #[test]
    fn ratios_are_of_wall_and_cpu_time() {
        let found = measurement(&[1.0, 1.1, 1.0], &[2.0, 2.2, 2.0], 0.0);
        assert!((found.wall[&Leoma].ratio - 0.5).abs() < 1e-12);
        assert!((found.cpu[&Leoma].median_s - 2.0).abs() < 1e-12);
        assert!(!found.wall.contains_key(&Pytorch));
    }

    #[test]
    fn doubtful_samples_are_named() {
        let slow_start = measurement(&[9.0, 1.0, 1.0, 1.0, 1.0], &[1.0; 5], 0.0);
        assert_eq!(slow_start.warnings.len(), 1, "{:?}", slow_start.warnings);
        assert!(slow_start.warnings[0].contains("--warmups"));
        let bump = measurement(&[1.0, 1.0, 9.0, 1.0, 1.0], &[1.0; 5], 0.0);
        assert!(bump.warnings[0].contains("1 of 5 runs are outliers"));
        let short = measurement(&[1e-3; 5], &[1.0; 5], 0.0);
        assert!(short.warnings[0].contains("too short"));
        assert!(measurement(&[1.0; 5], &[1.0; 5], 0.0).warnings.is_empty());
    }

    #[test]
    fn memory_and_offload_count_as_misses() {
        let probe = |peak_bytes| MemoryProbe {
            before_bytes: 10,
            peak_bytes,
            peak_was_reset: true,
        };
        let mut found = measurement(&[1.0; 4], &[1.0; 4], 0.0);
        found.memory = Some(Memory {
            weights_bytes: 10,
            leoma: probe(70),
            pytorch: probe(110),
            limit: 0.5,
        });
        let mut all = report(vec![found]);
        all.offload = Some(Offload {
            what: "x".into(),
            expert_bytes: 100,
            peak_bytes: 126,
            limit: 1.25,
        });
        assert_eq!(all.misses(), ["dit-block/5b (memory)", "offload (memory)"]);
        assert!(all.wrong().is_empty());
    }

    #[test]
    fn results_survive_a_round_trip_and_are_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let first = report(vec![measurement(&[1.0; 4], &[1.5; 4], 1e-7)]);
        let path = first.save(dir.path()).unwrap();
        assert_eq!(path.file_name().unwrap(), "2026-01-31-test-cpu-2t.json");
        assert_eq!(Report::load(&path).unwrap(), first);
        let second = first.save(dir.path()).unwrap();
        assert_eq!(second.file_name().unwrap(), "2026-01-31-test-cpu-2t-2.json");
    }

    #[test]
    fn another_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.json");
        std::fs::write(&path, r#"{"schema": 0}"#).unwrap();
        assert!(
            Report::load(&path)
                .unwrap_err()
                .to_string()
                .contains("schema 0")
        );
    }
}
