//! What `leoma-bench http` found, and the lines it is held to.

use serde::{Deserialize, Serialize};

use super::load::{Mode, Outcome};
use super::samples::Memory;
use crate::stats::{self, Ratio};

/// Share of the reference's CPU time and p99 that must hold.
pub(crate) const HALF: f64 = 0.5;
/// Most that 99 % of refusals under overload may take, in seconds.
pub(crate) const REFUSAL_S: f64 = 0.02;
/// Most that memory may drift under overload.
pub(crate) const DRIFT: f64 = 0.05;

/// Everything one `http` run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HttpReport {
    /// What was asked for, in words.
    pub(crate) what: String,
    /// Whether the lines apply: the node against FastAPI.
    pub(crate) pair: bool,
    /// Seconds of a request that are the engine's and no overhead.
    pub(crate) job_s: f64,
    /// Comparisons.
    pub(crate) phases: Vec<Phase>,
    /// Overload of each server.
    pub(crate) overloads: Vec<Overload>,
    /// Reasons to doubt the figures.
    pub(crate) warnings: Vec<String>,
}

/// All servers driven the same way, in turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Phase {
    /// How they were driven.
    pub(crate) mode: Mode,
    /// The servers; the first is compared with the last.
    pub(crate) sides: Vec<Side>,
}

/// One server in one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Side {
    /// The server.
    pub(crate) name: String,
    /// Rounds in the order taken.
    pub(crate) rounds: Vec<Round>,
    /// Its memory during its rounds.
    pub(crate) memory: Memory,
}

/// One round of one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Round {
    /// CPU time of the server, when its process is known, in seconds.
    pub(crate) cpu_s: Option<f64>,
    /// CPU time of the load generator in seconds.
    pub(crate) client_cpu_s: f64,
    /// What came back.
    pub(crate) outcome: Outcome,
}

/// A server driven far beyond what it can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Overload {
    /// The server.
    pub(crate) name: String,
    /// Clips per second that it makes when it is busy and not overloaded.
    pub(crate) capacity: f64,
    /// Requests per second over that.
    pub(crate) times: f64,
    /// What came back, and at which cost.
    pub(crate) round: Round,
    /// Its memory meanwhile.
    pub(crate) memory: Memory,
}

impl Round {
    fn answered(&self) -> f64 {
        (self.outcome.ok_us.0.len() + self.outcome.refused_us.0.len()) as f64
    }

    /// CPU time of the server per request that it answered, in seconds.
    pub(crate) fn cpu_per_request(&self) -> f64 {
        self.cpu_s.map_or(f64::NAN, |cpu| cpu / self.answered())
    }

    /// Time of served requests beyond the engine's, in seconds.
    pub(crate) fn overhead(&self, share: f64, job_s: f64) -> f64 {
        self.outcome.ok_us.percentile(share) * 1e-6 - job_s
    }

    /// Requests served per second.
    pub(crate) fn throughput(&self) -> f64 {
        self.outcome.ok_us.0.len() as f64 / self.outcome.wall_s
    }

    /// Share of one core that the load generator took; it has one thread.
    pub(crate) fn client_load(&self) -> f64 {
        self.client_cpu_s / self.outcome.wall_s
    }
}

impl Side {
    /// A figure of every round.
    pub(crate) fn each(&self, figure: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(figure).collect()
    }
}

impl Phase {
    /// The first server's figure against the last one's; `None` when there is one server or no figure.
    pub(crate) fn compare(&self, figure: impl Fn(&Round) -> f64) -> Option<Ratio> {
        let [first, .., last] = self.sides.as_slice() else {
            return None;
        };
        let ratio = stats::compare(&first.each(&figure), &last.each(&figure));
        ratio.ratio.is_finite().then_some(ratio)
    }

    /// Name in tables and messages.
    pub(crate) fn label(&self) -> String {
        match self.mode {
            Mode::Closed { concurrency, .. } => format!("closed loop of {concurrency}"),
            Mode::Open { rate, .. } => format!("open loop, {rate:.0}/s"),
        }
    }

