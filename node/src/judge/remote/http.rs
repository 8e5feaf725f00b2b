//! One request, one answer.

use std::time::Duration;

use bytes::Bytes;
use leoma_models::Fault;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder, Url};
use secrecy::{ExposeSecret, SecretString};

use super::settings::RemoteSettings;
use crate::client::is_loopback;
use crate::judge::verdict::{NoVerdict, Reason};
use crate::transport;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer answers are no completion of a few hundred tokens.
const MAX_BODY_BYTES: usize = 4 << 20;
/// The provider's name for a request.
const REQUEST_ID: &str = "x-request-id";
/// Shorter keys are words that answers have, too.
const LEAST_SECRET: usize = 8;
/// What stands where the key stood.
const HIDDEN: &str = "[key]";

/// A server.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    base: Url,
    key: Option<SecretString>,
}

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Response {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The provider's name for the request.
    pub(super) fn request_id(&self) -> Option<String> {
        let id = self.headers.get(REQUEST_ID)?.to_str().ok()?;
        Some(id.chars().take(200).collect())
    }

    /// Takes a secret out that the server says back: its words go into logs, messages and bundles.
    fn forget(&mut self, secret: &str) {
        if secret.len() < LEAST_SECRET {
            return;
        }
        let is_in = |bytes: &[u8]| {
            let mut parts = bytes.windows(secret.len());
            parts.any(|part| part == secret.as_bytes())
        };
        if is_in(&self.body) {
            // What is not UTF-8 is no answer either.
            let text = String::from_utf8_lossy(&self.body).replace(secret, HIDDEN);
            self.body = text.into_bytes();
        }
        let id = self.headers.get(REQUEST_ID);
        if id.is_some_and(|id| is_in(id.as_bytes())) {
            self.headers.remove(REQUEST_ID);
        }
    }
}

/// There is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    /// The server never saw the request.
    NotSent(String),
    /// It may have served it.
    Broken(String),
    /// It took too long, and may have served it.
    Late,
}

impl Http {
    pub(super) fn new(settings: &RemoteSettings) -> Result<Self, NoVerdict> {
        crate::tls::install_tls();
        let wrong =
            |reason, message: String| NoVerdict::new(super::ID, reason, Fault::Local, message);
        let mut headers = HeaderMap::new();
        if let Some(key) = &settings.key {
            let value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()));
            let mut value = value.map_err(|_| {
                let message = "the key has characters that no key has; check the file or variable";
                wrong(Reason::Key, message.into())
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut builder = Client::builder()
            .user_agent(concat!("leoma-node/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirected POST is not one any more, and the key is for this server only.
            .redirect(reqwest::redirect::Policy::none());
        if settings.base.scheme() == "http" {
            // Machines without root certificates need none for this.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(&settings.base) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| {
            wrong(
                Reason::Internal,
                format!("cannot prepare connections: {}", transport::reason(&error)),
            )
        })?;
        Ok(Self {
            client,
            base: settings.base.clone(),
            key: settings.key.clone(),
        })
    }

    /// The server, for messages: without the path.
    pub(super) fn host(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    /// Asks for a completion.
    pub(super) async fn complete(&self, body: Bytes, within: Duration) -> Result<Response, Lost> {
        let url = self.address(&["chat", "completions"]);
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        self.exchange(request, within).await
    }

    /// Asks for the description of a model.
    pub(super) async fn model(&self, name: &str, within: Duration) -> Result<Response, Lost> {
        let request = self.client.get(self.address(&["models", name]));
        self.exchange(request, within).await
    }

    fn address(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts);
        }
        url
    }

    async fn exchange(&self, request: RequestBuilder, within: Duration) -> Result<Response, Lost> {
        let answered = tokio::time::timeout(within, answer(request)).await;
        let mut response = answered.unwrap_or(Err(Lost::Late))?;
        if let Some(key) = &self.key {
            response.forget(key.expose_secret());
        }
        Ok(response)
    }
}

async fn answer(request: RequestBuilder) -> Result<Response, Lost> {
    let mut response = request.send().await.map_err(|error| lost(&error))?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(|error| lost(&error))? {
        body.extend_from_slice(&bytes);
        if body.len() > MAX_BODY_BYTES {
            return Err(Lost::Broken(format!(
                "the answer has more than {MAX_BODY_BYTES} bytes"
            )));
        }
    }
    Ok(Response {
        status,
        headers,
        body,
    })
}

fn lost(error: &reqwest::Error) -> Lost {
    if error.is_connect() {
        Lost::NotSent(transport::reason(error))
    } else {
        Lost::Broken(transport::reason(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_said_back_is_taken_out() {
        let response = |text: &str| {
            let mut headers = HeaderMap::new();
            if let Ok(id) = text.parse() {
                headers.insert(REQUEST_ID, id);
            }
            Response {
                status: 401,
                headers,
                body: format!(r#"{{"message":"{text} is wrong, {text}"}}"#).into_bytes(),
            }
        };
        let mut said = response("sk-0123456789");
        said.forget("sk-0123456789");
        assert_eq!(said.body, br#"{"message":"[key] is wrong, [key]"}"#);
        assert_eq!(said.request_id(), None);
        // What only looks like it stays, and so does a word that is the key of a server that needs none.
        for (text, secret) in [("sk-0123456788", "sk-0123456789"), ("EMPTY", "EMPTY")] {
            let mut said = response(text);
            said.forget(secret);
            assert_eq!(said.body, response(text).body);
            assert_eq!(said.request_id().as_deref(), Some(text));
        }
    }
}
