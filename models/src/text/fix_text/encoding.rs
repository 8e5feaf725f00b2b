//! Mojibake: UTF-8 that was read in a single-byte encoding, taken back.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::badness::is_bad;
use super::tables::{
    ENCODINGS, Encoding, Ranges, UTF8_CONTINUATION, UTF8_CONTINUATION_STRICT, UTF8_FIRST_OF_2,
    UTF8_FIRST_OF_3, UTF8_FIRST_OF_4,
};

/// Byte that stands for a character that was lost (U+FFFD) in a sloppy encoding.
const LOST: u8 = 0x1a;

/// Repairs mojibake until nothing more is found.
pub(super) fn fix_encoding(mut text: String) -> String {
    loop {
        match fix_once(&text) {
            Some(fixed) if fixed != text => text = fixed,
            _ => return text,
        }
    }
}

/// One layer of repair; `None` when there is nothing to do.
fn fix_once(text: &str) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    let chars: Vec<char> = text.chars().collect();
    if !is_bad(&chars) {
        return None;
    }
    let mut latin1 = None;
    for (index, encoding) in ENCODINGS.iter().enumerate() {
        let Some(mut bytes) = encode(&chars, index) else {
            continue;
        };
        if encoding.name == "latin-1" {
            latin1 = Some(bytes.clone());
        }
        // In MacRoman this would take a dash and a space for a sequence.
        if encoding.name != "macroman" && find(&bytes, 0, ALTERED).is_some() {
            bytes = restore_no_break_spaces(&bytes);
        }
        if encoding.sloppy {
            bytes = replace(&bytes, LOSSY, |_, out| out.extend("\u{fffd}".as_bytes()));
        }
        let decoded = if bytes.contains(&0xed) || bytes.contains(&0xc0) {
            decode_variants(&bytes)
        } else {
            String::from_utf8(bytes).ok()
        };
        if decoded.is_some() {
            return decoded;
        }
    }
    if let Some(fixed) = fix_embedded(&chars) {
        return Some(fixed);
    }
    // Latin-1 with C1 controls was meant to be Windows-1252, unless it holds unassigned bytes.
    if let Some(bytes) = latin1
        && !bytes
            .iter()
            .any(|byte| matches!(byte, 0x81 | 0x8d | 0x8f | 0x90 | 0x9d))
    {
        let fixed: String = bytes
            .into_iter()
            .map(|byte| c1_to_windows_1252(char::from(byte)))
            .collect();
        if fixed != text {
            return Some(fixed);
        }
    }
    Some(chars.into_iter().map(c1_to_windows_1252).collect())
}

/// A C1 control becomes the character Windows-1252 has at its place, as in web browsers.
pub(super) fn c1_to_windows_1252(c: char) -> char {
    static C1: LazyLock<Vec<char>> = LazyLock::new(|| {
        let encoding = ENCODINGS
            .iter()
            .find(|encoding| encoding.name == "sloppy-windows-1252");
        encoding
            .map(|encoding| encoding.upper.chars().take(32).collect())
            .unwrap_or_default()
    });
    match c {
        '\u{80}'..='\u{9f}' => C1.get(c as usize - 0x80).copied().unwrap_or(c),
        c => c,
    }
}

/// Bytes of a text in one of the [`ENCODINGS`], `None` when it has characters from elsewhere.
fn encode(text: &[char], index: usize) -> Option<Vec<u8>> {
    static TABLES: LazyLock<Vec<HashMap<char, u8>>> = LazyLock::new(|| {
        let table = |encoding: &Encoding| {
            let mut table: HashMap<char, u8> = encoding.upper.chars().zip(0x80..=0xff).collect();
            table.extend((0..0x80).map(|byte| (char::from(byte), byte)));
            if encoding.sloppy {
                table.remove(&char::from(LOST));
                table.insert('\u{fffd}', LOST);
            }
            table
        };
        ENCODINGS.iter().map(table).collect()
    });
    let table = TABLES.get(index)?;
    text.iter().map(|c| table.get(c).copied()).collect()
}

/// A pattern of bytes: one list of ranges per byte.
type BytePattern = &'static [&'static [(u8, u8)]];

const CONTINUATION: &[(u8, u8)] = &[(0x80, 0xbf)];
/// Continuation bytes without those of a line break (0x85) and a no-break space (0xa0).
const PLAIN: &[(u8, u8)] = &[(0x80, 0x84), (0x86, 0x9f), (0xa1, 0xbf)];
const SPACE: &[(u8, u8)] = &[(b' ', b' ')];
const LEAD_4: &[(u8, u8)] = &[(0xf0, 0xf0)];

