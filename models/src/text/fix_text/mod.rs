//! Repair of broken text: what `ftfy.fix_text` of version 6.3.1 does with its default settings.
//!
//! Prompts pass through it before tokenization in the reference, so a model sees straight quotes, ASCII
//! width and repaired mojibake. Written from the library's documented behaviour and checked against it
//! on generated text; the loops and the order of the steps follow it, because each step can make work
//! for another.

mod badness;
mod encoding;
mod tables;

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

use super::html;

pub(super) use badness::is_space;

/// Characters that are repaired together when a text has no line breaks.
const MAX_SEGMENT: usize = 1_000_000;

/// Colours and cursor movements of terminals. The digits may be those of any script.
static TERMINAL_ESCAPE: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"\x1b\[[\d;]*[a-zA-Z]").ok());

/// Repairs a text, line by line.
pub(super) fn fix_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut unescape = true;
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while !rest.is_empty() {
            let end = rest
                .char_indices()
                .nth(MAX_SEGMENT)
                .map_or(rest.len(), |(end, _)| end);
            let (segment, after) = rest.split_at(end);
            // A tag means that the text is HTML, where entities have to stay; that holds for all that
            // follows.
            unescape &= !segment.contains('<');
            out.push_str(&fix_segment(segment, unescape));
            rest = after;
        }
    }
    out
}

/// Applies all repairs until none changes anything.
fn fix_segment(segment: &str, unescape: bool) -> String {
    let mut text = segment.to_owned();
    loop {
        let before = text.clone();
        if unescape && text.contains('&') {
            text = unescape_entities(&text);
        }
        if !text.is_ascii() {
            text = encoding::fix_encoding(text);
            text = text.chars().map(encoding::c1_to_windows_1252).collect();
            text = fold_forms(&text);
        }
        if text.contains(['\r', '\u{2028}', '\u{2029}', '\u{85}']) {
            text = text
                .replace("\r\n", "\n")
                .replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
        }
        if text.contains('\u{1b}')
            && let Some(escape) = TERMINAL_ESCAPE.as_ref()
        {
            text = escape.replace_all(&text, "").into_owned();
        }
        text.retain(|c| !is_removed(c));
        if !text.is_ascii() {
            text = text.nfc().collect();
        }
        if text == before {
            return text;
        }
    }
}

/// Ligatures to letters, full- and half-width forms to their plain ones, curly quotes to straight ones.
fn fold_forms(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if let Some((_, letters)) = tables::LIGATURES
            .iter()
            .find(|(ligature, _)| *ligature == c)
        {
            out.push_str(letters);
        } else {
            match c {
                '\u{3000}' => out.push(' '),
                '\u{ff01}'..='\u{ffef}' => out.extend(std::iter::once(c).nfkc()),
                _ => out.push(c),
            }
        }
    }
    out.chars()
        .map(|c| match c {
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
            '\u{201c}'..='\u{201f}' => '"',
            c => c,
        })
        .collect()
}

/// Controls without a visible effect, the byte order mark, annotation and object marks.
fn is_removed(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{8}'
            | '\u{b}'
            | '\u{e}'..='\u{1f}'
            | '\u{7f}'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffc}'
    )
}

/// Decodes the entities that end in a semicolon; names in capitals too, where they mean nothing else.
fn unescape_entities(text: &str) -> String {
    /// Longest name or number that is looked at.
    const LONGEST: usize = 24;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let body = &rest[1..];
        let digits = body.strip_prefix('#').unwrap_or(body);
        let length = digits.bytes().take_while(u8::is_ascii_alphanumeric).count();
        let found = (1..=LONGEST).contains(&length) && digits[length..].starts_with(';');
        let end = rest.len() - digits.len() + length + 1;
        if let Some(decoded) = found.then(|| decode_entity(&rest[..end])).flatten() {
            out.push_str(&decoded);
            rest = &rest[end..];
        } else {
            out.push('&');
            rest = body;
        }
    }
    out.push_str(rest);
    out
}

/// `&name;` or `&#number;`; `None` leaves it as it is.
fn decode_entity(entity: &str) -> Option<String> {
    let name = &entity[1..];
    if name.starts_with('#') {
        let decoded = html::unescape(entity);
        return (!decoded.contains(';')).then_some(decoded);
    }
    html::entity(name)
        .map(str::to_owned)
        .or_else(|| CAPITALS.get(name).cloned())
}

/// Entities whose lower-case name was turned into capitals, with their characters in capitals: only
/// those that mean nothing else.
static CAPITALS: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    html::entities()
        .filter(|(name, _)| name.ends_with(';') && !name.bytes().any(|b| b.is_ascii_uppercase()))
        .map(|(name, value)| (name.to_ascii_uppercase(), value))
        .filter(|(name, _)| {
            let entity = format!("&{name}");
            html::unescape(&entity) == entity
        })
        .map(|(name, value)| (name, value.to_uppercase()))
        .collect()
});
