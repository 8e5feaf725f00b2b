//! What the targets share. [`entry`] is also part of the tests, which need no libFuzzer.

use std::sync::LazyLock;

pub mod entry;

/// The one checkpoint of a process; its folder goes with the scratch folder of `run`.
pub static VICTIM: LazyLock<entry::Victim> = LazyLock::new(entry::Victim::new);
