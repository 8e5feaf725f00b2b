//! Canonical JSON: one text for one value, so that it can be hashed and signed.
//!
//! Keys in the order of their UTF-8 bytes, no spaces, texts with the least escaping, numbers in the shortest
//! form that reads back as the same number (an integer where it was written as one). RFC 8785 differs in two
//! ways that no record here touches: it sorts keys by UTF-16 units and writes large floats as JavaScript does.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The canonical text of a value.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

/// The canonical text of a record.
///
/// # Errors
/// [`serde_json::Error`] for a record that is no JSON, such as one with a not-a-number.
pub fn of<T: Serialize>(record: &T) -> Result<String, serde_json::Error> {
    Ok(text(&serde_json::to_value(record)?))
}

/// SHA-256 in lowercase hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let mut hex = String::with_capacity(64);
    for byte in &digest {
        // Writing into a text cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// SHA-256 of the canonical text.
pub fn digest(value: &Value) -> String {
    sha256(text(value).as_bytes())
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            // Sorted here and not by the map, whose order is a feature that any crate can switch on.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (index, (key, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(&Value::String(key.clone()), out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        plain => {
            let _ = write!(out, "{plain}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_for_one_value() {
        let value = serde_json::json!({
            "b": [1, 2.5, -0.1, null, true], "a": {"é": "\n\"", "Z": 1e-7}, "aa": 18_446_744_073_709_551_615u64,
        });
        let text = text(&value);
        assert_eq!(
            text,
            "{\"a\":{\"Z\":1e-7,\"é\":\"\\n\\\"\"},\"aa\":18446744073709551615,\"b\":[1,2.5,-0.1,null,true]}"
        );
        let again: Value = serde_json::from_str(&text).unwrap_or_default();
        assert_eq!(super::text(&again), text);
    }

    #[test]
    fn digests_are_those_of_sha256sum() {
        // printf '{}' | sha256sum
        assert_eq!(
            digest(&serde_json::json!({})),
            "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
    }
}
