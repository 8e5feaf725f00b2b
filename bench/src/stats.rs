//! Medians, bootstrap intervals of them and of their ratio, and outliers. Pure functions.

use serde::{Deserialize, Serialize};

/// How one subject's times relate to the reference's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratio {
    /// Median of the subject, in seconds.
    pub(crate) median_s: f64,
    /// Fastest run of the subject, in seconds.
    pub(crate) min_s: f64,
    /// Median of the reference, in seconds.
    pub(crate) reference_median_s: f64,
    /// Fastest run of the reference, in seconds.
    pub(crate) reference_min_s: f64,
    /// Subject median divided by reference median: below 1 the subject is faster.
    pub(crate) ratio: f64,
    /// Lower end of the bootstrap 95 % interval of the ratio.
    pub(crate) ratio_low: f64,
    /// Upper end of the bootstrap 95 % interval of the ratio.
    pub(crate) ratio_high: f64,
}

/// One row of samples of one quantity in a few numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Number of samples.
    pub(crate) n: usize,
    /// Middle value.
    pub(crate) median: f64,
    /// Median absolute deviation from the median.
    pub(crate) mad: f64,
    /// Smallest value.
    pub(crate) min: f64,
    /// Largest value.
    pub(crate) max: f64,
    /// Smallest value that at least 95 % of the samples do not exceed.
    pub(crate) p95: f64,
    /// 95 % interval of the median by bootstrap; absent for fewer than [`ENOUGH`] samples, of which no
    /// resampling makes more.
    pub(crate) interval: Option<[f64; 2]>,
}

impl Summary {
    /// `None` for no samples.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let rank = (0.95 * n as f64).ceil() as usize;
        Some(Self {
            n,
            median: median(values),
            mad: deviations(values).1,
            min: sorted[0],
            max: sorted[n - 1],
            p95: sorted[rank.clamp(1, n) - 1],
            interval: (n >= ENOUGH).then(|| interval_of(n, |draw| median_of(values, draw))),
        })
    }

    /// Deviation over median.
    pub(crate) fn spread(&self) -> f64 {
        self.mad / self.median
    }
}

/// Fewest samples that an interval is drawn from.
pub(crate) const ENOUGH: usize = 5;

/// Resamples drawn for the interval.
const RESAMPLES: usize = 10_000;

/// Modified Z-score above which a value is an outlier (Iglewicz and Hoaglin, "How to Detect and
/// Handle Outliers", 1993, suggest 3.5; timings are skewed, so the bound is wide).
const OUTLIER: f64 = 10.0;

/// Middle value, or the mean of the two middle ones; NaN for no values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => f64::NAN,
        _ if n % 2 == 1 => sorted[n / 2],
        _ => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Smallest value; NaN for no values.
pub(crate) fn min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::min)
}

/// Median absolute deviation over the median: a robust relative spread.
pub(crate) fn spread(values: &[f64]) -> f64 {
    let centre = median(values);
    deviations(values).1 / centre
}

/// Modified Z-scores' ingredients: the deviations from the median and their median.
fn deviations(values: &[f64]) -> (Vec<f64>, f64) {
    let centre = median(values);
    let all: Vec<f64> = values.iter().map(|value| value - centre).collect();
    let mad = median(&all.iter().map(|value| value.abs()).collect::<Vec<_>>());
    (all, mad)
}

/// Indices of values far from the others by the modified Z-score.
pub(crate) fn outliers(values: &[f64]) -> Vec<usize> {
    let (deviations, mad) = deviations(values);
    // A spread of 0.1 % of the median is taken as the least that a clock can show, so that four
    // equal values and one that differs by a hair are not "an outlier".
    let scale = mad.max(median(values).abs() * 1e-3);
    deviations
        .iter()
        .enumerate()
        .filter(|(_, deviation)| 0.6745 * deviation.abs() / scale > OUTLIER)
        .map(|(index, _)| index)
        .collect()
}

/// Compares paired samples. Pair `i` of both slices was taken back to back, so the bootstrap draws
/// pairs: drift that slows both sides of a pair cancels out.
pub(crate) fn compare(subject: &[f64], reference: &[f64]) -> Ratio {
    let pairs = subject.len().min(reference.len());
    let (a, b) = (&subject[..pairs], &reference[..pairs]);
    let mut ratios = Vec::with_capacity(RESAMPLES);
    let mut rng = SplitMix(0x1eaf_5eed);
    let (mut drawn_a, mut drawn_b) = (vec![0.0; pairs], vec![0.0; pairs]);
    for _ in 0..if pairs == 0 { 0 } else { RESAMPLES } {
        for slot in 0..pairs {
            let pick = (rng.next() % pairs as u64) as usize;
            drawn_a[slot] = a[pick];
            drawn_b[slot] = b[pick];
        }
        ratios.push(median(&drawn_a) / median(&drawn_b));
    }
    ratios.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let last = ratios.len().saturating_sub(1) as f64;
        ratios
            .get((share * last).round() as usize)
            .copied()
            .unwrap_or(f64::NAN)
    };
    Ratio {
        median_s: median(a),
        min_s: min(a),
        reference_median_s: median(b),
        reference_min_s: min(b),
        ratio: median(a) / median(b),
        ratio_low: quantile(0.025),
        ratio_high: quantile(0.975),
    }
}

/// Ratio of the medians of two rows that were not taken in turns, `a` over `b`, with its 95 % interval when both
/// have [`ENOUGH`] samples. Each row is resampled by itself.
pub(crate) fn ratio_of_medians(a: &[f64], b: &[f64]) -> (f64, Option<[f64; 2]>) {
    let interval = (a.len() >= ENOUGH && b.len() >= ENOUGH).then(|| {
        interval_of(a.len() + b.len(), |draw| {
            // One stream of indices serves both rows: each takes as many as it has samples.
            median_of(a, draw) / median_of(b, draw)
        })
    });
    (median(a) / median(b), interval)
}

