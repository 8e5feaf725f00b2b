//! Why the store could not do what it was asked, with the remedy in the sentence.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

/// Why a job could not be stored, read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process owns the data folder.
    #[error(
        "the data folder {} is in use by another process; stop that process, or name another folder",
        dir.display()
    )]
    Locked {
        /// The data folder.
        dir: PathBuf,
    },
    /// The database comes from a later version of this program.
    #[error(
        "{} was written by a newer version of this program (schema {found}, this version knows {known}); \
         run that version, or move the file away to start with an empty one",
        path.display()
    )]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// Schema version in the file.
        found: i64,
        /// Latest schema version of this program.
        known: i64,
    },
    /// The database is damaged or is not ours.
    #[error(
        "{} is damaged or not a database of this program ({message}); restore it from a copy, or move it away \
         to start with an empty one",
        path.display()
    )]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What was found.
        message: String,
    },
    /// Another program holds the database file.
    #[error(
        "{} is held by another program, perhaps a database browser or a backup; close it and try again",
        path.display()
    )]
    Blocked {
        /// The database file.
        path: PathBuf,
    },
    /// The disk is full, or fuller than the reserve allows.
    #[error("no space left for {}: {message}; free some space or lower the retention limits", path.display())]
    DiskFull {
        /// The file or folder.
        path: PathBuf,
        /// What was found.
        message: String,
    },
    /// A file or folder could not be used.
    #[error("cannot {action} {}: {source}; check the folder's owner, permissions and mount", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Any other failure of the database.
    #[error("{}: {message}; check the folder's owner, permissions and mount", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        message: String,
    },
    /// No room in the queue.
    #[error("the queue is full ({limit} jobs may wait); try again later")]
    QueueFull {
        /// Jobs that may wait.
        limit: usize,
    },
    /// A key was used before for something else.
    #[error(
        "this idempotency key was used before with a different request; repeat that request exactly, or \
         send a new key"
    )]
    IdempotencyMismatch,
    /// The job to continue a list after does not exist.
    #[error("after: there is no job {after}; start again without it")]
    UnknownCursor {
        /// The cursor as the caller sent it.
        after: String,
    },
    /// There is no such job.
    #[error("there is no job {id}; it may have been deleted")]
    UnknownJob {
        /// The id as the caller sent it.
        id: String,
    },
    /// Only a finished job can be deleted.
    #[error("job {id} is not finished; cancel it before deleting it")]
    NotFinished {
        /// The job.
        id: String,
    },
    /// A defect of this program, or the store is closing.
    #[error("the job store failed on an internal error; the log has more")]
    Internal,
}

impl StoreError {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "locked",
            Self::NewerSchema { .. } => "newer_schema",
            Self::Corrupt { .. } => "corrupt",
            Self::Blocked { .. } => "blocked",
            Self::DiskFull { .. } => "disk_full",
            Self::Io { .. } => "io",
            Self::Database { .. } => "database",
            Self::QueueFull { .. } => "queue_full",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::UnknownCursor { .. } => "unknown_cursor",
            Self::UnknownJob { .. } => "unknown_job",
            Self::NotFinished { .. } => "not_finished",
            Self::Internal => "internal",
        }
    }

    /// Whether space on the disk is what is missing.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }

    /// A failed use of a file; a full disk is told apart.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull {
                path,
                message: source.to_string(),
            },
            _ => Self::Io {
                path,
                action,
                source,
            },
        }
    }

    /// A failed use of the database.
    pub(crate) fn sql(path: &Path, source: &rusqlite::Error) -> Self {
        use rusqlite::Error;
        let message = source.to_string();
        let path = path.to_owned();
        match source {
            // The index of the log could not be given its blocks: the first thing to fail at the start.
            Error::SqliteFailure(error, _) if error.extended_code == SQLITE_IOERR_SHMSIZE => {
                let message = "no room for the database's log".into();
                Self::DiskFull { path, message }
            }
            Error::SqliteFailure(error, _) => match error.code {
                ErrorCode::DiskFull => Self::DiskFull { path, message },
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                    Self::Corrupt { path, message }
                }
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed => Self::Blocked { path },
                _ => Self::Database { path, message },
            },
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..) => Self::Corrupt { path, message },
            _ => Self::Database { path, message },
        }
    }
}

/// An error that may still lack the name of the database file.
#[derive(Debug)]
pub(super) enum Failure {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl Failure {
    /// Adds the file's name.
    pub(super) fn in_file(self, path: &Path) -> StoreError {
        match self {
            Self::Sql(error) => StoreError::sql(path, &error),
            Self::Store(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
