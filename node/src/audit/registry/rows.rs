//! Rows of the registry.

use std::path::Path;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, Type, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{Coarse, Entry, Layout, Origin, RegistryError, Role, Sketch, WeightSketch};
use crate::audit::compare::sketch::LANES;
use crate::store::StoreError;

/// An error that may still lack the name of the file.
#[derive(Debug)]
pub(super) enum Failure {
    Sql(rusqlite::Error),
    Registry(RegistryError),
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(super) fn at(self, path: &Path) -> RegistryError {
        match self {
            Self::Sql(error) => StoreError::sql(path, &error).into(),
            Self::Registry(error) => error,
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

/// The columns that [`entry`] reads.
pub(super) const COLUMNS: &str = "name, revision, role, origin, hotkey, block, committed_at, model_hash, named, unnamed, added_at";

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

/// Reads [`COLUMNS`], which begin at column `first`.
pub(super) fn entry(row: &Row<'_>, first: usize) -> rusqlite::Result<Entry> {
    Ok(Entry {
        name: row.get(first)?,
        revision: row.get(first + 1)?,
        role: row.get(first + 2)?,
        origin: row.get(first + 3)?,
        hotkey: row.get(first + 4)?,
        block: block(row, first + 5)?,
        committed_at: row.get(first + 6)?,
        model_hash: row.get(first + 7)?,
        named: row.get(first + 8)?,
        unnamed: row.get(first + 9)?,
        added_at: row.get(first + 10)?,
    })
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

pub(super) fn insert(transaction: &Transaction<'_>, entry: &Entry) -> Result<i64> {
    let sql = format!(
        "INSERT INTO models ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
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
        ],
    )?;
    Ok(transaction.last_insert_rowid())
}

/// Writes what may change about a model.
pub(super) fn update(transaction: &Transaction<'_>, id: i64, entry: &Entry) -> Result<()> {
    let sql = "UPDATE models SET origin = ?2, hotkey = ?3, block = ?4, committed_at = ?5, model_hash = ?6, \
               named = ?7, unnamed = ?8 WHERE id = ?1";
    transaction.execute(
        sql,
        params![
            id,
            origin(entry.origin),
            entry.hotkey,
            entry.block.and_then(|block| i64::try_from(block).ok()),
            entry.committed_at,
            entry.model_hash,
            entry.named,
            entry.unnamed,
        ],
    )?;
    Ok(())
}

/// The row of a layout, which is made where there is none.
pub(super) fn layout_id(transaction: &Transaction<'_>, layout: &Layout) -> Result<i64> {
    let digest = layout.digest();
    let known = transaction
        .query_row(
            "SELECT id FROM layouts WHERE digest = ?1",
            [&digest],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    let weights = serde_json::to_string(&layout.weights)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let sql = "INSERT INTO layouts (digest, weights) VALUES (?1, ?2)";
    transaction.execute(sql, params![digest, weights])?;
    Ok(transaction.last_insert_rowid())
}

pub(super) fn insert_network(
    transaction: &Transaction<'_>,
    model: i64,
    network: &str,
    layout: i64,
    coarse: &Coarse,
    weights: &[(&str, &WeightSketch)],
) -> Result<()> {
    let folded: Vec<u8> = coarse.sums.iter().flat_map(|x| x.to_le_bytes()).collect();
    let squares: Vec<u8> = coarse
        .squares
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let sums: Vec<u8> = weights
        .iter()
        .flat_map(|(_, weight)| weight.sums)
        .flat_map(f64::to_le_bytes)
        .collect();
    let sql = "INSERT INTO networks (model, network, layout, coarse, squares, sums) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    transaction.execute(sql, params![model, network, layout, folded, squares, sums])?;
    Ok(())
}

/// The whole sketch of a model.
pub(super) fn sketch(connection: &Connection, model: i64) -> Result<Sketch> {
    let sql = "SELECT network, weights, squares, sums FROM networks JOIN layouts ON layouts.id = layout \
               WHERE model = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query([model])?;
    let mut sketch = Sketch::default();
    while let Some(row) = found.next()? {
        let network: String = row.get(0)?;
        let weights: String = row.get(1)?;
        let weights: Vec<(String, u64)> = serde_json::from_str(&weights).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(1, Type::Text, error.into())
        })?;
        let [squares, sums] = [numbers(row, 2)?, numbers(row, 3)?];
        if squares.len() != weights.len() || sums.len() != LANES * weights.len() {
            let message = format!(
                "{} squares and {} sums for {} weights",
                squares.len(),
                sums.len(),
                weights.len()
            );
            return Err(
                rusqlite::Error::FromSqlConversionFailure(3, Type::Blob, message.into()).into(),
            );
        }
        let (sums, _) = sums.as_chunks::<LANES>();
        for (((name, elements), squares), sums) in weights.into_iter().zip(squares).zip(sums) {
            let weight = WeightSketch {
                elements,
                squares,
                sums: *sums,
            };
            sketch.weights.insert(format!("{network}/{name}"), weight);
        }
    }
    Ok(sketch)
}

/// Bytes of a column.
pub(super) fn bytes<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<&'a [u8]> {
    row.get_ref(column)?.as_blob().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, error.into())
    })
}

/// Numbers of a column.
fn numbers(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<f64>> {
    let (numbers, _) = bytes(row, column)?.as_chunks::<8>();
    Ok(numbers.iter().copied().map(f64::from_le_bytes).collect())
}
