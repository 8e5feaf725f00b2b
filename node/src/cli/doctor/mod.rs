//! `leoma-node doctor`: what this machine has and lacks for a role, and what to do. Uses no network.
//!
//! The checks look at what `serve` would use under the same flags, environment and configuration file.

mod gpu;
mod machine;
mod node;
mod storage;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Result;
use clap::{ArgMatches, Args, ValueEnum};
use leoma_models::weights::{Component, Inspection, ModelFiles, inspect_files};
use serde::Serialize;

use super::config::settings_of;
use super::generate::Format;
use super::layers::{Failure, Resolved};
use super::local_model::cached_model;
use super::serve::default_data_dir;
use crate::cuda::{Problem, Survey};

/// For a driver to answer: starting eight cards takes it seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the machine is for; decides which checks must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    /// Serves a checkpoint to the subnet.
    Miner,
    /// Judges clips of miners.
    Validator,
    /// Makes clips and changes the code.
    Developer,
    /// Looks into checkpoints.
    Auditor,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// What the machine is for.
    #[arg(long, value_enum, default_value_t = Role::Developer)]
    role: Role,
    /// Checkpoint: a folder, or user/name of the Hub that is downloaded; default: that of `serve`.
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Folder for jobs and clips; default: that of `serve`.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Port to serve on; default: that of `serve`.
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
    Skip,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    id: &'static str,
    status: Status,
    found: String,
    remedy: Option<String>,
}

/// The report; its JSON is an interface.
#[derive(Debug, Serialize)]
struct Report {
    role: Role,
    ok: bool,
    checks: Vec<Check>,
}

/// What a check found, before the role decides how bad that is.
#[derive(Debug)]
enum Finding {
    /// As it should be.
    Good(String),
    /// Works, but not well: a warning for every role.
    Poor(String, String),
    /// Does not work: fails for the roles that need it.
    Bad(String, String),
    /// Nothing to look at.
    Skip(String),
}

impl Finding {
    fn good(found: impl Into<String>) -> Self {
        Self::Good(found.into())
    }

    fn poor(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Poor(found.into(), remedy.into())
    }

    fn bad(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Bad(found.into(), remedy.into())
    }

    fn skip(found: impl Into<String>) -> Self {
        Self::Skip(found.into())
    }
}

/// The files that `serve` would load, LoRAs aside: they change no size.
fn replaced(model: &Path, value: &impl Fn(&str) -> Option<String>) -> ModelFiles {
    let options = [
        (Component::Transformer, "transformer"),
        (Component::Transformer2, "transformer_2"),
        (Component::Vae, "vae"),
        (Component::TextEncoder, "text_encoder"),
    ];
    ModelFiles {
        replaced: options
            .into_iter()
            .filter_map(|(component, option)| Some((component, value(option)?.into())))
            .collect(),
        ..ModelFiles::new(model)
    }
}

/// What `serve` would work with.
#[derive(Debug)]
struct Subject {
    role: Role,
    model: Option<PathBuf>,
    inspection: Option<Inspection>,
    dtype: String,
    device: String,
    offload: String,
    data_dir: PathBuf,
    host: IpAddr,
    port: u16,
    connections: u64,
    min_free_bytes: u64,
    key_file: Option<PathBuf>,
    config_file: Option<PathBuf>,
    config_has_secret: bool,
    config_problem: Option<String>,
    survey: OnceLock<Survey>,
}

