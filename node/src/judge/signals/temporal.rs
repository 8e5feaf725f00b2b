//! Signals of brightness, colour and repetition from frame to frame.

use super::plane::{Plane, mean_abs_diff, median, reduce};
use crate::media::RgbImage8;

/// D below which a pair counts as repeated, in grey levels.
const REPEATED: f64 = 0.5;
/// Mean difference of any one block above which a pair is not frozen, however small its D.
const BLOCK_MOVES: f32 = 2.0;
/// Side of those blocks.
const BLOCK: usize = 16;
/// Bits per channel of the histogram.
const BITS: u32 = 3;

/// Steps after the first that it is compared with. Over the whole clip the middle would say more about a later
/// freeze or cut than about the first step.
const NEAR_STEPS: usize = 12;

/// `first_jump`; `None` for fewer than three frames.
pub(crate) fn first_jump(differences: &[f64]) -> Option<f64> {
    let (first, rest) = differences.split_first()?;
    let near = rest.get(..NEAR_STEPS).unwrap_or(rest);
    Some(first / (median(near)? + 0.25))
}

/// `luma_hf` of the middle of three mean brightnesses.
pub(crate) fn second_difference(means: &[f64]) -> Vec<f64> {
    means
        .windows(3)
        .map(|m| (m[0] - 2.0 * m[1] + m[2]).abs())
        .collect()
}

/// `scene`; the first pair has no earlier one and is compared with the next.
pub(crate) fn scene(differences: &[f64]) -> f64 {
    let steps = differences.windows(2).map(|d| {
        let change = (d[1] - d[0]).abs();
        d[1].min(change)
    });
    let start = match differences {
        [first, second, ..] => first.min((first - second).abs()),
        _ => 0.0,
    };
    steps.fold(start, f64::max) / 100.0
}

/// `dup`.
pub(crate) fn share(flags: &[bool]) -> f64 {
    flags.iter().filter(|set| **set).count() as f64 / flags.len().max(1) as f64
}

/// Whether a pair is frozen: its difference is small on average and in every block. The average alone
/// would call any quiet shot with one small moving thing frozen.
pub(crate) fn is_frozen(first: &Plane, second: &Plane, difference: f64) -> bool {
    difference < REPEATED && largest_block(first, second) < BLOCK_MOVES
}

/// The largest mean |a − b| over 16x16 blocks; what is left over at the right and below joins no block.
fn largest_block(first: &Plane, second: &Plane) -> f32 {
    let width = first.width;
    let mut columns = vec![0f32; width];
    let mut largest = 0f32;
    let bands = first
        .data
        .chunks_exact(width * BLOCK)
        .zip(second.data.chunks_exact(width * BLOCK));
    for (a, b) in bands {
        columns.fill(0.0);
        for (a, b) in a.chunks_exact(width).zip(b.chunks_exact(width)) {
            for ((sum, a), b) in columns.iter_mut().zip(a).zip(b) {
                *sum += (a - b).abs();
            }
        }
        for block in columns.chunks_exact(BLOCK) {
            largest = largest.max(block.iter().sum());
        }
    }
    largest / (BLOCK * BLOCK) as f32
}

/// Frozen pairs that a single other pair must have on both sides not to end a run.
const BRIDGE: usize = 3;
/// D that a refresh stays below; what differs more is another picture.
const REFRESH: f64 = 2.0;

