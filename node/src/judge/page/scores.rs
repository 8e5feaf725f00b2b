//! The table of scores: both judges beside each other.

use super::draw::bar;
use crate::judge::answer::Parse;
use crate::judge::rubric::{Dimension, Rules};
use crate::judge::verdict::{DecidedBy, Outcome, Verdict};
use crate::report::html::{escaped, put};

/// A judge that was asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side<'a> {
    /// `remote` or `local`.
    pub(super) name: &'static str,
    /// What it said.
    pub(super) outcome: &'a Outcome,
    /// What passes by its configuration.
    pub(super) rules: Rules,
}

impl<'a> Side<'a> {
    /// Its verdict, where there is one.
    pub(super) fn verdict(&self) -> Option<&'a Verdict> {
        self.outcome.verdict()
    }

    /// What it fell short of, in words; nothing for a clip that passes.
    pub(super) fn misses(&self) -> Vec<String> {
        let Some(verdict) = self.verdict().filter(|verdict| !verdict.pass) else {
            return Vec::new();
        };
        let Rules {
            pass_overall,
            pass_critical,
        } = self.rules;
        let mut misses = Vec::new();
        if verdict.overall < pass_overall {
            misses.push(format!(
                "the overall score is {} and {pass_overall} is needed",
                verdict.overall
            ));
        }
        for (dimension, score) in verdict.scores.iter() {
            if dimension.is_critical() && score < pass_critical {
                misses.push(format!(
                    "{} is {score} and {pass_critical} is needed",
                    words(dimension)
                ));
            }
        }
        if matches!(verdict.parse, Parse::Unparseable | Parse::Truncated) {
            misses.push("the answer was no usable score object, which counts as zeros".into());
        }
        misses
    }
}

/// Its name for people.
pub(super) fn words(dimension: Dimension) -> String {
    dimension.key().replace('_', " ")
}

/// The table.
pub(super) fn table(page: &mut String, sides: &[Side<'_>]) {
    put!(
        page,
        "<section>\n<h2>Scores</h2>\n<div class=\"wide\"><table class=\"scores\"><thead><tr>\
         <th scope=\"col\">dimension</th><th scope=\"col\" class=\"number\">weight</th>"
    );
    for side in sides {
        let model = match side.outcome {
            Outcome::Verdict(verdict) => verdict.model.as_str(),
            Outcome::NoVerdict(_) => "no verdict",
        };
        put!(
            page,
            "<th scope=\"col\">{}<br><code>{}</code></th>",
            side.name,
            escaped(model)
        );
    }
    put!(page, "</tr></thead><tbody>");
    for dimension in Dimension::ALL {
        let critical = if dimension.is_critical() {
            " <span class=\"severity\">critical</span>"
        } else {
            ""
        };
        put!(
            page,
            "<tr><th scope=\"row\">{}{critical}</th><td class=\"number\">{:.2}</td>",
            words(dimension),
            dimension.weight()
        );
        for side in sides {
            let least = dimension.is_critical().then_some(side.rules.pass_critical);
            let judged = side
                .verdict()
                .filter(|verdict| !verdict.unjudged.contains(&dimension));
            match (judged, side.verdict()) {
                (Some(verdict), _) => cell(page, verdict.scores[dimension], least),
                (None, Some(_)) => put!(page, "<td class=\"note\">not judged</td>"),
                (None, None) => put!(page, "<td class=\"note\">–</td>"),
            }
        }
        put!(page, "</tr>");
    }
    sums(page, sides);
    put!(
        page,
        "</tbody></table></div>\n<p class=\"note\">The upright line in a bar is the least score that passes: in the \
         three critical dimensions, and overall. The scores of two judges are never mixed.</p>\n</section>"
    );
}

fn cell(page: &mut String, score: u8, least: Option<u8>) {
    put!(
        page,
        "<td><div class=\"score\"><span class=\"value\">{score}</span>{}</div></td>",
        bar(score, least)
    );
}

/// Rows below the dimensions.
fn sums(page: &mut String, sides: &[Side<'_>]) {
    let decides = |verdict: &Verdict, by: DecidedBy| verdict.decided_by == by;
    row(page, sides, "weighted overall", |page, side, verdict| {
        let least = decides(verdict, DecidedBy::Weighted).then_some(side.rules.pass_overall);
        cell(page, verdict.weighted_overall, least);
    });
    row(
        page,
        sides,
        "the model's own overall",
        |page, side, verdict| {
            let least = decides(verdict, DecidedBy::Model).then_some(side.rules.pass_overall);
            if let Some(overall) = verdict.model_overall {
                cell(page, overall, least);
            } else {
                put!(page, "<td class=\"note\">none</td>");
            }
        },
    );
    row(page, sides, "which decides", |page, _, verdict| {
        let which = match verdict.decided_by {
            DecidedBy::Model => "the model's own",
            DecidedBy::Weighted => "the weighted one",
        };
        put!(page, "<td>{which}: {}</td>", verdict.overall);
    });
    row(page, sides, "passes", |page, _, verdict| {
        let (class, word) = if verdict.pass {
            ("clean", "yes")
        } else {
            ("high", "no")
        };
        put!(
            page,
            "<td><span class=\"severity {class}\">{word}</span></td>"
        );
    });
    if sides.iter().any(|side| calibrated(side).is_some()) {
        row(
            page,
            sides,
            "chance to pass remotely",
            |page, _, verdict| {
                if let Some(chance) = verdict.calibrated_p_pass {
                    put!(page, "<td>{chance:.2}, by calibration</td>");
                } else {
                    put!(page, "<td class=\"note\">–</td>");
                }
            },
        );
    }
    row(page, sides, "how sure it says it is", |page, _, verdict| {
        if let Some(confidence) = verdict.confidence {
            put!(page, "<td>{confidence}</td>");
        } else {
            put!(page, "<td class=\"note\">–</td>");
        }
    });
}

fn calibrated(side: &Side<'_>) -> Option<f64> {
    side.verdict()?.calibrated_p_pass
}

fn row(
    page: &mut String,
    sides: &[Side<'_>],
    name: &str,
    value: impl Fn(&mut String, &Side<'_>, &Verdict),
) {
    put!(
        page,
        "<tr class=\"sum\"><th scope=\"row\">{name}</th><td></td>"
    );
    for side in sides {
        if let Some(verdict) = side.verdict() {
            value(page, side, verdict);
        } else {
            put!(page, "<td class=\"note\">–</td>");
        }
    }
    put!(page, "</tr>");
}
