//! JSON as Python's `json.loads` takes it, which is how validators read a model's answer.
//!
//! It differs from the standard, and from strict readers, in what decides verdicts: `NaN`, `Infinity` and
//! `-Infinity` are numbers, a number may be of any size, half of a surrogate pair is a character, and of two
//! equal keys the last one counts. Control characters in texts are refused, as there.

use std::collections::BTreeMap;

/// Deeper nesting is refused. Python gives up at its own limit, with the same end: no score object.
const MAX_DEPTH: usize = 128;

/// A value; numbers keep their spelling.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Integer(String),
    Float(String),
    Text(String),
    List(Vec<Self>),
    Object(BTreeMap<String, Self>),
}

/// A value as a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    Finite(f64),
    /// Python's conversion to an integer raises for these.
    Infinite,
    /// No number, or not-a-number.
    Not,
}

/// The text is not JSON; where it stops being it, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotJson {
    pub(crate) at: usize,
}

/// Reads one value and nothing after it.
pub(crate) fn parse(text: &str) -> Result<Json, NotJson> {
    let mut reader = Reader {
        chars: text.chars().collect(),
        at: 0,
    };
    reader.blanks();
    let value = reader.value(0)?;
    reader.blanks();
    if reader.at == reader.chars.len() {
        Ok(value)
    } else {
        Err(reader.wrong())
    }
}

impl Json {
    /// As Python's `float()` converts it.
    pub(crate) fn to_number(&self) -> Number {
        match self {
            Self::Bool(true) => Number::Finite(1.0),
            Self::Bool(false) => Number::Finite(0.0),
            // The grammar is checked; what is too large reads as infinite.
            Self::Integer(text) | Self::Float(text) => finite(text),
            Self::Text(text) => float(text),
            Self::Null | Self::List(_) | Self::Object(_) => Number::Not,
        }
    }

    /// A number that was written as one.
    pub(crate) fn number(&self) -> Number {
        match self {
            Self::Integer(_) | Self::Float(_) => self.to_number(),
            _ => Number::Not,
        }
    }

    /// As Python's `str()` shows it. Lists and objects are shown as JSON instead: what is in them is for
    /// people only.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Null => "None".into(),
            Self::Bool(true) => "True".into(),
            Self::Bool(false) => "False".into(),
            Self::Integer(text) => text
                .strip_prefix('-')
                .filter(|t| *t == "0")
                .unwrap_or(text)
                .into(),
            Self::Float(text) => text.clone(),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::quoted).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Object(fields) => {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(key, value)| format!("{key:?}: {}", value.quoted()))
                    .collect();
                format!("{{{}}}", fields.join(", "))
            }
        }
    }

    fn quoted(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            other => other.to_text(),
        }
    }

    /// Whether Python takes it for false.
    pub(crate) fn is_falsy(&self) -> bool {
        match self {
            Self::Null | Self::Bool(false) => true,
            Self::Bool(true) => false,
            Self::Integer(_) | Self::Float(_) => self.to_number() == Number::Finite(0.0),
            Self::Text(text) => text.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Object(fields) => fields.is_empty(),
        }
    }
}

/// Blanks as Python's `strip()` knows them: four separators more than Unicode's white space.
pub(crate) fn is_blank(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

fn finite(text: &str) -> Number {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Number::Finite(number),
        Ok(number) if number.is_infinite() => Number::Infinite,
        _ => Number::Not,
    }
}

/// As Python's `float()` reads a text: blanks around it, `_` between digits, `inf` and `nan` in any case. Digits
/// of other scripts, which Python takes too, are no number here.
fn float(text: &str) -> Number {
    let text = text.trim_matches(is_blank);
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if ["inf", "infinity"]
        .iter()
        .any(|name| unsigned.eq_ignore_ascii_case(name))
    {
        return Number::Infinite;
    }
    let bytes = unsigned.as_bytes();
    let is_digit = |at: Option<usize>| {
        at.and_then(|at| bytes.get(at))
            .is_some_and(u8::is_ascii_digit)
    };
    let good = bytes.iter().enumerate().all(|(at, byte)| match byte {
        b'0'..=b'9' | b'.' | b'e' | b'E' => true,
        b'+' | b'-' => at > 0 && matches!(bytes[at - 1], b'e' | b'E'),
        b'_' => is_digit(at.checked_sub(1)) && is_digit(Some(at + 1)),
        _ => false,
    });
    // Rust reads `.` and `1e` as no number, as Python does.
    if good {
        finite(&text.replace('_', ""))
    } else {
        Number::Not
    }
}

struct Reader {
    chars: Vec<char>,
    at: usize,
}

