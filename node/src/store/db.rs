//! What the store's thread does with the database. The order of rows and files is what makes a killed
//! process harmless; see the module above.

use std::fs::File;

use rusqlite::{
    Connection, OptionalExtension, Transaction, TransactionBehavior, named_params, params,
};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::clock::Clock;
use super::error::{Failure, StoreError};
use super::files::Files;
use super::record::{
    Counts, Idempotency, Inserted, JobError, JobRecord, JobStatus, Page, ResultFile, StoreOptions,
};
use super::rows::{COLUMNS, existing, find, record, status};

type Result<T> = std::result::Result<T, Failure>;

/// A job to be inserted; its picture is on the disk already.
#[derive(Debug)]
pub(super) struct NewRow {
    pub(super) id: String,
    pub(super) priority: i32,
    pub(super) request: Value,
    pub(super) image_bytes: Option<u64>,
    pub(super) batch_id: Option<String>,
}

/// A result that is on the disk under temporary names, which go when this is dropped.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) result: ResultFile,
    pub(super) media: NamedTempFile,
    pub(super) poster: Option<(NamedTempFile, u64)>,
    pub(super) effective: Value,
    pub(super) timings: Value,
    pub(super) events: Vec<Value>,
}

/// The connection and what goes with it. Fields are dropped in order: the lock last.
#[derive(Debug)]
pub(super) struct Db {
    connection: Connection,
    pub(super) files: Files,
    pub(super) options: StoreOptions,
    pub(super) clock: Clock,
    _lock: File,
}

impl Db {
    pub(super) fn new(
        connection: Connection,
        files: Files,
        options: StoreOptions,
        lock: File,
    ) -> Self {
        Self {
            connection,
            files,
            options,
            clock: Clock::start(),
            _lock: lock,
        }
    }

