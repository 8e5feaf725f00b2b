//! Benchmarks of leoma against PyTorch, diffusers and transformers on CPU.
//!
//! Both sides run in one invocation on the same weights and inputs, in turns, and their results are
//! compared: a fast wrong answer fails the run.
//!
//! The path of a run: [`cli`] → [`run`] → a [`case`] from [`cases`], its other half in [`peer`] →
//! [`measure`] (schedule) → [`mod@report`] (verdicts; [`stats`]) → [`markdown`]. Servers under load are
//! measured by [`http`], against FastAPI.

mod case;
mod cases;
mod cli;
mod clock;
mod env;
mod http;
mod markdown;
mod measure;
mod peer;
mod report;
mod run;
mod stats;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command as Process, ExitCode};

use anyhow::Result;
use clap::Parser;

use crate::cli::{Cli, Command, ReportArgs};
use crate::report::Report;

/// Variable that sets the threads of rayon and candle; both read it before `main` could tell them.
const THREADS: &str = "RAYON_NUM_THREADS";

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Run(args) => {
            with_threads(args.threads())?;
            run::run(&args)
        }
        Command::Http(args) => http::run(&args),
        Command::Report(args) => report(&args),
        Command::MemoryProbe(args) => {
            let probe = cases::vae_decode::probe_memory(args.size, &args.work_dir)?;
            writeln!(std::io::stdout(), "{}", serde_json::to_string(&probe)?)?;
            Ok(())
        }
    }
}

fn report(args: &ReportArgs) -> Result<()> {
    let reports = args
        .files
        .iter()
        .map(|path| Report::load(path))
        .collect::<Result<Vec<_>>>()?;
    let tables = markdown::render(&reports);
    match &args.page {
        Some(page) => markdown::write_into(page, &tables),
        None => Ok(write!(std::io::stdout(), "{tables}")?),
    }
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
