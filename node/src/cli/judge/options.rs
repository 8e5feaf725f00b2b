//! Options of whoever judges: one clip or many.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use leoma_models::Fault;

use super::calibrate::read_table;
use super::remote::RemoteArgs;
use super::weights::LocalArgs;
use crate::Error;
use crate::cli::layers::Origins;
use crate::cli::units::Seconds;
use crate::judge::calibration::table::Table;
use crate::judge::local::{Dump, LocalProfile, LocalSettings, open};
use crate::judge::profile::{Configuration, Profile};
use crate::judge::remote::RemoteJudge;
use crate::judge::rubric::Rules;
use crate::judge::sampling::FrameRule;
use crate::judge::side::{Bench, Calibration, Judge, Mode};
use crate::judge::verdict::{NoVerdict, Reason};

/// How a clip is judged.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Which judges run, and which of them decides.
    #[arg(
        long,
        value_name = "MODE",
        default_value = "shadow",
        value_parser = modes(),
        env = "LEOMA_NODE_JUDGE_MODE",
        help_heading = "Judging"
    )]
    mode: Mode,
    /// How the remote judge is asked and read.
    #[arg(
        long,
        value_name = "PROFILE",
        default_value = "whitepaper",
        value_parser = profiles(),
        env = "LEOMA_NODE_JUDGE_PROFILE",
        help_heading = "Judging"
    )]
    profile: Profile,
    /// Time for all judges together.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "90s",
        env = "LEOMA_NODE_JUDGE_DEADLINE",
        help_heading = "Judging"
    )]
    deadline: Seconds,
    /// Least overall score that passes.
    #[arg(
        long,
        value_name = "SCORE",
        default_value_t = 75,
        value_parser = clap::value_parser!(u8).range(1..=100),
        env = "LEOMA_NODE_JUDGE_PASS_THRESHOLD",
        help_heading = "Judging"
    )]
    pass_threshold: u8,
    /// Least score in the three critical dimensions.
    #[arg(
        long,
        value_name = "SCORE",
        default_value_t = 50,
        value_parser = clap::value_parser!(u8).range(0..=100),
        env = "LEOMA_NODE_JUDGE_CRITICAL_THRESHOLD",
        help_heading = "Judging"
    )]
    critical_threshold: u8,
    /// Most frames that are shown to the remote judge.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 12,
        value_parser = clap::value_parser!(u8).range(1..=64),
        env = "LEOMA_NODE_JUDGE_MAX_FRAMES",
        help_heading = "Judging"
    )]
    max_frames: u8,
    /// Frames per second that are shown to the remote judge.
    #[arg(
        long,
        value_name = "RATE",
        default_value = "3",
        env = "LEOMA_NODE_JUDGE_FRAME_RATE",
        help_heading = "Judging"
    )]
    frame_rate: RateArg,
    /// Table of `judge calibrate`: the local verdict says then how likely the remote judge is to pass the clip, and
    /// mode fallback may rest on it. For modes that ask both judges.
    #[arg(
        long,
        value_name = "TABLE",
        env = "LEOMA_NODE_JUDGE_CALIBRATION",
        help_heading = "Judging"
    )]
    calibration: Option<PathBuf>,
    #[command(flatten)]
    local: LocalArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

fn modes() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(Mode::ALL.map(Mode::name)).try_map(|name| {
        let found = Mode::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or("is no mode")
    })
}

fn profiles() -> impl TypedValueParser<Value = Profile> {
    PossibleValuesParser::new(Profile::ALL.map(Profile::name)).try_map(|name| {
        let found = Profile::ALL
            .into_iter()
            .find(|profile| profile.name() == name);
        found.ok_or("is no profile")
    })
}

/// `3`, `2.5` or `30000/1001`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RateArg(u32, u32);

impl std::str::FromStr for RateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "write a number above 0, such as 3, 2.5 or 30000/1001".to_owned();
        let whole = |text: &str| text.parse::<u32>().ok().filter(|n| *n > 0).ok_or_else(form);
        if let Some((numerator, denominator)) = text.split_once('/') {
            return Ok(Self(whole(numerator)?, whole(denominator)?));
        }
        match text.split_once('.') {
            None => Ok(Self(whole(text)?, 1)),
            Some((_, decimals)) if decimals.is_empty() || decimals.len() > 6 => Err(form()),
            Some((units, decimals)) => {
                let denominator = 10u32.pow(decimals.len() as u32);
                let digits = format!("{units}{decimals}");
                Ok(Self(whole(digits.trim_start_matches('0'))?, denominator))
            }
        }
    }
}

impl Options {
    /// The judges that these options ask for.
    ///
    /// # Errors
    /// [`Error`] for options that cannot be used, a model's folder and a calibration among them; a judge that is only
    /// missing is a [`NoVerdict`].
    pub(super) fn bench(&self, origins: &Origins) -> Result<Bench, Error> {
        self.bench_with(origins, None)
    }

