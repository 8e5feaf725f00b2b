//! What JPEG does to a picture: 8x8 cosine transform, quantised with the tables of the standard's
//! annex K scaled as libjpeg scales them. No file is written; entropy coding loses nothing.

use std::f32::consts::PI;

use super::paint::{Canvas, Rng};
use crate::media::RgbImage8;

const LUMA: [u16; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
const CHROMA: [u16; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
];

/// Y, Cb, Cr of JFIF, chroma about zero.
pub(crate) fn to_ycc([r, g, b]: [f32; 3]) -> [f32; 3] {
    let y = 0.299 * r + 0.587 * g + 0.114 * b;
    [y, (b - y) / 1.772, (r - y) / 1.402]
}

pub(crate) fn to_rgb([y, cb, cr]: [f32; 3]) -> [f32; 3] {
    let (r, b) = (y + 1.402 * cr, y + 1.772 * cb);
    [r, (y - 0.299 * r - 0.114 * b) / 0.587, b]
}

/// A table at a quality from 1 to 100.
fn scaled(table: &[u16; 64], quality: u16) -> [f32; 64] {
    let quality = u32::from(quality.clamp(1, 100));
    let percent = if quality < 50 {
        5000 / quality
    } else {
        200 - 2 * quality
    };
    table.map(|v| ((u32::from(v) * percent + 50) / 100).clamp(1, 255) as f32)
}

/// The orthonormal transform: row k holds the cosine of frequency k.
fn basis() -> [[f32; 8]; 8] {
    std::array::from_fn(|k| {
        let scale = if k == 0 { 0.125f32.sqrt() } else { 0.5 };
        std::array::from_fn(|i| scale * (PI * (2 * i + 1) as f32 * k as f32 / 16.0).cos())
    })
}

/// Quantises each 8x8 block of a plane; edges are repeated to whole blocks.
fn quantise(
    data: &mut [f32],
    width: usize,
    height: usize,
    table: &[f32; 64],
    basis: &[[f32; 8]; 8],
) {
    for top in (0..height).step_by(8) {
        for left in (0..width).step_by(8) {
            let block: [[f32; 8]; 8] = std::array::from_fn(|y| {
                std::array::from_fn(|x| {
                    data[(top + y).min(height - 1) * width + (left + x).min(width - 1)]
                })
            });
            // basis · block · basisᵀ and back.
            let half = product(basis, &block, false);
            let mut spectrum = transposed_product(&half, basis);
            for (row, steps) in spectrum.iter_mut().zip(table.chunks_exact(8)) {
                for (value, step) in row.iter_mut().zip(steps) {
                    *value = (*value / step).round() * step;
                }
            }
            let half = product(basis, &spectrum, true);
            for (y, row) in half.iter().enumerate().take(height - top) {
                for x in 0..8.min(width - left) {
                    data[(top + y) * width + left + x] = (0..8).map(|k| row[k] * basis[k][x]).sum();
                }
            }
        }
    }
}

/// basis · block, or basisᵀ · block.
fn product(basis: &[[f32; 8]; 8], block: &[[f32; 8]; 8], transposed: bool) -> [[f32; 8]; 8] {
    std::array::from_fn(|i| {
        std::array::from_fn(|j| {
            (0..8)
                .map(|k| {
                    let factor = if transposed { basis[k][i] } else { basis[i][k] };
                    factor * block[k][j]
                })
                .sum()
        })
    })
}

/// block · basisᵀ.
fn transposed_product(block: &[[f32; 8]; 8], basis: &[[f32; 8]; 8]) -> [[f32; 8]; 8] {
    std::array::from_fn(|i| {
        std::array::from_fn(|j| (0..8).map(|k| block[i][k] * basis[j][k]).sum())
    })
}

/// The picture after JPEG of this quality, with chroma at half size.
pub(crate) fn roundtrip(image: &RgbImage8, quality: u16) -> Option<RgbImage8> {
    let mut canvas = Canvas::from_image(image);
    let (width, height) = (canvas.width, canvas.height);
    let basis = basis();
    let (luma, chroma) = (scaled(&LUMA, quality), scaled(&CHROMA, quality));
    let ycc: Vec<[f32; 3]> = canvas.data.iter().map(|p| to_ycc(*p)).collect();

    let mut y: Vec<f32> = ycc.iter().map(|p| p[0] - 128.0).collect();
    quantise(&mut y, width, height, &luma, &basis);
    let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
    let halves: [Vec<f32>; 2] = std::array::from_fn(|channel| {
        let mut plane = vec![0f32; half_width * half_height];
        for (at, value) in plane.iter_mut().enumerate() {
            let (x, y) = (2 * (at % half_width), 2 * (at / half_width));
            let (right, below) = ((x + 1).min(width - 1), (y + 1).min(height - 1));
            let four = [(x, y), (right, y), (x, below), (right, below)];
            *value = 0.25
                * four
                    .iter()
                    .map(|(x, y)| ycc[y * width + x][1 + channel])
                    .sum::<f32>();
        }
        quantise(&mut plane, half_width, half_height, &chroma, &basis);
        plane
    });
    for (at, pixel) in canvas.data.iter_mut().enumerate() {
        let half = (at / width / 2) * half_width + (at % width) / 2;
        *pixel = to_rgb([y[at] + 128.0, halves[0][half], halves[1][half]]);
    }
    canvas.to_image(0.0, &mut Rng::new(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn texture() -> RgbImage8 {
        let bytes = (0..40 * 24 * 3)
            .map(|i| ((i * 37) % 91 + 60) as u8)
            .collect();
        RgbImage8::new(40, 24, bytes).unwrap()
    }

    fn worst(a: &RgbImage8, b: &RgbImage8) -> u8 {
        let pairs = a.data().iter().zip(b.data());
        pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    #[test]
    fn tables_scale_as_libjpeg_does() {
        assert_eq!(scaled(&LUMA, 50)[0], 16.0);
        // 5000 / 8 = 625 %: 16 becomes 100, 11 becomes 69 (68.75 + 0.5, cut).
        assert_eq!(scaled(&LUMA, 8)[..2], [100.0, 69.0]);
        assert_eq!(scaled(&LUMA, 100)[63], 1.0);
        assert_eq!(scaled(&LUMA, 1)[63], 255.0);
    }

    #[test]
    fn low_quality_makes_blocks_and_flat_stays_flat() {
        let flat = RgbImage8::new(16, 16, vec![128; 16 * 16 * 3]).unwrap();
        assert!(worst(&flat, &roundtrip(&flat, 8).unwrap()) <= 1);
        let picture = texture();
        let high = worst(&picture, &roundtrip(&picture, 8).unwrap());
        assert!(high > 15, "{high}");
    }

    #[test]
    fn luma_survives_quality_100() {
        let grey: Vec<u8> = (0..24 * 16)
            .flat_map(|i| [(i * 29 % 200) as u8 + 20; 3])
            .collect();
        let picture = RgbImage8::new(24, 16, grey).unwrap();
        assert!(worst(&picture, &roundtrip(&picture, 100).unwrap()) <= 3);
    }
}
