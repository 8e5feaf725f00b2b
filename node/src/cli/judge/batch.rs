//! `leoma-node judge batch`: the clips of many tasks.
//!
//! ```text
//! DIR/{task}/metadata.json            prompt
//! DIR/{task}/first_frame.png          conditioning frame
//! DIR/{task}/generated_videos/{miner}.mp4
//! ```
//!
//! Every judgement is a line of the log, and the log is what a second run goes by: a clip that has been decided under
//! the same mode, configuration and prompt is not asked about again. What ended without a verdict is.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use leoma_models::Fault;
use serde_json::{Value, json};

use super::options::Options;
use super::source;
use crate::Error;
use crate::cli::layers::Origins;
use crate::judge::canonical::sha256;
use crate::judge::input::JudgeInput;
use crate::judge::log::{Line, Log};
use crate::judge::side::Bench;
use crate::judge::verdict::{NoVerdict, Reason, fault_name};

/// Longest description of a task that is read.
const MAX_METADATA_BYTES: u64 = 4 << 20;

/// Clips of many tasks, and how they are judged.
#[derive(Debug, Args)]
pub(super) struct BatchArgs {
    /// Folder with a folder for every task, or the folder of one task.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Log of verdicts: lines are added, and clips that it has decided are passed over; default: verdicts.jsonl in
    /// DIR.
    #[arg(
        long,
        value_name = "FILE",
        env = "LEOMA_NODE_JUDGE_LOG",
        help_heading = "Output"
    )]
    log: Option<PathBuf>,
    /// Share of the clips that are judged twice, to see how far the remote judge agrees with itself; which ones
    /// is decided by their digests.
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.0,
        help_heading = "Judging"
    )]
    repeat: f64,
    /// No progress bar.
    #[arg(long, env = "LEOMA_NODE_NO_PROGRESS", help_heading = "Output")]
    no_progress: bool,
    #[command(flatten)]
    options: Options,
}

/// A clip of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Job {
    task: PathBuf,
    task_id: String,
    miner: String,
    video: PathBuf,
}

/// What is counted.
#[derive(Debug, Default)]
struct Counts {
    passed: u32,
    failed: u32,
    none: u32,
    known: u32,
}

