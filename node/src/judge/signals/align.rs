//! Alignment of one picture to another by an affine map, Gauss–Newton on grey levels.
//!
//! A map takes a pixel (x, y) of the template, measured from its centre, to
//! (x + a0 + a1·x + a2·y, y + a3 + a4·x + a5·y) of the image, measured from its centre.

use super::plane::Plane;

/// The six numbers above; all zero is the identity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Affine(pub(crate) [f64; 6]);

impl Affine {
    pub(crate) const IDENTITY: Self = Self([0.0; 6]);

    /// Where (x, y) goes, both measured from the centre.
    #[inline]
    pub(crate) fn apply(&self, x: f64, y: f64) -> (f64, f64) {
        let a = &self.0;
        (
            x + a[0] + a[1] * x + a[2] * y,
            y + a[3] + a[4] * x + a[5] * y,
        )
    }

    /// The map that does `self` first and `next` after it.
    pub(crate) fn then(&self, next: &Self) -> Self {
        let (a, b) = (&self.0, &next.0);
        // Rows of I + M, so that products are those of matrices.
        let (m, n) = (
            [1.0 + a[1], a[2], a[4], 1.0 + a[5]],
            [1.0 + b[1], b[2], b[4], 1.0 + b[5]],
        );
        Self([
            b[0] + n[0] * a[0] + n[1] * a[3],
            n[0] * m[0] + n[1] * m[2] - 1.0,
            n[0] * m[1] + n[1] * m[3],
            b[3] + n[2] * a[0] + n[3] * a[3],
            n[2] * m[0] + n[3] * m[2],
            n[2] * m[1] + n[3] * m[3] - 1.0,
        ])
    }

    /// How far the corners of a `width` x `height` picture move at most, in pixels.
    pub(crate) fn corner_motion(&self, width: usize, height: usize) -> f64 {
        let (x, y) = (width as f64 / 2.0, height as f64 / 2.0);
        [(-x, -y), (x, -y), (-x, y), (x, y)]
            .into_iter()
            .map(|(x, y)| {
                let (u, v) = self.apply(x, y);
                (u - x).hypot(v - y)
            })
            .fold(0.0, f64::max)
    }

    /// Change of length, the root of the area factor; 1 keeps sizes.
    pub(crate) fn scale(&self) -> f64 {
        let a = &self.0;
        ((1.0 + a[1]) * (1.0 + a[5]) - a[2] * a[4]).abs().sqrt()
    }
}

/// A picture with what is needed to align others with it.
pub(crate) struct Template<'a> {
    plane: &'a Plane,
    gx: &'a Plane,
    gy: &'a Plane,
}

/// Grey levels from which on a difference counts less: what moves by itself must not pull the map.
const HUBER: f32 = 12.0;

impl<'a> Template<'a> {
    pub(crate) fn new(plane: &'a Plane, gx: &'a Plane, gy: &'a Plane) -> Self {
        Self { plane, gx, gy }
    }

    /// Improves `start` so that `image` under the map looks like the template.
    ///
    /// Gives the last map that could be computed; without texture that is `start`.
    pub(crate) fn align(&self, image: &Plane, start: Affine, iterations: usize) -> Affine {
        let mut map = start;
        for _ in 0..iterations {
            let Some(step) = self.step(image, &map) else {
                break;
            };
            for (value, change) in map.0.iter_mut().zip(step) {
                *value += change;
            }
            let (width, height) = (self.plane.width, self.plane.height);
            if Affine(step).corner_motion(width, height) < 0.02 {
                break;
            }
        }
        map
    }

    /// One weighted least-squares step on every second pixel of every second row.
    fn step(&self, image: &Plane, map: &Affine) -> Option<[f64; 6]> {
        let (width, height) = (self.plane.width, self.plane.height);
        let (cx, cy) = (0.5 * (width - 1) as f64, 0.5 * (height - 1) as f64);
        // Coordinates in units of the picture keep the system well conditioned.
        let unit = cx.max(cy);
        let mut normal = [[0f64; 6]; 6];
        let mut right = [0f64; 6];
        let mut inside = 0usize;
        for row in (1..height - 1).step_by(2) {
            let y = row as f64 - cy;
            for column in (1..width - 1).step_by(2) {
                let x = column as f64 - cx;
                let (u, v) = map.apply(x, y);
                let (u, v) = ((u + cx) as f32, (v + cy) as f32);
                if u < 0.0 || v < 0.0 || u > (width - 1) as f32 || v > (height - 1) as f32 {
                    continue;
                }
                inside += 1;
                let at = row * width + column;
                let residual = self.plane.data[at] - image.sample(u, v);
                let weight = f64::from(HUBER / residual.abs().max(HUBER));
                let (gx, gy) = (f64::from(self.gx.data[at]), f64::from(self.gy.data[at]));
                let (sx, sy) = (x / unit, y / unit);
                let jacobian = [gx, gx * sx, gx * sy, gy, gy * sx, gy * sy];
                for (i, a) in jacobian.iter().enumerate() {
                    let scaled = weight * a;
                    right[i] += scaled * f64::from(residual);
                    for (j, b) in jacobian.iter().enumerate().skip(i) {
                        normal[i][j] += scaled * b;
                    }
                }
            }
        }
        if inside < 64 {
            return None;
        }
        for i in 0..6 {
            for j in 0..i {
                normal[i][j] = normal[j][i];
            }
            // Pictures without texture in some direction stay where they are in it.
            normal[i][i] += 1e-3 * inside as f64;
        }
        let mut step = solve(normal, right)?;
        for index in [1, 2, 4, 5] {
            step[index] /= unit;
        }
        step.iter().all(|v| v.is_finite()).then_some(step)
    }
}

