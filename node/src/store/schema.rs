//! Opening the database: refusing what is not ours, and bringing an older schema up to date.

use std::fs;
use std::io::Read;
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

/// What is looked at before a database is used, beside the version of its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Every page.
    Whole,
    /// That it carries this `application_id`; every page only where a log says that somebody did not close it. For files
    /// That it carries this `application_id`; every page only where a log says that somebody did not close it.
    /// For files that take longer to read than to use: whoever reads a row of them checks it.
    Marked(i32),
}

/// The first bytes of every SQLite file.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Opens the database at the latest schema.
pub(super) fn open(files: &Files) -> Result<Connection, StoreError> {
    let path = files.ensure_database()?;
    let mut head = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut head))
        .map_err(|e| StoreError::io("read", path, e))?;
    let corrupt = |message: &str| StoreError::Corrupt {
        path: path.to_owned(),
        message: message.into(),
    };
    // With an empty database every clip would be an orphan and be removed. A killed first start leaves
    // none: they come after the schema.
    if head.is_empty() && files.any()? {
        return Err(corrupt(
            "it is empty, but there are files of jobs beside it",
        ));
    }
    // SQLite takes some short files for empty ones. While there is a journal, it knows better.
    if !head.is_empty() && head != MAGIC && !suffixed(path, "-journal").exists() {
        return Err(corrupt("it is not an SQLite file"));
    }
    open_file(path, MIGRATIONS, Look::Whole)
}

/// Opens the database at `path`, an empty file or one of ours, at the latest of its schemas.
pub(crate) fn open_file(
    path: &Path,
    migrations: &[&str],
    look: Look,
) -> Result<Connection, StoreError> {
    open_with(path, migrations, look).map_err(|failure| failure.in_file(path))
}

fn open_with(path: &Path, migrations: &[&str], look: Look) -> Result<Connection, Failure> {
    // Before SQLite begins a log of its own.
    let log = fs::metadata(suffixed(path, "-wal")).is_ok_and(|log| log.len() > 0);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Everything is looked at before the first write: a file that is refused is left as it was.
    let found = check(&connection, path, migrations.len(), look, log)?;
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
fn check(
    connection: &Connection,
    path: &Path,
    latest: usize,
    look: Look,
    log: bool,
) -> Result<usize, Failure> {
    let corrupt = |message: String| StoreError::Corrupt {
        path: path.to_owned(),
        message,
    };
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let foreign = || Failure::Store(corrupt("it belongs to another program".into()));
    if let Look::Marked(mark) = look
        && version != 0
    {
        let found: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        if found != mark {
            return Err(foreign());
        }
    }
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
        return Err(foreign());
    }
    if look == Look::Whole || log {
        let sql = "PRAGMA quick_check(1)";
        let verdict: String = connection.query_row(sql, (), |row| row.get(0))?;
        if verdict != "ok" {
            return Err(corrupt(verdict).into());
        }
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
    tracing::info!(copy = %copy.display(), "kept a copy of the database before changing its schema");
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FIRST: &str = "CREATE TABLE a (x); INSERT INTO a VALUES (1);";
    const SECOND: &str = "ALTER TABLE a ADD COLUMN y DEFAULT 2; CREATE TABLE b (x);";

    fn open_at(path: &Path, migrations: &[&str]) -> Result<Connection, StoreError> {
        open_file(path, migrations, Look::Whole)
    }

    fn empty() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jobs.sqlite");
        fs::write(&path, b"").unwrap();
        (dir, path)
    }

    #[test]
    fn an_older_schema_is_brought_up_to_date_after_a_copy_was_made() {
        let (dir, path) = empty();
        let copy = dir.path().join("jobs.sqlite.v1.bak");
        drop(open_at(&path, &[FIRST]).unwrap());
        assert!(!copy.exists(), "a new database needs no copy");
        // A copy that was cut short is in nobody's way.
        fs::write(dir.path().join("jobs.sqlite.v1.bak.part"), b"half").unwrap();
        let connection = open_at(&path, &[FIRST, SECOND]).unwrap();
        let sum: i64 = connection
            .query_row("SELECT sum(x + y) FROM a", (), |row| row.get(0))
            .unwrap();
        assert_eq!(sum, 3);
        drop(connection);
        let old = open_at(&copy, &[FIRST]).unwrap();
        let rows: i64 = old
            .query_row("SELECT count(*) FROM a", (), |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 1);
        // Up to date now: nothing more is done.
        fs::remove_file(&copy).unwrap();
        drop(open_at(&path, &[FIRST, SECOND]).unwrap());
        assert!(!copy.exists());
        let error = open_at(&path, &[FIRST]).unwrap_err();
        assert_eq!(error.code(), "newer_schema");
    }

    #[test]
    fn a_migration_happens_as_a_whole_or_not_at_all() {
        let (_dir, path) = empty();
        drop(open_at(&path, &[FIRST]).unwrap());
        let broken = "CREATE TABLE b (x); CREATE TABLE a (x);";
        let error = open_at(&path, &[FIRST, broken]).unwrap_err();
        assert_eq!(error.code(), "database");
        drop(open_at(&path, &[FIRST, SECOND]).unwrap());
    }

    #[test]
    fn the_schema_of_each_release_can_be_made_from_nothing() {
        let (_dir, path) = empty();
        let connection = open_at(&path, MIGRATIONS).unwrap();
        let version: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version, MIGRATIONS.len() as i64);
    }
}
