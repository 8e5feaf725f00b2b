//! Rows of the table of jobs, as records.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};

use super::error::{Failure, StoreError};
use super::record::{JobError, JobRecord, JobStatus, ResultFile};

type Result<T> = std::result::Result<T, Failure>;

/// The columns that [`record`] reads.
pub(super) const COLUMNS: &str = "id, status, created_at, started_at, completed_at, priority, attempts, request, \
    image_bytes, effective, timings, error_code, error_message, result_bytes, result_sha256, \
    result_type, events, batch_id";

/// One job.
pub(super) fn find(connection: &Connection, id: &str) -> Result<Option<JobRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1");
    Ok(connection
        .prepare_cached(&sql)?
        .query_row([id], record)
        .optional()?)
}

/// A job that must be there.
pub(super) fn existing(connection: &Connection, id: &str) -> Result<JobRecord> {
    find(connection, id)?.ok_or_else(|| StoreError::UnknownJob { id: id.to_owned() }.into())
}

/// Reads [`COLUMNS`].
pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<JobRecord> {
    let error = match row.get(11)? {
        Some(code) => Some(JobError {
            code,
            message: row.get::<_, Option<String>>(12)?.unwrap_or_default(),
        }),
        None => None,
    };
    let result = match row.get::<_, Option<i64>>(13)? {
        Some(bytes) => Some(ResultFile {
            bytes: bytes as u64,
            sha256: row.get(14)?,
            content_type: row.get(15)?,
        }),
        None => None,
    };
    Ok(JobRecord {
        id: row.get(0)?,
        status: status(row, 1)?,
        created_at: row.get(2)?,
        started_at: row.get(3)?,
        completed_at: row.get(4)?,
        priority: row.get(5)?,
        attempts: row.get(6)?,
        request: json(row, 7)?.unwrap_or_default(),
        has_image: row.get::<_, Option<i64>>(8)?.is_some(),
        effective: json(row, 9)?,
        timings: json(row, 10)?,
        error,
        result,
        events: json(row, 16)?.unwrap_or_default(),
        batch_id: row.get(17)?,
    })
}

/// Reads a status.
pub(super) fn status(row: &Row<'_>, column: usize) -> rusqlite::Result<JobStatus> {
    let word: String = row.get(column)?;
    JobStatus::parse(&word).ok_or_else(|| {
        let message = format!("unknown job status {word:?}");
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, message.into())
    })
}

fn json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<T>> {
    let Some(text) = row.get::<_, Option<String>>(column)? else {
        return Ok(None);
    };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
    })
}
