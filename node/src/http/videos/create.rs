//! `POST /v1/videos`: one job, or a batch.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::super::fields::{self, FileSource, Parsed};
use super::super::form::Form;
use super::super::openapi::ErrorBody;
use super::super::{ApiError, App, body};
use super::object::{Video, VideoList};
use super::schema::{CreateVideo, Created};
use crate::engine::{Engine, Priority};
use crate::jobs::priority_number;
use crate::store::{Idempotency, NewJob};

/// Jobs of one batch.
const MAX_BATCH: usize = 32;
/// Characters of an idempotency key.
const MAX_KEY: usize = 255;
/// How forms are read.
const FORM: Form = Form {
    texts: &[
        "prompt",
        "negative_prompt",
        "image",
        "image_b64",
        "first_image_b64",
        "model",
        "size",
        "resolution",
        "seconds",
        "scheduler",
        "noise_source",
        "preset",
        "priority",
        "user",
    ],
    lists: &["prompts", "images"],
};

/// Make a video
///
/// Takes JSON, or multipart with the picture as a file. Answers at once with the job; several `prompts` or
/// `images` make a batch. With `Idempotency-Key` the same request gives the same job, however often it is
/// sent.
#[utoipa::path(
    post, path = "/v1/videos", tag = "Videos",
    request_body(content((CreateVideo = "application/json"), (CreateVideo = "multipart/form-data"))),
    params(("Idempotency-Key" = Option<String>, Header, description = "Up to 255 characters, chosen by the caller")),
    responses(
        (status = 200, description = "The job, or the list of a batch's jobs", body = Created),
        (status = 400, description = "The request cannot be used", body = ErrorBody),
        (status = 404, description = "Another model", body = ErrorBody),
        (status = 408, description = "The body came too slowly", body = ErrorBody),
        (status = 409, description = "The key was used for another request", body = ErrorBody),
        (status = 413, description = "Body or picture too large", body = ErrorBody),
        (status = 429, description = "Too many jobs wait", body = ErrorBody),
        (status = 500, description = "This machine failed", body = ErrorBody),
        (status = 503, description = "Starting or stopping", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody)))]
pub(super) async fn create(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    app.engine()?;
    if app.draining() {
        body::discard(request).await;
        return Err(crate::engine::EngineError::ShuttingDown.into());
    }
    let key = idempotency_key(request.headers())?;
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    let mut read = body::read(request, app.budget()).await?;
    let bytes = std::mem::take(&mut read.bytes);
    let map = FORM.object(&app, content_type.as_ref(), bytes).await?;
    let batch = split(map)?;
    let is_batch = batch.is_batch;
    let made = make(&app, batch).await?;
    drop(read);
    let key = key.map(|key| Idempotency {
        key,
        fingerprint: fingerprint(&made),
    });
    let records = app.jobs().create(made, key).await?;
    let mut videos = Vec::with_capacity(records.len());
    for record in records {
        videos.push(Video::of(&app, record).await);
    }
    Ok(if is_batch {
        Json(VideoList::new(videos, false)).into_response()
    } else {
        Json(videos.pop()).into_response()
    })
}

/// The requests of a batch, and whether it was written as one.
struct Batch {
    requests: Vec<Map<String, Value>>,
    is_batch: bool,
}

/// `prompts` and `images` side by side; one of a kind goes with all of the other.
fn split(mut map: Map<String, Value>) -> Result<Batch, ApiError> {
    let mut list = |plural: &'static str, singular: &str| -> Result<Option<Vec<Value>>, ApiError> {
        let found = match map.remove(plural) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(ApiError::invalid(plural, "expected a list")),
        };
        if map.contains_key(singular) {
            let message = format!("is also given as {singular}; send one of the two");
            return Err(ApiError::invalid(plural, message));
        }
        if found.is_empty() || found.len() > MAX_BATCH {
            let message = format!("has {} entries; 1 to {MAX_BATCH} are taken", found.len());
            return Err(ApiError::invalid(plural, message));
        }
        Ok(Some(found))
    };
    let prompts = list("prompts", "prompt")?;
    let images = list("images", "image")?;
    let count = prompts
        .as_ref()
        .map_or(1, Vec::len)
        .max(images.as_ref().map_or(1, Vec::len));
    let is_batch = prompts.is_some() || images.is_some();
    let at = |list: &Option<Vec<Value>>, index: usize, name: &str| match list {
        None => Ok(None),
        Some(list) if list.len() == 1 => Ok(list.first().cloned()),
        Some(list) if list.len() == count => Ok(list.get(index).cloned()),
        Some(list) => Err(ApiError::invalid(
            name,
            format!(
                "has {} entries and the other list {count}; send equal numbers, or one",
                list.len()
            ),
        )),
    };
    let mut requests = Vec::with_capacity(count);
    for index in 0..count {
        let mut request = map.clone();
        if let Some(prompt) = at(&prompts, index, "prompts")? {
            request.insert("prompt".into(), prompt);
        }
        if let Some(image) = at(&images, index, "images")? {
            request.insert("image".into(), image);
        }
        requests.push(request);
    }
    Ok(Batch { requests, is_batch })
}

