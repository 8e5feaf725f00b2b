//! Talking to the Hub: addresses, who gets the token, and what error answers mean.
//!
//! Redirects are followed by hand. The Hub redirects downloads to storage on other hosts by signed addresses;
//! the token is for the Hub alone, so it goes only where scheme, host and port are those of `HF_ENDPOINT`.

use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, RANGE,
    RETRY_AFTER,
};
use reqwest::{Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};

use super::error::{HubError, Result};
use super::name::{Commit, RepoId, Revision, shown};
use crate::client::is_loopback;
use crate::transport;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// More hops than the Hub's renamed repositories and its storage make together.
const MAX_HOPS: usize = 5;
/// Longest error text that is read and shown.
const MAX_ERROR_BYTES: usize = 16 << 10;
/// Longest description or page of a listing.
const MAX_JSON_BYTES: usize = 64 << 20;

/// A client of one Hub.
#[derive(Debug)]
pub(super) struct Http {
    client: reqwest::Client,
    endpoint: Url,
    token: Option<SecretString>,
    /// Longest silence of a server that has something to say.
    stall: Duration,
}

/// An answer, and the address that gave it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) url: Url,
}

impl Http {
    pub(super) fn new(
        endpoint: &Url,
        token: Option<SecretString>,
        stall: Duration,
    ) -> Result<Self> {
        crate::tls::install_tls();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("leoma-node/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(endpoint) {
            builder = builder.no_proxy();
            if endpoint.scheme() == "http" {
                // Machines without root certificates need none for this.
                builder = builder.tls_certs_only([]);
            }
        }
        let client = builder.build().map_err(|error| HubError::Invalid {
            field: "HF_ENDPOINT",
            message: format!("cannot prepare connections: {}", transport::reason(&error)),
        })?;
        Ok(Self {
            client,
            endpoint: endpoint.clone(),
            token,
            stall,
        })
    }

    /// Where the Hub is.
    pub(super) fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// What opens it.
    pub(super) fn token(&self) -> Option<SecretString> {
        self.token.clone()
    }

