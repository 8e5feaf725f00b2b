//! The registry: models that are known, with what identifies them and a sketch each, so that a new one can
//! be held against all of them in milliseconds.
//!
//! ```text
//! models    one row per model: who, when, digests
//! layouts   which weights a network has; one row for all models of an architecture
//! networks  a coarse sketch of each network, and behind it the full one
//! ```
//!
//! An entry says what somebody hashed, or what somebody else claims to have hashed ([`Origin`]); it proves
//! nothing about time. Who was first is for the chain (the block) and the Hub (the commit's time) to say.

mod entry;
mod exchange;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::Serialize;

use super::compare::coarse::{Coarse, Layout, Tally, coarse, layout, networks};
use super::compare::sketch::{Likeness, Sketch, WeightSketch};
use super::scan;
use crate::store::{StoreError, open_file};

pub use entry::{Entry, Origin, RegistryError, Role};
pub use exchange::Imported;

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Migration N brings schema N to N + 1. Released ones are never edited, only followed by more.
const MIGRATIONS: &[&str] = &["
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
    UNIQUE (name, revision)
) STRICT;
CREATE INDEX models_by_hash ON models (model_hash);
CREATE INDEX models_by_unnamed ON models (unnamed);

CREATE TABLE layouts (
    id      INTEGER PRIMARY KEY,
    digest  TEXT NOT NULL UNIQUE,
    weights TEXT NOT NULL
) STRICT;

CREATE TABLE networks (
    model   INTEGER NOT NULL REFERENCES models (id) ON DELETE CASCADE,
    network TEXT NOT NULL,
    layout  INTEGER NOT NULL REFERENCES layouts (id),
    coarse  BLOB NOT NULL,
    squares BLOB NOT NULL,
    sums    BLOB NOT NULL,
    UNIQUE (model, network)
) STRICT;
CREATE INDEX networks_by_layout ON networks (network, layout);
"];

/// The registry in one SQLite file.
#[derive(Debug)]
pub struct Registry {
    connection: Connection,
    path: PathBuf,
}

/// A registered model that may be where another comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// The registered model.
    pub entry: Entry,
    /// Why it is one.
    pub reason: Reason,
}

/// Why a registered model is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Reason {
    /// The subnet's hash is the same: the weight files are.
    SameModelHash,
    /// All weights have the same names and values.
    SameWeights,
    /// All values are the same; names, files or types differ.
    SameValues,
    /// The sketches are alike.
    Alike(Likeness),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameModelHash => f.write_str("the same model hash"),
            Self::SameWeights => f.write_str("the same weights in other files"),
            Self::SameValues => f.write_str("the same values under other names"),
            Self::Alike(likeness) => write!(
                f,
                "cosine of the differences from the base about {:.2}, {:.0} % of the sums of squares agree",
                likeness.cosine,
                100.0 * likeness.same_squares
            ),
        }
    }
}

impl Reason {
    /// Strongest first, then by likeness.
    fn rank(&self) -> (u8, f64) {
        match self {
            Self::SameModelHash => (0, 0.0),
            Self::SameWeights => (1, 0.0),
            Self::SameValues => (2, 0.0),
            Self::Alike(likeness) => (3, -likeness.cosine.abs().max(likeness.same_squares)),
        }
    }
}

