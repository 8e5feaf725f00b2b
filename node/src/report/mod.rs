//! What all reports share: the program's name, words, JSON and the page.

pub(crate) mod html;
pub(crate) mod json;
pub(crate) mod words;

use serde::Serialize;

/// The program that made a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

impl Tool {
    /// This program.
    pub const THIS: Self = Self {
        name: "leoma-node",
        version: env!("CARGO_PKG_VERSION"),
    };
}
