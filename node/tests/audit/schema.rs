//! The published schemas, and a validator for the part of JSON Schema that they use. A keyword or pattern that it
//! does not know is a failure: nothing in a schema is passed over.

use std::path::Path;

use serde_json::{Map, Value};

fn load(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/schemas")
        .join(format!("{name}.schema.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Fails when a value is not valid.
pub(crate) fn check(name: &str, value: &Value) {
    let schema = load(name);
    if let Err(problem) = valid(&schema, &schema, value, "") {
        panic!("{name}: {problem}");
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match pattern {
        "^[0-9a-f]{64}$" => {
            text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        }
        "^(WS|LM|AL|CP)[0-9]{3}$" => {
            text.len() == 5 && ["WS", "LM", "AL", "CP"].contains(&&text[..2]) && digits(&text[2..])
        }
        "^[A-Za-z][A-Za-z0-9+.-]*:" => text.split_once(':').is_some_and(|(scheme, _)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b))
        }),
        "^[A-Za-z0-9%._~/-]+$" => {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"%._~/-".contains(&b))
        }
        "^REPOSITORY[0-9]+$" => text.strip_prefix("REPOSITORY").is_some_and(digits),
        r"^[0-9]+\.[0-9]+\.[0-9]+" => {
            let parts: Vec<_> = text.splitn(3, '.').collect();
            parts.len() == 3
                && digits(parts[0])
                && digits(parts[1])
                && parts[2].starts_with(|c: char| c.is_ascii_digit())
        }
        r"^(10|[0-9])\.[0-9]$" => text.split_once('.').is_some_and(|(whole, tenth)| {
            (whole == "10" || whole.len() == 1)
                && digits(whole)
                && tenth.len() == 1
                && digits(tenth)
        }),
        "^file:///.*/$" => text.len() > 8 && text.starts_with("file:///") && text.ends_with('/'),
        other => panic!("pattern {other:?} is not known here"),
    }
}

fn is_type(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other:?}"),
    }
}

fn valid(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let keywords = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Bool(false) => return Err(format!("{at}: must not be there")),
        Value::Object(keywords) => keywords,
        other => panic!("{other} is no schema"),
    };
    for (keyword, limit) in keywords {
        let good = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let pointer = limit.as_str().unwrap().strip_prefix('#').unwrap();
                let target = root
                    .pointer(pointer)
                    .unwrap_or_else(|| panic!("{limit} is nowhere"));
                valid(root, target, value, at)?;
                true
            }
            "type" => match limit {
                Value::String(name) => is_type(name, value),
                names => names
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|name| is_type(name.as_str().unwrap(), value)),
            },
            "const" => value == limit,
            "enum" => limit.as_array().unwrap().contains(value),
            "anyOf" | "oneOf" => {
                let results: Vec<_> = limit
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|schema| valid(root, schema, value, at))
                    .collect();
                let count = results.iter().filter(|result| result.is_ok()).count();
                if count == 0 {
                    let problems: Vec<_> = results.into_iter().filter_map(Result::err).collect();
                    return Err(format!("{at}: none of {keyword}: {}", problems.join(" | ")));
                }
                keyword == "anyOf" || count == 1
            }
            _ => match value {
                Value::String(text) => of_text(keyword, limit, text),
                Value::Number(_) => of_number(keyword, limit, value.as_f64().unwrap()),
                Value::Array(items) => of_array(root, keyword, limit, items, at)?,
                Value::Object(fields) => of_object(root, keywords, keyword, limit, fields, at)?,
                _ => KNOWN.contains(&keyword.as_str()),
            },
        };
        if !good {
            return Err(format!(
                "{at}: {value:.200} is against {keyword} {limit:.200}"
            ));
        }
    }
    Ok(())
}

/// Keywords that say nothing about values of other types.
const KNOWN: [&str; 11] = [
    "pattern",
    "minLength",
    "minimum",
    "maximum",
    "items",
    "minItems",
    "maxItems",
    "uniqueItems",
    "required",
    "properties",
    "additionalProperties",
];

