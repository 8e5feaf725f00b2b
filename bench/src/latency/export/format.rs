//! Numbers for readers.

/// Seconds with three digits that count.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        value if !value.is_finite() => "unknown".to_owned(),
        0.0 => "0 s".to_owned(),
        value if value < 1e-3 => format!("{} µs", digits(value * 1e6)),
        value if value < 1.0 => format!("{} ms", digits(value * 1e3)),
        value if value < 600.0 => format!("{} s", digits(value)),
        value => format!("{:.0} min", value / 60.0),
    }
}

/// Bytes in binary units.
pub(crate) fn bytes(value: f64) -> String {
    match value {
        value if value >= 1e3 * f64::from(1 << 20) => {
            format!("{} GiB", digits(value / f64::from(1 << 30)))
        }
        value => format!("{} MiB", digits(value / f64::from(1 << 20))),
    }
}

/// A rate: `unit` is `FLOP/s` or `B/s`.
pub(crate) fn rate(value: f64, unit: &str) -> String {
    let (scale, prefix) = match value {
        value if value >= 1e12 => (1e12, "T"),
        value if value >= 1e9 => (1e9, "G"),
        _ => (1e6, "M"),
    };
    format!("{} {prefix}{unit}", digits(value / scale))
}

/// A share in percent.
pub(crate) fn fraction(value: f64) -> String {
    match value {
        value if value < 0.1 => format!("{:.1} %", 100.0 * value),
        value => format!("{:.0} %", 100.0 * value),
    }
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(seconds(0.000_012_34), "12.3 µs");
        assert_eq!(seconds(0.0), "0 s");
        assert_eq!(seconds(0.123_4), "123 ms");
        assert_eq!(seconds(1.234), "1.23 s");
        assert_eq!(seconds(1234.0), "21 min");
        assert_eq!(seconds(f64::NAN), "unknown");
        assert_eq!(bytes(3.0 * f64::from(1 << 20)), "3.00 MiB");
        assert_eq!(bytes(28.58e9), "26.6 GiB");
        assert_eq!(rate(788e12, "FLOP/s"), "788 TFLOP/s");
        assert_eq!(rate(1.5e9, "B/s"), "1.50 GB/s");
        assert_eq!(fraction(0.812), "81 %");
        assert_eq!(fraction(0.0123), "1.2 %");
    }
}
