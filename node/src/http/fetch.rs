//! Pictures and clips that a request names by URL, fetched without lending the caller this machine's network.
//!
//! Each hop is checked from the start: the URL by [`Fetcher::check`], then every address that its host
//! resolves to; the connection is then made to those very addresses, so that a second answer of the
//! name server changes nothing. Redirects are followed here, not by the client, for the same reason.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header;
use reqwest::redirect::Policy;

use super::public_address::not_public;
use crate::tls::install_tls;

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 3;

/// Longest URL that is looked at; longer ones are data, or an attack on logs.
const MAX_URL_CHARS: usize = 4096;

/// Longest name that the domain name system holds.
const MAX_HOST_CHARS: usize = 253;

/// What may be fetched.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// Hosts that may be fetched from; empty: any public one.
    pub allowed_hosts: Vec<String>,
    /// Bytes of one file, where the caller of [`Fetcher::fetch_up_to`] says nothing else.
    pub max_bytes: usize,
    /// Time for all of it, redirects included.
    pub timeout: Duration,
}

/// Fetches files by URL.
pub struct Fetcher {
    allowed_hosts: BTreeSet<String>,
    max_bytes: usize,
    timeout: Duration,
    resolver: Arc<dyn Resolver>,
    transport: Arc<dyn Transport>,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher")
            .field("allowed_hosts", &self.allowed_hosts)
            .field("max_bytes", &self.max_bytes)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Turns a host name into addresses.
pub trait Resolver: Send + Sync {
    /// All addresses of `host`.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The operating system's resolver.
struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 443)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// The rule that an URL breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// Cannot be read as an URL.
    Malformed,
    /// Longer than an address of a file has reason to be.
    TooLong,
    /// Another scheme than https.
    Scheme,
    /// A user name or password.
    UserInfo,
    /// Another port than 443.
    Port,
    /// A host that is not among the allowed ones.
    Host,
    /// An address, in the URL or of its host, that is not public; the block it is in.
    Address(&'static str),
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("it is not a valid URL"),
            Self::TooLong => f.write_str("it, or its host's name, is too long"),
            Self::Scheme => f.write_str("only https URLs are fetched"),
            Self::UserInfo => f.write_str("it must not hold a user name or password"),
            Self::Port => f.write_str("only the default port 443 is fetched from"),
            Self::Host => f.write_str("the host is not among those that this server fetches from"),
            Self::Address(block) => {
                write!(f, "the host has an address that is not public ({block})")
            }
        }
    }
}

/// Why there is no file. Names hosts, never whole URLs: those may hold signatures.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Not fetched because of a rule.
    #[error("the URL{} is refused: {rule}", Of(host))]
    Refused {
        /// Empty: the URL has none that can be read.
        host: String,
        /// What it breaks.
        rule: Rule,
    },
    /// Sent on and on.
    #[error("{host} redirects more than {MAX_REDIRECTS} times")]
    Redirects {
        /// The last host.
        host: String,
    },
    /// More bytes than the file may have.
    #[error("the file at {host} is larger than {max_bytes} bytes")]
    TooLarge {
        /// The host that sent it.
        host: String,
        /// The limit.
        max_bytes: usize,
    },
    /// Slower than a file may be.
    #[error("the file at {host} did not arrive within {} s", timeout.as_secs_f64())]
    TimedOut {
        /// The host of the URL given.
        host: String,
        /// The limit.
        timeout: Duration,
    },
    /// An answer that is not a file.
    #[error("{host} answers with status {status}")]
    Status {
        /// The host that answered.
        host: String,
        /// Its answer.
        status: u16,
    },
    /// No answer, or half of one.
    #[error("{host}: {message}")]
    Failed {
        /// The host that was asked.
        host: String,
        /// What went wrong.
        message: &'static str,
    },
}

struct Of<'a>(&'a str);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            host => write!(f, " of {host}"),
        }
    }
}

/// A URL that may be fetched, as far as can be told without its addresses.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    url: Url,
    host: String,
    /// The host itself, when it is one.
    address: Option<IpAddr>,
}

/// The head of an answer, with its body still to come.
struct Answer {
    status: StatusCode,
    location: Option<String>,
    content_length: Option<u64>,
    body: BoxStream<'static, Result<Bytes, Broken>>,
}

/// The connection failed; details go to the log.
#[derive(Debug)]
struct Broken;

