//! `leoma-node judge calibrate`: what the local judge's scores say about the remote judge's decision.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::pairs::PairsArgs;
use crate::judge::calibration::table::{MOST_BYTES, Table};
use crate::judge::statistics::pairs::Selection;
use crate::report::json::pretty;
use crate::report::words::{count, plain};

const AFTER_HELP: &str = "\
Exit codes:
  0    the table is written
  1    the clips do not allow one: too few, or of one class; a table that is there stays as it is
  2    bad input
  130  interrupted";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(in crate::cli) struct CalibrateArgs {
    #[command(flatten)]
    pairs: PairsArgs,
    /// File for the table.
    #[arg(long, short, value_name = "TABLE")]
    output: PathBuf,
}

#[allow(clippy::print_stderr)]
pub(super) fn run(args: &CalibrateArgs) -> Result<ExitCode> {
    let (pairs, facts) = args.pairs.read()?;
    for problem in &facts.problems {
        let place = problem.place();
        eprintln!("warning: {}: {}", plain(&place), plain(&problem.reason));
    }
    let selection = Selection::of(&pairs, args.pairs.wanted());
    let table = match Table::fit(&selection, crate::time::now_rfc3339()) {
        Ok(table) => table,
        Err(refusal) => {
            super::super::output(format!("no calibration: {refusal}\n").as_bytes())?;
            return Ok(ExitCode::from(1));
        }
    };
    super::write_whole(&args.output, pretty(&table)?.as_bytes())
        .with_context(|| format!("output: cannot write {}", args.output.display()))?;
    super::super::output(summary(&table).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// A table from a file.
pub(super) fn read_table(path: &Path) -> Result<Table> {
    let failed = || format!("calibration: cannot read {}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(failed)?;
    // A byte more than allowed makes the JSON end too early, which the reader then says.
    file.take(MOST_BYTES + 1)
        .read_to_string(&mut text)
        .with_context(failed)?;
    Table::read(&text).map_err(|invalid| {
        crate::Error::caller("calibration", format!("{}: {invalid}", path.display())).into()
    })
}

fn summary(table: &Table) -> String {
    let figure = |value: Option<f64>| {
        value.map_or_else(|| "undefined".to_owned(), |value| format!("{value:.3}"))
    };
    let mut text = format!(
        "{} for {} beside {}: {} of {}, {} passed\n\
         held out: Brier score {}, calibration error {}, kappa {}\n",
        table.map.method(),
        plain(&table.local.local_id),
        plain(&table.remote.remote_model),
        count(table.n_videos, "clip"),
        count(table.n_tasks, "task"),
        table.n_passed,
        figure(table.oof.brier),
        figure(table.oof.ece),
        figure(table.oof.kappa),
    );
    let unfit = table.unfit_for_fallback();
    if unfit.is_empty() {
        text.push_str(
            "mode fallback: these figures allow it; they do not say which damage the local judge misses: that is \
             what `judge bench` shows, and nothing holds it against this table\n",
        );
    }
    for reason in unfit {
        text.push_str("mode fallback: not with this table: ");
        text.push_str(&reason);
        text.push('\n');
    }
    text
}
