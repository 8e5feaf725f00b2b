//! From figures to a sentence.
//!
//! A verdict says what the weights are consistent with. Who was first is not in the weights: that comes
//! from the chain and the Hub.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::{Evidence, is_trained};

/// What two models are consistent with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The same weights in the same types.
    Identical,
    /// The same values in other types, names, files, or with rows in another order.
    Repacked,
    /// One is the other with small changes.
    Perturbed,
    /// One holds a share of the other's difference from the base.
    Merged,
    /// Nothing in common beyond the base.
    SameBaseOnly,
    /// Not made from the same base, or not the same architecture.
    Unrelated,
    /// The figures do not decide.
    Inconclusive,
}

impl Verdict {
    /// Whether it speaks of a copy.
    pub fn is_copy(self) -> bool {
        matches!(
            self,
            Self::Identical | Self::Repacked | Self::Perturbed | Self::Merged
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identical => "identical",
            Self::Repacked => "repacked",
            Self::Perturbed => "perturbed",
            Self::Merged => "merged",
            Self::SameBaseOnly => "same_base_only",
            Self::Unrelated => "unrelated",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// Where one verdict ends and the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
pub struct Thresholds {
    /// Least cosine between the differences for `perturbed`.
    pub perturbed: f64,
    /// Least cosine between the differences for `merged`.
    pub merged: f64,
    /// Least coefficient of one difference in the other, the larger of both directions, for `merged`: a merge holds
    /// a share of what went into it, and what went in holds all of that share. Two that go on from a third hold
    /// a part of each other, whichever way it is looked at.
    pub contained: f64,
    /// Largest spread of the coefficient over tensors for `merged`, relative to the coefficient.
    pub spread: f64,
    /// Largest cosine between the differences for `same_base_only`.
    pub independent: f64,
    /// Share of weights, by elements, that must be copied as they are for a part to count as copied.
    pub copied_part: f64,
    /// Share of weights, by elements, that must be comparable at all.
    pub comparable: f64,
    /// Least size of a difference, in steps of the grid it is stored on, for its direction to mean anything.
    pub resolved: f64,
}

impl Default for Thresholds {
    /// Set on the first part of the labelled set (`scripts/audit-set`), reported on the others: see `docs/audit.md`.
    /// The gap between `independent` and `perturbed` is wide on purpose, as an accusation must not be a guess.
    fn default() -> Self {
        Self {
            perturbed: 0.95,
            merged: 0.5,
            contained: 0.75,
            spread: 0.1,
            independent: 0.3,
            copied_part: 0.05,
            comparable: 0.5,
            resolved: 0.5,
        }
    }
}

/// How often verdicts were wrong on models whose origin is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub struct ErrorRate {
    /// Pairs in which one is a copy of the other.
    pub copies: u32,
    /// Those of them that were not called copies.
    pub missed: u32,
    /// Pairs in which neither is.
    pub others: u32,
    /// Those of them that were called copies.
    pub accused: u32,
}

impl Thresholds {
    /// On the third part of the labelled set, which was made after the default limits and judged once. Other limits
    /// have not been measured. `docs/audit.md` has the table, and what it does not cover.
    pub fn error_rate(&self) -> Option<ErrorRate> {
        (*self == Self::default()).then_some(ErrorRate {
            copies: 108,
            missed: 0,
            others: 268,
            accused: 0,
        })
    }
}

/// The verdict on some evidence, and the sentence that says why.
pub fn judge(evidence: &Evidence, limits: &Thresholds) -> (Verdict, String) {
    let e = evidence;
    if e.networks.is_empty() {
        let message = "The two have no network in common: there is nothing to compare.";
        return (Verdict::Inconclusive, message.into());
    }
    if e.tensors == 0 || e.comparable_share < limits.comparable {
        let message = format!(
            "The two models have {:.0} % of their weights in the same names and shapes: they are not the same \
             architecture.",
            100.0 * e.comparable_share
        );
        return (Verdict::Unrelated, message);
    }
    let in_one = e.unmatched[0] + e.unmatched[1] > 0;
    if in_one && !e.networks.iter().any(|&network| is_trained(network)) {
        let message = "The two have no transformer in common, and other networks come from the base as they are.";
        return (Verdict::Inconclusive, message.into());
    }
    if e.equal_share >= 1.0 && e.comparable_share >= 1.0 {
        return if in_one {
            let names: Vec<_> = e.networks.iter().map(ToString::to_string).collect();
            let message = format!(
                "All {} weights of the networks that both have ({}) have the same values.",
                e.tensors,
                names.join(", ")
            );
            (Verdict::Repacked, message)
        } else if e.same_types {
            let message = format!(
                "All {} weights have the same values in the same types.",
                e.tensors
            );
            (Verdict::Identical, message)
        } else {
            let message = format!(
                "All {} weights have the same values once both are brought to the coarser of their types.",
                e.tensors
            );
            (Verdict::Repacked, message)
        };
    }
    if !e.has_base {
        let message = format!(
            "{:.1} % of the weights are equal. Without the common base nothing more can be said, as all \
             fine-tunes of one base look alike: give --base.",
            100.0 * e.equal_share
        );
        return (Verdict::Inconclusive, message);
    }
    if e.base_is_coarser {
        let message = "The base is stored more coarsely than the models: its rounding would look like \
                       something they have in common. Give the base in its original type.";
        return (Verdict::Inconclusive, message.into());
    }
    // Where a part that counts is near the base and related, the rest does not hide it.
    let related = e.cosine.is_some_and(|cosine| cosine >= limits.merged)
        && e.displaced_share <= 1.0 - limits.copied_part;
    if e.displaced_share > 1.0 - limits.comparable && !related {
        let message = format!(
            "{:.0} % of the weights lie far from the base, and no reordering, rescaling or rotation that is \
             known here brings them near it: at least one model was not made from this base.",
            100.0 * e.displaced_share
        );
        return (Verdict::Unrelated, message);
    }
    let Some(cosine) = e.cosine else {
        let message = "At least one of the models does not differ from the base in weights that could be \
                       compared: they have nothing in common beyond it.";
        return (Verdict::SameBaseOnly, message.into());
    };
    let mut besides = String::new();
    if !e.undone.is_empty() {
        let names: Vec<_> = e.undone.keys().map(String::as_str).collect();
        let _ = write!(
            besides,
            " {} of the weights lay far from the base until a change was undone that training does not make ({}).",
            e.undone.values().sum::<usize>(),
            names.join(", ")
        );
    }
    if e.displaced_share > limits.copied_part {
        let _ = write!(
            besides,
            " {:.0} % of the weights lie far from the base for no reason that is known here.",
            100.0 * e.displaced_share
        );
    }
    // Rounding alone does not make differences point the same way.
    let coarse = e.resolution.is_some_and(|steps| steps < limits.resolved);
    if coarse && cosine < limits.perturbed {
        let message = format!(
            "The differences from the base are smaller than the steps in which the weights are stored: their \
             direction is mostly rounding.{besides}"
        );
        return (Verdict::Inconclusive, message);
    }
    if cosine >= limits.perturbed {
        let all_equal = e.relative_l2.is_some_and(|distance| distance < 1e-6);
        let all_seen = e.displaced_share <= limits.copied_part;
        return if all_equal && all_seen && !e.undone.is_empty() {
            let message =
                format!("The values are the same once reordered rows are put back.{besides}");
            (Verdict::Repacked, message)
        } else if e.equal_share >= 1.0 {
            let message = format!(
                "All weights that both have hold the same values, {:.0} % of what is in either.",
                100.0 * e.comparable_share
            );
            (Verdict::Repacked, message)
        } else {
            let message = format!(
                "The differences from the base point the same way (cosine {cosine:.3}): consistent with one \
                 model being the other with small changes.{besides}"
            );
            (Verdict::Perturbed, message)
        };
    }
    if e.low_rank_change {
        let message = format!(
            "The models differ from each other in few directions, from the base in many: consistent with a \
             low-rank change (a LoRA) merged into one to give the other. Cosine of the differences from the \
             base {cosine:.3}.{besides}"
        );
        return (Verdict::Perturbed, message);
    }
    if e.copied_share >= limits.copied_part {
        let message = format!(
            "{:.0} % of the changed weights are changed in the same way in both models, the others are not: \
             consistent with parts of one having been put into the other.{besides}",
            100.0 * e.copied_share
        );
        return (Verdict::Merged, message);
    }
    let even = e
        .coefficient_spread
        .is_some_and(|spread| spread <= limits.spread);
    let contained = [e.coefficient, e.reverse_coefficient]
        .into_iter()
        .flatten()
        .any(|coefficient| coefficient >= limits.contained);
    if cosine >= limits.merged && contained && even {
        let message = format!(
            "B holds {:.2} of A's difference from the base, evenly in all weights (cosine {cosine:.3}): \
             consistent with a merge or interpolation.{besides}",
            e.coefficient.unwrap_or_default()
        );
        return (Verdict::Merged, message);
    }
    if cosine.abs() <= limits.independent && e.undone.is_empty() {
        let message = format!(
            "The differences from the base point different ways (cosine {cosine:.3}): consistent with two \
             independent fine-tunes of one base."
        );
        return (Verdict::SameBaseOnly, message);
    }
    let message = format!(
        "The differences from the base are related (cosine {cosine:.3}), as fine-tunes on the same data or of the \
         same third model can be, and as copies can be: the weights alone do not decide.{besides}"
    );
    (Verdict::Inconclusive, message)
}
