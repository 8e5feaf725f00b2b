//! What a server answers: a completion, or an error.

use leoma_models::Fault;
use serde_json::Value;

use crate::judge::verdict::{Reason, kept};

/// Longest part of a server's own words that is shown.
const MAX_WORDS: usize = 300;

/// One answer of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Completion {
    pub(super) content: Option<String>,
    pub(super) refusal: Option<String>,
    pub(super) finish_reason: Option<String>,
    pub(super) model: Option<String>,
    pub(super) id: Option<String>,
    pub(super) system_fingerprint: Option<String>,
    /// Tokens read and written, where the server counts them.
    pub(super) tokens: Option<(u64, u64)>,
}

impl Completion {
    /// Reads the body of a successful answer.
    ///
    /// # Errors
    /// What is wrong with it: what answered is no model server then, which says nothing about the clip.
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        let body: Value =
            serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
        let choice = body["choices"].get(0).ok_or("it has no choices")?;
        // vLLM, SGLang and gateways deliver what a worker had when it was stopped. That is their fault, not an answer.
        if let Some(reason @ ("abort" | "error")) = choice["finish_reason"].as_str() {
            return Err(format!("it was broken off (finish_reason {reason})"));
        }
        let message = choice
            .get("message")
            .filter(|message| message.is_object())
            .ok_or("its first choice has no message")?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let content = match &message["content"] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            // Some servers answer in parts, as requests are asked.
            Value::Array(parts) => Some(
                parts
                    .iter()
                    .filter_map(|part| part["text"].as_str())
                    .collect(),
            ),
            _ => return Err("its content is neither text nor null".into()),
        };
        let usage = &body["usage"];
        let count = |name: &str| usage[name].as_u64();
        Ok(Self {
            content,
            refusal: text(&message["refusal"]).filter(|refusal| !refusal.is_empty()),
            finish_reason: text(&choice["finish_reason"]),
            model: text(&body["model"]),
            id: text(&body["id"]),
            system_fingerprint: text(&body["system_fingerprint"]),
            tokens: count("prompt_tokens").zip(count("completion_tokens")),
        })
    }

    /// Whether the model or the provider's filter would not look at it.
    pub(super) fn is_refused(&self) -> bool {
        is_refusal(self.refusal.as_deref(), self.finish_reason.as_deref())
    }

    /// Whether it ended at the limit of tokens.
    pub(super) fn is_cut(&self) -> bool {
        self.finish_reason.as_deref() == Some("length")
    }
}

/// Whether words of refusal, or the reason for the end, say that the model or the provider's filter would not look.
pub(super) fn is_refusal(refusal: Option<&str>, finish_reason: Option<&str>) -> bool {
    refusal.is_some() || finish_reason == Some("content_filter")
}

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) param: String,
    pub(super) message: String,
}

/// What to do about an error answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Try again after a while; if that is over, this is why there is no verdict.
    Again(Reason),
    /// There is no verdict.
    Stop(Reason, Fault),
}

