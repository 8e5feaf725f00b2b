//! The fields of `POST /generate`: the union of the names in use for Wan endpoints, read into a
//! [`GenerationRequest`].
//!
//! Unknown fields are ignored and `null` means absent, as the callers expect. One thing under two
//! names must have one value. What a field means for the loaded model is the admission's business;
//! here are only types, aliases and this server's limits.

use serde_json::{Map, Value};

use super::{ApiError, Limits, base64};
use crate::engine::ModelInfo;
use crate::generation::GenerationRequest;

/// Names that published Wan schemas wrap the arguments in.
const WRAPPERS: [&str; 2] = ["args", "input_args"];
const IMAGE: [&str; 3] = ["image", "image_b64", "first_image_b64"];
const FRAMES: [&str; 2] = ["frames", "num_frames"];
const STEPS: [&str; 2] = ["steps", "num_inference_steps"];
const SHIFT: [&str; 3] = ["flow_shift", "sample_shift", "shift"];

/// Reads a request body.
///
/// # Errors
/// 400 naming the field, 413 for a picture beyond the limit.
pub(super) fn parse(
    body: &[u8],
    model: &ModelInfo,
    limits: &Limits,
) -> Result<GenerationRequest, ApiError> {
    let fields = Fields(unwrap_single(object(body)?)?);
    let prompt = fields
        .text("prompt", limits.max_prompt_chars)?
        .ok_or_else(|| ApiError::invalid("prompt", "is missing; say what the clip shows"))?;
    if prompt.trim().is_empty() {
        return Err(ApiError::invalid(
            "prompt",
            "is empty; say what the clip shows",
        ));
    }
    let image = match fields.one_of(&IMAGE)? {
        None => None,
        Some((name, value)) => {
            let text = value
                .as_str()
                .ok_or_else(|| wrong_type(name, "base64 text", value))?;
            Some(base64::decode_image(name, text, limits.max_image_bytes)?)
        }
    };
    // Accepted because every subnet request carries it; no faster mode is loaded, and the answer's
    // headers say so.
    fields.flag("fast")?;
    let [width, height] = match fields.size(model)? {
        Some([width, height]) => {
            let pixels = width.saturating_mul(height);
            if pixels > limits.max_pixels {
                let message = format!(
                    "{width}x{height} is {pixels} pixels; this server makes at most {}",
                    limits.max_pixels
                );
                return Err(ApiError::invalid("resolution", message));
            }
            [Some(width), Some(height)]
        }
        None => [None, None],
    };
    Ok(GenerationRequest {
        prompt,
        negative_prompt: fields.text("negative_prompt", limits.max_prompt_chars)?,
        image,
        num_frames: fields.count(&FRAMES, limits.max_frames)?,
        fps: fields.count(&["fps"], 240)?.map(|fps| fps as u32),
        height,
        width,
        num_inference_steps: fields.count(&STEPS, limits.max_steps)?,
        guidance_scale: fields.number(&["guidance_scale"])?,
        guidance_scale_2: fields.number(&["guidance_scale_2"])?,
        flow_shift: fields.number(&SHIFT)?,
        seed: fields.seed()?,
        ..GenerationRequest::default()
    })
}

fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|e| ApiError::invalid("body", format!("invalid request JSON payload: {e}")))?;
    match value {
        Value::Object(map) => Ok(map),
        other => Err(wrong_type("body", "a JSON object", &other)),
    }
}

