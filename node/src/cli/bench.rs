//! `leoma-node bench`: becomes `leoma-bench`, the program of its own that measures.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use leoma_models::Error;

use super::DeviceArg;
use crate::cuda::{Problem, explain};

/// The benchmark program beside this one, and its CUDA build.
const PROGRAM: &str = "leoma-bench";
const CUDA_PROGRAM: &str = "leoma-bench-cuda";

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct BenchArgs {
    /// Handed to leoma-bench as they are; `leoma-node bench --help` shows them.
    #[arg(
        value_name = "ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    arguments: Vec<OsString>,
}

/// Replaces this process. Returns only when that fails.
pub(super) fn run(args: &BenchArgs) -> Result<()> {
    let path = match device(&args.arguments) {
        Some(DeviceArg::Cuda(ordinal)) => {
            let path = beside(CUDA_PROGRAM)?;
            on_cuda(ordinal)
                .map_err(|problems| Error::local(explain(&format!("cuda:{ordinal}"), &problems)))?;
            path
        }
        Some(DeviceArg::Auto) => automatic()?,
        Some(DeviceArg::Cpu) | None => beside(PROGRAM)?,
    };
    let error = Command::new(&path).args(&args.arguments).exec();
    Err(error).with_context(|| format!("{} cannot be started", path.display()))
}

/// Returns where CUDA libraries can be found by what this process starts. The CPU build has no such place: it
/// becomes the CUDA build of this program, which comes here again.
#[cfg(not(feature = "cuda"))]
fn on_cuda(ordinal: usize) -> std::result::Result<(), Vec<Problem>> {
    crate::cuda::launch(ordinal).map(|never| match never {})
}

#[cfg(feature = "cuda")]
fn on_cuda(ordinal: usize) -> std::result::Result<(), Vec<Problem>> {
    match crate::cuda::check(ordinal) {
        Some(problem) => Err(vec![problem]),
        None => Ok(()),
    }
}

/// The program for the card where both are there, else the one for the processor, with the reason.
#[allow(clippy::print_stderr)]
fn automatic() -> Result<PathBuf> {
    let why = match beside(CUDA_PROGRAM) {
        Ok(path) => match on_cuda(0) {
            Ok(()) => return Ok(path),
            Err(problems) => problems.first().map(Problem::brief).unwrap_or_default(),
        },
        Err(_) => format!("there is no {CUDA_PROGRAM} beside this program"),
    };
    eprintln!("note: measuring on the CPU: {why}");
    beside(PROGRAM)
}

/// The device that is asked for: the last `--device`, or any that there is for what needs one. Values that are no
/// device are left to the program to refuse.
fn device(arguments: &[OsString]) -> Option<DeviceArg> {
    let measures = arguments.first().is_some_and(|first| first == "latency");
    match named(arguments) {
        Some(name) => name.to_str()?.parse().ok(),
        None => measures.then_some(DeviceArg::Auto),
    }
}

/// The last value of `--device`.
fn named(arguments: &[OsString]) -> Option<&OsStr> {
    let mut found = None;
    for (index, argument) in arguments.iter().enumerate() {
        if argument == "--device" {
            found = arguments.get(index + 1).map(OsString::as_os_str);
        } else if let Some(value) = argument
            .to_str()
            .and_then(|text| text.strip_prefix("--device="))
        {
            found = Some(OsStr::new(value));
        }
    }
    found
}

fn beside(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()
        .context("cannot find this program's own file")?
        .with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    let build = match name {
        CUDA_PROGRAM => "cargo build --release -p leoma-bench --features cuda",
        _ => "cargo build --release -p leoma-bench",
    };
    Err(Error::local(format!(
        "there is no {}; `leoma-node bench` starts {name} beside itself: install it there ({build})",
        path.display()
    ))
    .into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn chosen(arguments: &[&str]) -> Option<DeviceArg> {
        device(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn only_a_measurement_looks_for_a_device_unasked() {
        assert_eq!(chosen(&["latency"]), Some(DeviceArg::Auto));
        assert_eq!(chosen(&["compare", "a", "b"]), None);
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn the_last_device_that_is_named_counts() {
        assert_eq!(
            chosen(&["latency", "--device", "cpu"]),
            Some(DeviceArg::Cpu)
        );
        assert_eq!(
            chosen(&["latency", "--device=cuda:1"]),
            Some(DeviceArg::Cuda(1))
        );
        let twice = ["latency", "--device=cuda", "--device", "cpu"];
        assert_eq!(chosen(&twice), Some(DeviceArg::Cpu));
        assert_eq!(
            chosen(&["suite", "--device", "cuda"]),
            Some(DeviceArg::Cuda(0))
        );
        // The program refuses these.
        assert_eq!(chosen(&["latency", "--device"]), Some(DeviceArg::Auto));
        assert_eq!(chosen(&["latency", "--device", "gpu"]), None);
    }

    #[test]
    fn a_missing_program_is_this_machines_fault_and_named() {
        let error = beside("leoma-bench-of-nobody").unwrap_err();
        let fault = error.downcast_ref::<Error>().unwrap().fault();
        assert_eq!(fault, leoma_models::Fault::Local);
        assert!(
            error.to_string().contains("leoma-bench-of-nobody"),
            "{error}"
        );
    }
}
