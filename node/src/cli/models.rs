//! `leoma-node models`: look at a checkpoint, or make a tiny one.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use leoma_models::tiny::make_tiny;
use leoma_models::weights::{ModelKind, inspect};

use super::generate::Format;

#[derive(Debug, Subcommand)]
pub(super) enum ModelsCommand {
    /// Say what a checkpoint is, what it needs, and what would fail when it is loaded.
    Inspect(InspectArgs),
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
    /// Kind of model.
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
}

impl From<Kind> for ModelKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Ti2v5b => Self::Ti2v5b,
            Kind::I2vA14b => Self::I2vA14b,
            Kind::T2vA14b => Self::T2vA14b,
        }
    }
}

#[allow(clippy::print_stdout)]
pub(super) fn run(command: ModelsCommand) -> Result<()> {
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
        ModelsCommand::MakeTiny(args) => {
            make_tiny(args.kind.into(), args.seed, &args.out)?;
            println!("{}", args.out.display());
        }
    }
    Ok(())
}
