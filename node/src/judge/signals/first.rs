//! Signals of the first frame against the conditioning image.

use super::align::{Affine, Template, warp_affine};
use super::plane::{Plane, mean_square_diff};
use super::ssim::{MIN_SIDE, SsimReference};
use crate::media::RgbImage8;

/// Shifts tried, as shares of the sides, and scales.
const SHIFTS: [f64; 5] = [-0.04, -0.02, 0.0, 0.02, 0.04];
const SCALES: [f64; 3] = [0.95, 1.0, 1.05];
/// What may come out of the refinement of the best of them; beyond it is another picture.
const MAX_SHIFT: f64 = 0.055;
const SCALE_RANGE: (f64, f64) = (0.93, 1.07);
/// Rim left out of comparisons under a map, as a share of the sides: the largest shift and half the
/// largest scale bring in nothing from outside.
const RIM: f64 = 0.075;
/// Short side of the coarse search.
const COARSE: usize = 80;

/// The part of a picture without its rim.
fn inner(plane: &Plane) -> Plane {
    let (rim_x, rim_y) = (
        (plane.width as f64 * RIM).ceil() as usize,
        (plane.height as f64 * RIM).ceil() as usize,
    );
    let mut out = Plane::new(plane.width - 2 * rim_x, plane.height - 2 * rim_y);
    let width = out.width;
    for (y, out) in out.data.chunks_exact_mut(width).enumerate() {
        out.copy_from_slice(&plane.row(y + rim_y)[rim_x..rim_x + width]);
    }
    out
}

/// `ff_align`: the best similarity over small shifts and scales. `plain` is `ff_ssim`.
pub(crate) fn best_aligned(reference: &Plane, frame: &Plane, plain: f64) -> f64 {
    let (mut small_reference, mut small) = (reference.clone(), frame.clone());
    let mut halvings = 0;
    while small.width.min(small.height) > COARSE {
        (small_reference, small) = (small_reference.half(), small.half());
        halvings += 1;
    }
    let cropped = inner(&small_reference);
    if cropped.width.min(cropped.height) < MIN_SIDE {
        return plain;
    }
    let coarse = SsimReference::new(cropped);
    let mut best = (f64::NEG_INFINITY, Affine::IDENTITY);
    for scale in SCALES {
        for dy in SHIFTS {
            for dx in SHIFTS {
                let map = Affine([
                    dx * small.width as f64,
                    scale - 1.0,
                    0.0,
                    dy * small.height as f64,
                    0.0,
                    scale - 1.0,
                ]);
                let score = coarse.score(&inner(&warp_affine(&small, &map)));
                if score > best.0 {
                    best = (score, map);
                }
            }
        }
    }

    let grown = f64::from(1u32 << halvings);
    let mut start = best.1;
    start.0[0] *= grown;
    start.0[3] *= grown;
    // From a map that is nearly right the last fraction of a pixel is found on grey levels.
    let (gx, gy) = reference.gradients();
    let refined = Template::new(reference, &gx, &gy).align(frame, start, 6);
    let full = SsimReference::new(inner(reference));
    let score = |map: &Affine| full.score(&inner(&warp_affine(frame, map)));
    let mut found = plain.max(score(&start));
    if allowed(&refined, frame) {
        found = found.max(score(&refined));
    }
    found
}

fn allowed(map: &Affine, frame: &Plane) -> bool {
    let [dx, a, b, dy, c, d] = map.0;
    let scales = [1.0 + a, 1.0 + d];
    dx.abs() <= MAX_SHIFT * frame.width as f64
        && dy.abs() <= MAX_SHIFT * frame.height as f64
        && scales
            .iter()
            .all(|s| (SCALE_RANGE.0..=SCALE_RANGE.1).contains(s))
        // Rotation and shear are no small crops.
        && b.abs().max(c.abs()) <= 0.03
}

/// `ff_corr` of two coarse pictures; `None` where the first is flat, so that nothing can go along with it.
pub(crate) fn correlation(reference: &Plane, frame: &Plane) -> Option<f64> {
    let (mean_a, mean_b) = (reference.mean(), frame.mean());
    let (mut aa, mut bb, mut ab) = (0f64, 0f64, 0f64);
    for (a, b) in reference.data.iter().zip(&frame.data) {
        let (a, b) = (f64::from(*a) - mean_a, f64::from(*b) - mean_b);
        aa += a * a;
        bb += b * b;
        ab += a * b;
    }
    let pixels = reference.data.len() as f64;
    if aa < pixels {
        return None;
    }
    // A flat frame shows nothing of a picture that is not flat.
    Some(if bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 })
}

