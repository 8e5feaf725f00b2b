//! A judge's scores against those of people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::judge::bridge::local_judge;
use crate::judge::log::{Line, VERSION};
use crate::judge::rubric::Dimension;
use crate::judge::side::Judgement;
use crate::judge::statistics::bootstrap::{ENOUGH_TASKS, Estimate, Interval, estimates};
use crate::judge::statistics::human::{DecidedPairs, Preference, agreement};
use crate::judge::statistics::kendall::{Concordance, Measure};
use crate::judge::statistics::pairs::LocalJudge;
use crate::judge::statistics::rank::Spearman;
use crate::judge::statistics::ratings::{Aspect, MOST_BYTES, Ratings, aspect_key};
use crate::judge::verdict::{Outcome, Verdict};
use crate::report::words::{count, plain};

const HEADING: &str = "Agreement with people";

/// What people said, and what a judge did.
#[derive(Debug, Args)]
pub(super) struct HumanArgs {
    /// Say how far a judge agrees with people, and measure nothing else: their scores or preferences, CSV or JSON
    /// lines.
    #[arg(long, value_name = "FILE", requires = "scores", help_heading = HEADING)]
    pub(super) human: Option<PathBuf>,
    /// What the judge said of the same clips: a verdict log, where a clip is the SHA-256 of its video, or scores, CSV
    /// or JSON lines. Of a log that holds several judges the newest one counts.
    #[arg(long, value_name = "FILE", requires = "human", help_heading = HEADING)]
    scores: Option<PathBuf>,
    /// Which side of a verdict log.
    #[arg(long, value_enum, default_value_t = Who::Local, requires = "human", help_heading = HEADING)]
    judge: Who,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Who {
    Local,
    Remote,
}

impl Who {
    fn outcome(self, judgement: &Judgement) -> Option<&Outcome> {
        match self {
            Self::Local => judgement.local.as_ref(),
            Self::Remote => judgement.remote.as_ref(),
        }
    }
}

pub(super) fn run(args: &HumanArgs) -> Result<String> {
    let (Some(human), Some(scores)) = (&args.human, &args.scores) else {
        return Ok(String::new());
    };
    let people = read(human, "human", Ratings::read)?;
    let judge = read(scores, "scores", |text| judged(text, args.judge))?;
    let mut text = table(&people, &judge.ratings);
    if text.is_empty() {
        bail!(
            "scores: {} has no clip of {} in the same dimension: clips must have the same names in both",
            scores.display(),
            human.display()
        );
    }
    text.push_str(&judge.note());
    Ok(text)
}

fn read<T>(path: &Path, option: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T> {
    let failed = || format!("{option}: cannot read {}", path.display());
    let file = File::open(path).with_context(failed)?;
    let mut text = String::new();
    file.take(MOST_BYTES + 1)
        .read_to_string(&mut text)
        .with_context(failed)?;
    if text.len() as u64 > MOST_BYTES {
        bail!(
            "{option}: {} has more than {MOST_BYTES} bytes",
            path.display()
        );
    }
    parse(&text).map_err(|error| anyhow::anyhow!("{option}: {}: {error}", path.display()))
}

/// What one judge said.
#[derive(Debug, Default)]
struct Judged {
    ratings: Ratings,
    /// Its name, where a log tells it.
    name: Option<String>,
    /// Verdicts of the log that are another judge's.
    others: usize,
}

impl Judged {
    /// Whose scores these are.
    fn note(&self) -> String {
        let Some(name) = &self.name else {
            return String::new();
        };
        let mut note = format!("The judge is {}.", plain(name));
        if self.others > 0 {
            let _ = write!(
                note,
                " {} of other judges or configurations in the log are left out: judges are compared one by one.",
                count(self.others, "verdict")
            );
        }
        note.push('\n');
        note
    }
}

/// Whose verdict this is. Which frames are compared with the remote judge's does not matter to people.
fn identity(verdict: &Verdict) -> LocalJudge {
    LocalJudge {
        sampling: String::new(),
        ..local_judge(verdict)
    }
}

/// A judge's scores of a verdict log, or of a file of scores.
fn judged(text: &str, who: Who) -> Result<Judged, String> {
    let first = text.lines().find(|line| !line.trim().is_empty());
    let is_log = first
        .and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .is_some_and(|line| line.get("judgement").is_some());
    if !is_log {
        let ratings = Ratings::read(text)?;
        return Ok(Judged {
            ratings,
            ..Judged::default()
        });
    }
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |message: String| format!("line {}: {message}", index + 1);
        let line: Line = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        if line.version != VERSION {
            return Err(wrong(format!(
                "version {}; this program reads {VERSION}",
                line.version
            )));
        }
        // A repetition is of the same clip.
        if line.repeat == 0 {
            lines.push(line);
        }
    }
    // The newest judge is the one that is meant, and of several verdicts the newest counts.
    lines.sort_by(|a, b| a.unix.total_cmp(&b.unix));
    let verdicts: Vec<(&Line, &Verdict)> = lines
        .iter()
        .filter_map(|line| Some((line, who.outcome(&line.judgement)?.verdict()?)))
        .collect();
    let newest = verdicts.last().map(|(_, verdict)| identity(verdict));
    let mut ratings = Ratings::default();
    let mut others = 0;
    for (line, verdict) in verdicts {
        if Some(identity(verdict)) != newest {
            others += 1;
            continue;
        }
        let clip = &line.video_sha256;
        let mut set = |aspect: Aspect, score: u8| {
            let scores = ratings.scores.entry(aspect).or_default();
            scores.insert(clip.clone(), f64::from(score));
        };
        set(None, verdict.overall);
        for dimension in Dimension::ALL {
            if !verdict.unjudged.contains(&dimension) {
                set(Some(dimension), verdict.scores[dimension]);
            }
        }
        if let Some(task) = &line.task_id {
            ratings.tasks.insert(clip.clone(), task.clone());
        }
    }
    Ok(Judged {
        ratings,
        name: newest.map(|judge| judge.local_id),
        others,
    })
}

/// The figures as Markdown; empty when no clip is in both.
fn table(people: &Ratings, judge: &Ratings) -> String {
    let mut text = String::new();
    let mut unknown = BTreeSet::new();
    let scored = scored(people, judge, &mut unknown);
    let preferred = preferred(people, judge, &mut unknown);
    if !scored.is_empty() {
        text.push_str(
            "| dimension | clips | tasks | Spearman | Kendall's tau-b | pairs ordered alike |\n|---|---|---|---|---|---|\n",
        );
        text.push_str(&scored);
    }
    if !preferred.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(
            "| dimension | pairs | called ties | ordered alike of the decided | three-way with ties | width of a tie |\n\
             |---|---|---|---|---|---|\n",
        );
        text.push_str(&preferred);
    }
    if !text.is_empty() {
        let _ = writeln!(
            text,
            "\nIntervals of 95 %, whole tasks drawn with replacement; none under {ENOUGH_TASKS} tasks. A clip whose task \
             is not said is a task of its own."
        );
        if !unknown.is_empty() {
            let _ = writeln!(
                text,
                "Clips that the judge has no score of: {}.",
                unknown.len()
            );
        }
    }
    text
}

