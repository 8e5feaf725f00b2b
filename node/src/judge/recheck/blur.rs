//! A frame whose writing cannot be read any more.

use crate::judge::signals::writing::Writing;
use crate::media::{MediaError, RgbImage8};

/// The blur reaches over this share of the short side: further than the lines of a letter are apart.
const REACH: usize = 32;

/// The frame with the area of the writing replaced by means over squares.
pub(super) fn blurred(frame: &RgbImage8, writing: &Writing) -> Result<RgbImage8, MediaError> {
    let (width, height) = (frame.width(), frame.height());
    let radius = (width.min(height) / REACH).max(2);
    let smooth = means(frame.data(), width, height, radius);
    let pixels = frame.data().chunks_exact(3).zip(smooth.chunks_exact(3));
    let pixels = pixels.enumerate().flat_map(|(at, (sharp, smooth))| {
        let place = (at % width, at / width);
        let taken = if writing.covers(place, (width, height)) {
            smooth
        } else {
            sharp
        };
        taken.iter().copied()
    });
    RgbImage8::new(width, height, pixels.collect())
}

/// Every value of `[height, width, 3]` as the mean of the square around it, cut at the edges.
fn means(data: &[u8], width: usize, height: usize, radius: usize) -> Vec<u8> {
    let mut across = vec![0; data.len()];
    for start in (0..height).flat_map(|y| (0..3).map(move |colour| 3 * y * width + colour)) {
        line(data, &mut across, (start, 3, width), radius);
    }
    let mut both = vec![0; data.len()];
    for start in 0..3 * width {
        line(&across, &mut both, (start, 3 * width, height), radius);
    }
    both
}

/// Means along a line of `count` values, from `start` in steps.
fn line(from: &[u8], to: &mut [u8], (start, step, count): (usize, usize, usize), radius: usize) {
    let (mut sum, mut inside) = (0u32, 0u32);
    // `at` is the far end of the window around `at - radius`.
    for at in 0..count + radius {
        if at < count {
            sum += u32::from(from[start + at * step]);
            inside += 1;
        }
        if let Some(left) = at.checked_sub(2 * radius + 1) {
            sum -= u32::from(from[start + left * step]);
            inside -= 1;
        }
        if let Some(middle) = at.checked_sub(radius) {
            to[start + middle * step] = (sum / inside) as u8;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::judge::clip::Clip;

    /// 128 x 96 with white strokes in a dark box of 40 x 16 pixels, over a pattern that moves with `shift`.
    pub(in crate::judge::recheck) fn lettered(shift: usize) -> RgbImage8 {
        let pixels = (0..128 * 96).flat_map(|at| {
            let (x, y) = (at % 128, at / 128);
            let inside = (32..72).contains(&x) && (32..48).contains(&y);
            let letter = if (x / 2) % 2 == 0 { 255 } else { 5 };
            [if inside {
                letter
            } else {
                ((x + shift) % 40) as u8
            }; 3]
        });
        RgbImage8::new(128, 96, pixels.collect()).unwrap()
    }

    #[test]
    fn means_over_squares() {
        // One channel counts along the rows, one is constant, one is a single point.
        let data: Vec<u8> = (0..7 * 5)
            .flat_map(|at| [10 * (at % 7) as u8, 9, if at == 17 { 90 } else { 0 }])
            .collect();
        let found = means(&data, 7, 5, 1);
        assert_eq!(&found[..3], [5, 9, 0]);
        let middle = 3 * 17;
        assert_eq!(&found[middle..middle + 3], [30, 9, 10]);
        // A window beyond both ends is the mean of all.
        let all = means(&data, 7, 5, 50);
        assert!(all.chunks_exact(3).all(|pixel| pixel[..2] == [30, 9]));
    }

    #[test]
    fn letters_go_and_the_rest_stays() {
        let frames: Vec<_> = (0..9).map(|t| lettered(3 * t)).collect();
        let first = RgbImage8::new(128, 96, vec![9; 128 * 96 * 3]).unwrap();
        let writing = Writing::of(&Clip {
            frames: &frames,
            fps: 16.0,
            first: &first,
        });
        assert!(!writing.is_empty());
        let made = blurred(&frames[0], &writing).unwrap();
        let row = |image: &RgbImage8, y: usize| image.data()[3 * 128 * y..][..3 * 128].to_vec();
        let contrast = |image: &RgbImage8| {
            let row = row(image, 40);
            row[3 * 40..3 * 64]
                .windows(4)
                .map(|w| w[0].abs_diff(w[3]))
                .max()
        };
        assert_eq!(contrast(&frames[0]), Some(250));
        assert!(contrast(&made) < Some(80), "{:?}", contrast(&made));
        assert_eq!(row(&made, 95), row(&frames[0], 95));
    }
}