    /// The same, with a file for the tensors of the first local judgement.
    ///
    /// # Errors
    /// As [`Options::bench`], and [`Error`] when no local model judges in this mode and profile.
    pub(super) fn bench_with(
        &self,
        origins: &Origins,
        dump: Option<&Arc<Dump>>,
    ) -> Result<Bench, Error> {
        if dump.is_some() {
            self.can_dump()?;
        }
        self.can_calibrate()?;
        let deadline = super::deadline(&self.deadline)?;
        let calibration = self.calibration.as_deref().map(calibration).transpose()?;
        super::warn(&self.doubts(calibration.as_deref()));
        let local = self.local(dump)?;
        let remote = if self.mode.asks_remote() {
            self.remote.remote(origins)?
        } else {
            Err(none("remote", "the mode asks no remote judge"))
        };
        if let Ok(remote) = &remote {
            super::warn(&remote.warnings());
        }
        let configuration = self.configuration();
        let remote = remote.and_then(|remote| RemoteJudge::new(remote, configuration));
        Ok(Bench {
            mode: self.mode,
            remote: remote.map(|judge| Arc::new(judge) as Arc<dyn Judge>),
            local,
            calibration: calibration.map(|table| table as Arc<dyn Calibration>),
            deadline,
        })
    }

    /// The local judge. A model that was named and cannot be used is an error: nobody waits for verdicts, and pays for
    /// the other side of them, to find that half of each is missing.
    fn local(&self, dump: Option<&Arc<Dump>>) -> Result<Result<Arc<dyn Judge>, NoVerdict>, Error> {
        if !self.mode.asks_local() {
            return Ok(Err(none("local", "the mode asks no local judge")));
        }
        let Configuration { rules, frames, .. } = self.configuration();
        let settings = LocalSettings {
            rules,
            frames,
            compare: self.mode.asks_remote(),
            dump: dump.cloned(),
            ..self.local.settings()?
        };
        let judge = open(&settings).map_err(|none| leoma_models::Error::local(none.message))?;
        Ok(Ok(judge))
    }

    /// What a dump needs.
    fn can_dump(&self) -> Result<(), Error> {
        let why = if self.local.model.is_none() {
            "it holds what a local model computes: name one with --local-model"
        } else if !self.mode.asks_local() {
            "it holds what a local model computes, and the mode asks none: choose another --mode"
        } else if self.local.profile != LocalProfile::Rubric {
            "it holds six questions and their answers: use --local-profile rubric"
        } else {
            return Ok(());
        };
        Err(Error::caller("dump", why))
    }

    /// What a calibration needs.
    fn can_calibrate(&self) -> Result<(), Error> {
        if self.calibration.is_none() || (self.mode.asks_local() && self.mode.asks_remote()) {
            return Ok(());
        }
        let why = format!(
            "it maps a local verdict to a remote one, and mode {} asks one judge only: leave it out, or choose a \
             --mode that asks both",
            self.mode.name()
        );
        Err(Error::caller("calibration", why))
    }

    /// Why mode fallback would decide nothing while the remote judge is withdrawn, as far as that is known now.
    fn doubts(&self, table: Option<&Table>) -> Vec<String> {
        if self.mode != Mode::Fallback {
            return Vec::new();
        }
        let why = match table {
            None => vec!["there is no --calibration".to_owned()],
            Some(table) => table.unfit_for_fallback(),
        };
        let warning = |why: &String| {
            format!("mode fallback: the local judge will not stand in for the remote one: {why}")
        };
        why.iter().map(warning).collect()
    }

    /// How the remote judge is asked and read.
    pub(super) fn configuration(&self) -> Configuration {
        let rules = Rules {
            pass_overall: self.pass_threshold,
            pass_critical: self.critical_threshold,
        };
        let frames = FrameRule {
            rate: (self.frame_rate.0, self.frame_rate.1),
            most: self.max_frames.into(),
        };
        Configuration::remote(self.profile, &self.remote.remote_model, rules, frames)
    }
}

/// A table from a file.
fn calibration(path: &Path) -> Result<Arc<Table>, Error> {
    let table = read_table(path).map_err(|error| {
        error.downcast::<Error>().unwrap_or_else(|error| {
            let why = error.root_cause();
            Error::caller("calibration", format!("{}: {why}", path.display()))
        })
    });
    table.map(Arc::new)
}

/// A judge that the mode does not ask.
fn none(judge: &str, message: &str) -> NoVerdict {
    NoVerdict::new(judge, Reason::Unavailable, Fault::Local, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, rate) in [
            ("3", RateArg(3, 1)),
            ("3.0", RateArg(30, 10)),
            ("2.5", RateArg(25, 10)),
            ("0.5", RateArg(5, 10)),
            ("30000/1001", RateArg(30_000, 1001)),
        ] {
            assert_eq!(text.parse(), Ok(rate));
        }
        for wrong in [
            "",
            "0",
            "0.0",
            "-3",
            "3.",
            "1/0",
            "x",
            "1e9",
            "99999999999",
            "3/",
        ] {
            assert!(wrong.parse::<RateArg>().is_err(), "{wrong}");
        }
    }
}
