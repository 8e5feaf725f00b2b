//! `leoma-bench suite`: checks everything that runs on a card and measures it, in one command.
//!
//! Each part runs in a process of its own with its own deadline, so that a part that hangs or leaves the
//! card in error harms no other. A part writes its rows to `part-N-NAME.json` as they come; what a stopped
//! part had found is kept. Correctness comes before timing, inputs are random, results start as NaN, and
//! times are those of device events.
//!
//! `--dry-run` takes the same way on a machine without a card: the kernels of `kernels/cuda` run in the host
//! shim (feature `shim`), shapes are small, nothing is timed.
//!
//! [`parts`] is the list; [`place`] is where the kernels run; [`result`](mod@result) what a part leaves.

mod args;
mod attention;
mod block;
mod clip;
mod kernels;
mod memory;
mod noise;
mod parts;
mod pipelines;
mod place;
mod result;
mod torch;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub(crate) use self::args::SuiteArgs;
use self::parts::{PARTS, Part};
use self::result::{PartResult, Verdict};
use crate::run::note;

/// Longest a part may take, and all of them together.
const PART_S: u64 = 9 * 60;
const ALL_S: u64 = 20 * 60;

/// What a part gets beyond its own deadline to write its last words.
const GRACE_S: u64 = 15;

/// Runs the suite, or the one part that `--one` names.
pub(crate) fn run(args: &SuiteArgs) -> Result<()> {
    if let Some(number) = args.one {
        return parts::run_one(args, number);
    }
    let parts = parts::selected(&args.parts)?;
    place::check(args.dry_run)?;
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create {}", args.out.display()))?;
    let end = Instant::now() + Duration::from_secs(ALL_S);
    let mut results = Vec::new();
    for part in parts {
        let seconds = PART_S.min(end.saturating_duration_since(Instant::now()).as_secs());
        note(&format!("part {}: {}", part.number, part.what));
        let result = run_part(args, part, seconds)?;
        result.write(&args.out)?;
        results.push(result);
    }
    let table = result::table(&results);
    std::io::Write::write_all(&mut std::io::stdout().lock(), table.as_bytes())?;
    let failed = results
        .iter()
        .flat_map(|part| &part.rows)
        .filter(|row| row.verdict == Verdict::Fail)
        .count();
    if failed > 0 {
        bail!(
            "{failed} checks failed; see the table and {}",
            args.out.display()
        );
    }
    Ok(())
}

/// One part in a process of its own.
fn run_part(args: &SuiteArgs, part: &Part, seconds: u64) -> Result<PartResult> {
    let start = Instant::now();
    let path = args.out.join(part.file());
    if path.exists() {
        std::fs::remove_file(&path)
            .with_context(|| format!("cannot replace {}", path.display()))?;
    }
    if seconds == 0 {
        let mut result = PartResult::new(part, args.dry_run);
        result.skip("all", "no time was left of the suite's 20 minutes");
        return Ok(result);
    }
    let log = args.out.join(format!("part-{}.log", part.number));
    let mut command = Command::new(crate::run::this_program()?);
    command
        .args(args.of_one(part.number, seconds))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?);
    let mut child = command
        .spawn()
        .context("cannot start this program again for a part")?;
    let ended = wait(&mut child, start + Duration::from_secs(seconds + GRACE_S))?;
    let mut result = match PartResult::read(&path) {
        Ok(result) => result,
        Err(_) => PartResult::new(part, args.dry_run),
    };
    match ended {
        Some(status) if status.success() => {}
        Some(status) => result.fail(
            "the part's process",
            &last_words(&log, &format!("{status}")),
        ),
        None => result.fail(
            "the part's process",
            &last_words(&log, &format!("stopped: not done after {seconds} s")),
        ),
    }
    if result.rows.is_empty() {
        result.fail("all", "the part left no result");
    }
    result.seconds = start.elapsed().as_secs_f64();
    // Its last words are in the result; at most eight files stay.
    let _ = std::fs::remove_file(&log);
    Ok(result)
}

/// Waits until `end`; `None` when the child had to be stopped.
fn wait(child: &mut Child, end: Instant) -> Result<Option<std::process::ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What became of a process, and the end of what it wrote to standard error.
fn last_words(log: &Path, what: &str) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> = text.lines().rev().take(8).collect();
    lines.reverse();
    if lines.is_empty() {
        what.to_owned()
    } else {
        format!("{what}; {}", lines.join(" | "))
    }
}

/// Numbers of all parts, for the command line's check.
fn numbers() -> Vec<u8> {
    PARTS.iter().map(|part| part.number).collect()
}