/// `{"args": {…}}` is read as `{…}`.
fn unwrap_single(mut map: Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    let only = if map.len() == 1 {
        map.keys().next().cloned()
    } else {
        None
    };
    let Some(name) = only.filter(|name| WRAPPERS.contains(&name.as_str())) else {
        return Ok(map);
    };
    match map.remove(&name) {
        Some(Value::Object(inner)) => Ok(inner),
        other => Err(wrong_type(
            &name,
            "a JSON object",
            &other.unwrap_or(Value::Null),
        )),
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// The value of the first name that is present; all that are present must agree.
    fn one_of<'a>(&'a self, names: &[&'a str]) -> Result<Option<(&'a str, &'a Value)>, ApiError> {
        let mut present = names
            .iter()
            .filter_map(|name| Some((*name, self.get(name)?)));
        let Some((name, value)) = present.next() else {
            return Ok(None);
        };
        for (other, found) in present {
            if found != value {
                let message =
                    format!("is also given as {other} with another value; send one of the two");
                return Err(ApiError::invalid(name, message));
            }
        }
        Ok(Some((name, value)))
    }

    fn text(&self, name: &str, max_chars: usize) -> Result<Option<String>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let text = value
            .as_str()
            .ok_or_else(|| wrong_type(name, "text", value))?;
        // Bytes bound characters from above: most texts need no counting.
        if text.len() > max_chars {
            let chars = text.chars().count();
            if chars > max_chars {
                let message = format!("has {chars} characters; at most {max_chars} are taken");
                return Err(ApiError::invalid(name, message));
            }
        }
        Ok(Some(text.to_owned()))
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| wrong_type(name, "true or false", value))
    }

    /// A whole number from 1 to `max`.
    fn count(&self, names: &[&str], max: usize) -> Result<Option<usize>, ApiError> {
        let Some((name, value)) = self.one_of(names)? else {
            return Ok(None);
        };
        match whole(value) {
            Some(n) if n >= 1 && n <= max as u64 => Ok(Some(n as usize)),
            Some(n) => Err(ApiError::invalid(
                name,
                format!("{n} is outside 1 to {max}"),
            )),
            None => Err(wrong_type(
                name,
                &format!("a whole number from 1 to {max}"),
                value,
            )),
        }
    }

    fn number(&self, names: &[&str]) -> Result<Option<f64>, ApiError> {
        let Some((name, value)) = self.one_of(names)? else {
            return Ok(None);
        };
        let number = value.as_f64().filter(|n| n.is_finite());
        number
            .map(Some)
            .ok_or_else(|| wrong_type(name, "a number", value))
    }

    fn seed(&self) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.get("seed") else {
            return Ok(None);
        };
        let seed = whole(value);
        seed.map(Some)
            .ok_or_else(|| wrong_type("seed", "a whole number from 0, or null", value))
    }

    /// `[width, height]` from `resolution`, or from `width` and `height`.
    fn size(&self, model: &ModelInfo) -> Result<Option<[usize; 2]>, ApiError> {
        let named = match self.get("resolution") {
            None => None,
            Some(value) => {
                let text = value.as_str().and_then(|text| resolution(text, model));
                let expected = "\"480p\", \"720p\" or \"WIDTHxHEIGHT\"";
                Some(text.ok_or_else(|| wrong_type("resolution", expected, value))?)
            }
        };
        let width = self.count(&["width"], usize::from(u16::MAX))?;
        let height = self.count(&["height"], usize::from(u16::MAX))?;
        let explicit = match (width, height) {
            (None, None) => return Ok(named),
            (Some(width), Some(height)) => [width, height],
            (Some(_), None) => return Err(ApiError::invalid("height", "is missing beside width")),
            (None, Some(_)) => return Err(ApiError::invalid("width", "is missing beside height")),
        };
        if named.is_some_and(|named| named != explicit) {
            let message =
                "is also given as width and height with another value; send one of the two";
            return Err(ApiError::invalid("resolution", message));
        }
        Ok(Some(explicit))
    }
}

fn resolution(text: &str, model: &ModelInfo) -> Option<[usize; 2]> {
    let text = text.trim().to_ascii_lowercase();
    match text.as_str() {
        "480p" => Some([832, 480]),
        "720p" => Some(model.size_720p),
        _ => {
            let (width, height) = text.split_once(['x', '*'])?;
            let parse = |text: &str| {
                text.parse()
                    .ok()
                    .filter(|n| (1..=usize::from(u16::MAX)).contains(n))
            };
            Some([parse(width)?, parse(height)?])
        }
    }
}

/// A number without a fraction that is not negative; `81.0` counts, as JSON has one kind of number.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        // Up to 2^53 every whole f64 is exact.
        let number = value
            .as_f64()
            .filter(|n| (0.0..=9_007_199_254_740_992.0).contains(n))?;
        (number.fract() == 0.0).then_some(number as u64)
    })
}

/// Names what came without repeating it in full: values can be megabytes and are the user's own.
fn wrong_type(name: &str, expected: &str, found: &Value) -> ApiError {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "true or false".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.len() <= 24 => format!("{text:?}"),
        Value::String(_) => "text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    ApiError::invalid(name, format!("expected {expected}, found {found}"))
}

#[cfg(test)]
#[path = "fields_tests.rs"]
mod tests;
