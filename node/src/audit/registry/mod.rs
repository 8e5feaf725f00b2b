//! The registry: models that are known, with what identifies them and a sketch each, so that a new one can
//! be held against all of them in milliseconds.
//!
//! ```text
//! models    one row per model: who, when, digests
//! roster    how many models there are, and the sum of their checksums
//! layouts   which weights a network has; one row for all models of an architecture
//! networks  a coarse sketch of each network, and behind it the full one
//! ```
//!
//! The file is far larger than what a search reads of it. So it is read as a whole by [`Registry::check`], and after a
//! process that did not close it; everything that is read in between carries a checksum. Damage is an error wherever
//! it is met: a model that cannot be read is never one that is not there.
//!
//! An entry says what somebody hashed, or what somebody else claims to have hashed ([`Origin`]); it proves
//! nothing about time. Who was first is for the chain (the block) to say. The date of a commit, which the Hub gives, is
//! git's: whoever pushes can set it.

mod checksum;
mod entry;
mod exchange;
mod rows;
mod search;
mod sketches;
#[cfg(test)]
mod tests;
mod when;

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::compare::coarse::{Coarse, Layout, coarse, layout, networks};
use super::compare::sketch::{Sketch, WeightSketch};
use crate::store::{Look, StoreError, open_file};
use rows::Failure;
use sketches::Layouts;

pub use entry::{Entry, Origin, RegistryError, Role};
pub use exchange::Imported;
pub use search::{Candidate, Reason};
pub use when::utc;

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// What the file carries as its `application_id`: `LMRG`.
const MARK: i32 = 0x4c4d_5247;

/// Bytes of the header of an SQLite file.
const HEADER: u64 = 100;

