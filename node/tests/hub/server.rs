//! A Hub on this machine: what it lists is true, and what it does can be anything.
//!
//! Two servers, as the real one: the Hub itself, and the storage that it redirects large files to. What each
//! answer does is decided by a script; every question is written down.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LINK, LOCATION, RANGE,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::Digest as _;

/// Which server was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// `/api/models/…/revision/…`
    Info,
    /// `/api/models/…/tree/…`
    Tree,
    /// `/api/models/…/commits/…`
    Commits,
    /// `…/resolve/…`
    File,
    /// The storage.
    Storage,
}

/// A question.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) at: At,
    /// Path in the repository, or the content's name.
    pub(crate) what: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    /// How many questions of this kind came before.
    pub(crate) before: usize,
}

/// What an answer does.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// What it should.
    Right,
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// No more bytes after so many, and no end.
    Hang(usize),
    /// So many bytes, then a pause, over and over.
    Slow(usize, Duration),
    /// The byte at this place of the file is another one.
    Wrong(usize),
    /// The whole file, whatever was asked for.
    Whole,
    /// Another range than was asked for.
    Shifted,
    /// So many bytes more than the file has.
    Longer(usize),
    /// A page that says something is wrong, as success.
    Page,
    /// Only a status, with headers.
    Status(u16, Vec<(&'static str, String)>),
    /// Headers in place of the right ones.
    With(Vec<(&'static str, String)>),
}

/// A file as the Hub lists it.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) bytes: Arc<Vec<u8>>,
    /// Whether it is in large file storage.
    pub(crate) large: bool,
    /// What the listing says in place of the true size.
    pub(crate) listed_size: Option<u64>,
}

impl Content {
    pub(crate) fn etag(&self) -> String {
        if self.large {
            hex(&sha2::Sha256::digest(&*self.bytes))
        } else {
            git_sha1(&self.bytes)
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.listed_size.unwrap_or(self.bytes.len() as u64)
    }
}

pub(crate) fn small(bytes: impl Into<Vec<u8>>) -> Content {
    Content {
        bytes: Arc::new(bytes.into()),
        large: false,
        listed_size: None,
    }
}

pub(crate) fn large(bytes: impl Into<Vec<u8>>) -> Content {
    Content {
        large: true,
        ..small(bytes)
    }
}

/// Bytes that are nowhere the same.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn git_sha1(bytes: &[u8]) -> String {
    let mut sha1 = sha1_smol::Sha1::new();
    sha1.update(format!("blob {}\0", bytes.len()).as_bytes());
    sha1.update(bytes);
    sha1.digest().to_string()
}

type Script = Box<dyn FnMut(&Asked) -> Act + Send>;
type Commits = BTreeMap<String, BTreeMap<String, Content>>;

#[derive(Default)]
struct Repo {
    branches: BTreeMap<String, String>,
    commits: Commits,
    /// By commit.
    dates: BTreeMap<String, String>,
    gated: bool,
    renamed: Option<String>,
}

struct Inner {
    repos: Mutex<BTreeMap<String, Repo>>,
    script: Mutex<Script>,
    asked: Mutex<Vec<Asked>>,
    hub: SocketAddr,
    storage: SocketAddr,
    /// Bytes of files that were sent.
    sent: Mutex<u64>,
    /// Files of a page of the listing.
    page: Mutex<usize>,
    down: AtomicBool,
}

/// The servers; they end with this.
pub(crate) struct Hub {
    inner: Arc<Inner>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Hub {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (hub, storage) = runtime.block_on(async {
            let bind = || tokio::net::TcpListener::bind(("127.0.0.1", 0));
            (bind().await.unwrap(), bind().await.unwrap())
        });
        let inner = Arc::new(Inner {
            repos: Mutex::default(),
            script: Mutex::new(Box::new(|_| Act::Right)),
            asked: Mutex::default(),
            hub: hub.local_addr().unwrap(),
            storage: storage.local_addr().unwrap(),
            sent: Mutex::default(),
            page: Mutex::new(1000),
            down: AtomicBool::new(false),
        });
        let front = Router::new()
            .route("/api/models/{user}/{name}/revision/{revision}", get(info))
            .route("/api/models/{user}/{name}/tree/{revision}", get(tree))
            .route("/api/models/{user}/{name}/commits/{revision}", get(history))
            .route("/{user}/{name}/resolve/{revision}/{*path}", get(resolve))
            .fallback(|| async { (StatusCode::NOT_FOUND, "not a route") })
            .with_state(Arc::clone(&inner));
        let back = Router::new()
            .route("/{user}/{name}/{etag}", get(stored))
            .with_state(Arc::clone(&inner));
        for (listener, router) in [(hub, front), (storage, back)] {
            runtime.spawn(async move { axum::serve(listener, router).await });
        }
        Self {
            inner,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.inner.hub)
    }

    /// Adds a commit to a repository and moves a branch to it.
    pub(crate) fn commit(&self, repo: &str, branch: &str, commit: &str, files: &[(&str, Content)]) {
        let mut repos = self.inner.repos.lock().unwrap();
        let repo = repos.entry(repo.to_owned()).or_default();
        let files = files
            .iter()
            .map(|(path, content)| ((*path).to_owned(), content.clone()));
        repo.commits.insert(commit.to_owned(), files.collect());
        repo.branches.insert(branch.to_owned(), commit.to_owned());
    }

    /// Sets the date of a commit.
    pub(crate) fn date(&self, repo: &str, commit: &str, date: &str) {
        let mut repos = self.inner.repos.lock().unwrap();
        let dates = &mut repos.get_mut(repo).unwrap().dates;
        dates.insert(commit.to_owned(), date.to_owned());
    }

    /// Only those with a token may read it.
    pub(crate) fn gate(&self, repo: &str) {
        self.inner
            .repos
            .lock()
            .unwrap()
            .get_mut(repo)
            .unwrap()
            .gated = true;
    }

    /// The repository has another name now.
    pub(crate) fn rename(&self, repo: &str, to: &str) {
        let mut repos = self.inner.repos.lock().unwrap();
        let old = repos.get_mut(repo).unwrap();
        let new = Repo {
            branches: old.branches.clone(),
            commits: old.commits.clone(),
            ..Repo::default()
        };
        old.renamed = Some(to.to_owned());
        repos.insert(to.to_owned(), new);
    }

    pub(crate) fn script(&self, script: impl FnMut(&Asked) -> Act + Send + 'static) {
        *self.inner.script.lock().unwrap() = Box::new(script);
    }

    /// Files of a page of the listing.
    pub(crate) fn page(&self, files: usize) {
        *self.inner.page.lock().unwrap() = files;
    }

    /// Nothing is answered any more.
    pub(crate) fn go_down(&self) {
        self.inner.down.store(true, Ordering::Relaxed);
    }

    /// What was asked since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.inner.asked.lock().unwrap())
    }

    /// Bytes of files that were sent since the last call.
    pub(crate) fn sent(&self) -> u64 {
        std::mem::take(&mut self.inner.sent.lock().unwrap())
    }
}

impl Inner {
    fn act(&self, at: At, what: &str, headers: &HeaderMap) -> (Act, Asked) {
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &axum::http::HeaderValue| value.to_str().ok())
                .map(str::to_owned)
        };
        let mut asked = Asked {
            at,
            what: what.to_owned(),
            range: text(RANGE),
            authorization: text(AUTHORIZATION),
            before: 0,
        };
        let mut log = self.asked.lock().unwrap();
        asked.before = log.iter().filter(|other| other.at == at).count();
        log.push(asked.clone());
        drop(log);
        if self.down.load(Ordering::Relaxed) {
            return (Act::Status(503, Vec::new()), asked);
        }
        (self.script.lock().unwrap()(&asked), asked)
    }
}

