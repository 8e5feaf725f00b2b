//! The outputs of a result.

mod csv;
mod format;
mod html;
mod markdown;
mod style;
mod svg;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;

pub(crate) use format::{bytes, fraction, rate, seconds};
pub(crate) use markdown::render as markdown;

use super::result::LatencyReport;
use crate::files;

/// An output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Markdown,
    Csv,
    Json,
    Html,
}

impl Format {
    const ALL: [Self; 4] = [Self::Markdown, Self::Csv, Self::Json, Self::Html];

    /// Extension of its files, and its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Markdown => "md",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Html => "html",
        }
    }

    fn render(self, report: &LatencyReport) -> Result<String> {
        Ok(match self {
            Self::Markdown => markdown::render(report),
            Self::Csv => csv::render(report),
            Self::Json => report.to_json()?,
            Self::Html => html::render(report),
        })
    }
}

/// One output: a format, under the usual name or in a file of the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    format: Format,
    file: Option<PathBuf>,
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |name: &str| Format::ALL.into_iter().find(|format| format.name() == name);
        if let Some(format) = named(text) {
            return Ok(Self { format, file: None });
        }
        let path = PathBuf::from(text);
        let format = path
            .extension()
            .and_then(|extension| named(&extension.to_string_lossy()));
        match format {
            Some(format) => Ok(Self {
                format,
                file: Some(path),
            }),
            None => Err("give md, csv, json, html, or a file whose name ends so".to_owned()),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}", file.display()),
            None => f.write_str(self.format.name()),
        }
    }
}

impl Output {
    /// Writes the output; returns its file.
    pub(crate) fn write(&self, report: &LatencyReport, dir: &Path) -> Result<PathBuf> {
        let path = match &self.file {
            Some(file) => file.clone(),
            None => report.path(dir, self.format.name())?,
        };
        files::write(&path, &self.format.render(report)?)?;
        Ok(path)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
