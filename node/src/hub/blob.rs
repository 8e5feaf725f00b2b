//! One blob: fetched by several connections at once, gone on with after breaks, hashed on the way, checked,
//! published.
//!
//! ```text
//! take ──► GET bytes=a-b ──► write at a ──► take …      N workers, lowest missing piece first
//!                                │
//!                    hash, as far as there is no hole   one thread
//!                                │
//!              size and digest ──► fsync ──► rename ──► fsync of the folder
//! ```

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap};
use reqwest::{StatusCode, Url};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::digest::Digest;
use super::error::{HubError, Result};
use super::http::{Answer, Http, protocol, unreachable};
use super::lock::Lock;
use super::name::{Commit, RepoId};
use super::part::{self, Follower, Part, bytes_there};
use super::retry::Retry;
use super::{Event, PublishStep, Report};

/// Time between two journals of a download that goes on.
const JOURNAL_INTERVAL: Duration = Duration::from_secs(2);
/// How often a blob whose bytes were wrong is fetched anew.
const WHOLE_ATTEMPTS: u32 = 3;

/// A blob that is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) repo: RepoId,
    pub(super) commit: Commit,
    /// A path in the commit that has this content.
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) digest: Digest,
}

impl Wanted {
    /// How messages name it.
    fn name(&self) -> String {
        format!("{}@{}/{}", self.repo, self.commit, self.path)
    }
}

/// What all downloads of a pull share.
pub(super) struct Shared {
    pub(super) http: Http,
    pub(super) connections: Semaphore,
    pub(super) workers: usize,
    pub(super) piece_bytes: u64,
    pub(super) patience: Duration,
    pub(super) report: Report,
}

/// Whether the content of a blob is there, as far as its size tells.
pub(super) fn is_there(blob: &Path, size: u64) -> bool {
    std::fs::metadata(blob).is_ok_and(|found| found.is_file() && found.len() == size)
}

/// Removes what is left of making a blob that is there: of a process that was killed right after, or of one
/// that another program overtook.
pub(super) fn tidy(blob: &Path, lock: &Path) -> Result<()> {
    if !part::is_begun(blob) {
        return Ok(());
    }
    // Whoever is still at it tidies up.
    match Lock::try_take(lock)? {
        Some(_lock) => part::remove(blob),
        None => Ok(()),
    }
}

/// Fetches a blob unless it is there or another process is faster. Returns the bytes that came over the network.
///
/// # Errors
/// Whatever kept it from arriving whole. What arrived is kept for the next attempt, except when it was wrong.
pub(super) async fn fetch(
    shared: &Arc<Shared>,
    wanted: Arc<Wanted>,
    blob: &Path,
    lock: &Path,
) -> Result<u64> {
    if is_there(blob, wanted.size) {
        return Ok(0);
    }
    let etag = wanted.digest.hex();
    let mut told = None;
    let _lock = Lock::take(lock, || {
        let done = bytes_there(blob, etag, wanted.size);
        if told != Some(done) {
            told = Some(done);
            (shared.report)(Event::Waiting {
                file: &wanted.path,
                done,
                size: wanted.size,
            });
        }
    })
    .await?;
    if is_there(blob, wanted.size) {
        // The other process did it, or another program.
        part::remove(blob)?;
        (shared.report)(Event::Kept(wanted.size));
        return Ok(0);
    }
    let mut fetched = 0;
    let mut last = String::new();
    for _ in 0..WHOLE_ATTEMPTS {
        let part = Arc::new(Part::open(blob, etag, wanted.size)?);
        let saver = Saver(Arc::clone(&part));
        let kept = part.done();
        (shared.report)(Event::Kept(kept));
        let follower = Follower::start(&part, &wanted.digest);
        transfer(shared, &wanted, &part).await?;
        fetched += wanted.size - kept;
        let found = tokio::task::spawn_blocking(move || follower.finish())
            .await
            .map_err(|e| HubError::io("read", blob, std::io::Error::other(e)))??;
        if found == etag {
            let (wanted, report) = (Arc::clone(&wanted), Arc::clone(&shared.report));
            let blob = blob.to_owned();
            let path = blob.clone();
            tokio::task::spawn_blocking(move || publish(&part, &wanted, &path, &*report))
                .await
                .map_err(|e| HubError::io("write", &blob, std::io::Error::other(e)))??;
            return Ok(fetched);
        }
        // Nobody can tell which bytes are wrong.
        part.discard(blob)?;
        drop(saver);
        let kind = wanted.digest.kind();
        last = format!("the {kind} of what came is {found}, the Hub's is {etag}");
        (shared.report)(Event::StartedOver {
            file: &wanted.path,
            lost: wanted.size,
            reason: &last,
        });
    }
    Err(HubError::Damaged {
        file: wanted.name(),
        message: format!("{last}, {WHOLE_ATTEMPTS} times"),
    })
}