impl Subject {
    fn new(args: &DoctorArgs, config: Option<&Path>) -> Result<Self> {
        let serve = [OsString::from("serve")];
        let (serve, config_problem) = match settings_of(&serve, config) {
            Ok(resolved) => (Some(resolved), None),
            Err(error) => match error.downcast_ref::<Failure>() {
                Some(failure) => (None, Some(failure.to_string().trim().to_owned())),
                None => return Err(error),
            },
        };
        let value = |name: &str| serve.as_ref().and_then(|serve| text(serve.leaf(), name));
        let model = args
            .model
            .clone()
            .or_else(|| value("model").map(PathBuf::from))
            .map(|model| cached_model(&model, value("revision").as_deref()));
        let data_dir = args
            .data_dir
            .clone()
            .or_else(|| value("data_dir").map(PathBuf::from))
            .or_else(|| default_data_dir().ok())
            .unwrap_or_else(std::env::temp_dir);
        Ok(Self {
            role: args.role,
            inspection: model
                .as_deref()
                .map(|model| inspect_files(&replaced(model, &value))),
            model,
            dtype: value("dtype").unwrap_or_else(|| "f32".into()),
            device: value("device").unwrap_or_else(|| "auto".into()),
            offload: value("offload").unwrap_or_else(|| "auto".into()),
            data_dir,
            host: value("host")
                .and_then(|host| host.parse().ok())
                .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
            port: args
                .port
                .or_else(|| value("port")?.parse().ok())
                .unwrap_or(8000),
            connections: value("max_connections")
                .and_then(|count| count.parse().ok())
                .unwrap_or(1024),
            min_free_bytes: value("min_free_bytes")
                .and_then(|size| size.parse::<super::units::Bytes>().ok())
                .map_or(1 << 30, |size| size.0),
            key_file: value("api_key_file").map(PathBuf::from),
            config_file: serve.as_ref().and_then(|serve| serve.file.clone()),
            config_has_secret: serve.as_ref().is_some_and(Resolved::has_secret_in_file),
            config_problem,
            survey: OnceLock::new(),
        })
    }

    /// Bytes that the weights take under these settings.
    fn weights(&self) -> Option<u64> {
        let plans = &self.inspection.as_ref()?.memory;
        let plan = plans.iter().find(|plan| plan.dtype == self.dtype)?;
        Some(match self.offload.as_str() {
            "none" => plan.offload_none,
            "experts" => plan.offload_experts,
            // The transformer comes block by block: the text encoder is the largest that must fit.
            _ => plan
                .components
                .get(&Component::TextEncoder)
                .copied()
                .unwrap_or(0),
        })
        .filter(|bytes| *bytes > 0)
    }

    /// What the launcher finds on this machine.
    fn survey(&self) -> &Survey {
        self.survey.get_or_init(|| Survey::within(PATIENCE))
    }

