//! A remote and a local judge, side by side.
//!
//! Both start at once from the same decoded frames, under one deadline; the local one never waits for the network.
//! Their scores are reported beside each other and never mixed into one number: an average of two judges is the
//! verdict of neither, and nobody could check it.
//!
//! | mode | runs | decides |
//! |---|---|---|
//! | `remote` | remote | remote |
//! | `shadow` | both | remote; the local one is on record |
//! | `local` | local | local |
//! | `both` | both | passes where both pass (a miner's own check) |
//! | `fallback` | both | remote; the local one while the remote one is withdrawn, and only if it is calibrated |

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use leoma_models::Fault;
use serde::{Deserialize, Serialize};

use super::calibration::PASS_CHANCE;
use super::input::JudgeInput;
use super::profile::Configuration;
use super::rubric::Rules;
use super::verdict::{NoVerdict, Outcome, Reason, Verdict};

/// A judge. Its work may take all of the time it is given; when that is over, nobody waits for it any more.
pub trait Judge: Send + Sync {
    /// Its name in records.
    fn id(&self) -> &str;

    /// How it judges; the digest of this is in its verdicts.
    fn configuration(&self) -> &Configuration;

    /// Judges a clip within a time. Failures are outcomes, too: they say whose fault they are.
    fn judge(&self, input: &JudgeInput, within: Duration) -> Outcome;
}

/// What calibration says about a verdict of the local judge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibrated {
    /// Chance that the remote judge passes the clip.
    pub p_pass: f64,
    /// The least critical score, on the scale of the remote judge and under the gates that closed.
    pub critical_floor: u8,
}

/// A map from the local judge's scores to the remote one's, fitted to clips that both have judged.
pub trait Calibration: Send + Sync {
    /// What the map says about a verdict, beside a remote judge of this configuration.
    ///
    /// # Errors
    /// Why it does not hold for this verdict and this remote judge: too few clips, another configuration of either,
    /// another model, gates that cannot be read.
    fn apply(&self, local: &Verdict, remote: &Configuration) -> Result<Calibrated, String>;
}

/// Which judges run, and which of them decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The remote judge alone: the network's rule.
    Remote,
    /// Both; the remote one decides.
    #[default]
    Shadow,
    /// The local judge alone.
    Local,
    /// Both; a clip passes where both pass it.
    Both,
    /// Both; the local one decides while the remote one is withdrawn.
    Fallback,
}

impl Mode {
    /// All of them, for lists of choices.
    pub const ALL: [Self; 5] = [
        Self::Remote,
        Self::Shadow,
        Self::Local,
        Self::Both,
        Self::Fallback,
    ];

    /// Its name in settings and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Shadow => "shadow",
            Self::Local => "local",
            Self::Both => "both",
            Self::Fallback => "fallback",
        }
    }

    /// Whether the remote judge is asked.
    pub fn asks_remote(self) -> bool {
        self != Self::Local
    }

    /// Whether the local judge is asked.
    pub fn asks_local(self) -> bool {
        self != Self::Remote
    }
}

/// Who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The remote judge.
    Remote,
    /// The local judge.
    Local,
    /// Both of them.
    Both,
}

/// What follows from the outcomes of a mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Whether the clip passes; `None` where nothing is decided.
    pub pass: Option<bool>,
    /// Who decided it.
    pub by: Option<Side>,
    /// Why, in a sentence.
    pub why: String,
}

impl Decision {
    fn of(side: Side, outcome: Option<&Outcome>) -> Self {
        match outcome {
            Some(Outcome::Verdict(verdict)) => Self {
                pass: Some(verdict.pass),
                by: Some(side),
                why: format!(
                    "{}: overall {} ({}), least critical score {}",
                    verdict.judge,
                    verdict.overall,
                    match verdict.decided_by {
                        super::verdict::DecidedBy::Model => "the model's own",
                        super::verdict::DecidedBy::Weighted => "weighted",
                    },
                    verdict.critical_floor
                ),
            },
            Some(Outcome::NoVerdict(none)) => Self::nothing(format!("{}: {none}", none.judge)),
            None => Self::nothing(format!(
                "the {} judge was not asked",
                match side {
                    Side::Remote => "remote",
                    Side::Local => "local",
                    Side::Both => "other",
                }
            )),
        }
    }

