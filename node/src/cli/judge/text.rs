//! A judgement for people.

use std::fmt::Write as _;

use serde_json::Value;

use crate::judge::embeddings::EmbeddingSignal;
use crate::judge::local::{Record, SameFrames};
use crate::judge::rubric::Dimension;
use crate::judge::side::Judgement;
use crate::judge::verdict::{DecidedBy, Outcome, Usage, Verdict, fault_name};
use crate::report::words::turns_text;

/// Longest note of a model that is shown.
const NOTE_CHARS: usize = 300;

/// All of it; the decision comes first.
pub(super) fn judgement(judgement: &Judgement) -> String {
    let decision = &judgement.decision;
    let word = match decision.pass {
        Some(true) => "PASS",
        Some(false) => "FAIL",
        None => "NO VERDICT",
    };
    // Writing into a text cannot fail, here and below.
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{word}  mode {}: {}\n",
        judgement.mode.name(),
        line(&decision.why)
    );
    let sides: Vec<_> = [("remote", &judgement.remote), ("local", &judgement.local)]
        .into_iter()
        .filter_map(|(side, outcome)| Some((side, outcome.as_ref()?)))
        .collect();
    table(&mut text, &sides);
    for (side, outcome) in sides {
        match outcome {
            Outcome::Verdict(verdict) => details(&mut text, side, verdict),
            Outcome::NoVerdict(none) => {
                let _ = writeln!(
                    text,
                    "{side}: no verdict: {} (fault: {})",
                    line(&none.to_string()),
                    fault_name(none.fault)
                );
                if let Some(details) = none.details.as_deref() {
                    embeddings(&mut text, details);
                }
            }
        }
    }
    text
}

fn table(text: &mut String, sides: &[(&str, &Outcome)]) {
    let verdicts: Vec<_> = sides
        .iter()
        .filter_map(|(side, outcome)| Some((*side, outcome.verdict()?)))
        .collect();
    if verdicts.is_empty() {
        return;
    }
    let _ = write!(text, "{:<26}", "");
    for (side, _) in &verdicts {
        let _ = write!(text, "{side:>8}");
    }
    text.push('\n');
    let mut row = |name: &str, of: &dyn Fn(&Verdict) -> String| {
        let _ = write!(text, "{name:<26}");
        for (_, verdict) in &verdicts {
            let _ = write!(text, "{:>8}", of(verdict));
        }
        text.push('\n');
    };
    for dimension in Dimension::ALL {
        let name = dimension.key().replace('_', " ");
        let mark = if dimension.is_critical() { " *" } else { "" };
        row(&format!("{name}{mark}"), &|verdict| {
            if verdict.unjudged.contains(&dimension) {
                "-".into()
            } else {
                verdict.scores[dimension].to_string()
            }
        });
    }
    row("overall, weighted", &|verdict| {
        verdict.weighted_overall.to_string()
    });
    row("overall, the model's own", &|verdict| {
        verdict
            .model_overall
            .map_or_else(|| "-".into(), |overall| overall.to_string())
    });
    row("overall that decides", &|verdict| {
        verdict.overall.to_string()
    });
    row("passes", &|verdict| {
        if verdict.pass { "yes" } else { "no" }.into()
    });
    text.push_str("* critical\n\n");
}

fn details(text: &mut String, side: &str, verdict: &Verdict) {
    let decides = match verdict.decided_by {
        DecidedBy::Model => "the model's own overall decides",
        DecidedBy::Weighted => "the weighted overall decides",
    };
    let _ = writeln!(
        text,
        "{side}: {} {}, profile {}, {decides}; {}",
        line(&verdict.judge),
        line(&verdict.model),
        verdict.profile,
        usage(&verdict.usage)
    );
    for (mark, notes) in [("-", &verdict.issues), ("+", &verdict.strengths)] {
        for note in notes {
            let _ = writeln!(text, "  {mark} {}", line(note));
        }
    }
    if !verdict.reasoning.is_empty() {
        let _ = writeln!(text, "  {}", line(&verdict.reasoning));
    }
    embeddings(text, &verdict.details);
    if let Some(same) = SameFrames::of(verdict) {
        let _ = writeln!(
            text,
            "  of the remote judge's frames alone: overall {}",
            same.overall
        );
    }
    if let Some(chance) = verdict.calibrated_p_pass {
        let _ = writeln!(
            text,
            "  by calibration the chance that the remote judge passes it is {chance:.2}"
        );
    }
    if let Some(why) = verdict.details["calibration_refused"].as_str() {
        let _ = writeln!(text, "  not calibrated: {}", line(why));
    }
}

