//! Opening the database: refusing what is not ours, and bringing an older schema up to date.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::error::{Failure, StoreError};
use super::files::Files;

/// How long a statement waits for another program that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Migration N brings schema N to N + 1. Released ones are never edited, only followed by more.
const MIGRATIONS: &[&str] = &["
CREATE TABLE idempotency (
    key         TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    created_at  REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT NOT NULL UNIQUE,
    status          TEXT NOT NULL CHECK (status IN ('queued', 'in_progress', 'completed', 'failed')),
    created_at      REAL NOT NULL,
    started_at      REAL,
    completed_at    REAL,
    priority        INTEGER NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0,
    request         TEXT NOT NULL,
    image_bytes     INTEGER,
    effective       TEXT,
    timings         TEXT,
    error_code      TEXT,
    error_message   TEXT,
    result_bytes    INTEGER,
    result_sha256   TEXT,
    result_type     TEXT,
    poster_bytes    INTEGER,
    events          TEXT NOT NULL DEFAULT '[]',
    batch_id        TEXT,
    idempotency_key TEXT REFERENCES idempotency (key)
) STRICT;
CREATE INDEX jobs_queue ON jobs (status, priority DESC, seq);
CREATE INDEX jobs_listed ON jobs (created_at, seq);
CREATE INDEX jobs_finished ON jobs (completed_at, seq);
CREATE INDEX jobs_by_key ON jobs (idempotency_key);

CREATE TABLE notes (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"];

/// Opens the database at the latest schema.
pub(super) fn open(files: &Files) -> Result<Connection, StoreError> {
    let path = files.ensure_database()?;
    open_with(path, MIGRATIONS).map_err(|failure| failure.in_file(path))
}

fn open_with(path: &Path, migrations: &[&str]) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Everything is looked at before the first write: a file that is refused is left as it was.
    let found = check(&connection, path, migrations.len())?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A job that was answered "queued" is on the disk, not in the system's memory.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    if found < migrations.len() {
        if found > 0 {
            back_up(&connection, path, found)?;
        }
        migrate(&mut connection, found, migrations)?;
    }
    Ok(connection)
}

/// The schema version of a database that can be used.
fn check(connection: &Connection, path: &Path, latest: usize) -> Result<usize, Failure> {
    let corrupt = |message: String| StoreError::Corrupt {
        path: path.to_owned(),
        message,
    };
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > latest as i64 {
        return Err(Failure::Store(StoreError::NewerSchema {
            path: path.to_owned(),
            found: version,
            known: latest as i64,
        }));
    }
    let version = usize::try_from(version)
        .map_err(|_| corrupt(format!("schema version {version} is negative")))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    if version == 0 && tables > 0 {
        return Err(corrupt("it belongs to another program".into()).into());
    }
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
    if verdict != "ok" {
        return Err(corrupt(verdict).into());
    }
    Ok(version)
}

/// Copies the database aside before it is changed for good.
fn back_up(connection: &Connection, path: &Path, version: usize) -> Result<(), Failure> {
    let copy = suffixed(path, &format!(".v{version}.bak"));
    let part = suffixed(path, &format!(".v{version}.bak.part"));
    let _ = fs::remove_file(&part);
    connection.execute("VACUUM INTO ?1", [part.to_string_lossy()])?;
    fs::File::open(&part)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&part, &copy))
        .map_err(|e| StoreError::io("write", &copy, e))?;
    tracing::info!(copy = %copy.display(), "kept a copy of the job database before changing its schema");
    Ok(())
}

fn migrate(connection: &mut Connection, found: usize, migrations: &[&str]) -> Result<(), Failure> {
    for (version, statements) in migrations.iter().enumerate().skip(found) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(statements)?;
        transaction.pragma_update(None, "user_version", version as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
