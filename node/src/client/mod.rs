//! A clip from another machine: sends a request to a leoma-node server, follows the job, fetches the file.
//!
//! ```text
//! POST /v1/videos ──► GET …/events (followed, resumed) ──► GET …/content (resumed, checked) ──► rename
//!       └── Ctrl-C: DELETE /v1/videos/{id}
//! ```
//!
//! Connections break. The request carries an `Idempotency-Key`, so that it can be sent again when its answer
//! was lost; events go on after the last one seen; a download goes on where it stopped. What a restarted
//! server still knows is a job to it, so a restart is a broken connection like any other.

mod download;
mod error;
mod retry;
mod sse;

use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};

use retry::Retry;
use sse::{Event, Parser};

use crate::transport;

pub use error::ClientError;

/// Result of this module.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a server that has something to say; it comments idle event streams every 15 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Slowest upload that is waited for.
const UPLOAD_BYTES_PER_S: u64 = 32 << 10;
/// Time to tell the server that a job is no longer wanted.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest error answer that is read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Longest description of a job that is read.
const MAX_JSON_BYTES: usize = 4 << 20;

/// A job as the server describes it.
#[derive(Debug, Clone, Deserialize)]
pub struct Video {
    /// Name of the job.
    pub id: String,
    /// `queued`, `in_progress`, `completed` or `failed`.
    pub status: String,
    /// Model that makes the clip.
    #[serde(default)]
    pub model: Option<String>,
    /// Effective values by name.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// Seconds per stage.
    #[serde(default)]
    pub timings: Option<Value>,
    /// Size of the finished file.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<JobError>,
}

/// Why a job failed.
#[derive(Debug, Clone, Deserialize)]
pub struct JobError {
    /// A stable word for programs.
    #[serde(default)]
    pub code: String,
    /// A sentence.
    #[serde(default)]
    pub message: String,
}

impl Video {
    fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed")
    }
}

/// What happens between the request and the clip, for whoever watches.
#[derive(Debug)]
pub enum Update<'a> {
    /// The job waits; how many are before it, when the server says so.
    Waiting(Option<u64>),
    /// The job is being worked on.
    Stage {
        /// `load`, `text_encode`, `image_encode`, `denoise`, `vae_decode` or `video_encode`.
        name: &'a str,
        /// Parts done.
        done: u64,
        /// Parts in all.
        total: u64,
    },
    /// The job starts over.
    Requeued(&'a str),
    /// The connection was lost and is tried again.
    Retrying(&'a ClientError, Duration),
    /// The job could not be cancelled and may still run.
    NotCancelled(&'a str, &'a ClientError),
}

/// A server, and how to talk to it.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    has_key: bool,
}

