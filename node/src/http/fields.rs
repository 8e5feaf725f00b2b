//! The fields of a generation: the union of the names in use for Wan endpoints, read into a
//! [`GenerationRequest`].
//!
//! Unknown fields are ignored and `null` means absent, as the callers expect. One thing under two
//! names must have one value. What a field means for the loaded model is the admission's business;
//! here are only types, aliases and this server's limits.

use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::{ApiError, Limits, base64};
use crate::engine::ModelInfo;
use crate::generation::GenerationRequest;

/// Names that published Wan schemas wrap the arguments in.
const WRAPPERS: [&str; 2] = ["args", "input_args"];
const IMAGE: [&str; 4] = ["image", "image_b64", "first_image_b64", "input_reference"];
const FRAMES: [&str; 2] = ["frames", "num_frames"];
const STEPS: [&str; 2] = ["steps", "num_inference_steps"];
const SHIFT: [&str; 3] = ["flow_shift", "sample_shift", "shift"];
const SIZE: [&str; 2] = ["resolution", "size"];

/// A file as a request names it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FileSource {
    /// The bytes of the file.
    Bytes(Vec<u8>),
    /// Where it can be fetched, and the field that says so.
    Link {
        /// The field, for errors.
        field: &'static str,
        /// The address.
        url: String,
    },
}

/// A request body as read.
#[derive(Debug)]
pub(super) struct Parsed {
    /// Everything but the picture.
    pub(super) request: GenerationRequest,
    /// The picture.
    pub(super) picture: Option<FileSource>,
}

/// Reads a request body.
///
/// # Errors
/// 400 naming the field, 413 for a picture beyond the limit.
pub(super) fn parse(body: &[u8], model: &ModelInfo, limits: &Limits) -> Result<Parsed, ApiError> {
    parse_map(unwrap_single(object(body)?)?, model, limits)
}

/// Reads the fields of a request.
///
/// # Errors
/// As [`parse`].
pub(super) fn parse_map(
    map: Map<String, Value>,
    model: &ModelInfo,
    limits: &Limits,
) -> Result<Parsed, ApiError> {
    let fields = Fields(map);
    let prompt = fields
        .text("prompt", limits.max_prompt_chars)?
        .ok_or_else(|| ApiError::invalid("prompt", "is missing; say what the clip shows"))?;
    if prompt.trim().is_empty() {
        return Err(ApiError::invalid(
            "prompt",
            "is empty; say what the clip shows",
        ));
    }
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
    let fps = fields.count(&["fps"], 240)?.map(|fps| fps as u32);
    let request = GenerationRequest {
        prompt,
        negative_prompt: fields.text("negative_prompt", limits.max_prompt_chars)?,
        num_frames: fields.frames(fps, model, limits)?,
        fps,
        height,
        width,
        num_inference_steps: fields.count(&STEPS, limits.max_steps)?,
        guidance_scale: fields.number_to("guidance_scale", 100.0)?,
        guidance_scale_2: fields.number_to("guidance_scale_2", 100.0)?,
        flow_shift: fields.number(&SHIFT)?,
        boundary_ratio: fields.number_to("boundary_ratio", 1.0)?,
        scheduler: fields.named("scheduler")?,
        noise_source: fields.named("noise_source")?,
        preset: fields.named("preset")?,
        crf: fields.whole_to("crf", 51)?.map(|crf| crf as u8),
        seed: fields.whole_to("seed", u64::MAX)?,
        still: fields.flag("single_frame")?.unwrap_or(false),
        ..GenerationRequest::default()
    };
    Ok(Parsed {
        picture: fields.picture(limits)?,
        request,
    })
}

/// The fields of a request under their canonical names, so that [`parse_map`] reads the same again.
pub(super) fn canonical(request: &GenerationRequest) -> Map<String, Value> {
    let GenerationRequest {
        prompt,
        negative_prompt,
        image: _,
        num_frames,
        height,
        width,
        fps,
        num_inference_steps,
        guidance_scale,
        guidance_scale_2,
        flow_shift,
        boundary_ratio,
        scheduler,
        seed,
        noise_source,
        crf,
        preset,
        image_preparation: _,
        still,
    } = request;
    let all = json!({
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "fps": fps,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "guidance_scale_2": guidance_scale_2,
        "flow_shift": flow_shift,
        "boundary_ratio": boundary_ratio,
        "scheduler": scheduler.map(|s| s.to_string()),
        "seed": seed,
        "noise_source": noise_source.as_ref().map(ToString::to_string),
        "crf": crf,
        "preset": preset.map(|p| p.name()),
        "single_frame": still.then_some(true),
    });
    match all {
        Value::Object(map) => map.into_iter().filter(|(_, v)| !v.is_null()).collect(),
        _ => Map::new(),
    }
}

