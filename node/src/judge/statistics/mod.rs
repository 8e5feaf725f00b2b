//! How far two judges agree, in figures whose limits are known.
//!
//! Every figure is a [`Statistic`]: a function of how often each clip counts. Counting every clip once gives the
//! value; drawing whole tasks with replacement gives its interval ([`bootstrap`]). A case in which a definition
//! divides by zero has no value but a reason ([`Undefined`]): no report ever holds "not a number".
//!
//! Formulas and what they mean: docs/judge-agreement.md. Held against scikit-learn and scipy by
//! `scripts/golden/judge_statistics.py`.

pub mod agreement;
pub mod bootstrap;
pub mod human;
pub mod kendall;
pub mod pairs;
pub mod probability;
pub mod rank;
pub mod ratings;
pub mod read;
#[cfg(test)]
pub(in crate::judge) mod reference;

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a figure has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Undefined {
    /// There is nothing to count.
    NoData,
    /// Everything is of one class (all passed, or all failed), so that chance explains any agreement.
    OneClass,
    /// All scores of a judge are equal, or both judges stay in the same bin: there is no order to compare.
    Constant,
    /// The clips lie in fewer tasks than are needed to hold some out.
    TooFewTasks,
    /// A value that went in is no number.
    NotFinite,
}

impl Undefined {
    /// The reason in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoData => "no data",
            Self::OneClass => "one class only",
            Self::Constant => "no variation",
            Self::TooFewTasks => "too few tasks",
            Self::NotFinite => "not a number",
        }
    }
}

impl fmt::Display for Undefined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// A figure, or why there is none.
pub type Figure = Result<f64, Undefined>;

/// The last door before a report: infinities and "not a number" stay out.
pub(crate) fn finite(value: f64) -> Figure {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Undefined::NotFinite)
    }
}

/// A figure of clips, each of which may count several times or not at all.
pub trait Statistic {
    /// The figure. `weights[row]` says how often the clip of that row counts; a row beyond its end does not.
    fn figure(&self, weights: &[u32]) -> Figure;

    /// The rows that the figure uses.
    fn rows(&self) -> Vec<usize>;

    /// The figure over all clips, each once.
    fn value(&self) -> Figure {
        let length = self.rows().into_iter().max().map_or(0, |last| last + 1);
        self.figure(&vec![1; length])
    }
}

/// How often the clip of a row counts.
fn weight(weights: &[u32], row: usize) -> u64 {
    weights.get(row).copied().map_or(0, u64::from)
}
