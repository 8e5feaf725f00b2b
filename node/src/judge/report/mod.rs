//! How far a local judge agrees with a remote one: the agreement page.
//!
//! ```text
//! log ──► Selection ──► Report ──► text  for people
//!                             ──► json  `docs/schemas/judge-report.schema.json`
//!                             ──► html  one page with drawings and the clips that disagree most
//! ```
//!
//! Everything in a log that came from models, prompts and file names is hostile: it is escaped in the page, and
//! without control characters in the text.

mod disagreement;
mod html;
mod json;
mod measure;
mod plots;
mod sentences;
#[cfg(test)]
mod tests;
mod text;

use leoma_models::Result;
use serde::Serialize;

pub use disagreement::{CRITICAL_GAP, Disagreement, OVERALL_GAP, Reason};

use super::calibration::table::Invalid;
use super::calibration::{self, Method, Point};
use super::rubric::Dimension;
use super::statistics::Figure;
use super::statistics::agreement::Confusion;
use super::statistics::bootstrap::{ENOUGH_TASKS, Estimate};
use super::statistics::pairs::{LocalJudge, RemoteJudge};
use super::statistics::probability::Bin;

/// Version of the JSON form. A new field does not change it, anything else does.
pub const VERSION: u32 = 1;

/// What no report of this kind proves; part of all forms.
pub const LIMITS: [&str; 5] = [
    "Agreement is not quality. These figures say how far one judge does as the other does; both can be wrong \
     about a clip together.",
    "The remote judge is not the truth. Above its own agreement with itself no local judge can be told apart from \
     it, and what lies there is noise.",
    "The figures hold for clips like the ones in this log. Other models, prompts or tricks can change them \
     without a warning.",
    "Intervals are of 95 % and take tasks as independent of each other. Of twenty such intervals about one misses.",
    "A remote judge that changes behind its name looks like a local judge that got worse.",
];

/// The forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people at a terminal.
    Text,
    /// One JSON object.
    Json,
    /// One page that needs nothing else.
    Html,
}

/// What a log holds beside the clips that are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LogFacts {
    /// Lines of the log.
    pub lines: usize,
    /// Lines that hold no pair of verdicts: one of the judges gave none.
    pub without_verdicts: usize,
    /// Lines that could not be read.
    pub unusable: usize,
    /// The first of them.
    pub problems: Vec<Problem>,
}

/// A line that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl Problem {
    /// Where it is, for people.
    pub fn place(&self) -> String {
        let line = format!("line {}", self.line);
        match &self.log {
            Some(log) => format!("{line} of {log}"),
            None => line,
        }
    }
}

/// A count of a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Counted.
    pub part: u64,
    /// Of these.
    pub whole: u64,
    /// The share, with an interval over tasks.
    pub rate: Estimate,
    /// Wilson's interval, which takes clips as independent.
    pub wilson: Option<[f64; 2]>,
}

/// Pass and fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Counts.
    pub confusion: Confusion,
    /// Same decision.
    pub agreement: Estimate,
    /// Cohen's kappa.
    pub kappa: Estimate,
    /// Passed by the local judge among those failed by the remote one.
    pub false_pass: Share,
    /// Failed by the local judge among those passed by the remote one.
    pub false_fail: Share,
}

/// A score of both judges.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The dimension; none is the overall score.
    pub dimension: Option<Dimension>,
    /// Quadratic kappa on five bins.
    pub quadratic_kappa: Estimate,
    /// Spearman's correlation.
    pub spearman: Estimate,
    /// Mean of local less remote.
    pub mean_gap: Figure,
    /// Mean size of that difference.
    pub mean_distance: Figure,
    /// Of the remote judge with itself.
    pub ceiling: Estimate,
    /// (local, remote), for the drawing.
    pub points: Vec<(f64, f64)>,
}

impl Scored {
    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        self.dimension.map_or("overall", Dimension::key)
    }
}

/// Where chances of a pass come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChanceSource {
    /// The log: what a calibration said when the clip was judged.
    Logged,
    /// A calibration of this log, of clips that it had not seen.
    OutOfFold,
    /// There are none.
    None,
}

