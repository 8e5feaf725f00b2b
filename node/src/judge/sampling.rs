//! Which frames a judge sees.
//!
//! The subnet takes its frames with `ffmpeg -vf fps=3.0 -frames:v 12`. FFmpeg's `fps` filter does not take the
//! frame at n/3 s: every source frame i is given the place `floor(3·i/fps + ½)`, output n is the last source frame
//! whose place is at most n, and `round(3·N/fps)` frames come out in all. Of 81 frames at 16 fps the twelve are
//! 2, 7, 13, … 61: frame 0 and the last 19 frames (1.2 s) are never shown. So local judges look at more: at frame
//! 0, which has to be the conditioning frame, and at the tail.
//!
//! Frame i is taken to stand at i/fps. MP4 says so exactly; in Matroska, whose times are whole milliseconds,
//! FFmpeg's choice can be the neighbour of ours.

use serde::{Deserialize, Serialize};

/// Frames per second, or any other rate, as a fraction.
pub type Rate = (u32, u32);

/// How frames are taken: resampled to a rate, and no more than so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameRule {
    /// Frames per second that are taken.
    pub rate: Rate,
    /// Most frames.
    pub most: usize,
}

impl Default for FrameRule {
    /// The subnet's: 12 frames at 3 per second.
    fn default() -> Self {
        Self {
            rate: (3, 1),
            most: 12,
        }
    }
}

impl FrameRule {
    /// Indices of the frames that are shown of a clip of `frames` frames at `fps`. Slow clips repeat frames; of
    /// clips shorter than half of a step there is none.
    pub fn indices(&self, frames: usize, fps: Rate) -> Vec<usize> {
        let (rate, fps) = (wide(self.rate), wide(fps));
        if frames == 0 || rate.0 == 0 || rate.1 == 0 || fps.0 == 0 || fps.1 == 0 {
            return Vec::new();
        }
        // floor(i·rate/fps + 1/2), exactly: the fractions of film rates do not fit into f64 sums.
        let place = |i: usize| {
            let numerator = 2 * i as u128 * rate.0 * fps.1 + rate.1 * fps.0;
            numerator / (2 * rate.1 * fps.0)
        };
        let count = place(frames).min(self.most as u128) as usize;
        let mut indices = Vec::with_capacity(count);
        let mut at = 0;
        for output in 0..count as u128 {
            while at + 1 < frames && place(at + 1) <= output {
                at += 1;
            }
            indices.push(at);
        }
        indices
    }
}

fn wide(rate: Rate) -> (u128, u128) {
    (rate.0.into(), rate.1.into())
}

/// `count` frames, evenly spread, of those behind the last one that was `shown`; at the end there is always the
/// last frame of the clip.
pub fn tail(frames: usize, shown: &[usize], count: usize) -> Vec<usize> {
    let from = shown.iter().max().map_or(0, |last| last + 1);
    let left = frames.saturating_sub(from);
    let count = count.min(left);
    (1..=count).map(|n| from + n * left / count - 1).collect()
}

/// What a local judge sees: frame 0, the subnet's frames, and `count` of the tail; in order, each once.
pub fn with_ends(frames: usize, shown: &[usize], count: usize) -> Vec<usize> {
    let mut indices = tail(frames, shown, count);
    indices.extend_from_slice(shown);
    if frames > 0 {
        indices.push(0);
    }
    indices.sort_unstable();
    indices.dedup();
    indices
}

/// `count` frames evenly spread over the whole clip, with both ends.
pub fn whole(frames: usize, count: usize) -> Vec<usize> {
    match (frames, count.min(frames)) {
        (_, 0) => Vec::new(),
        (_, 1) => vec![0],
        (frames, count) => (0..count).map(|n| n * (frames - 1) / (count - 1)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `ffmpeg -vf fps=3.0 -frames:v 12` (5.1) on MP4 files of numbered frames.
    #[test]
    fn the_frames_of_ffmpeg() {
        let cases: [(usize, Rate, &[usize]); 16] = [
            (1, (16, 1), &[]),
            (2, (16, 1), &[]),
            (3, (16, 1), &[2]),
            (8, (16, 1), &[2, 7]),
            (33, (16, 1), &[2, 7, 13, 18, 23, 29]),
            (80, (16, 1), &[2, 7, 13, 18, 23, 29, 34, 39, 45, 50, 55, 61]),
            (81, (16, 1), &[2, 7, 13, 18, 23, 29, 34, 39, 45, 50, 55, 61]),
            (
                97,
                (24, 1),
                &[3, 11, 19, 27, 35, 43, 51, 59, 67, 75, 83, 91],
            ),
            (
                100,
                (25, 1),
                &[4, 12, 20, 29, 37, 45, 54, 62, 70, 79, 87, 95],
            ),
            (
                120,
                (30, 1),
                &[4, 14, 24, 34, 44, 54, 64, 74, 84, 94, 104, 114],
            ),
            (50, (30_000, 1001), &[4, 14, 24, 34, 44]),
            (
                100,
                (24_000, 1001),
                &[3, 11, 19, 27, 35, 43, 51, 59, 67, 75, 83, 91],
            ),
            (70, (15, 1), &[2, 7, 12, 17, 22, 27, 32, 37, 42, 47, 52, 57]),
            (5, (3, 1), &[0, 1, 2, 3, 4]),
            (5, (2, 1), &[0, 0, 1, 2, 2, 3, 4, 4]),
            (10, (1, 1), &[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]),
        ];
        for (frames, fps, expected) in cases {
            let found = FrameRule::default().indices(frames, fps);
            assert_eq!(found, expected, "{frames} frames at {fps:?}");
        }
    }

    #[test]
    fn odd_rates_are_nobodys_panic() {
        let rule = FrameRule::default();
        assert!(rule.indices(0, (16, 1)).is_empty());
        assert!(rule.indices(81, (0, 1)).is_empty() && rule.indices(81, (16, 0)).is_empty());
        assert_eq!(rule.indices(usize::MAX, (1, u32::MAX)).len(), 12);
        let wide = FrameRule {
            rate: (u32::MAX, 1),
            most: 3,
        };
        assert_eq!(wide.indices(2, (1, 1)), [0, 0, 0]);
    }

    #[test]
    fn ends_of_the_clip() {
        let shown = FrameRule::default().indices(81, (16, 1));
        assert_eq!(tail(81, &shown, 4), [65, 70, 75, 80]);
        assert_eq!(tail(81, &shown, 100).len(), 19);
        assert!(tail(62, &shown, 4).is_empty());
        assert_eq!(tail(3, &[], 2), [0, 2]);
        let all = with_ends(81, &shown, 4);
        assert_eq!(
            (all.len(), all.first(), all.last()),
            (17, Some(&0), Some(&80))
        );
        assert!(with_ends(0, &[], 4).is_empty());
        assert_eq!(whole(81, 5), [0, 20, 40, 60, 80]);
        assert_eq!(whole(2, 5), [0, 1]);
        assert_eq!(whole(5, 1), [0]);
        assert!(whole(5, 0).is_empty() && whole(0, 3).is_empty());
    }
}