/// Length of the longest run of `true`.
///
/// A codec refreshes a still picture now and then, and one pair differs: a single break between two stretches
/// of [`BRIDGE`] or more belongs to the run. Repeated frames with motion between them have no such stretches.
pub(crate) fn longest_run(flags: &[bool], differences: &[f64]) -> usize {
    let frozen = |range: std::ops::Range<usize>| {
        flags
            .get(range)
            .is_some_and(|side| side.iter().all(|frozen| *frozen))
    };
    let (mut longest, mut run) = (0, 0);
    for (index, (flag, difference)) in flags.iter().zip(differences).enumerate() {
        let bridged = *difference < REFRESH
            && index >= BRIDGE
            && frozen(index - BRIDGE..index)
            && frozen(index + 1..index + 1 + BRIDGE);
        run = if *flag || bridged { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

/// `jerk` of three frames, with D of the last pair.
pub(crate) fn jerk(before: &Plane, here: &Plane, after: &Plane, difference: f64) -> f64 {
    let doubled: Vec<f32> = before
        .data
        .iter()
        .zip(&after.data)
        .map(|(a, b)| a + b)
        .collect();
    let second = reduce(&doubled, &here.data, |sum, b| (sum - 2.0 * b).abs());
    second / here.data.len() as f64 / (difference + 0.5)
}

/// Grey levels by which grain alone may make the next frame differ more than the next but one.
const GRAIN: f64 = 0.03;

/// `order`: by how much frames are nearer to the next but one than to the next, as a share of all steps.
///
/// A share of steps, not of frames: where a swing turns round, small steps are reversed as well.
pub(crate) fn disorder(coarse: &[Plane]) -> Option<f64> {
    let (mut back, mut all, mut triples) = (0.0, 0.0, 0usize);
    for three in coarse.windows(3) {
        let next = mean_abs_diff(&three[0], &three[1]);
        let after = mean_abs_diff(&three[0], &three[2]);
        back += (next - after - GRAIN).max(0.0);
        all += next + GRAIN;
        triples += 1;
    }
    (triples > 0).then(|| back / all)
}

/// Counts of 8x8x8 colours over a grid of about 256 rows.
pub(crate) fn histogram(image: &RgbImage8) -> Vec<u32> {
    let step = image.width().min(image.height()).div_ceil(256).max(1);
    let mut counts = vec![0u32; 1 << (3 * BITS)];
    for row in image.data().chunks_exact(3 * image.width()).step_by(step) {
        for pixel in row.chunks_exact(3).step_by(step) {
            let high = |v: u8| usize::from(v >> (8 - BITS));
            let bin = high(pixel[0]) << (2 * BITS) | high(pixel[1]) << BITS | high(pixel[2]);
            counts[bin] += 1;
        }
    }
    counts
}

/// Half the L1 distance of two histograms of pictures of one size, 0 to 1.
pub(crate) fn histogram_distance(a: &[u32], b: &[u32]) -> f64 {
    let pixels: u32 = a.iter().sum();
    let apart: u64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum();
    0.5 * apart as f64 / f64::from(pixels.max(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_step_a_flicker_and_a_constant() {
        let constant = [5.0; 10];
        assert_eq!(scene(&constant), 0.0);
        assert_eq!(scene(&[1.0, 1.0, 41.0, 1.0]), 0.4);
        // A cut right after frame 0.
        assert_eq!(scene(&[41.0, 1.0, 1.0]), 0.4);
        assert_eq!(scene(&[3.0]), 0.0);
        assert_eq!(second_difference(&[10.0, 20.0, 10.0, 20.0]), [20.0, 20.0]);
        assert_eq!(second_difference(&[10.0, 20.0, 30.0]), [0.0]);
        assert_eq!(first_jump(&[10.0, 1.0, 3.0, 2.0]), Some(10.0 / 2.25));
        assert_eq!(first_jump(&[10.0]), None);
        // A clip that stops after a second has not jumped.
        let mut stops = vec![4.0; 16];
        stops.extend([0.0; 40]);
        assert!(first_jump(&stops) < Some(1.0));
    }

    #[test]
    fn runs_and_repeats() {
        assert_eq!(share(&[true, false, true, false]), 0.5);
        assert_eq!(share(&[]), 0.0);
        let runs = |text: &str, difference: f64| {
            let flags: Vec<bool> = text.chars().map(|c| c == 'x').collect();
            longest_run(&flags, &vec![difference; flags.len()])
        };
        assert_eq!(runs("x.xxx.", 1.0), 3);
        assert_eq!(runs("", 1.0), 0);
        // One refresh in a still, at its edge, and twice in a row; then every second frame repeated.
        assert_eq!(runs("..xxxx.xxx..", 1.0), 8);
        assert_eq!(runs("xxxx.xx", 1.0), 4);
        assert_eq!(runs("xxx..xxxx", 1.0), 4);
        assert_eq!(runs("x.x.x.x.x.x", 1.0), 1);
        // Two stills with a cut between them are no single still.
        assert_eq!(runs("..xxxx.xxx..", 40.0), 4);
    }

    #[test]
    fn one_moving_block_is_no_freeze() {
        let still = Plane::new(64, 48);
        let mut moved = still.clone();
        for y in 16..32 {
            for x in 16..32 {
                moved.data[y * 64 + x] = 5.0;
            }
        }
        let difference = mean_abs_diff(&still, &moved);
        assert!(difference < REPEATED);
        assert!(!is_frozen(&still, &moved, difference));
        assert!(is_frozen(&still, &still, 0.0));
    }

    #[test]
    fn histograms_of_two_flat_colours_share_nothing() {
        let flat = |v: u8| RgbImage8::new(8, 8, vec![v; 8 * 8 * 3]).unwrap();
        let (dark, bright) = (histogram(&flat(10)), histogram(&flat(200)));
        assert_eq!(histogram_distance(&dark, &bright), 1.0);
        assert_eq!(histogram_distance(&dark, &dark), 0.0);
    }

    #[test]
    fn order_sees_frames_swapped_and_not_a_pan() {
        let frame = |t: usize| {
            let mut plane = Plane::new(32, 20);
            for (i, value) in plane.data.iter_mut().enumerate() {
                *value = 128.0 + 60.0 * (((i % 32) + t) as f32 * 0.2).sin();
            }
            plane
        };
        let pan: Vec<Plane> = (0..12).map(frame).collect();
        assert_eq!(disorder(&pan), Some(0.0));
        let swapped: Vec<Plane> = (0..12).map(|t| frame(t ^ 1)).collect();
        // Steps of 1 and 3 in turn, each step of 3 with 2 to the frame after it.
        let found = disorder(&swapped).unwrap();
        assert!((0.15..0.3).contains(&found), "{found}");
        assert_eq!(disorder(&pan[..2]), None);
    }
}
