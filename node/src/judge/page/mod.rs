//! One judgement as a page that needs nothing else: `judge --format html`.
//!
//! The decision stands on top, then what both judges say, what they were shown, what was measured, and at the end,
//! folded away, what the models wrote. Prompts and answers are written by others and stay text.

mod draw;
mod frames;
mod measured;
mod scores;

use std::sync::Arc;

use leoma_models::Fault;

use super::canonical::sha256;
use super::input::{JudgeInput, ShownFrame};
use super::local::SameFrames;
use super::profile::Configuration;
use super::rubric::Rules;
use super::side::{self, Judgement};
use super::verdict::{Answer, NoVerdict, Outcome, Usage, fault_name};
use crate::report::Tool;
use crate::report::html::{self, Images, escaped, put};
use crate::report::words::count;
use scores::Side;

const STYLE: &str = concat!(
    include_str!("../report/agreement.css"),
    include_str!("page.css")
);
/// Pixels per row of the two first frames, and of a frame that was shown.
const WIDEST: usize = 480;
const THUMBNAIL: usize = 240;
/// Where to read what is meant.
const REMARK: &str =
    "What all of this means is in docs/judge.md and docs/judge-signals.md of the sources.";

/// The page of a judgement. `configurations` are those of the judges that ran; `evidence_sha256` is the digest of
/// the bundle, where one was kept.
pub fn page(
    input: &JudgeInput,
    judgement: &Judgement,
    configurations: &[&Configuration],
    evidence_sha256: Option<&str>,
) -> String {
    let sides = sides(judgement, configurations);
    let mut page = html::open("Judgement of a clip", Images::Inline, STYLE);
    decision(&mut page, judgement, &sides);
    put!(page, "<section>\n<h2>What the clip was to show</h2>");
    put!(page, "<p class=\"said\">{}</p>", escaped(&input.prompt));
    put!(page, "</section>");
    if !sides.is_empty() {
        scores::table(&mut page, &sides);
        said(&mut page, &sides);
    }
    first_frame(&mut page, input);
    let shown = shown(&mut page, input, judgement, configurations);
    measured::gates(&mut page, &sides);
    measured::courses(&mut page, input, &shown);
    raw(&mut page, &sides);
    facts(&mut page, input, &sides, configurations, evidence_sha256);
    html::close(&mut page, &Tool::THIS, REMARK);
    page
}

/// The page where nothing could be judged.
pub fn nothing(none: &NoVerdict) -> String {
    let mut page = html::open("No judgement", Images::None, STYLE);
    put!(
        page,
        "<p class=\"outcome open\"><strong>There is no verdict.</strong> {}</p>",
        escaped(&sentence(&none.message))
    );
    put!(
        page,
        "<section>\n<h2>Whose fault it is</h2>\n<p>{}</p>\n</section>",
        fault(none.fault)
    );
    html::close(&mut page, &Tool::THIS, REMARK);
    page
}

fn sides<'a>(judgement: &'a Judgement, configurations: &[&Configuration]) -> Vec<Side<'a>> {
    let asked = [("remote", &judgement.remote), ("local", &judgement.local)];
    let asked = asked
        .into_iter()
        .filter_map(|(name, outcome)| Some((name, outcome.as_ref()?)));
    asked
        .map(|(name, outcome)| Side {
            name,
            outcome,
            rules: rules(outcome, configurations),
        })
        .collect()
}

/// The thresholds of the judge that said this.
fn rules(outcome: &Outcome, configurations: &[&Configuration]) -> Rules {
    let own = outcome.verdict().and_then(|verdict| {
        configurations
            .iter()
            .find(|configuration| configuration.sha256() == verdict.configuration_sha256)
    });
    own.or(configurations.first())
        .map_or_else(Rules::default, |configuration| configuration.rules)
}

