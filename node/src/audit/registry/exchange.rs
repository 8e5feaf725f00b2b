//! Lists of registered models that auditors give to each other: JSON lines, one model each, with its sketch.

use std::io::{BufRead, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Entry, Origin, Registry, RegistryError, Result, Sketch, add};
use crate::store::StoreError;

/// The form of a line; a later form gets another number.
const FORMAT: u32 = 1;
/// Longest line: a sketch of two experts has about 1 MB.
const MAX_LINE: u64 = 64 << 20;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    registry: u32,
    model: Entry,
    sketch: Sketch,
}

/// What came of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Imported {
    /// Models that were not known.
    pub added: usize,
    /// Models that were.
    pub known: usize,
}

impl Registry {
    /// Writes all models to `out`, which is called `path` in errors. The order depends on the content alone.
    ///
    /// # Errors
    /// [`RegistryError::Store`] when the registry cannot be read or `out` not be written.
    pub fn export(&self, path: &Path, out: &mut dyn Write) -> Result<usize> {
        let entries = self.entries()?;
        for entry in &entries {
            let line = Line {
                registry: FORMAT,
                sketch: self.sketch(&entry.name, &entry.revision)?,
                model: entry.clone(),
            };
            serde_json::to_writer(&mut *out, &line)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
                .map_err(|e| StoreError::io("write", path, e))?;
        }
        out.flush().map_err(|e| StoreError::io("write", path, e))?;
        Ok(entries.len())
    }

    /// Takes over a list, all of it or nothing. What it says about models that are not known is marked as
    /// imported.
    ///
    /// # Errors
    /// [`RegistryError::Line`] for what is no list, [`RegistryError::Conflict`] when it contradicts what is
    /// known.
    pub fn import(&mut self, path: &Path, list: &mut dyn BufRead) -> Result<Imported> {
        let mut models = Vec::new();
        for number in 1.. {
            let wrong = |message: String| RegistryError::Line {
                path: path.to_owned(),
                line: number,
                message,
            };
            let mut text = String::new();
            let read = (&mut *list)
                .take(MAX_LINE)
                .read_line(&mut text)
                .map_err(|e| match e.kind() {
                    std::io::ErrorKind::InvalidData => wrong("is not text".into()),
                    _ => StoreError::io("read", path, e).into(),
                })?;
            if read == 0 {
                break;
            }
            if read as u64 == MAX_LINE {
                return Err(wrong(format!("is longer than {MAX_LINE} bytes")));
            }
            if !text.trim().is_empty() {
                models.push(parse(&text).map_err(wrong)?);
            }
        }
        self.transact(|transaction| {
            let mut imported = Imported::default();
            for (model, sketch) in &models {
                if add(transaction, model, sketch)? {
                    imported.added += 1;
                } else {
                    imported.known += 1;
                }
            }
            Ok(imported)
        })
    }
}

/// The model of a line, as a claim.
fn parse(text: &str) -> Result<(Entry, Sketch), String> {
    let Line {
        registry,
        model,
        sketch,
    } = serde_json::from_str(text)
        .map_err(|error| format!("is not a model of a registry: {error}"))?;
    if registry != FORMAT {
        return Err(format!(
            "has form {registry}; this program knows form {FORMAT}, so a newer one wrote it"
        ));
    }
    let mut model = model.checked().map_err(|error| error.to_string())?;
    for (name, weight) in &sketch.weights {
        let numbers = weight.sums.iter().chain([&weight.squares]);
        if !numbers.copied().all(f64::is_finite) || weight.squares < 0.0 {
            return Err(format!(
                "the sketch of weight {name:?} has numbers that cannot be"
            ));
        }
        if i64::try_from(weight.elements).is_err() || !name.contains('/') {
            return Err(format!("the sketch names no weight by {name:?}"));
        }
    }
    model.origin = Origin::Imported;
    Ok((model, sketch))
}
