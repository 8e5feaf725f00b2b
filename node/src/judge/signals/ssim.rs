//! Structural similarity (Wang et al., 2004) on luma, as scikit-image computes it with
//! `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255`, over the part of the
//! picture that the window covers whole.

use super::plane::Plane;

/// Taps of the window; 11 at sigma 1.5.
const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;
/// (0.01 · 255)² and (0.03 · 255)².
const C1: f32 = 6.5025;
const C2: f32 = 58.5225;

/// The smallest side that has a whole window.
pub(crate) const MIN_SIDE: usize = WINDOW;

fn window() -> [f32; WINDOW] {
    let middle = (WINDOW / 2) as f64;
    let weight = |i: usize| (-0.5 * ((i as f64 - middle) / SIGMA).powi(2)).exp();
    let sum: f64 = (0..WINDOW).map(weight).sum();
    std::array::from_fn(|i| (weight(i) / sum) as f32)
}

/// Gaussian mean of `value(row, column)` wherever the window fits.
fn blur(width: usize, height: usize, weights: &[f32; WINDOW], data: &[f32]) -> Vec<f32> {
    let (out_width, out_height) = (width + 1 - WINDOW, height + 1 - WINDOW);
    let mut out = vec![0f32; out_width * out_height];
    let mut line = vec![0f32; width];
    for (y, out) in out.chunks_exact_mut(out_width).enumerate() {
        line.fill(0.0);
        for (row, weight) in data[y * width..].chunks_exact(width).zip(weights) {
            for (sum, value) in line.iter_mut().zip(row) {
                *sum += weight * value;
            }
        }
        for (offset, weight) in weights.iter().enumerate() {
            for (sum, value) in out.iter_mut().zip(&line[offset..]) {
                *sum += weight * value;
            }
        }
    }
    out
}

/// A picture that others are compared with; its own moments are computed once.
#[derive(Debug)]
pub(crate) struct SsimReference {
    plane: Plane,
    weights: [f32; WINDOW],
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl SsimReference {
    /// `plane` has at least [`MIN_SIDE`] pixels in both directions.
    pub(crate) fn new(plane: Plane) -> Self {
        let weights = window();
        let (width, height) = (plane.width, plane.height);
        let mean = blur(width, height, &weights, &plane.data);
        let squares: Vec<f32> = plane.data.iter().map(|v| v * v).collect();
        let square = blur(width, height, &weights, &squares);
        Self {
            plane,
            weights,
            mean,
            square,
        }
    }

    pub(crate) fn plane(&self) -> &Plane {
        &self.plane
    }

    /// Mean similarity with a picture of the same size, −1 to 1.
    pub(crate) fn score(&self, other: &Plane) -> f64 {
        let (width, height) = (self.plane.width, self.plane.height);
        let mean = blur(width, height, &self.weights, &other.data);
        let squares: Vec<f32> = other.data.iter().map(|v| v * v).collect();
        let square = blur(width, height, &self.weights, &squares);
        let products: Vec<f32> = self
            .plane
            .data
            .iter()
            .zip(&other.data)
            .map(|(a, b)| a * b)
            .collect();
        let product = blur(width, height, &self.weights, &products);

        let mut total = 0.0f64;
        let ours = self.mean.iter().zip(&self.square);
        let theirs = mean.iter().zip(&square).zip(&product);
        for ((a, aa), ((b, bb), ab)) in ours.zip(theirs) {
            let (va, vb, vab) = (aa - a * a, bb - b * b, ab - a * b);
            let luminance = (2.0 * a * b + C1) / (a * a + b * b + C1);
            total += f64::from(luminance * (2.0 * vab + C2) / (va + vb + C2));
        }
        total / mean.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(shift: usize, gain: f32) -> Plane {
        let mut plane = Plane::new(40, 32);
        for (i, value) in plane.data.iter_mut().enumerate() {
            let (x, y) = (i % 40 + shift, i / 40);
            *value = 128.0 + gain * ((x * 7 + y * 3) % 23) as f32 - gain * 11.0;
        }
        plane
    }

    #[test]
    fn equal_pictures_score_one_and_any_change_less() {
        let reference = SsimReference::new(pattern(0, 4.0));
        assert!((reference.score(&pattern(0, 4.0)) - 1.0).abs() < 1e-4);
        let shifted = reference.score(&pattern(1, 4.0));
        let flat = reference.score(&pattern(0, 0.0));
        assert!(shifted < 0.9, "{shifted}");
        assert!(flat < 0.1, "{flat}");
    }

    #[test]
    fn flat_pictures_follow_the_luminance_term() {
        let mut bright = Plane::new(16, 16);
        bright.data.fill(200.0);
        let mut dark = Plane::new(16, 16);
        dark.data.fill(100.0);
        let expected =
            (2.0 * 200.0 * 100.0 + 6.5025) / (200.0f64.powi(2) + 100.0f64.powi(2) + 6.5025);
        let found = SsimReference::new(bright).score(&dark);
        // Variances are differences of large f32 numbers, so they are zero only to rounding.
        assert!(
            (found - expected).abs() < 2e-3,
            "{found} against {expected}"
        );
    }
}