pub(super) fn run(args: &BatchArgs, origins: &Origins) -> Result<ExitCode> {
    if !(0.0..=1.0).contains(&args.repeat) {
        return Err(Error::caller("repeat", "write a share from 0 to 1, such as 0.05").into());
    }
    let jobs = jobs(&args.dir)?;
    if jobs.is_empty() {
        let message = format!(
            "{}: there is no {{task}}/generated_videos/*.mp4 in it",
            args.dir.display()
        );
        return Err(Error::caller("dir", message).into());
    }
    let bench = args.options.bench(origins)?;
    let path = args
        .log
        .clone()
        .unwrap_or_else(|| args.dir.join("verdicts.jsonl"));
    let decided = decided(&path)?;
    let log = Log::new(&path);
    let bar = bar(jobs.len(), args.no_progress);
    let mut counts = Counts::default();
    for job in &jobs {
        bar.set_message(format!("{} {}", job.task_id, job.miner));
        one(args, &bench, &log, &decided, job, &mut counts)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let Counts {
        passed,
        failed,
        none,
        known,
    } = counts;
    let object = json!({
        "clips": jobs.len(), "passed": passed, "failed": failed, "no_verdict": none, "already_decided": known,
        "log": path,
    });
    crate::cli::output(format!("{object}\n").as_bytes())?;
    Ok(ExitCode::from(if none == 0 { 0 } else { 2 }))
}

fn one(
    args: &BatchArgs,
    bench: &Bench,
    log: &Log,
    decided: &HashSet<String>,
    job: &Job,
    counts: &mut Counts,
) -> Result<()> {
    let prepared = prompt(&job.task).and_then(|prompt| {
        let digest = source::digest(&job.video)?;
        let twice = u32::from(is_repeated(&digest, args.repeat));
        let todo: Vec<_> = (0..=twice)
            .filter(|repeat| !decided.contains(&key(bench, job, &digest, &prompt, *repeat)))
            .collect();
        if todo.is_empty() {
            return Ok(None);
        }
        let first = job.task.join("first_frame.png");
        let input = source::input(&job.video, &first, &prompt, Some(&job.task_id))?;
        Ok(Some((Arc::new(input), todo)))
    });
    match prepared {
        Err(none) => {
            counts.none += 1;
            report(job, &none)?;
        }
        Ok(None) => counts.known += 1,
        Ok(Some((input, todo))) => {
            for repeat in todo {
                judge(bench, log, job, &input, repeat, counts)?;
            }
        }
    }
    Ok(())
}

fn judge(
    bench: &Bench,
    log: &Log,
    job: &Job,
    input: &Arc<JudgeInput>,
    repeat: u32,
    counts: &mut Counts,
) -> Result<()> {
    let judgement = bench.judge(input);
    let judges = bench.configurations(&judgement);
    let line = log
        .record(input, &judges, judgement, |line| {
            line.miner = Some(job.miner.clone());
            line.repeat = repeat;
        })
        .map_err(Error::from)?;
    let decision = &line.judgement.decision;
    let counted = match decision.pass {
        Some(true) => &mut counts.passed,
        Some(false) => &mut counts.failed,
        None => &mut counts.none,
    };
    *counted += 1;
    let word = decision
        .pass
        .map_or("no_verdict", |pass| if pass { "passed" } else { "failed" });
    let object = json!({
        "task_id": job.task_id, "miner": job.miner, "repeat": repeat, "result": word, "why": decision.why,
    });
    crate::cli::output(format!("{object}\n").as_bytes())
}

fn report(job: &Job, none: &NoVerdict) -> Result<()> {
    let object = json!({
        "task_id": job.task_id, "miner": job.miner, "result": "no_verdict", "why": none.to_string(),
        "fault": fault_name(none.fault),
    });
    crate::cli::output(format!("{object}\n").as_bytes())
}

/// Whether a clip is one of those that are judged twice: by its digest, so that it is in every run.
fn is_repeated(digest: &str, share: f64) -> bool {
    let start = digest
        .get(..8)
        .and_then(|hex| u32::from_str_radix(hex, 16).ok());
    start.is_some_and(|start| f64::from(start) < share * 2f64.powi(32))
}

/// What makes two questions the same one: asked of the same judge, about the same miner's clip and the same prompt. Of
/// two judges it is the remote one; a local one that changes asks nobody for money, and `--log` names another file
/// then.
fn key(bench: &Bench, job: &Job, video: &str, prompt: &str, repeat: u32) -> String {
    let judge = if bench.mode.asks_remote() {
        &bench.remote
    } else {
        &bench.local
    };
    let configuration = judge
        .as_ref()
        .map_or_else(|_| "-".into(), |judge| judge.configuration().sha256());
    let prompt = sha256(prompt.as_bytes());
    let mode = bench.mode.name();
    let Job { task_id, miner, .. } = job;
    format!("{mode} {task_id:?} {miner:?} {video} {prompt} {configuration} {repeat}")
}

/// The questions that a log has decided.
fn decided(path: &Path) -> Result<HashSet<String>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("log: cannot read {}", path.display()));
        }
    };
    let mut decided = HashSet::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.with_context(|| format!("log: cannot read {}", path.display()))?;
        // A line of a run that was killed can be half of one, and end in half a character; it is asked about again.
        let Ok(line) = serde_json::from_slice::<Line>(&line) else {
            continue;
        };
        if line.judgement.decision.pass.is_none() {
            continue;
        }
        let judgement = &line.judgement;
        let outcome = if judgement.mode.asks_remote() {
            &judgement.remote
        } else {
            &judgement.local
        };
        let verdict = outcome.as_ref().and_then(|outcome| outcome.verdict());
        let Some(verdict) = verdict else { continue };
        decided.insert(format!(
            "{} {:?} {:?} {} {} {} {}",
            judgement.mode.name(),
            line.task_id.as_deref().unwrap_or_default(),
            line.miner.as_deref().unwrap_or_default(),
            line.video_sha256,
            line.prompt_sha256,
            verdict.configuration_sha256,
            line.repeat
        ));
    }
    Ok(decided)
}

