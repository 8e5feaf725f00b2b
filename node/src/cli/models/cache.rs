//! `leoma-node models list|verify|rm`: what the cache of the Hub holds.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use indicatif::{DecimalBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::cli::generate::Format;
use crate::cli::hub::{Show, settings};
use crate::hub::{CachedRepo, FileState, RepoId, Revision, Verification, list, remove, verify};

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyArgs {
    /// Repository in the cache: user/name.
    repo: String,
    /// Branch, tag or full commit.
    #[arg(long, value_name = "REVISION", default_value = "main")]
    revision: String,
    /// No progress bar.
    #[arg(long, env = "LEOMA_NODE_NO_PROGRESS")]
    no_progress: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RmArgs {
    /// Repository in the cache: user/name.
    repo: String,
    /// Only this branch, tag or commit of it; default: all that is there.
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run_list(args: &ListArgs) -> Result<()> {
    let cache = settings()?.cache;
    let repos = list(&cache)?;
    let text = match args.format {
        Format::Json => format!("{:#}\n", json!({ "cache": cache, "models": repos })),
        Format::Text if repos.is_empty() => {
            format!("no models in {}\n", cache.display())
        }
        Format::Text => table(&repos),
    };
    crate::cli::output(text.as_bytes())
}

/// One line per commit; the whole commit, because that is what pins a model.
fn table(repos: &[CachedRepo]) -> String {
    let mut rows = vec![["MODEL", "COMMIT", "REFS", "FILES", "SIZE", ""].map(str::to_owned)];
    for repo in repos {
        for revision in &repo.revisions {
            let missing = match revision.missing {
                Some(0) => String::new(),
                Some(missing) => format!("{missing} files missing"),
                None => "not listed".to_owned(),
            };
            rows.push([
                repo.repo.clone(),
                revision.commit.clone(),
                revision.refs.join(","),
                revision.files.to_string(),
                DecimalBytes(revision.size_bytes).to_string(),
                missing,
            ]);
        }
        if repo.unfinished_bytes > 0 || repo.revisions.is_empty() {
            let unfinished = DecimalBytes(repo.unfinished_bytes).to_string();
            let [none, dash] = [String::new(), "-".to_owned()];
            let what = "unfinished".to_owned();
            rows.push([
                repo.repo.clone(),
                dash,
                none.clone(),
                none,
                unfinished,
                what,
            ]);
        }
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let line: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        // Writing into a text cannot fail.
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    text
}

#[allow(clippy::print_stderr)]
pub(super) fn run_verify(args: &VerifyArgs) -> Result<ExitCode> {
    let repo: RepoId = args.repo.parse()?;
    let revision: Revision = args.revision.parse()?;
    let visible = Show::new(args.no_progress) == Show::Progress && std::io::stderr().is_terminal();
    let target = if visible {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) =
        ProgressStyle::with_template("{prefix:>12} {decimal_bytes}  {decimal_bytes_per_sec}")
    {
        bar.set_style(style);
    }
    bar.set_prefix("verify");
    let verification = verify(&settings()?.cache, &repo, &revision, &|bytes| {
        bar.inc(bytes)
    });
    bar.finish_and_clear();
    let verification = verification?;
    let good = verification.is_good();
    let text = match args.format {
        Format::Json => {
            let mut object = json!(verification);
            object["good"] = good.into();
            format!("{object:#}\n")
        }
        Format::Text => lines(&verification),
    };
    crate::cli::output(text.as_bytes())?;
    if good {
        return Ok(ExitCode::SUCCESS);
    }
    if verification
        .bad()
        .any(|file| matches!(file.state, FileState::Damaged { .. }))
    {
        let commit = &verification.commit;
        eprintln!(
            "hint: `leoma-node models pull {repo} --revision {commit} --verify` fetches damaged files again"
        );
    }
    Ok(ExitCode::from(1))
}

fn lines(verification: &Verification) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        // Writing into a text cannot fail.
        let _ = writeln!(text, "{words}");
    };
    let (mut good, mut bytes) = (0, 0);
    for file in &verification.files {
        match &file.state {
            FileState::Good { size, .. } => {
                good += 1;
                bytes += size;
            }
            FileState::Missing => line(format!("missing     {}", file.path)),
            FileState::Damaged { reason } => line(format!("damaged     {}: {reason}", file.path)),
            FileState::Unexpected => line(format!("unexpected  {}: not of this commit", file.path)),
        }
    }
    line(format!(
        "{}@{}: {good} of {} files are as the Hub says, {}",
        verification.repo,
        verification.commit,
        verification.files.len(),
        DecimalBytes(bytes)
    ));
    if !verification.listed {
        line(
            "the Hub's listing of this commit is not in the cache: files that are missing cannot be known"
                .to_owned(),
        );
    }
    text
}

pub(super) fn run_rm(args: &RmArgs) -> Result<()> {
    let repo: RepoId = args.repo.parse()?;
    let revision: Option<Revision> = args.revision.as_deref().map(str::parse).transpose()?;
    let removed = remove(&settings()?.cache, &repo, revision.as_ref(), args.dry_run)?;
    let text = match args.format {
        Format::Json => {
            let mut object = json!(removed);
            object["dry_run"] = args.dry_run.into();
            format!("{object:#}\n")
        }
        Format::Text => {
            let verb = if args.dry_run {
                "would remove"
            } else {
                "removed"
            };
            format!(
                "{verb} {repo}: {} commits, {} contents, {}\n",
                removed.commits.len(),
                removed.blobs,
                DecimalBytes(removed.bytes)
            )
        }
    };
    crate::cli::output(text.as_bytes())
}
