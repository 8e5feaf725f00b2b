//! Command line of `leoma-bench`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::audit::AuditArgs;
use crate::http::HttpArgs;
use crate::latency::{CompareArgs, LatencyArgs};
use crate::measure::Plan;
use crate::suite::SuiteArgs;

/// Latency of Wan 2.2 on this machine, and comparisons of leoma with PyTorch, diffusers and FastAPI.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure how long clips take on this device, stage by stage.
    Latency(Box<LatencyArgs>),
    /// Hold two results of `latency` against each other.
    Compare(CompareArgs),
    /// Measure against PyTorch and diffusers on the CPU and write a JSON result.
    Run(RunArgs),
    /// Measure servers over HTTP and write a JSON result: cost per request against FastAPI, overload.
    Http(HttpArgs),
    /// Measure what audits of weights cost, beside sha256sum, the sha2 crate, hashlib, model-signing and NumPy.
    Audit(AuditArgs),
    /// Check everything that runs on a card and measure it there; `--dry-run` needs no card.
    Suite(SuiteArgs),
    /// Print results as Markdown tables, or write them into a page.
    Report(ReportArgs),
    /// One decode in this process with its peak memory (called by `run` in a fresh process).
    #[command(hide = true)]
    MemoryProbe(ProbeArgs),
}

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CaseArg {
    /// Whole pipelines on tiny checkpoints of the three kinds.
    Pipeline,
    /// One transformer block of 5B and of 14B width, 1,024 tokens.
    DitBlock,
    /// VAE 2.2 decode at real widths, with peak memory.
    VaeDecode,
    /// One UMT5 layer of real width at 20, 128 and 512 tokens.
    TextBlock,
    /// Peak memory of `leoma-node generate --offload experts`.
    Offload,
    /// Everything above.
    All,
}

/// How large the cases are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Size {
    /// The sizes that results are published for.
    Full,
    /// A few megabytes: checks that both sides agree, says nothing about speed.
    Small,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Cases to measure; may be given more than once.
    #[arg(long = "case", value_enum, default_value = "all")]
    pub(crate) cases: Vec<CaseArg>,
    /// Only measurements whose name contains this, for example `14b`.
    #[arg(long)]
    pub(crate) filter: Option<String>,
    /// Sizes: `small` only checks that both sides agree.
    #[arg(long, value_enum, default_value = "full")]
    pub(crate) size: Size,
    /// Measured rounds; each runs every side once [default: 10, fewer where a run takes long].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) pairs: Option<u16>,
    /// Rounds before the first measured one [default: 2, fewer where a run takes long].
    #[arg(long)]
    pub(crate) warmups: Option<u16>,
    /// Threads of both sides [default: all cores].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Python that has PyTorch, diffusers and transformers.
    #[arg(
        long,
        env = "LEOMA_BENCH_PYTHON",
        default_value = ".venv/golden/bin/python"
    )]
    pub(crate) python: PathBuf,
    /// The `leoma-node` program that the offload case runs [default: beside this program].
    #[arg(long)]
    pub(crate) node: Option<PathBuf>,
    /// Folder for weights and inputs (several GB at full size); they are deleted afterwards.
    #[arg(long)]
    pub(crate) work_dir: Option<PathBuf>,
    /// Folder of the JSON result.
    #[arg(long, default_value = "bench/results")]
    pub(crate) out_dir: PathBuf,
    /// Names the kind of machine in the result [default: processor and threads].
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Fail when a measurement misses its limit, not only when results differ.
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Results written by `latency`, or by `run` and `http`; of measurements in several files the last counts.
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Page to write the tables into, between its `bench:begin` and `bench:end` comments; without
    /// it they are printed.
    #[arg(long)]
    pub(crate) page: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// Sizes of the case.
    #[arg(long, value_enum)]
    pub(crate) size: Size,
    /// Folder with the weights and inputs.
    #[arg(long)]
    pub(crate) work_dir: PathBuf,
}

impl RunArgs {
    /// Threads of both sides.
    pub(crate) fn threads(&self) -> usize {
        self.threads
            .map_or_else(crate::env::available_cores, usize::from)
    }

    /// The rounds of a measurement that would by itself take `default`.
    pub(crate) fn plan(&self, default: Plan) -> Plan {
        Plan {
            warmups: self.warmups.map_or(default.warmups, usize::from),
            pairs: self.pairs.map_or(default.pairs, usize::from),
        }
    }

    /// Whether a case was asked for.
    pub(crate) fn wants(&self, case: CaseArg) -> bool {
        self.cases
            .iter()
            .any(|&asked| asked == case || asked == CaseArg::All)
    }

    /// Whether a measurement's name passes the filter.
    pub(crate) fn selects(&self, name: &str) -> bool {
        self.filter
            .as_deref()
            .is_none_or(|part| name.contains(part))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    fn run(arguments: &[&str]) -> RunArgs {
        let all = ["leoma-bench", "run"].iter().chain(arguments);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn cases_add_up_and_all_is_the_default() {
        let two = run(&["--case", "dit-block", "--case", "text-block"]);
        assert!(two.wants(CaseArg::DitBlock) && two.wants(CaseArg::TextBlock));
        assert!(!two.wants(CaseArg::Pipeline));
        assert!(run(&[]).wants(CaseArg::Offload));
        assert!(two.selects("dit-block/5b"));
        assert!(!run(&["--filter", "14b"]).selects("dit-block/5b"));
    }

    #[test]
    fn rounds_that_are_given_replace_the_default_of_the_case() {
        let default = Plan {
            warmups: 1,
            pairs: 4,
        };
        assert_eq!(run(&[]).plan(default), default);
        assert_eq!(
            run(&["--pairs", "20"]).plan(default),
            Plan {
                warmups: 1,
                pairs: 20
            }
        );
        assert_eq!(
            run(&["--warmups", "0"]).plan(default),
            Plan {
                warmups: 0,
                pairs: 4
            }
        );
    }

    #[test]
    fn no_rounds_is_refused() {
        assert!(Cli::try_parse_from(["leoma-bench", "run", "--pairs", "0"]).is_err());
        assert!(Cli::try_parse_from(["leoma-bench", "run", "--threads", "0"]).is_err());
        assert!(Cli::try_parse_from(["leoma-bench", "report"]).is_err());
    }
}