impl Refusal {
    /// Reads the body of an error answer, in the forms that servers have.
    pub(super) fn read(status: u16, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        // `{"error": {…}}`, and `{"object": "error", …}` of older local servers.
        let error = body
            .get("error")
            .filter(|error| error.is_object())
            .unwrap_or(&body);
        let short = |text: &str| kept(text).chars().take(MAX_WORDS).collect::<String>();
        let text = |value: &Value| match value {
            Value::String(text) => short(text),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let mut message: String = text(&error["message"]);
        if message.is_empty() {
            message = text(&body["error"]);
        }
        if message.is_empty() {
            message = match &body["detail"] {
                Value::String(_) => text(&body["detail"]),
                Value::Null => String::new(),
                detail => short(&detail.to_string()),
            };
        }
        let mut code: String = text(&error["code"]);
        if code.is_empty() {
            code = text(&error["type"]);
        }
        Self {
            status,
            code,
            param: text(&error["param"]),
            message,
        }
    }

    /// What follows.
    pub(super) fn next(&self) -> Next {
        match (self.status, self.code.as_str()) {
            (_, "content_policy_violation" | "content_filter" | "content_filtered") => {
                Next::Stop(Reason::Refused, Fault::Transient)
            }
            (_, "insufficient_quota" | "billing_hard_limit_reached") | (402, _) => {
                Next::Stop(Reason::Quota, Fault::Local)
            }
            (_, "model_not_found" | "model_not_available") => {
                Next::Stop(Reason::ModelGone, Fault::Local)
            }
            (429, _) => Next::Again(Reason::RateLimited),
            (408 | 409 | 500..=599, _) => Next::Again(Reason::Transport),
            (401 | 403, _) => Next::Stop(Reason::Key, Fault::Local),
            _ => Next::Stop(Reason::Request, Fault::Local),
        }
    }

    /// The field of the request that the server does not take, of those that were sent and can go.
    pub(super) fn rejected<'a>(&self, sent: &[&'a str]) -> Option<&'a str> {
        if !matches!(self.status, 400 | 422) {
            return None;
        }
        let named = |name: &str| {
            self.param == name
                || self.param.starts_with(&format!("{name}."))
                || self.param.starts_with(&format!("{name}["))
        };
        if let Some(field) = sent.iter().copied().find(|name| named(name)) {
            return Some(field);
        }
        let message = self.message.to_lowercase();
        let complains = [
            "unsupported",
            "not support",
            "unrecognized",
            "unknown",
            "not permitted",
            "unexpected",
            "invalid",
        ]
        .iter()
        .any(|word| message.contains(word));
        // The longest name first: `max_tokens` is part of a sentence about `max_completion_tokens`, too.
        let mut names = sent.to_vec();
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        let found = names
            .into_iter()
            .find(|name| message.contains(&name.to_lowercase()));
        // `Use 'max_completion_tokens' instead` names both; only one of them was sent.
        found.filter(|_| complains)
    }

    /// The server's words, for a message.
    pub(super) fn words(&self) -> String {
        let mut text = format!("HTTP {}", self.status);
        for part in [&self.code, &self.message] {
            if !part.is_empty() {
                text.push_str(": ");
                text.push_str(part);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refusal(status: u16, body: &str) -> Refusal {
        Refusal::read(status, body.as_bytes())
    }

    #[test]
    fn completions() {
        let body = r#"{"id":"c1","model":"gpt-4o-2024-08-06","system_fingerprint":"fp","choices":[{"message":
            {"role":"assistant","content":"{}","refusal":null},"finish_reason":"stop"}],
            "usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
        let read = Completion::read(body.as_bytes()).unwrap();
        assert_eq!(
            (read.content.as_deref(), read.tokens),
            (Some("{}"), Some((5, 2)))
        );
        assert!(!read.is_refused() && !read.is_cut());
        let of = |message: &str, reason: &str| {
            let body =
                format!(r#"{{"choices":[{{"message":{message},"finish_reason":"{reason}"}}]}}"#);
            Completion::read(body.as_bytes())
        };
        assert!(
            of(r#"{"content":null,"refusal":"no"}"#, "stop")
                .unwrap()
                .is_refused()
        );
        assert!(
            of(r#"{"content":""}"#, "content_filter")
                .unwrap()
                .is_refused()
        );
        assert!(of(r#"{"content":"{"}"#, "length").unwrap().is_cut());
        assert_eq!(of(r#"{"content":null}"#, "stop").unwrap().content, None);
        for broken_off in ["abort", "error"] {
            assert!(of(r#"{"content":"{"}"#, broken_off).is_err());
        }
        let parts = of(
            r#"{"content":[{"type":"text","text":"a"},{"text":"b"}]}"#,
            "stop",
        )
        .unwrap();
        assert_eq!(parts.content.as_deref(), Some("ab"));
        for wrong in [
            "",
            "<html>",
            "{}",
            r#"{"choices":[]}"#,
            r#"{"choices":[{}]}"#,
            r#"{"choices":[{"message":{"content":5}}]}"#,
        ] {
            assert!(Completion::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_follows_from_an_error() {
        let coded = |status, code: &str| {
            refusal(
                status,
                &format!(r#"{{"error":{{"message":"m","code":"{code}"}}}}"#),
            )
            .next()
        };
        for (next, expected) in [
            (
                coded(429, "rate_limit_exceeded"),
                Next::Again(Reason::RateLimited),
            ),
            (
                coded(429, "insufficient_quota"),
                Next::Stop(Reason::Quota, Fault::Local),
            ),
            (coded(503, ""), Next::Again(Reason::Transport)),
            (coded(409, ""), Next::Again(Reason::Transport)),
            (
                coded(400, "content_policy_violation"),
                Next::Stop(Reason::Refused, Fault::Transient),
            ),
            (coded(400, "x"), Next::Stop(Reason::Request, Fault::Local)),
            (
                coded(401, "invalid_api_key"),
                Next::Stop(Reason::Key, Fault::Local),
            ),
            (
                coded(404, "model_not_found"),
                Next::Stop(Reason::ModelGone, Fault::Local),
            ),
            (coded(413, ""), Next::Stop(Reason::Request, Fault::Local)),
        ] {
            assert_eq!(next, expected);
        }
        // The type says it where there is no code.
        let typed = refusal(
            429,
            r#"{"error":{"message":"m","type":"insufficient_quota","code":null}}"#,
        );
        assert_eq!(typed.next(), Next::Stop(Reason::Quota, Fault::Local));
        assert_eq!(refusal(500, "<html>").words(), "HTTP 500");
        assert_eq!(
            refusal(400, r#"{"detail":[{"msg":"x"}]}"#).message,
            r#"[{"msg":"x"}]"#
        );
    }

    #[test]
    fn fields_that_are_not_taken() {
        let sent = ["max_tokens", "temperature", "response_format", "store"];
        let error = |message: &str, param: &str| {
            let body = serde_json::json!({"error": {"message": message, "param": param}});
            refusal(400, &body.to_string())
        };
        for (message, param, field) in [
            ("x", "temperature", Some("temperature")),
            ("x", "response_format.json_schema", Some("response_format")),
            (
                "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
                "",
                Some("max_tokens"),
            ),
            ("Unknown field store", "", Some("store")),
            ("temperature is nice", "", None),
            ("Invalid image", "messages[0]", None),
        ] {
            assert_eq!(error(message, param).rejected(&sent), field, "{message}");
        }
        assert_eq!(
            refusal(500, r#"{"error":{"param":"store"}}"#).rejected(&sent),
            None
        );
        let schema = error(
            "Invalid schema for response_format 'video_scores'",
            "response_format",
        );
        assert_eq!(schema.rejected(&sent), Some("response_format"));
        assert_eq!(schema.rejected(&["store"]), None);
    }
}
