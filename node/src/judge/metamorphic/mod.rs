//! The metamorphic suite: clips made by code, damaged by code, and what the signals say of it.
//!
//! It needs no files and no weights, so the figures of `docs/judge-signals.md` can be repeated anywhere
//! with `leoma-node judge bench`. Generated clips are simpler than real ones: the suite shows that a signal
//! sees what it is for and where it is fooled, not how often that happens among miners' clips.

mod clips;
mod damage;
mod jpeg;
mod paint;
mod report;
mod table;
mod writing;

pub use clips::{GeneratedClip, Kind, Shape, generate};
pub use damage::{Damage, apply};
pub use report::{Setting, damage_table, gate_table, results, signal_table};
pub use table::{
    CLAIMS, Claim, Flags, INVERSIONS, Row, Sample, Split, auc, caught, false_flags, rows, sample,
};

#[cfg(test)]
mod tests;
