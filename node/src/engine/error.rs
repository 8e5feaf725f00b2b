//! Why a job was not done, and who has to act.

use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::media::MediaError;

/// Who has to act on an error. Only [`Fault::Artifact`] may ever count against a checkpoint's author.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The request.
    Caller,
    /// The checkpoint, or an output made from it.
    Artifact,
    /// Load, disk or another passing condition; trying again may help.
    Transient,
    /// This installation: its build, its device, a defect in the program.
    Local,
}

/// Why a job was refused or failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A value of the request cannot be used.
    #[error("{field}: {message}")]
    Caller {
        /// The field as the caller spells it.
        field: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A value of the request is larger than this server takes.
    #[error("{field}: {message}")]
    TooLarge {
        /// The field as the caller spells it.
        field: String,
        /// The limit and what was found.
        message: String,
    },
    /// The queue is full.
    #[error("the server is at maximum capacity ({ahead} jobs ahead); try again in {} s", retry_after.as_secs())]
    Busy {
        /// Jobs running or waiting.
        ahead: usize,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// The server is stopping.
    #[error("the server is shutting down; try again later")]
    ShuttingDown,
    /// The disk is full.
    #[error("no space left on the server's disk: {message}")]
    DiskFull {
        /// Which file could not be written.
        message: String,
    },
    /// The checkpoint, or what it produced, is broken.
    #[error("the checkpoint cannot be used: {message}")]
    Artifact {
        /// What was found.
        message: String,
    },
    /// This machine or build failed.
    #[error("{message}")]
    Local {
        /// What failed.
        message: String,
    },
    /// The job hit a defect of the program. Only this job is lost.
    #[error("the job failed on an internal error; the server goes on: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// Nobody wants the job any more.
    #[error("cancelled")]
    Cancelled,
}

impl EngineError {
    /// Shorthand for [`EngineError::Caller`].
    pub fn caller(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Caller {
            field: field.into(),
            message: message.into(),
        }
    }

    /// Shorthand for [`EngineError::TooLarge`].
    pub fn too_large(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::TooLarge {
            field: field.into(),
            message: message.into(),
        }
    }

    /// Shorthand for [`EngineError::Local`].
    pub fn local(message: impl Into<String>) -> Self {
        Self::Local {
            message: message.into(),
        }
    }

    /// A failed read or write: a full disk is told apart.
    pub fn io(what: &str, source: &io::Error) -> Self {
        let message = format!("{what}: {source}");
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { message },
            _ => Self::Local { message },
        }
    }

    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Caller { .. } => "invalid_request",
            Self::TooLarge { .. } => "too_large",
            Self::Busy { .. } => "busy",
            Self::ShuttingDown => "shutting_down",
            Self::DiskFull { .. } => "disk_full",
            Self::Artifact { .. } => "artifact",
            Self::Local { .. } => "local",
            Self::Panicked { .. } => "internal",
            Self::Cancelled => "cancelled",
        }
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Caller { .. } | Self::TooLarge { .. } | Self::Cancelled => Fault::Caller,
            Self::Busy { .. } | Self::ShuttingDown | Self::DiskFull { .. } => Fault::Transient,
            Self::Artifact { .. } => Fault::Artifact,
            Self::Local { .. } | Self::Panicked { .. } => Fault::Local,
        }
    }
}

impl From<leoma_models::Error> for EngineError {
    fn from(error: leoma_models::Error) -> Self {
        use leoma_models::Error;
        match error {
            Error::Caller { field, message } => Self::Caller { field, message },
            Error::Cancelled => Self::Cancelled,
            Error::Io { path, source } => Self::io(&path.display().to_string(), &source),
            other if other.fault() == leoma_models::Fault::Artifact => Self::Artifact {
                message: other.to_string(),
            },
            other => Self::Local {
                message: other.to_string(),
            },
        }
    }
}

impl From<MediaError> for EngineError {
    fn from(error: MediaError) -> Self {
        let message = error.to_string();
        if error.is_too_large() {
            return Self::too_large("image", message);
        }
        match error {
            MediaError::DiskFull { .. } => Self::DiskFull { message },
            // The server chose where it writes; the caller cannot choose another folder.
            MediaError::Unwritable { .. } | MediaError::Io { .. } => Self::Local { message },
            other => match other.fault() {
                leoma_models::Fault::Caller => Self::caller("image", message),
                _ => Self::Local { message },
            },
        }
    }
}

impl From<crate::Error> for EngineError {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::Model(error) => error.into(),
            crate::Error::Media(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_from_other_failures() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(EngineError::io("clip.mp4", &full).code(), "disk_full");
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(EngineError::io("clip.mp4", &denied).code(), "local");
    }

    #[test]
    fn only_the_checkpoints_own_faults_count_against_it() {
        let error = EngineError::from(leoma_models::Error::artifact("vae", "3 tensors missing"));
        assert_eq!(error.fault(), Fault::Artifact);
        assert!(error.to_string().contains("3 tensors missing"));
        let error = EngineError::from(leoma_models::Error::caller(
            "num_frames",
            "must be positive",
        ));
        assert_eq!(
            (error.code(), error.fault()),
            ("invalid_request", Fault::Caller)
        );
        let error = EngineError::from(leoma_models::Error::local("no such device"));
        assert_eq!(error.fault(), Fault::Local);
    }
}