/// Registered models that a scan is told of at most, for each of its own.
const NAMED: usize = 8;

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
        created.map_err(|e| StoreError::io("write", path, e))?;
        let connection = open_file(path, MIGRATIONS)?;
        // A job database has the same schema number.
        let ours =
            "SELECT count(*) FROM sqlite_schema WHERE name IN ('models', 'layouts', 'networks')";
        let tables: i64 = connection
            .query_row(ours, (), |row| row.get(0))
            .map_err(|e| StoreError::sql(path, &e))?;
        if tables != 3 {
            return Err(StoreError::Corrupt {
                path: path.to_owned(),
                message: "it is not a registry of models".into(),
            }
            .into());
        }
        Ok(Self {
            connection,
            path: path.to_owned(),
        })
    }

    /// The registry at `path`, or None where there is none.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn existing(path: &Path) -> Result<Option<Self>> {
        match path.try_exists() {
            Ok(false) => Ok(None),
            _ => Self::open(path).map(Some),
        }
    }

    /// Adds a model. One that is there under the same name and revision must have the same digests; then
    /// what was not known about it (hotkey, block, time) is added, and `false` is returned.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] when name and revision are taken by other content.
    pub fn add(&mut self, entry: &Entry, sketch: &Sketch) -> Result<bool> {
        entry.check()?;
        self.transact(|transaction| add(transaction, entry, sketch))
    }

    /// All models, by block (those without one last), then name and revision.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let sql = format!(
            "SELECT {} FROM models ORDER BY block IS NULL, block, name, revision",
            rows::COLUMNS
        );
        self.with(|connection| {
            let mut statement = connection.prepare(&sql)?;
            let rows = statement.query_map((), |row| rows::entry(row, 0))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Removes a model; whether it was there.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub fn remove(&mut self, name: &str, revision: &str) -> Result<bool> {
        self.with(|connection| {
            let sql = "DELETE FROM models WHERE name = ?1 AND revision = ?2";
            Ok(connection.execute(sql, params![name, revision])? > 0)
        })
    }

    /// The sketch of a registered model.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] when it is not there.
    pub fn sketch(&self, name: &str, revision: &str) -> Result<Sketch> {
        let found = self.with(|connection| {
            let sql = "SELECT id FROM models WHERE name = ?1 AND revision = ?2";
            let id: Option<i64> = connection
                .query_row(sql, params![name, revision], |row| row.get(0))
                .optional()?;
            id.map(|id| rows::sketch(connection, id)).transpose()
        })?;
        found.ok_or_else(|| RegistryError::Unknown {
            name: name.to_owned(),
            revision: revision.to_owned(),
        })
    }

    /// The registered models that `entry` equals or resembles, strongest reason first, at most `limit` of
    /// those that resemble it; bases and the entry itself are left out. Without a base to see the difference
    /// from, only equal ones are found.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub fn candidates(
        &self,
        entry: &Entry,
        probe: Option<(&Sketch, &Sketch)>,
        limit: usize,
    ) -> Result<Vec<Candidate>> {
        let mut reasons = self.same(entry)?;
        if let Some((sketch, base)) = probe {
            let mut alike: Vec<_> = self.alike(sketch, base)?.into_iter().collect();
            alike.sort_by(|(_, a), (_, b)| {
                a.rank()
                    .partial_cmp(&b.rank())
                    .unwrap_or(std::cmp::Ordering::Equal)
            });
            for (id, reason) in alike.into_iter().take(limit) {
                reasons.entry(id).or_insert(reason);
            }
        }
        let sql = format!("SELECT {} FROM models WHERE id = ?1", rows::COLUMNS);
        let mut candidates = Vec::new();
        for (id, reason) in reasons {
            let found = self.with(|connection| {
                Ok(connection.query_row(&sql, [id], |row| rows::entry(row, 0))?)
            })?;
            let itself = (&found.name, &found.revision) == (&entry.name, &entry.revision);
            if found.role == Role::Model && !itself {
                candidates.push(Candidate {
                    entry: found,
                    reason,
                });
            }
        }
        candidates.sort_by(|a, b| {
            let ranks = a.reason.rank().partial_cmp(&b.reason.rank());
            ranks.unwrap_or(std::cmp::Ordering::Equal)
        });
        Ok(candidates)
    }

    /// The same for a scan, by name.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub fn known(&self, probe: &scan::Probe<'_>) -> Result<Vec<scan::Candidate>> {
        let revision = probe.source.commit.clone().unwrap_or_default();
        let entry = Entry::of(&probe.source.name, &revision, probe);
        let found = self.candidates(&entry, probe.sketch.zip(probe.base), NAMED)?;
        Ok(found
            .into_iter()
            .map(|candidate| scan::Candidate {
                name: candidate.entry.who(),
                likeness: match candidate.reason {
                    Reason::Alike(likeness) => Some(likeness),
                    _ => None,
                },
            })
            .collect())
    }

    /// Models with equal digests.
    fn same(&self, entry: &Entry) -> Result<BTreeMap<i64, Reason>> {
        let mut reasons = BTreeMap::new();
        for (column, value, reason) in [
            ("model_hash", &entry.model_hash, Reason::SameModelHash),
            ("named", &entry.named, Reason::SameWeights),
            ("unnamed", &entry.unnamed, Reason::SameValues),
        ] {
            let Some(value) = value else { continue };
            let sql = format!("SELECT id FROM models WHERE {column} = ?1");
            let ids: Vec<i64> = self.with(|connection| {
                let mut statement = connection.prepare_cached(&sql)?;
                let ids = statement.query_map([value], |row| row.get(0))?;
                Ok(ids.collect::<rusqlite::Result<_>>()?)
            })?;
            for id in ids {
                reasons.entry(id).or_insert(reason);
            }
        }
        Ok(reasons)
    }

    /// Models whose sketches are alike. Networks of the same layout are compared by their coarse sketches;
    /// a model that shares no layout with `sketch`, weight by weight.
    fn alike(&self, sketch: &Sketch, base: &Sketch) -> Result<BTreeMap<i64, Reason>> {
        let (ours, bases) = (networks(sketch), networks(base));
        let mut tallies: BTreeMap<i64, Tally> = BTreeMap::new();
        for (network, weights) in &ours {
            let layout = layout(weights);
            let Some(under) = bases
                .get(network)
                .filter(|under| self::layout(under) == layout)
            else {
                continue;
            };
            self.tally(
                network,
                &layout,
                &coarse(weights),
                &coarse(under),
                &mut tallies,
            )?;
        }
        let others = self.with(|connection| {
            let mut statement = connection.prepare("SELECT id FROM models WHERE role = 'model'")?;
            let ids = statement.query_map((), |row| row.get::<_, i64>(0))?;
            Ok(ids.collect::<rusqlite::Result<Vec<_>>>()?)
        })?;
        let mut reasons = BTreeMap::new();
        for id in others {
            let likeness = if let Some(tally) = tallies.get(&id) {
                tally.likeness()
            } else {
                self.with(|connection| rows::sketch(connection, id))?
                    .likeness(sketch, base)
            };
            if let Some(likeness) = likeness.filter(Likeness::is_near) {
                reasons.insert(id, Reason::Alike(likeness));
            }
        }
        Ok(reasons)
    }

    /// Adds what one network says of every model that has it in this layout.
    fn tally(
        &self,
        network: &str,
        layout: &Layout,
        ours: &Coarse,
        base: &Coarse,
        tallies: &mut BTreeMap<i64, Tally>,
    ) -> Result<()> {
        let elements: Vec<u64> = layout
            .weights
            .iter()
            .map(|(_, elements)| *elements)
            .collect();
        self.with(|connection| {
            let sql = "SELECT model, coarse, squares FROM networks WHERE network = ?1 AND layout = \
                       (SELECT id FROM layouts WHERE digest = ?2)";
            let mut statement = connection.prepare_cached(sql)?;
            let mut found = statement.query(params![network, layout.digest()])?;
            while let Some(row) = found.next()? {
                let tally = tallies.entry(row.get(0)?).or_default();
                let [sums, squares] = [rows::bytes(row, 1)?, rows::bytes(row, 2)?];
                tally.add(ours, base, &elements, sums, squares);
            }
            Ok(())
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
        inside().map_err(|failure: rows::Failure| failure.at(&self.path))
    }

    /// Runs a query; errors name the file.
    fn with<T>(&self, run: impl FnOnce(&Connection) -> rows::Result<T>) -> Result<T> {
        run(&self.connection).map_err(|failure| failure.at(&self.path))
    }
}

/// Adds a model, or what was not known about it; whether it is new.
fn add(transaction: &Transaction<'_>, entry: &Entry, sketch: &Sketch) -> rows::Result<bool> {
    let sql = format!(
        "SELECT id, {} FROM models WHERE name = ?1 AND revision = ?2",
        rows::COLUMNS
    );
    let known = transaction
        .query_row(&sql, params![entry.name, entry.revision], |row| {
            Ok((row.get::<_, i64>(0)?, rows::entry(row, 1)?))
        })
        .optional()?;
    if let Some((id, known)) = known {
        let merged = known.merged(entry)?;
        if merged != known {
            rows::update(transaction, id, &merged)?;
        }
        return Ok(false);
    }
    let id = rows::insert(transaction, entry)?;
    for (network, weights) in networks(sketch) {
        let layout = rows::layout_id(transaction, &layout(&weights))?;
        rows::insert_network(
            transaction,
            id,
            network,
            layout,
            &coarse(&weights),
            &weights,
        )?;
    }
    Ok(true)
}
