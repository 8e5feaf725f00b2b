//! Models in the registry's file: written with checksums, and never believed without.

use std::path::Path;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::checksum::checksum;
use super::{Entry, Origin, RegistryError, Role};
use crate::store::StoreError;

/// An error that may still lack the name of the file.
#[derive(Debug)]
pub(super) enum Failure {
    Sql(rusqlite::Error),
    Registry(RegistryError),
    /// A row is not what was written.
    Damaged(String),
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(super) fn at(self, path: &Path) -> RegistryError {
        match self {
            Self::Sql(error) => StoreError::sql(path, &error).into(),
            Self::Registry(error) => error,
            Self::Damaged(message) => StoreError::Corrupt {
                path: path.to_owned(),
                message,
            }
            .into(),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

/// What could not be put into a row, or got out of one.
pub(super) fn unwritable(error: serde_json::Error) -> Failure {
    Failure::Sql(rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// The columns that [`stored`] reads.
const COLUMNS: &str = "name, revision, role, origin, hotkey, block, committed_at, model_hash, named, unnamed, \
                       added_at, id, networks, checksum";

impl FromSql for Role {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_str()? {
            "base" => Ok(Self::Base),
            "model" => Ok(Self::Model),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}

impl FromSql for Origin {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_str()? {
            "local" => Ok(Self::Local),
            "imported" => Ok(Self::Imported),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Base => "base",
        Role::Model => "model",
    }
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Local => "local",
        Origin::Imported => "imported",
    }
}

/// A model as it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) id: i64,
    pub(super) entry: Entry,
    /// Networks that it has.
    pub(super) networks: i64,
    checksum: i64,
}

impl Stored {
    fn new(id: i64, entry: &Entry, networks: i64) -> Result<Self> {
        let Entry {
            name,
            revision,
            hotkey,
            block,
            committed_at,
            model_hash,
            named,
            unnamed,
            added_at,
            ..
        } = entry;
        // Part of the file's form: fields are added behind these, in a later schema.
        let fields = (
            (id, networks, role(entry.role), origin(entry.origin)),
            (name, revision, hotkey, block, committed_at),
            (model_hash, named, unnamed, added_at),
        );
        let bytes = serde_json::to_vec(&fields).map_err(unwritable)?;
        Ok(Self {
            id,
            entry: entry.clone(),
            networks,
            checksum: checksum([&bytes]),
        })
    }
}

/// Reads [`COLUMNS`].
fn stored(row: &Row<'_>) -> Result<Stored> {
    let entry = Entry {
        name: row.get(0)?,
        revision: row.get(1)?,
        role: row.get(2)?,
        origin: row.get(3)?,
        hotkey: row.get(4)?,
        block: block(row, 5)?,
        committed_at: row.get(6)?,
        model_hash: row.get(7)?,
        named: row.get(8)?,
        unnamed: row.get(9)?,
        added_at: row.get(10)?,
    };
    let stored = Stored::new(row.get(11)?, &entry, row.get(12)?)?;
    if stored.checksum == row.get::<_, i64>(13)? {
        return Ok(stored);
    }
    let name = entry.name.escape_debug();
    Err(Failure::Damaged(format!(
        "what it says about {name} was changed"
    )))
}

/// A block number; the database knows signed numbers only.
fn block(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    let block: Option<i64> = row.get(column)?;
    block
        .map(|block| {
            u64::try_from(block)
                .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, block))
        })
        .transpose()
}

/// All models, by block (those without one last), then name and revision. Reads the table itself and no index: who is
/// missing in one is missed.
pub(super) fn models(connection: &Connection) -> Result<Vec<Stored>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM models NOT INDEXED ORDER BY block IS NULL, block, name, revision"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(())?;
    let mut models = Vec::new();
    while let Some(row) = found.next()? {
        models.push(stored(row)?);
    }
    let sum = models
        .iter()
        .fold(0_i64, |sum, stored| sum.wrapping_add(stored.checksum));
    let expected = roster(connection)?;
    if (models.len() as i64, sum) == expected {
        return Ok(models);
    }
    let message = format!(
        "its list was changed; {} of {} models are there",
        models.len(),
        expected.0
    );
    Err(Failure::Damaged(message))
}

/// How many models there are, and the sum of their checksums.
fn roster(connection: &Connection) -> Result<(i64, i64)> {
    let sql = "SELECT models, checksum FROM roster";
    let found = connection
        .query_row(sql, (), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    found.ok_or_else(|| Failure::Damaged("the number of its models is gone".into()))
}

/// Enters one model less, one more, or one for another.
fn enrol(
    transaction: &Transaction<'_>,
    gone: Option<&Stored>,
    come: Option<&Stored>,
) -> Result<()> {
    let (models, sum) = roster(transaction)?;
    let checksum = |stored: Option<&Stored>| stored.map_or(0, |stored| stored.checksum);
    let sum = sum
        .wrapping_sub(checksum(gone))
        .wrapping_add(checksum(come));
    let models = models + i64::from(come.is_some()) - i64::from(gone.is_some());
    let sql = "UPDATE roster SET models = ?1, checksum = ?2";
    transaction.execute(sql, params![models, sum])?;
    Ok(())
}

/// The model of this name and revision.
pub(super) fn find(connection: &Connection, name: &str, revision: &str) -> Result<Option<Stored>> {
    let sql = format!("SELECT {COLUMNS} FROM models WHERE name = ?1 AND revision = ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(params![name, revision])?;
    found.next()?.map(stored).transpose()
}

/// Adds a model that has so many networks. Returns its id.
pub(super) fn insert(transaction: &Transaction<'_>, entry: &Entry, networks: i64) -> Result<i64> {
    let id = "SELECT coalesce(max(id), 0) + 1 FROM models";
    let id = transaction.query_row(id, (), |row| row.get(0))?;
    let stored = Stored::new(id, entry, networks)?;
    let sql = format!(
        "INSERT INTO models ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"
    );
    transaction.execute(
        &sql,
        params![
            entry.name,
            entry.revision,
            role(entry.role),
            origin(entry.origin),
            entry.hotkey,
            entry.block.and_then(|block| i64::try_from(block).ok()),
            entry.committed_at,
            entry.model_hash,
            entry.named,
            entry.unnamed,
            entry.added_at,
            stored.id,
            stored.networks,
            stored.checksum,
        ],
    )?;
    enrol(transaction, None, Some(&stored))?;
    Ok(id)
}

/// Writes what may change about a model.
pub(super) fn update(transaction: &Transaction<'_>, known: &Stored, entry: &Entry) -> Result<()> {
    let stored = Stored::new(known.id, entry, known.networks)?;
    let sql = "UPDATE models SET origin = ?2, hotkey = ?3, block = ?4, committed_at = ?5, model_hash = ?6, \
               named = ?7, unnamed = ?8, checksum = ?9 WHERE id = ?1";
    transaction.execute(
        sql,
        params![
            stored.id,
            origin(entry.origin),
            entry.hotkey,
            entry.block.and_then(|block| i64::try_from(block).ok()),
            entry.committed_at,
            entry.model_hash,
            entry.named,
            entry.unnamed,
            stored.checksum,
        ],
    )?;
    enrol(transaction, Some(known), Some(&stored))
}

/// Takes a model out, with its networks.
pub(super) fn remove(transaction: &Transaction<'_>, known: &Stored) -> Result<()> {
    transaction.execute("DELETE FROM models WHERE id = ?1", [known.id])?;
    enrol(transaction, Some(known), None)
}

/// Refuses a model of which not all networks are there.
pub(super) fn is_complete(model: &Stored, found: i64) -> Result<()> {
    if model.networks == found {
        return Ok(());
    }
    let name = model.entry.name.escape_debug();
    let message = format!("{found} of {} sketches of {name} are there", model.networks);
    Err(Failure::Damaged(message))
}