/// Gives whole and checked bytes their name, so that it survives a power cut.
fn publish(
    part: &Part,
    wanted: &Wanted,
    blob: &Path,
    report: &(dyn Fn(Event<'_>) + Send + Sync),
) -> Result<()> {
    let step = |step| {
        report(Event::Publishing {
            file: &wanted.path,
            step,
        });
    };
    step(PublishStep::Checked);
    part.sync()?;
    step(PublishStep::Synced);
    part.rename(blob)?;
    step(PublishStep::Renamed);
    Part::settle(blob)?;
    step(PublishStep::Settled);
    Ok(())
}

/// Writes the journal when a download ends early, however it ends.
struct Saver(Arc<Part>);

impl Drop for Saver {
    fn drop(&mut self) {
        if let Err(error) = self.0.save(false) {
            tracing::debug!(%error, "what was downloaded will be fetched again");
        }
    }
}

/// Brings all bytes of a part, or says why not.
async fn transfer(shared: &Arc<Shared>, wanted: &Arc<Wanted>, part: &Arc<Part>) -> Result<()> {
    let transfer = Arc::new(Transfer {
        shared: Arc::clone(shared),
        wanted: Arc::clone(wanted),
        part: Arc::clone(part),
        retry: Mutex::new(Retry::new(shared.patience)),
        storage: Mutex::new(None),
        pause: Mutex::new(None),
        streamed: AtomicBool::new(false),
    });
    while !part.is_whole() {
        // Whoever gets no ranges leaves the work to one; when that one fails, there may be none left.
        transfer.streamed.store(false, Ordering::Relaxed);
        let pieces = (wanted.size - part.done()).div_ceil(shared.piece_bytes);
        let mut workers = JoinSet::new();
        for _ in 0..pieces.clamp(1, shared.workers as u64) {
            workers.spawn(Arc::clone(&transfer).work());
        }
        let mut journal = tokio::time::interval(JOURNAL_INTERVAL);
        loop {
            tokio::select! {
                ended = workers.join_next() => match ended {
                    None => break,
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(error))) => {
                        // What the others still write belongs into the journal.
                        workers.shutdown().await;
                        return Err(error);
                    }
                    Some(Err(error)) => {
                        let error = std::io::Error::other(error);
                        return Err(HubError::io("fetch", Path::new(&wanted.path), error));
                    }
                },
                _ = journal.tick() => {
                    let part = Arc::clone(part);
                    // A journal that cannot be written costs at most fetching again.
                    let saved = tokio::task::spawn_blocking(move || part.save(true)).await;
                    if let Ok(Err(error)) = saved {
                        tracing::debug!(%error, "the journal of a download");
                    }
                }
            }
        }
    }
    Ok(())
}

/// One blob on its way.
struct Transfer {
    shared: Arc<Shared>,
    wanted: Arc<Wanted>,
    part: Arc<Part>,
    retry: Mutex<Retry>,
    /// Where the Hub last sent us; signed, so it holds for a while.
    storage: Mutex<Option<Url>>,
    /// Nobody asks before.
    pause: Mutex<Option<Instant>>,
    /// Somebody reads the file from its beginning, because there are no ranges.
    streamed: AtomicBool,
}

impl Transfer {
    /// Fetches pieces until none is left.
    async fn work(self: Arc<Self>) -> Result<()> {
        let mut streams = false;
        loop {
            let pause = *lock(&self.pause);
            if let Some(until) = pause {
                tokio::time::sleep_until(until.into()).await;
            }
            if self.streamed.load(Ordering::Relaxed) && !streams {
                return Ok(());
            }
            let Some(piece) = self.part.take(self.shared.piece_bytes) else {
                return Ok(());
            };
            let fetched = self.piece(piece.clone(), &mut streams).await;
            self.part.give_back(piece);
            if let Err(error) = fetched {
                let text = error.to_string();
                let delay = lock(&self.retry).delay(error)?;
                (self.shared.report)(Event::Retrying {
                    file: &self.wanted.path,
                    reason: &text,
                    delay,
                });
                let until = Instant::now() + delay;
                let mut pause = lock(&self.pause);
                *pause = Some(pause.map_or(until, |other| other.max(until)));
            }
        }
    }

    /// Fetches what is missing of one piece.
    async fn piece(&self, piece: Range<u64>, streams: &mut bool) -> Result<()> {
        let asked = Instant::now();
        let _permit = self.shared.connections.acquire().await;
        lock(&self.retry).waited(asked.elapsed());
        let whole = piece == (0..self.wanted.size);
        let range = (!whole).then(|| format!("bytes={}-{}", piece.start, piece.end - 1));
        let mut answer = self.open(range.as_deref()).await?;
        let (start, end) = match answer.response.status() {
            StatusCode::PARTIAL_CONTENT if range.is_some() => (piece.start, piece.end),
            StatusCode::OK => {
                if range.is_some() && !*streams {
                    if self.streamed.swap(true, Ordering::Relaxed) {
                        return Ok(());
                    }
                    *streams = true;
                }
                (0, self.wanted.size)
            }
            other => return Err(protocol(&answer.url, format!("status {other} for a file"))),
        };
        self.check(&answer, start..end)?;
        let mut at = start;
        while at < end {
            let Some(bytes) = self.shared.http.chunk(&mut answer).await? else {
                let message = format!("the file broke off at {at} of {} bytes", self.wanted.size);
                return Err(unreachable(&answer.url, message));
            };
            if bytes.len() as u64 > end - at {
                let message = format!("more than the {} bytes that were asked for", end - start);
                return Err(protocol(&answer.url, message));
            }
            let new = self.part.write(at, &bytes)?;
            at += bytes.len() as u64;
            if new > 0 {
                lock(&self.retry).progress();
                (self.shared.report)(Event::Bytes(new));
            }
        }
        Ok(())
    }

