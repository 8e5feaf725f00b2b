//! Options of `leoma-bench http`.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use clap::Args;

use super::wire::Url;

#[derive(Debug, Args)]
pub(crate) struct HttpArgs {
    /// Compare the node (fake engine) with a FastAPI server that does the same; both are started here.
    /// This is what happens when no --target is given.
    #[arg(long, conflicts_with = "targets")]
    pub(crate) pair: bool,
    /// A running server to measure; the first is compared with the last. Without a pid its CPU time and
    /// memory stay unknown.
    #[arg(long = "target", value_name = "NAME=URL[,pid=PID]")]
    pub(crate) targets: Vec<Target>,
    /// Closed loop only: this many clients, each asking again as soon as it is answered.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) concurrency: Option<u16>,
    /// Open loop only: requests per second, sent on time whatever the server does.
    #[arg(long, value_name = "R", value_parser = rate, conflicts_with = "concurrency")]
    pub(crate) rate: Option<f64>,
    /// Overload: open loop at this many times the capacity that was measured before it.
    #[arg(long, value_name = "TIMES", value_parser = rate, conflicts_with_all = ["concurrency", "rate", "pair"])]
    pub(crate) overload: Option<f64>,
    /// Seconds that the engine works on a job (of servers started here).
    #[arg(long, value_name = "S", default_value = "0", default_value_if("overload", clap::builder::ArgPredicate::IsPresent, "0.05"), value_parser = job)]
    pub(crate) job: f64,
    /// Jobs that may wait in a server started here.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) queue: usize,
    /// Measured rounds; each drives every server once.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,
    /// Rounds before the first measured one.
    #[arg(long, default_value_t = 2)]
    pub(crate) warmups: u16,
    /// Requests of a closed-loop round.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub(crate) requests: u32,
    /// Seconds of an open-loop round, and of the overload.
    #[arg(long, value_name = "S", value_parser = rate)]
    pub(crate) seconds: Option<f64>,
    /// `resolution` of the request.
    #[arg(long, default_value = "480p")]
    pub(crate) resolution: String,
    /// `frames` of the request.
    #[arg(long, default_value_t = 81)]
    pub(crate) frames: u32,
    /// Python that has FastAPI, uvicorn and Pillow.
    #[arg(
        long,
        env = "LEOMA_BENCH_PYTHON",
        default_value = ".venv/golden/bin/python"
    )]
    pub(crate) python: PathBuf,
    /// The `leoma-node` program [default: beside this program].
    #[arg(long)]
    pub(crate) node: Option<PathBuf>,
    /// Key that the targets ask for.
    #[arg(long, env = "LEOMA_NODE_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Folder of the JSON result.
    #[arg(long, default_value = "bench/results")]
    pub(crate) out_dir: PathBuf,
    /// Names the kind of machine in the result [default: processor and threads].
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Fail when a line is missed.
    #[arg(long)]
    pub(crate) check: bool,
}

/// `--target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) url: Url,
    pub(crate) pid: Option<u32>,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, rest) = text.split_once('=').context("write NAME=URL[,pid=PID]")?;
        let (url, pid) = match rest.split_once(",pid=") {
            Some((url, pid)) => (url, Some(pid.parse().context("the pid is no number")?)),
            None => (rest, None),
        };
        Ok(Self {
            name: name.to_owned(),
            url: Url::parse(url)?,
            pid,
        })
    }
}

fn rate(text: &str) -> Result<f64, String> {
    positive(text, 1e6)
}

fn job(text: &str) -> Result<f64, String> {
    match text {
        "0" => Ok(0.0),
        _ => positive(text, 60.0),
    }
}

fn positive(text: &str, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number > 0.0 && number <= most {
        Ok(number)
    } else {
        Err(format!("must be above 0 and at most {most}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn targets() {
        let target: Target = "a=http://h:1/generate,pid=7".parse().unwrap();
        assert_eq!((target.name.as_str(), target.pid), ("a", Some(7)));
        assert_eq!(target.url.authority, "h:1");
        assert!("http://h:1".parse::<Target>().is_err());
        assert!("a=http://h:1,pid=x".parse::<Target>().is_err());
    }

    #[test]
    fn numbers() {
        assert_eq!(rate("0.5"), Ok(0.5));
        assert_eq!(job("0"), Ok(0.0));
        for wrong in ["0", "-1", "nan", "x", "1e9"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
