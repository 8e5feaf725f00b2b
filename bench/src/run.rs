//! `leoma-bench run`: prepares every case, measures it, checks the results, writes the report.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::case::{LiveExecutor, Planned};
use crate::cases;
use crate::cli::{CaseArg, RunArgs, Size};
use crate::clock;
use crate::env::{self, Environment};
use crate::markdown;
use crate::measure;
use crate::peer::{MemoryProbe, Peer};
use crate::report::{Measurement, Memory, Report, SCHEMA};

/// Runs what `args` ask for. Progress goes to standard error, the tables to standard output.
///
/// # Errors
/// When a side cannot run, when a result differs from PyTorch's, and with `--check` when a limit is missed.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let work = match &args.work_dir {
        Some(dir) => tempfile::Builder::new()
            .prefix("leoma-bench-")
            .tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .context("cannot create the work folder (see --work-dir)")?;
    remove_when_interrupted(work.path().to_path_buf())?;
    let threads = args.threads();
    let planned = cases::list(args);
    let wants_offload = args.wants(CaseArg::Offload) && args.selects("offload");
    if planned.is_empty() && !wants_offload {
        bail!("no measurement matches --filter");
    }

    let mut peer = Peer::start(&args.python, threads, work.path())?;
    let environment = Environment::read(threads, &peer.hello()?);
    let mut report = Report {
        schema: SCHEMA,
        date: env::today(),
        label: args
            .label
            .as_deref()
            .map_or_else(|| environment.machine.label(), env::slug),
        environment,
        measurements: Vec::new(),
        offload: None,
        http: None,
    };
    // Expert offload goes first: it is about memory, and so far this process holds little of it.
    if wants_offload {
        note("offload");
        report.offload = Some(cases::offload::measure(args, work.path())?);
    }
    for planned in &planned {
        note(&planned.name);
        let mut found = measure_case(planned, args, &mut peer, work.path())?;
        if let Some(limit) = planned.memory_limit {
            found.memory = Some(memory(planned, args, limit, work.path())?);
        }
        if report.environment.machine.profile != "release" {
            found.warnings.push("this is not a release build".into());
        }
        report.measurements.push(found);
    }
    drop(peer);

    let path = report.save(&args.out_dir)?;
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "{}\n{}",
        markdown::render(std::slice::from_ref(&report)),
        path.display()
    )?;
    if !report.wrong().is_empty() {
        bail!(
            "results differ from PyTorch's: {}",
            report.wrong().join(", ")
        );
    }
    if args.check && !report.misses().is_empty() {
        bail!("limits missed: {}", report.misses().join(", "));
    }
    Ok(())
}

fn measure_case(
    planned: &Planned,
    args: &RunArgs,
    peer: &mut Peer,
    work: &Path,
) -> Result<Measurement> {
    let plan = args.plan(planned.plan);
    let mut executor = LiveExecutor::new((planned.prepare)(work)?, planned.peer_case, peer)?;
    let subjects = executor.subjects();
    let load = env::load_average();
    let busy = Busy::start(executor.peer())?;
    let samples = measure::measure(&mut executor, &subjects, plan, |round, subject, sample| {
        note(&format!(
            "  {}/{} {:<17} {:8.3} s wall {:8.3} s CPU",
            round + 1,
            plan.pairs,
            subject.label(),
            sample.wall_s,
            sample.cpu_s
        ));
    })?;
    let others = busy.others(executor.peer())?;
    let distances = executor.distances(work)?;
    let mut found = Measurement::new(
        &planned.name,
        &planned.what,
        args.size,
        plan,
        planned.limit,
        samples,
        distances,
    );
    if load > env::available_cores() as f64 {
        found
            .warnings
            .push(format!("the load average was {load:.1} at the start"));
    }
    if others > 0.05 {
        found.warnings.push(format!(
            "other processes took {:.0} % of the cores meanwhile",
            100.0 * others
        ));
    }
    Ok(found)
}

/// CPU time of the machine and of both sides when a case began.
struct Busy {
    start: std::time::Instant,
    machine_s: f64,
    both_s: f64,
}

impl Busy {
    fn start(peer: &mut Peer) -> Result<Self> {
        Ok(Self {
            start: std::time::Instant::now(),
            machine_s: env::machine_cpu_seconds(),
            both_s: clock::cpu_seconds() + peer.cpu_seconds()?,
        })
    }

    /// Share of all cores that neither side used but somebody did.
    fn others(&self, peer: &mut Peer) -> Result<f64> {
        let machine_s = env::machine_cpu_seconds() - self.machine_s;
        let both_s = clock::cpu_seconds() + peer.cpu_seconds()? - self.both_s;
        let capacity_s = self.start.elapsed().as_secs_f64() * env::available_cores() as f64;
        Ok((machine_s - both_s) / capacity_s)
    }
}

/// Peak memory of both sides, each in a process of its own that does nothing else.
fn memory(planned: &Planned, args: &RunArgs, limit: f64, work: &Path) -> Result<Memory> {
    let [weights, inputs] = cases::vae_decode::files(work);
    let weights_bytes = weights.metadata()?.len();
    note("  memory, leoma");
    let leoma = probe_leoma(args, work)?;
    note("  memory, PyTorch");
    let probe_dir = work.join("probe");
    std::fs::create_dir_all(&probe_dir)?;
    let mut peer = Peer::start(&args.python, args.threads(), &probe_dir)?;
    let setup = cases::vae_decode::peer_setup(args.size, &weights, &inputs);
    peer.setup(planned.peer_case, &setup)?;
    let pytorch = peer.memory()?;
    Ok(Memory {
        weights_bytes,
        leoma,
        pytorch,
        limit,
    })
}

fn probe_leoma(args: &RunArgs, work: &Path) -> Result<MemoryProbe> {
    let size = match args.size {
        Size::Full => "full",
        Size::Small => "small",
    };
    let output = Command::new(this_program()?)
        .args(["memory-probe", "--size", size, "--work-dir"])
        .arg(work)
        .output()
        .context("cannot start a fresh process of this program")?;
    if !output.status.success() {
        bail!(
            "the memory probe failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Takes the gigabytes in the work folder away when the user or the system ends the run early.
pub(crate) fn remove_when_interrupted(work: PathBuf) -> Result<()> {
    // The main thread may be deep in a kernel that asks nobody whether to go on.
    #[allow(clippy::exit)]
    ctrlc::set_handler(move || {
        let _ = std::fs::remove_dir_all(&work);
        std::process::exit(130)
    })
    .context("cannot watch for Ctrl-C")
}

/// Path of the running program.
pub(crate) fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find this program's own file")
}

/// A line of progress.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