/// UTF-8 whose byte 0xa0 became a space, where that gives likely characters.
const ALTERED: &[BytePattern] = &[
    &[
        &[
            (0xc2, 0xc3),
            (0xc5, 0xc5),
            (0xce, 0xce),
            (0xd0, 0xd0),
            (0xd9, 0xd9),
        ],
        SPACE,
    ],
    &[&[(0xe2, 0xe3)], SPACE, PLAIN],
    &[&[(0xe0, 0xe3)], PLAIN, SPACE],
    &[LEAD_4, SPACE, CONTINUATION, CONTINUATION],
    &[LEAD_4, CONTINUATION, SPACE, CONTINUATION],
    &[LEAD_4, CONTINUATION, CONTINUATION, SPACE],
];

const GONE: &[(u8, u8)] = &[(LOST, LOST)];
const GONE_OR_ASKED: &[(u8, u8)] = &[(LOST, LOST), (b'?', b'?')];
const GONE_OR_KEPT: &[(u8, u8)] = &[(LOST, LOST), (0x80, 0xbf)];
const ANY_OF_THREE: &[(u8, u8)] = &[(LOST, LOST), (b'?', b'?'), (0x80, 0xbf)];
const LEAD_SURROGATE: &[(u8, u8)] = &[(0xed, 0xed)];
const HIGH: &[(u8, u8)] = &[(0xa0, 0xaf)];
const LOW: &[(u8, u8)] = &[(0xb0, 0xbf)];
const LEAD_3: &[(u8, u8)] = &[(0xe0, 0xef)];
const LEAD_OF_4: &[(u8, u8)] = &[(0xf0, 0xf4)];

/// UTF-8 and CESU-8 in which bytes were lost; a question mark may stand for one of them.
const LOSSY: &[BytePattern] = &[
    &[&[(0xc2, 0xdf)], GONE],
    &[&[(0xc2, 0xc3)], &[(b'?', b'?')]],
    &[
        LEAD_SURROGATE,
        HIGH,
        GONE_OR_ASKED,
        LEAD_SURROGATE,
        LOW,
        ANY_OF_THREE,
    ],
    &[
        LEAD_SURROGATE,
        HIGH,
        ANY_OF_THREE,
        LEAD_SURROGATE,
        LOW,
        GONE_OR_ASKED,
    ],
    &[LEAD_3, GONE_OR_ASKED, GONE_OR_KEPT],
    &[LEAD_3, GONE_OR_KEPT, GONE_OR_ASKED],
    &[LEAD_OF_4, GONE_OR_ASKED, GONE_OR_KEPT, GONE_OR_KEPT],
    &[LEAD_OF_4, GONE_OR_KEPT, GONE_OR_ASKED, GONE_OR_KEPT],
    &[LEAD_OF_4, GONE_OR_KEPT, GONE_OR_KEPT, GONE_OR_ASKED],
    &[GONE],
];

/// Start and length of the first match at or after `from`; earlier patterns go first.
fn find(bytes: &[u8], from: usize, patterns: &[BytePattern]) -> Option<(usize, usize)> {
    let inside = |byte: u8, ranges: &[(u8, u8)]| ranges.iter().any(|r| (r.0..=r.1).contains(&byte));
    (from..bytes.len()).find_map(|start| {
        let rest = &bytes[start..];
        let found = patterns.iter().find(|pattern| {
            rest.len() >= pattern.len() && pattern.iter().zip(rest).all(|(r, b)| inside(*b, r))
        })?;
        Some((start, found.len()))
    })
}

