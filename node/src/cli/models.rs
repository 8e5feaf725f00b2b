//! `leoma-node models`: look at a checkpoint, make a tiny one, or get one from the Hub.

mod cache;
mod pull;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use leoma_models::tiny::{make_tiny, make_tiny_judge};
use leoma_models::weights::{ModelKind, inspect};

use super::generate::Format;

#[derive(Debug, Subcommand)]
pub(super) enum ModelsCommand {
    /// Say what a checkpoint is, what it needs, and what would fail when it is loaded.
    Inspect(InspectArgs),
    /// Download a repository of the Hub into the cache that the Python tools share.
    Pull(Box<pull::PullArgs>),
    /// Say which repositories, commits and bytes are in that cache.
    List(cache::ListArgs),
    /// Read every file of a commit in that cache and compare it with what the Hub said. Uses no network.
    Verify(cache::VerifyArgs),
    /// Remove a repository, or one commit of it, from that cache.
    Rm(cache::RmArgs),
    /// Write a small random checkpoint of the true architecture (a few MB, deterministic).
    MakeTiny(MakeTinyArgs),
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Checkpoint folder, diffusers or official layout.
    dir: PathBuf,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct MakeTinyArgs {
    /// Kind of model: a generator, or a judge for `judge --local-model`.
    #[arg(long, value_enum)]
    kind: Kind,
    /// Seed of the random weights: the same seed gives the same bytes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder to create.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(name = "ti2v-5b")]
    Ti2v5b,
    #[value(name = "i2v-a14b")]
    I2vA14b,
    #[value(name = "t2v-a14b")]
    T2vA14b,
    Judge,
}

impl Kind {
    /// Which generator it is; `None` for a judge.
    fn generator(self) -> Option<ModelKind> {
        match self {
            Self::Ti2v5b => Some(ModelKind::Ti2v5b),
            Self::I2vA14b => Some(ModelKind::I2vA14b),
            Self::T2vA14b => Some(ModelKind::T2vA14b),
            Self::Judge => None,
        }
    }
}

#[allow(clippy::print_stdout)]
pub(super) fn run(command: ModelsCommand) -> Result<ExitCode> {
    match command {
        ModelsCommand::Inspect(args) => {
            let inspection = inspect(&args.dir);
            match args.format {
                Format::Text => print!("{inspection}"),
                Format::Json => println!("{}", serde_json::to_string_pretty(&inspection)?),
            }
            if let Some(problem) = inspection.problems.first() {
                let count = inspection.problems.len();
                let message = format!(
                    "cannot be used, {count} problem(s); first: {}: {}",
                    problem.path.display(),
                    problem.message
                );
                return Err(leoma_models::Error::artifact(&args.dir, message).into());
            }
        }
        ModelsCommand::Pull(args) => pull::run(&args)?,
        ModelsCommand::List(args) => cache::run_list(&args)?,
        ModelsCommand::Verify(args) => return cache::run_verify(&args),
        ModelsCommand::Rm(args) => cache::run_rm(&args)?,
        ModelsCommand::MakeTiny(args) => {
            match args.kind.generator() {
                Some(kind) => make_tiny(kind, args.seed, &args.out)?,
                // One table for embedding and output layer, as the 2B and 4B have it.
                None => make_tiny_judge(true, args.seed, &args.out)?,
            }
            println!("{}", args.out.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}
