//! The rules: what the subnet asks of a submission, and what a careful reader refuses in a repository.

pub mod arch;
pub mod content;
pub mod pickle;
pub mod submission;

use leoma_models::{Error, Result};
use serde_json::{Map, Value};

use super::disk::Source;
use super::tree::{Tree, TreeFile};

/// Largest configuration file.
const MAX_CONFIG: u64 = 1 << 20;

/// The content of a small file.
fn read(tree: &Tree, file: &TreeFile, limit: u64) -> Result<Vec<u8>> {
    let shown = tree.shown(file);
    let mut source = Source::open(&file.target, &shown)?;
    if source.size() > limit {
        return Err(Error::artifact(
            &shown,
            format!(
                "has {} bytes; such files have at most {limit}",
                source.size()
            ),
        ));
    }
    let mut bytes = vec![0; usize::try_from(source.size()).unwrap_or_default()];
    source.read(&mut bytes, 0)?;
    Ok(bytes)
}

/// A configuration file: a JSON object.
fn read_object(tree: &Tree, file: &TreeFile, limit: u64) -> Result<Map<String, Value>> {
    let bytes = read(tree, file, limit)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::artifact(tree.shown(file), format!("bad JSON: {error}")))
}