impl Reader {
    fn wrong(&self) -> NotJson {
        NotJson { at: self.at }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let end = self.at + word.len();
        let found = self
            .chars
            .get(self.at..end)
            .is_some_and(|chars| chars.iter().copied().eq(word.chars()));
        if found {
            self.at = end;
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Json, NotJson> {
        if depth > MAX_DEPTH {
            return Err(self.wrong());
        }
        match self.peek().ok_or(self.wrong())? {
            '"' => Ok(Json::Text(self.text()?)),
            '[' => self.list(depth),
            '{' => self.object(depth),
            'n' if self.word("null") => Ok(Json::Null),
            't' if self.word("true") => Ok(Json::Bool(true)),
            'f' if self.word("false") => Ok(Json::Bool(false)),
            'N' if self.word("NaN") => Ok(Json::Float("nan".into())),
            'I' if self.word("Infinity") => Ok(Json::Float("inf".into())),
            '-' if self.word("-Infinity") => Ok(Json::Float("-inf".into())),
            '-' | '0'..='9' => self.number(),
            _ => Err(self.wrong()),
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    /// A dot or an exponent without digits is not part of the number; then something follows it, and that is
    /// refused.
    fn number(&mut self) -> Result<Json, NotJson> {
        let start = self.at;
        self.take('-');
        if !self.take('0') && self.digits() == 0 {
            return Err(self.wrong());
        }
        let mut is_float = false;
        let whole = self.at;
        if self.take('.') && self.digits() > 0 {
            is_float = true;
        } else {
            self.at = whole;
        }
        let mantissa = self.at;
        let mut has_exponent = self.take('e') || self.take('E');
        if has_exponent {
            let _ = self.take('+') || self.take('-');
            has_exponent = self.digits() > 0;
        }
        if !has_exponent {
            self.at = mantissa;
        }
        let text: String = self
            .chars
            .get(start..self.at)
            .unwrap_or_default()
            .iter()
            .collect();
        Ok(if is_float || has_exponent {
            Json::Float(text)
        } else {
            Json::Integer(text)
        })
    }

    fn text(&mut self) -> Result<String, NotJson> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let c = self.peek().ok_or(self.wrong())?;
            match c {
                '"' => {
                    self.at += 1;
                    return Ok(text);
                }
                '\\' => {
                    self.at += 1;
                    text.push(self.escaped()?);
                }
                '\0'..='\u{1f}' => return Err(self.wrong()),
                _ => {
                    self.at += 1;
                    text.push(c);
                }
            }
        }
    }

    fn escaped(&mut self) -> Result<char, NotJson> {
        let c = self.peek().ok_or(self.wrong())?;
        let plain = match c {
            '"' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => return self.unicode(),
            _ => return Err(self.wrong()),
        };
        self.at += 1;
        Ok(plain)
    }

    /// Behind the backslash of `\uXXXX`. Half a pair, which a Rust text cannot hold, becomes U+FFFD.
    fn unicode(&mut self) -> Result<char, NotJson> {
        let first = self.unit()?;
        if (0xd800..0xdc00).contains(&first) && self.peek() == Some('\\') {
            let before = self.at;
            self.at += 1;
            if self.peek() == Some('u') {
                let second = self.unit()?;
                if (0xdc00..0xe000).contains(&second) {
                    let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                    return Ok(char::from_u32(code).unwrap_or('\u{fffd}'));
                }
            }
            self.at = before;
        }
        Ok(char::from_u32(first).unwrap_or('\u{fffd}'))
    }

    /// `uXXXX`.
    fn unit(&mut self) -> Result<u32, NotJson> {
        self.at += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self
                .peek()
                .and_then(|c| c.to_digit(16))
                .ok_or(self.wrong())?;
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn list(&mut self, depth: usize) -> Result<Json, NotJson> {
        self.at += 1;
        let mut items = Vec::new();
        self.blanks();
        if self.take(']') {
            return Ok(Json::List(items));
        }
        loop {
            self.blanks();
            items.push(self.value(depth + 1)?);
            self.blanks();
            if self.take(']') {
                return Ok(Json::List(items));
            }
            if !self.take(',') {
                return Err(self.wrong());
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, NotJson> {
        self.at += 1;
        let mut fields = BTreeMap::new();
        self.blanks();
        if self.take('}') {
            return Ok(Json::Object(fields));
        }
        loop {
            self.blanks();
            if self.peek() != Some('"') {
                return Err(self.wrong());
            }
            let key = self.text()?;
            self.blanks();
            if !self.take(':') {
                return Err(self.wrong());
            }
            self.blanks();
            let value = self.value(depth + 1)?;
            fields.insert(key, value);
            self.blanks();
            if self.take('}') {
                return Ok(Json::Object(fields));
            }
            if !self.take(',') {
                return Err(self.wrong());
            }
        }
    }
}
