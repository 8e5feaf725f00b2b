//! What must never leave the node as a success: broken, black, frozen or short clips.

use std::fmt;

/// Brightest byte a clip may have and still count as black.
const BLACK: u8 = 8;
/// Difference of a byte to the first frame's that compression or rounding could explain.
const STILL: u8 = 2;

/// What is wrong with an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFault {
    /// Decoded values are not finite.
    NotFinite,
    /// No pixel of any frame is visibly lit.
    Black,
    /// Every frame equals the first.
    Frozen,
    /// Another number of frames than was asked for.
    WrongLength {
        /// Frames asked for.
        expected: usize,
        /// Frames made.
        found: usize,
    },
}

impl fmt::Display for OutputFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFinite => f.write_str(
                "decoded values are not finite; the weights are damaged, or too large for the compute type",
            ),
            Self::Black => f.write_str("the clip is black from beginning to end"),
            Self::Frozen => f.write_str("the clip is frozen: all its frames are the same"),
            Self::WrongLength { expected, found } => {
                write!(f, "the clip has {found} frames in place of {expected}")
            }
        }
    }
}

/// Watches the frames of one clip as they pass.
#[derive(Debug)]
pub struct OutputGuard {
    expected: usize,
    seen: usize,
    first: Vec<u8>,
    lit: bool,
    moved: bool,
}

impl OutputGuard {
    /// A guard for a clip of `expected` frames.
    pub fn new(expected: usize) -> Self {
        Self {
            expected,
            seen: 0,
            first: Vec::new(),
            lit: false,
            moved: false,
        }
    }

    /// Looks at decoded values before they become bytes, which hide what is not a number.
    ///
    /// # Errors
    /// [`OutputFault::NotFinite`].
    pub fn values(&self, values: &[f32]) -> Result<(), OutputFault> {
        // One sum instead of a test per value: not a number and infinities survive additions of zeros.
        let poison = values.iter().fold(0.0f32, |sum, v| sum + v * 0.0);
        if poison == 0.0 {
            Ok(())
        } else {
            Err(OutputFault::NotFinite)
        }
    }

    /// Looks at a frame, `[height, width, 3]` bytes.
    pub fn frame(&mut self, rgb: &[u8]) {
        self.seen += 1;
        self.lit = self.lit || rgb.iter().any(|&byte| byte > BLACK);
        if self.seen == 1 && self.expected > 1 {
            self.first = rgb.to_vec();
        } else if !self.moved {
            self.moved = rgb.len() != self.first.len()
                || rgb
                    .iter()
                    .zip(&self.first)
                    .any(|(a, b)| a.abs_diff(*b) > STILL);
        }
    }

    /// The verdict on the whole clip.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verdict(&self) -> Result<(), OutputFault> {
        if self.seen != self.expected {
            return Err(OutputFault::WrongLength {
                expected: self.expected,
                found: self.seen,
            });
        }
        if !self.lit {
            return Err(OutputFault::Black);
        }
        if self.expected > 1 && !self.moved {
            return Err(OutputFault::Frozen);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(expected: usize, frames: &[[u8; 6]]) -> Result<(), OutputFault> {
        let mut guard = OutputGuard::new(expected);
        for frame in frames {
            guard.frame(frame);
        }
        guard.verdict()
    }

    #[test]
    fn good_clips_pass_and_each_fault_is_named() {
        let (dark, grey, other) = ([3; 6], [90; 6], [90, 90, 99, 90, 90, 90]);
        assert_eq!(judge(2, &[grey, other]), Ok(()));
        assert_eq!(judge(1, &[grey]), Ok(()));
        assert_eq!(judge(2, &[dark, grey]), Ok(()), "a fade from black");
        assert_eq!(judge(2, &[dark, dark]), Err(OutputFault::Black));
        assert_eq!(judge(1, &[dark]), Err(OutputFault::Black));
        assert_eq!(judge(2, &[grey, [91; 6]]), Err(OutputFault::Frozen));
        let short = OutputFault::WrongLength {
            expected: 3,
            found: 2,
        };
        assert_eq!(judge(3, &[grey, other]), Err(short));
    }

    #[test]
    fn values_that_are_no_numbers_are_seen() {
        let guard = OutputGuard::new(1);
        assert_eq!(guard.values(&[0.0, -1.0, 1e30]), Ok(()));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(guard.values(&[0.0, bad, 1.0]), Err(OutputFault::NotFinite));
        }
    }
}
