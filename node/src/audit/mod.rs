//! Audits of weights: what exactly a repository holds, whether it keeps the subnet's rules, and whether it
//! is a copy of another one that was made to look different.
//!
//! ```text
//! tree       which files there are, and which of them may be read
//! identity   digests of files, tensors and the whole model, in one pass over the disk
//! rules      the subnet's rules, and what a careful reader refuses: pickles, code, damaged values
//! compare    differences from a common base, and what they say about where weights come from
//! registry   models that are known, to find in milliseconds what a new one should be compared with
//! scan       many repositories at once, and only what changed is read again
//! preflight  what a miner wants to know before submitting one
//! report     what was found, for people and for programs
//! ```
//!
//! Nothing found in a repository is executed, and nothing outside it is read. An audit accuses people:
//! whatever could not be read is said, and never counts as clean.

pub mod compare;
pub mod finding;
pub mod identity;
pub mod model_hash;
pub mod preflight;
pub mod registry;
pub mod report;
pub mod rules;
pub mod scan;
pub mod tree;

mod disk;
mod pass;
#[cfg(test)]
mod tests;
mod weights;

pub use finding::{Finding, Rule, Severity};
pub use identity::{FileDigest, Identity, ModelDigest, Options, TensorDigest, identify};
