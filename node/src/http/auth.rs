//! Who may call: a key for everything but the pages, or, without a key, programs of this machine alone.
//!
//! A server without a key listens on loopback only, but a web page opened on the same machine reaches
//! that too. What the page cannot do is choose its `Host` (a name that was rebound to 127.0.0.1 still
//! shows) or its `Origin`; so both are checked on every route, public ones included.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::ApiError;

/// Shortest key that is taken: 16 characters of hex are 64 bits, past guessing over a network.
const MIN_KEY_CHARS: usize = 16;

/// Largest key file that is read.
const MAX_KEY_FILE_BYTES: usize = 4 << 10;

/// Pages and checks that need no key; besides these all of `/assets/`.
const PUBLIC_PATHS: [&str; 7] = [
    "/",
    "/docs",
    "/favicon.ico",
    "/gallery",
    "/health",
    "/ready",
    "/status",
];

/// Who may call this server.
#[derive(Debug, Clone, Default)]
pub struct AccessOptions {
    /// The key that callers must show; without one only this machine may call.
    pub key: Option<SecretString>,
    /// Names, besides those of loopback, by which this server may be called without a key.
    pub allowed_hosts: Vec<String>,
}

/// Decides each request.
#[derive(Clone)]
pub struct Access(Arc<Rule>);

enum Rule {
    /// SHA-256 of the key: digests are of one length, so comparing them tells nothing of the key's.
    Key([u8; 32]),
    Hosts(Vec<Host>),
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Rule::Key(_) => f.write_str("Access(key)"),
            Rule::Hosts(hosts) => write!(f, "Access(loopback, {hosts:?})"),
        }
    }
}

impl Access {
    /// An error names the allowed host that is none.
    pub fn new(options: AccessOptions) -> Result<Self, String> {
        let mut hosts = Vec::new();
        for name in &options.allowed_hosts {
            // An IPv6 address may come without the brackets that it has in a URL.
            let host = match name.parse::<Ipv6Addr>() {
                Ok(address) => Some((Host::Ip(address.into()), None)),
                Err(_) => parse_host(name),
            };
            match host {
                Some((host, None)) => hosts.push(host),
                _ => {
                    return Err(format!(
                        "allowed_host: {name:?} is no host name; give it as in a URL, without scheme and port"
                    ));
                }
            }
        }
        Ok(Self(Arc::new(match options.key {
            Some(key) => Rule::Key(Sha256::digest(key.expose_secret()).into()),
            None => Rule::Hosts(hosts),
        })))
    }

    /// Whether callers must show a key.
    pub fn needs_key(&self) -> bool {
        matches!(*self.0, Rule::Key(_))
    }

    /// Whether this request may go on.
    pub fn check(
        &self,
        method: &Method,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
    ) -> Result<(), ApiError> {
        match &*self.0 {
            Rule::Key(_) if is_public(method, uri.path()) => Ok(()),
            Rule::Key(digest) => check_key_shown(digest, headers),
            Rule::Hosts(hosts) => {
                let host = check_host(hosts, uri, version, headers)?;
                check_origin(host.as_ref(), headers)?;
                check_fetch_site(method, headers)
            }
        }
    }
}

/// For `axum::middleware::from_fn_with_state`: the request goes on, or an error is the answer.
pub async fn check_access(State(access): State<Access>, request: Request, next: Next) -> Response {
    let checked = access.check(
        request.method(),
        request.uri(),
        request.version(),
        request.headers(),
    );
    let Err(error) = checked else {
        return next.run(request).await;
    };
    let unauthorized = error.status() == StatusCode::UNAUTHORIZED;
    let mut response = error.into_response();
    if unauthorized {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    }
    response
}

/// Whether a request needs no key. Paths count as they are written, which is also how they are routed:
/// nothing is decoded or normalised on either side.
pub fn is_public(method: &Method, path: &str) -> bool {
    if method != Method::GET && method != Method::HEAD {
        return false;
    }
    PUBLIC_PATHS.contains(&path) || path.strip_prefix("/assets/").is_some_and(is_plain)
}

/// Names joined by single slashes, none of which starts with a dot or needs escapes.
fn is_plain(path: &str) -> bool {
    path.split('/').all(|name| {
        !name.is_empty()
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    })
}

fn unauthorized() -> ApiError {
    let detail = "this route needs the API key, as `Authorization: Bearer KEY`";
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
}

fn forbidden(code: &'static str, detail: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, code, detail)
}

/// The header's only value; None: absent.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Twice> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        Some(_) => Err(Twice),
        None => Ok(first),
    }
}

struct Twice;

fn check_key_shown(digest: &[u8; 32], headers: &HeaderMap) -> Result<(), ApiError> {
    let shown = match single(headers, &AUTHORIZATION) {
        Ok(Some(value)) => value.to_str().map_err(|_| unauthorized())?,
        Ok(None) | Err(Twice) => return Err(unauthorized()),
    };
    let mut tokens = shown.split_ascii_whitespace();
    let key = match (tokens.next(), tokens.next(), tokens.next()) {
        (Some(key), None, None) => key,
        (Some(scheme), Some(key), None) if scheme.eq_ignore_ascii_case("bearer") => key,
        _ => return Err(unauthorized()),
    };
    let shown: [u8; 32] = Sha256::digest(key).into();
    if bool::from(shown.ct_eq(digest)) {
        Ok(())
    } else {
        Err(unauthorized())
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Host {
    /// Lower case.
    Name(String),
    Ip(IpAddr),
}

impl Host {
    fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost",
            Self::Ip(IpAddr::V4(address)) => address.is_loopback(),
            Self::Ip(IpAddr::V6(address)) => *address == Ipv6Addr::LOCALHOST,
        }
    }
}

