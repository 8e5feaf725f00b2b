//! From what a model said to scores.
//!
//! Two ways of reading, one for each [`Profile`](super::profile::Profile). That of the subnet gives the numbers
//! that its validators get from the same text, character by character; where their program stops with an error
//! and casts no vote (an array, an infinite number), this one reads zeros, as for any other answer that is no
//! score object. That of the whitepaper takes what the schema asked for and nothing that merely looks like it.

mod json;

use serde::{Deserialize, Serialize};

use super::rubric::{Dimension, Scores, clamp};
use json::{Json, Number, is_blank};

/// Longest lists that are kept.
const MAX_ITEMS: usize = 20;
/// Longest lists that the whitepaper's schema asks for.
const MAX_SCHEMA_ITEMS: usize = 6;
/// Longest text of an item: a record is read by people.
const MAX_ITEM_CHARS: usize = 2_000;

/// How well an answer could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parse {
    /// As asked for.
    Ok,
    /// Read, after a fence was taken off, or with scores that were missing, out of range or of another type.
    Repaired,
    /// No usable score object: zeros.
    Unparseable,
    /// Cut off by the limit of tokens before it was a score object: zeros.
    Truncated,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// How well it could be read.
    pub parse: Parse,
    /// The six scores.
    pub scores: Scores,
    /// The model's own overall, where it gave one that is a number.
    pub model_overall: Option<u8>,
    /// How sure the model says it is.
    pub confidence: u8,
    /// What it finds wrong.
    pub issues: Vec<String>,
    /// What it finds good.
    pub strengths: Vec<String>,
    /// Its reasons, or why it could not be read.
    pub reasoning: String,
    /// Whether it saw writing in the frames; asked for by the whitepaper's schema only.
    pub text_in_frames: Option<bool>,
}

impl Reading {
    fn unusable(parse: Parse, reasoning: String) -> Self {
        Self {
            parse,
            scores: Scores::default(),
            model_overall: None,
            confidence: 0,
            issues: Vec::new(),
            strengths: Vec::new(),
            reasoning,
            text_in_frames: None,
        }
    }
}

/// Reads as the subnet's validators do. `cut` says that the answer ended at the limit of tokens.
pub fn subnet(content: Option<&str>, cut: bool) -> Reading {
    let Some(content) = content else {
        return Reading::unusable(Parse::Unparseable, "Parse error: no content".into());
    };
    let text = without_fence(content);
    let failed = || {
        let parse = if cut {
            Parse::Truncated
        } else {
            Parse::Unparseable
        };
        let start: String = text.chars().take(100).collect();
        Reading::unusable(parse, format!("Parse error: {start}"))
    };
    let Ok(Json::Object(fields)) = json::parse(text) else {
        return failed();
    };
    let mut repaired = text.len() != content.trim_matches(is_blank).len();
    // `Err` for what is infinite: the reference stops there.
    let mut score = |value: Option<&Json>| -> Result<Option<u8>, ()> {
        let number = value.map_or(Number::Not, Json::to_number);
        repaired |= !matches!(value.map(Json::number), Some(Number::Finite(n)) if (0.0..=100.0).contains(&n));
        match number {
            Number::Finite(number) => Ok(clamp(number)),
            Number::Not => Ok(None),
            Number::Infinite => Err(()),
        }
    };
    let aspects = match fields.get("aspect_scores") {
        Some(Json::Object(aspects)) => Some(aspects),
        _ => None,
    };
    let mut scores = [0; 6];
    for (at, dimension) in scores.iter_mut().zip(Dimension::ALL) {
        match score(aspects.and_then(|aspects| aspects.get(dimension.key()))) {
            Ok(value) => *at = value.unwrap_or(0),
            Err(()) => return failed(),
        }
    }
    let (Ok(model_overall), Ok(confidence)) = (
        score(fields.get("overall_score")),
        score(fields.get("confidence")),
    ) else {
        return failed();
    };
    let list = |name: &str| match fields.get(name) {
        Some(Json::List(items)) => texts(items, MAX_ITEMS),
        _ => Vec::new(),
    };
    let reasoning = fields.get("reasoning").filter(|value| !value.is_falsy());
    Reading {
        parse: if repaired { Parse::Repaired } else { Parse::Ok },
        scores: Scores::new(scores),
        model_overall,
        confidence: confidence.unwrap_or(0),
        issues: list("major_issues"),
        strengths: list("strengths"),
        reasoning: reasoning
            .map(|value| short(value.to_text().trim_matches(is_blank)))
            .unwrap_or_default(),
        text_in_frames: None,
    }
}

