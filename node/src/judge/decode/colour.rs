//! YCbCr to RGB, 8 bits, in fixed point: the inverse of `media::video::yuv`.

/// The weights of red and blue in luma.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Matrix {
    red: f64,
    blue: f64,
}

impl Matrix {
    pub(super) const BT601: Self = Self {
        red: 0.299,
        blue: 0.114,
    };
    pub(super) const BT709: Self = Self {
        red: 0.2126,
        blue: 0.0722,
    };
    pub(super) const BT2020: Self = Self {
        red: 0.2627,
        blue: 0.0593,
    };
}

const BITS: u32 = 16;

/// Integer weights of one matrix and range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Converter {
    luma: i32,
    offset: i32,
    red_cr: i32,
    green_cb: i32,
    green_cr: i32,
    blue_cb: i32,
}

impl Converter {
    /// `full`: bytes run from 0 to 255, instead of 16 to 235 and 16 to 240.
    pub(super) fn new(matrix: Matrix, full: bool) -> Self {
        let Matrix { red, blue } = matrix;
        let green = 1.0 - red - blue;
        let (luma, chroma) = if full {
            (1.0, 1.0)
        } else {
            (255.0 / 219.0, 255.0 / 224.0)
        };
        let fixed = |v: f64| (v * f64::from(1 << BITS)).round() as i32;
        Self {
            luma: fixed(luma),
            offset: if full { 0 } else { 16 },
            red_cr: fixed(chroma * 2.0 * (1.0 - red)),
            green_cb: fixed(chroma * 2.0 * (1.0 - blue) * blue / green),
            green_cr: fixed(chroma * 2.0 * (1.0 - red) * red / green),
            blue_cb: fixed(chroma * 2.0 * (1.0 - blue)),
        }
    }

    /// Appends a row of RGB.
    pub(super) fn row(&self, y: &[u8], cb: &[u8], cr: &[u8], out: &mut Vec<u8>) {
        let clip = |v: i32| ((v + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8;
        for ((y, cb), cr) in y.iter().zip(cb).zip(cr) {
            let luma = self.luma * (i32::from(*y) - self.offset);
            let (cb, cr) = (i32::from(*cb) - 128, i32::from(*cr) - 128);
            out.extend_from_slice(&[
                clip(luma + self.red_cr * cr),
                clip(luma - self.green_cb * cb - self.green_cr * cr),
                clip(luma + self.blue_cb * cb),
            ]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(matrix: Matrix, full: bool, ycc: [u8; 3]) -> [u8; 3] {
        let mut out = Vec::new();
        Converter::new(matrix, full).row(&[ycc[0]], &[ycc[1]], &[ycc[2]], &mut out);
        [out[0], out[1], out[2]]
    }

    #[test]
    fn flat_colours_have_their_textbook_values() {
        for (ycc, rgb) in [
            ([235, 128, 128], [255, 255, 255]),
            ([16, 128, 128], [0, 0, 0]),
            ([81, 90, 240], [255, 0, 0]),
            ([145, 54, 34], [0, 255, 0]),
            ([41, 240, 110], [0, 0, 255]),
        ] {
            let found = convert(Matrix::BT601, false, ycc);
            for (found, expected) in found.iter().zip(rgb) {
                assert!(
                    found.abs_diff(expected) <= 1,
                    "{ycc:?}: {found} for {expected}"
                );
            }
        }
        // BT.709 red in limited range is (63, 102, 240).
        let red = convert(Matrix::BT709, false, [63, 102, 240]);
        assert!(red[0] >= 254 && red[1] <= 1 && red[2] <= 1, "{red:?}");
        assert_eq!(convert(Matrix::BT2020, true, [77, 128, 128]), [77; 3]);
    }
}
