//! Finds sequences of characters that people do not write but wrong encodings produce.
//!
//! Each rule is a short sequence of character classes. A text is bad when one rule matches anywhere.

use std::sync::LazyLock;

use regex::Regex;

use super::tables::{
    BAD, BOX, C1, COMMON, CURRENCY, END_PUNCTUATION, KAOMOJI, LAW, LOWER_ACCENTED, LOWER_COMMON,
    NUMERIC, Ranges, START_PUNCTUATION, UPPER_ACCENTED, UPPER_COMMON,
};

/// Classes that a character belongs to, one bit each.
type Classes = u32;

const B: Classes = 1;
const X: Classes = 1 << 1;
const CUR: Classes = 1 << 2;
const NUM: Classes = 1 << 3;
const LA: Classes = 1 << 4;
const UA: Classes = 1 << 5;
const START: Classes = 1 << 6;
const END: Classes = 1 << 7;
const SECTION: Classes = 1 << 8;
const LC: Classes = 1 << 9;
const UC: Classes = 1 << 10;
const FACE: Classes = 1 << 11;
const CONTROL: Classes = 1 << 12;
const ORDINARY: Classes = 1 << 13;
const ACCENTED: Classes = LA | UA;

const CLASSES: [(Classes, Ranges); 14] = [
    (B, BAD),
    (X, BOX),
    (CUR, CURRENCY),
    (NUM, NUMERIC),
    (LA, LOWER_ACCENTED),
    (UA, UPPER_ACCENTED),
    (START, START_PUNCTUATION),
    (END, END_PUNCTUATION),
    (SECTION, LAW),
    (LC, LOWER_COMMON),
    (UC, UPPER_COMMON),
    (FACE, KAOMOJI),
    (CONTROL, C1),
    (ORDINARY, COMMON),
];