    /// An address at the Hub; every part is one segment of the path, whatever it holds.
    pub(super) fn address<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts);
        }
        url
    }

    /// Description of a repository at a revision.
    pub(super) fn info_address(&self, repo: &RepoId, revision: &Revision) -> Url {
        let parts = ["api", "models"]
            .into_iter()
            .chain(repo.as_str().split('/'))
            .chain(["revision", revision.as_str()]);
        self.address(parts)
    }

    /// The commits that led to a commit, itself first.
    pub(super) fn commits_address(&self, repo: &RepoId, commit: &Commit) -> Url {
        let parts = ["api", "models"]
            .into_iter()
            .chain(repo.as_str().split('/'))
            .chain(["commits", commit.as_str()]);
        self.address(parts)
    }

    /// First page of the listing of a commit.
    pub(super) fn tree_address(&self, repo: &RepoId, commit: &Commit) -> Url {
        let parts = ["api", "models"]
            .into_iter()
            .chain(repo.as_str().split('/'))
            .chain(["tree", commit.as_str()]);
        let mut url = self.address(parts);
        url.query_pairs_mut()
            .append_pair("recursive", "true")
            .append_pair("expand", "false");
        url
    }

    /// Content of a file.
    pub(super) fn file_address(&self, repo: &RepoId, commit: &Commit, path: &str) -> Url {
        let parts = repo
            .as_str()
            .split('/')
            .chain(["resolve", commit.as_str()])
            .chain(path.split('/'));
        self.address(parts)
    }

    /// Whether an address is at the Hub itself.
    pub(super) fn is_hub(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// Asks and follows redirects to the answer, which may be an error. `redirected` sees the header of every
    /// redirect that the Hub gives, and of an answer that it gives itself.
    pub(super) async fn get(
        &self,
        url: &Url,
        range: Option<&str>,
        from_hub: &(dyn Fn(&HeaderMap) -> Result<()> + Sync),
    ) -> Result<Answer> {
        let mut url = url.clone();
        for _ in 0..=MAX_HOPS {
            // Sizes and ranges are of the file, not of a packed form of it.
            let mut request = self
                .client
                .get(url.clone())
                .header(ACCEPT_ENCODING, "identity");
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            if let Some(token) = self.token.as_ref().filter(|_| self.is_hub(&url)) {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
                    .map_err(|_| HubError::Invalid {
                        field: "HF_TOKEN",
                        message: "the token has characters that no token has".into(),
                    })?;
                value.set_sensitive(true);
                request = request.header(AUTHORIZATION, value);
            }
            let response = match tokio::time::timeout(self.stall, request.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(unreachable(&url, transport::reason(&error))),
                Err(_) => return Err(self.silent(&url)),
            };
            let status = response.status();
            if self.is_hub(&url) && (status.is_success() || status.is_redirection()) {
                from_hub(response.headers())?;
            }
            let Some(next) = next_hop(&url, &response)? else {
                return Ok(Answer { response, url });
            };
            url = next;
        }
        Err(protocol(&url, format!("more than {MAX_HOPS} redirects")))
    }

    /// Asks the Hub's API. Errors are about `repo`.
    pub(super) async fn json(
        &self,
        url: &Url,
        repo: &RepoId,
        revision: &str,
    ) -> Result<(Vec<u8>, HeaderMap)> {
        let mut answer = self.get(url, None, &|_| Ok(())).await?;
        if !answer.response.status().is_success() {
            return Err(self.refused(answer, repo, revision).await);
        }
        let headers = answer.response.headers().clone();
        let body = self.read(&mut answer, MAX_JSON_BYTES).await?;
        Ok((body, headers))
    }

    /// The next bytes of an answer; `None` at its end.
    pub(super) async fn chunk(&self, answer: &mut Answer) -> Result<Option<bytes::Bytes>> {
        match tokio::time::timeout(self.stall, answer.response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(unreachable(&answer.url, transport::reason(&error))),
            Err(_) => Err(self.silent(&answer.url)),
        }
    }

    async fn read(&self, answer: &mut Answer, limit: usize) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(bytes) = self.chunk(answer).await? {
            body.extend_from_slice(&bytes);
            if body.len() > limit {
                return Err(protocol(&answer.url, format!("more than {limit} bytes")));
            }
        }
        Ok(body)
    }

    /// What an error answer means.
    pub(super) async fn refused(
        &self,
        mut answer: Answer,
        repo: &RepoId,
        revision: &str,
    ) -> HubError {
        let status = answer.response.status();
        let headers = answer.response.headers().clone();
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if self.is_hub(&answer.url) {
            let known = self.known_refusal(status, header("x-error-code"), repo, revision);
            if let Some(error) = known {
                return error;
            }
        }
        let sentence = if let Some(message) = header("x-error-message") {
            shown(message)
        } else {
            // The status says enough when the rest of the answer does not come.
            let body = self
                .read(&mut answer, MAX_ERROR_BYTES)
                .await
                .unwrap_or_default();
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            json["error"].as_str().map_or_else(String::new, shown)
        };
        let word = status.canonical_reason().unwrap_or("an error");
        HubError::Refused {
            host: host(&answer.url),
            status: status.as_u16(),
            message: if sentence.is_empty() {
                word.to_owned()
            } else {
                sentence
            },
            retry_after: retry_after(&headers),
        }
    }

    /// Answers that are no accident, by the code that the Hub gives with them.
    fn known_refusal(
        &self,
        status: StatusCode,
        code: Option<&str>,
        repo: &RepoId,
        revision: &str,
    ) -> Option<HubError> {
        let token = if self.token.is_some() {
            "the token that was sent does not open it (HF_TOKEN, or the file of `hf auth login`)"
        } else {
            "set HF_TOKEN to a token that may read it, or log in with `hf auth login`"
        };
        let missing = |what: String, message: String| Some(HubError::Missing { what, message });
        match (status.as_u16(), code) {
            (_, Some("GatedRepo")) => {
                let page = self.address(repo.as_str().split('/'));
                Some(HubError::Gated {
                    repo: repo.to_string(),
                    message: format!(
                        "access must be granted: accept the terms at {page}; then {token}"
                    ),
                })
            }
            (_, Some("RevisionNotFound")) => missing(
                format!("{repo}@{}", shown(revision)),
                "the repository has no such branch, tag or commit; was it deleted or rewritten?"
                    .into(),
            ),
            (_, Some("EntryNotFound")) => missing(
                format!("{repo}@{}", shown(revision)),
                "a file that was listed is not there any more".into(),
            ),
            (401 | 403 | 404, Some("RepoNotFound")) | (401, _) | (404, None) => missing(
                repo.to_string(),
                format!(
                    "no such repository, or a private one: check the name; if it is private, {token}"
                ),
            ),
            (403, _) => Some(HubError::Gated {
                repo: repo.to_string(),
                message: format!("access is denied: {token}"),
            }),
            _ => None,
        }
    }

    fn silent(&self, url: &Url) -> HubError {
        unreachable(url, format!("no answer for {} s", self.stall.as_secs_f32()))
    }
}