    /// Asks for bytes: where the Hub last sent us, or the Hub.
    async fn open(&self, range: Option<&str>) -> Result<Answer> {
        let http = &self.shared.http;
        let known = lock(&self.storage).clone();
        let from_hub = |headers: &HeaderMap| self.is_the_file(headers);
        if let Some(url) = &known {
            let answer = http.get(url, range, &from_hub).await?;
            if !is_expired(answer.response.status()) {
                return self.good(answer).await;
            }
            *lock(&self.storage) = None;
        }
        let url = http.file_address(&self.wanted.repo, &self.wanted.commit, &self.wanted.path);
        let answer = http.get(&url, range, &from_hub).await?;
        if answer.response.status().is_success() && !http.is_hub(&answer.url) {
            *lock(&self.storage) = Some(answer.url.clone());
        }
        self.good(answer).await
    }

    async fn good(&self, answer: Answer) -> Result<Answer> {
        let status = answer.response.status();
        if status.is_success() {
            return Ok(answer);
        }
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            let message = format!("has no such range of a file of {} bytes", self.wanted.size);
            return Err(protocol(&answer.url, message));
        }
        if is_expired(status) && !self.shared.http.is_hub(&answer.url) {
            let message = format!(
                "refuses the address that the Hub gave just now (HTTP {})",
                status.as_u16()
            );
            return Err(protocol(&answer.url, message));
        }
        let Wanted { repo, commit, .. } = &*self.wanted;
        Err(self
            .shared
            .http
            .refused(answer, repo, commit.as_str())
            .await)
    }

    /// Whether the Hub still means the same file.
    fn is_the_file(&self, headers: &HeaderMap) -> Result<()> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let other = |what: &str, found: &str, expected: &str| {
            let found = super::name::shown(found);
            let message = format!(
                "{what} {found} in place of {expected} for {}",
                self.wanted.path
            );
            let url = self.shared.http.address([]);
            Err(protocol(&url, message))
        };
        if let Some(commit) = text("x-repo-commit")
            && commit != self.wanted.commit.as_str()
        {
            return other("commit", commit, self.wanted.commit.as_str());
        }
        let etag = text("x-linked-etag").or_else(|| text(ETAG.as_str()));
        // A mirror may tag files in its own way; only a digest says something about the content.
        if let Some(etag) = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'))
            && Digest::of_name(etag).is_some()
            && etag != self.wanted.digest.hex()
        {
            return other("content", etag, self.wanted.digest.hex());
        }
        if let Some(size) = text("x-linked-size")
            && size.parse() != Ok(self.wanted.size)
        {
            return other("size", size, &self.wanted.size.to_string());
        }
        Ok(())
    }

    /// Whether an answer has the bytes that were asked for, as far as its header tells.
    fn check(&self, answer: &Answer, expected: Range<u64>) -> Result<()> {
        let headers = answer.response.headers();
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &reqwest::header::HeaderValue| value.to_str().ok())
        };
        let wrong = |message: String| Err(protocol(&answer.url, message));
        if let Some(packed) = text(CONTENT_ENCODING).filter(|packed| *packed != "identity") {
            return wrong(format!("bytes packed as {}", super::name::shown(packed)));
        }
        if answer.response.status() == StatusCode::PARTIAL_CONTENT {
            let range = text(CONTENT_RANGE).unwrap_or_default();
            let fits = content_range(range).is_some_and(|(first, last, total)| {
                first == expected.start
                    && last + 1 == expected.end
                    && total.is_none_or(|total| total == self.wanted.size)
            });
            if !fits {
                let Range { start, end } = expected;
                let range = super::name::shown(range);
                return wrong(format!("range `{range}` in place of {start}-{}", end - 1));
            }
        }
        let length = expected.end - expected.start;
        match answer.response.content_length() {
            Some(found) if found != length => wrong(format!("{found} bytes in place of {length}")),
            _ => Ok(()),
        }
    }
}

/// What a storage says when the signature of an address has run out.
fn is_expired(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400..=404 | 410)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// First and last byte, and size of the whole, from `bytes FIRST-LAST/TOTAL`.
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (span, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    // The largest number has no byte after it.
    (first <= last && last < u64::MAX).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, 9, None)));
        for wrong in [
            "",
            "bytes 9-5/10",
            "bytes */10",
            "5-9/10",
            "bytes 5-/10",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