/// Replaces all matches by what `write` appends for them.
fn replace(bytes: &[u8], patterns: &[BytePattern], write: impl Fn(&[u8], &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while let Some((start, length)) = find(bytes, position, patterns) {
        out.extend_from_slice(&bytes[position..start]);
        position = start + length;
        write(&bytes[start..position], &mut out);
    }
    out.extend_from_slice(&bytes[position..]);
    out
}

/// Puts back bytes 0xa0 that became spaces.
fn restore_no_break_spaces(bytes: &[u8]) -> Vec<u8> {
    // 0xc3 and a space is mostly the word "à", whose own space was merged with the no-break one; in
    // the Portuguese contractions à stands at the beginning of a word.
    let mut words = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((byte, after)) = rest.split_first() {
        words.push(*byte);
        rest = after;
        if *byte == 0xc3
            && let Some(tail) = after.strip_prefix(b" ")
        {
            let contraction = [&b" "[..], b"quele", b"quela", b"quilo", b"s "];
            if contraction.iter().any(|start| tail.starts_with(start)) {
                words.push(b' ');
            } else {
                words.extend([0xa0, b' ']);
            }
            rest = tail;
        }
    }
    replace(&words, ALTERED, |found, out| {
        out.extend(
            found
                .iter()
                .map(|byte| if *byte == b' ' { 0xa0 } else { *byte }),
        );
    })
}

/// UTF-8, with surrogates encoded one by one (CESU-8) and Java's two-byte zero understood.
///
/// The reference recognises both also where a final line break cuts them short, and then takes the
/// line break for a part of them; so does this.
fn decode_variants(bytes: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(start) = rest
        .iter()
        .enumerate()
        .position(|(at, _)| is_special(&rest[at..]))
    {
        out.push_str(std::str::from_utf8(&rest[..start]).ok()?);
        rest = &rest[start..];
        if rest[0] == 0xc0 {
            out.push('\0');
            rest = rest.get(2..)?;
            continue;
        }
        let [0xed, b1, b2, 0xed, b4, b5, after @ ..] = rest else {
            return None;
        };
        let last = (0x80..=0xbf).contains(b5) || (*b5 == b'\n' && after.is_empty());
        let paired = (0xa0..=0xaf).contains(b1) && (0x80..=0xbf).contains(b2);
        if !(paired && (0xb0..=0xbf).contains(b4) && last) {
            return None;
        }
        let bits = |byte: &u8, mask: u8, shift: u32| u32::from(byte & mask) << shift;
        let code = bits(b1, 0x0f, 16) + bits(b2, 0x3f, 10) + bits(b4, 0x0f, 6) + bits(b5, 0x3f, 0);
        out.push(char::from_u32(code + 0x1_0000)?);
        rest = after;
    }
    out.push_str(std::str::from_utf8(rest).ok()?);
    Some(out)
}

/// Whether a sequence starts here that plain UTF-8 does not have.
fn is_special(bytes: &[u8]) -> bool {
    let at_end = |rest: &[u8]| rest.is_empty() || rest == b"\n";
    match bytes {
        [0xc0, 0x80, ..] | [0xed, 0xa0..=0xbf, 0x80..=0xbf, ..] => true,
        [0xc0 | 0xed, rest @ ..] if at_end(rest) => true,
        [0xed, 0xa0..=0xbf, rest @ ..] => at_end(rest),
        _ => false,
    }
}

fn contains(ranges: Ranges, c: char) -> bool {
    ranges
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&(c as u32)))
}

/// Length of the run of UTF-8 look-alikes that starts here.
fn run_length(text: &[char]) -> usize {
    let shapes = [
        (UTF8_FIRST_OF_2, 1),
        (UTF8_FIRST_OF_3, 2),
        (UTF8_FIRST_OF_4, 3),
    ];
    let mut length = 0;
    loop {
        let rest = &text[length..];
        let shape = shapes.iter().find(|(first, more)| {
            rest.len() > *more
                && contains(first, rest[0])
                && rest[1..=*more]
                    .iter()
                    .all(|c| contains(UTF8_CONTINUATION, *c))
        });
        match shape {
            Some((_, more)) => length += 1 + more,
            None => return length,
        }
    }
}

/// Repairs runs of mojibake inside text that is otherwise fine; `None` when nothing changes.
fn fix_embedded(text: &[char]) -> Option<String> {
    let mut out = String::new();
    let mut changed = false;
    let mut position = 0;
    while position < text.len() {
        // A continuation in front means a larger garble, of which a part is better left alone.
        let garbled = position > 0 && contains(UTF8_CONTINUATION_STRICT, text[position - 1]);
        let length = if garbled {
            0
        } else {
            run_length(&text[position..])
        };
        let run = &text[position..position + length];
        // Only shorter texts, so that this ends.
        if length > 0 && length < text.len() && is_bad(run) {
            let run: String = run.iter().collect();
            let fixed = fix_encoding(run.clone());
            changed |= fixed != run;
            out.push_str(&fixed);
        } else {
            let end = position + length.max(1);
            out.extend(&text[position..end]);
        }
        position += length.max(1);
    }
    changed.then_some(out)
}
