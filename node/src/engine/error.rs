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
    /// The clip does not fit this server's memory, and never will.
    #[error("the clip is too large for this server: {message}")]
    TooLargeForDevice {
        /// What is needed, what there is, what would help.
        message: String,
    },
    /// The clip would fit, but others have taken the memory.
    #[error("the server's memory is taken by others at the moment: {message}")]
    OutOfMemory {
        /// What is needed and what there is.
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
    /// The clip would come after the caller's deadline, because of the jobs ahead.
    #[error(
        "the clip would take about {} s with {ahead} jobs ahead, over the deadline of {} s; try again in {} s",
        estimate.as_secs(), deadline.as_secs(), retry_after.as_secs()
    )]
    Deadline {
        /// Jobs running or waiting.
        ahead: usize,
        /// From now to the finished clip.
        estimate: Duration,
        /// What the caller can wait.
        deadline: Duration,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// The clip alone takes longer than the caller's deadline: waiting does not help.
    #[error(
        "the clip takes about {} s on this device, over the deadline of {} s; ask for fewer frames, steps or \
         pixels, or send it to POST /v1/videos, which has no deadline",
        estimate.as_secs(), deadline.as_secs()
    )]
    TooSlow {
        /// What the clip takes on an idle device.
        estimate: Duration,
        /// What the caller can wait.
        deadline: Duration,
    },
    /// The server is stopping.
    #[error("the server is shutting down; try again later")]
    ShuttingDown,
    /// The clip was made and is not fit to be handed out.
    #[error("the clip was not handed out: {message}")]
    BadOutput {
        /// What is wrong with it.
        message: String,
    },
    /// The job stopped making progress and was given up.
    #[error("the job made no progress for {} s and was given up", after.as_secs())]
    Stalled {
        /// Time without progress.
        after: Duration,
    },
    /// The device is in a state that only a new process gets out of.
    #[error("the device failed and the server restarts: {message}")]
    DeviceLost {
        /// What the driver said.
        message: String,
    },
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
            Self::TooLargeForDevice { .. } => "too_large_for_device",
            Self::OutOfMemory { .. } => "out_of_memory",
            Self::Busy { .. } => "busy",
            Self::Deadline { .. } => "deadline",
            Self::TooSlow { .. } => "too_slow",
            Self::ShuttingDown => "shutting_down",
            Self::BadOutput { .. } => "bad_output",
            Self::Stalled { .. } => "stalled",
            Self::DeviceLost { .. } => "device_lost",
            Self::DiskFull { .. } => "disk_full",
            Self::Artifact { .. } => "artifact",
            Self::Local { .. } => "local",
            Self::Panicked { .. } => "internal",
            Self::Cancelled => "cancelled",
        }
    }

    /// When trying again makes sense, where it does.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } | Self::Deadline { retry_after, .. } => {
                Some(*retry_after)
            }
            Self::ShuttingDown | Self::DeviceLost { .. } => Some(Duration::from_secs(10)),
            Self::OutOfMemory { .. } => Some(Duration::from_secs(30)),
            _ => None,
        }
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Caller { .. }
            | Self::TooLarge { .. }
            | Self::TooLargeForDevice { .. }
            | Self::TooSlow { .. }
            | Self::Cancelled => Fault::Caller,
            Self::Busy { .. }
            | Self::Deadline { .. }
            | Self::ShuttingDown
            | Self::DiskFull { .. }
            | Self::OutOfMemory { .. }
            | Self::DeviceLost { .. } => Fault::Transient,
            Self::Artifact { .. } | Self::BadOutput { .. } => Fault::Artifact,
            Self::Local { .. } | Self::Panicked { .. } | Self::Stalled { .. } => Fault::Local,
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
            other => Self::of_device(other.to_string()),
        }
    }
}

/// What CUDA and cuDNN say when a context is beyond repair: every later call fails as well, and only a new
/// process gets a new one. Names of the driver's and the runtime's result codes.
const STICKY: [&str; 14] = [
    "ILLEGAL_ADDRESS",
    "LAUNCH_FAILED",
    "LAUNCH_TIMEOUT",
    "ILLEGAL_INSTRUCTION",
    "MISALIGNED_ADDRESS",
    "INVALID_ADDRESS_SPACE",
    "INVALID_PC",
    "HARDWARE_STACK_ERROR",
    "ECC_UNCORRECTABLE",
    "NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_ASSERT",
    "CONTEXT_IS_DESTROYED",
    "DEVICE_UNAVAILABLE",
    "CUDA_ERROR_UNKNOWN",
];

impl EngineError {
    /// A failure below the models: sticky device errors are told apart from the rest.
    fn of_device(message: String) -> Self {
        if STICKY.iter().any(|name| message.contains(name)) {
            Self::DeviceLost { message }
        } else {
            Self::Local { message }
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
            crate::Error::Output(fault) => Self::BadOutput {
                message: fault.to_string(),
            },
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
    fn sticky_device_errors_are_told_apart() {
        let sticky = "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access\")";
        assert_eq!(EngineError::of_device(sticky.into()).code(), "device_lost");
        let memory = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        assert_eq!(EngineError::of_device(memory.into()).code(), "local");
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
