//! Whether one model was made from another, seen through what hides it.
//!
//! All entrants fine-tune the same base, so any two of them are nearly equal and nothing follows from that.
//! What counts is what training has added: the *differences* from the base. Those of a copy point the same
//! way whatever noise was laid over it, those of independent trainings do not. Changes that leave the
//! network's results as they are (heads and hidden rows in another order, channels rescaled, heads rotated)
//! are estimated against the base and undone first.
//!
//! Weights are matched by diffusers names, whatever the layout, and compared on the coarsest of their types.
//! Files are streamed: memory does not grow with the models.

mod align;
pub mod coarse;
mod deltas;
pub mod layers;
mod low_rank;
mod model;
pub mod sketch;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use leoma_kernels::delta::Moments;
use leoma_models::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use align::Disguise;
pub use deltas::TensorComparison;
pub use verdict::{ErrorRate, Thresholds, Verdict, judge};

use super::weights::Component;
use align::DISPLACED;
use deltas::Triple;
use model::{Grid, Model, Name};

/// Displaced weights that are looked at closely; the rest counts as they do.
const MOST_UNDONE: usize = 48;
/// Matrices whose differences are tested for few directions.
const MOST_DIRECTIONS: usize = 12;
/// A difference between models in so few directions, relative to the differences from the base, is a
/// low-rank change.
const FEWER: f64 = 0.5;
/// How far from one the coefficient of a difference may be that is contained in another as a whole.
const WHOLE: f64 = 0.1;
/// Cosine from which a single weight counts as changed in the same way.
const SAME_CHANGE: f64 = 0.98;
/// Relative size below which a difference from the base is no change: rounding of f32 alone.
const UNMOVED: f64 = 1e-7;

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct Evidence {
    /// Networks that both models have: what only one of them has is not compared.
    pub networks: Vec<Component>,
    /// Weights in both models under the same name and shape.
    pub tensors: usize,
    /// Elements in them.
    pub elements: u64,
    /// Weights only A has, only B has, or that have another shape in B.
    pub unmatched: [usize; 3],
    /// Share of the weights of those networks, by elements, that are in both.
    pub comparable_share: f64,
    /// Share of the compared weights, by number, whose values are equal.
    pub equal_share: f64,
    /// All compared weights are stored in the same types.
    pub same_types: bool,
    /// A base was given.
    pub has_base: bool,
    /// The base is stored more coarsely than a model.
    pub base_is_coarser: bool,
    /// Share of the elements that neither model has changed from the base.
    pub unchanged_share: f64,
    /// Share of the elements that lie far from the base for no known reason.
    pub displaced_share: f64,
    /// Size of A's difference from the base, relative to the base.
    pub moved_a: Option<f64>,
    /// Size of B's difference from the base, relative to the base.
    pub moved_b: Option<f64>,
    /// Cosine between the differences, over all weights that count.
    pub cosine: Option<f64>,
    /// Median of the cosines of single matrices.
    pub median_cosine: Option<f64>,
    /// Coefficient with which A's difference is contained in B's: median over matrices.
    pub coefficient: Option<f64>,
    /// Coefficient with which B's difference is contained in A's: median over matrices.
    pub reverse_coefficient: Option<f64>,
    /// Median distance of a matrix's coefficient from that, relative to it.
    pub coefficient_spread: Option<f64>,
    /// Distance between A and B, relative to A's difference from the base.
    pub relative_l2: Option<f64>,
    /// Share of the changed elements in weights that are changed in the same way in both.
    pub copied_share: f64,
    /// Size of the smaller difference in steps of the coarsest type, where that has 16 or 8 bits. Far below
    /// one step two independent differences have a cosine of up to 0.3, as both cross the same near boundaries.
    pub resolution: Option<f64>,
    /// Changes that were undone, and in how many weights.
    pub undone: BTreeMap<String, usize>,
    /// Directions of the differences A - base, B - base, B - A (medians over blocks of `directions_of` rows
    /// and columns).
    pub directions: Option<[f64; 3]>,
    /// Side of those blocks.
    pub directions_of: Option<usize>,
    /// B and A differ in far fewer directions than one of them from the base, whose difference the other
    /// holds as a whole.
    pub low_rank_change: bool,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// The comparison of two models.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Comparison {
    /// What the weights are consistent with.
    pub verdict: Verdict,
    /// Why, in plain sentences.
    pub statement: String,
    /// The figures.
    pub evidence: Evidence,
    /// The limits that the figures were held against.
    pub thresholds: Thresholds,
    /// Every weight, by network and name.
    pub per_tensor: Vec<TensorComparison>,
}

