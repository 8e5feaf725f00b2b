//! What was measured on the clip: gates, signals, and what changes over time.

use super::draw::Course;
use super::frames;
use super::scores::{Side, words};
use crate::judge::embeddings::{EmbeddingSignal, EmbeddingSignals};
use crate::judge::input::JudgeInput;
use crate::judge::local::Record;
use crate::judge::signals::gates::{GateHit, GateId};
use crate::judge::verdict::Outcome;
use crate::report::html::{escaped, put};
use crate::report::words::count;

/// The measurements of the local side.
fn record(sides: &[Side<'_>]) -> Option<Record> {
    sides.iter().find_map(|side| match side.outcome {
        Outcome::Verdict(verdict) => Record::of(&verdict.details),
        Outcome::NoVerdict(none) => Record::of(none.details.as_deref()?),
    })
}

/// The gates that closed, each with its sentence, and the signals behind them.
pub(super) fn gates(page: &mut String, sides: &[Side<'_>]) {
    put!(page, "<section>\n<h2>What was measured</h2>");
    let Some(record) = record(sides) else {
        put!(
            page,
            "<p>No signals were measured: the local judge was not asked, or gave none.</p>\n</section>"
        );
        return;
    };
    let hits: Vec<GateHit> = GateId::ALL
        .into_iter()
        .filter_map(|gate| {
            let reason = record.gates.get(gate.key())?.clone();
            Some(GateHit { gate, reason })
        })
        .collect();
    if hits.is_empty() {
        put!(
            page,
            "<p>No gate closed: no damage was found, which is no proof of quality.</p>"
        );
    } else {
        put!(page, "<p>{} closed.</p>\n<ul>", count(hits.len(), "gate"));
    }
    for hit in &hits {
        put!(
            page,
            "<li><strong><code>{}</code></strong> {} {}</li>",
            hit.gate.key(),
            escaped(&hit.reason),
            effect(hit.gate)
        );
    }
    if !hits.is_empty() {
        put!(page, "</ul>");
    }
    put!(
        page,
        "<details><summary>{}</summary>\n<div class=\"wide\"><table><thead><tr><th scope=\"col\">signal</th>\
         <th scope=\"col\" class=\"number\">value</th></tr></thead><tbody>",
        count(record.signals.len(), "signal")
    );
    for (name, value) in &record.signals {
        put!(
            page,
            "<tr><td><code>{}</code></td><td class=\"number\">{value:.4}</td></tr>",
            escaped(name)
        );
    }
    put!(page, "</tbody></table></div>\n</details>");
    if let Some(found) = &record.embeddings {
        embeddings(page, found);
    }
    put!(
        page,
        "<p class=\"note\">{}</p>\n</section>",
        escaped(&record.statement)
    );
}

/// What CLIP and DINOv2 see.
fn embeddings(page: &mut String, found: &EmbeddingSignals) {
    put!(
        page,
        "<div class=\"wide\"><table><thead><tr><th scope=\"col\">CLIP and DINOv2, in {}</th>\
         <th scope=\"col\" class=\"number\">value</th></tr></thead><tbody>",
        count(found.indices.len(), "frame")
    );
    for id in EmbeddingSignal::ALL {
        if let Some(value) = found.get(id) {
            put!(
                page,
                "<tr><td><code>{}</code></td><td class=\"number\">{value:.4}</td></tr>",
                id.key()
            );
        }
    }
    put!(page, "</tbody></table></div>");
    for (model, digest) in &found.weights_sha256 {
        put!(
            page,
            "<p class=\"note\">weights of {} <code>{}</code></p>",
            escaped(model),
            escaped(digest)
        );
    }
    if found.dropped_tokens > 0 {
        put!(
            page,
            "<p class=\"note\">CLIP had no room for the last {} of the prompt.</p>",
            count(found.dropped_tokens, "token")
        );
    }
}

/// What follows from a gate that closed.
fn effect(gate: GateId) -> String {
    if gate.is_hard_fail() {
        return "The clip fails.".into();
    }
    let caps: Vec<String> = gate
        .caps()
        .iter()
        .map(|(dimension, points)| format!("{} keeps at most {points}", words(*dimension)))
        .collect();
    match (caps.is_empty(), gate.flags()) {
        (true, _) => "It lowers no score and asks for a second look.".into(),
        (false, flags) => {
            let look = if flags {
                ", and asks for a second look"
            } else {
                ""
            };
            format!("With the local judge, {}{look}.", caps.join(", "))
        }
    }
}

/// What every frame is like, with marks for those that the remote judge is `shown`.
pub(super) fn courses(page: &mut String, input: &JudgeInput, shown: &[usize]) {
    let (brightness, change) = frames::courses(&input.frames);
    put!(page, "<section>\n<h2>Over time</h2>");
    for (name, values, first) in [
        ("mean brightness", &brightness, 0),
        ("mean change from the frame before", &change, 1),
    ] {
        let course = Course {
            name,
            values,
            first,
            frames: input.frames.len(),
            shown,
        };
        put!(
            page,
            "<figure><figcaption><strong>{name}</strong>, levels of 0 to 255</figcaption>\
             <div class=\"wide\">{}</div></figure>",
            course.draw()
        );
    }
    if !shown.is_empty() {
        put!(
            page,
            "<p class=\"legend\"><span class=\"swatch against\"></span> frames of the remote judge <span \
             class=\"swatch unseen\"></span> what it does not see</p>"
        );
    }
    put!(
        page,
        "<p class=\"note\">Drawn from some of the pixels, to be looked at; the signals above are measured on all of \
         them.</p>\n</section>"
    );
}
