//! The schedule of a measurement: warm-ups, then interleaved rounds. What runs is behind a trait.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// One program under comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// The Rust implementation, doing all that the reference does.
    Leoma,
    /// The Rust implementation as the pipeline runs it: keys and values of the prompt are kept.
    LeomaCachedKv,
    /// PyTorch with diffusers or transformers.
    Pytorch,
}

impl Subject {
    /// Name in reports.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Leoma => "leoma",
            Self::LeomaCachedKv => "leoma, cached K/V",
            Self::Pytorch => "PyTorch",
        }
    }
}

/// One timed run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Elapsed time in seconds.
    pub(crate) wall_s: f64,
    /// User and system time of the process, all threads and waited-for children, in seconds.
    pub(crate) cpu_s: f64,
}

/// Runs one iteration of a subject while the others are idle.
pub(crate) trait Executor {
    /// Does the work once and says how long it took.
    fn run(&mut self, subject: Subject) -> Result<Sample>;
}

/// How often to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Untimed rounds before the first measured one.
    pub(crate) warmups: usize,
    /// Measured rounds; each runs every subject once.
    pub(crate) pairs: usize,
}

/// Raw samples per subject, in the order in which the rounds were run.
pub(crate) type Samples = BTreeMap<Subject, Vec<Sample>>;

/// Runs the plan. Odd rounds go through the subjects backwards (A B, B A, A B, …), so that neither
/// side always comes first after the other's caches and clock frequency.
pub(crate) fn measure(
    executor: &mut dyn Executor,
    subjects: &[Subject],
    plan: Plan,
    mut progress: impl FnMut(usize, Subject, Sample),
) -> Result<Samples> {
    for _ in 0..plan.warmups {
        for &subject in subjects {
            executor.run(subject)?;
        }
    }
    let mut samples = Samples::new();
    for round in 0..plan.pairs {
        let mut order = subjects.to_vec();
        if round % 2 == 1 {
            order.reverse();
        }
        for subject in order {
            let sample = executor.run(subject)?;
            progress(round, subject, sample);
            samples.entry(subject).or_default().push(sample);
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Answers from a script and remembers what it was asked.
    #[derive(Default)]
    struct MockExecutor {
        asked: Vec<Subject>,
        fail_at: Option<usize>,
    }

    impl Executor for MockExecutor {
        fn run(&mut self, subject: Subject) -> Result<Sample> {
            if self.fail_at == Some(self.asked.len()) {
                anyhow::bail!("peer is gone");
            }
            self.asked.push(subject);
            let wall_s = self.asked.len() as f64;
            Ok(Sample {
                wall_s,
                cpu_s: 2.0 * wall_s,
            })
        }
    }

    use Subject::{Leoma, LeomaCachedKv, Pytorch};

    #[test]
    fn rounds_alternate_and_warmups_are_not_kept() {
        let mut mock = MockExecutor::default();
        let plan = Plan {
            warmups: 1,
            pairs: 3,
        };
        let samples = measure(&mut mock, &[Leoma, Pytorch], plan, |_, _, _| ()).unwrap();
        assert_eq!(
            mock.asked,
            [
                Leoma, Pytorch, Leoma, Pytorch, Pytorch, Leoma, Leoma, Pytorch
            ]
        );
        let walls = |s: Subject| samples[&s].iter().map(|x| x.wall_s).collect::<Vec<_>>();
        assert_eq!(walls(Leoma), [3.0, 6.0, 7.0]);
        assert_eq!(walls(Pytorch), [4.0, 5.0, 8.0]);
        assert_eq!(samples[&Leoma][0].cpu_s, 6.0);
    }

    #[test]
    fn every_subject_runs_in_every_round() {
        let mut mock = MockExecutor::default();
        let subjects = [Leoma, LeomaCachedKv, Pytorch];
        let mut seen = Vec::new();
        let plan = Plan {
            warmups: 2,
            pairs: 4,
        };
        let samples = measure(&mut mock, &subjects, plan, |round, s, _| {
            seen.push((round, s))
        })
        .unwrap();
        assert!(subjects.iter().all(|s| samples[s].len() == 4));
        assert_eq!(mock.asked.len(), 18);
        assert_eq!(seen.len(), 12);
        assert_eq!(seen[3], (1, Pytorch));
    }

    #[test]
    fn a_failing_run_ends_the_measurement() {
        let mut mock = MockExecutor {
            fail_at: Some(3),
            ..MockExecutor::default()
        };
        let plan = Plan {
            warmups: 1,
            pairs: 3,
        };
        let error = measure(&mut mock, &[Leoma, Pytorch], plan, |_, _, _| ()).unwrap_err();
        assert_eq!(error.to_string(), "peer is gone");
        assert_eq!(mock.asked.len(), 3);
    }
}
