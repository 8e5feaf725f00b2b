//! The command line: one file per subcommand.
//!
//! Data goes to stdout, progress, warnings and logs to stderr. Exit codes: 0 done, 1 a passing condition
//! (disk, memory), 2 bad input (option, file, checkpoint), 69 this build or machine cannot do it, 130
//! interrupted.

mod generate;
mod models;
mod progress;
mod serve;
mod target;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use leoma_models::Fault;

pub(crate) use target::{DeviceArg, DtypeArg};

/// GPU-local node for the Leoma subnet: generates and serves Wan 2.2 video.
#[derive(Debug, Parser)]
#[command(name = "leoma-node", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make one clip from a prompt and, where the model takes one, a first frame.
    Generate(Box<generate::GenerateArgs>),
    /// Serve a checkpoint behind a Chutes-compatible HTTP endpoint.
    Serve(serve::ServeArgs),
    /// Look at checkpoints, or make a tiny one to try things with.
    #[command(subcommand)]
    Models(models::ModelsCommand),
}

/// Runs the command line and returns the process's exit code.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Generate(args) => generate::run(*args),
        Command::Serve(args) => serve::run(args),
        Command::Models(command) => models::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Prints an error chain and picks the exit code by whose fault it is.
#[allow(clippy::print_stderr)]
fn report(error: &anyhow::Error) -> ExitCode {
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
    });
    if let Some((_, true)) = model {
        eprintln!("interrupted");
        return ExitCode::from(130);
    }
    eprintln!("error: {error:#}");
    ExitCode::from(match model {
        Some((Fault::Caller | Fault::Artifact, _)) => 2,
        Some((Fault::Local, _)) => 69,
        Some((Fault::Transient, _)) | None => 1,
    })
}
