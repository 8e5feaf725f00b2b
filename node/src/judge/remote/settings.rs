//! What a remote judge needs to know about its server.

use std::path::PathBuf;
use std::time::Duration;

use leoma_models::Fault;
use reqwest::Url;
use secrecy::SecretString;

use crate::judge::verdict::{NoVerdict, Reason};

/// Where models are asked unless told otherwise.
pub const DEFAULT_BASE: &str = "https://api.openai.com/v1";
/// The model of the running validators.
pub const DEFAULT_MODEL: &str = "gpt-4o";

/// A server, a model on it, and what may be spent.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// Address of the API, up to and with `/v1`.
    pub base: Url,
    /// Name of the model.
    pub model: String,
    /// What opens the server; local ones often need none.
    pub key: Option<SecretString>,
    /// What a token costs, where it is known.
    pub price: Option<Price>,
    /// What may be spent.
    pub budget: Budget,
    /// Bound of the wait before the second try; it doubles with every one after that.
    pub backoff: Duration,
    /// Folder for what has to outlive the process: what was spent, and what the server does not take.
    pub state: PathBuf,
}

impl RemoteSettings {
    /// Reads an address as users write it.
    ///
    /// # Errors
    /// A sentence without the address when that may hold a password.
    pub fn parse_base(text: &str) -> Result<Url, String> {
        let form = "write https://NAME/v1 or http://NAME:PORT/v1";
        let url = Url::parse(text).map_err(|error| format!("`{text}`: {error}; {form}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has a user name or password; give the key in a file".into());
        }
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(format!("`{text}` is not an http or https address; {form}"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("`{text}` goes on after the path; {form}"));
        }
        Ok(url)
    }

    /// Refuses what cannot work before anything is sent.
    ///
    /// # Errors
    /// [`NoVerdict`] with the remedy.
    pub fn check(&self) -> Result<(), NoVerdict> {
        if self.key.is_none() && self.base.as_str().trim_end_matches('/') == DEFAULT_BASE {
            return Err(NoVerdict::new(
                super::ID,
                Reason::Key,
                Fault::Local,
                "there is no key for the judge's server: put it into a file and name that with --api-key-file \
                 or LEOMA_NODE_JUDGE_API_KEY_FILE",
            ));
        }
        Ok(())
    }

    /// Whether the key goes over a network unencrypted.
    pub fn shows_key(&self) -> bool {
        self.key.is_some()
            && self.base.scheme() == "http"
            && !crate::client::is_loopback(&self.base)
    }
}

/// Cost of a token, in billionths of a US dollar; a dollar for a million tokens is 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// Of a token that is read.
    pub input: u64,
    /// Of a token that is written.
    pub output: u64,
}

/// Listed prices, US dollars for a million tokens read and written. A list that is out of date makes wrong
/// accounts and no wrong verdicts; `--price` goes before it.
const LISTED: [(&str, f64, f64); 3] = [
    ("gpt-4o", 2.5, 10.0),
    ("gpt-4o-mini", 0.15, 0.6),
    ("gpt-6-luna", 0.10, 0.50),
];

impl Price {
    /// Of dollars for a million tokens.
    pub fn per_million(input: f64, output: f64) -> Option<Self> {
        let nano = |dollars: f64| {
            (dollars.is_finite() && (0.0..=1e6).contains(&dollars))
                .then(|| (dollars * 1000.0).round() as u64)
        };
        Some(Self {
            input: nano(input)?,
            output: nano(output)?,
        })
    }

    /// The listed price of a model or of a dated version of it.
    pub fn listed(model: &str) -> Option<Self> {
        let found = LISTED.iter().find(|(name, ..)| {
            model.strip_prefix(name).is_some_and(|rest| {
                let mut rest = rest.chars();
                match rest.next() {
                    None => true,
                    // A date, and not the name of a sister model.
                    Some('-') => rest.all(|c| c.is_ascii_digit() || c == '-'),
                    Some(_) => false,
                }
            })
        });
        found.and_then(|(_, input, output)| Self::per_million(*input, *output))
    }

    /// Of so many tokens.
    pub fn cost(self, tokens_in: u64, tokens_out: u64) -> u64 {
        let input = self.input.saturating_mul(tokens_in);
        input.saturating_add(self.output.saturating_mul(tokens_out))
    }
}

/// Ceilings; `None` is no ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Billionths of a US dollar for a calendar day (UTC).
    pub nano_usd_per_day: Option<u64>,
    /// Billionths of a US dollar for a task.
    pub nano_usd_per_task: Option<u64>,
    /// Tokens, read and written, for a day.
    pub tokens_per_day: Option<u64>,
    /// Tokens for a task.
    pub tokens_per_task: Option<u64>,
}

impl Default for Budget {
    /// 20 dollars and 20 million tokens a day, 2 dollars and 2 million tokens a task.
    fn default() -> Self {
        Self {
            nano_usd_per_day: Some(20_000_000_000),
            nano_usd_per_task: Some(2_000_000_000),
            tokens_per_day: Some(20_000_000),
            tokens_per_task: Some(2_000_000),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn prices_of_dated_versions_and_not_of_sisters() {
        let price = Price::listed("gpt-4o").unwrap();
        assert_eq!((price.input, price.output), (2_500, 10_000));
        assert_eq!(Price::listed("gpt-4o-2024-08-06"), Some(price));
        assert_ne!(Price::listed("gpt-4o-mini"), Some(price));
        for unknown in ["gpt-4o-audio-preview", "gpt-4", "qwen", ""] {
            assert_eq!(Price::listed(unknown), None, "{unknown}");
        }
        // 5525 tokens of pictures and 300 of text in, 200 out: 0.0165625 dollars.
        assert_eq!(price.cost(5_825, 200), 16_562_500);
        assert_eq!(Price::per_million(f64::NAN, 1.0), None);
        assert_eq!(Price::per_million(-1.0, 1.0), None);
    }

    #[test]
    fn addresses() {
        for good in [
            "https://api.openai.com/v1",
            "http://127.0.0.1:8000/v1/",
            "http://[::1]:1",
        ] {
            assert!(RemoteSettings::parse_base(good).is_ok(), "{good}");
        }
        for wrong in [
            "",
            "api.openai.com",
            "ftp://h/v1",
            "http://h/v1?key=1",
            "http://h/#x",
        ] {
            assert!(RemoteSettings::parse_base(wrong).is_err(), "{wrong}");
        }
        let secret = RemoteSettings::parse_base("https://me:hunter2@h/v1").unwrap_err();
        assert!(!secret.contains("hunter2"));
    }
}
