//! Decoded video to 8-bit frames, as the references do it.

use rayon::prelude::*;

use super::error::{MediaError, Result};

/// How 255·v becomes a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Towards zero: Leoma's evaluator and the official script.
    Truncate,
    /// To nearest, halves to even: diffusers' PIL output (`numpy.round`).
    Round,
}

impl Rounding {
    /// Spelling in settings and metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::Truncate => "truncate",
            Self::Round => "round",
        }
    }

    /// One value in [-1, 1] to a byte: 255 · clamp(x/2 + ½, 0, 1), every step rounded to f32.
    ///
    /// The official script's (clamp(x) + 1)/2 gives the same bits. Not-a-number becomes 0, as
    /// numpy's cast does.
    #[inline]
    pub fn quantise(self, value: f32) -> u8 {
        let scaled = (value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0;
        match self {
            Self::Truncate => scaled as u8,
            Self::Round => scaled.round_ties_even() as u8,
        }
    }
}

/// Planar video in [-1, 1] to interleaved bytes.
///
/// **Shapes**: `values` is `[3, frames, height, width]`, the result `[frames, height, width, 3]`.
///
/// # Errors
/// [`MediaError::Size`] when the buffer does not have 3·frames·height·width values.
pub fn frames_to_u8(
    values: &[f32],
    frames: usize,
    height: usize,
    width: usize,
    rounding: Rounding,
) -> Result<Vec<u8>> {
    let plane = frames * height * width;
    if values.len() != 3 * plane {
        return Err(MediaError::size(format!(
            "{frames} frames of {width}x{height} need {} values, got {}",
            3 * plane,
            values.len()
        )));
    }
    let mut bytes = vec![0u8; 3 * plane];
    if plane == 0 {
        return Ok(bytes);
    }
    // [3, F, H, W] -> [F, H, W, 3], a row of W pixels at a time.
    bytes
        .par_chunks_mut(3 * width)
        .enumerate()
        .for_each(|(row, out)| {
            let start = row * width;
            for channel in 0..3 {
                let source = &values[channel * plane + start..][..width];
                for (pixel, &value) in out.chunks_exact_mut(3).zip(source) {
                    pixel[channel] = rounding.quantise(value);
                }
            }
        });
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rounding_rules_differ_where_they_should() {
        // numpy: (numpy.float32([-2, -1, -0.5, 0, 0.25, 1, 2]) * 0.5 + 0.5).clip(0, 1) * 255
        let values = [-2.0, -1.0, -0.5, 0.0, 0.25, 0.999, 1.0, 2.0];
        let truncated = values.map(|v| Rounding::Truncate.quantise(v));
        let rounded = values.map(|v| Rounding::Round.quantise(v));
        assert_eq!(truncated, [0, 0, 63, 127, 159, 254, 255, 255]);
        assert_eq!(rounded, [0, 0, 64, 128, 159, 255, 255, 255]);
    }

    #[test]
    fn halves_go_to_even() {
        // 0.5 * 255 = 127.5 goes up to 128; (1/510) * 255 = 0.5 goes down to 0.
        assert_eq!(Rounding::Round.quantise(0.0), 128);
        let half = (1..2000)
            .map(|i| -1.0 + i as f32 * 1e-6)
            .find(|v| (v * 0.5 + 0.5) * 255.0 >= 0.5);
        assert!(half.is_none(), "the search range must stay below one half");
        assert_eq!(Rounding::Round.quantise(1.0f32 / 255.0 - 1.0), 0);
        assert_eq!(Rounding::Round.quantise(f32::NAN), 0);
        assert_eq!(Rounding::Truncate.quantise(f32::NAN), 0);
    }

    #[test]
    fn planes_are_interleaved() {
        // [3, 2, 1, 2]: value encodes (channel, frame, column).
        let mut values = Vec::new();
        for channel in 0..3u8 {
            for frame in 0..2u8 {
                for column in 0..2u8 {
                    let byte = 100 * channel + 10 * frame + column;
                    values.push(f32::from(byte) / 127.5 - 1.0);
                }
            }
        }
        let bytes = frames_to_u8(&values, 2, 1, 2, Rounding::Round).unwrap();
        assert_eq!(
            bytes,
            [0, 100, 200, 1, 101, 201, 10, 110, 210, 11, 111, 211]
        );
        assert!(frames_to_u8(&values, 2, 1, 3, Rounding::Round).is_err());
        assert!(
            frames_to_u8(&[], 0, 4, 4, Rounding::Round)
                .unwrap()
                .is_empty()
        );
    }
}