/// Numbers of the tasks of clips, in the order of the tasks' names.
fn task_of<'a>(
    clips: impl Iterator<Item = &'a str>,
    people: &Ratings,
    judge: &Ratings,
) -> Vec<usize> {
    let names: Vec<String> = clips
        .map(|clip| {
            let task = people.tasks.get(clip).or_else(|| judge.tasks.get(clip));
            // A task and a clip of one name are two things.
            task.map_or_else(|| format!("clip {clip}"), |task| format!("task {task}"))
        })
        .collect();
    let sorted: BTreeSet<&String> = names.iter().collect();
    let numbers: BTreeMap<&String, usize> = sorted
        .into_iter()
        .enumerate()
        .map(|(number, name)| (name, number))
        .collect();
    names
        .iter()
        .filter_map(|name| numbers.get(name).copied())
        .collect()
}

/// Rows of the aspects that people scored.
fn scored<'a>(people: &'a Ratings, judge: &Ratings, unknown: &mut BTreeSet<&'a str>) -> String {
    let mut text = String::new();
    for (aspect, clips) in &people.scores {
        let known = judge.scores.get(aspect);
        let mut names = Vec::new();
        let mut rows = Vec::new();
        for (clip, human) in clips {
            match known.and_then(|scores| scores.get(clip)) {
                Some(score) => {
                    rows.push((rows.len(), *score, *human));
                    names.push(clip.as_str());
                }
                None => {
                    unknown.insert(clip);
                }
            }
        }
        if rows.is_empty() {
            continue;
        }
        let tasks = task_of(names.into_iter(), people, judge);
        let spearman = Spearman::new(&rows);
        let tau = Concordance::new(&rows, Measure::TauB);
        let accuracy = Concordance::new(&rows, Measure::Accuracy);
        let found = estimates(&tasks, &[&spearman, &tau, &accuracy]);
        let tasks = found.first().map_or(0, |estimate| estimate.tasks);
        let cells: Vec<String> = found.iter().map(cell).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {tasks} | {} |",
            aspect_key(*aspect),
            rows.len(),
            cells.join(" | ")
        );
    }
    text
}