/// Migration N brings schema N to N + 1. Released ones are never edited, only followed by more.
const MIGRATIONS: &[&str] = &["
PRAGMA application_id = 1280135751;

CREATE TABLE models (
    id           INTEGER PRIMARY KEY,
    name         TEXT NOT NULL,
    revision     TEXT NOT NULL,
    role         TEXT NOT NULL CHECK (role IN ('base', 'model')),
    origin       TEXT NOT NULL CHECK (origin IN ('local', 'imported')),
    hotkey       TEXT,
    block        INTEGER,
    committed_at TEXT,
    model_hash   TEXT,
    named        TEXT,
    unnamed      TEXT,
    added_at     TEXT NOT NULL,
    networks     INTEGER NOT NULL,
    checksum     INTEGER NOT NULL,
    UNIQUE (name, revision)
) STRICT;

CREATE TABLE roster (
    models   INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
INSERT INTO roster VALUES (0, 0);

CREATE TABLE layouts (
    id      INTEGER PRIMARY KEY,
    digest  TEXT NOT NULL UNIQUE,
    weights TEXT NOT NULL
) STRICT;

CREATE TABLE networks (
    model   INTEGER NOT NULL REFERENCES models (id) ON DELETE CASCADE,
    network TEXT NOT NULL,
    layout  INTEGER NOT NULL REFERENCES layouts (id),
    near    INTEGER NOT NULL,
    whole   INTEGER NOT NULL,
    coarse  BLOB NOT NULL,
    squares BLOB NOT NULL,
    sums    BLOB NOT NULL,
    UNIQUE (model, network)
) STRICT;
"];

/// The registry in one SQLite file.
#[derive(Debug)]
pub struct Registry {
    connection: Connection,
    path: PathBuf,
}

impl Registry {
    /// Opens the registry at `path`; makes it where there is none.
    ///
    /// # Errors
    /// [`RegistryError::Store`] when the file is not a registry, is damaged or newer than this program, or
    /// cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| StoreError::io("create", parent, e))?;
        }
        let created = OpenOptions::new().create(true).append(true).open(path);
        let length = created.and_then(|file| file.metadata().map(|found| found.len()));
        let length = length.map_err(|e| StoreError::io("write", path, e))?;
        // SQLite takes a file of one byte for an empty one.
        if (1..HEADER).contains(&length) {
            return Err(cut(path));
        }
        let connection = open_file(path, MIGRATIONS, Look::Marked(MARK))?;
        Ok(Self {
            connection,
            path: path.to_owned(),
        })
    }

    /// The registry at `path`, or None where there is none.
    ///
    /// # Errors
    /// As [`Self::open`]; and for an empty file: whatever it was, it knows nobody any more.
    pub fn existing(path: &Path) -> Result<Option<Self>> {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Ok(found) if found.len() < HEADER => Err(cut(path)),
            _ => Self::open(path).map(Some),
        }
    }

    /// Adds a model. One that is there under the same name and revision must have the same digests; then
    /// what was not known about it (hotkey, block, time) is added, and `false` is returned.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] when name and revision are taken by other content.
    pub fn add(&mut self, entry: &Entry, sketch: &Sketch) -> Result<bool> {
        let entry = entry.checked()?;
        self.transact(|transaction| add(transaction, &entry, sketch))
    }

    /// All models, by block (those without one last), then name and revision.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let models = self.with(rows::models)?;
        Ok(models.into_iter().map(|stored| stored.entry).collect())
    }

    /// Removes a model; whether it was there.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub fn remove(&mut self, name: &str, revision: &str) -> Result<bool> {
        self.transact(|transaction| {
            let Some(known) = rows::find(transaction, name, revision)? else {
                return Ok(false);
            };
            rows::remove(transaction, &known)?;
            Ok(true)
        })
    }

    /// The sketch of a registered model.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] when it is not there.
    pub fn sketch(&self, name: &str, revision: &str) -> Result<Sketch> {
        let found = self.with(|connection| {
            let model = rows::find(connection, name, revision)?;
            model
                .map(|model| sketches::whole(connection, &model, &mut Layouts::new(connection)))
                .transpose()
        })?;
        found.ok_or_else(|| RegistryError::Unknown {
            name: name.to_owned(),
            revision: revision.to_owned(),
        })
    }

    /// Reads everything: pages, indexes, every row with its checksum. Returns how many models there are.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with the first thing that is not as it was written.
    pub fn check(&self) -> Result<usize> {
        self.with(|connection| {
            let sql = "PRAGMA integrity_check(1)";
            let verdict: String = connection.query_row(sql, (), |row| row.get(0))?;
            if verdict != "ok" {
                return Err(Failure::Damaged(verdict));
            }
            let models = rows::models(connection)?;
            let mut layouts = Layouts::new(connection);
            for model in &models {
                sketches::whole(connection, model, &mut layouts)?;
            }
            let known: i64 = models.iter().map(|model| model.networks).sum();
            let sql = "SELECT count(*) FROM networks NOT INDEXED";
            let found: i64 = connection.query_row(sql, (), |row| row.get(0))?;
            if found != known {
                let message = format!("it has {found} sketches, of which models know {known}");
                return Err(Failure::Damaged(message));
            }
            Ok(models.len())
        })
    }

    /// Runs changes that happen all or not at all.
    fn transact<T>(&mut self, run: impl FnOnce(&Transaction<'_>) -> rows::Result<T>) -> Result<T> {
        let inside = || {
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = run(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        inside().map_err(|failure: Failure| failure.at(&self.path))
    }

    /// Runs queries that all see the same state; errors name the file.
    fn with<T>(&self, run: impl FnOnce(&Connection) -> rows::Result<T>) -> Result<T> {
        let inside = || {
            let transaction = self.connection.unchecked_transaction()?;
            let value = run(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        inside().map_err(|failure: Failure| failure.at(&self.path))
    }
}

fn cut(path: &Path) -> RegistryError {
    let message = "it is empty, or was cut off".into();
    let path = path.to_owned();
    StoreError::Corrupt { path, message }.into()
}

/// Adds a model, or what was not known about it; whether it is new.
fn add(transaction: &Transaction<'_>, entry: &Entry, sketch: &Sketch) -> rows::Result<bool> {
    if let Some(known) = rows::find(transaction, &entry.name, &entry.revision)? {
        let merged = known.entry.merged(entry)?;
        if merged != known.entry {
            rows::update(transaction, &known, &merged)?;
        }
        return Ok(false);
    }
    let networks = networks(sketch);
    let id = rows::insert(transaction, entry, networks.len() as i64)?;
    for (network, weights) in networks {
        let layout = sketches::layout_id(transaction, &layout(&weights))?;
        let folded = coarse(&weights);
        sketches::insert(transaction, id, network, layout, &folded, &weights)?;
    }
    Ok(true)
}