impl Client {
    /// A client of the server at `host`, an `http://` or `https://` address. Connects to nothing yet.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the address or the key cannot be used.
    pub fn new(host: &str, key: Option<&SecretString>) -> Result<Self> {
        crate::tls::install_tls();
        let base = base_url(host)?;
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()));
            let mut value = value.map_err(|_| ClientError::Invalid {
                field: "api_key",
                message: "has characters that no key has; check the file or variable".into(),
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("leoma-node/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirected POST is not one any more, and the key is for this server only.
            .redirect(reqwest::redirect::Policy::none());
        if base.scheme() == "http" {
            // Machines without root certificates need none for this.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| ClientError::Invalid {
            field: "host",
            message: format!("cannot prepare connections: {}", transport::reason(&error)),
        })?;
        Ok(Self {
            http,
            base,
            has_key: key.is_some(),
        })
    }

    /// Whether the key goes over a network unencrypted.
    pub fn shows_key(&self) -> bool {
        self.has_key && self.base.scheme() == "http" && !is_loopback(&self.base)
    }

    /// Has one clip made and writes it to `output`, which appears only when it is whole. When `interrupted`
    /// resolves first, the job is cancelled.
    ///
    /// # Errors
    /// Whatever kept the server from making it or this machine from writing it.
    pub async fn generate(
        &self,
        request: &Value,
        output: &Path,
        on: &dyn Fn(Update<'_>),
        interrupted: impl Future<Output = ()>,
    ) -> Result<Video> {
        let mut interrupted = pin!(interrupted);
        let mut create = pin!(self.create(request, on));
        let video = tokio::select! {
            created = &mut create => created?,
            () = &mut interrupted => {
                // The server may have the job already; only its answer tells by which name to cancel it.
                if let Ok(Ok(video)) = tokio::time::timeout(CANCEL_TIMEOUT, create).await {
                    self.cancel(&video.id, on).await;
                }
                return Err(ClientError::Interrupted);
            }
        };
        tokio::select! {
            finished = self.finish(&video.id, output, on) => finished,
            () = interrupted => {
                self.cancel(&video.id, on).await;
                Err(ClientError::Interrupted)
            }
        }
    }

    /// Submits the request. Sent again, under the same key, when the answer was lost.
    async fn create(&self, request: &Value, on: &dyn Fn(Update<'_>)) -> Result<Video> {
        let body = request.to_string();
        let patience = IDLE_TIMEOUT + Duration::from_secs(body.len() as u64 / UPLOAD_BYTES_PER_S);
        let key = uuid::Uuid::new_v4().to_string();
        let mut retry = Retry::new();
        let mut lost = false;
        loop {
            let builder = self
                .request(Method::POST, &["v1", "videos"])
                .header("idempotency-key", &key)
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone());
            let error = match tokio::time::timeout(patience, builder.send()).await {
                Ok(Ok(response)) => match self.checked(response).await {
                    Ok(response) => match self.json(response).await {
                        Ok(video) => return Ok(video),
                        Err(error) => {
                            lost = true;
                            error
                        }
                    },
                    Err(error) => error,
                },
                Ok(Err(error)) => {
                    lost |= !error.is_connect();
                    self.transport(&error)
                }
                Err(_) => {
                    lost = true;
                    self.silent(patience)
                }
            };
            if !lost {
                return Err(error);
            }
            self.wait(&mut retry, error, on).await?;
        }
    }

    /// Follows the job to its end and fetches the clip.
    async fn finish(&self, id: &str, output: &Path, on: &dyn Fn(Update<'_>)) -> Result<Video> {
        let video = self.follow(id, on).await?;
        if video.status != "completed" {
            let error = video.error.unwrap_or_else(|| JobError {
                code: "internal".into(),
                message: "no reason given".into(),
            });
            return Err(ClientError::Job {
                id: video.id,
                code: error.code,
                message: error.message,
            });
        }
        self.download(&video, output, on).await?;
        Ok(video)
    }

    /// Tells `on` what happens to the job until it is over.
    async fn follow(&self, id: &str, on: &dyn Fn(Update<'_>)) -> Result<Video> {
        let mut last = None;
        let mut retry = Retry::new();
        loop {
            let error = match self.events(id, &mut last, &mut retry, on).await {
                Ok(Some(video)) => return Ok(video),
                Ok(None) => self.unreachable("the stream of events ended early".into()),
                Err(error) => error,
            };
            self.wait(&mut retry, error, on).await?;
            // The end may have come while nobody listened.
            match self.video(id).await {
                Ok(video) if video.is_over() => return Ok(video),
                Ok(_) => {}
                Err(error) => self.wait(&mut retry, error, on).await?,
            }
        }
    }

    /// Reads one stream of events; `None` when it ends before the job does.
    async fn events(
        &self,
        id: &str,
        last: &mut Option<String>,
        retry: &mut Retry,
        on: &dyn Fn(Update<'_>),
    ) -> Result<Option<Video>> {
        let mut builder = self
            .request(Method::GET, &["v1", "videos", id, "events"])
            .header(ACCEPT, "text/event-stream");
        if let Some(last) = last {
            builder = builder.header("last-event-id", last.as_str());
        }
        let mut response = self.send(builder).await?;
        let kind = response.headers().get(CONTENT_TYPE).cloned();
        let kind = kind.as_ref().and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return Err(self.protocol(format!("events as {}", kind.unwrap_or("nothing known"))));
        }
        let mut parser = Parser::after(last.clone());
        while let Some(bytes) = self.chunk(&mut response).await? {
            retry.heard();
            let events = parser.feed(bytes.as_ref());
            for event in events.map_err(|_| self.protocol("an endless event".into()))? {
                if let Some(video) = self.take(&event, on)? {
                    return Ok(Some(video));
                }
                *last = event.id;
            }
        }
        Ok(None)
    }

    /// Passes one event on; the last one describes the job.
    fn take(&self, event: &Event, on: &dyn Fn(Update<'_>)) -> Result<Option<Video>> {
        let data: Value = serde_json::from_str(&event.data)
            .map_err(|error| self.protocol(format!("event {}: {error}", event.kind)))?;
        match event.kind.as_str() {
            "queued" => on(Update::Waiting(data["position"].as_u64())),
            "progress" => on(Update::Stage {
                name: data["stage"].as_str().unwrap_or("working"),
                done: data["done"].as_u64().unwrap_or(0),
                total: data["total"].as_u64().unwrap_or(0),
            }),
            "requeued" => on(Update::Requeued(
                data["reason"].as_str().unwrap_or("no reason given"),
            )),
            "completed" | "failed" => {
                let video = Video::deserialize(&data["video"]);
                return video
                    .map(Some)
                    .map_err(|error| self.protocol(format!("event {}: {error}", event.kind)));
            }
            // `started` says what the first progress says too; later versions may tell more.
            _ => {}
        }
        Ok(None)
    }

    async fn video(&self, id: &str) -> Result<Video> {
        let builder = self.request(Method::GET, &["v1", "videos", id]);
        self.json(self.send(builder).await?).await
    }

    /// Tells the server that nobody wants the job. Best effort: the user is leaving.
    async fn cancel(&self, id: &str, on: &dyn Fn(Update<'_>)) {
        let request = self.send(self.request(Method::DELETE, &["v1", "videos", id]));
        let result = match tokio::time::timeout(CANCEL_TIMEOUT, request).await {
            Ok(result) => result.map(drop),
            Err(_) => Err(self.silent(CANCEL_TIMEOUT)),
        };
        if let Err(error) = result {
            on(Update::NotCancelled(id, &error));
        }
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        self.http.request(method, url)
    }

    /// Sends and waits for the head of a good answer.
    async fn send(&self, builder: RequestBuilder) -> Result<Response> {
        match tokio::time::timeout(IDLE_TIMEOUT, builder.send()).await {
            Ok(Ok(response)) => self.checked(response).await,
            Ok(Err(error)) => Err(self.transport(&error)),
            Err(_) => Err(self.silent(IDLE_TIMEOUT)),
        }
    }

    /// The next bytes of an answer; `None` at its end.
    async fn chunk(&self, response: &mut Response) -> Result<Option<impl AsRef<[u8]> + use<>>> {
        match tokio::time::timeout(IDLE_TIMEOUT, response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(self.transport(&error)),
            Err(_) => Err(self.silent(IDLE_TIMEOUT)),
        }
    }

    /// Turns an error answer into an error.
    async fn checked(&self, mut response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let id = response.headers().get("x-request-id");
        let id = id.and_then(|id| id.to_str().ok()).map(str::to_owned);
        // The status says enough when the rest of the answer does not come.
        let body = self.read(&mut response, MAX_ERROR_BYTES).await;
        let body = body.unwrap_or_default();
        Err(ClientError::refused(status.as_u16(), &body, id))
    }

    async fn json(&self, mut response: Response) -> Result<Video> {
        let body = self.read(&mut response, MAX_JSON_BYTES).await?;
        serde_json::from_slice(&body)
            .map_err(|error| self.protocol(format!("the description of a job: {error}")))
    }

    async fn read(&self, response: &mut Response, limit: usize) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(bytes) = self.chunk(response).await? {
            body.extend_from_slice(bytes.as_ref());
            if body.len() > limit {
                return Err(self.protocol(format!("more than {limit} bytes")));
            }
        }
        Ok(body)
    }

    /// Waits before the next attempt, or gives the error back when there is none.
    async fn wait(
        &self,
        retry: &mut Retry,
        error: ClientError,
        on: &dyn Fn(Update<'_>),
    ) -> Result<()> {
        let text = error.to_string();
        let delay = retry.delay(error)?;
        on(Update::Retrying(&self.unreachable(text), delay));
        tokio::time::sleep(delay).await;
        Ok(())
    }

    fn host(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    fn transport(&self, error: &reqwest::Error) -> ClientError {
        self.unreachable(transport::reason(error))
    }

    fn silent(&self, time: Duration) -> ClientError {
        self.unreachable(format!("no answer for {} s", time.as_secs()))
    }

    fn unreachable(&self, message: String) -> ClientError {
        ClientError::Unreachable {
            host: self.host(),
            message,
        }
    }

    fn protocol(&self, message: String) -> ClientError {
        ClientError::Protocol {
            host: self.host(),
            message,
        }
    }
}

fn base_url(host: &str) -> Result<Url> {
    let invalid = |message: String| ClientError::Invalid {
        field: "host",
        message,
    };
    let form = "write http://NAME:PORT or https://NAME";
    let url = Url::parse(host).map_err(|error| invalid(format!("`{host}`: {error}; {form}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(format!(
            "`{host}` is not an http or https address; {form}"
        )));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not repeated: there is a password in it.
        let message = "the address has a user name or password; give the key with --api-key-file";
        return Err(invalid(message.into()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid(format!("`{host}` goes on after the path; {form}")));
    }
    Ok(url)
}

/// Whether `url` leads to this machine: what it carries is seen by nobody else.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses() {
        for (host, path) in [
            ("http://localhost:8000", "http://localhost:8000/v1/videos"),
            ("http://[::1]:8000/", "http://[::1]:8000/v1/videos"),
            ("https://a.example/node", "https://a.example/node/v1/videos"),
            (
                "https://a.example/node/",
                "https://a.example/node/v1/videos",
            ),
        ] {
            let client = Client::new(host, None).unwrap();
            let request = client.request(Method::GET, &["v1", "videos"]).build();
            assert_eq!(request.unwrap().url().as_str(), path);
        }
        for host in [
            "",
            "localhost:8000",
            "127.0.0.1:8000",
            "ftp://a",
            "http://",
            "http://a?b",
        ] {
            let error = Client::new(host, None).unwrap_err();
            assert!(error.to_string().starts_with("host: "), "{host}: {error}");
        }
        let error = Client::new("http://me:secret@a", None).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn a_job_name_cannot_leave_its_place_in_the_path() {
        let client = Client::new("http://localhost:8000", None).unwrap();
        let request = client.request(Method::GET, &["v1", "videos", "a/../b?c"]);
        let url = request.build().unwrap().url().to_string();
        assert_eq!(url, "http://localhost:8000/v1/videos/a%2F..%2Fb%3Fc");
    }

    #[test]
    fn a_key_in_the_clear_is_noticed() {
        let key = SecretString::from("k");
        let shows = |host: &str| Client::new(host, Some(&key)).unwrap().shows_key();
        assert!(shows("http://192.0.2.1:8000"));
        assert!(!shows("https://192.0.2.1:8000") && !shows("http://127.0.0.1:8000"));
        assert!(!Client::new("http://192.0.2.1", None).unwrap().shows_key());
        let bad = SecretString::from("k\n");
        let error = Client::new("http://localhost", Some(&bad)).unwrap_err();
        assert!(error.to_string().starts_with("api_key: "), "{error}");
    }
}
