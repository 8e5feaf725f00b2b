//! The error of this crate, and whose fault an error is.
//!
//! Every message names the file, field or tensor it is about and what to do. The [`Fault`] of an error
//! decides what a caller may conclude: only [`Fault::Artifact`] may ever count against the author of a
//! checkpoint.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who has to act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request: a prompt, an image, a size, an option.
    Caller,
    /// The checkpoint or an output made from it.
    Artifact,
    /// Disk, memory or another passing condition; trying again may help.
    Transient,
    /// This installation: its build, its device, its configuration.
    Local,
}

/// What can go wrong between checkpoint files and tensors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value the caller gave cannot be used. `field` is the name of the option or JSON field.
    #[error("{field}: {message}")]
    Caller {
        /// Option or field, spelled as the caller spells it (`num_frames`, `prompt`, …).
        field: String,
        /// What is wrong with it and what would be right.
        message: String,
    },
    /// A file of the checkpoint cannot be used.
    #[error("{}: {message}", path.display())]
    Artifact {
        /// The file or folder.
        path: PathBuf,
        /// What was expected, what was found, what to do.
        message: String,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// This build or machine cannot do what was asked.
    #[error("{message}")]
    Local {
        /// What is missing and the remedy.
        message: String,
    },
    /// The work was cancelled on request; nothing is wrong.
    #[error("cancelled")]
    Cancelled,
    /// A tensor operation failed; `context` says where.
    #[error("{context}: {source}")]
    Tensor {
        /// Component and step, e.g. `transformer block 3`.
        context: String,
        /// The tensor library's error, with shapes.
        source: candle_core::Error,
    },
}

impl Error {
    /// Shorthand for [`Error::Caller`].
    pub fn caller(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Caller {
            field: field.into(),
            message: message.into(),
        }
    }

    /// Shorthand for [`Error::Artifact`].
    pub fn artifact(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Artifact {
            path: path.as_ref().to_owned(),
            message: message.into(),
        }
    }

    /// Shorthand for [`Error::Io`].
    pub fn io(path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io {
            path: path.as_ref().to_owned(),
            source,
        }
    }

    /// Shorthand for [`Error::Local`].
    pub fn local(message: impl Into<String>) -> Self {
        Self::Local {
            message: message.into(),
        }
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Caller { .. } | Self::Cancelled => Fault::Caller,
            Self::Artifact { .. } => Fault::Artifact,
            Self::Io { .. } => Fault::Transient,
            Self::Local { .. } | Self::Tensor { .. } => Fault::Local,
        }
    }
}

impl From<candle_core::Error> for Error {
    fn from(source: candle_core::Error) -> Self {
        Self::Tensor {
            context: "tensor operation".into(),
            source,
        }
    }
}

/// Adds the place to a tensor library error.
pub trait Context<T> {
    /// Names the component and step in which the operation failed.
    fn context(self, context: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for candle_core::Result<T> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Tensor {
            context: context(),
            source,
        })
    }
}