/// Compares the models at `a` and `b` (folders of either layout, or single files), which were made from
/// `base`. `progress` is called with the number of weights done and their total, and ends the comparison
/// with `false`.
///
/// # Errors
/// [`Error::Artifact`] or [`Error::Io`] for a model that cannot be read, [`Error::Cancelled`].
pub fn compare(
    a: &Path,
    b: &Path,
    base: Option<&Path>,
    thresholds: &Thresholds,
    progress: &(dyn Fn(usize, usize) -> bool + Sync),
) -> Result<Comparison> {
    let (a, b) = (Model::open(a)?, Model::open(b)?);
    let base = base.map(Model::open).transpose()?;
    let mut evidence = Evidence {
        has_base: base.is_some(),
        same_types: true,
        problems: [Some(&a), Some(&b), base.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(|model| model.problems.clone())
            .collect(),
        ..Evidence::default()
    };
    let pairs = pairs(&a, &b, base.as_ref(), &mut evidence);
    let head_dim = base
        .as_ref()
        .and_then(|base| base.head_dim)
        .or(a.head_dim)
        .or(b.head_dim);
    let per_tensor = each(&pairs, head_dim.or(Some(128)), progress)?;
    gather(&pairs, &per_tensor, &mut evidence)?;
    let (verdict, statement) = judge(&evidence, thresholds);
    Ok(Comparison {
        verdict,
        statement,
        evidence,
        thresholds: *thresholds,
        per_tensor,
    })
}

/// The weights that can be compared.
fn pairs<'a>(
    a: &'a Model,
    b: &'a Model,
    base: Option<&'a Model>,
    evidence: &mut Evidence,
) -> Vec<(&'a Name, Triple<'a>)> {
    let networks = |model: &Model| -> BTreeSet<Component> {
        let components = model.weights.keys().map(|(component, _)| *component);
        components.collect()
    };
    let networks: BTreeSet<_> = &networks(a) & &networks(b);
    let mut pairs = Vec::new();
    let (mut all, mut common) = (0_u64, 0_u64);
    for (name, in_a) in &a.weights {
        if networks.contains(&name.0) {
            all += in_a.elements() as u64;
        }
        match b.weights.get(name) {
            None => evidence.unmatched[0] += 1,
            Some(in_b) if in_b.shape() != in_a.shape() => evidence.unmatched[2] += 1,
            Some(in_b) => {
                common += in_a.elements() as u64;
                let base = base
                    .and_then(|base| base.weights.get(name))
                    .filter(|base| base.shape() == in_a.shape());
                pairs.push((
                    name,
                    Triple {
                        a: in_a,
                        b: in_b,
                        base,
                    },
                ));
            }
        }
    }
    for (name, in_b) in &b.weights {
        if !a.weights.contains_key(name) {
            evidence.unmatched[1] += 1;
            if networks.contains(&name.0) {
                all += in_b.elements() as u64;
            }
        }
    }
    evidence.networks = networks.into_iter().collect();
    evidence.tensors = pairs.len();
    evidence.elements = common;
    evidence.comparable_share = if all > 0 {
        common as f64 / all as f64
    } else {
        0.0
    };
    evidence.same_types = pairs
        .iter()
        .all(|(_, pair)| pair.a.dtype() == pair.b.dtype());
    evidence.base_is_coarser = pairs.iter().any(|(_, pair)| pair.base_is_coarser());
    pairs
}