    fn nothing(why: String) -> Self {
        Self {
            pass: None,
            by: None,
            why,
        }
    }
}

/// What both judges said, and what follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judgement {
    /// Which judges ran.
    pub mode: Mode,
    /// What the remote judge said.
    pub remote: Option<Outcome>,
    /// What the local judge said.
    pub local: Option<Outcome>,
    /// What follows.
    pub decision: Decision,
}

/// The judges of a mode, and the map between them.
#[derive(Clone)]
pub struct Bench {
    /// Which judges run.
    pub mode: Mode,
    /// The remote judge, or why there is none.
    pub remote: Result<Arc<dyn Judge>, NoVerdict>,
    /// The local judge, or why there is none.
    pub local: Result<Arc<dyn Judge>, NoVerdict>,
    /// The map of mode `fallback`.
    pub calibration: Option<Arc<dyn Calibration>>,
    /// Time for both.
    pub deadline: Duration,
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |judge: &Result<Arc<dyn Judge>, NoVerdict>| match judge {
            Ok(judge) => judge.id().to_owned(),
            Err(none) => none.to_string(),
        };
        f.debug_struct("Bench")
            .field("mode", &self.mode)
            .field("remote", &name(&self.remote))
            .field("local", &name(&self.local))
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Bench {
    /// Judges a clip.
    pub fn judge(&self, input: &Arc<JudgeInput>) -> Judgement {
        let until = Instant::now() + self.deadline;
        let start = |asks: bool, judge: &Result<Arc<dyn Judge>, NoVerdict>| {
            asks.then(|| match judge {
                Ok(judge) => Running::start(judge, input, self.deadline),
                Err(none) => Running::Over(Box::new(none.clone().into())),
            })
        };
        let remote = start(self.mode.asks_remote(), &self.remote);
        let local = start(self.mode.asks_local(), &self.local);
        let remote = remote.map(|running| running.outcome(until));
        let local = local.map(|running| running.outcome(until));
        self.conclude(remote, local)
    }

    /// Configurations of the judges that ran, the remote one's first.
    pub fn configurations(&self, judgement: &Judgement) -> Vec<&Configuration> {
        let ran = [
            (&judgement.remote, &self.remote),
            (&judgement.local, &self.local),
        ];
        let judges = ran.into_iter().filter(|(outcome, _)| outcome.is_some());
        let judges = judges.filter_map(|(_, judge)| judge.as_ref().ok());
        judges.map(|judge| judge.configuration()).collect()
    }

    /// What follows from outcomes: the rule of the mode, without a judge.
    fn conclude(&self, remote: Option<Outcome>, mut local: Option<Outcome>) -> Judgement {
        let calibrated = self.calibrate(local.as_mut());
        let rules = self
            .remote
            .as_ref()
            .map(|judge| judge.configuration().rules);
        let decision = decide(
            self.mode,
            &rules.unwrap_or_default(),
            remote.as_ref(),
            local.as_ref(),
            calibrated,
        );
        Judgement {
            mode: self.mode,
            remote,
            local,
            decision,
        }
    }

    /// Applies the calibration to the local verdict, whatever the mode: its chance is on record then, or why there is
    /// none.
    fn calibrate(&self, local: Option<&mut Outcome>) -> Result<Calibrated, String> {
        let Some(Outcome::Verdict(verdict)) = local else {
            return Err("there is no local verdict".into());
        };
        let calibration = self.calibration.as_ref().ok_or("there is no calibration")?;
        let remote = self.remote.as_ref().map_err(ToString::to_string);
        let applied = remote.and_then(|remote| calibration.apply(verdict, remote.configuration()));
        match &applied {
            Ok(calibrated) => verdict.calibrated_p_pass = Some(calibrated.p_pass),
            Err(why) => verdict.note("calibration_refused", why.as_str().into()),
        }
        applied
    }
}

/// Whether the remote judge is withdrawn: gone, unreachable for long, or too dear for the rest of the day. One lost
/// request is not, and neither is one task that has used up its share.
pub(super) fn is_withdrawn(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Unavailable | Reason::Budget | Reason::Quota | Reason::ModelGone
    )
}

