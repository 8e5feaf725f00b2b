//! Sharpness, blocks of a codec, and writing laid over a clip.

use super::plane::Plane;

/// Variance of the 4-neighbour Laplacian over the inside of the picture.
pub(crate) fn laplacian_variance(plane: &Plane) -> f64 {
    let width = plane.width;
    let (mut sum, mut squares, mut count) = (0f64, 0f64, 0usize);
    let mut line = vec![0f32; width - 2];
    for y in 1..plane.height - 1 {
        let (above, here, below) = (plane.row(y - 1), plane.row(y), plane.row(y + 1));
        let vertical = above[1..].iter().zip(&below[1..]);
        for ((out, three), (a, b)) in line.iter_mut().zip(here.windows(3)).zip(vertical) {
            *out = three[0] + three[2] + a + b - 4.0 * three[1];
        }
        let (mut row_sum, mut row_squares) = (0f32, 0f32);
        for value in &line {
            row_sum += value;
            row_squares += value * value;
        }
        sum += f64::from(row_sum);
        squares += f64::from(row_squares);
        count += line.len();
    }
    let mean = sum / count as f64;
    squares / count as f64 - mean * mean
}

/// Side of a codec's block.
const BLOCK: usize = 8;

/// `block` of one frame at native size; `None` for pictures too narrow to have both kinds of columns.
pub(crate) fn blockiness(luma: &Plane) -> Option<f64> {
    let mut columns = vec![0f32; luma.width.checked_sub(1)?];
    for row in luma.data.chunks_exact(luma.width) {
        for (sum, pair) in columns.iter_mut().zip(row.windows(2)) {
            *sum += (pair[1] - pair[0]).abs();
        }
    }
    let (mut on, mut off) = ((0f64, 0usize), (0f64, 0usize));
    for (index, sum) in columns.iter().enumerate() {
        let kind = if (index + 1) % BLOCK == 0 {
            &mut on
        } else {
            &mut off
        };
        kind.0 += f64::from(*sum);
        kind.1 += 1;
    }
    if on.1 == 0 || off.1 == 0 {
        return None;
    }
    let rows = luma.height as f64;
    let (on, off) = (on.0 / on.1 as f64 / rows, off.0 / off.1 as f64 / rows);
    // A flat picture has no blocks; the small term keeps its ratio at one.
    Some((on + 0.05) / (off + 0.05))
}

/// Length of a gradient that writing has, grey levels per pixel.
const EDGE: f32 = 24.0;
/// Share of frames in which an edge keeps its direction.
const PERSISTENT: f32 = 0.85;
/// Edges of the conditioning image count as the same from this share of length along the direction.
const KNOWN: f32 = 0.4;

/// Collects edges over frames.
pub(crate) struct OverlayDetector {
    width: usize,
    height: usize,
    frames: usize,
    /// Sums of unit gradients where the edge is strong enough.
    x: Vec<f32>,
    y: Vec<f32>,
    /// Sums of lengths there.
    length: Vec<f32>,
}

impl OverlayDetector {
    pub(crate) fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            frames: 0,
            x: vec![0.0; width * height],
            y: vec![0.0; width * height],
            length: vec![0.0; width * height],
        }
    }

    pub(crate) fn add(&mut self, frame: &Plane) {
        let (gx, gy) = frame.gradients();
        let sums = self.x.iter_mut().zip(&mut self.y).zip(&mut self.length);
        for (((x, y), total), (gx, gy)) in sums.zip(gx.data.iter().zip(&gy.data)) {
            let length = (gx * gx + gy * gy).sqrt();
            let unit = if length > EDGE { 1.0 / length } else { 0.0 };
            *x += gx * unit;
            *y += gy * unit;
            *total += length;
        }
        self.frames += 1;
    }

    /// `overlay`: the share of pixels with edges that stay and that `reference` does not have within
    /// two pixels.
    pub(crate) fn share(&self, reference: &Plane) -> f64 {
        let (gx, gy) = reference.gradients();
        let frames = self.frames as f32;
        if self.frames < 2 {
            return 0.0;
        }
        let mut found = 0usize;
        for at in 0..self.x.len() {
            let (x, y) = (self.x[at] / frames, self.y[at] / frames);
            let strength = (x * x + y * y).sqrt();
            if strength < PERSISTENT {
                continue;
            }
            let (x, y) = (x / strength, y / strength);
            let needed = KNOWN * self.length[at] / frames;
            let (column, row) = (at % self.width, at / self.width);
            let rows = row.saturating_sub(2)..(row + 3).min(self.height);
            let known = rows.into_iter().any(|row| {
                let columns = column.saturating_sub(2)..(column + 3).min(self.width);
                columns.into_iter().any(|column| {
                    let at = row * self.width + column;
                    gx.data[at] * x + gy.data[at] * y >= needed
                })
            });
            found += usize::from(!known);
        }
        found as f64 / self.x.len() as f64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stripes(width: usize, height: usize, shift: usize) -> Plane {
        let mut plane = Plane::new(width, height);
        for (i, value) in plane.data.iter_mut().enumerate() {
            *value = if ((i % width + shift) / 6).is_multiple_of(2) {
                60.0
            } else {
                180.0
            };
        }
        plane
    }

    #[test]
    fn a_ramp_has_no_laplacian_and_a_checkerboard_has_the_largest() {
        let mut ramp = Plane::new(32, 24);
        let mut board = ramp.clone();
        for i in 0..32 * 24 {
            ramp.data[i] = 2.0 * (i % 32) as f32 + (i / 32) as f32;
            board.data[i] = if (i % 32 + i / 32) % 2 == 0 {
                1.0
            } else {
                -1.0
            };
        }
        assert!(laplacian_variance(&ramp).abs() < 1e-6);
        assert!((laplacian_variance(&board) - 64.0).abs() < 1e-3);
    }

    #[test]
    fn steps_on_the_grid_are_blocks() {
        let mut blocks = Plane::new(64, 16);
        let mut ramp = blocks.clone();
        for i in 0..64 * 16 {
            blocks.data[i] = 10.0 * ((i % 64) / 8) as f32;
            ramp.data[i] = (i % 64) as f32;
        }
        assert!(blockiness(&blocks).unwrap() > 100.0);
        assert!((blockiness(&ramp).unwrap() - 1.0).abs() < 1e-6);
        assert_eq!(blockiness(&Plane::new(64, 16)), Some(1.0));
        assert_eq!(blockiness(&Plane::new(4, 4)), None);
    }

    #[test]
    fn edges_that_stay_over_a_moving_picture_are_an_overlay() {
        let reference = stripes(96, 64, 0);
        let mut clean = OverlayDetector::new(96, 64);
        let mut written = OverlayDetector::new(96, 64);
        for t in 0..12 {
            let mut frame = stripes(96, 64, 2 * t);
            clean.add(&frame);
            for y in 20..40 {
                for x in 30..70 {
                    // White letters on black: the box brings its own ground.
                    frame.data[y * 96 + x] = if x % 8 < 4 && y % 10 < 7 { 250.0 } else { 5.0 };
                }
            }
            written.add(&frame);
        }
        let (clean, written) = (clean.share(&reference), written.share(&reference));
        assert!(clean < 0.002, "{clean}");
        assert!(written > 0.05, "{written}");
    }

    #[test]
    fn edges_of_the_conditioning_image_are_none() {
        let reference = stripes(96, 64, 0);
        let mut detector = OverlayDetector::new(96, 64);
        for _ in 0..6 {
            detector.add(&reference);
        }
        assert_eq!(detector.share(&reference), 0.0);
    }
}
