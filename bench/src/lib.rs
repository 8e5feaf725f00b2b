//! Benchmarks of leoma: its latency on a device (`latency`), and against PyTorch, diffusers and transformers on
//! the CPU.
//!
//! In a comparison both sides run in one invocation on the same weights and inputs, in turns, and their results are
//! compared: a fast wrong answer fails the run.
//!
//! The path of a comparison: `cli` → `run` → a `case` from `cases`, its other half in `peer` →
//! `measure` (schedule) → `report` (verdicts; `stats`) → `markdown`. Servers under load are
//! measured by `http`, against FastAPI; audits of weights by `audit`. `suite` checks and measures everything on a card.

mod audit;
mod case;
mod cases;
mod cli;
mod clock;
mod env;
mod failure;
mod files;
mod http;
mod latency;
mod markdown;
mod measure;
mod nvml;
mod peer;
mod report;
mod run;
mod stats;
mod suite;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command as Process, ExitCode};

use anyhow::Result;
use clap::Parser;

use crate::cli::{Cli, Command, ReportArgs};
use crate::latency::LatencyReport;
use crate::report::Report;

/// Variable that sets the threads of rayon and candle; both read it before `main` could tell them.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Runs the command line and returns the process's exit code: 0 done, 1 failed or a line missed, 2 bad input, 69
/// this build or machine cannot do it.
pub fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::note(&format!("error: {error:#}"));
            ExitCode::from(failure::code(&error))
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Latency(args) => {
            with_threads(args.threads())?;
            latency::run(&args)
        }
        Command::Compare(args) => latency::compare(&args),
        Command::Run(args) => {
            with_threads(args.threads())?;
            run::run(&args)
        }
        Command::Http(args) => http::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Suite(args) => suite::run(&args),
        Command::Report(args) => report(&args),
        Command::MemoryProbe(args) => {
            let probe = cases::vae_decode::probe_memory(args.size, &args.work_dir)?;
            writeln!(std::io::stdout(), "{}", serde_json::to_string(&probe)?)?;
            Ok(())
        }
    }
}

fn report(args: &ReportArgs) -> Result<()> {
    let tables = tables(&args.files)?;
    match &args.page {
        Some(page) => markdown::write_into(page, &tables),
        None => Ok(write!(std::io::stdout(), "{tables}")?),
    }
}

/// Tables of results of one sort. The schema that lies beside them is passed over.
fn tables(paths: &[PathBuf]) -> Result<String> {
    let (mut latencies, mut comparisons) = (Vec::new(), Vec::new());
    for path in paths {
        let value = files::read_json(path)?;
        if value.get("$schema").is_some() {
            continue;
        }
        if value["schema"].is_string() {
            latencies.push(LatencyReport::from_value(path, value)?);
        } else {
            comparisons.push(Report::from_value(path, value)?);
        }
    }
    if !latencies.is_empty() && !comparisons.is_empty() {
        return Err(failure::bad_input(
            "results of `latency` and of `run` or `http` go into different pages: name files of one sort",
        ));
    }
    Ok(if latencies.is_empty() {
        markdown::render(&comparisons)
    } else {
        latency::page(&latencies)
    })
}

/// Starts this program again with the thread count in its environment, unless it is there already.
fn with_threads(threads: usize) -> Result<()> {
    let threads = threads.to_string();
    if std::env::var(THREADS).is_ok_and(|set| set == threads) {
        return Ok(());
    }
    let error = Process::new(run::this_program()?)
        .args(std::env::args_os().skip(1))
        .env(THREADS, threads)
        .exec();
    Err(anyhow::Error::new(error).context("cannot start this program again with its thread count"))
}