/// One place of a rule.
#[derive(Debug)]
enum Place {
    /// A character of any of these classes.
    In(Classes),
    /// One of these characters.
    Of(&'static str),
    /// One of these characters, or of these classes.
    OfOrIn(&'static str, Classes),
    /// A character other than an unaccented Latin letter.
    NotLatin,
    /// An unaccented Latin letter.
    Latin,
    /// A small unaccented Latin letter.
    SmallLatin,
    /// A space of any kind.
    Space,
    /// A letter, digit or underscore of any script.
    Word,
    /// Anything but a line break.
    Any,
    /// The beginning of the text; takes no character.
    Begin,
}

use Place::{Any, Begin, In, Latin, NotLatin, Of, OfOrIn, SmallLatin, Space, Word};

/// What Arabic letters end in when read as Windows-1252.
const ARABIC: Place = OfOrIn("ŸŠ®°µ»", ORDINARY | CUR | B | NUM | START);
/// What Cyrillic letters end in when read as Windows-1251.
const CYRILLIC: Place = OfOrIn("°µ", CONTROL | B | START | END | CUR);
/// What Greek letters end in when read as Windows-1253.
const GREEK: Place = OfOrIn("°", CONTROL | B | START | END | CUR);

const RULES: &[&[Place]] = &[
    &[In(CONTROL)],
    // Marks of mojibake beside each other or beside what they come with
    &[
        In(B | ACCENTED | X | START | END | CUR | NUM | SECTION),
        In(B),
    ],
    &[Latin, In(LC | UC), In(B)],
    &[In(B), In(ACCENTED | X | START | END | CUR | NUM | SECTION)],
    // Capitals, accents, currencies and numbers in the wrong order
    &[In(LA | LC | X | END | CUR | NUM), In(UA)],
    &[In(X | END | CUR | NUM), In(LA)],
    &[In(LA | X | END), In(CUR)],
    &[Space, In(UA), In(CUR)],
    &[In(UA | X), In(NUM | SECTION)],
    &[In(ACCENTED | X | CUR | END), In(START), In(NUM)],
    &[In(ACCENTED | CUR | NUM | X | SECTION), In(END), In(START)],
    &[In(CUR | NUM | X), In(START)],
    &[SmallLatin, In(UA), In(START | CUR)],
    &[In(X), In(FACE)],
    &[In(ACCENTED | CUR | NUM | START | END | SECTION), In(X)],
    &[In(X), In(END)],
    &[In(ACCENTED), In(START | END), Word],
    &[Of("Œœ"), NotLatin],
    &[In(UA), Of("°")],
    // Windows-1252
    &[
        Of("ÂÃÎÐ"),
        OfOrIn("€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»–—´", START | END),
    ],
    &[Of("×"), Of("²³")],
    &[Of("ØÙ"), ARABIC, Of("ØÙ"), ARABIC],
    &[Of("à"), Of("²µ¹¼½¾")],
    // MacRoman
    &[Of("√"), Of("±∂†≠®™´≤≥¥µø")],
    &[Of("≈"), Of("°¢")],
    &[Of("‚"), Of("Ä"), Of("ìîïòôúùû†°¢π")],
    &[Of("‚"), Of("âó"), Of("àä°ê")],
    // Windows-1251
    &[Of("в"), Of("Ђ")],
    &[Of("ВГРС"), CYRILLIC, Of("ВГРС")],
    &[
        Of("Г"),
        Of("ў"),
        Of("В"),
        Of("Ђ"),
        Of("В"),
        Any,
        OfOrIn(" ", 0),
    ],
    &[Of("Г"), Of("ў"), Of("В"), Of("Ђ"), Of("В"), Any, Latin],
    // Windows-1252 again: à, á and the no-break space, which may have become a space
    &[Of("Ã"), Of("\u{a0}¡")],
    &[SmallLatin, Of("ÃÂ"), Of(" ")],
    &[SmallLatin, Space, Of("ÃÂ"), Of(" ")],
    &[Begin, Of("ÃÂ"), Of(" ")],
    &[SmallLatin, Of("Â"), OfOrIn(" ", START | END)],
    &[OfOrIn(".,?!", END), Of("Â"), OfOrIn(" ", START | END)],
    // Windows-1253
    &[Of("β"), Of("€"), Of("™\u{a0}Ά\u{ad}®°")],
    &[Of("ΒΓΞΟ"), GREEK, Of("ΒΓΞΟ")],
    // Windows-1257
    &[Of("ā"), Of("€")],
];

/// Classes of the characters below U+10000; all classes live there.
static TABLE: LazyLock<Vec<Classes>> = LazyLock::new(|| {
    let mut table = vec![0; 0x1_0000];
    for (class, ranges) in CLASSES {
        for (first, last) in ranges {
            for code in *first..=*last {
                table[code as usize] |= class;
            }
        }
    }
    table
});

/// Letters and numbers of all scripts, as Python counts them.
static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[\p{L}\p{N}_]").ok());

fn is_word(c: char) -> bool {
    WORD.as_ref()
        .is_some_and(|word| word.is_match(c.encode_utf8(&mut [0; 4])))
}

/// White space as Python counts it.
pub(in crate::text) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

impl Place {
    fn accepts(&self, c: char) -> bool {
        let classes = || TABLE.get(c as usize).copied().unwrap_or(0);
        match self {
            In(wanted) => classes() & wanted != 0,
            Of(chars) => chars.contains(c),
            OfOrIn(chars, wanted) => chars.contains(c) || classes() & wanted != 0,
            NotLatin => !c.is_ascii_alphabetic(),
            Latin => c.is_ascii_alphabetic(),
            SmallLatin => c.is_ascii_lowercase(),
            Space => is_space(c),
            Word => is_word(c),
            Any => c != '\n',
            Begin => false,
        }
    }
}

fn matches(rule: &[Place], text: &[char], start: usize) -> bool {
    let rule = match rule {
        [Begin, rest @ ..] if start == 0 => rest,
        [Begin, ..] => return false,
        rule => rule,
    };
    text.len() - start >= rule.len()
        && rule
            .iter()
            .zip(&text[start..])
            .all(|(place, c)| place.accepts(*c))
}

/// Whether the text looks like mojibake anywhere.
pub(super) fn is_bad(text: &[char]) -> bool {
    // Every rule has a character beyond ASCII among its first three places, most among the first two.
    (0..text.len()).any(|start| {
        let end = text.len().min(start + 3);
        !text[start..end].iter().all(char::is_ascii)
            && RULES.iter().any(|rule| matches(rule, text, start))
    })
}