/// A sentence of its own: a capital in front, a full stop behind.
fn sentence(text: &str) -> String {
    let text = text.trim();
    let mut rest = text.chars();
    let mut whole: String = rest.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(rest).collect()
    });
    if !whole.ends_with(['.', '!', '?']) {
        whole.push('.');
    }
    whole
}

fn decision(page: &mut String, judgement: &Judgement, sides: &[Side<'_>]) {
    let decision = &judgement.decision;
    let (class, words) = match decision.pass {
        Some(true) => ("clean", "The clip passes."),
        Some(false) => ("found", "The clip fails."),
        None => ("open", "There is no verdict on this clip."),
    };
    put!(
        page,
        "<p class=\"outcome {class}\"><strong>{words}</strong> {}</p>",
        escaped(&sentence(&decision.why))
    );
    put!(page, "<section>\n<h2>Who decided, and why</h2>\n<ul>");
    let rule = match judgement.mode {
        side::Mode::Remote => "the remote judge alone is asked and decides",
        side::Mode::Shadow => {
            "both judges are asked, the remote one decides, the local one is on record"
        }
        side::Mode::Local => "the local judge alone is asked and decides",
        side::Mode::Both => "a clip passes where both judges pass it",
        side::Mode::Fallback => {
            "the remote judge decides; the local one stands in while the remote one is withdrawn, if it is calibrated"
        }
    };
    put!(page, "<li>Mode {}: {rule}.</li>", judgement.mode.name());
    let by = match decision.by {
        Some(side::Side::Remote) => "The remote judge decided.",
        Some(side::Side::Local) => "The local judge decided.",
        Some(side::Side::Both) => "Both judges decided.",
        None => {
            "Nobody decided. That says nothing about the clip unless the fault below is the clip's."
        }
    };
    put!(page, "<li>{by}</li>");
    for side in sides {
        for miss in side.misses() {
            put!(page, "<li>By the {} judge, {miss}.</li>", side.name);
        }
        if let Outcome::NoVerdict(none) = side.outcome {
            put!(
                page,
                "<li>The {} judge gave no verdict (<code>{}</code>). {} {}</li>",
                side.name,
                none.reason.name(),
                escaped(&sentence(&none.message)),
                fault(none.fault)
            );
        }
    }
    put!(page, "</ul>\n</section>");
}

fn fault(fault: Fault) -> String {
    let words = match fault {
        Fault::Caller => "The fault is that of who asked",
        Fault::Artifact => "The fault is that of the clip",
        Fault::Transient => "The fault is a passing one",
        Fault::Local => "The fault is of this machine or its settings",
    };
    format!("{words} (<code>{}</code>).", fault_name(fault))
}

fn list(page: &mut String, title: &str, notes: &[String]) {
    if notes.is_empty() {
        return;
    }
    put!(page, "<p>{title}</p>\n<ul class=\"notes\">");
    for note in notes {
        put!(page, "<li>{}</li>", escaped(note));
    }
    put!(page, "</ul>");
}

fn said(page: &mut String, sides: &[Side<'_>]) {
    put!(page, "<section>\n<h2>What the judges say</h2>");
    for side in sides {
        let Some(verdict) = side.verdict() else {
            continue;
        };
        put!(
            page,
            "<h3>The {} judge: {}</h3>",
            side.name,
            escaped(&verdict.judge)
        );
        if !verdict.reasoning.is_empty() {
            put!(
                page,
                "<p class=\"said\">{}</p>",
                escaped(&verdict.reasoning)
            );
        }
        if let Some(same) = SameFrames::of(verdict) {
            let passes = if same.pass { "passes" } else { "fails" };
            put!(
                page,
                "<p>Shown exactly the remote judge's frames, it gives {} overall and {passes} the clip: that is what \
                 is compared with the remote judge.</p>",
                same.overall
            );
        }
        list(page, "It finds wrong:", &verdict.issues);
        list(page, "It finds good:", &verdict.strengths);
        if let Some(writing) = verdict.text_in_frames {
            let writing = if writing { "sees" } else { "sees no" };
            put!(
                page,
                "<p class=\"note\">It {writing} writing in the frames.</p>"
            );
        }
    }
    put!(
        page,
        "<p class=\"note\">These words were written by models. They explain scores and decide nothing.</p>\n</section>"
    );
}

fn image(page: &mut String, source: Option<String>, alt: &str, caption: &str) {
    put!(page, "<figure>");
    if let Some(source) = source {
        put!(page, "<img alt=\"{alt}\" src=\"{source}\">");
    } else {
        put!(page, "<p class=\"note\">cannot be shown</p>");
    }
    put!(page, "<figcaption>{caption}</figcaption></figure>");
}

fn first_frame(page: &mut String, input: &JudgeInput) {
    put!(
        page,
        "<section>\n<h2>The first frame</h2>\n<div class=\"pair\">"
    );
    let given = frames::picture(&input.first, WIDEST);
    image(
        page,
        given,
        "the given first frame",
        "The given first frame",
    );
    let own = input
        .frames
        .first()
        .and_then(|frame| frames::picture(frame, WIDEST));
    image(page, own, "frame 0 of the clip", "Frame 0 of the clip");
    put!(page, "</div>\n</section>");
}

/// Seconds of a frame.
fn seconds(input: &JudgeInput, frame: usize) -> f64 {
    frame as f64 * f64::from(input.fps.1) / f64::from(input.fps.0.max(1))
}

/// The frames of the remote judge; their numbers, for the courses.
fn shown(
    page: &mut String,
    input: &JudgeInput,
    judgement: &Judgement,
    configurations: &[&Configuration],
) -> Vec<usize> {
    let (Some(remote), Some(configuration)) = (&judgement.remote, configurations.first()) else {
        return Vec::new();
    };
    let has_seen = match remote {
        Outcome::Verdict(_) => true,
        Outcome::NoVerdict(none) => !none.answers.is_empty(),
    };
    let title = if has_seen {
        "What the remote judge saw"
    } else {
        "What the remote judge would have seen"
    };
    put!(page, "<section>\n<h2>{title}</h2>");
    let kept: Arc<Vec<ShownFrame>> = input.shown(configuration.frames).unwrap_or_default();
    if kept.is_empty() {
        put!(
            page,
            "<p>No frame: the clip is too short for one.</p>\n</section>"
        );
        return Vec::new();
    }
    let numbers: Vec<usize> = kept.iter().map(|frame| frame.index).collect();
    let last = numbers.iter().max().copied().unwrap_or_default();
    let unseen = input.frames.len().saturating_sub(last + 1);
    let first = if numbers.contains(&0) {
        ""
    } else {
        " Frame 0 is not among them."
    };
    let end = match unseen {
        0 => String::new(),
        unseen => format!(
            " The last {}, {:.2} s, are never shown.",
            count(unseen, "frame"),
            seconds(input, unseen)
        ),
    };
    put!(
        page,
        "<p>The given first frame, and {} of {}.{first}{end} Pictures are reduced here; they are sent at their own \
         size.</p>\n<div class=\"shown\">",
        count(kept.len(), "frame"),
        input.frames.len()
    );
    for frame in kept.iter() {
        let small = input
            .frames
            .get(frame.index)
            .and_then(|frame| frames::picture(frame, THUMBNAIL));
        let alt = format!("frame {} of the clip", frame.index);
        let caption = format!(
            "frame {}, {:.2} s",
            frame.index,
            seconds(input, frame.index)
        );
        image(page, small, &alt, &caption);
    }
    put!(page, "</div>\n</section>");
    numbers
}

fn raw(page: &mut String, sides: &[Side<'_>]) {
    put!(page, "<section>\n<h2>Answers as they came</h2>");
    for side in sides {
        let (answers, details) = match side.outcome {
            Outcome::Verdict(verdict) => (&verdict.answers, Some(&verdict.details)),
            Outcome::NoVerdict(none) => (&none.answers, none.details.as_deref()),
        };
        for (number, answer) in answers.iter().enumerate() {
            put!(
                page,
                "<details><summary>The {} judge, answer {}</summary>",
                side.name,
                number + 1
            );
            self::answer(page, answer);
            put!(page, "</details>");
        }
        if let Some(details) = details.filter(|details| !details.is_null()) {
            // A value is always JSON.
            let text = serde_json::to_string_pretty(details).unwrap_or_default();
            put!(
                page,
                "<details><summary>The {} judge, its record</summary>\n<pre>{}</pre></details>",
                side.name,
                escaped(&text)
            );
        }
        if answers.is_empty() && details.is_none_or(|details| details.is_null()) {
            put!(
                page,
                "<p class=\"note\">The {} judge left none.</p>",
                side.name
            );
        }
    }
    put!(page, "</section>");
}

fn answer(page: &mut String, answer: &Answer) {
    for text in [&answer.content, &answer.refusal].into_iter().flatten() {
        put!(page, "<pre>{}</pre>", escaped(text));
    }
    if !answer.complete && answer.content.is_some() {
        put!(page, "<p class=\"note\">Not all of it was kept.</p>");
    }
    put!(page, "<dl>");
    for (name, value) in [
        ("model", &answer.model),
        ("stopped", &answer.finish_reason),
        ("request", &answer.request_id),
        ("digest of the text", &answer.content_sha256),
        (
            "digest of the request",
            &Some(answer.request_sha256.clone()),
        ),
    ] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            fact(page, name, value);
        }
    }
    put!(page, "</dl>");
}

fn fact(page: &mut String, name: &str, value: &str) {
    put!(
        page,
        "<dt>{name}</dt><dd><code>{}</code></dd>",
        escaped(value)
    );
}

fn facts(
    page: &mut String,
    input: &JudgeInput,
    sides: &[Side<'_>],
    configurations: &[&Configuration],
    evidence_sha256: Option<&str>,
) {
    put!(page, "<section>\n<h2>What this was made from</h2>\n<dl>");
    let (width, height) = input.size();
    let clip = format!(
        "{width}x{height}, {} at {}/{} per second",
        count(input.frames.len(), "frame"),
        input.fps.0,
        input.fps.1
    );
    fact(page, "clip", &clip);
    fact(page, "digest of the video", &input.video_sha256);
    fact(
        page,
        "digest of the first frame",
        &sha256(&input.first_bytes),
    );
    if let Some(task) = &input.task_id {
        fact(page, "task", task);
    }
    for configuration in configurations {
        let Rules {
            pass_overall,
            pass_critical,
        } = configuration.rules;
        let name = format!("configuration of {}", escaped(&configuration.model));
        let value = format!(
            "{}, profile {}, passes from {pass_overall}, critical from {pass_critical}",
            configuration.sha256(),
            configuration.profile
        );
        fact(page, &name, &value);
    }
    for side in sides {
        let used = match side.outcome {
            Outcome::Verdict(verdict) => &verdict.usage,
            Outcome::NoVerdict(none) => &none.usage,
        };
        fact(
            page,
            &format!("cost of the {} judge", side.name),
            &cost(used),
        );
    }
    fact(page, "evidence", evidence_sha256.unwrap_or("not kept"));
    put!(page, "</dl>\n</section>");
}

fn cost(usage: &Usage) -> String {
    let seconds = usage.millis as f64 / 1e3;
    if usage.requests == 0 {
        return format!("{seconds:.1} s");
    }
    let dollars = usage.nano_usd.map_or_else(
        || "dollars not known".to_owned(),
        |nano| format!("{:.4} US dollars", nano as f64 / 1e9),
    );
    format!(
        "{}, {} + {} tokens, {dollars}, {seconds:.1} s",
        count(usage.requests as usize, "request"),
        usage.tokens_in,
        usage.tokens_out
    )
}

#[cfg(test)]
mod tests;
