//! The cases: what is run, by whom, and what must hold.

mod compare;
mod digest;
mod disk;
mod hash;
mod memory;
mod registry;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::args::{AuditArgs, AuditCase};
use super::result::Measured;
use crate::clock;
use crate::measure::Sample;

/// Us, where a case has one program of ours.
const LEOMA: &str = "leoma";

/// A measurement: who takes part, and how each is run once.
pub(super) trait AuditMeasurement {
    fn name(&self) -> String;
    fn what(&self) -> String;
    /// Makes what is worked on; its bytes.
    fn prepare(&mut self, work: &Path, node: &Path) -> Result<u64>;
    /// Who takes part.
    fn subjects(&self) -> Vec<String>;
    /// Who does not, and why.
    fn absent(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
    /// One run, and the most memory of its process where that is watched.
    fn run(&mut self, subject: &str) -> Result<(Sample, Option<u64>)>;
    /// Whether the results agree, and what must hold.
    fn finish(&mut self, measured: &mut Measured) -> Result<()>;
}

/// Every measurement that was asked for.
pub(super) fn list(args: &AuditArgs) -> Vec<Box<dyn AuditMeasurement>> {
    let mut list: Vec<Box<dyn AuditMeasurement>> = Vec::new();
    if args.wants(AuditCase::Hash) {
        for count in hash::COUNTS {
            list.push(Box::new(hash::Hash::new(count, args)));
        }
        list.push(Box::new(digest::Digests::new(args)));
    }
    if args.wants(AuditCase::Compare) {
        list.push(Box::new(compare::Compare::new(args)));
    }
    if args.wants(AuditCase::Disk) {
        list.push(Box::new(disk::Disk::default()));
    }
    if args.wants(AuditCase::Registry) {
        list.push(Box::new(registry::Search::new(args)));
    }
    if args.wants(AuditCase::Memory) {
        list.push(Box::new(memory::Peak::new(args)));
    }
    list
}

/// Runs a measurement: warm-ups, then rounds in which the subjects take turns, every other one backwards.
pub(super) fn measure(
    mut case: Box<dyn AuditMeasurement>,
    args: &AuditArgs,
    node: &Path,
    work: &Path,
) -> Result<Measured> {
    let folder = work.join(case.name().replace('/', "-"));
    std::fs::create_dir(&folder)?;
    let mut measured = Measured {
        name: case.name(),
        what: case.what(),
        bytes: case.prepare(&folder, node)?,
        samples: BTreeMap::new(),
        peak_bytes: BTreeMap::new(),
        absent: case.absent(),
        goals: Vec::new(),
    };
    let plan = args.plan();
    for round in 0..plan.warmups + plan.pairs {
        let mut order = case.subjects();
        if round % 2 == 1 {
            order.reverse();
        }
        for subject in order {
            let (sample, peak) = case.run(&subject)?;
            if let Some(peak) = peak {
                let most = measured.peak_bytes.entry(subject.clone()).or_default();
                *most = peak.max(*most);
            }
            if round >= plan.warmups {
                crate::run::note(&format!("  {subject}: {:.3} s CPU", sample.cpu_s));
                measured.samples.entry(subject).or_default().push(sample);
            }
        }
    }
    case.finish(&mut measured)?;
    std::fs::remove_dir_all(&folder)?;
    Ok(measured)
}

/// Versions of the tools that take part.
pub(super) fn versions(args: &AuditArgs) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut ask = |name: &str, program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        if let Some(output) = output.ok().filter(|output| output.status.success()) {
            let text = String::from_utf8_lossy(&output.stdout);
            versions.insert(
                name.to_owned(),
                text.lines().next().unwrap_or_default().to_owned(),
            );
        }
    };
    ask("sha256sum", Path::new("sha256sum"), &["--version"]);
    let numpy = "import numpy, torch, sys; print(sys.version.split()[0], numpy.__version__, torch.__version__)";
    ask("python, numpy, torch", &args.python, &["-c", numpy]);
    if let Some(python) = &args.signing_python {
        let signing = "import importlib.metadata as m; print(m.version('model-signing'))";
        ask("model-signing", python, &["-c", signing]);
    }
    versions
}

/// Runs a command to its end; its time, and what it wrote. `codes` are those that mean that it did its work.
fn child(command: &mut Command, codes: &[i32]) -> Result<(Sample, Vec<u8>)> {
    let (output, sample) = clock::timed(|| command.stdin(Stdio::null()).output());
    let output =
        output.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !output
        .status
        .code()
        .is_some_and(|code| codes.contains(&code))
    {
        bail!(
            "{} failed: {}",
            command.get_program().display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok((sample, output.stdout))
}

/// `audit compare` of two models with their base, on standard output as JSON.
fn comparison(node: &Path, [a, b, base]: [&PathBuf; 3]) -> Command {
    let mut command = Command::new(node);
    command.args(["audit", "compare"]).args([a, b]);
    command.arg("--base").arg(base);
    command.args(["--no-progress", "--format", "json"]);
    command
}