fn status(code: u16, headers: &[(&'static str, String)]) -> Response {
    let mut response = Response::builder().status(code);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response
        .body(Body::from("{\"error\":\"the body says so\"}"))
        .unwrap()
}

fn refused(code: u16, error: &str) -> Response {
    status(code, &[("x-error-code", error.to_owned())])
}

/// The repository, or why it is not shown.
#[allow(clippy::result_large_err)] // an answer, made once
fn open(inner: &Inner, repo: &str, asked: &Asked) -> Result<Commits, Response> {
    let repos = inner.repos.lock().unwrap();
    let repo = repos
        .get(repo)
        .ok_or_else(|| refused(404, "RepoNotFound"))?;
    if repo.gated && asked.authorization.as_deref() != Some("Bearer hf_good") {
        let code = if asked.authorization.is_some() {
            403
        } else {
            401
        };
        return Err(refused(code, "GatedRepo"));
    }
    Ok(repo.commits.clone())
}

/// What the script wants, and the repository's commits; or the answer that ends the matter. `moved` is the place
/// under another name.
#[allow(clippy::result_large_err)] // an answer, made once
fn entered(
    inner: &Inner,
    at: At,
    repo: &str,
    headers: &HeaderMap,
    moved: impl Fn(&str) -> String,
) -> Result<(Act, Commits), Response> {
    let (act, asked) = inner.act(at, repo, headers);
    if let Act::Status(code, headers) = act {
        return Err(status(code, &headers));
    }
    let renamed = {
        let repos = inner.repos.lock().unwrap();
        repos.get(repo).and_then(|repo| repo.renamed.clone())
    };
    if let Some(to) = renamed {
        return Err(status(307, &[("location", moved(&to))]));
    }
    Ok((act, open(inner, repo, &asked)?))
}

type Revised = Path<(String, String, String)>;

async fn info(
    State(inner): State<Arc<Inner>>,
    Path((user, name, revision)): Revised,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let repo = format!("{user}/{name}");
    let moved = |to: &str| format!("/api/models/{to}/revision/{revision}?blobs=true");
    let (act, commits) = match entered(&inner, At::Info, &repo, &headers, moved) {
        Ok(entered) => entered,
        Err(response) => return response,
    };
    let branch = inner.repos.lock().unwrap()[&repo]
        .branches
        .get(&revision)
        .cloned();
    let Some(commit) = branch.or_else(|| commits.contains_key(&revision).then_some(revision))
    else {
        return refused(404, "RevisionNotFound");
    };
    if let Act::Page = act {
        return "<html>".into_response();
    }
    let blobs = query.get("blobs").is_some_and(|value| value == "true");
    let files = commits.get(&commit).into_iter().flatten();
    let siblings: Vec<Value> = files
        .map(|(path, content)| sibling(path, content, blobs))
        .collect();
    let body = json!({"id": repo, "sha": commit, "private": false, "siblings": siblings});
    axum::Json(body).into_response()
}

/// The commits that led to a commit, itself first.
async fn history(
    State(inner): State<Arc<Inner>>,
    Path((user, name, revision)): Revised,
    headers: HeaderMap,
) -> Response {
    let repo = format!("{user}/{name}");
    let moved = |to: &str| format!("/api/models/{to}/commits/{revision}?limit=1");
    let (act, commits) = match entered(&inner, At::Commits, &repo, &headers, moved) {
        Ok(entered) => entered,
        Err(response) => return response,
    };
    if !commits.contains_key(&revision) {
        return refused(404, "RevisionNotFound");
    }
    if let Act::Page = act {
        return "<html>".into_response();
    }
    let date = inner.repos.lock().unwrap()[&repo]
        .dates
        .get(&revision)
        .cloned();
    let listed: Vec<Value> = date
        .map(|date| json!({"id": revision, "title": "Upload", "message": "", "authors": [], "date": date}))
        .into_iter()
        .collect();
    axum::Json(listed).into_response()
}

/// A file in the description of a repository; with `blobs` the Hub adds sizes and digests.
fn sibling(path: &str, content: &Content, blobs: bool) -> Value {
    let mut sibling = json!({"rfilename": path});
    if blobs {
        sibling["size"] = content.size().into();
        sibling["blobId"] = git_sha1(&content.bytes).into();
        if content.large {
            let size = content.size();
            sibling["lfs"] = json!({"sha256": content.etag(), "size": size, "pointerSize": 130});
        }
    }
    sibling
}

async fn tree(
    State(inner): State<Arc<Inner>>,
    Path((user, name, revision)): Revised,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let repo = format!("{user}/{name}");
    let moved = |to: &str| format!("/api/models/{to}/tree/{revision}?recursive=true&expand=false");
    let (act, commits) = match entered(&inner, At::Tree, &repo, &headers, moved) {
        Ok(entered) => entered,
        Err(response) => return response,
    };
    let Some(files) = commits.get(&revision) else {
        return refused(404, "RevisionNotFound");
    };
    let entries: Vec<Value> = files
        .iter()
        .map(|(path, content)| entry(path, content))
        .collect();
    let from: usize = query
        .get("cursor")
        .map_or(0, |cursor| cursor.parse().unwrap());
    let page = *inner.page.lock().unwrap();
    let mut response = axum::Json(&entries[from..entries.len().min(from + page)]).into_response();
    if from + page < entries.len() {
        let next = format!(
            "<http://{}/api/models/{repo}/tree/{revision}?recursive=true&cursor={}>; rel=\"next\"",
            inner.hub,
            from + page
        );
        response.headers_mut().insert(LINK, next.parse().unwrap());
    }
    if let Act::With(headers) = act {
        for (name, value) in headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
    }
    response
}

fn entry(path: &str, content: &Content) -> Value {
    let mut entry = json!({"type": "file", "path": path, "size": content.size()});
    entry["oid"] = if content.large {
        // Of the pointer, which nobody asks for.
        entry["lfs"] = json!({"oid": content.etag(), "size": content.size(), "pointerSize": 134});
        git_sha1(path.as_bytes()).into()
    } else {
        content.etag().into()
    };
    entry
}

async fn resolve(
    State(inner): State<Arc<Inner>>,
    Path((user, name, revision, path)): Path<(String, String, String, String)>,
    request: Request,
) -> Response {
    let repo = format!("{user}/{name}");
    let (act, asked) = inner.act(At::File, &path, request.headers());
    let moved = inner
        .repos
        .lock()
        .unwrap()
        .get(&repo)
        .and_then(|repo| repo.renamed.clone());
    if let Some(to) = moved {
        return status(
            307,
            &[("location", request.uri().path().replacen(&repo, &to, 1))],
        );
    }
    let commits = match open(&inner, &repo, &asked) {
        Ok(commits) => commits,
        Err(response) => return response,
    };
    let branch = inner.repos.lock().unwrap()[&repo]
        .branches
        .get(&revision)
        .cloned();
    let revision = branch.unwrap_or(revision);
    let Some(files) = commits.get(&revision) else {
        return refused(404, "RevisionNotFound");
    };
    let Some(content) = files.get(&path) else {
        return refused(404, "EntryNotFound");
    };
    let etag = content.etag();
    let mut about = vec![
        ("x-repo-commit", revision.clone()),
        ("etag", format!("\"{etag}\"")),
    ];
    if content.large {
        about.push(("x-linked-etag", format!("\"{etag}\"")));
        about.push(("x-linked-size", content.size().to_string()));
        about.push((
            LOCATION.as_str(),
            format!("http://{}/{repo}/{etag}", inner.storage),
        ));
    }
    if let Act::With(headers) = &act {
        about.retain(|(name, _)| headers.iter().all(|(other, _)| other != name));
        about.extend(headers.iter().cloned());
    }
    if content.large {
        return match act {
            Act::Status(code, headers) => status(code, &headers),
            _ => status(302, &about),
        };
    }
    let head = request.method() == axum::http::Method::HEAD;
    let mut response = send(&inner, content, &asked, act, head);
    for (name, value) in about {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

async fn stored(
    State(inner): State<Arc<Inner>>,
    Path((user, name, etag)): Revised,
    request: Request,
) -> Response {
    let (act, asked) = inner.act(At::Storage, &etag, request.headers());
    let content = {
        let repos = inner.repos.lock().unwrap();
        let repo = &repos[&format!("{user}/{name}")];
        let mut files = repo.commits.values().flat_map(BTreeMap::values);
        files
            .find(|content| content.large && content.etag() == etag)
            .cloned()
    };
    let head = request.method() == axum::http::Method::HEAD;
    match content {
        Some(content) => send(&inner, &content, &asked, act, head),
        None => status(404, &[]),
    }
}

/// The bytes of a file, with whatever the script does to them.
fn send(inner: &Arc<Inner>, content: &Content, asked: &Asked, act: Act, head: bool) -> Response {
    let size = content.bytes.len();
    let range = asked.range.as_deref().and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let first: usize = first.parse().ok()?;
        let last = last
            .parse()
            .map_or(size, |last: usize| (last + 1).min(size));
        Some((first, last))
    });
    let range = range.filter(|_| !matches!(act, Act::Whole | Act::Page | Act::Longer(_)));
    if range.is_some_and(|(first, _)| first >= size) {
        return status(416, &[("content-range", format!("bytes */{size}"))]);
    }
    let (mut first, last) = range.unwrap_or((0, size));
    if matches!(act, Act::Shifted) {
        first += 1;
    }
    let mut bytes = content.bytes[first..last].to_vec();
    let mut stop = None;
    let mut pace = None;
    match act {
        Act::Status(code, headers) => return status(code, &headers),
        Act::Page => bytes = b"<html>please log in to this network</html>".to_vec(),
        Act::Longer(more) => bytes.extend(std::iter::repeat_n(7, more)),
        Act::Wrong(at) => {
            if let Some(byte) = at.checked_sub(first).and_then(|at| bytes.get_mut(at)) {
                *byte ^= 1;
            }
        }
        Act::Cut(after) => stop = Some((after, false)),
        Act::Hang(after) => stop = Some((after, true)),
        Act::Slow(count, pause) => pace = Some((count.max(1), pause)),
        Act::Right | Act::Whole | Act::Shifted | Act::With(_) => {}
    }
    let mut response = Response::builder()
        .header(CONTENT_LENGTH, bytes.len())
        .header(ACCEPT_RANGES, "bytes")
        .header(ETAG, "\"storage-has-its-own\"");
    if range.is_some() {
        let range = format!("bytes {first}-{}/{size}", last - 1);
        response = response.status(206).header(CONTENT_RANGE, range);
    }
    if head {
        return response.body(Body::empty()).unwrap();
    }
    let whole = Bytes::from(bytes);
    let steps: Vec<Step> = match (stop, pace) {
        (Some((after, hang)), _) => {
            let sent = whole.slice(..after.min(whole.len()));
            let end = if hang { Step::Hang } else { Step::Break };
            let all = sent.len() == whole.len();
            let mut steps = vec![Step::Send(sent)];
            steps.extend((!all || hang).then_some(end));
            steps
        }
        (None, Some((count, pause))) => (0..whole.len())
            .step_by(count)
            .flat_map(|at| {
                let piece = whole.slice(at..whole.len().min(at + count));
                [Step::Wait(pause), Step::Send(piece)]
            })
            .collect(),
        (None, None) => vec![Step::Send(whole)],
    };
    let inner = Arc::clone(inner);
    let stream = futures_util::stream::unfold(steps.into_iter(), move |mut steps| {
        let inner = Arc::clone(&inner);
        async move {
            loop {
                match steps.next()? {
                    Step::Send(bytes) => {
                        *inner.sent.lock().unwrap() += bytes.len() as u64;
                        return Some((Ok(bytes), steps));
                    }
                    Step::Wait(pause) => tokio::time::sleep(pause).await,
                    // What was sent should have left before the connection ends.
                    Step::Break => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        return Some((Err(std::io::Error::other("cut")), steps));
                    }
                    Step::Hang => std::future::pending().await,
                }
            }
        }
    });
    response.body(Body::from_stream(stream)).unwrap()
}

enum Step {
    Send(Bytes),
    Wait(Duration),
    Break,
    Hang,
}
