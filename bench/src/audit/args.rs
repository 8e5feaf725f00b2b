//! Options of `leoma-bench audit`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::failure::bad_input;
use crate::measure::Plan;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuditCase {
    /// Digests of files and tensors, in 1 to 32 files.
    Hash,
    /// Differences from a base, in memory.
    Compare,
    /// The same of whole models that are on the disk, beside plain reading.
    Disk,
    /// A search among 1,000 registered models.
    Registry,
    /// Peak memory of comparing pairs of 8 and of 24 GB.
    Memory,
    /// Everything above.
    All,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Cases to measure; may be given more than once.
    #[arg(long = "case", value_enum, default_value = "all")]
    pub(crate) cases: Vec<AuditCase>,
    /// MiB of weights that are hashed, and a quarter of it per model that is compared in memory.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(8..=65_536))]
    pub(crate) mebibytes: u32,
    /// Registered models that are searched.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) models: u32,
    /// Gigabytes of each of the two models whose comparison is watched for memory.
    #[arg(long, default_values_t = [8, 24], value_delimiter = ',')]
    pub(crate) gigabytes: Vec<u32>,
    /// Measured rounds; each runs every subject once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,
    /// Rounds before the first measured one.
    #[arg(long, default_value_t = 1)]
    pub(crate) warmups: u16,
    /// The `leoma-node` program [default: beside this program].
    #[arg(long)]
    pub(crate) node: Option<PathBuf>,
    /// Python that has NumPy and PyTorch.
    #[arg(
        long,
        env = "LEOMA_BENCH_PYTHON",
        default_value = ".venv/golden/bin/python"
    )]
    pub(crate) python: PathBuf,
    /// Python that has model-signing; without it that subject is left out, and the result says so.
    #[arg(long, env = "LEOMA_BENCH_SIGNING_PYTHON")]
    pub(crate) signing_python: Option<PathBuf>,
    /// Folder for the weights, best in memory but on a disk for the case `disk`; they are deleted afterwards.
    #[arg(long)]
    pub(crate) work_dir: Option<PathBuf>,
    /// Folder of the JSON result, which gets a folder of its own for the kind of machine.
    #[arg(long, default_value = "bench/results/audit")]
    pub(crate) out_dir: PathBuf,
    /// Names the kind of machine in the result [default: processor and threads].
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Fail when a measurement misses its limit.
    #[arg(long)]
    pub(crate) check: bool,
}

impl AuditArgs {
    /// Whether a case was asked for.
    pub(crate) fn wants(&self, case: AuditCase) -> bool {
        self.cases
            .iter()
            .any(|&asked| asked == case || asked == AuditCase::All)
    }

    /// Rounds.
    pub(crate) fn plan(&self) -> Plan {
        Plan {
            warmups: self.warmups.into(),
            pairs: self.rounds.into(),
        }
    }

    /// The node's program.
    pub(crate) fn node(&self) -> Result<PathBuf> {
        let path = match &self.node {
            Some(path) => path.clone(),
            None => crate::run::this_program()?.with_file_name("leoma-node"),
        };
        if !path.is_file() {
            let message = format!(
                "{} is not there; build the node, or name it with --node",
                path.display()
            );
            return Err(bad_input(message));
        }
        Ok(path)
    }
}
