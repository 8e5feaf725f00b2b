//! The command line: one file per subcommand.
//!
//! Data goes to stdout, progress, warnings and logs to stderr. Exit codes: 0 done, 1 a passing condition
//! (disk, memory, network), 2 bad input (option, file, checkpoint), 69 this build or machine cannot do it, 75 the
//! device is lost, 130 interrupted. `audit` and `judge` have their own: see `audit/mod.rs`, `judge/mod.rs`.

mod audit;
mod bench;
mod completions;
mod config;
mod doctor;
mod generate;
mod hub;
mod judge;
mod layers;
mod local_model;
mod man;
mod model_files;
mod models;
mod progress;
#[cfg(test)]
mod reference;
mod serve;
mod target;
mod units;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use leoma_models::Fault;

use layers::{Failure, Missing, process_env, resolve};

pub(crate) use target::DeviceArg;

/// What `--version` prints behind the name.
fn version() -> String {
    format!("{} ({})", env!("CARGO_PKG_VERSION"), crate::cuda::build())
}

/// Examples and exit codes under `leoma-node --help`.
const AFTER_HELP: &str = "\
Examples:
  One clip, out.mp4, from the small checkpoint inside this program:
    leoma-node generate --model tiny --prompt 'a red ball moves to the right on a striped background'
  The HTTP endpoint on 127.0.0.1:8000:
    leoma-node serve --model tiny
  A checkpoint of the Hub, downloaded first where it is not there:
    leoma-node serve --model USER/NAME --revision COMMIT
  What is missing on this machine:
    leoma-node doctor --role miner --model DIR
  Every setting of `serve` and where it comes from:
    leoma-node config show --origin
  Completions for bash:
    leoma-node completions bash > ~/.local/share/bash-completion/completions/leoma-node

  Does a clip pass?
    leoma-node judge --video clip.mp4 --first-frame first.png --prompt 'a boat drifts'
  Which of many repositories are copies of each other:
    leoma-node audit scan DIR --base BASE --format html --output audit.html

Settings: a flag goes before its environment variable, that before the file, that before the
default. A switch is also taken as --switch=false.

Exit codes:
  0    done
  1    a passing condition (disk, memory, network), a failed check; `audit` found, `judge` failed something
  2    bad input: an option, a file, a checkpoint, the configuration; `audit` or `judge` cannot tell
  69   this build or machine cannot do it
  75   the device is lost; start again
  130  interrupted";

/// GPU-local node for the Leoma subnet: generates and serves Wan 2.2 video.
#[derive(Debug, Parser)]
#[command(name = "leoma-node", version = version(), propagate_version = true, after_help = AFTER_HELP)]
struct Cli {
    /// Settings file (TOML); default: leoma-node/config.toml in $XDG_CONFIG_HOME or ~/.config.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "LEOMA_NODE_CONFIG",
        help_heading = "Configuration"
    )]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make one clip from a prompt and, where the model takes one, a first frame.
    Generate(Box<generate::GenerateArgs>),
    /// Serve a checkpoint behind a Chutes-compatible HTTP endpoint.
    Serve(Box<serve::ServeArgs>),
    /// Look at checkpoints, get them from the Hub, or make a tiny one to try things with.
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// Say what a repository of weights holds, whether it keeps the rules, and whether it is a copy.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Judge a clip: six scores, from a remote model and from this machine, and whether it passes.
    Judge(Box<judge::JudgeArgs>),
    /// Measure how long clips take on this machine (runs leoma-bench, which lies beside this program).
    Bench(bench::BenchArgs),
    /// Check what this machine has and lacks for a role, and say what to do.
    Doctor(doctor::DoctorArgs),
    /// Show settings and where they come from.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one page per subcommand.
    Man(man::ManArgs),
}

/// Groups of subcommands in `leoma-node --help`.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Video", &["generate", "serve"]),
    ("Judging", &["judge"]),
    ("Checkpoints", &["models", "audit"]),
    ("This machine", &["bench", "doctor", "config"]),
    ("Shell", &["completions", "man", "help"]),
];