/// `ff_psnr`, at most 100 dB.
pub(crate) fn psnr(reference: &Plane, frame: &Plane) -> f64 {
    let error = mean_square_diff(reference, frame);
    if error <= 0.0 {
        return 100.0;
    }
    (10.0 * (255.0 * 255.0 / error).log10()).min(100.0)
}

/// `ff_chroma`: L1 distance of the mean (a, b) in CIE Lab (sRGB, D65).
pub(crate) fn chroma_distance(reference: &RgbImage8, frame: &RgbImage8) -> f64 {
    let linear = linear_table();
    let (a, b) = (mean_ab(reference, &linear), mean_ab(frame, &linear));
    (a.0 - b.0).abs() + (a.1 - b.1).abs()
}

/// Linear light of each sRGB byte.
fn linear_table() -> [f32; 256] {
    std::array::from_fn(|byte| {
        let v = byte as f64 / 255.0;
        let linear = if v <= 0.04045 {
            v / 12.92
        } else {
            ((v + 0.055) / 1.055).powf(2.4)
        };
        linear as f32
    })
}

/// Mean a and b over a grid of about 128 rows; means do not need every pixel.
fn mean_ab(image: &RgbImage8, linear: &[f32; 256]) -> (f64, f64) {
    let step = image.width().min(image.height()).div_ceil(128).max(1);
    let (mut a, mut b, mut count) = (0f64, 0f64, 0usize);
    for row in image.data().chunks_exact(3 * image.width()).step_by(step) {
        for pixel in row.chunks_exact(3).step_by(step) {
            let [r, g, bl] = [pixel[0], pixel[1], pixel[2]].map(|v| linear[usize::from(v)]);
            // XYZ over the white of D65.
            let x = (0.412_456 * r + 0.357_576 * g + 0.180_437 * bl) / 0.950_47;
            let y = 0.212_673 * r + 0.715_152 * g + 0.072_175 * bl;
            let z = (0.019_334 * r + 0.119_192 * g + 0.950_304 * bl) / 1.088_83;
            let [x, y, z] = [x, y, z].map(|t| {
                if t > 0.008_856 {
                    t.cbrt()
                } else {
                    7.787_037 * t + 16.0 / 116.0
                }
            });
            a += f64::from(500.0 * (x - y));
            b += f64::from(200.0 * (y - z));
            count += 1;
        }
    }
    (a / count as f64, b / count as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn colour(rgb: [u8; 3]) -> RgbImage8 {
        RgbImage8::new(4, 4, rgb.repeat(16)).unwrap()
    }

    #[test]
    fn lab_of_known_colours() {
        // Lab of sRGB red is (53.24, 80.09, 67.20), of blue (32.30, 79.19, -107.86).
        let grey = colour([120, 120, 120]);
        let red = chroma_distance(&colour([255, 0, 0]), &grey);
        let blue = chroma_distance(&colour([0, 0, 255]), &grey);
        assert!((red - (80.09 + 67.20)).abs() < 0.2, "{red}");
        assert!((blue - (79.19 + 107.86)).abs() < 0.2, "{blue}");
        assert!(chroma_distance(&grey, &colour([10, 10, 10])) < 0.05);
    }

    #[test]
    fn a_shifted_picture_is_found_and_another_is_not() {
        let texture = |x: f32, y: f32| {
            128.0
                + 60.0 * (x * 0.23 + (y * 0.09).sin() * 2.0).sin()
                + 40.0 * (y * 0.31 - x * 0.07).cos()
        };
        let picture = |dx: f32, dy: f32| {
            let mut plane = Plane::new(160, 96);
            for (i, value) in plane.data.iter_mut().enumerate() {
                *value = texture((i % 160) as f32 + dx, (i / 160) as f32 + dy);
            }
            plane
        };
        let reference = picture(0.0, 0.0);
        let shifted = picture(4.0, -2.0);
        let plain = SsimReference::new(reference.clone()).score(&shifted);
        let aligned = best_aligned(&reference, &shifted, plain);
        assert!(plain < 0.6 && aligned > 0.95, "{plain} then {aligned}");
        let other = picture(40.0, 33.0);
        let plain = SsimReference::new(reference.clone()).score(&other);
        let aligned = best_aligned(&reference, &other, plain);
        assert!(aligned < 0.7, "{aligned}");
        assert_eq!(psnr(&reference, &reference), 100.0);
        assert!((correlation(&reference, &reference).unwrap() - 1.0).abs() < 1e-9);
        assert!(correlation(&reference, &other).unwrap() < 0.5);
        let flat = Plane::new(160, 96);
        assert_eq!(correlation(&flat, &reference), None);
        assert_eq!(correlation(&reference, &flat), Some(0.0));
    }
}