/// Median of as many random picks as there are values.
fn median_of(values: &[f64], rng: &mut SplitMix) -> f64 {
    let picks: Vec<f64> = (0..values.len())
        .map(|_| values[(rng.next() % values.len() as u64) as usize])
        .collect();
    median(&picks)
}

/// Middle 95 % of what `estimate` makes of resamples. `n` only varies the stream.
fn interval_of(n: usize, mut estimate: impl FnMut(&mut SplitMix) -> f64) -> [f64; 2] {
    let mut rng = SplitMix(0x1eaf_5eed ^ n as u64);
    let mut found: Vec<f64> = (0..RESAMPLES).map(|_| estimate(&mut rng)).collect();
    found.sort_by(f64::total_cmp);
    let at = |share: f64| found[(share * (RESAMPLES - 1) as f64).round() as usize];
    [at(0.025), at(0.975)]
}

/// SplitMix64: the smallest generator that is good enough to draw indices and test weights.
#[derive(Debug)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [-√3, √3): mean 0, variance 1.
    pub(crate) fn unit_variance(&mut self) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1u64 << 24) as f32;
        (unit * 2.0 - 1.0) * 3f32.sqrt()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratio_of_constant_samples_has_a_point_interval() {
        let ratio = compare(&[2.0; 8], &[4.0; 8]);
        assert_eq!(
            (ratio.ratio, ratio.ratio_low, ratio.ratio_high),
            (0.5, 0.5, 0.5)
        );
        assert_eq!((ratio.min_s, ratio.reference_min_s), (2.0, 4.0));
    }

    #[test]
    fn interval_brackets_the_ratio_and_shrinks_with_more_pairs() {
        let mut rng = SplitMix(1);
        let mut noisy = |n: usize, centre: f64| -> Vec<f64> {
            (0..n)
                .map(|_| centre + 0.1 * f64::from(rng.unit_variance()))
                .collect()
        };
        let (few_a, few_b) = (noisy(6, 1.0), noisy(6, 2.0));
        let (many_a, many_b) = (noisy(200, 1.0), noisy(200, 2.0));
        let (few, many) = (compare(&few_a, &few_b), compare(&many_a, &many_b));
        for found in [&few, &many] {
            assert!(found.ratio_low <= found.ratio && found.ratio <= found.ratio_high);
        }
        assert!(many.ratio_high - many.ratio_low < few.ratio_high - few.ratio_low);
        assert!(many.ratio_low < 0.5 && 0.5 < many.ratio_high, "{many:?}");
    }

    #[test]
    fn shared_drift_cancels_in_pairs() {
        let drift: Vec<f64> = (0..10).map(|i| 1.0 + f64::from(i)).collect();
        let twice: Vec<f64> = drift.iter().map(|value| 2.0 * value).collect();
        let ratio = compare(&twice, &drift);
        assert!((ratio.ratio_low - 2.0).abs() < 1e-12 && (ratio.ratio_high - 2.0).abs() < 1e-12);
    }

    #[test]
    fn outliers_are_the_far_ones_only() {
        assert_eq!(outliers(&[1.0, 1.01, 0.99, 1.02, 5.0, 0.98]), vec![4]);
        assert_eq!(outliers(&[1.0, 1.0, 1.0, 1.0005]), Vec::<usize>::new());
        assert_eq!(outliers(&[]), Vec::<usize>::new());
    }

    #[test]
    fn a_summary_keeps_what_a_row_of_samples_says() {
        let found = Summary::of(&[3.0, 1.0, 2.0, 10.0, 2.0]).unwrap();
        assert_eq!((found.n, found.median, found.mad), (5, 2.0, 1.0));
        assert_eq!((found.min, found.max, found.p95), (1.0, 10.0, 10.0));
        let [low, high] = found.interval.unwrap();
        assert!((1.0..=2.0).contains(&low) && (2.0..=10.0).contains(&high));
        let twenty: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(Summary::of(&twenty).unwrap().p95, 19.0);
        assert_eq!(Summary::of(&[1.0; 4]).unwrap().interval, None);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn the_interval_of_a_median_covers_it_as_often_as_it_says() {
        let mut rng = SplitMix(11);
        let mut covered = 0;
        for _ in 0..60 {
            let values: Vec<f64> = (0..25)
                .map(|_| 5.0 + f64::from(rng.unit_variance()))
                .collect();
            let [low, high] = Summary::of(&values).unwrap().interval.unwrap();
            covered += usize::from(low <= 5.0 && 5.0 <= high);
        }
        assert!((50..=60).contains(&covered), "{covered} of 60");
    }

    #[test]
    fn unpaired_rows_have_an_interval_of_their_ratio() {
        let (ratio, interval) = ratio_of_medians(&[2.0, 2.1, 1.9, 2.0, 2.05], &[1.0; 5]);
        let [low, high] = interval.unwrap();
        assert!(ratio == 2.0 && low >= 1.9 && high <= 2.1 && low < high);
        assert_eq!(ratio_of_medians(&[1.0; 4], &[1.0; 9]), (1.0, None));
    }

    #[test]
    fn generator_has_unit_variance() {
        let mut rng = SplitMix(7);
        let draws: Vec<f64> = (0..100_000)
            .map(|_| f64::from(rng.unit_variance()))
            .collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(
            mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02,
            "{mean} {variance}"
        );
    }
}