/// The definition of the command line: the one list of settings.
fn definition() -> clap::Command {
    let root = Cli::command();
    let listing = grouped(&root);
    layers::with_switches(root)
        .override_usage("leoma-node [OPTIONS] <COMMAND>")
        .help_template(format!(
            "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{listing}{{options}}{{after-help}}"
        ))
}

/// The subcommands under their groups; what is in none comes last.
fn grouped(root: &clap::Command) -> String {
    let about = |name: &str| match root.find_subcommand(name) {
        Some(command) => command.get_about().map(ToString::to_string),
        None if name == "help" => Some("Print this, or the help of a subcommand".into()),
        None => None,
    };
    let other: Vec<&str> = root
        .get_subcommands()
        .map(clap::Command::get_name)
        .filter(|name| !GROUPS.iter().any(|(_, names)| names.contains(name)))
        .collect();
    let mut text = String::new();
    for (title, names) in GROUPS.into_iter().chain([("Other", other.as_slice())]) {
        if names.is_empty() {
            continue;
        }
        // Writing into a text cannot fail.
        let _ = writeln!(text, "{title}:");
        for name in names {
            let _ = writeln!(text, "  {name:<12} {}", about(name).unwrap_or_default());
        }
        text.push('\n');
    }
    text
}

/// Runs the command line and returns the process's exit code.
pub fn run() -> ExitCode {
    if let Some(code) = crate::judge::decode::child_of_command_line() {
        return code;
    }
    match dispatch() {
        Ok(code) => code,
        Err(error) => ExitCode::from(explain(&error)),
    }
}

#[allow(clippy::print_stderr)]
fn dispatch() -> anyhow::Result<ExitCode> {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let resolved = resolve(&definition(), &argv, &process_env, Missing::Refused)?;
    for warning in &resolved.warnings {
        eprintln!("warning: {warning}");
    }
    let cli = Cli::from_arg_matches(&resolved.matches).map_err(Failure::from)?;
    let config = cli.config.as_deref();
    match cli.command {
        Command::Generate(args) => generate::run(*args, resolved.origins())?,
        Command::Serve(args) => serve::run(*args)?,
        Command::Models(command) => return models::run(command),
        Command::Audit(command) => return audit::run(command),
        Command::Judge(args) => return judge::run(*args, &resolved.origins()),
        Command::Bench(args) => bench::run(&args)?,
        Command::Doctor(args) => return doctor::run(&args, config),
        Command::Config(command) => config::run(&command, config)?,
        Command::Completions(args) => completions::run(&args)?,
        Command::Man(args) => man::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes data to stdout; a reader that has seen enough is no error.
fn output(text: &[u8]) -> anyhow::Result<()> {
    use std::io::{ErrorKind, Write as _};
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to stdout"))
        }
        _ => Ok(()),
    }
}

/// Prints an error chain and picks the exit code by whose fault it is.
#[allow(clippy::print_stderr)]
fn explain(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Failure>() {
        Some(Failure::Usage(usage)) => {
            // Help and version are not errors; nobody is left to tell when they cannot be printed.
            let _ = usage.print();
            return usage.exit_code() as u8;
        }
        Some(Failure::Settings(problems)) => {
            for problem in problems {
                eprintln!("error: {problem}");
            }
            return 2;
        }
        None => {}
    }
    let model = error.chain().find_map(|cause| {
        cause
            .downcast_ref::<crate::Error>()
            .map(|error| (error.fault(), error.is_cancelled()))
            .or_else(|| {
                cause.downcast_ref::<leoma_models::Error>().map(|error| {
                    (
                        error.fault(),
                        matches!(error, leoma_models::Error::Cancelled),
                    )
                })
            })
            .or_else(|| {
                cause
                    .downcast_ref::<crate::client::ClientError>()
                    .map(|error| (error.fault(), error.is_cancelled()))
            })
            .or_else(|| {
                cause
                    .downcast_ref::<crate::hub::HubError>()
                    .map(|error| (error.fault(), error.is_cancelled()))
            })
    });
    if let Some((_, true)) = model {
        eprintln!("interrupted");
        return 130;
    }
    eprintln!("error: {error:#}");
    match model {
        Some((Fault::Caller | Fault::Artifact, _)) => 2,
        Some((Fault::Local, _)) => 69,
        Some((Fault::Transient, _)) | None => 1,
    }
}
