//! Why a file of the Hub is not here, and who has to act.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use leoma_models::Fault;

/// Result of this module.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// What can go wrong between the name of a repository and its files on this machine.
///
/// None of these is ever a miner's fault except [`HubError::Unusable`], and that one speaks of what the
/// repository lists, not of what arrived.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name, pattern or setting of the caller's cannot be used.
    #[error("{field}: {message}")]
    Invalid {
        /// Option or variable as the caller spells it.
        field: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The Hub does not show such a repository, revision or file to this caller.
    #[error("{what}: {message}")]
    Missing {
        /// Repository, and revision or file.
        what: String,
        /// What is missing and what to check.
        message: String,
    },
    /// The repository exists and its owner decides who may have it.
    #[error("{repo}: {message}")]
    Gated {
        /// Repository.
        repo: String,
        /// How to get access.
        message: String,
    },
    /// It is not on this machine, and the network must not be used.
    #[error("{what}: {message}")]
    Offline {
        /// Repository and revision.
        what: String,
        /// What is missing, and the remedy.
        message: String,
    },
    /// The Hub or its storage cannot be reached, or stopped answering for longer than our patience.
    #[error("{host}: {message}")]
    Unreachable {
        /// The server.
        host: String,
        /// What happened.
        message: String,
    },
    /// The Hub or its storage answered with an error.
    #[error("{host}: {message} (HTTP {status})")]
    Refused {
        /// The server.
        host: String,
        /// HTTP status.
        status: u16,
        /// The server's sentence.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// The answer is not one that the Hub gives.
    #[error("{host}: unexpected answer: {message}")]
    Protocol {
        /// The server.
        host: String,
        /// What was expected and what came.
        message: String,
    },
    /// A file arrived, again and again, but not as the Hub describes it. Nothing of it is kept.
    #[error("{file}: {message}; nothing of it was kept, try again later or from another network")]
    Damaged {
        /// Repository and file.
        file: String,
        /// What was expected and what came.
        message: String,
    },
    /// What the repository lists cannot be stored or used.
    #[error("{what}: {message}")]
    Unusable {
        /// Repository and commit, or file.
        what: String,
        /// What is wrong with it.
        message: String,
    },
    /// There is no room for what is to be downloaded.
    #[error(
        "{}: not enough room: {needed} bytes are to be downloaded, {reserve} are kept free, {free} are free; \
         make room or set HF_HUB_CACHE to a folder on another disk",
        path.display()
    )]
    DiskFull {
        /// Folder on the disk.
        path: PathBuf,
        /// Bytes that are missing of the files.
        needed: u64,
        /// Bytes kept free.
        reserve: u64,
        /// Bytes free.
        free: u64,
    },
    /// Reading or writing the cache failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb.
        action: &'static str,
        /// File or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The user stopped it.
    #[error("cancelled")]
    Interrupted,
}

impl HubError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Invalid { .. }
            | Self::Missing { .. }
            | Self::Gated { .. }
            | Self::Interrupted => Fault::Caller,
            Self::Unusable { .. } => Fault::Artifact,
            Self::Offline { .. } => Fault::Local,
            Self::Refused { status, .. } => match *status {
                408 | 425 | 429 | 500..=599 => Fault::Transient,
                _ => Fault::Local,
            },
            // A server or a network in between that lies says nothing about the repository's owner.
            Self::Unreachable { .. }
            | Self::Protocol { .. }
            | Self::Damaged { .. }
            | Self::DiskFull { .. }
            | Self::Io { .. } => Fault::Transient,
        }
    }

    /// Whether the user stopped it.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Interrupted)
    }

    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }

    /// Whether the server may answer a moment later: it or the network went away.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502..=504),
            _ => false,
        }
    }

    /// Whether the answer was wrong rather than missing: worth another try, but not many.
    pub(super) fn is_wrong_answer(&self) -> bool {
        matches!(self, Self::Protocol { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_blamed_for_the_network() {
        let refused = |status| HubError::Refused {
            host: "h".into(),
            status,
            message: String::new(),
            retry_after: None,
        };
        for status in [408, 429, 500, 503] {
            assert_eq!(refused(status).fault(), Fault::Transient, "{status}");
        }
        assert_eq!(refused(400).fault(), Fault::Local);
        let damaged = HubError::Damaged {
            file: "f".into(),
            message: "m".into(),
        };
        assert_eq!(damaged.fault(), Fault::Transient);
        assert!(!damaged.is_passing() && !damaged.is_wrong_answer());
        let full = HubError::io("write", Path::new("p"), io::ErrorKind::StorageFull.into());
        assert!(full.is_disk_full() && full.fault() == Fault::Transient);
    }
}
