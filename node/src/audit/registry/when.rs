//! Times as the registry keeps them: in one form, so that equal ones are equal and their order is that of their texts.

/// `2026-05-01T12:00:00Z`, with or without a fraction, as `2026-05-01T12:00:00.000Z`. None for anything else: other
/// time zones, dates that no calendar has.
pub fn utc(text: &str) -> Option<String> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = fields(date, '-', [4, 2, 2])?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = fields(time, ':', [2, 2, 2])?;
    let days = match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    let is_time = (1..=days).contains(&day) && hour < 24 && minute < 60 && second < 60;
    let is_fraction = (1..=9).contains(&fraction.len()) && is_number(fraction);
    (is_time && is_fraction).then(|| format!("{date}T{time}.{fraction:0<3.3}Z"))
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// Numbers of so many digits each.
fn fields(text: &str, between: char, digits: [usize; 3]) -> Option<[u32; 3]> {
    let mut parts = text.split(between);
    let mut numbers = [0; 3];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !is_number(part) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn one_form() {
        for (text, kept) in [
            ("2026-05-01T12:00:00Z", "2026-05-01T12:00:00.000Z"),
            ("2026-05-01T12:00:00.5Z", "2026-05-01T12:00:00.500Z"),
            ("2024-02-29T23:59:59.123456789Z", "2024-02-29T23:59:59.123Z"),
            ("2000-02-29T00:00:00.000Z", "2000-02-29T00:00:00.000Z"),
        ] {
            assert_eq!(utc(text).as_deref(), Some(kept));
            assert_eq!(utc(kept).as_deref(), Some(kept));
        }
    }

    #[test]
    fn no_time() {
        for text in [
            "",
            "Z",
            "yesterday",
            "2026-05-01",
            "2026-05-01T12:00:00",
            "2026-05-01T12:00:00+02:00",
            "2026-05-01 12:00:00Z",
            "2026-5-01T12:00:00Z",
            "2026-02-29T12:00:00Z",
            "2100-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-00-01T12:00:00Z",
            "2026-05-00T12:00:00Z",
            "2026-05-32T12:00:00Z",
            "2026-05-01T24:00:00Z",
            "2026-05-01T12:60:00Z",
            "2026-05-01T12:00:60Z",
            "2026-05-01T12:00:00.Z",
            "2026-05-01T12:00:00.1234567890Z",
            "2026-05-01T12:00:00.-1Z",
            "2026-05-01T12:00:00:00Z",
            "+026-05-01T12:00:00Z",
            "２026-05-01T12:00:00Z",
        ] {
            assert_eq!(utc(text), None, "{text}");
        }
    }
}
