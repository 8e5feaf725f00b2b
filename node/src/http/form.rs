//! Bodies that may be JSON or a form: both become a JSON object.

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::app::SMALL_BODY_BYTES;
use super::{ApiError, App, fields};

/// How the fields of a form are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// Fields that are text even when they look like something else.
    pub(super) texts: &'static [&'static str],
    /// Fields that may come several times: lists of texts.
    pub(super) lists: &'static [&'static str],
}

impl Form {
    /// The object that a body is, or stands for. Files of a form are base64, as they would be in JSON.
    ///
    /// # Errors
    /// 400 for a body that is neither.
    pub(super) async fn object(
        &self,
        app: &App,
        content_type: Option<&HeaderValue>,
        bytes: Vec<u8>,
    ) -> Result<Map<String, Value>, ApiError> {
        match content_type.filter(|value| is_form(value)) {
            Some(content_type) => self.read(content_type, bytes).await,
            None if bytes.len() <= SMALL_BODY_BYTES => fields::object(&bytes),
            None => app.on_worker(move |_| fields::object(&bytes)).await,
        }
    }

    async fn read(
        &self,
        content_type: &HeaderValue,
        bytes: Vec<u8>,
    ) -> Result<Map<String, Value>, ApiError> {
        let broken = |error: &dyn std::fmt::Display| {
            ApiError::invalid(
                "body",
                format!("is no multipart form that can be read: {error}"),
            )
        };
        let mut request = Request::builder()
            .header(CONTENT_TYPE, content_type)
            .body(Body::from(bytes))
            .map_err(|error| broken(&error))?;
        // The size was judged when the body was read.
        DefaultBodyLimit::disable().apply(&mut request);
        let mut form = Multipart::from_request(request, &())
            .await
            .map_err(|error| broken(&error.body_text()))?;
        let mut map = Map::new();
        while let Some(field) = form
            .next_field()
            .await
            .map_err(|error| broken(&error.body_text()))?
        {
            let Some(name) = field.name().map(str::to_owned) else {
                continue;
            };
            let is_file = field.file_name().is_some();
            let bytes = field
                .bytes()
                .await
                .map_err(|error| broken(&error.body_text()))?;
            // A form whose file was not chosen, or whose field was left empty.
            if !bytes.is_empty() {
                let value = self.value(&name, is_file, &bytes)?;
                self.add(&mut map, &name, value)?;
            }
        }
        Ok(map)
    }

    fn value(&self, name: &str, is_file: bool, bytes: &[u8]) -> Result<Value, ApiError> {
        if is_file {
            return Ok(Value::String(STANDARD.encode(bytes)));
        }
        let text =
            std::str::from_utf8(bytes).map_err(|_| ApiError::invalid(name, "is not UTF-8 text"))?;
        let plain = name.trim_end_matches("[]");
        if self.texts.contains(&plain) || self.lists.contains(&plain) {
            return Ok(Value::String(text.to_owned()));
        }
        Ok(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())))
    }

    fn add(&self, map: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), ApiError> {
        let name = name.trim_end_matches("[]");
        if self.lists.contains(&name) {
            let list = map.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                list.push(value);
            }
            return Ok(());
        }
        if map.contains_key(name) {
            return Err(ApiError::invalid(name, "is given more than once"));
        }
        map.insert(name.to_owned(), value);
        Ok(())
    }
}

fn is_form(content_type: &HeaderValue) -> bool {
    content_type.to_str().is_ok_and(|value| {
        value
            .trim_start()
            .to_ascii_lowercase()
            .starts_with("multipart/form-data")
    })
}
