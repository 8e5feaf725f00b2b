//! How long to leave a server alone: by what it says, and by what we have learnt.
//!
//! A provider says with every answer how many requests and tokens are left and when there are more. A request that
//! has no chance is not sent: failed ones count against the limit too.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Longest backoff.
const CAP: Duration = Duration::from_secs(60);

/// What a server says about its limits; times are those of a monotonic clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    requests: Bucket,
    tokens: Bucket,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bucket {
    /// What was left, and when that is over.
    left: Option<(u64, Duration)>,
}

impl Limits {
    /// Takes what an answer says.
    pub(super) fn heard(&mut self, headers: &HeaderMap, now: Duration) {
        for (bucket, kind) in [
            (&mut self.requests, "requests"),
            (&mut self.tokens, "tokens"),
        ] {
            let header = |name: &str| {
                let value = headers.get(format!("x-ratelimit-{name}-{kind}"))?;
                value.to_str().ok().map(str::trim)
            };
            let left = header("remaining").and_then(|text| text.parse::<u64>().ok());
            let reset = header("reset").and_then(duration);
            if let (Some(left), Some(reset)) = (left, reset) {
                bucket.left = Some((left, now.saturating_add(reset)));
            }
        }
    }

    /// How long a request of so many tokens has to wait.
    pub(super) fn wait(&self, tokens: u64, now: Duration) -> Duration {
        let of = |bucket: Bucket, need: u64| match bucket.left {
            Some((left, until)) if left < need => until.saturating_sub(now),
            _ => Duration::ZERO,
        };
        of(self.requests, 1).max(of(self.tokens, tokens))
    }

    /// A request went out.
    pub(super) fn sent(&mut self, tokens: u64) {
        for (bucket, used) in [(&mut self.requests, 1), (&mut self.tokens, tokens)] {
            if let Some((left, _)) = &mut bucket.left {
                *left = left.saturating_sub(used);
            }
        }
    }
}

/// How long a server asks to be left alone: seconds, milliseconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let millis = headers
        .get("retry-after-ms")
        .and_then(|value| value.to_str().ok());
    if let Some(millis) = millis.and_then(|text| text.trim().parse::<u64>().ok()) {
        return Some(Duration::from_millis(millis));
    }
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let when = httpdate::parse_http_date(text).ok()?;
    Some(when.duration_since(SystemTime::now()).unwrap_or_default())
}

/// The wait after failed try number `attempt`, from 0: at random up to a bound that starts at `base` and doubles, so
/// that clients that failed together do not come back together; and never less than the server asks for. `random`
/// is in 0..1.
pub(super) fn backoff(
    base: Duration,
    attempt: u32,
    random: f64,
    asked: Option<Duration>,
) -> Duration {
    let bound = base.saturating_mul(2u32.saturating_pow(attempt)).min(CAP);
    bound
        .mul_f64(random.clamp(0.0, 1.0))
        .max(asked.unwrap_or_default())
}

/// A number of 0..1 that nobody can guess.
pub(super) fn random() -> f64 {
    let bytes = uuid::Uuid::new_v4().into_bytes();
    f64::from(u16::from_le_bytes([bytes[0], bytes[1]])) / 65_536.0
}

/// `6m0s`, `1.5s`, `20ms`, or seconds alone.
fn duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let factor = match unit {
            "d" => 86_400.0,
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * factor;
        rest = tail;
    }
    Duration::try_from_secs_f64(sum).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        headers
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_a_server_asks_for() {
        let wait = |name, value: &str| retry_after(&headers(&[(name, value)]));
        assert_eq!(wait("retry-after", "7"), Some(7 * SECOND));
        assert_eq!(wait("retry-after", "0.5"), Some(SECOND / 2));
        assert_eq!(wait("retry-after-ms", "250"), Some(SECOND / 4));
        let later = SystemTime::now() + 100 * SECOND;
        let date = wait("retry-after", &httpdate::fmt_http_date(later)).unwrap();
        assert!((95..=100).contains(&date.as_secs()), "{date:?}");
        for nonsense in ["soon", "-1", "nan", ""] {
            assert_eq!(wait("retry-after", nonsense), None, "{nonsense}");
        }
        for (text, seconds) in [
            ("6m0s", 360.0),
            ("1.5s", 1.5),
            ("20ms", 0.02),
            ("1h2m", 3_720.0),
            ("3", 3.0),
        ] {
            assert_eq!(
                duration(text),
                Duration::try_from_secs_f64(seconds).ok(),
                "{text}"
            );
        }
        for nonsense in ["", "s", "5x", "-5s", "1..2s"] {
            assert!(duration(nonsense).is_none_or(|d| d.is_zero()), "{nonsense}");
        }
    }

    #[test]
    fn what_has_no_chance_is_not_sent() {
        let mut limits = Limits::default();
        assert_eq!(limits.wait(1_000_000, SECOND), Duration::ZERO);
        let said = headers(&[
            ("x-ratelimit-remaining-requests", "2"),
            ("x-ratelimit-reset-requests", "10s"),
            ("x-ratelimit-remaining-tokens", "6000"),
            ("x-ratelimit-reset-tokens", "1m"),
        ]);
        limits.heard(&said, SECOND);
        assert_eq!(limits.wait(6_000, SECOND), Duration::ZERO);
        assert_eq!(limits.wait(6_001, SECOND), 60 * SECOND);
        limits.sent(1_000);
        limits.sent(1_000);
        assert_eq!(limits.wait(100, 2 * SECOND), 9 * SECOND);
        assert_eq!(limits.wait(100, 11 * SECOND), Duration::ZERO);
        limits.heard(&headers(&[("x-ratelimit-remaining-requests", "x")]), SECOND);
        assert_eq!(limits.wait(100, 2 * SECOND), 9 * SECOND);
        // The longest time that there is.
        let never = headers(&[
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "18446744073709549568"),
        ]);
        limits.heard(&never, 3_000 * SECOND);
        assert!(limits.wait(1, 3_000 * SECOND) > 1_000_000 * SECOND);
    }

    #[test]
    fn waits_are_random_up_to_a_bound_that_doubles() {
        for (attempt, bound) in [(0, 1), (1, 2), (2, 4), (6, 60), (40, 60)] {
            assert_eq!(backoff(SECOND, attempt, 1.0, None), bound * SECOND);
            assert_eq!(backoff(SECOND, attempt, 0.0, None), Duration::ZERO);
        }
        assert_eq!(backoff(SECOND, 0, 0.5, Some(30 * SECOND)), 30 * SECOND);
        assert!((0.0..1.0).contains(&random()));
    }
}
