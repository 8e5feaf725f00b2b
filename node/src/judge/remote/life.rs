//! When a model leaves.
//!
//! Providers announce it: in `shutdown_date` of `GET /v1/models/{id}`, and on pages that are read by people. Both
//! are used here, the server's word first. The pages speak about the provider's own servers: another one may call its
//! model `gpt-4o`, too, and only its own word is about that. A judge that vanishes overnight is an outage of every
//! validator, so the warning comes 90 days before, with the way out; after the date nothing is sent.

use reqwest::Url;

use crate::judge::clock::{day, days_of};

/// Days before the end from which on there is a warning.
const WARN_DAYS: i64 = 90;
/// The way out.
const MOVE: &str = "choose another model with --remote-model, judge the same clips with it into a --log of its own, \
compare, and calibrate against it: docs/judge.md, \"When the model leaves\"";

/// The provider's host; those of its regions end in it.
const PROVIDER: &str = "api.openai.com";
/// Announced ends at [`PROVIDER`], with the replacement that the provider names. Read in November 2026.
const ANNOUNCED: [(&str, &str, Option<&str>); 4] = [
    ("gpt-4o", "2027-01-14", Some("gpt-6-luna")),
    ("gpt-4o-2024-08-06", "2027-01-14", Some("gpt-6-luna")),
    ("gpt-4o-2024-11-20", "2027-01-14", Some("gpt-6-luna")),
    ("gpt-4o-2024-05-13", "2026-10-23", Some("gpt-6-luna")),
];

/// How long a model has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Life {
    /// No end is near.
    Fine,
    /// It leaves soon: what to tell the user.
    Leaving(String),
    /// It has left: why nothing is sent.
    Gone(String),
}

/// What is known at this time of a model on the server at `base`. `said` is the server's `shutdown_date`.
pub(super) fn of(base: &Url, model: &str, said: Option<&str>, now: f64) -> Life {
    let announced = ANNOUNCED
        .iter()
        .find(|(name, ..)| *name == model && is_provider(base));
    let replacement = announced.and_then(|(.., replacement)| *replacement);
    let date = said
        .filter(|date| days_of(date).is_some())
        .or(announced.map(|(_, date, _)| *date));
    let Some((date, end)) = date.and_then(|date| Some((date.get(..10)?, days_of(date)?))) else {
        return Life::Fine;
    };
    let instead =
        replacement.map_or_else(String::new, |name| format!(" (named replacement: {name})"));
    let left = end - days_of(&day(now)).unwrap_or(end);
    if left <= 0 {
        Life::Gone(format!(
            "{model} was announced to leave on {date}{instead}, so it is not asked any more; {MOVE}"
        ))
    } else if left <= WARN_DAYS {
        let days = if left == 1 {
            "1 day".to_owned()
        } else {
            format!("{left} days")
        };
        Life::Leaving(format!(
            "{model} is announced to leave on {date}, in {days}{instead}; {MOVE}"
        ))
    } else {
        Life::Fine
    }
}

/// Whether the announcements are about this server.
fn is_provider(base: &Url) -> bool {
    let rest = base.host_str().and_then(|host| host.strip_suffix(PROVIDER));
    rest.is_some_and(|region| region.is_empty() || region.ends_with('.'))
}

/// The date in a description of a model: a text, or seconds since 1970.
pub(super) fn shutdown_date(description: &serde_json::Value) -> Option<String> {
    match &description["shutdown_date"] {
        serde_json::Value::String(text) => {
            let date = text.get(..10)?;
            days_of(date).map(|_| date.to_owned())
        }
        serde_json::Value::Number(seconds) => {
            let seconds = seconds.as_f64().filter(|s| (0.0..1e12).contains(s))?;
            Some(day(seconds))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A model at its provider.
    fn of(model: &str, said: Option<&str>, now: f64) -> Life {
        let base = Url::parse("https://api.openai.com/v1").unwrap();
        super::of(&base, model, said, now)
    }

    #[test]
    fn announcements_are_about_the_provider_only() {
        let now = at("2030-01-01");
        let of = |base: &str, said| super::of(&Url::parse(base).unwrap(), "gpt-4o", said, now);
        for provider in ["https://api.openai.com", "https://eu.api.openai.com/v1"] {
            assert!(matches!(of(provider, None), Life::Gone(_)), "{provider}");
        }
        for other in [
            "http://127.0.0.1:8000/v1",
            "https://gateway.example/v1",
            "https://notapi.openai.com/v1",
            "https://api.openai.com.example/v1",
        ] {
            assert_eq!(of(other, None), Life::Fine, "{other}");
            let said = of(other, Some("2029-12-31"));
            assert!(matches!(said, Life::Gone(_)), "{other}");
        }
    }

    fn at(date: &str) -> f64 {
        days_of(date).unwrap() as f64 * 86_400.0 + 43_200.0
    }

    #[test]
    fn a_warning_and_then_the_end() {
        for (date, days) in [
            ("2026-10-16", "90 days"),
            ("2026-11-22", "53 days"),
            ("2027-01-13", "1 day"),
        ] {
            let Life::Leaving(text) = of("gpt-4o", None, at(date)) else {
                panic!("{date}")
            };
            assert!(
                text.contains(&format!("in {days} ")) && text.contains("gpt-6-luna"),
                "{text}"
            );
        }
        assert_eq!(of("gpt-4o", None, at("2026-10-15")), Life::Fine);
        for date in ["2027-01-14", "2030-01-01"] {
            assert!(
                matches!(of("gpt-4o", None, at(date)), Life::Gone(_)),
                "{date}"
            );
        }
        assert_eq!(of("qwen3-vl", None, at("2030-01-01")), Life::Fine);
    }

    #[test]
    fn the_servers_word_goes_first() {
        let now = at("2026-11-22");
        assert!(matches!(
            of("qwen3-vl", Some("2026-11-22"), now),
            Life::Gone(_)
        ));
        assert_eq!(of("gpt-4o", Some("2027-06-01"), now), Life::Fine);
        assert!(matches!(
            of("gpt-4o", Some("some day"), now),
            Life::Leaving(_)
        ));
        for (value, date) in [
            (
                serde_json::json!("2027-01-14T00:00:00Z"),
                Some("2027-01-14"),
            ),
            (serde_json::json!(1_799_884_800), Some("2027-01-14")),
            (serde_json::json!(null), None),
            (serde_json::json!("never"), None),
            (serde_json::json!(-1), None),
        ] {
            let found = shutdown_date(&serde_json::json!({"shutdown_date": value}));
            assert_eq!(found.as_deref(), date);
        }
    }
}
