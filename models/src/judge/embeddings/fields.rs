//! Settings of a JSON file by name. What transformers leaves out of its files because it is the default of the class
//! has that default here; everything else must be said.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// Largest width or count.
pub(super) const MAX_SIZE: usize = 1 << 20;
/// Most layers.
pub(super) const MAX_LAYERS: usize = 1000;
/// Longest side of a picture that a tower is built for.
pub(super) const MAX_SIDE: usize = 4096;

/// An object of a file and its place in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    path: &'a Path,
    /// Empty, or ends in a dot.
    prefix: &'a str,
    object: &'a Object,
}

impl<'a> Fields<'a> {
    pub(super) fn new(path: &'a Path, object: &'a Object) -> Self {
        Self {
            path,
            prefix: "",
            object,
        }
    }

    /// The object `name`; `prefix` is that name with a dot.
    pub(super) fn inner(self, name: &str, prefix: &'a str) -> Result<Self> {
        match self.object.get(name) {
            Some(Value::Object(object)) => Ok(Self {
                path: self.path,
                prefix,
                object,
            }),
            _ => Err(self.wrong(name, "is missing or no object")),
        }
    }

    /// An error about the field `name`.
    pub(super) fn wrong(self, name: &str, message: impl std::fmt::Display) -> Error {
        let prefix = self.prefix;
        Error::artifact(
            self.path,
            format!("`{prefix}{name}` {message}; use the file that the model was published with"),
        )
    }

    /// The value, where there is one that is not null.
    pub(super) fn get(self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// A count from 1 to `limit`, or `default` where the field is not there.
    pub(super) fn size(self, name: &str, limit: usize, default: Option<usize>) -> Result<usize> {
        let Some(value) = self.get(name) else {
            return default.ok_or_else(|| self.wrong(name, "is missing"));
        };
        let found = value.as_u64().and_then(|value| usize::try_from(value).ok());
        found
            .filter(|size| (1..=limit).contains(size))
            .ok_or_else(|| self.wrong(name, format!("is {value}; 1 to {limit} is accepted")))
    }

    /// A number above 0, or `default`.
    pub(super) fn positive(self, name: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        let found = value
            .as_f64()
            .filter(|value| value.is_finite() && *value > 0.0);
        found.ok_or_else(|| self.wrong(name, format!("is {value}, expected a number above 0")))
    }

    /// A flag, or `default`.
    pub(super) fn flag(self, name: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        let found = value.as_bool();
        found.ok_or_else(|| self.wrong(name, format!("is {value}, expected true or false")))
    }

    /// A text, or `default`.
    pub(super) fn text(self, name: &str, default: &'a str) -> Result<&'a str> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        let found = value.as_str();
        found.ok_or_else(|| self.wrong(name, format!("is {value}, expected a text")))
    }

    /// The field must be `expected`.
    pub(super) fn must_be(self, name: &str, expected: &str) -> Result<()> {
        match self.get(name) {
            Some(Value::String(found)) if found == expected => Ok(()),
            found => {
                let found = found.map_or_else(|| "missing".to_owned(), Value::to_string);
                Err(self.wrong(name, format!("is {found}, expected {expected:?}")))
            }
        }
    }

    /// Three numbers.
    pub(super) fn three(self, name: &str) -> Result<[f64; 3]> {
        let list = self.get(name).and_then(Value::as_array);
        let values: Option<Vec<f64>> =
            list.and_then(|list| list.iter().map(Value::as_f64).collect());
        values
            .and_then(|values| <[f64; 3]>::try_from(values).ok())
            .ok_or_else(|| self.wrong(name, "is missing or not three numbers"))
    }
}
