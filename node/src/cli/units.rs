//! Durations and sizes as people write them: `30`, `90s`, `5m`, `7d`; `4096`, `64MiB`, `20GB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time; a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl Seconds {
    /// `None` for zero, where zero means "no limit".
    pub(crate) fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let factor = match unit {
            "" | "s" => 1.0,
            "ms" => 1e-3,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(format!("`{unit}` is not one of ms, s, m, h, d")),
        };
        let number: f64 = number
            .parse()
            .map_err(|_| "write a number and a unit: 30s, 5m, 7d".to_owned())?;
        Duration::try_from_secs_f64(number * factor)
            .map(Self)
            .map_err(|_| "is out of range".into())
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        if self.0.subsec_nanos() != 0 {
            return write!(f, "{}ms", self.0.as_millis());
        }
        match seconds {
            0 => f.write_str("0s"),
            s if s % 86_400 == 0 => write!(f, "{}d", s / 86_400),
            s if s % 3_600 == 0 => write!(f, "{}h", s / 3_600),
            s if s % 60 == 0 && s > 60 => write!(f, "{}m", s / 60),
            s => write!(f, "{s}s"),
        }
    }
}

/// A number of bytes; a bare number is bytes, `MB` is a million, `MiB` is 2^20.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

const UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let lower = unit.to_ascii_lowercase();
        let factor = UNITS
            .iter()
            .find_map(|(name, factor)| (*name == lower).then_some(*factor))
            .ok_or_else(|| format!("`{unit}` is not one of kB, MB, GB, TB, KiB, MiB, GiB"))?;
        let number: f64 = number
            .parse()
            .map_err(|_| "write a number and a unit: 64MiB, 20GB".to_owned())?;
        let bytes = number * factor as f64;
        if !(0.0..=9e15).contains(&bytes) {
            return Err("is out of range".into());
        }
        Ok(Self(bytes.round() as u64))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, factor) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 != 0 && self.0.is_multiple_of(factor) {
                return write!(f, "{}{name}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Number and unit, spaces between them allowed.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    (text[..at].trim_end(), &text[at..])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_and_sizes_round_trip() {
        for (text, seconds) in [
            ("30", 30),
            ("90s", 90),
            ("5m", 300),
            ("7d", 604_800),
            ("1 h", 3_600),
        ] {
            assert_eq!(text.parse::<Seconds>().unwrap().0.as_secs(), seconds);
        }
        for (text, bytes) in [
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("20GB", 20_000_000_000),
            ("1.5 KiB", 1536),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap().0, bytes);
        }
        for text in ["300s", "5m", "2h", "7d", "0s", "1500ms"] {
            let value = text.parse::<Seconds>().unwrap();
            assert_eq!(value.to_string().parse::<Seconds>().unwrap(), value);
        }
        for text in ["64MiB", "1GiB", "1000", "0"] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "s", "-1s", "1w", "1e400s", "ten"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
        for text in ["", "MiB", "-1", "1XB", "1e300GB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