/// Chances of a remote pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Chances {
    /// Where they come from.
    pub source: ChanceSource,
    /// Why there are none.
    pub refusal: Option<String>,
    /// How they were made, where this report made them.
    pub method: Option<Method>,
    /// How well the local overall score orders clips that pass above those that fail.
    pub auc: Estimate,
    /// Brier score.
    pub brier: Estimate,
    /// Brier score of always saying the share that passes.
    pub base_brier: Figure,
    /// Expected calibration error.
    pub ece: Estimate,
    /// Kappa of the calibrated decision, on clips that were held out.
    pub kappa: Estimate,
    /// Points of the reliability diagram.
    pub bins: Vec<Bin>,
}

/// The remote judge beside itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Ceiling {
    /// Same decision.
    pub agreement: Estimate,
    /// Cohen's kappa.
    pub kappa: Estimate,
    /// Quadratic kappa of the overall score.
    pub quadratic_kappa: Estimate,
    /// Spearman's correlation of the overall score.
    pub spearman: Estimate,
}

/// A calibration table beside the log.
#[derive(Debug, Clone, PartialEq)]
pub struct TableCheck {
    /// Why it cannot be used for these judges.
    pub invalid: Option<Invalid>,
    /// Why the local judge must not stand in for the remote one with it.
    pub unfit: Vec<String>,
    /// Kappa of its decisions now and when it was made.
    pub drift: calibration::Drift,
    /// When it was made.
    pub fitted_at: String,
}

/// How far two judges agree.
#[derive(Debug, Clone)]
pub struct Report {
    /// What the log holds beside them.
    pub log: LogFacts,
    /// The local judge.
    pub local: LocalJudge,
    /// The remote judge.
    pub remote: RemoteJudge,
    /// Clips of these judges, with and without a local verdict.
    pub clips: usize,
    /// Clips among them with both verdicts.
    pub judged: usize,
    /// Tasks of the clips with both verdicts.
    pub tasks: usize,
    /// Records of clips that were there already.
    pub duplicates: usize,
    /// Repeats whose first verdict is not in the log.
    pub orphans: usize,
    /// Records of other judges.
    pub others: Vec<(LocalJudge, RemoteJudge, usize)>,
    /// When the first and the last clip were judged, in seconds since 1970.
    pub span: Option<(f64, f64)>,
    /// Pass and fail.
    pub decision: Decision,
    /// The six dimensions, then the overall score.
    pub scores: Vec<Scored>,
    /// Chances of a remote pass.
    pub chances: Chances,
    /// The remote judge beside itself.
    pub ceiling: Ceiling,
    /// The newest clips beside the earlier ones.
    pub drift: calibration::Drift,
    /// Kappa over time.
    pub course: Vec<Point>,
    /// The table that was given.
    pub table: Option<TableCheck>,
    /// Clips on which the judges differ enough to be looked at, the worst first.
    pub disagreements: Vec<Disagreement>,
    /// Number of such clips.
    pub disagreeing: usize,
}

impl Report {
    /// Clips of the page, with their pictures; the JSON form has more, without pictures.
    pub const SHOWN_CLIPS: usize = 40;

    /// Whether there are tasks enough to speak about agreement at all.
    pub fn is_sufficient(&self) -> bool {
        self.tasks >= ENOUGH_TASKS
    }

    /// Whether the judges no longer agree as they did, or the calibration that was given belongs to others.
    pub fn is_alarm(&self) -> bool {
        let table = self.table.as_ref();
        self.drift.alarm || table.is_some_and(|table| table.drift.alarm || table.invalid.is_some())
    }

    /// Who is compared.
    pub fn title(&self) -> String {
        if self.clips == 0 {
            "Agreement of two judges".into()
        } else {
            format!(
                "{} beside {}",
                self.local.local_id, self.remote.remote_model
            )
        }
    }

    /// The report in one of its forms, with a line end.
    ///
    /// # Errors
    /// [`leoma_models::Error::Local`] when it cannot be written, which is a mistake in this program.
    pub fn render(&self, form: Form) -> Result<String> {
        Ok(match form {
            Form::Text => text::render(self),
            Form::Json => json::render(self)?,
            Form::Html => html::render(self),
        })
    }
}