/// The table of modes; `rules` are those of the remote judge.
pub fn decide(
    mode: Mode,
    rules: &Rules,
    remote: Option<&Outcome>,
    local: Option<&Outcome>,
    calibrated: Result<Calibrated, String>,
) -> Decision {
    match mode {
        Mode::Remote | Mode::Shadow => Decision::of(Side::Remote, remote),
        Mode::Local => Decision::of(Side::Local, local),
        Mode::Both => both(remote, local),
        Mode::Fallback => match remote {
            Some(Outcome::NoVerdict(none)) if is_withdrawn(none.reason) => {
                fallback(*rules, none, local, calibrated)
            }
            other => Decision::of(Side::Remote, other),
        },
    }
}

fn both(remote: Option<&Outcome>, local: Option<&Outcome>) -> Decision {
    let sides = [(Side::Remote, remote), (Side::Local, local)];
    // One that fails it is enough to know.
    let failing = sides
        .iter()
        .find(|(_, outcome)| outcome.and_then(Outcome::pass) == Some(false));
    if let Some((side, outcome)) = failing {
        return Decision::of(*side, *outcome);
    }
    let silent = sides
        .iter()
        .find(|(_, outcome)| outcome.and_then(Outcome::pass).is_none());
    match silent {
        Some((side, outcome)) => Decision::of(*side, *outcome),
        None => Decision {
            pass: Some(true),
            by: Some(Side::Both),
            why: "both judges pass it".into(),
        },
    }
}

fn fallback(
    rules: Rules,
    none: &NoVerdict,
    local: Option<&Outcome>,
    calibrated: Result<Calibrated, String>,
) -> Decision {
    let Some(verdict) = local.and_then(Outcome::verdict) else {
        let why = format!("the remote judge is withdrawn ({none}) and there is no local verdict");
        return Decision::nothing(why);
    };
    match calibrated {
        Err(why) => Decision::nothing(format!(
            "the remote judge is withdrawn ({none}) and the local one may not stand in for it: {why}"
        )),
        Ok(calibrated) => {
            let floor = calibrated.critical_floor;
            let least = rules.pass_critical;
            Decision {
                pass: Some(calibrated.p_pass >= PASS_CHANCE && floor >= least),
                by: Some(Side::Local),
                why: format!(
                    "the remote judge is withdrawn ({none}); by calibration the chance of {} to pass is {:.2}, and \
                     its least critical score {floor}",
                    verdict.judge, calibrated.p_pass
                ),
            }
        }
    }
}

/// A judge at work.
enum Running {
    Over(Box<Outcome>),
    Under {
        judge: String,
        outcome: mpsc::Receiver<Outcome>,
    },
}

impl Running {
    fn start(judge: &Arc<dyn Judge>, input: &Arc<JudgeInput>, within: Duration) -> Self {
        let id = judge.id().to_owned();
        let (sender, outcome) = mpsc::channel();
        let (judge, input) = (Arc::clone(judge), Arc::clone(input));
        let work = move || {
            // Nobody is left to tell when the deadline was faster.
            let _ = sender.send(judge.judge(&input, within));
        };
        match std::thread::Builder::new()
            .name(format!("judge-{id}"))
            .spawn(work)
        {
            Ok(_) => Self::Under { judge: id, outcome },
            Err(error) => {
                let message = format!("cannot start a thread: {error}");
                let none = NoVerdict::new(&id, Reason::Internal, Fault::Transient, message);
                Self::Over(Box::new(none.into()))
            }
        }
    }

    fn outcome(self, until: Instant) -> Outcome {
        let (judge, receiver) = match self {
            Self::Over(outcome) => return *outcome,
            Self::Under { judge, outcome } => (judge, outcome),
        };
        let left = until.saturating_duration_since(Instant::now());
        // A little more than a judge has, so that it can say itself that its time is over.
        match receiver.recv_timeout(left + Duration::from_millis(250)) {
            Ok(outcome) => outcome,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let message = "it was not done before the deadline";
                NoVerdict::new(&judge, Reason::Deadline, Fault::Transient, message).into()
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let message = "it broke down; its thread's report is in the log";
                NoVerdict::new(&judge, Reason::Internal, Fault::Local, message).into()
            }
        }
    }
}

#[cfg(test)]
mod tests;
