//! The frame rate of a clip from the time stamps of its frames.

/// When frames are shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Timing {
    /// Frames per second, a fraction in lowest terms.
    pub(super) fps: (u32, u32),
    /// Seconds after the first frame.
    pub(super) times_s: Vec<f64>,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum TimingError {
    /// Frames last this long, seconds.
    Variable { shortest: f64, longest: f64 },
    /// Neither time stamps nor an announced rate.
    Missing,
}

/// A step may be off the mean by this share of it, beside one tick of rounding.
const UNEVEN: f64 = 0.1;
/// An announced rate this near to the measured one is the exact one: time stamps are rounded.
const NEAR: f64 = 0.005;

/// Time stamps in ticks of `base` seconds to times and a rate.
pub(super) fn timing(
    stamps: &[Option<i64>],
    base: (u32, u32),
    announced: (u32, u32),
) -> Result<Timing, TimingError> {
    let tick = f64::from(base.0) / f64::from(base.1);
    let announced = (announced.0 > 0 && announced.1 > 0).then(|| reduced(announced));
    let known: Option<Vec<i64>> = stamps.iter().copied().collect();
    let (Some(known), true) = (known, stamps.len() > 1) else {
        // Nothing to measure: the file's word has to do.
        let fps = announced.ok_or(TimingError::Missing)?;
        let frame = f64::from(fps.1) / f64::from(fps.0);
        let times_s = (0..stamps.len()).map(|i| i as f64 * frame).collect();
        return Ok(Timing { fps, times_s });
    };
    let (first, last) = (known[0], known[known.len() - 1]);
    let steps = || known.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
    let span = last.saturating_sub(first);
    let count = (known.len() - 1) as u64;
    let mean = span as f64 / count as f64;
    let slack = (UNEVEN * mean).max(1.0);
    if span <= 0 || steps().any(|step| step <= 0 || (step as f64 - mean).abs() > slack) {
        let seconds = |step: Option<i64>| step.unwrap_or(0) as f64 * tick;
        return Err(TimingError::Variable {
            shortest: seconds(steps().min()),
            longest: seconds(steps().max()),
        });
    }
    let measured = 1.0 / (mean * tick);
    let near = announced.filter(|fps| {
        let rate = f64::from(fps.0) / f64::from(fps.1);
        (rate / measured - 1.0).abs() <= NEAR
    });
    let fps = near
        .or_else(|| exact(count, base, span.unsigned_abs()))
        .ok_or(TimingError::Missing)?;
    let times_s = known
        .iter()
        .map(|stamp| stamp.saturating_sub(first) as f64 * tick)
        .collect();
    Ok(Timing { fps, times_s })
}

/// `count` frames in `span` ticks of `base` seconds, as a fraction; to a thousandth when it has no small one.
fn exact(count: u64, base: (u32, u32), span: u64) -> Option<(u32, u32)> {
    let num = u128::from(count) * u128::from(base.1);
    let den = u128::from(span) * u128::from(base.0);
    let divisor = gcd(num, den).max(1);
    let (small_num, small_den) = (num / divisor, den / divisor);
    if let (Ok(num), Ok(den)) = (u32::try_from(small_num), u32::try_from(small_den)) {
        return (num > 0 && den > 0).then_some((num, den));
    }
    let thousandths = (num as f64 / den as f64 * 1000.0).round();
    // A rate below a thousandth or above the range is no frame rate.
    (1.0..=f64::from(u32::MAX))
        .contains(&thousandths)
        .then(|| reduced((thousandths as u32, 1000)))
}

fn reduced(fraction: (u32, u32)) -> (u32, u32) {
    let divisor = gcd(u128::from(fraction.0), u128::from(fraction.1)).max(1) as u32;
    (fraction.0 / divisor, fraction.1 / divisor)
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stamps(values: impl IntoIterator<Item = i64>) -> Vec<Option<i64>> {
        values.into_iter().map(Some).collect()
    }

    #[test]
    fn even_ticks_give_the_exact_rate() {
        let even = timing(&stamps((0..81).map(|i| i * 800)), (1, 12_800), (16, 1)).unwrap();
        assert_eq!(even.fps, (16, 1));
        assert!((even.times_s[80] - 5.0).abs() < 1e-12);
        // The announced rate is computed from a duration that lacks the last frame: not believed.
        let wrong = timing(&stamps((0..81).map(|i| i * 800)), (1, 12_800), (17, 1)).unwrap();
        assert_eq!(wrong.fps, (16, 1));
        let ntsc = timing(&stamps((0..30).map(|i| i * 1001)), (1, 30_000), (0, 0)).unwrap();
        assert_eq!(ntsc.fps, (30_000, 1001));
    }

    #[test]
    fn rounding_to_milliseconds_is_no_variable_rate() {
        let rounded = (0..100).map(|i: i64| (i * 1000 + 12) / 24);
        let found = timing(&stamps(rounded), (1, 1000), (24, 1)).unwrap();
        assert_eq!(found.fps, (24, 1));
        // A start other than zero is none of our business.
        let late = timing(&stamps([500, 600, 700]), (1, 1000), (0, 0)).unwrap();
        assert_eq!((late.fps, late.times_s[0]), ((10, 1), 0.0));
    }

    #[test]
    fn gaps_and_jumps_back_are_variable() {
        let gap = timing(&stamps([0, 100, 200, 400, 500]), (1, 1000), (10, 1));
        assert_eq!(
            gap,
            Err(TimingError::Variable {
                shortest: 0.1,
                longest: 0.2
            })
        );
        for odd in [
            vec![0, 0, 0],
            vec![300, 200, 100],
            vec![i64::MIN + 1, 0, i64::MAX],
        ] {
            assert!(timing(&stamps(odd), (1, 1000), (10, 1)).is_err());
        }
    }

    #[test]
    fn without_stamps_the_announced_rate_has_to_do() {
        let found = timing(&[None, None, None], (1, 1000), (50, 2)).unwrap();
        assert_eq!(found.fps, (25, 1));
        assert!((found.times_s[2] - 0.08).abs() < 1e-12);
        assert_eq!(
            timing(&[None], (1, 1000), (0, 1)),
            Err(TimingError::Missing)
        );
        assert_eq!(
            timing(&[Some(5)], (1, 1000), (16, 1)).unwrap().times_s,
            [0.0]
        );
        assert_eq!(timing(&[], (1, 1000), (16, 1)).unwrap().times_s, [0.0; 0]);
    }
}
