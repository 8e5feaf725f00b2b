//! Downloads as the commands show them.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{DecimalBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::layers::process_env;
use crate::hub::{
    Commit, Described, Event, HubError, HubSettings, PullOptions, RepoId, Report, Revision,
    Snapshot, pull,
};

/// Time between two lines about a download where there is no bar: a log should tell that it goes on.
const LINE_INTERVAL: Duration = Duration::from_secs(30);
/// How much is said about a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// A bar where stderr is a terminal, else a line now and then.
    Progress,
    /// Warnings only.
    Quiet,
}

impl Show {
    /// As `--no-progress` has it.
    pub(super) fn new(no_progress: bool) -> Self {
        let disabled = process_env("HF_HUB_DISABLE_PROGRESS_BARS");
        let disabled = disabled.is_some_and(|value| {
            let value = value.to_string_lossy().to_ascii_uppercase();
            matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
        });
        if no_progress || disabled {
            Self::Quiet
        } else {
            Self::Progress
        }
    }
}

/// What the environment says about the Hub.
pub(super) fn settings() -> Result<HubSettings> {
    Ok(HubSettings::from_env(&process_env)?)
}

/// Downloads what is missing. Ctrl-C stops it; what arrived is kept.
///
/// # Errors
/// [`HubError`].
pub(super) fn download(
    settings: &HubSettings,
    repo: &RepoId,
    revision: &Revision,
    options: &PullOptions,
    show: Show,
) -> Result<Snapshot> {
    let (screen, report) = watched(settings, repo, show);
    let result = until_interrupted(pull(settings, repo, revision, options, &report));
    screen.bar.finish_and_clear();
    result
}

/// Asks the Hub what a revision is. Ctrl-C stops it.
///
/// # Errors
/// [`HubError`].
pub(super) fn describe(
    settings: &HubSettings,
    repo: &RepoId,
    revision: &Revision,
    show: Show,
) -> Result<Described> {
    let (_, report) = watched(settings, repo, show);
    until_interrupted(crate::hub::describe(settings, repo, revision, &report))
}

/// Asks the Hub for the date of a commit. Ctrl-C stops it.
///
/// # Errors
/// [`HubError`].
pub(super) fn commit_date(
    settings: &HubSettings,
    repo: &RepoId,
    commit: &Commit,
    show: Show,
) -> Result<String> {
    let (_, report) = watched(settings, repo, show);
    until_interrupted(crate::hub::commit_date(settings, repo, commit, &report))
}

/// What is seen of work with a repository, and who tells it.
fn watched(settings: &HubSettings, repo: &RepoId, show: Show) -> (Arc<Screen>, Report) {
    let screen = Arc::new(Screen::new(repo, show));
    if settings.shows_token() {
        screen.say("warning: the token goes to HF_ENDPOINT unencrypted; use https");
    }
    let report: Report = {
        let screen = Arc::clone(&screen);
        Arc::new(move |event: Event<'_>| screen.event(event))
    };
    (screen, report)
}

/// Waits for what needs the network, or for Ctrl-C.
fn until_interrupted<T>(task: impl Future<Output = Result<T, HubError>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // They wait for the network, and write.
        .worker_threads(4)
        .enable_all()
        .build()
        .context("cannot prepare connections")?;
    let result = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        tokio::select! {
            done = task => done.map_err(anyhow::Error::from),
            _ = interrupt.recv() => Err(HubError::Interrupted.into()),
            _ = terminate.recv() => Err(HubError::Interrupted.into()),
        }
    });
    // Threads that hash or write to the disk end on their own.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// What is seen of a download.
struct Screen {
    repo: String,
    show: Show,
    bar: ProgressBar,
    /// When the last line was written, where there is no bar.
    line: Mutex<Instant>,
    done: AtomicU64,
    total: AtomicU64,
}

impl Screen {
    fn new(repo: &RepoId, show: Show) -> Self {
        let visible = show == Show::Progress && std::io::stderr().is_terminal();
        let target = if visible {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let template = "{prefix:>12} [{bar:30}] {decimal_bytes}/{decimal_total_bytes}  \
                        {decimal_bytes_per_sec}, {eta} left{msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix("download");
        Self {
            repo: repo.to_string(),
            show,
            bar,
            line: Mutex::new(Instant::now()),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
        }
    }

    /// A line that does not tear the bar.
    #[allow(clippy::print_stderr)]
    fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    fn event(&self, event: Event<'_>) {
        match event {
            Event::Renamed { from, to } => {
                self.say(&format!("warning: {from} is called {to} now"));
            }
            Event::Unasked {
                revision,
                commit,
                reason,
            } => self.say(&format!(
                "warning: {reason}; using commit {commit}, which {revision} was when the Hub was last asked"
            )),
            Event::Planned { missing, bytes, .. } if missing > 0 => {
                self.total.store(bytes, Ordering::Relaxed);
                self.bar.set_length(bytes);
                self.bar.enable_steady_tick(Duration::from_millis(500));
                if self.show == Show::Progress && self.bar.is_hidden() {
                    let size = DecimalBytes(bytes);
                    self.say(&format!("{}: {size} in {missing} files to download", self.repo));
                }
            }
            Event::Kept(bytes) => {
                self.done.fetch_add(bytes, Ordering::Relaxed);
                self.bar.inc(bytes);
                // What was there says nothing about the speed of the network.
                self.bar.reset_eta();
            }
            Event::Bytes(bytes) => {
                self.bar.inc(bytes);
                self.bar.set_message("");
                let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
                self.line_now_and_then(done);
            }
            Event::Waiting { file, done, size } => {
                let (done, size) = (DecimalBytes(done), DecimalBytes(size));
                self.bar
                    .set_message(format!("; another process has {done} of {size} of {file}"));
            }
            Event::Retrying { reason, delay, .. } => {
                tracing::debug!(repo = self.repo, reason, ?delay, "a download is tried again");
                self.bar.set_message(format!("; {reason}, trying again"));
            }
            Event::StartedOver { file, lost, reason } => {
                self.done.fetch_sub(lost, Ordering::Relaxed);
                self.bar.set_position(self.done.load(Ordering::Relaxed));
                self.say(&format!("warning: {file}: {reason}; fetching it anew"));
            }
            Event::Removed { file, reason } => {
                self.say(&format!("warning: {file}: {reason}; fetching it again"));
            }
            _ => {}
        }
    }

    /// Where there is no bar, a line tells that it goes on.
    fn line_now_and_then(&self, done: u64) {
        if self.show == Show::Quiet || !self.bar.is_hidden() {
            return;
        }
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.elapsed() < LINE_INTERVAL {
            return;
        }
        *line = Instant::now();
        drop(line);
        let total = self.total.load(Ordering::Relaxed);
        let (done, total) = (DecimalBytes(done), DecimalBytes(total));
        self.say(&format!("{}: {done} of {total}", self.repo));
    }
}
