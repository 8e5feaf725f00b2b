//! Results on disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::failure::bad_input;

/// `<dir>/<stem>.<extension>`, or `<stem>-2`, `<stem>-3`, … where that exists: an earlier result is never
/// replaced. The folder is made.
pub(crate) fn fresh(dir: &Path, stem: &str, extension: &str) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut path = dir.join(format!("{stem}.{extension}"));
    let mut number = 2;
    while path.exists() {
        path = dir.join(format!("{stem}-{number}.{extension}"));
        number += 1;
    }
    Ok(path)
}

/// Writes a file.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path)
        .map_err(|error| bad_input(format!("cannot read {}: {error}", path.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| bad_input(format!("{} is not JSON: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn earlier_results_are_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("a");
        for name in ["x.json", "x-2.json", "x-3.json"] {
            let path = fresh(&sub, "x", "json").unwrap();
            assert_eq!(path.file_name().unwrap(), name);
            write(&path, "{}").unwrap();
        }
        assert_eq!(
            read_json(&sub.join("x.json")).unwrap(),
            serde_json::json!({})
        );
        let missing = read_json(&sub.join("y.json")).unwrap_err();
        assert!(missing.to_string().contains("y.json"));
    }
}