/// Where a redirect leads; `None` for other answers.
fn next_hop(url: &Url, response: &Response) -> Result<Option<Url>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION);
    let next = location
        .and_then(|location| location.to_str().ok())
        .and_then(|location| url.join(location).ok())
        .filter(|next| matches!(next.scheme(), "http" | "https"))
        .ok_or_else(|| protocol(url, "a redirect to nowhere".into()))?;
    if url.scheme() == "https" && next.scheme() == "http" {
        let message = "a redirect from https to http, which anybody on the way can change";
        return Err(protocol(url, message.into()));
    }
    Ok(Some(next))
}

/// The address of the next page: `Link: <…>; rel="next"`.
pub(super) fn next_page(headers: &HeaderMap, from: &Url) -> Option<Url> {
    let links = headers
        .get_all(LINK)
        .iter()
        .filter_map(|link| link.to_str().ok());
    links.flat_map(|links| links.split(',')).find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters.split(';').any(|parameter| {
            let parameter = parameter.trim();
            parameter == "rel=\"next\"" || parameter == "rel=next"
        });
        from.join(address).ok().filter(|_| next)
    })
}

/// How long the server asks to be left alone.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok();
    if let Some(value) = text(RETRY_AFTER) {
        return if let Ok(seconds) = value.trim().parse::<u64>() {
            Some(Duration::from_secs(seconds))
        } else {
            let when = httpdate::parse_http_date(value).ok()?;
            when.duration_since(std::time::SystemTime::now()).ok()
        };
    }
    // The Hub's own: `"api";r=0;t=37`, requests left and seconds until there are more.
    let limit = text(HeaderName::from_static("ratelimit"))?;
    let field = |name: &str| {
        let mut parts = limit.split(';').map(str::trim);
        parts.find_map(|part| part.strip_prefix(name)?.parse::<u64>().ok())
    };
    (field("r=") == Some(0)).then(|| field("t=").map(Duration::from_secs))?
}

pub(super) fn unreachable(url: &Url, message: String) -> HubError {
    HubError::Unreachable {
        host: host(url),
        message,
    }
}

pub(super) fn protocol(url: &Url, message: String) -> HubError {
    HubError::Protocol {
        host: host(url),
        message,
    }
}

/// The server of an address, without the path: signed addresses are secrets.
fn host(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn http(endpoint: &str) -> Http {
        Http::new(&endpoint.parse().unwrap(), None, Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn addresses() {
        let http = http("http://127.0.0.1:9/hf");
        let repo: RepoId = "a/b.c".parse().unwrap();
        let commit: Commit = "1".repeat(40).parse().unwrap();
        let info = http.info_address(&repo, &"refs/pr/1".parse().unwrap());
        assert_eq!(
            info.as_str(),
            "http://127.0.0.1:9/hf/api/models/a/b.c/revision/refs%2Fpr%2F1"
        );
        let file = http.file_address(&repo, &commit, "vae/ü ?#%.json");
        let end = format!("/hf/a/b.c/resolve/{commit}/vae/%C3%BC%20%3F%23%25.json");
        assert!(file.as_str().ends_with(&end), "{file}");
        assert!(http.is_hub(&file));
        for other in [
            "https://127.0.0.1:9/",
            "http://127.0.0.1:8/",
            "http://localhost:9/",
        ] {
            assert!(!http.is_hub(&other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn pages_and_waits() {
        let from: Url = "http://h/api?x=1".parse().unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(next_page(&headers, &from), None);
        for (link, next) in [
            (
                "<http://h/api?cursor=2>; rel=\"next\"",
                Some("http://h/api?cursor=2"),
            ),
            (
                "</p>; rel=\"first\", </q?a=1>; rel=\"next\"",
                Some("http://h/q?a=1"),
            ),
            ("</p>; rel=\"last\"", None),
            ("nonsense", None),
        ] {
            headers.insert(LINK, link.parse().unwrap());
            let found = next_page(&headers, &from);
            assert_eq!(found.as_ref().map(Url::as_str), next, "{link}");
        }
        let wait = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(wait("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("retry-after", "soon"), None);
        let later = std::time::SystemTime::now() + Duration::from_secs(100);
        let date = wait("retry-after", &httpdate::fmt_http_date(later)).unwrap();
        assert!((95..=100).contains(&date.as_secs()), "{date:?}");
        assert_eq!(
            wait("ratelimit", "\"api\";r=0;t=37"),
            Some(Duration::from_secs(37))
        );
        assert_eq!(wait("ratelimit", "\"api\";r=5;t=37"), None);
    }
}
