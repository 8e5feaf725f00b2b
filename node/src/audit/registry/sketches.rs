//! Sketches in the registry's file: written with checksums, and never believed without.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::checksum::checksum;
use super::rows::{Failure, Result, Stored, is_complete, unwritable};
use super::{Coarse, Layout, Sketch, WeightSketch};
use crate::audit::compare::sketch::LANES;

/// The row of a layout, where there is one.
pub(super) fn known_layout(connection: &Connection, layout: &Layout) -> Result<Option<i64>> {
    let sql = "SELECT id FROM layouts NOT INDEXED WHERE digest = ?1";
    Ok(connection
        .query_row(sql, [layout.digest()], |row| row.get(0))
        .optional()?)
}

/// The row of a layout, which is made where there is none.
pub(super) fn layout_id(transaction: &Transaction<'_>, layout: &Layout) -> Result<i64> {
    if let Some(id) = known_layout(transaction, layout)? {
        return Ok(id);
    }
    let weights = serde_json::to_string(&layout.weights).map_err(unwritable)?;
    let sql = "INSERT INTO layouts (digest, weights) VALUES (?1, ?2)";
    transaction.execute(sql, params![layout.digest(), weights])?;
    Ok(transaction.last_insert_rowid())
}

/// Layouts that were read already.
#[derive(Debug)]
pub(super) struct Layouts<'a> {
    connection: &'a Connection,
    known: BTreeMap<i64, Layout>,
}

impl<'a> Layouts<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self {
            connection,
            known: BTreeMap::new(),
        }
    }

    fn get(&mut self, id: i64) -> Result<&Layout> {
        match self.known.entry(id) {
            Place::Occupied(known) => Ok(known.into_mut()),
            Place::Vacant(place) => Ok(place.insert(layout(self.connection, id)?)),
        }
    }
}

fn layout(connection: &Connection, id: i64) -> Result<Layout> {
    let damaged = || Failure::Damaged("the names of a network's weights were changed".into());
    let sql = "SELECT digest, weights FROM layouts WHERE id = ?1";
    let found: Option<(String, String)> = connection
        .query_row(sql, [id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (digest, weights) = found.ok_or_else(damaged)?;
    let layout = Layout {
        weights: serde_json::from_str(&weights).map_err(|_| damaged())?,
    };
    if layout.digest() == digest {
        Ok(layout)
    } else {
        Err(damaged())
    }
}

/// A network of a model, as far as a search reads it.
pub(super) struct Network<'a> {
    pub(super) model: i64,
    pub(super) name: &'a str,
    pub(super) layout: i64,
    /// Folded sums.
    pub(super) coarse: &'a [u8],
    pub(super) squares: &'a [u8],
    near: i64,
}

impl<'a> Network<'a> {
    /// The columns that [`Network::read`] reads. The checksum lies before what is long: what lies behind is not read.
    pub(super) const COLUMNS: &'static str = "model, network, layout, near, coarse, squares";

    pub(super) fn read(row: &'a Row<'_>) -> Result<Self> {
        let network = Self {
            model: row.get(0)?,
            name: text(row, 1)?,
            layout: row.get(2)?,
            near: row.get(3)?,
            coarse: bytes(row, 4)?,
            squares: bytes(row, 5)?,
        };
        if network.near == network.checksum() {
            return Ok(network);
        }
        Err(changed(network.name))
    }

    fn checksum(&self) -> i64 {
        checksum([
            &self.model.to_le_bytes(),
            self.name.as_bytes(),
            &self.layout.to_le_bytes(),
            self.coarse,
            self.squares,
        ])
    }
}

fn changed(network: &str) -> Failure {
    let network = network.escape_debug();
    Failure::Damaged(format!("the sketch of a {network} was changed"))
}

/// Writes a network of a model.
pub(super) fn insert(
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
    let near = Network {
        model,
        name: network,
        layout,
        coarse: &folded,
        squares: &squares,
        near: 0,
    };
    let near = near.checksum();
    let sql = "INSERT INTO networks (model, network, layout, near, whole, coarse, squares, sums) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let whole = checksum([&near.to_le_bytes(), &sums]);
    transaction.execute(
        sql,
        params![model, network, layout, near, whole, folded, squares, sums],
    )?;
    Ok(())
}

/// The whole sketch of a model.
pub(super) fn whole(
    connection: &Connection,
    model: &Stored,
    layouts: &mut Layouts<'_>,
) -> Result<Sketch> {
    let sql = format!(
        "SELECT {}, whole, sums FROM networks WHERE model = ?1",
        Network::COLUMNS
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query([model.id])?;
    let mut sketch = Sketch::default();
    let mut count = 0;
    while let Some(row) = found.next()? {
        count += 1;
        let network = Network::read(row)?;
        let (whole, sums): (i64, _) = (row.get(6)?, bytes(row, 7)?);
        if checksum([&network.near.to_le_bytes(), sums]) != whole {
            return Err(changed(network.name));
        }
        let weights = &layouts.get(network.layout)?.weights;
        let (squares, sums) = (numbers(network.squares), numbers(sums));
        if squares.len() != weights.len() || sums.len() != LANES * weights.len() {
            return Err(changed(network.name));
        }
        let (sums, _) = sums.as_chunks::<LANES>();
        for (((name, elements), squares), sums) in weights.iter().zip(squares).zip(sums) {
            let weight = WeightSketch {
                elements: *elements,
                squares,
                sums: *sums,
            };
            let name = format!("{}/{name}", network.name);
            sketch.weights.insert(name, weight);
        }
    }
    is_complete(model, count)?;
    Ok(sketch)
}

/// Text of a column.
fn text<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<&'a str> {
    row.get_ref(column)?.as_str().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    })
}

/// Bytes of a column.
fn bytes<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<&'a [u8]> {
    row.get_ref(column)?.as_blob().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, error.into())
    })
}

fn numbers(bytes: &[u8]) -> Vec<f64> {
    let (numbers, _) = bytes.as_chunks::<8>();
    numbers.iter().copied().map(f64::from_le_bytes).collect()
}
