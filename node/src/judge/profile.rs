//! Named ways of judging, and the configuration whose digest every verdict carries.
//!
//! | | `subnet` | `whitepaper` |
//! |---|---|---|
//! | what it is | what the running validators do | what the subnet's paper says; our default |
//! | answer asked for | JSON, in words | JSON by a strict schema |
//! | limit of tokens | 450, one try | 900, once more with 1400 when cut |
//! | temperature | not sent | 0, where the model takes it |
//! | overall that decides | the model's own; the weighted sum where it is missing | the weighted sum |
//! | texts and booleans as scores | converted as Python's `float()` does | count as missing |
//! | a fence around the JSON | taken off | no score object |
//! | the prompt | in double quotes | as a JSON text |
//! | the conditioning frame | the file's bytes, always labelled JPEG | the file's bytes, labelled as what they are |

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::{self, Reading};
use super::rubric::Rules;
use super::sampling::FrameRule;
use super::{canonical, jpeg, wording};

/// A named way of asking and reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// As the running validators do it, for agreement with them.
    Subnet,
    /// As the subnet's paper says.
    #[default]
    Whitepaper,
}

impl Profile {
    /// Both, for lists of choices.
    pub const ALL: [Self; 2] = [Self::Subnet, Self::Whitepaper];

    /// Its name in settings and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Subnet => "subnet",
            Self::Whitepaper => "whitepaper",
        }
    }

    /// Most tokens of an answer, and of a second one when the first was cut.
    pub fn max_tokens(self) -> (u32, Option<u32>) {
        match self {
            Self::Subnet => (450, None),
            Self::Whitepaper => (900, Some(1400)),
        }
    }

    /// Reads an answer. `bound` says that the server was held to the schema, where the profile has one.
    pub fn read(self, content: Option<&str>, cut: bool, bound: bool) -> Reading {
        match self {
            Self::Subnet => answer::subnet(content, cut),
            Self::Whitepaper => answer::whitepaper(content, cut, !bound),
        }
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Everything that decides how a clip is judged, except clip and prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// How the judge is asked and read.
    pub profile: Profile,
    /// The model that is asked.
    pub model: String,
    /// What passes.
    pub rules: Rules,
    /// Which frames are shown.
    pub frames: FrameRule,
    /// What is particular to the judge: of a remote one, limits, encoding and the digest of its words.
    pub asks: Value,
}

impl Configuration {
    /// Of a remote judge.
    pub fn remote(profile: Profile, model: &str, rules: Rules, frames: FrameRule) -> Self {
        let (max_tokens, max_tokens_again) = profile.max_tokens();
        let asks = json!({
            "max_tokens": max_tokens,
            "max_tokens_again": max_tokens_again,
            "temperature": match profile {
                Profile::Subnet => Value::Null,
                Profile::Whitepaper => 0.into(),
            },
            "image": jpeg::ENCODING,
            "words_sha256": wording::digest(profile),
        });
        Self {
            profile,
            model: model.to_owned(),
            rules,
            frames,
            asks,
        }
    }

    /// SHA-256 of its canonical JSON.
    pub fn sha256(&self) -> String {
        // A configuration of texts and integers is always JSON.
        canonical::of(self)
            .map_or_else(|_| String::new(), |text| canonical::sha256(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn configuration() -> Configuration {
        Configuration::remote(
            Profile::Subnet,
            "gpt-4o",
            Rules::default(),
            FrameRule::default(),
        )
    }

    #[test]
    fn every_part_changes_the_digest() {
        let digest = configuration().sha256();
        assert_eq!(digest.len(), 64);
        assert_eq!(digest, configuration().sha256());
        let changes: [fn(&mut Configuration); 6] = [
            |c| c.profile = Profile::Whitepaper,
            |c| c.model.push('x'),
            |c| c.rules.pass_overall += 1,
            |c| c.rules.pass_critical -= 1,
            |c| c.frames.most -= 1,
            |c| c.asks["words_sha256"] = "".into(),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut changed = configuration();
            change(&mut changed);
            assert_ne!(changed.sha256(), digest, "change {index}");
        }
        let text = serde_json::to_string(&configuration()).unwrap();
        let again: Configuration = serde_json::from_str(&text).unwrap();
        assert_eq!(again.sha256(), digest);
    }

    #[test]
    fn profiles_have_their_own_words() {
        assert_ne!(
            Configuration::remote(
                Profile::Whitepaper,
                "m",
                Rules::default(),
                FrameRule::default()
            )
            .asks["words_sha256"],
            configuration().asks["words_sha256"]
        );
        for profile in Profile::ALL {
            let text = serde_json::to_value(profile).unwrap();
            assert_eq!(text, profile.name());
        }
    }
}