/// Host and port as in a `Host` header; None: is none.
fn parse_host(text: &str) -> Option<(Host, Option<u16>)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        (Host::Ip(address.into()), port)
    } else {
        let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > 253 || !name.bytes().all(valid) {
            return None;
        }
        match name.parse::<Ipv4Addr>() {
            Ok(address) => (Host::Ip(address.into()), port),
            Err(_) => (Host::Name(name.to_ascii_lowercase()), port),
        }
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return None,
        Some("") => None,
        // `parse` would take a sign.
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
    };
    Some((host, port))
}

/// The host that the client means to talk to; None: a client of HTTP/1.0 that does not say.
fn check_host(
    allowed: &[Host],
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<Option<(Host, Option<u16>)>, ApiError> {
    let bad = |message: &str| ApiError::invalid("Host", message);
    let header = match single(headers, &HOST) {
        Ok(Some(value)) => Some(value.to_str().map_err(|_| bad("not a host name"))?),
        Ok(None) => None,
        Err(Twice) => return Err(bad("given twice")),
    };
    if header.is_none() && version == Version::HTTP_11 {
        return Err(bad("missing; HTTP/1.1 demands it"));
    }
    let mut meant = None;
    // The authority of an absolute-form target wins, but a `Host` beside it has to be right as well.
    for text in [header, uri.authority().map(|authority| authority.as_str())] {
        let Some(text) = text else { continue };
        let host = parse_host(text).ok_or_else(|| bad("not a host name with or without a port"))?;
        if !host.0.is_loopback() && !allowed.contains(&host.0) {
            let detail = "this server answers only to its own machine's names; \
                          start it with --allowed-host NAME to permit another, or with an API key";
            return Err(forbidden("forbidden_host", detail));
        }
        meant = Some(host);
    }
    Ok(meant)
}

fn check_origin(host: Option<&(Host, Option<u16>)>, headers: &HeaderMap) -> Result<(), ApiError> {
    let foreign = || {
        let detail = "requests from web pages of other origins are refused; \
                      start the server with an API key to call it from elsewhere";
        forbidden("forbidden_origin", detail)
    };
    let origin = match single(headers, &ORIGIN) {
        Ok(Some(value)) => value.to_str().map_err(|_| foreign())?,
        Ok(None) => return Ok(()),
        Err(Twice) => return Err(foreign()),
    };
    // `null`, which any page can get by a sandboxed frame, has no scheme.
    let (scheme, authority) = origin.split_once("://").ok_or_else(foreign)?;
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return Err(foreign()),
    };
    let (origin_host, origin_port) = parse_host(authority).ok_or_else(foreign)?;
    match host {
        Some((host, port))
            if *host == origin_host
                && port.unwrap_or(default_port) == origin_port.unwrap_or(default_port) =>
        {
            Ok(())
        }
        _ => Err(foreign()),
    }
}

/// Browsers leave `Origin` out of plain GETs, such as those of pictures and scripts, but mark them.
fn check_fetch_site(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    let is = |name: &str, value: &str| {
        let mut values = headers.get_all(name).iter().peekable();
        values.peek().is_some()
            && values.all(|v| v.as_bytes().eq_ignore_ascii_case(value.as_bytes()))
    };
    let cross_site = headers
        .get_all("sec-fetch-site")
        .iter()
        .any(|value| value.as_bytes().eq_ignore_ascii_case(b"cross-site"));
    let followed_link = method == Method::GET
        && is("sec-fetch-mode", "navigate")
        && is("sec-fetch-dest", "document");
    if cross_site && !followed_link {
        let detail = "requests that pages of other sites make are refused; links from them work";
        return Err(forbidden("forbidden_origin", detail));
    }
    Ok(())
}

/// A key, if it can be sent in a header and is long enough.
pub fn check_key(key: &str) -> Result<SecretString, String> {
    if key.is_empty() {
        return Err("is empty; `openssl rand -hex 32` makes a key".to_owned());
    }
    if !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(
            "holds more than one line of visible ASCII characters without spaces; \
             `openssl rand -hex 32` makes a key"
                .to_owned(),
        );
    }
    if key.len() < MIN_KEY_CHARS {
        return Err(format!(
            "has {} characters and needs at least {MIN_KEY_CHARS}; `openssl rand -hex 32` makes a key",
            key.len()
        ));
    }
    Ok(SecretString::from(key))
}

/// The key in a file: one line. An error names the file, never what is in it.
pub fn read_key_file(path: &Path) -> Result<SecretString, String> {
    let name = path.display();
    let unreadable = |error| format!("{name}: cannot be read: {error}");
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_KEY_FILE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > MAX_KEY_FILE_BYTES {
        return Err(format!(
            "{name}: larger than {MAX_KEY_FILE_BYTES} bytes; it should hold the key and nothing else"
        ));
    }
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let key = std::str::from_utf8(line).map_err(|_| format!("{name}: the key is not text"))?;
    let key = check_key(key).map_err(|problem| format!("{name}: the key {problem}"))?;
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        tracing::warn!(file = %name, "other users can read the key file; `chmod 600` it");
    }
    Ok(key)
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