/// One request over a connection to one of the given addresses.
trait Transport: Send + Sync {
    fn get(
        &self,
        target: Target,
        addresses: Vec<IpAddr>,
    ) -> BoxFuture<'static, Result<Answer, Broken>>;
}

/// What to do with an answer.
#[derive(Debug, PartialEq)]
enum Step {
    Read,
    Follow(Target),
}

impl Fetcher {
    /// An error names the allowed host that is none, or what the system lacks.
    pub fn new(options: FetchOptions) -> Result<Self, String> {
        // Without this the first fetch would tell, and only to the log.
        client(Vec::new(), options.timeout).map_err(|error| {
            format!(
                "cannot set up https: {error:#}; are the CA certificates of the system installed?"
            )
        })?;
        let transport = Https {
            timeout: options.timeout,
        };
        Self::over(options, Arc::new(SystemResolver), Arc::new(transport))
    }

    fn over(
        options: FetchOptions,
        resolver: Arc<dyn Resolver>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, String> {
        let mut allowed_hosts = BTreeSet::new();
        for name in &options.allowed_hosts {
            // Read as a URL would be, so that both are spelled alike: case, punycode, odd numbers.
            let url = Url::parse(&format!("https://{name}/")).ok();
            let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
            let plain = |b: u8| b.is_ascii_alphanumeric() || !b.is_ascii() || b".-_".contains(&b);
            let bracketed = name.starts_with('[') && name.ends_with(']');
            if host.is_empty() || !(bracketed || name.bytes().all(plain)) {
                return Err(format!(
                    "image_url_host: {name:?} is no host name; give it without scheme, port and path"
                ));
            }
            allowed_hosts.insert(without_root(host).to_owned());
        }
        Ok(Self {
            allowed_hosts,
            max_bytes: options.max_bytes,
            timeout: options.timeout,
            resolver,
            transport,
        })
    }

    /// The bytes behind a URL, whatever they are: their type is for the decoder to find out.
    pub async fn fetch(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        self.fetch_up_to(url, self.max_bytes).await
    }

    /// As [`Self::fetch`], with another limit of bytes.
    pub async fn fetch_up_to(&self, url: &str, max_bytes: usize) -> Result<Vec<u8>, FetchError> {
        let target = self.check(url)?;
        let host = target.host.clone();
        match tokio::time::timeout(self.timeout, self.follow(target, max_bytes)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(FetchError::TimedOut {
                host,
                timeout: self.timeout,
            }),
        }
    }

    async fn follow(&self, mut target: Target, max_bytes: usize) -> Result<Vec<u8>, FetchError> {
        for _ in 0..=MAX_REDIRECTS {
            let addresses = self.addresses(&target).await?;
            let answer = self.transport.get(target.clone(), addresses);
            let answer = answer.await.map_err(|Broken| FetchError::Failed {
                host: target.host.clone(),
                message: "no answer over https",
            })?;
            match self.step(&target, answer.status, answer.location.as_deref())? {
                Step::Read => return read(&target.host, answer, max_bytes).await,
                Step::Follow(next) => target = next,
            }
        }
        Err(FetchError::Redirects { host: target.host })
    }

    /// Whether a URL may be fetched, before its host is resolved.
    fn check(&self, url: &str) -> Result<Target, FetchError> {
        let refused = |host: &str, rule| FetchError::Refused {
            host: host.to_owned(),
            rule,
        };
        if url.len() > MAX_URL_CHARS {
            return Err(refused("", Rule::TooLong));
        }
        let url = Url::parse(url).map_err(|_| refused("", Rule::Malformed))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        if host.len() > MAX_HOST_CHARS {
            return Err(refused("", Rule::TooLong));
        }
        if url.scheme() != "https" {
            return Err(refused(&host, Rule::Scheme));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused(&host, Rule::UserInfo));
        }
        if url.port().is_some() {
            return Err(refused(&host, Rule::Port));
        }
        if !self.allowed_hosts.is_empty() && !self.allowed_hosts.contains(without_root(&host)) {
            return Err(refused(&host, Rule::Host));
        }
        let literal = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let address = literal.unwrap_or(&host).parse().ok();
        if let Some(block) = address.and_then(not_public) {
            return Err(refused(&host, Rule::Address(block)));
        }
        Ok(Target { url, host, address })
    }

