//! Wall-clock time as text and numbers. Nothing waits by this clock: it jumps.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub fn now_unix() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// `2026-11-20T12:34:56.789Z`.
pub fn now_rfc3339() -> String {
    rfc3339(now_unix())
}

/// Seconds since 1970 as `2026-11-20T12:34:56.789Z`.
///
/// The civil date of a day count, by the rules of the Gregorian calendar shifted to years that begin in
/// March (so that leap days come last).
pub fn rfc3339(unix: f64) -> String {
    let millis = (unix * 1000.0).max(0.0) as u64;
    let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
    let shifted = days + 719_468; // days from 0000-03-01 to 1970-01-01
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // date -u -d @N --iso-8601=ns
        for (unix, text) in [
            (0.0, "1970-01-01T00:00:00.000Z"),
            (951_782_399.5, "2000-02-28T23:59:59.500Z"),
            (951_782_400.0, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400.0, "2100-03-01T00:00:00.000Z"),
            (1_795_219_200.0, "2026-11-21T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(unix), text);
        }
    }
}