/// Rows of the aspects in which people compared clips.
fn preferred<'a>(people: &'a Ratings, judge: &Ratings, unknown: &mut BTreeSet<&'a str>) -> String {
    let mut text = String::new();
    let aspects: BTreeSet<Aspect> = people.preferences.iter().map(|pair| pair.aspect).collect();
    for aspect in aspects {
        let known = judge.scores.get(&aspect);
        let mut names = Vec::new();
        let mut decided = DecidedPairs::default();
        for pair in people
            .preferences
            .iter()
            .filter(|pair| pair.aspect == aspect)
        {
            let score = |clip: &String| known.and_then(|scores| scores.get(clip)).copied();
            match (score(&pair.first), score(&pair.second)) {
                (Some(first), Some(second)) => {
                    let preference = Preference {
                        gap: first - second,
                        human: pair.choice,
                    };
                    decided.pairs.push((decided.pairs.len(), preference));
                    names.push(pair.first.as_str());
                }
                (first, second) => {
                    unknown.extend(first.is_none().then_some(pair.first.as_str()));
                    unknown.extend(second.is_none().then_some(pair.second.as_str()));
                }
            }
        }
        if decided.pairs.is_empty() {
            continue;
        }
        let pairs: Vec<Preference> = decided.pairs.iter().map(|(_, pair)| *pair).collect();
        let whole = agreement(&pairs);
        let tasks = task_of(names.into_iter(), people, judge);
        let found = estimates(&tasks, &[&decided]);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            aspect_key(aspect),
            whole.n,
            whole.ties,
            found.first().map(cell).unwrap_or_default(),
            whole
                .with_ties
                .map_or_else(|reason| reason.to_string(), |share| format!("{share:.3}")),
            whole.tie_width
        );
    }
    text
}

/// A figure with its interval.
fn cell(estimate: &Estimate) -> String {
    match (estimate.value, estimate.interval) {
        (Err(reason), _) => reason.to_string(),
        (Ok(value), Interval::Between(low, high)) => format!("{value:.3} [{low:.3}, {high:.3}]"),
        (Ok(value), Interval::Unstable) => format!("{value:.3} (no interval: unstable)"),
        (Ok(value), Interval::Insufficient | Interval::NoValue) => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests;