    /// What must be at most half of the reference's.
    pub(crate) fn lines(&self, job_s: f64) -> [(&'static str, Option<Ratio>); 2] {
        [
            ("CPU time per request", self.compare(Round::cpu_per_request)),
            (
                "p99 overhead",
                self.compare(|round| round.overhead(0.99, job_s)),
            ),
        ]
    }
}

impl Overload {
    /// Share of what it could have served that it did serve.
    pub(crate) fn served(&self) -> f64 {
        self.round.throughput() / self.capacity
    }

    /// Percentile of the refusals, in seconds.
    pub(crate) fn refusal(&self, share: f64) -> f64 {
        self.round.outcome.refused_us.percentile(share) * 1e-6
    }
}

impl HttpReport {
    /// Everything beyond its line.
    pub(crate) fn misses(&self) -> Vec<String> {
        let mut misses = Vec::new();
        for phase in self.phases.iter().filter(|_| self.pair) {
            for (name, ratio) in phase.lines(self.job_s) {
                if !ratio.is_some_and(|ratio| ratio.ratio <= HALF) {
                    misses.push(format!("http: {name}, {}", phase.label()));
                }
            }
        }
        for overload in &self.overloads {
            let name = &overload.name;
            if overload.refusal(0.99) > REFUSAL_S || overload.refusal(0.99).is_nan() {
                misses.push(format!("http: refusals of {name} under overload"));
            }
            if overload.memory.drift().is_some_and(|drift| drift > DRIFT) {
                misses.push(format!("http: memory of {name} under overload"));
            }
        }
        misses
    }

    /// What the samples themselves give away.
    pub(crate) fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        for phase in &self.phases {
            for side in &phase.sides {
                let at = format!("{}, {}", side.name, phase.label());
                doubts.extend(round_doubts(&at, &side.rounds));
                let refused: usize = side
                    .rounds
                    .iter()
                    .map(|round| round.outcome.refused_us.0.len())
                    .sum();
                if refused > 0 {
                    doubts.push(format!("{at}: {refused} requests were refused (429)"));
                }
                if side.rounds.iter().any(|round| round.cpu_s < Some(0.1)) && self.pair {
                    doubts.push(format!(
                        "{at}: rounds of under 0.1 s of CPU time, which is counted in hundredths"
                    ));
                }
            }
        }
        for overload in &self.overloads {
            let at = format!("{}, overload", overload.name);
            doubts.extend(round_doubts(&at, std::slice::from_ref(&overload.round)));
        }
        doubts
    }
}

