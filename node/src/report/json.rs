//! Reports as JSON.

use leoma_models::{Error, Result};
use serde::Serialize;

/// Indented JSON with a line end.
pub(crate) fn pretty<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| Error::local(format!("cannot write JSON: {error}")))
}