    /// Number of the card that is asked for.
    fn ordinal(&self) -> usize {
        let number = self.device.strip_prefix("cuda:");
        number.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// Whether a card is of no interest: the CPU was asked for, or there is nothing of CUDA here and the
    /// role can do without.
    fn leaves_cards(&self) -> bool {
        let nothing = || {
            let survey = self.survey();
            survey.program.is_err() && matches!(survey.driver, Err(Problem::NoDriver { .. }))
        };
        self.device == "cpu" || (self.device == "auto" && self.role != Role::Miner && nothing())
    }

    /// Whether the weights will lie on a card.
    fn uses_card(&self) -> bool {
        self.device != "cpu" && self.survey().problems(self.ordinal()).is_empty()
    }
}

/// The last value of an argument, where the subcommand has such an argument.
fn text(matches: &ArgMatches, name: &str) -> Option<String> {
    let mut raw = matches.try_get_raw(name).ok().flatten()?;
    raw.next_back()
        .map(|value| value.to_string_lossy().into_owned())
}

/// Looks at one thing.
type Look = fn(&Subject) -> Finding;

/// All checks in the order in which they are shown, with the roles that cannot do without.
const CHECKS: [(&str, Look, &[Role]); 23] = {
    use Role::{Auditor, Developer, Miner, Validator};
    const ALL: &[Role] = &[Miner, Validator, Developer, Auditor];
    const RUNS: &[Role] = &[Miner, Developer];
    [
        ("config", node::config, ALL),
        ("environment", node::environment, &[]),
        ("key_file", node::key_file, &[Miner]),
        ("encoder", node::encoder, &[Miner, Validator, Developer]),
        ("model", node::model, &[Miner, Developer, Auditor]),
        ("cpu", machine::cpu, &[]),
        ("memory", machine::memory, RUNS),
        ("cgroup", machine::cgroup, RUNS),
        ("open_files", machine::open_files, &[Miner]),
        ("shm", machine::shm, &[]),
        ("clock", machine::clock, &[]),
        ("data_dir", storage::writable, ALL),
        ("disk", storage::disk, ALL),
        ("lock", storage::lock, &[Miner]),
        ("port", machine::port, &[Miner]),
        ("device", gpu::device, RUNS),
        ("cuda_program", gpu::program, &[]),
        ("cuda_driver", gpu::driver, &[]),
        ("cuda_libraries", gpu::libraries, &[]),
        ("cudnn", gpu::cudnn, &[]),
        ("cuda_nodes", gpu::nodes, &[]),
        ("gpu", gpu::query, RUNS),
        ("mig", gpu::mig, &[]),
    ]
};

impl Report {
    fn new(subject: &Subject) -> Self {
        let checks: Vec<Check> = CHECKS
            .iter()
            .map(|(id, look, needed_by)| {
                let (status, found, remedy) = match look(subject) {
                    Finding::Good(found) => (Status::Ok, found, None),
                    Finding::Skip(found) => (Status::Skip, found, None),
                    Finding::Poor(found, remedy) => (Status::Warn, found, Some(remedy)),
                    Finding::Bad(found, remedy) => {
                        let status = if needed_by.contains(&subject.role) {
                            Status::Fail
                        } else {
                            Status::Warn
                        };
                        (status, found, Some(remedy))
                    }
                };
                Check {
                    id,
                    status,
                    found,
                    remedy,
                }
            })
            .collect();
        Self {
            role: subject.role,
            ok: checks.iter().all(|check| check.status != Status::Fail),
            checks,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let status = match check.status {
                Status::Ok => "ok  ",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
                Status::Skip => "skip",
            };
            let _ = writeln!(text, "{status}  {:<14} {}", check.id, check.found);
            if let Some(remedy) = &check.remedy {
                let _ = writeln!(text, "{:>21}{remedy}", "-> ");
            }
        }
        let failed = self
            .checks
            .iter()
            .filter(|check| check.status == Status::Fail);
        let role = self.role.to_possible_value();
        let role = role.as_ref().map_or("role", |value| value.get_name());
        let _ = match failed.count() {
            0 => writeln!(text, "\nready for a {role}"),
            count => writeln!(text, "\nnot ready for a {role}: {count} to mend"),
        };
        text
    }
}

pub(super) fn run(args: &DoctorArgs, config: Option<&Path>) -> Result<ExitCode> {
    let report = Report::new(&Subject::new(args, config)?);
    let text = match args.format {
        Format::Text => report.text(),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
    };
    super::output(text.as_bytes())?;
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Bytes as people read them.
fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_role_decides_between_warning_and_failure() {
        let folder = tempfile::tempdir().unwrap();
        let subject = |role| Subject {
            role,
            model: None,
            inspection: None,
            dtype: "f32".into(),
            device: "cpu".into(),
            offload: "none".into(),
            data_dir: folder.path().to_owned(),
            host: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            port: 0,
            connections: 16,
            min_free_bytes: 1,
            key_file: None,
            config_file: None,
            config_has_secret: false,
            config_problem: None,
            survey: OnceLock::new(),
        };
        let status = |role| {
            let report = Report::new(&subject(role));
            let model = report.checks.iter().find(|check| check.id == "model");
            (report.ok, model.unwrap().status)
        };
        assert_eq!(status(Role::Miner), (false, Status::Fail));
        assert_eq!(status(Role::Validator).1, Status::Warn);
        assert!(status(Role::Validator).0);
    }
}
