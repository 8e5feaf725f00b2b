//! Command line of `latency` and `compare`.

use std::path::PathBuf;

use clap::{Args, value_parser};

use super::export::Output;
use super::result::Price;
use super::scenario::Set;

#[derive(Debug, Args)]
pub(crate) struct LatencyArgs {
    /// Where to run: cpu, cuda, cuda:N, or auto (a CUDA device, else the CPU with the reason).
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// Built-in scenarios [default: tiny on the CPU, released on an accelerator].
    #[arg(long, value_enum, conflicts_with = "scenarios")]
    pub(crate) set: Option<Set>,
    /// Files of scenarios (TOML) instead of a built-in set.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) scenarios: Vec<PathBuf>,
    /// Only scenarios whose name contains this.
    #[arg(long)]
    pub(crate) filter: Option<String>,
    /// Measure this checkpoint instead of random weights; scenarios must be of its model.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Measured rounds, whatever the scenarios say.
    #[arg(long, value_parser = value_parser!(u16).range(1..=10_000))]
    pub(crate) rounds: Option<u16>,
    /// Rounds before the first measured one, whatever the scenarios say.
    #[arg(long)]
    pub(crate) warmups: Option<u16>,
    /// Price of the device per hour; gives the cost of a clip.
    #[arg(long, value_name = "X", value_parser = price)]
    pub(crate) price_per_hour: Option<f64>,
    /// Currency of the price.
    #[arg(long, default_value = "EUR", requires = "price_per_hour")]
    pub(crate) currency: String,
    /// Outputs, separated by commas: md, csv, json, html under --out-dir, or files whose names end so.
    #[arg(short, long, value_delimiter = ',', default_value = "json")]
    pub(crate) output: Vec<Output>,
    /// Folder of the results: <out-dir>/<device>/<date>-<commit>.<format>.
    #[arg(long, default_value = "bench/results")]
    pub(crate) out_dir: PathBuf,
    /// Names the device in the path of the results [default: as it names itself].
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Milliseconds between two looks at power, clocks and memory of the device.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u64).range(1..=60_000))]
    pub(crate) sample_ms: u64,
    /// Threads on the CPU [default: all cores].
    #[arg(long, value_parser = value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// The `leoma-node` that writes MP4 for the stage `mux` [default: beside this program].
    #[arg(long)]
    pub(crate) node: Option<PathBuf>,
    /// Print the scenarios with their arithmetic and run nothing.
    #[arg(long)]
    pub(crate) list: bool,
}

impl LatencyArgs {
    /// Threads on the CPU.
    pub(crate) fn threads(&self) -> usize {
        self.threads
            .map_or_else(crate::env::available_cores, usize::from)
    }

    /// The price, when one was given.
    pub(crate) fn price(&self) -> Option<Price> {
        self.price_per_hour.map(|per_hour| Price {
            per_hour,
            currency: self.currency.clone(),
        })
    }
}

fn price(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|price: &f64| price.is_finite() && *price >= 0.0)
        .ok_or_else(|| "a number from 0 is expected, such as 2.49".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The result that others are measured against.
    pub(crate) before: PathBuf,
    /// The result to judge.
    pub(crate) after: PathBuf,
    /// Compare although the scenarios differ or one is lossy; the verdict then says nothing about the code.
    #[arg(long)]
    pub(crate) force: bool,
    /// Fail when a stage is slower.
    #[arg(long)]
    pub(crate) check: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use crate::cli::{Cli, Command};

    fn latency(arguments: &[&str]) -> Result<super::LatencyArgs, clap::Error> {
        let all = ["leoma-bench", "latency"].iter().chain(arguments);
        match Cli::try_parse_from(all)?.command {
            Command::Latency(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn outputs_are_formats_or_files() {
        let args = latency(&["-o", "md,csv,json,html", "-o", "a/b.html"]).unwrap();
        let outputs: Vec<String> = args.output.iter().map(ToString::to_string).collect();
        assert_eq!(outputs, ["md", "csv", "json", "html", "a/b.html"]);
        assert_eq!(latency(&[]).unwrap().output.len(), 1);
        let wrong = latency(&["-o", "pdf"]).unwrap_err().to_string();
        assert!(wrong.contains("pdf") && wrong.contains("html"), "{wrong}");
    }

    #[test]
    fn a_price_needs_a_number_and_a_currency_needs_a_price() {
        let args = latency(&["--price-per-hour", "2.5", "--currency", "USD"]).unwrap();
        let price = args.price().unwrap();
        assert_eq!((price.per_hour, price.currency.as_str()), (2.5, "USD"));
        assert!(latency(&[]).unwrap().price().is_none());
        assert!(latency(&["--price-per-hour", "-1"]).is_err());
        assert!(latency(&["--price-per-hour", "NaN"]).is_err());
        assert!(latency(&["--currency", "USD"]).is_err());
        assert!(latency(&["--rounds", "0"]).is_err());
        assert!(latency(&["--set", "tiny", "--scenarios", "a.toml"]).is_err());
    }
}