/// Reads and checks every request of a batch before any of them is taken.
async fn make(app: &App, batch: Batch) -> Result<Vec<NewJob>, ApiError> {
    let batch_id = batch
        .is_batch
        .then(|| format!("batch_{}", uuid::Uuid::new_v4().simple()));
    let mut jobs = Vec::with_capacity(batch.requests.len());
    for mut map in batch.requests {
        let engine = app.engine()?;
        check_model(engine, map.remove("model"))?;
        let priority = read_priority(map.remove("priority"))?;
        let model = engine.info().name.clone();
        let (bytes, parsed) = app
            .read_picture(move |app| {
                let engine = app.engine()?;
                fields::parse_map(map, engine.info(), app.limits())
            })
            .await?;
        let mut stored = parsed.clone();
        stored.image = None;
        let job = app.check(parsed).await?;
        let request = json!({
            "model": model,
            "fields": fields::canonical(&stored),
            "parameters": job.settings.parameters(),
        });
        jobs.push(NewJob {
            priority: priority_number(priority),
            request,
            image: bytes,
            batch_id: batch_id.clone(),
        });
    }
    Ok(jobs)
}

fn check_model(engine: &Engine, model: Option<Value>) -> Result<(), ApiError> {
    let name = &engine.info().name;
    match model {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(asked)) if asked == *name => Ok(()),
        Some(Value::String(_)) => Err(ApiError::new(
            axum::http::StatusCode::NOT_FOUND,
            "model_not_found",
            format!("model: this node serves `{name}`; send that name or leave the field out"),
        )),
        Some(_) => Err(ApiError::invalid("model", "expected a name")),
    }
}

fn read_priority(value: Option<Value>) -> Result<Priority, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(Priority::Normal),
        Some(value) => serde_json::from_value(value)
            .map_err(|_| ApiError::invalid("priority", "expected low, normal or high")),
    }
}

/// What makes two requests the same: their values and pictures, not their spelling.
fn fingerprint(jobs: &[NewJob]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for job in jobs {
        let picture = job.image.as_deref().map(Sha256::digest);
        let line = json!([
            job.priority,
            job.request,
            picture.as_ref().map(|digest| digest.as_slice())
        ]);
        hash.update(line.to_string());
        hash.update([0]);
    }
    hash.finalize().into()
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=MAX_KEY).contains(&key.len()));
    key.map(|key| Some(key.to_owned())).ok_or_else(|| {
        let message = format!("expected 1 to {MAX_KEY} visible ASCII characters");
        ApiError::invalid("Idempotency-Key", message)
    })
}

impl App {
    /// Reads a request on a thread where that may take its time, and fetches its picture where it names one.
    pub(in super::super) async fn read_picture(
        &self,
        parse: impl FnOnce(&Self) -> Result<Parsed, ApiError> + Send + 'static,
    ) -> Result<(Option<Vec<u8>>, crate::generation::GenerationRequest), ApiError> {
        let Parsed {
            mut request,
            picture,
        } = self.on_worker(parse).await?;
        request.image = match picture {
            None => None,
            Some(FileSource::Bytes(bytes)) => Some(bytes),
            Some(FileSource::Link { field, url }) => Some(self.fetch(field, &url).await?),
        };
        Ok((request.image.clone(), request))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn batch(map: &Value) -> Result<Batch, ApiError> {
        split(map.as_object().unwrap().clone())
    }

    #[test]
    fn lists_pair_up_or_repeat() {
        let made = batch(&json!({"prompts": ["a", "b"], "images": ["x"], "fps": 8})).unwrap();
        assert!(made.is_batch);
        let expected = [
            json!({"prompt": "a", "image": "x", "fps": 8}),
            json!({"prompt": "b", "image": "x", "fps": 8}),
        ];
        let found = made
            .requests
            .into_iter()
            .map(Value::Object)
            .collect::<Vec<_>>();
        assert_eq!(found, expected);
        let single = batch(&json!({"prompt": "a"})).unwrap();
        assert_eq!((single.requests.len(), single.is_batch), (1, false));
        let one = batch(&json!({"prompts": ["a"]})).unwrap();
        assert_eq!((one.requests.len(), one.is_batch), (1, true));
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        for map in [
            json!({"prompts": []}),
            json!({"prompts": "a"}),
            json!({"prompts": ["a"], "prompt": "b"}),
            json!({"prompts": ["a", "b"], "images": ["x", "y", "z"]}),
            json!({"prompts": vec!["a"; 33]}),
        ] {
            assert!(batch(&map).is_err(), "{map}");
        }
    }
}
