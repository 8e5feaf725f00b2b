//! What an audit of weights costs, beside the tools that people use for it: hashing files and tensors, comparing
//! differences from a base, searching a registry, and memory.
//!
//! Every subject is run once per round, in turns. File data is in the page cache; bytes are counted once per file.
//! Rates are per second of CPU time, as machines are shared.

mod args;
mod cases;
mod material;
mod result;

use std::io::Write;

use anyhow::{Context, Result};

pub(crate) use args::AuditArgs;
use result::{AuditReport, Measured};

use crate::env::Machine;
use crate::{files, run};

/// Runs `leoma-bench audit`.
pub(crate) fn run(args: &AuditArgs) -> Result<()> {
    let node = args.node()?;
    let work = match &args.work_dir {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    }
    .context("cannot make a work folder")?;
    run::remove_when_interrupted(work.path().to_owned())?;
    let mut measured: Vec<Measured> = Vec::new();
    for case in cases::list(args) {
        run::note(&format!("{}: {}", case.name(), case.what()));
        measured.push(cases::measure(case, args, &node, work.path())?);
    }
    let report = AuditReport {
        schema: result::SCHEMA.into(),
        date: crate::env::today(),
        machine: Machine::read(crate::env::available_cores()),
        versions: cases::versions(args),
        measured,
    };
    let folder = args
        .out_dir
        .join(args.label.clone().unwrap_or_else(|| report.machine.label()));
    let path = files::fresh(&folder, &report.date, "json")?;
    files::write(&path, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    write!(std::io::stdout(), "{}", report.markdown())?;
    run::note(&format!("wrote {}", path.display()));
    let missed = report.missed();
    if args.check && !missed.is_empty() {
        anyhow::bail!("missed: {}", missed.join("; "));
    }
    Ok(())
}
