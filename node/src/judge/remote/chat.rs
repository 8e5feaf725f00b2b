//! Requests of the Chat Completions API.
//!
//! The body is a function of configuration and input alone, so that `judge verify` can make it again and compare
//! its digest. Fields that a server does not take are left out or sent under their other name; the answer's record
//! says which.

use serde_json::{Map, Value, json};

use crate::judge::canonical;
use crate::judge::input::ShownFrame;
use crate::judge::jpeg::{data_url, media_type};
use crate::judge::profile::Profile;
use crate::judge::verdict::Answer;
use crate::judge::wording;

/// Fields that a server may not take and a request can do without, or has another name for.
const OPTIONAL: [&str; 5] = [
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "response_format",
    "store",
];

/// Most tokens of a picture under GPT-4o's rule, 85 and 170 for each of at most 2 x 4 tiles; other models' rules
/// differ, and what is reserved by this is settled by what the server counts.
const TOKENS_PER_IMAGE: u64 = 85 + 8 * 170;

/// A request before it is known what the server takes.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    fields: Map<String, Value>,
    images: u64,
    text_bytes: u64,
    max_tokens: u32,
}

/// A request as it goes out.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) body: Vec<u8>,
    /// Optional fields that are in it.
    pub(super) sent: Vec<&'static str>,
    /// Those that were left out or renamed.
    pub(super) adapted: Vec<String>,
}

impl Ask {
    /// Asks for scores.
    pub(crate) fn scores(
        profile: Profile,
        model: &str,
        max_tokens: u32,
        prompt: &str,
        first: &[u8],
        frames: &[ShownFrame],
    ) -> Self {
        // The subnet labels the PNG of the conditioning frame as JPEG.
        let first_type = match profile {
            Profile::Subnet => "image/jpeg",
            Profile::Whitepaper => media_type(first),
        };
        let mut parts = Parts::new(match profile {
            Profile::Subnet => None,
            Profile::Whitepaper => Some("high"),
        });
        parts.text(&wording::task(profile, prompt));
        parts.text(wording::FIRST_LABEL);
        parts.image(first_type, first);
        parts.text(wording::FRAMES_LABEL);
        for frame in frames {
            parts.image("image/jpeg", &frame.jpeg);
        }
        let system = wording::system(profile);
        let messages = json!([
            {"role": "system", "content": system},
            {"role": "user", "content": parts.parts},
        ]);
        let mut fields = Map::new();
        fields.insert("model".into(), model.into());
        fields.insert("messages".into(), messages);
        match profile {
            Profile::Subnet => {
                fields.insert("max_tokens".into(), max_tokens.into());
            }
            Profile::Whitepaper => {
                fields.insert("max_completion_tokens".into(), max_tokens.into());
                fields.insert("temperature".into(), 0.into());
                fields.insert("store".into(), false.into());
            }
        }
        if let Some((name, schema)) = wording::schema(profile) {
            let bound = json!({
                "type": "json_schema",
                "json_schema": {"name": name, "strict": true, "schema": schema},
            });
            fields.insert("response_format".into(), bound);
        }
        Self {
            fields,
            images: parts.images,
            text_bytes: parts.text_bytes + system.len() as u64,
            max_tokens,
        }
    }

    /// Asks for the prompt of a task: one message, plain text.
    pub(super) fn task_prompt(model: &str, max_tokens: u32, frames: &[ShownFrame]) -> Self {
        let mut parts = Parts::new(None);
        parts.text(wording::task_prompt());
        for frame in frames {
            parts.image("image/jpeg", &frame.jpeg);
        }
        let mut fields = Map::new();
        fields.insert("model".into(), model.into());
        fields.insert(
            "messages".into(),
            json!([{"role": "user", "content": parts.parts}]),
        );
        fields.insert("max_tokens".into(), max_tokens.into());
        Self {
            fields,
            images: parts.images,
            text_bytes: parts.text_bytes,
            max_tokens,
        }
    }

    /// The request without what the server `rejects`.
    pub(crate) fn render(&self, rejects: &dyn Fn(&str) -> bool) -> Rendered {
        let mut fields = self.fields.clone();
        let mut adapted = Vec::new();
        for name in OPTIONAL {
            if !rejects(name) {
                continue;
            }
            let Some(value) = fields.remove(name) else {
                continue;
            };
            adapted.push(name.to_owned());
            let other = match name {
                "max_tokens" => "max_completion_tokens",
                "max_completion_tokens" => "max_tokens",
                _ => continue,
            };
            if rejects(other) {
                // A server that takes neither limit answers without one.
                adapted.push(other.to_owned());
            } else {
                fields.insert(other.into(), value);
            }
        }
        let sent = OPTIONAL
            .into_iter()
            .filter(|name| fields.contains_key(*name))
            .collect();
        Rendered {
            body: canonical::text(&Value::Object(fields)).into_bytes(),
            sent,
            adapted,
        }
    }

    /// The most tokens that it can read and write. A token is at least a byte of text.
    pub(super) fn most_tokens(&self) -> (u64, u64) {
        let read = self.text_bytes + self.images * TOKENS_PER_IMAGE;
        (read, self.max_tokens.into())
    }
}