/// The body as a JSON object.
///
/// # Errors
/// 400 for anything else.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let value: Value = serde_json::from_slice(body).map_err(|e| {
        let message = format!("invalid request JSON payload: {e}");
        ApiError::new(
            axum::http::StatusCode::BAD_REQUEST,
            "invalid_request",
            message,
        )
    })?;
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

/// The fields of a request; `null` means absent.
pub(super) struct Fields(pub(super) Map<String, Value>);

impl Fields {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
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

    pub(super) fn text(&self, name: &str, max_chars: usize) -> Result<Option<String>, ApiError> {
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

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
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

    /// A number of frames, given as such or as seconds of the clip.
    fn frames(
        &self,
        fps: Option<u32>,
        model: &ModelInfo,
        limits: &Limits,
    ) -> Result<Option<usize>, ApiError> {
        let frames = self.count(&FRAMES, limits.max_frames)?;
        let Some(value) = self.get("seconds") else {
            return Ok(frames);
        };
        // OpenAI clients send text.
        let seconds = match value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_f64(),
        };
        let seconds: f64 = seconds
            .filter(|s: &f64| s.is_finite() && *s > 0.0)
            .ok_or_else(|| wrong_type("seconds", "a number above 0", value))?;
        let default_fps = model.defaults["fps"].as_u64().unwrap_or(16) as u32;
        let wanted = (seconds * f64::from(fps.unwrap_or(default_fps)))
            .round()
            .max(1.0);
        if wanted > limits.max_frames as f64 {
            let message = format!(
                "{seconds} s are {wanted} frames; this server makes at most {}",
                limits.max_frames
            );
            return Err(ApiError::invalid("seconds", message));
        }
        match frames {
            Some(frames) if frames != wanted as usize => Err(ApiError::invalid(
                "seconds",
                "is also given as a number of frames with another value; send one of the two",
            )),
            _ => Ok(Some(wanted as usize)),
        }
    }

    /// A word from a fixed set.
    fn named<T: FromStr<Err = leoma_models::Error>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let text = value
            .as_str()
            .filter(|text| text.len() <= 64)
            .ok_or_else(|| wrong_type(name, "a name", value))?;
        text.parse()
            .map(Some)
            .map_err(|error: leoma_models::Error| {
                // The parser names the field as the command line does, which is the same here.
                let message = error.to_string();
                let message = message
                    .strip_prefix(&format!("{name}: "))
                    .unwrap_or(&message);
                ApiError::invalid(name, message)
            })
    }

    fn picture(&self, limits: &Limits) -> Result<Option<FileSource>, ApiError> {
        let Some((name, value)) = self.one_of(&IMAGE)? else {
            return Ok(None);
        };
        // Newer OpenAI clients wrap the reference.
        let inner = value.get("image_url").unwrap_or(value);
        let field = IMAGE
            .into_iter()
            .find(|known| *known == name)
            .unwrap_or("image");
        file(field, inner, limits.max_image_bytes, base64::Kind::Picture).map(Some)
    }

    /// A file of at most `max_bytes`.
    pub(super) fn file(
        &self,
        name: &'static str,
        max_bytes: usize,
        kind: base64::Kind,
    ) -> Result<Option<FileSource>, ApiError> {
        self.get(name)
            .map(|value| file(name, value, max_bytes, kind))
            .transpose()
    }

    /// A number from 0 to `max`.
    fn number_to(&self, name: &str, max: f64) -> Result<Option<f64>, ApiError> {
        match self.number(&[name])? {
            Some(number) if !(0.0..=max).contains(&number) => Err(ApiError::invalid(
                name,
                format!("{number} is not between 0 and {max}"),
            )),
            number => Ok(number),
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

    /// A whole number from 0 to `max`.
    fn whole_to(&self, name: &str, max: u64) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = whole(value).filter(|n| *n <= max);
        number.map(Some).ok_or_else(|| {
            wrong_type(
                name,
                &format!("a whole number from 0 to {max}, or null"),
                value,
            )
        })
    }

    /// `[width, height]` from `resolution` or `size`, or from `width` and `height`.
    fn size(&self, model: &ModelInfo) -> Result<Option<[usize; 2]>, ApiError> {
        let named = match self.one_of(&SIZE)? {
            None => None,
            Some((name, value)) => {
                let text = value.as_str().and_then(|text| resolution(text, model));
                let expected = "\"480p\", \"720p\" or \"WIDTHxHEIGHT\"";
                Some(text.ok_or_else(|| wrong_type(name, expected, value))?)
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

/// A file in base64, or the address where it lies.
fn file(
    field: &'static str,
    value: &Value,
    max_bytes: usize,
    kind: base64::Kind,
) -> Result<FileSource, ApiError> {
    let text = value
        .as_str()
        .ok_or_else(|| wrong_type(field, "base64 text", value))?;
    if base64::is_link(text) {
        return Ok(FileSource::Link {
            field,
            url: text.trim().to_owned(),
        });
    }
    base64::decode(field, text, max_bytes, kind).map(FileSource::Bytes)
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
