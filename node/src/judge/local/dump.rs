//! The tensors of a judgement as a file, for comparison with the reference implementation.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use leoma_models::judge::RubricRun;

/// A file that the first judgement of a judge fills; what is judged again with a change is not in it.
#[derive(Debug)]
pub struct Dump {
    path: PathBuf,
    is_written: Mutex<bool>,
}

impl Dump {
    /// Nothing is opened yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            is_written: Mutex::new(false),
        }
    }

    /// Whether a judgement was written.
    pub fn is_written(&self) -> bool {
        *self.is_written.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Writes the tensors of a run, if it is the first one.
    pub(super) fn offer(&self, run: &RubricRun) -> leoma_models::Result<()> {
        let mut is_written = self.is_written.lock().unwrap_or_else(|e| e.into_inner());
        if !*is_written {
            run.save(&self.path)?;
            *is_written = true;
        }
        Ok(())
    }
}