    /// A transaction that takes the write lock at once, so that what it read stays true.
    pub(super) fn transaction(&mut self) -> rusqlite::Result<Transaction<'_>> {
        self.connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Runs `write` on the reserve when the disk is full: what puts a job back, ends it or frees space must
    /// not itself need someone to free space first.
    pub(super) fn on_reserve<T>(
        &mut self,
        mut write: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let error = match write(self) {
            Ok(done) => return Ok(done),
            Err(failure) => failure.in_file(self.files.database()),
        };
        if !error.is_disk_full() {
            return Err(error.into());
        }
        self.files.release_reserve();
        // The log holds space too. It is the second try that tells whether this helped.
        let _ = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()));
        let done = write(self);
        self.files.keep_reserve();
        done
    }

    /// Whether `count` more jobs and `bytes` more of pictures can be taken; the jobs of `key` when it is known.
    pub(super) fn admit(
        &mut self,
        count: usize,
        key: Option<&Idempotency>,
        bytes: u64,
    ) -> Result<Option<Vec<JobRecord>>> {
        admit(
            &self.connection,
            &self.files,
            &self.options,
            count,
            key,
            bytes,
        )
    }

    pub(super) fn insert(
        &mut self,
        rows: &[NewRow],
        key: Option<&Idempotency>,
    ) -> Result<Inserted> {
        let (files, options) = (self.files.clone(), self.options.clone());
        let now = self.clock.now();
        let transaction = self.transaction()?;
        if let Some(jobs) = admit(&transaction, &files, &options, rows.len(), key, 0)? {
            return Ok(Inserted::Existing(jobs));
        }
        if let Some(key) = key {
            // Replaces a key whose jobs are all deleted.
            transaction
                .prepare_cached("INSERT OR REPLACE INTO idempotency VALUES (?1, ?2, ?3)")?
                .execute(params![key.key, key.fingerprint, now])?;
        }
        for row in rows {
            transaction
                .prepare_cached(
                    "INSERT INTO jobs (id, status, created_at, priority, request, image_bytes, \
                     batch_id, idempotency_key) VALUES (?1, 'queued', ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    row.id,
                    now,
                    row.priority,
                    row.request.to_string(),
                    row.image_bytes.map(|bytes| bytes as i64),
                    row.batch_id,
                    key.map(|key| &key.key),
                ])?;
        }
        let jobs = rows
            .iter()
            .map(|row| existing(&transaction, &row.id))
            .collect::<Result<_>>()?;
        transaction.commit()?;
        Ok(Inserted::New(jobs))
    }

    pub(super) fn claim_next(&mut self) -> Result<Option<JobRecord>> {
        let now = self.clock.now();
        let transaction = self.transaction()?;
        let next: Option<String> = transaction
            .prepare_cached(
                "SELECT id FROM jobs WHERE status = 'queued' ORDER BY priority DESC, seq LIMIT 1",
            )?
            .query_row((), |row| row.get(0))
            .optional()?;
        let Some(id) = next else {
            return Ok(None);
        };
        transaction
            .prepare_cached(
                "UPDATE jobs SET status = 'in_progress', started_at = ?2, attempts = attempts + 1 \
                 WHERE id = ?1",
            )?
            .execute(params![id, now])?;
        let job = existing(&transaction, &id)?;
        transaction.commit()?;
        Ok(Some(job))
    }

    pub(super) fn requeue(&mut self, id: &str, count_attempt: bool) -> Result<()> {
        let transaction = self.transaction()?;
        existing(&transaction, id)?;
        transaction
            .prepare_cached(
                "UPDATE jobs SET status = 'queued', started_at = NULL, \
                 attempts = max(0, attempts - ?2) WHERE id = ?1 AND status = 'in_progress'",
            )?
            .execute(params![id, i64::from(!count_attempt)])?;
        Ok(transaction.commit()?)
    }

    pub(super) fn complete(&mut self, id: &str, staged: Staged) -> Result<JobRecord> {
        let files = self.files.clone();
        let now = self.clock.now();
        let transaction = self.transaction()?;
        let job = existing(&transaction, id)?;
        if job.status != JobStatus::InProgress {
            return Ok(job);
        }
        let Staged {
            result,
            media,
            poster,
            effective,
            timings,
            events,
        } = staged;
        let mut published = vec![(media, files.result(id, &result.content_type))];
        let poster_bytes = poster.map(|(file, bytes)| {
            published.push((file, files.poster(id)));
            bytes as i64
        });
        let write = || {
            files.publish(published)?;
            transaction
                .prepare_cached(
                    "UPDATE jobs SET status = 'completed', completed_at = :now, effective = :effective, \
                     timings = :timings, events = :events, result_bytes = :bytes, \
                     result_sha256 = :sha256, result_type = :type, poster_bytes = :poster WHERE id = :id",
                )?
                .execute(named_params! {
                    ":id": id,
                    ":now": now,
                    ":effective": effective.to_string(),
                    ":timings": timings.to_string(),
                    ":events": Value::Array(events).to_string(),
                    ":bytes": result.bytes as i64,
                    ":sha256": result.sha256,
                    ":type": result.content_type,
                    ":poster": poster_bytes,
                })?;
            let job = existing(&transaction, id)?;
            transaction.commit()?;
            Ok(job)
        };
        let job = write().inspect_err(|_: &Failure| files.remove_results(id))?;
        files.remove_input(id);
        Ok(job)
    }

    pub(super) fn fail(
        &mut self,
        id: &str,
        error: &JobError,
        events: &[Value],
    ) -> Result<Option<JobRecord>> {
        let now = self.clock.now();
        let transaction = self.transaction()?;
        let changed = fail(&transaction, id, error, Some(events), now)?;
        let job = match changed {
            true => find(&transaction, id)?,
            false => None,
        };
        transaction.commit()?;
        if job.is_some() {
            self.files.remove_input(id);
        }
        Ok(job)
    }

    pub(super) fn set_effective(&mut self, id: &str, effective: &Value) -> Result<()> {
        let transaction = self.transaction()?;
        existing(&transaction, id)?;
        transaction
            .prepare_cached(
                "UPDATE jobs SET effective = ?2 \
                 WHERE id = ?1 AND status IN ('queued', 'in_progress')",
            )?
            .execute(params![id, effective.to_string()])?;
        Ok(transaction.commit()?)
    }

    pub(super) fn get(&mut self, id: &str) -> Result<Option<JobRecord>> {
        find(&self.connection, id)
    }

    pub(super) fn list(
        &mut self,
        after: Option<&str>,
        limit: usize,
        newest_first: bool,
        status: Option<JobStatus>,
    ) -> Result<Page> {
        let (direction, beyond) = match newest_first {
            true => ("DESC", "<"),
            false => ("ASC", ">"),
        };
        let cursor = match after {
            Some(after) => Some(self.cursor(after)?),
            None => None,
        };
        let (created_at, seq) = cursor.unzip();
        let mut conditions = vec!["true".to_owned()];
        if cursor.is_some() {
            conditions.push(format!("(created_at, seq) {beyond} (:created_at, :seq)"));
        }
        if status.is_some() {
            conditions.push("status = :status".to_owned());
        }
        // The parameters that are not asked for still have a place.
        let sql = format!(
            "SELECT {COLUMNS}, :created_at, :seq, :status FROM jobs WHERE {} \
             ORDER BY created_at {direction}, seq {direction} LIMIT :limit",
            conditions.join(" AND ")
        );
        let one_more = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let mut jobs = self
            .connection
            .prepare_cached(&sql)?
            .query_map(
                named_params! {
                    ":created_at": created_at,
                    ":seq": seq,
                    ":status": status.map(JobStatus::as_str),
                    ":limit": one_more,
                },
                record,
            )?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let has_more = jobs.len() > limit;
        jobs.truncate(limit);
        Ok(Page { jobs, has_more })
    }

    /// Where a job stands in lists.
    fn cursor(&self, after: &str) -> Result<(f64, i64)> {
        let place = self
            .connection
            .prepare_cached("SELECT created_at, seq FROM jobs WHERE id = ?1")?
            .query_row([after], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        place.ok_or_else(|| {
            let after = after.to_owned();
            StoreError::UnknownCursor { after }.into()
        })
    }

    pub(super) fn queue_position(&mut self, id: &str) -> Result<Option<usize>> {
        let position: Option<i64> = self
            .connection
            .prepare_cached(
                "SELECT (SELECT count(*) FROM jobs AS other WHERE other.status = 'queued' \
                 AND (other.priority > mine.priority \
                 OR (other.priority = mine.priority AND other.seq < mine.seq))) \
                 FROM jobs AS mine WHERE mine.id = ?1 AND mine.status = 'queued'",
            )?
            .query_row([id], |row| row.get(0))
            .optional()?;
        Ok(position.map(|ahead| ahead as usize))
    }

    pub(super) fn delete(&mut self, id: &str) -> Result<bool> {
        let transaction = self.transaction()?;
        let Some(job) = find(&transaction, id)? else {
            return Ok(false);
        };
        if !job.status.is_terminal() {
            return Err(StoreError::NotFinished { id: job.id }.into());
        }
        transaction
            .prepare_cached("DELETE FROM jobs WHERE id = ?1")?
            .execute([id])?;
        transaction.commit()?;
        self.files.remove_input(id);
        self.files.remove_results(id);
        Ok(true)
    }

    pub(super) fn counts(&mut self) -> Result<Counts> {
        let mut counts = Counts::default();
        let mut statement = self
            .connection
            .prepare_cached("SELECT status, count(*) FROM jobs GROUP BY status")?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            let count = row.get::<_, i64>(1)? as u64;
            match status(row, 0)? {
                JobStatus::Queued => counts.queued = count,
                JobStatus::InProgress => counts.in_progress = count,
                JobStatus::Completed => counts.completed = count,
                JobStatus::Failed => counts.failed = count,
            }
        }
        Ok(counts)
    }

    pub(super) fn stored_bytes(&mut self) -> Result<u64> {
        let bytes: i64 = self
            .connection
            .prepare_cached(
                "SELECT coalesce(sum(CASE WHEN status IN ('queued', 'in_progress') \
                 THEN coalesce(image_bytes, 0) \
                 ELSE coalesce(result_bytes, 0) + coalesce(poster_bytes, 0) END), 0) FROM jobs",
            )?
            .query_row((), |row| row.get(0))?;
        Ok(bytes as u64)
    }

    pub(super) fn get_note(&mut self, key: &str) -> Result<Option<String>> {
        Ok(self
            .connection
            .prepare_cached("SELECT value FROM notes WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?)
    }

    pub(super) fn set_note(&mut self, key: &str, value: &str) -> Result<()> {
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO notes VALUES (?1, ?2)")?
            .execute([key, value])?;
        Ok(())
    }
}

fn admit(
    connection: &Connection,
    files: &Files,
    options: &StoreOptions,
    count: usize,
    key: Option<&Idempotency>,
    bytes: u64,
) -> Result<Option<Vec<JobRecord>>> {
    if let Some(key) = key {
        // A repeated request is answered from what is stored even when nothing new could be taken.
        let jobs = jobs_of(connection, key)?;
        if !jobs.is_empty() {
            return Ok(Some(jobs));
        }
    }
    let waiting: i64 = connection
        .prepare_cached("SELECT count(*) FROM jobs WHERE status = 'queued'")?
        .query_row((), |row| row.get(0))?;
    if (waiting as usize).saturating_add(count) > options.max_queued {
        let limit = options.max_queued;
        return Err(StoreError::QueueFull { limit }.into());
    }
    files.require_space(bytes, options.min_free_bytes)?;
    Ok(None)
}

/// The jobs that a key made and that still exist. A key whose jobs are all deleted is free again.
fn jobs_of(connection: &Connection, key: &Idempotency) -> Result<Vec<JobRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE idempotency_key = ?1 ORDER BY seq");
    let jobs = connection
        .prepare_cached(&sql)?
        .query_map([&key.key], record)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    if jobs.is_empty() {
        return Ok(jobs);
    }
    let fingerprint: Vec<u8> = connection
        .prepare_cached("SELECT fingerprint FROM idempotency WHERE key = ?1")?
        .query_row([&key.key], |row| row.get(0))?;
    if fingerprint != key.fingerprint {
        return Err(StoreError::IdempotencyMismatch.into());
    }
    Ok(jobs)
}

/// Ends an unfinished job; `None` for `events` leaves those it has. Says whether there was one.
pub(super) fn fail(
    connection: &Connection,
    id: &str,
    error: &JobError,
    events: Option<&[Value]>,
    now: f64,
) -> Result<bool> {
    let events = events.map(|events| Value::Array(events.to_vec()).to_string());
    let changed = connection
        .prepare_cached(
            "UPDATE jobs SET status = 'failed', completed_at = ?2, error_code = ?3, \
             error_message = ?4, events = coalesce(?5, events) \
             WHERE id = ?1 AND status IN ('queued', 'in_progress')",
        )?
        .execute(params![id, now, error.code, error.message, events])?;
    Ok(changed > 0)
}