impl Answer {
    /// Whether the server was bound to the profile's schema, where it has one.
    pub fn is_bound(&self) -> bool {
        !self.adapted.iter().any(|field| field == "response_format")
    }

    /// Whether the model or the provider's filter would not look at it.
    pub fn is_refused(&self) -> bool {
        super::reply::is_refusal(self.refusal.as_deref(), self.finish_reason.as_deref())
    }
}

/// The parts of a user's message.
struct Parts {
    parts: Vec<Value>,
    detail: Option<&'static str>,
    images: u64,
    text_bytes: u64,
}

impl Parts {
    fn new(detail: Option<&'static str>) -> Self {
        Self {
            parts: Vec::new(),
            detail,
            images: 0,
            text_bytes: 0,
        }
    }

    fn text(&mut self, text: &str) {
        self.text_bytes += text.len() as u64;
        self.parts.push(json!({"type": "text", "text": text}));
    }

    fn image(&mut self, media_type: &str, bytes: &[u8]) {
        self.images += 1;
        let mut image = json!({"url": data_url(media_type, bytes)});
        if let Some(detail) = self.detail {
            image["detail"] = detail.into();
        }
        self.parts
            .push(json!({"type": "image_url", "image_url": image}));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PNG: &[u8] = b"\x89PNG....";

    fn frames() -> Vec<ShownFrame> {
        (0..12)
            .map(|index| ShownFrame {
                index,
                rgb_sha256: String::new(),
                jpeg: vec![0xff, 0xd8, index as u8],
                jpeg_sha256: String::new(),
            })
            .collect()
    }

    fn body(profile: Profile, rejects: &[&str]) -> (Value, Rendered) {
        let ask = Ask::scores(profile, "m", 450, "a boat", PNG, &frames());
        let rendered = ask.render(&|name| rejects.contains(&name));
        (serde_json::from_slice(&rendered.body).unwrap(), rendered)
    }

    #[test]
    fn the_subnets_request() {
        let (body, rendered) = body(Profile::Subnet, &[]);
        let keys: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["max_tokens", "messages", "model"]);
        assert_eq!(body["max_tokens"], 450);
        let parts = body["messages"][1]["content"].as_array().unwrap();
        let kinds: Vec<_> = parts
            .iter()
            .map(|part| part["type"].as_str().unwrap())
            .collect();
        let mut expected = vec!["text", "text", "image_url", "text"];
        expected.extend(["image_url"; 12]);
        assert_eq!(kinds, expected);
        // A PNG under the label of a JPEG, as there; no word about detail.
        let first = &parts[2]["image_url"];
        assert!(
            first["url"]
                .as_str()
                .unwrap()
                .starts_with("data:image/jpeg;base64,iVBOR")
        );
        assert!(first.get("detail").is_none());
        assert_eq!(body["messages"][0]["role"], "system");
        assert_eq!(rendered.sent, ["max_tokens"]);
    }

    #[test]
    fn the_whitepapers_request() {
        let (body, _) = body(Profile::Whitepaper, &[]);
        assert_eq!(body["temperature"], 0);
        assert_eq!(body["store"], false);
        assert_eq!(body["max_completion_tokens"], 450);
        assert!(body.get("max_tokens").is_none());
        let format = &body["response_format"];
        assert_eq!(
            (&format["type"], &format["json_schema"]["strict"]),
            (&json!("json_schema"), &json!(true))
        );
        let first = &body["messages"][1]["content"][2]["image_url"];
        assert!(
            first["url"]
                .as_str()
                .unwrap()
                .starts_with("data:image/png;base64,")
        );
        assert_eq!(first["detail"], "high");
    }

    #[test]
    fn what_a_server_does_not_take_is_left_out_or_renamed() {
        let (left, rendered) = body(Profile::Subnet, &["max_tokens", "temperature"]);
        assert_eq!(left["max_completion_tokens"], 450);
        assert_eq!(rendered.adapted, ["max_tokens"]);
        let (left, rendered) = body(
            Profile::Whitepaper,
            &["temperature", "response_format", "max_completion_tokens"],
        );
        assert!(left.get("temperature").is_none() && left.get("response_format").is_none());
        assert_eq!(left["max_tokens"], 450);
        assert_eq!(rendered.sent, ["max_tokens", "store"]);
        let both = ["max_tokens", "max_completion_tokens"];
        let (left, rendered) = body(Profile::Subnet, &both);
        assert_eq!(left.as_object().unwrap().len(), 2);
        assert_eq!(rendered.adapted, both);
        let answer = |adapted: &[&str]| Answer {
            adapted: adapted.iter().map(|name| (*name).to_owned()).collect(),
            ..Answer::default()
        };
        assert!(answer(&["temperature"]).is_bound() && !answer(&["response_format"]).is_bound());
    }

    #[test]
    fn the_most_that_it_can_cost() {
        let ask = Ask::scores(Profile::Subnet, "m", 450, &"x".repeat(1000), PNG, &frames());
        let (read, written) = ask.most_tokens();
        assert!(
            read > 13 * 1_445 + 1_000 && read < 13 * 1_445 + 5_000,
            "{read}"
        );
        assert_eq!(written, 450);
    }
}