/// The clips, task by task in the order of their numbers.
fn jobs(dir: &Path) -> Result<Vec<Job>> {
    let mut tasks = Vec::new();
    if dir.join("generated_videos").is_dir() {
        tasks.push(dir.to_owned());
    } else {
        for entry in folder(dir)? {
            if entry.join("generated_videos").is_dir() {
                tasks.push(entry);
            }
        }
    }
    let name = |path: &Path| {
        path.file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    };
    tasks.sort_by_key(|task| (name(task).parse::<u64>().unwrap_or(u64::MAX), name(task)));
    let mut jobs = Vec::new();
    for task in tasks {
        let mut videos = folder(&task.join("generated_videos"))?;
        videos.retain(|video| video.extension().is_some_and(|end| end == "mp4"));
        videos.sort();
        for video in videos {
            let miner = video
                .file_stem()
                .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            jobs.push(Job {
                task_id: name(&task.canonicalize().unwrap_or_else(|_| task.clone())),
                task: task.clone(),
                miner,
                video,
            });
        }
    }
    Ok(jobs)
}

fn folder(path: &Path) -> Result<Vec<PathBuf>> {
    let read = || {
        std::fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    };
    let entries: std::io::Result<Vec<PathBuf>> = read();
    entries.map_err(|error| {
        Error::caller(
            "dir",
            format!("{}: cannot be read: {error}", path.display()),
        )
        .into()
    })
}

/// The prompt of a task: a text, or an object that holds it.
fn prompt(task: &Path) -> Result<String, NoVerdict> {
    use std::io::Read as _;
    let path = task.join("metadata.json");
    let none = |why: String| {
        let message = format!("metadata: {}: {why}", path.display());
        NoVerdict::new("input", Reason::Input, Fault::Caller, message)
    };
    let mut bytes = Vec::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(MAX_METADATA_BYTES).read_to_end(&mut bytes))
        .map_err(|error| none(error.to_string()))?;
    let metadata: Value =
        serde_json::from_slice(&bytes).map_err(|error| none(format!("not JSON: {error}")))?;
    let prompt = &metadata["prompt"];
    let text = prompt.as_str().or_else(|| prompt["text"].as_str());
    text.map(str::to_owned)
        .ok_or_else(|| none("it has no prompt".into()))
}

fn bar(clips: usize, hidden: bool) -> ProgressBar {
    let visible = !hidden && std::io::stderr().is_terminal();
    let target = if visible {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(clips as u64), target);
    if let Ok(style) = ProgressStyle::with_template("judge {pos}/{len} {wide_bar} {msg} {eta}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tasks_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for task in ["10", "9", "notes"] {
            let videos = folder.path().join(task).join("generated_videos");
            std::fs::create_dir_all(&videos).unwrap();
            std::fs::write(videos.join("b.mp4"), b"").unwrap();
            std::fs::write(videos.join("a.mp4"), b"").unwrap();
            std::fs::write(videos.join("a.txt"), b"").unwrap();
        }
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        let names = |dir: &Path| -> Vec<_> {
            jobs(dir)
                .unwrap()
                .into_iter()
                .map(|job| format!("{}/{}", job.task_id, job.miner))
                .collect()
        };
        assert_eq!(
            names(folder.path()),
            ["9/a", "9/b", "10/a", "10/b", "notes/a", "notes/b"]
        );
        assert_eq!(names(&folder.path().join("9")), ["9/a", "9/b"]);
        assert!(jobs(&folder.path().join("nowhere")).is_err());
    }

    #[test]
    fn prompts_in_both_forms() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(folder.path().join("metadata.json"), text).unwrap();
        write(r#"{"prompt": {"text": "a boat"}}"#);
        assert_eq!(prompt(folder.path()).unwrap(), "a boat");
        write(r#"{"prompt": "a boat"}"#);
        assert_eq!(prompt(folder.path()).unwrap(), "a boat");
        for wrong in ["", "{}", r#"{"prompt": {}}"#, "[]"] {
            write(wrong);
            assert_eq!(
                prompt(folder.path()).unwrap_err().fault,
                Fault::Caller,
                "{wrong}"
            );
        }
    }

    #[test]
    fn half_a_line_of_a_run_that_was_killed_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        assert!(decided(&path).unwrap().is_empty());
        std::fs::write(&path, b"{\"prompt\":\"caf\xc3\n\n{}\n").unwrap();
        assert!(decided(&path).unwrap().is_empty());
    }

    #[test]
    fn the_share_of_repeats() {
        let digests = (0..1000u32).map(|n| sha256(&n.to_le_bytes()));
        let repeated = digests.filter(|digest| is_repeated(digest, 0.05)).count();
        assert!((30..=70).contains(&repeated), "{repeated}");
        assert!(!is_repeated(&sha256(b"x"), 0.0) && is_repeated(&sha256(b"x"), 1.0));
    }
}
