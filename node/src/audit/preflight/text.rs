//! The page as text.

use std::fmt::Write as _;

use super::{Check, Preflight, State};
use crate::audit::finding::{Finding, Severity};
use crate::audit::report::words::size;

/// Columns of the page.
const COLUMNS: usize = 100;
/// Most findings of a question that are listed; the rest is counted.
const LISTED: usize = 12;

/// Writing into a text cannot fail.
macro_rules! line {
    ($text:expr, $($words:tt)*) => { { let _ = writeln!($text, $($words)*); } };
}

impl State {
    pub(in crate::audit) fn mark(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Unknown => "?",
            Self::Fix => "FIX",
        }
    }
}

impl Check {
    pub(in crate::audit) fn title(&self) -> &'static str {
        match self.name {
            "loads" => "Does it load?",
            "submission" => "Would the validators take the submission?",
            "contents" => "Is there anything in it that should not be?",
            "architecture" => "Is it the architecture that is asked for?",
            "copies" => "Is it somebody else's?",
            _ => "Which cards does it run on?",
        }
    }
}

pub(in crate::audit) fn render(page: &Preflight) -> String {
    let mut text = String::new();
    let given = &page.submitted;
    line!(text, "{}", page.repository.source);
    line!(
        text,
        "to be committed as {} at {} by {}",
        or_nothing(&given.repo_id),
        or_nothing(&given.revision),
        or_nothing(&given.hotkey)
    );
    line!(text, "\n{}\n", conclusion(page));
    for check in &page.checks {
        line!(text, "{:>4}  {}", check.state.mark(), check.title());
        wrapped(&mut text, &check.says);
        findings(&mut text, &check.findings);
        if check.name == "memory" && !page.cards.is_empty() {
            cards(&mut text, page);
        }
        line!(text, "");
    }
    line!(
        text,
        "model_hash  {}",
        page.repository.model_hash.as_deref().unwrap_or("none")
    );
    text
}

/// Ready or not, in one sentence.
pub(in crate::audit) fn conclusion(page: &Preflight) -> String {
    let count = |state| {
        page.checks
            .iter()
            .filter(|check| check.state == state)
            .count()
    };
    let (fix, unknown, note) = (count(State::Fix), count(State::Unknown), count(State::Note));
    let things = |number: usize, what: &str| match number {
        1 => format!("one thing {what}"),
        number => format!("{number} things {what}"),
    };
    let mut parts = Vec::new();
    if fix > 0 {
        parts.push(things(fix, "to mend"));
    }
    if unknown > 0 {
        parts.push(things(unknown, "that I could not look at"));
    }
    if note > 0 {
        parts.push(things(note, "to know"));
    }
    match (page.ready, parts.is_empty()) {
        (true, true) => "Ready. I found nothing to mend.".to_owned(),
        (true, false) => format!("Ready, with {}.", parts.join(", ")),
        (false, _) => format!(
            "Not ready: {}. Do not pay for a registration yet.",
            parts.join(", ")
        ),
    }
}

fn or_nothing(value: &str) -> &str {
    if value.is_empty() { "(nothing)" } else { value }
}

fn findings(text: &mut String, findings: &[Finding]) {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| {
        (
            std::cmp::Reverse(finding.severity),
            finding.rule,
            &finding.path,
        )
    });
    let mut told = None;
    for finding in sorted.iter().take(LISTED) {
        let place = if finding.path.is_empty() {
            String::new()
        } else {
            format!("{}: ", finding.path.escape_debug())
        };
        let message = finding
            .message
            .escape_debug()
            .to_string()
            .replace("\\\"", "\"")
            .replace("\\'", "'");
        wrapped(text, &format!("- {place}{message} [{}]", finding.rule.id()));
        // Once for each rule, and only for what has to be mended.
        if finding.severity >= Severity::High && told != Some(finding.rule) {
            wrapped(text, &format!("  -> {}", finding.rule.remedy()));
            told = Some(finding.rule);
        }
    }
    if sorted.len() > LISTED {
        wrapped(
            text,
            &format!(
                "- and {} more; --format json has them all",
                sorted.len() - LISTED
            ),
        );
    }
}

fn cards(text: &mut String, page: &Preflight) {
    // Larger cards in the same mode say nothing new.
    for same in page
        .cards
        .chunk_by(|a, b| (a.offload, a.needed) == (b.offload, b.needed))
    {
        let [first, rest @ ..] = same else { continue };
        let and_more = if rest.is_empty() { "" } else { " and more" };
        let host = if first.host > 0 {
            format!(", and {} of the machine's", size(first.host))
        } else {
            String::new()
        };
        line!(
            text,
            "      {} GiB ({}){and_more}: {}; {} needed{host}",
            first.gib,
            first.examples,
            first.how(),
            size(first.needed)
        );
    }
    wrapped(
        text,
        "By the memory plan, with a margin of 5 % and 1 GiB left to the driver; not measured on a card.",
    );
}

/// A paragraph, indented; a list's item hangs under its first word.
fn wrapped(text: &mut String, paragraph: &str) {
    let hanging = paragraph.len() - paragraph.trim_start_matches([' ', '-', '>']).len();
    let mut line = " ".repeat(6) + &paragraph[..hanging];
    let mut is_empty = true;
    for word in paragraph[hanging..].split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            line!(text, "{line}");
            line = " ".repeat(6 + hanging);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    line!(text, "{line}");
}
