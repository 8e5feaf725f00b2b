//! What a server was found to take, kept in a file, so that not every run has to learn it again.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::judge::canonical::sha256;
use crate::media::publish::Pending;

/// Servers get new versions: what they did not take is tried again after this time.
const REJECTED_KEPT_S: f64 = 7.0 * 86_400.0;
/// How often a model's end is asked for.
const LIFE_EVERY_S: f64 = 86_400.0;
/// How long nobody asks for it again after a server that did not answer.
const LIFE_AGAIN_S: f64 = 60.0;

/// What is known about one model on one server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Known {
    /// Fields of a request that it does not take.
    rejected: BTreeSet<String>,
    rejected_at: f64,
    /// The end of the model, as the server says.
    pub(super) shutdown_date: Option<String>,
    life_at: f64,
    /// When it was asked for in vain; of this process only.
    #[serde(skip)]
    life_missed_at: f64,
}

impl Known {
    /// What the file says; what cannot be read is learnt again.
    pub(super) fn read(folder: &Path, base: &str, model: &str, now: f64) -> Self {
        let bytes = std::fs::read(file(folder, base, model)).unwrap_or_default();
        let mut known: Self = serde_json::from_slice(&bytes).unwrap_or_default();
        if (now - known.rejected_at).abs() > REJECTED_KEPT_S {
            known.rejected.clear();
        }
        known
    }

    /// Keeps it. A failure costs a request of the next run, no more.
    pub(super) fn write(&self, folder: &Path, base: &str, model: &str) {
        let path = file(folder, base, model);
        let written = serde_json::to_vec(self).map(|bytes| {
            std::fs::create_dir_all(folder).ok()?;
            let mut pending = Pending::beside(&path).ok()?;
            pending.file().write_all(&bytes).ok()?;
            pending.publish().ok()
        });
        if !matches!(written, Ok(Some(_))) {
            tracing::debug!(path = %path.display(), "what is known about the server was not kept");
        }
    }

    pub(super) fn rejects(&self, field: &str) -> bool {
        self.rejected.contains(field)
    }

    pub(super) fn reject(&mut self, field: &str, now: f64) {
        self.rejected.insert(field.to_owned());
        self.rejected_at = now;
    }

    /// Whether the model's end has to be asked for.
    pub(super) fn is_life_due(&self, now: f64) -> bool {
        (now - self.life_at).abs() > LIFE_EVERY_S
            && (now - self.life_missed_at).abs() > LIFE_AGAIN_S
    }

    /// The server did not answer: it need not cost every question of the next minute its time.
    pub(super) fn missed_life(&mut self, now: f64) {
        self.life_missed_at = now;
    }

    pub(super) fn heard_of_life(&mut self, shutdown_date: Option<String>, now: f64) {
        self.shutdown_date = shutdown_date;
        self.life_at = now;
    }
}

fn file(folder: &Path, base: &str, model: &str) -> PathBuf {
    let mut name = sha256(format!("{base}\n{model}").as_bytes());
    name.truncate(16);
    folder.join(format!("server-{name}.json"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_kept_for_each_server_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let read = |base, now| Known::read(folder.path(), base, "m", now);
        let mut known = read("http://a", 1e9);
        assert!(known.is_life_due(1e9) && !known.rejects("temperature"));
        known.missed_life(1e9);
        assert!(!known.is_life_due(1e9 + 59.0) && known.is_life_due(1e9 + 61.0));
        known.missed_life(0.0);
        known.reject("temperature", 1e9);
        known.heard_of_life(Some("2027-01-14".into()), 1e9);
        known.write(folder.path(), "http://a", "m");
        let again = read("http://a", 1e9 + 100.0);
        assert_eq!(again, known);
        assert!(!again.is_life_due(1e9 + 100.0) && again.is_life_due(1e9 + 90_000.0));
        assert!(!read("http://a", 2e9).rejects("temperature"));
        assert_eq!(read("http://b", 1e9), Known::default());
    }
}