fn round_doubts(at: &str, rounds: &[Round]) -> Vec<String> {
    let mut doubts = Vec::new();
    let failed: u64 = rounds.iter().map(|round| round.outcome.failed).sum();
    if failed > 0 {
        let mut all = std::collections::BTreeMap::<&str, u64>::new();
        for (what, count) in rounds.iter().flat_map(|round| &round.outcome.failures) {
            *all.entry(what).or_default() += count;
        }
        let all: Vec<String> = all.iter().map(|(what, n)| format!("{what}: {n}")).collect();
        let all = all.join(", ");
        doubts.push(format!("{at}: {failed} requests failed ({all})"));
    }
    let load = rounds.iter().map(Round::client_load).fold(0.0, f64::max);
    if load > 0.8 {
        doubts.push(format!(
            "{at}: the load generator took {:.0} % of its core and may have been the limit",
            100.0 * load
        ));
    }
    let lag = rounds
        .iter()
        .map(|round| round.outcome.lag_us.percentile(0.99));
    let lag = lag.fold(0.0, f64::max);
    if lag > 2000.0 {
        doubts.push(format!(
            "{at}: 1 % of the requests were sent more than {:.1} ms late",
            lag * 1e-3
        ));
    }
    doubts
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::samples::Numbers;
    use super::*;

    pub(crate) fn round(cpu_s: f64, ok_us: &[u32]) -> Round {
        Round {
            cpu_s: Some(cpu_s),
            client_cpu_s: 0.2,
            outcome: Outcome {
                wall_s: 1.0,
                ok_us: Numbers(ok_us.to_vec()),
                ..Outcome::default()
            },
        }
    }

    pub(crate) fn phase(ours: Round, theirs: Round) -> Phase {
        let side = |name: &str, round: Round| Side {
            name: name.into(),
            rounds: vec![round; 4],
            memory: Memory {
                every_ms: 500,
                kib: Numbers(vec![2048; 10]),
            },
        };
        Phase {
            mode: Mode::Closed {
                concurrency: 4,
                requests: 4,
            },
            sides: vec![side("leoma-node", ours), side("FastAPI", theirs)],
        }
    }

    pub(crate) fn overload(refused_us: u32, kib: Vec<u32>) -> Overload {
        let mut round = round(0.5, &[100_000; 19]);
        round.outcome.refused_us = Numbers(vec![refused_us; 380]);
        Overload {
            name: "leoma-node".into(),
            capacity: 20.0,
            times: 20.0,
            round,
            memory: Memory {
                every_ms: 500,
                kib: Numbers(kib),
            },
        }
    }

    pub(crate) fn report(phases: Vec<Phase>, overloads: Vec<Overload>) -> HttpReport {
        HttpReport {
            what: "a request".into(),
            pair: true,
            job_s: 0.0,
            phases,
            overloads,
            warnings: vec![],
        }
    }

    #[test]
    fn half_of_cpu_time_and_p99_is_the_line() {
        let good = phase(round(0.4, &[400, 500]), round(1.0, &[900, 1000]));
        assert!(report(vec![good], vec![]).misses().is_empty());
        let slow = phase(round(0.4, &[400, 501]), round(1.0, &[900, 1000]));
        let misses = report(vec![slow], vec![]).misses();
        assert_eq!(misses, ["http: p99 overhead, closed loop of 4"]);
        let mut unknown = round(0.4, &[1]);
        unknown.cpu_s = None;
        let misses = report(vec![phase(unknown, round(1.0, &[1000]))], vec![]).misses();
        assert_eq!(misses, ["http: CPU time per request, closed loop of 4"]);
    }

    #[test]
    fn the_engines_time_is_no_overhead() {
        let compared = phase(round(1.0, &[50_500]), round(1.0, &[52_000]));
        let ratio = compared
            .compare(|round| round.overhead(0.99, 0.05))
            .unwrap();
        assert!((ratio.ratio - 0.25).abs() < 1e-9, "{ratio:?}");
    }

    #[test]
    fn overload_is_held_to_quick_refusals_and_flat_memory() {
        let flat = overload(900, vec![1000; 40]);
        assert!((flat.served() - 0.95).abs() < 1e-9);
        assert!(report(vec![], vec![flat]).misses().is_empty());
        let slow = overload(20_001, vec![1000; 40]);
        assert_eq!(report(vec![], vec![slow]).misses().len(), 1);
        let grown = overload(900, (1000..1400).collect());
        let misses = report(vec![], vec![grown]).misses();
        assert_eq!(misses, ["http: memory of leoma-node under overload"]);
    }

    #[test]
    fn doubts_name_the_generator_and_failures() {
        let mut busy = round(0.05, &[1]);
        busy.client_cpu_s = 0.9;
        busy.outcome.failed = 2;
        busy.outcome.refused_us = Numbers(vec![5]);
        let doubts = report(vec![phase(busy, round(1.0, &[9]))], vec![]).doubts();
        assert_eq!(doubts.len(), 4, "{doubts:?}");
        assert!(
            doubts
                .iter()
                .all(|doubt| doubt.starts_with("leoma-node, closed"))
        );
    }
}