fn of_text(keyword: &str, limit: &Value, text: &str) -> bool {
    match keyword {
        "pattern" => matches(limit.as_str().unwrap(), text),
        "minLength" => text.chars().count() as u64 >= limit.as_u64().unwrap(),
        other => known(other),
    }
}

fn of_number(keyword: &str, limit: &Value, number: f64) -> bool {
    match keyword {
        "minimum" => number >= limit.as_f64().unwrap(),
        "maximum" => number <= limit.as_f64().unwrap(),
        other => known(other),
    }
}

fn known(keyword: &str) -> bool {
    assert!(
        KNOWN.contains(&keyword),
        "keyword {keyword:?} is not known here"
    );
    true
}

fn of_array(
    root: &Value,
    keyword: &str,
    limit: &Value,
    items: &[Value],
    at: &str,
) -> Result<bool, String> {
    Ok(match keyword {
        "items" => {
            for (index, item) in items.iter().enumerate() {
                valid(root, limit, item, &format!("{at}/{index}"))?;
            }
            true
        }
        "minItems" => items.len() as u64 >= limit.as_u64().unwrap(),
        "maxItems" => items.len() as u64 <= limit.as_u64().unwrap(),
        "uniqueItems" => {
            let texts: std::collections::BTreeSet<_> =
                items.iter().map(ToString::to_string).collect();
            texts.len() == items.len()
        }
        other => known(other),
    })
}

fn of_object(
    root: &Value,
    keywords: &Map<String, Value>,
    keyword: &str,
    limit: &Value,
    fields: &Map<String, Value>,
    at: &str,
) -> Result<bool, String> {
    let described = keywords.get("properties").and_then(Value::as_object);
    match keyword {
        "required" => {
            for name in limit.as_array().unwrap() {
                let name = name.as_str().unwrap();
                if !fields.contains_key(name) {
                    return Err(format!("{at}: lacks {name}"));
                }
            }
        }
        "properties" => {
            for (name, schema) in limit.as_object().unwrap() {
                if let Some(value) = fields.get(name) {
                    valid(root, schema, value, &format!("{at}/{name}"))?;
                }
            }
        }
        "additionalProperties" => {
            for (name, value) in fields {
                if described.is_none_or(|described| !described.contains_key(name)) {
                    valid(root, limit, value, &format!("{at}/{name}"))?;
                }
            }
        }
        other => return Ok(known(other)),
    }
    Ok(true)
}

#[test]
fn the_validator_refuses() {
    let report = || {
        serde_json::json!({
            "version": 1, "tool": {"name": "leoma-node", "version": "0"}, "outcome": "clean", "fail_on": "high",
            "kind": "hash", "name": "x", "from": "bytes", "model_hash": null, "model_digest": null,
            "files": [{"path": "a", "size": 1, "sha256": "0".repeat(64)}], "findings": [], "problems": [],
        })
    };
    let schema = load("audit-report");
    let is_valid = |value: &Value| valid(&schema, &schema, value, "").is_ok();
    assert!(is_valid(&report()));
    for (pointer, value) in [
        ("/version", 2.into()),
        ("/outcome", "fine".into()),
        ("/model_hash", "abc".into()),
        ("/files/0/size", (-1).into()),
        ("/files/0/path", "".into()),
        ("/files/0/sha256", "0".repeat(63).into()),
        ("/findings", serde_json::json!([{"rule": "XX001"}])),
        ("/kind", "scan".into()),
    ] {
        let mut wrong = report();
        *wrong.pointer_mut(pointer).unwrap() = value;
        assert!(!is_valid(&wrong), "{pointer}");
    }
    let mut more = report();
    more["surprise"] = 1.into();
    assert!(!is_valid(&more));
    let mut less = report();
    less.as_object_mut().unwrap().remove("files");
    assert!(!is_valid(&less));
}