/// Gaussian elimination with pivots; `None` for a singular system.
pub(crate) fn solve<const N: usize>(mut a: [[f64; N]; N], mut b: [f64; N]) -> Option<[f64; N]> {
    for column in 0..N {
        let pivot =
            (column..N).max_by(|&i, &j| a[i][column].abs().total_cmp(&a[j][column].abs()))?;
        if a[pivot][column].abs() < 1e-12 {
            return None;
        }
        a.swap(column, pivot);
        b.swap(column, pivot);
        for row in column + 1..N {
            let factor = a[row][column] / a[column][column];
            let pivot_row = a[column];
            for (value, pivot) in a[row].iter_mut().zip(pivot_row).skip(column) {
                *value -= factor * pivot;
            }
            b[row] -= factor * b[column];
        }
    }
    let mut x = [0f64; N];
    for row in (0..N).rev() {
        let known: f64 = (row + 1..N).map(|column| a[row][column] * x[column]).sum();
        x[row] = (b[row] - known) / a[row][row];
    }
    Some(x)
}

/// `image` seen through `map`: pixel (x, y) of the result is `image` at the mapped place.
pub(crate) fn warp_affine(image: &Plane, map: &Affine) -> Plane {
    let (width, height) = (image.width, image.height);
    let (cx, cy) = (0.5 * (width - 1) as f64, 0.5 * (height - 1) as f64);
    let mut out = Plane::new(width, height);
    for (row, out) in out.data.chunks_exact_mut(width).enumerate() {
        for (column, out) in out.iter_mut().enumerate() {
            let (u, v) = map.apply(column as f64 - cx, row as f64 - cy);
            *out = image.sample((u + cx) as f32, (v + cy) as f32);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn scene() -> Plane {
        let mut plane = Plane::new(96, 64);
        for (i, value) in plane.data.iter_mut().enumerate() {
            let (x, y) = ((i % 96) as f32, (i / 96) as f32);
            *value =
                128.0 + 50.0 * (x * 0.21).sin() * (y * 0.17).cos() + 30.0 * ((x + y) * 0.11).sin();
        }
        plane
    }

    #[test]
    fn a_known_zoom_and_shift_is_found_again() {
        let image = scene();
        let truth = Affine([1.4, 0.03, 0.0, -0.9, 0.01, 0.03]);
        let template = warp_affine(&image, &truth);
        let (gx, gy) = template.gradients();
        let found = Template::new(&template, &gx, &gy).align(&image, Affine::IDENTITY, 12);
        for (found, truth) in found.0.iter().zip(truth.0) {
            assert!((found - truth).abs() < 0.05, "{found} against {truth}");
        }
    }

    #[test]
    fn maps_compose_in_order() {
        let first = Affine([1.0, 0.1, 0.0, 2.0, 0.0, -0.1]);
        let second = Affine([-3.0, 0.0, 0.2, 0.5, -0.1, 0.0]);
        let (x, y) = first.apply(7.0, -4.0);
        let expected = second.apply(x, y);
        let found = first.then(&second).apply(7.0, -4.0);
        assert!((found.0 - expected.0).abs() < 1e-12 && (found.1 - expected.1).abs() < 1e-12);
    }

    #[test]
    fn a_flat_picture_keeps_the_start() {
        let flat = Plane::new(64, 48);
        let (gx, gy) = flat.gradients();
        let found = Template::new(&flat, &gx, &gy).align(&flat, Affine::IDENTITY, 5);
        assert_eq!(found, Affine::IDENTITY);
        assert!(solve([[0.0; 2]; 2], [1.0, 1.0]).is_none());
    }
}