    /// All addresses of a host, if all are public: a name with one of each kind is a trap.
    async fn addresses(&self, target: &Target) -> Result<Vec<IpAddr>, FetchError> {
        let host = || target.host.clone();
        let unknown = |message| FetchError::Failed {
            host: host(),
            message,
        };
        let found = match target.address {
            Some(address) => vec![address],
            None => match self.resolver.resolve(&target.host).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(host = target.host, %error, "cannot resolve");
                    return Err(unknown("the host name cannot be resolved"));
                }
            },
        };
        if let Some(block) = found.iter().find_map(|&address| not_public(address)) {
            let rule = Rule::Address(block);
            return Err(FetchError::Refused { host: host(), rule });
        }
        if found.is_empty() {
            return Err(unknown("the host name has no address"));
        }
        Ok(found)
    }

    /// Read the body, or go on to where the answer points.
    fn step(
        &self,
        from: &Target,
        status: StatusCode,
        location: Option<&str>,
    ) -> Result<Step, FetchError> {
        match (status.as_u16(), location) {
            (200, _) => Ok(Step::Read),
            (301 | 302 | 303 | 307 | 308, Some(location)) => {
                let next = from.url.join(location).map_err(|_| FetchError::Refused {
                    host: from.host.clone(),
                    rule: Rule::Malformed,
                })?;
                self.check(next.as_str()).map(Step::Follow)
            }
            (status, _) => Err(FetchError::Status {
                host: from.host.clone(),
                status,
            }),
        }
    }
}

async fn read(host: &str, mut answer: Answer, max_bytes: usize) -> Result<Vec<u8>, FetchError> {
    let too_large = || FetchError::TooLarge {
        host: host.to_owned(),
        max_bytes,
    };
    if answer
        .content_length
        .is_some_and(|length| length > max_bytes as u64)
    {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(piece) = answer.body.next().await {
        let piece = piece.map_err(|Broken| FetchError::Failed {
            host: host.to_owned(),
            message: "the connection broke before the file was complete",
        })?;
        if piece.len() > max_bytes - bytes.len() {
            return Err(too_large());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// A name without the dot of the root, which means the same.
fn without_root(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// TLS connections by reqwest, a client for each: connections are never shared between hosts.
struct Https {
    timeout: Duration,
}

/// Stands in for the name server, for the one host that a client is made for.
struct Pinned(Vec<SocketAddr>);

impl Resolve for Pinned {
    fn resolve(&self, _name: Name) -> Resolving {
        let addresses: Addrs = Box::new(self.0.clone().into_iter());
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

impl Transport for Https {
    fn get(
        &self,
        target: Target,
        addresses: Vec<IpAddr>,
    ) -> BoxFuture<'static, Result<Answer, Broken>> {
        let pinned = addresses.into_iter().map(|ip| SocketAddr::new(ip, 443));
        let pinned = pinned.collect();
        let timeout = self.timeout;
        Box::pin(get_pinned(target, pinned, timeout))
    }
}

fn client(pinned: Vec<SocketAddr>, timeout: Duration) -> reqwest::Result<reqwest::Client> {
    install_tls();
    reqwest::Client::builder()
        .user_agent(concat!("leoma-node/", env!("CARGO_PKG_VERSION")))
        .https_only(true)
        .no_proxy()
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .pool_max_idle_per_host(0)
        .dns_resolver(Pinned(pinned))
        // All that follows ends with the caller's time; an attempt to connect would go on without it.
        .connect_timeout(timeout)
        .build()
}

async fn get_pinned(
    target: Target,
    pinned: Vec<SocketAddr>,
    timeout: Duration,
) -> Result<Answer, Broken> {
    let host = target.host;
    let broken = |error: reqwest::Error| {
        tracing::debug!(host, error = ?error.without_url(), "cannot fetch");
        Broken
    };
    // Reads the system's certificates from files.
    let client = tokio::task::spawn_blocking(move || client(pinned, timeout));
    let client = client.await.map_err(|error| {
        tracing::debug!(%error, "cannot make a client");
        Broken
    })?;
    let request = client.map_err(&broken)?.get(target.url);
    let request = request.header(header::ACCEPT, "image/*, video/*");
    let response = request.send().await.map_err(&broken)?;
    let location = response.headers().get(header::LOCATION);
    Ok(Answer {
        status: response.status(),
        location: location
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned),
        content_length: response.content_length(),
        body: response
            .bytes_stream()
            .map(|piece| piece.map_err(|_| Broken))
            .boxed(),
    })
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