/// Reads what the whitepaper's schema asks for. Scores are numbers; a text or a boolean in their place counts as
/// missing, and a missing one is 0. A fence is taken off only where `fences` says so: where a server could not be
/// bound to the schema.
pub fn whitepaper(content: Option<&str>, cut: bool, fences: bool) -> Reading {
    let unusable = |why: &str| {
        let parse = if cut {
            Parse::Truncated
        } else {
            Parse::Unparseable
        };
        Reading::unusable(parse, format!("no usable score object: {why}"))
    };
    let Some(content) = content else {
        return unusable("no content");
    };
    let bare = content.trim_matches(is_blank);
    let text = if fences { without_fence(content) } else { bare };
    let fields = match json::parse(text) {
        Ok(Json::Object(fields)) => fields,
        Ok(_) => return unusable("not an object"),
        Err(wrong) => return unusable(&format!("not JSON from character {}", wrong.at)),
    };
    let Some(Json::Object(aspects)) = fields.get("aspect_scores") else {
        return unusable("aspect_scores is not an object");
    };
    let mut repaired = text.len() != bare.len();
    let mut score = |value: Option<&Json>| match value.map_or(Number::Not, Json::number) {
        Number::Infinite => None,
        Number::Finite(number) => {
            repaired |= !(0.0..=100.0).contains(&number) || number.fract() != 0.0;
            Some(clamp(number).unwrap_or(0))
        }
        Number::Not => {
            repaired = true;
            Some(0)
        }
    };
    let mut scores = [0; 6];
    for (at, dimension) in scores.iter_mut().zip(Dimension::ALL) {
        match score(aspects.get(dimension.key())) {
            Some(value) => *at = value,
            None => return unusable("a score is infinite"),
        }
    }
    let Some(confidence) = score(fields.get("confidence")) else {
        return unusable("the confidence is infinite");
    };
    let issues = match fields.get("issues") {
        Some(Json::List(items)) => texts(items, MAX_SCHEMA_ITEMS),
        _ => Vec::new(),
    };
    let text_in_frames = match fields.get("text_in_frames") {
        Some(Json::Bool(seen)) => Some(*seen),
        _ => None,
    };
    Reading {
        parse: if repaired || text_in_frames.is_none() {
            Parse::Repaired
        } else {
            Parse::Ok
        },
        scores: Scores::new(scores),
        // Not asked for; kept where a server gives it all the same, and never what decides.
        model_overall: match fields.get("overall_score").map(Json::number) {
            Some(Number::Finite(number)) => clamp(number),
            _ => None,
        },
        confidence,
        issues,
        strengths: Vec::new(),
        reasoning: String::new(),
        text_in_frames,
    }
}

/// What lies between the first two fences of three backticks, where there is one; then without `json` at the
/// start, in lower case only.
fn without_fence(content: &str) -> &str {
    let text = content.trim_matches(is_blank);
    match text.split("```").nth(1) {
        None => text,
        Some(fenced) => fenced.strip_prefix("json").unwrap_or(fenced),
    }
}

fn texts(items: &[Json], most: usize) -> Vec<String> {
    let texts = items.iter().take(most).map(Json::to_text);
    texts.map(|text| short(&text)).collect()
}

fn short(text: &str) -> String {
    text.chars().take(MAX_ITEM_CHARS).collect()
}

#[cfg(test)]
mod json_tests;
#[cfg(test)]
mod tests;
