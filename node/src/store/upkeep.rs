//! Putting right what an earlier run left, and retention.

use std::collections::HashSet;

use rusqlite::Connection;

use super::db::{Db, fail};
use super::error::Failure;
use super::record::{JobError, Recovered, Swept};

/// A job that ended this many times together with the node is taken for the cause.
const MAX_ATTEMPTS: u32 = 2;

/// A finished job as retention sees it.
struct Kept {
    id: String,
    completed_at: f64,
    bytes: u64,
}

impl Db {
    /// Queues jobs that were in progress again, fails those that cannot go on, removes litter.
    pub(super) fn recover(&mut self) -> Result<Recovered, Failure> {
        let mut recovered = Recovered::default();
        let (files, now) = (self.files.clone(), self.clock.now());
        let transaction = self.transaction()?;
        for (id, attempts) in in_progress(&transaction)? {
            if attempts < MAX_ATTEMPTS {
                transaction.execute(
                    "UPDATE jobs SET status = 'queued', started_at = NULL WHERE id = ?1",
                    [&id],
                )?;
                recovered.requeued.push(id);
            } else {
                let error = JobError {
                    code: "crashed".into(),
                    message: "the node ended twice while making this clip".into(),
                };
                fail(&transaction, &id, &error, None, now)?;
                recovered.failed.push(id);
            }
        }
        let mut inputs = HashSet::new();
        for id in waiting_with_picture(&transaction)? {
            if files.has_input(&id) {
                inputs.insert(id);
                continue;
            }
            let error = JobError {
                code: "input_lost".into(),
                message: "the picture is gone from the node's data folder; send the request again"
                    .into(),
            };
            fail(&transaction, &id, &error, None, now)?;
            recovered.requeued.retain(|other| *other != id);
            recovered.failed.push(id);
        }
        let mut results = HashSet::new();
        for (id, content_type, bytes, has_poster) in completed(&transaction)? {
            let path = files.result(&id, &content_type);
            // Cannot come from a crash: someone removed or cut the file.
            if std::fs::metadata(&path).is_ok_and(|file| file.len() == bytes) {
                results.insert(path);
                if has_poster {
                    results.insert(files.poster(&id));
                }
                continue;
            }
            transaction.execute(
                "UPDATE jobs SET status = 'failed', error_code = 'result_lost', error_message = \
                 'the clip is gone from the node''s data folder; send the request again', \
                 result_bytes = NULL, result_sha256 = NULL, result_type = NULL, poster_bytes = NULL \
                 WHERE id = ?1",
                [&id],
            )?;
            recovered.failed.push(id);
        }
        transaction.commit()?;
        let removed = files.remove_orphans(&inputs, &results)?;
        if removed > 0 {
            tracing::info!(removed, "removed files that an earlier run left half done");
        }
        Ok(recovered)
    }

    pub(super) fn sweep(&mut self) -> Result<Swept, Failure> {
        let (files, options) = (self.files.clone(), self.options.clone());
        let oldest = options
            .retention_age
            .map(|age| self.clock.now() - age.as_secs_f64());
        let transaction = self.transaction()?;
        let finished = finished(&transaction)?;
        let mut held: u64 = finished.iter().map(|job| job.bytes).sum();
        let mut swept = Swept::default();
        for job in finished {
            let too_old = oldest.is_some_and(|oldest| job.completed_at < oldest);
            // A job without files frees nothing.
            let too_much = held > options.retention_bytes && job.bytes > 0;
            if too_old || too_much {
                transaction
                    .prepare_cached("DELETE FROM jobs WHERE id = ?1")?
                    .execute([&job.id])?;
                held -= job.bytes;
                swept.bytes += job.bytes;
                swept.jobs.push(job.id);
            }
        }
        swept.keys = transaction
            .prepare_cached(
                "DELETE FROM idempotency WHERE NOT EXISTS \
                 (SELECT 1 FROM jobs WHERE idempotency_key = idempotency.key)",
            )?
            .execute(())?;
        transaction.commit()?;
        for id in &swept.jobs {
            files.remove_results(id);
        }
        Ok(swept)
    }
}

fn in_progress(connection: &Connection) -> Result<Vec<(String, u32)>, Failure> {
    Ok(connection
        .prepare("SELECT id, attempts FROM jobs WHERE status = 'in_progress' ORDER BY seq")?
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?)
}

fn waiting_with_picture(connection: &Connection) -> Result<Vec<String>, Failure> {
    Ok(connection
        .prepare("SELECT id FROM jobs WHERE status = 'queued' AND image_bytes IS NOT NULL")?
        .query_map((), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?)
}

/// Id, media type, bytes, and whether there is a poster.
fn completed(connection: &Connection) -> Result<Vec<(String, String, u64, bool)>, Failure> {
    Ok(connection
        .prepare(
            "SELECT id, result_type, result_bytes, poster_bytes IS NOT NULL FROM jobs \
             WHERE status = 'completed'",
        )?
        .query_map((), |row| {
            let bytes: i64 = row.get(2)?;
            Ok((row.get(0)?, row.get(1)?, bytes as u64, row.get(3)?))
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// The oldest finished first.
fn finished(connection: &Connection) -> Result<Vec<Kept>, Failure> {
    Ok(connection
        .prepare_cached(
            "SELECT id, completed_at, coalesce(result_bytes, 0) + coalesce(poster_bytes, 0) \
             FROM jobs WHERE status IN ('completed', 'failed') ORDER BY completed_at, seq",
        )?
        .query_map((), |row| {
            let bytes: i64 = row.get(2)?;
            Ok(Kept {
                id: row.get(0)?,
                completed_at: row.get(1)?,
                bytes: bytes as u64,
            })
        })?
        .collect::<rusqlite::Result<_>>()?)
}