/// Compares every weight.
fn each(
    pairs: &[(&Name, Triple<'_>)],
    head_dim: Option<usize>,
    progress: &(dyn Fn(usize, usize) -> bool + Sync),
) -> Result<Vec<TensorComparison>> {
    let done = AtomicUsize::new(0);
    let mut compared: Vec<TensorComparison> = pairs
        .par_iter()
        .map(|((component, name), pair)| {
            let sums = pair.moments()?;
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if !progress(done, pairs.len()) {
                return Err(Error::Cancelled);
            }
            Ok(tensor(*component, name, pair, sums))
        })
        .collect::<Result<_>>()?;
    // One at a time: parts of matrices are held in memory for this.
    let displaced: Vec<usize> = (0..compared.len())
        .filter(|&index| compared[index].displaced)
        .collect();
    // Spread over the whole model.
    let step = displaced.len().div_ceil(MOST_UNDONE).max(1);
    for index in displaced.into_iter().step_by(step) {
        let ((component, name), pair) = (pairs[index].0, &pairs[index].1);
        let head_dim = head_dim.filter(|_| is_trained(*component));
        compared[index].examined = true;
        if let Some((sums, undone)) = pair.undone(head_dim)? {
            let mut again = tensor(*component, name, pair, sums);
            [again.undone_a, again.undone_b] = undone;
            (again.equal, again.examined) = (false, true);
            compared[index] = again;
        }
    }
    Ok(compared)
}

fn tensor(component: Component, name: &str, pair: &Triple<'_>, sums: Moments) -> TensorComparison {
    let relative =
        |part: f64| (pair.base.is_some() && sums.cc > 0.0).then(|| (part / sums.cc).sqrt());
    let displaced =
        pair.base.is_some() && (sums.aa > DISPLACED * sums.cc || sums.bb > DISPLACED * sums.cc);
    let cosine = sums.cosine().filter(|_| pair.base.is_some());
    TensorComparison {
        component,
        name: name.to_owned(),
        shape: pair.a.shape().to_vec(),
        equal: sums.dd == 0.0,
        same_type: pair.a.dtype() == pair.b.dtype(),
        moved_a: relative(sums.aa),
        moved_b: relative(sums.bb),
        cosine,
        coefficient: cosine.is_some().then(|| sums.ab / sums.aa),
        relative_l2: cosine.is_some().then(|| (sums.dd / sums.aa).sqrt()),
        undone_a: None,
        undone_b: None,
        // Vectors of norms and biases may move far; what they say is little.
        displaced: displaced && pair.a.shape().iter().filter(|&&length| length > 1).count() >= 2,
        examined: false,
        sums,
    }
}

/// Puts the figures of single weights together.
fn gather(
    pairs: &[(&Name, Triple<'_>)],
    compared: &[TensorComparison],
    evidence: &mut Evidence,
) -> Result<()> {
    let count = compared.len().max(1) as f64;
    evidence.equal_share = compared.iter().filter(|t| t.equal).count() as f64 / count;
    if !evidence.has_base {
        return Ok(());
    }
    for disguise in compared
        .iter()
        .flat_map(|t| [t.undone_a, t.undone_b])
        .flatten()
    {
        let name = serde_json::to_value(disguise).ok();
        let name = name
            .as_ref()
            .and_then(|name| name.as_str())
            .unwrap_or_default()
            .to_owned();
        *evidence.undone.entry(name).or_default() += 1;
    }
    // What is trained is the transformers; other networks come from the base as they are. Matrices only:
    // they hold nearly all weights, and norms and biases move in ways of their own.
    let any = compared.iter().any(|t| is_trained(t.component));
    let counts: Vec<usize> = (0..compared.len())
        .filter(|&i| {
            let t = &compared[i];
            (!any || is_trained(t.component))
                && pairs[i].1.base.is_some()
                && t.shape.iter().filter(|&&length| length > 1).count() >= 2
        })
        .collect();
    let size = |i: usize| pairs[i].1.a.elements() as f64;
    let total: f64 = counts.iter().map(|&i| size(i)).sum();
    let share = |what: &dyn Fn(&TensorComparison) -> bool| -> f64 {
        let part: f64 = counts
            .iter()
            .filter(|&&i| what(&compared[i]))
            .map(|&i| size(i))
            .sum();
        // The sum of nothing is a negative zero.
        if total > 0.0 { part / total + 0.0 } else { 0.0 }
    };
    let moved = |t: &TensorComparison| {
        t.moved_a.is_some_and(|m| m > UNMOVED) && t.moved_b.is_some_and(|m| m > UNMOVED)
    };
    let still = |t: &TensorComparison| {
        t.moved_a.is_none_or(|m| m <= UNMOVED) && t.moved_b.is_none_or(|m| m <= UNMOVED)
    };
    evidence.unchanged_share = share(&|t| still(t));
    // What was not looked at closely counts as what was.
    let explained = share(&|t| t.undone_a.is_some() || t.undone_b.is_some());
    let unexplained = share(&|t| t.displaced && t.examined);
    let unseen = share(&|t| t.displaced && !t.examined);
    let examined = explained + unexplained;
    let rate = if examined > 0.0 {
        unexplained / examined
    } else {
        1.0
    };
    evidence.displaced_share = unexplained + unseen * rate;
    let changed: Vec<usize> = counts
        .iter()
        .copied()
        .filter(|&i| !compared[i].displaced && moved(&compared[i]))
        .collect();
    let mut sums = Moments::default();
    for &i in &changed {
        sums.add(&compared[i].sums);
    }
    if changed.is_empty() {
        return Ok(());
    }
    evidence.moved_a = Some((sums.aa / sums.cc).sqrt());
    evidence.moved_b = Some((sums.bb / sums.cc).sqrt());
    evidence.cosine = sums.cosine();
    evidence.relative_l2 = Some((sums.dd / sums.aa).sqrt());
    evidence.median_cosine = median(changed.iter().filter_map(|&i| compared[i].cosine));
    evidence.coefficient = median(changed.iter().filter_map(|&i| compared[i].coefficient));
    let reverse = |i: &usize| compared[*i].sums.ab / compared[*i].sums.bb;
    evidence.reverse_coefficient = median(changed.iter().map(reverse));
    evidence.coefficient_spread = evidence.coefficient.and_then(|middle| {
        median(
            changed
                .iter()
                .filter_map(|&i| Some((compared[i].coefficient? / middle - 1.0).abs())),
        )
    });
    let changed_total: f64 = changed.iter().map(|&i| size(i)).sum();
    let alike = changed
        .iter()
        .filter(|&&i| compared[i].cosine.is_some_and(|c| c >= SAME_CHANGE));
    evidence.copied_share = alike.map(|&i| size(i)).sum::<f64>() / changed_total;
    // Steps per value of the coarsest grid: bf16 has 8 significant bits, 8-bit codes have 4.
    let steps = match changed.iter().map(|&i| pairs[i].1.grid()).max() {
        None | Some(Grid::Single) => None,
        Some(Grid::Bf16) => Some(256.0),
        Some(Grid::Codes) => Some(16.0),
    };
    evidence.resolution = steps.map(|steps| (sums.aa.min(sums.bb) / sums.cc).sqrt() * steps);
    directions(pairs, &changed, &sums, evidence)
}

/// Whether the models differ from each other in fewer directions than from the base.
fn directions(
    pairs: &[(&Name, Triple<'_>)],
    changed: &[usize],
    sums: &Moments,
    evidence: &mut Evidence,
) -> Result<()> {
    let step = changed.len().div_ceil(MOST_DIRECTIONS).max(1);
    let found: Vec<([Option<f64>; 3], usize)> = changed
        .par_iter()
        .step_by(step)
        .map(|&index| pairs[index].1.directions())
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect();
    let middle = |which: usize| median(found.iter().filter_map(|(counts, _)| counts[which]));
    if let (Some(a), Some(b), Some(between)) = (middle(0), middle(1), middle(2)) {
        evidence.directions = Some([a, b, between]);
        evidence.directions_of = found.iter().map(|(_, side)| *side).max();
        // The model with more directions would be the original: then all of its difference is in the other.
        let contained = sums.ab / if a >= b { sums.aa } else { sums.bb };
        evidence.low_rank_change = between <= FEWER * a.max(b) && (contained - 1.0).abs() <= WHOLE;
    }
    Ok(())
}

/// Whether a network is one that entrants train; the others come from the base.
fn is_trained(component: Component) -> bool {
    matches!(component, Component::Transformer | Component::Transformer2)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