/// What CLIP and DINOv2 see, where they looked.
fn embeddings(text: &mut String, details: &Value) {
    let Some(found) = Record::of(details).and_then(|record| record.embeddings) else {
        return;
    };
    let known = EmbeddingSignal::ALL
        .into_iter()
        .filter_map(|id| Some((id, found.get(id)?)));
    let values: Vec<_> = known
        .map(|(id, value)| format!("{} {value:.3}", id.key()))
        .collect();
    let (frames, values) = (found.indices.len(), values.join(", "));
    let _ = writeln!(text, "  in {frames} frames: {values}");
    if found.dropped_tokens > 0 {
        let _ = writeln!(
            text,
            "  the prompt is {} tokens longer than CLIP can read",
            found.dropped_tokens
        );
    }
}

fn usage(usage: &Usage) -> String {
    if usage.requests == 0 {
        return format!("{:.1} s", usage.millis as f64 / 1e3);
    }
    let cost = usage.nano_usd.map_or_else(
        || "cost not known".into(),
        |nano| format!("${:.4}", nano as f64 / 1e9),
    );
    format!(
        "{} {}, {} + {} tokens, {cost}, {:.1} s",
        usage.requests,
        if usage.requests == 1 {
            "request"
        } else {
            "requests"
        },
        usage.tokens_in,
        usage.tokens_out,
        usage.millis as f64 / 1e3
    )
}

/// A text of others on one line of a terminal: nothing in it is a command to the terminal.
fn line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| {
            if c.is_control() || turns_text(c) {
                ' '
            } else {
                c
            }
        })
        .take(NOTE_CHARS)
        .collect();
    if text.chars().nth(NOTE_CHARS).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::profile::{Configuration, Profile};
    use crate::judge::rubric::{Rules, Scores};
    use crate::judge::sampling::FrameRule;
    use crate::judge::side::{Decision, Mode, Side};
    use crate::judge::verdict::{NoVerdict, Reason};

    #[test]
    fn what_clip_and_dinov2_see_is_printed() {
        let details = serde_json::json!({
            "limits_version": 1, "signals": {}, "camera": null, "gates": {}, "statement": "", "signals_millis": 1,
            "embeddings": {
                "values": {"dino_first": 0.98761, "clip_text": 0.25, "another": 1.0},
                "weights_sha256": {}, "indices": [0, 8], "dropped_tokens": 4,
            },
        });
        let mut text = String::new();
        embeddings(&mut text, &details);
        assert_eq!(
            text,
            "  in 2 frames: clip_text 0.250, dino_first 0.988\n  the prompt is 4 tokens longer than CLIP can read\n"
        );
        text.clear();
        embeddings(&mut text, &Value::Null);
        assert_eq!(text, "");
    }

    #[test]
    fn what_a_model_writes_stays_on_its_line() {
        let rules = Rules::default();
        let configuration =
            Configuration::remote(Profile::Subnet, "m", rules, FrameRule::default());
        let mut verdict = Verdict::of_scores("remote", &configuration, Scores::new([80; 6]));
        verdict.issues = vec!["a\u{1b}[2J\nPASS\u{202e}".into(), "x".repeat(1000)];
        let none = NoVerdict::new(
            "local",
            Reason::Weights,
            leoma_models::Fault::Local,
            "no weights",
        );
        let text = judgement(&Judgement {
            mode: Mode::Shadow,
            remote: Some(verdict.into()),
            local: Some(none.into()),
            decision: Decision {
                pass: Some(true),
                by: Some(Side::Remote),
                why: "because".into(),
            },
        });
        assert!(text.starts_with("PASS  mode shadow: because\n"), "{text}");
        assert!(text.contains("  - a [2J PASS \n"), "{text}");
        assert!(text.contains(&format!("  - {}…\n", "x".repeat(300))));
        assert!(
            text.contains("first frame fidelity *          80\n"),
            "{text}"
        );
        assert!(
            text.contains("local: no verdict: weights: no weights (fault: local)"),
            "{text}"
        );
    }
}
