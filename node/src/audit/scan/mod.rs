//! Many repositories at once: what each holds, what is wrong with it, and which of them have something in
//! common.
//!
//! ```text
//! folders ──► repositories ──► identity, rules, sketch ──► equal digests
//!                (find)         (examine, from the cache)    near sketches ──► comparison ──► findings
//!                                                                     (pairs)
//! ```

mod cache;
mod examine;
mod find;
mod pairs;

use leoma_models::Result;

pub use cache::Cache;
pub use find::{Place, find};

use super::compare::Thresholds;
use super::compare::sketch::{Likeness, Sketch};
use super::identity::ModelDigest;
use super::report::{Scan, Source};
use examine::Examiner;

/// What a scan is doing.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A repository of so many bytes is looked at.
    Repository(&'a Source, u64),
    /// So many more bytes were read.
    Bytes(u64),
    /// Number and total of the pairs that are compared.
    Pair(usize, usize),
    /// Number and total of the weights of a pair.
    Weights(usize, usize),
}

/// A model, to look for it elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Probe<'a> {
    /// Which one.
    pub source: &'a Source,
    /// Its sketch, where it has weights that are known by name.
    pub sketch: Option<&'a Sketch>,
    /// The sketch of the base.
    pub base: Option<&'a Sketch>,
    /// The subnet's hash.
    pub model_hash: Option<&'a str>,
    /// Digests of all values.
    pub model_digest: Option<&'a ModelDigest>,
}

/// A model recorded elsewhere that has something in common with one that is scanned.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// What it is called.
    pub name: String,
    /// How near the sketches are; none when digests are equal.
    pub likeness: Option<Likeness>,
}

/// Looks a model up among those recorded elsewhere.
pub type Known<'a> = &'a dyn Fn(Probe<'_>) -> Vec<Candidate>;

/// How to scan.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// What all entrants were made from. Without it only equal weights are recognised.
    pub base: Option<&'a Place>,
    /// What earlier scans found.
    pub cache: &'a Cache,
    /// Where one verdict ends and the next begins.
    pub thresholds: &'a Thresholds,
    /// Models recorded elsewhere.
    pub known: Option<Known<'a>>,
    /// Told what happens, from any thread; `false` ends the scan.
    pub progress: &'a (dyn Fn(Progress<'_>) -> bool + Sync),
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("base", &self.base)
            .field("cache", &self.cache)
            .field("thresholds", &self.thresholds)
            .finish_non_exhaustive()
    }
}

/// Looks at all repositories and sets them beside each other.
///
/// # Errors
/// [`leoma_models::Error::Cancelled`]. What is wrong with a repository is among its findings.
pub fn scan(places: &[Place], options: &Options<'_>) -> Result<Scan> {
    let sketches = options.base.is_some() || options.known.is_some();
    let mut examiner = Examiner::new(options.cache, sketches, options.progress);
    let base = match options.base {
        Some(place) => Some((examiner.examine(place)?, place)),
        None => None,
    };
    let mut examined = Vec::with_capacity(places.len());
    for place in places {
        examined.push(examiner.examine(place)?);
    }
    let mut read = examiner.read;
    let base = base.as_ref().map(|(base, place)| (base, *place));
    let pairs = pairs::find(&mut examined, places, base, options, &mut read)?;
    Ok(Scan {
        base: base.map(|(base, _)| base.repository.clone()),
        repositories: examined.into_iter().map(|one| one.repository).collect(),
        pairs,
        read,
    })
}
