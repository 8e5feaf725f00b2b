//! The time, as something that a test can set.
//!
//! Waits and deadlines go by a monotonic clock; days of a budget and announced dates go by the calendar.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Where the time comes from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Time since some start; never goes back.
    fn monotonic(&self) -> Duration;
    /// Seconds since 1970, by the calendar.
    fn unix(&self) -> f64;
}

/// The clocks of this machine.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn unix(&self) -> f64 {
        crate::time::now_unix()
    }
}

/// A clock that stands still until it is moved, for tests of whatever depends on time.
#[derive(Debug)]
pub struct ManualClock {
    at: Mutex<(Duration, f64)>,
}

impl ManualClock {
    /// A clock that shows this number of seconds since 1970.
    pub fn at(unix: f64) -> Self {
        Self {
            at: Mutex::new((Duration::ZERO, unix)),
        }
    }

    /// Lets time go by.
    pub fn advance(&self, time: Duration) {
        let mut at = self.at.lock().unwrap_or_else(|e| e.into_inner());
        at.0 += time;
        at.1 += time.as_secs_f64();
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        self.at.lock().unwrap_or_else(|e| e.into_inner()).0
    }

    fn unix(&self) -> f64 {
        self.at.lock().unwrap_or_else(|e| e.into_inner()).1
    }
}

/// The calendar day of a time, in UTC: `2026-11-22`.
pub fn day(unix: f64) -> String {
    let mut text = crate::time::rfc3339(unix);
    text.truncate(10);
    text
}

/// Days from 1970-01-01 to a date `YYYY-MM-DD`; what follows the date does not count.
pub fn days_of(date: &str) -> Option<i64> {
    let date = date.get(..10)?;
    let mut parts = date.split('-');
    let year: i64 = parts.next()?.parse().ok()?;
    let month: i64 = parts.next()?.parse().ok()?;
    let day: i64 = parts.next()?.parse().ok()?;
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March have their leap day at the end.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_go_there_and_back() {
        for (date, days) in [
            ("1970-01-01", 0),
            ("2000-02-29", 11_016),
            ("2026-11-22", 20_779),
            ("2027-01-14T00:00:00Z", 20_832),
        ] {
            assert_eq!(days_of(date), Some(days), "{date}");
            assert_eq!(day(days as f64 * 86_400.0 + 86_399.0), date[..10]);
        }
        for wrong in [
            "",
            "2026",
            "2026-13-01",
            "2026-00-10",
            "20261122--",
            "abcd-ef-gh",
        ] {
            assert_eq!(days_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_manual_clock_stands_still() {
        let clock = ManualClock::at(5.0);
        assert_eq!((clock.monotonic(), clock.unix()), (Duration::ZERO, 5.0));
        clock.advance(Duration::from_secs(2));
        assert_eq!(
            (clock.monotonic(), clock.unix()),
            (Duration::from_secs(2), 7.0)
        );
    }
}
