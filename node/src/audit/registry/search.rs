//! Looking for a model among those that are registered.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use rusqlite::Connection;
use serde::Serialize;

use super::rows::{self, Stored};
use super::sketches::{self, Layouts, Network};
use super::{Entry, Registry, Result, Role, Sketch, layout, networks};
use crate::audit::compare::coarse::{Probe, Tally};
use crate::audit::compare::sketch::Likeness;
use crate::audit::scan;

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
    /// The registered models that `entry` equals or resembles, strongest reason first, at most `limit` of
    /// those that resemble it; bases and the entry itself are left out. Without a base to see the difference
    /// from, only equal ones are found.
    ///
    /// # Errors
    /// [`super::RegistryError::Store`]; also where only part of the registry can be read.
    pub fn candidates(
        &self,
        entry: &Entry,
        probe: Option<(&Sketch, &Sketch)>,
        limit: usize,
    ) -> Result<Vec<Candidate>> {
        self.with(|connection| {
            let models = rows::models(connection)?;
            let mut reasons: BTreeMap<i64, Reason> = models
                .iter()
                .filter_map(|model| Some((model.id, equal(entry, &model.entry)?)))
                .collect();
            if let Some((sketch, base)) = probe {
                let mut alike = alike(connection, &models, sketch, base)?;
                alike.sort_by(|(_, a), (_, b)| order(a, b));
                for (id, reason) in alike.into_iter().take(limit) {
                    reasons.entry(id).or_insert(reason);
                }
            }
            let mut candidates: Vec<Candidate> = models
                .into_iter()
                .filter_map(|model| {
                    let reason = *reasons.get(&model.id)?;
                    let found = model.entry;
                    let itself = (&found.name, &found.revision) == (&entry.name, &entry.revision);
                    (found.role == Role::Model && !itself).then_some(Candidate {
                        entry: found,
                        reason,
                    })
                })
                .collect();
            candidates.sort_by(|a, b| order(&a.reason, &b.reason));
            Ok(candidates)
        })
    }

    /// The same for a scan, by name.
    ///
    /// # Errors
    /// As [`Self::candidates`].
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
}

fn order(a: &Reason, b: &Reason) -> Ordering {
    a.rank().partial_cmp(&b.rank()).unwrap_or(Ordering::Equal)
}

/// What two models have in common by their digests.
fn equal(a: &Entry, b: &Entry) -> Option<Reason> {
    let digests = [
        (&a.model_hash, &b.model_hash, Reason::SameModelHash),
        (&a.named, &b.named, Reason::SameWeights),
        (&a.unnamed, &b.unnamed, Reason::SameValues),
    ];
    let same = digests.into_iter().find(|(a, b, _)| a.is_some() && a == b);
    same.map(|(_, _, reason)| reason)
}

/// A network of the model that is looked for, and of its base, folded.
struct Folded {
    /// Row of their layout; none when no registered model has it.
    layout: Option<i64>,
    probe: Probe,
}

/// Models whose sketches are alike. One that has every network in the layout of the model that is looked for is
/// compared by the coarse sketches, unless weights of it or of the model that is looked for were displaced on purpose;
/// any other weight by weight, so that neither leaving a weight out nor displacing some is a hiding place.
fn alike(
    connection: &Connection,
    models: &[Stored],
    sketch: &Sketch,
    base: &Sketch,
) -> rows::Result<Vec<(i64, Reason)>> {
    let bases = networks(base);
    let mut folded: BTreeMap<&str, Folded> = BTreeMap::new();
    // Networks that there is something to compare in.
    let mut wanted = 0_usize;
    for (network, weights) in networks(sketch) {
        let Some(under) = bases.get(network) else {
            continue;
        };
        wanted += 1;
        let found = layout(&weights);
        if layout(under) == found {
            let fold = Folded {
                layout: sketches::known_layout(connection, &found)?,
                probe: Probe::new(&weights, under),
            };
            folded.insert(network, fold);
        }
    }
    let tallies = tally(connection, models, &folded)?;
    let mut layouts = Layouts::new(connection);
    let mut alike = Vec::new();
    for model in models
        .iter()
        .filter(|model| model.entry.role == Role::Model)
    {
        let likeness = match tallies.get(&model.id) {
            Some((count, tally)) if *count == wanted && !tally.is_displaced() => tally.likeness(),
            _ => sketches::whole(connection, model, &mut layouts)?.likeness(sketch, base),
        };
        if let Some(likeness) = likeness.filter(Likeness::is_near) {
            alike.push((model.id, Reason::Alike(likeness)));
        }
    }
    Ok(alike)
}

/// What the folded networks say of every model, and how many of them it has. Reads the table itself and no index: who
/// is missing in one is missed.
fn tally(
    connection: &Connection,
    models: &[Stored],
    folded: &BTreeMap<&str, Folded>,
) -> rows::Result<BTreeMap<i64, (usize, Tally)>> {
    let mut tallies: BTreeMap<i64, (usize, Tally)> = BTreeMap::new();
    let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
    let sql = format!("SELECT {} FROM networks NOT INDEXED", Network::COLUMNS);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(())?;
    while let Some(row) = found.next()? {
        let network = Network::read(row)?;
        *counts.entry(network.model).or_default() += 1;
        let Some(fold) = folded
            .get(network.name)
            .filter(|fold| fold.layout == Some(network.layout))
        else {
            continue;
        };
        let (count, tally) = tallies.entry(network.model).or_default();
        *count += 1;
        tally.add(&fold.probe, network.coarse, network.squares);
    }
    for model in models {
        let found = counts.get(&model.id).copied().unwrap_or_default();
        rows::is_complete(model, found)?;
    }
    Ok(tallies)
}
