//! HTML character references, decoded as Python's `html.unescape` does (the HTML5 rules, with and
//! without semicolons).

use std::collections::HashMap;
use std::sync::LazyLock;

/// The HTML5 table (WHATWG "Named character references"): name, then code points in hexadecimal.
const ENTITIES: &str = include_str!("html_entities.txt");

/// Longest name that is looked at, in characters.
const LONGEST: usize = 32;

static TABLE: LazyLock<HashMap<&'static str, String>> = LazyLock::new(|| {
    let entry = |line: &'static str| {
        let mut fields = line.split(' ');
        let name = fields.next()?;
        let value = fields.map(|code| char::from_u32(u32::from_str_radix(code, 16).ok()?));
        Some((name, value.collect::<Option<String>>()?))
    };
    ENTITIES.lines().filter_map(entry).collect()
});

/// Characters of a named entity; the name has no `&`, and its `;` where it has one.
pub(super) fn entity(name: &str) -> Option<&'static str> {
    TABLE.get(name).map(String::as_str)
}

/// All entities.
pub(super) fn entities() -> impl Iterator<Item = (&'static str, String)> {
    TABLE.iter().map(|(name, value)| (*name, value.clone()))
}

/// Decodes all character references once.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        let length = number(rest, &mut out).or_else(|| named(rest, &mut out));
        match length {
            Some(length) => rest = &rest[length..],
            None => out.push('&'),
        }
    }
    out.push_str(rest);
    out
}

/// `#123;` or `#x1f;`: appends the character and gives the length, `None` when it is no number.
fn number(text: &str, out: &mut String) -> Option<usize> {
    let digits = text.strip_prefix('#')?;
    let (digits, radix) = match digits.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (digits, 10),
    };
    let length = digits.chars().take_while(|c| c.is_digit(radix)).count();
    if length == 0 {
        return None;
    }
    // More digits than fit mean a number beyond Unicode.
    let code = u32::from_str_radix(&digits[..length], radix).unwrap_or(u32::MAX);
    out.extend(reference(code));
    let end = text.len() - digits.len() + length;
    Some(end + usize::from(text[end..].starts_with(';')))
}

/// What a numeric reference stands for; `None` for code points that are dropped.
fn reference(code: u32) -> Option<char> {
    /// Windows-1252 at 0x80..=0x9f; zero where it has nothing.
    const WINDOWS: [u16; 32] = [
        0x20ac, 0, 0x201a, 0x192, 0x201e, 0x2026, 0x2020, 0x2021, 0x2c6, 0x2030, 0x160, 0x2039,
        0x152, 0, 0x17d, 0, 0, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x2dc,
        0x2122, 0x161, 0x203a, 0x153, 0, 0x17e, 0x178,
    ];
    match code {
        0 => Some('\u{fffd}'),
        0x80..=0x9f => match WINDOWS[code as usize - 0x80] {
            0 => char::from_u32(code),
            code => char::from_u32(u32::from(code)),
        },
        1..=8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        0..=0x10_ffff if code & 0xfffe == 0xfffe => None,
        _ => Some(char::from_u32(code).unwrap_or('\u{fffd}')),
    }
}

/// A named reference: the longest name that the text starts with. Appends its characters and gives the
/// length of the name, `None` when there is none.
fn named(text: &str, out: &mut String) -> Option<usize> {
    let stop = |c: char| matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';');
    let mut ends: Vec<usize> = text
        .char_indices()
        .take(LONGEST)
        .take_while(|(_, c)| !stop(*c))
        .map(|(at, c)| at + c.len_utf8())
        .collect();
    let whole = *ends.last()?;
    if text[whole..].starts_with(';') {
        ends.push(whole + 1);
    }
    // Names have at least two characters.
    let end = ends
        .into_iter()
        .skip(1)
        .rev()
        .find(|end| entity(&text[..*end]).is_some())?;
    out.push_str(entity(&text[..end])?);
    Some(end)
}
