//! `serve --judge`: clips that are judged at `POST /v1/judge`.
//!
//! The judges are those of the command `judge`, made by it: what is not said here comes from its variables
//! (`LEOMA_NODE_JUDGE_…`) and its table of the configuration file, so that both judge alike.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use candle_core::{Device, DeviceLocation};
use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::cli::units::Seconds;
use crate::http::JudgeOptions;
use crate::judge::embeddings::EmbeddingConfiguration;
use crate::judge::local::SIGNALS_ID;
use crate::judge::profile::Profile;
use crate::judge::side::Mode;

/// Whether clips are judged, and how.
#[derive(Debug, Args)]
pub(super) struct JudgingArgs {
    /// Judge clips at POST /v1/judge in this mode of `leoma-node judge`; default: clips are not judged.
    #[arg(
        long,
        value_name = "MODE",
        value_parser = PossibleValuesParser::new(Mode::ALL.map(Mode::name)),
        env = "LEOMA_NODE_JUDGE",
        help_heading = "Judging"
    )]
    judge: Option<String>,
    /// How the remote judge is asked and read; this and what follows: default as of `leoma-node judge`.
    #[arg(
        long,
        value_name = "PROFILE",
        value_parser = PossibleValuesParser::new(Profile::ALL.map(Profile::name)),
        env = "LEOMA_NODE_JUDGE_PROFILE",
        help_heading = "Judging"
    )]
    judge_profile: Option<String>,
    /// Folder of the local judge's model; without one the local side is the signals.
    #[arg(
        long,
        value_name = "DIR",
        env = "LEOMA_NODE_JUDGE_LOCAL_MODEL",
        help_heading = "Judging"
    )]
    judge_local_model: Option<PathBuf>,
    /// Calibration of the local judge, for mode fallback.
    #[arg(
        long,
        value_name = "FILE",
        env = "LEOMA_NODE_JUDGE_CALIBRATION",
        help_heading = "Judging"
    )]
    judge_calibration: Option<PathBuf>,
    /// Time for all judges together; a request waits no longer than that for its turn.
    #[arg(
        long,
        value_name = "TIME",
        env = "LEOMA_NODE_JUDGE_DEADLINE",
        help_heading = "Judging"
    )]
    judge_deadline: Option<Seconds>,
    // The configuration file, where the command line names one.
    #[arg(from_global)]
    config: Option<PathBuf>,
}

impl JudgingArgs {
    /// The judges, where clips are judged. A model of this machine is loaded here, before the one that makes clips,
    /// so that the latter's plan sees how much memory is left on `device`.
    ///
    /// # Errors
    /// Options that cannot be used. A judge that is only missing is none: it gives no verdicts, and that is logged.
    pub(super) fn open(&self, device: &Device) -> Result<Option<JudgeOptions>> {
        let Some(line) = self.line(device) else {
            return Ok(None);
        };
        let (bench, log) = crate::cli::judge::judges(&line, self.config.as_deref())?;
        let missing = [
            (bench.mode.asks_remote(), &bench.remote),
            (bench.mode.asks_local(), &bench.local),
        ];
        for (is_asked, judge) in missing {
            if let (true, Err(none)) = (is_asked, judge) {
                tracing::warn!(judge = %none.judge, "this judge will give no verdicts: {none}");
            }
        }
        let has_weights = bench.local.as_ref().is_ok_and(|judge| {
            judge.id() != SIGNALS_ID || EmbeddingConfiguration::of(judge.configuration()).is_some()
        });
        Ok(Some(JudgeOptions {
            shares_device: has_weights && device.is_cuda(),
            bench,
            log,
        }))
    }

    /// What is said here, as a command line of `judge`; its model computes where clips are made. None where clips are
    /// not judged.
    fn line(&self, device: &Device) -> Option<Vec<OsString>> {
        let mode = OsString::from(self.judge.as_ref()?);
        let device = match device.location() {
            DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            _ => "cpu".to_owned(),
        };
        let deadline = self.judge_deadline.map(|time| time.to_string().into());
        let model = self.judge_local_model.clone();
        let calibration = self.judge_calibration.clone();
        let given = [
            ("--mode", Some(mode)),
            ("--profile", self.judge_profile.clone().map(OsString::from)),
            ("--local-model", model.map(PathBuf::into_os_string)),
            ("--calibration", calibration.map(PathBuf::into_os_string)),
            ("--deadline", deadline),
            ("--device", Some(device.into())),
        ];
        let mut line = vec![OsString::from("judge")];
        for (flag, value) in given {
            if let Some(value) = value {
                let mut option = OsString::from(flag);
                option.push("=");
                option.push(value);
                line.push(option);
            }
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_said_here_goes_before_what_judge_is_set_to() {
        let mut args = JudgingArgs {
            judge: None,
            judge_profile: Some("subnet".into()),
            judge_local_model: None,
            judge_calibration: None,
            judge_deadline: Some("1500ms".parse().unwrap()),
            config: None,
        };
        assert_eq!(args.line(&Device::Cpu), None);
        assert!(args.open(&Device::Cpu).unwrap().is_none());
        args.judge = Some("local".into());
        let line = [
            "judge",
            "--mode=local",
            "--profile=subnet",
            "--deadline=1500ms",
            "--device=cpu",
        ];
        assert_eq!(args.line(&Device::Cpu).unwrap(), line);
    }
}
