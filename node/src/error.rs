//! The error of a generation as a whole: from the models, from media files, or from this installation.

use leoma_models::Fault;

use crate::generation::OutputFault;
use crate::media::MediaError;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a request and its clip.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Checkpoint, parameters or tensors.
    #[error(transparent)]
    Model(#[from] leoma_models::Error),
    /// Pictures or video files.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The clip was made, and must not be handed out.
    #[error("{0}")]
    Output(OutputFault),
}

impl From<OutputFault> for Error {
    fn from(fault: OutputFault) -> Self {
        Self::Output(fault)
    }
}

impl Error {
    /// A value the caller gave cannot be used.
    pub fn caller(field: impl Into<String>, message: impl Into<String>) -> Self {
        leoma_models::Error::caller(field, message).into()
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Model(error) => error.fault(),
            Self::Media(error) => error.fault(),
            Self::Output(_) => Fault::Artifact,
        }
    }

    /// Whether the work was cancelled on request.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Model(leoma_models::Error::Cancelled))
    }

    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Media(error) => error.is_disk_full(),
            Self::Model(leoma_models::Error::Io { source, .. }) => matches!(
                source.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            ),
            Self::Model(_) | Self::Output(_) => false,
        }
    }
}
