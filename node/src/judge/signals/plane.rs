//! Single-channel pictures: luma, reduction by area, halves, sampling between pixels.

use crate::media::RgbImage8;

/// Short side on which signals are measured.
pub(crate) const SHORT_SIDE: usize = 256;
/// Longest side on which signals are measured: what they cost must not depend on the shape of a clip.
const LONG_SIDE: usize = 4 * SHORT_SIDE;

/// Independent sums of a long loop: wide enough for vector units, and the fixed order of additions keeps
/// results equal from run to run.
const LANES: usize = 16;

/// One channel, row after row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plane {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) data: Vec<f32>,
}

impl Plane {
    pub(crate) fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            data: vec![0.0; width * height],
        }
    }

    pub(crate) fn row(&self, y: usize) -> &[f32] {
        &self.data[y * self.width..][..self.width]
    }

    /// Half the size in both directions, averaging 2x2; an odd last row or column is left out.
    pub(crate) fn half(&self) -> Self {
        let mut half = Self::new(self.width / 2, self.height / 2);
        let width = half.width;
        for (y, out) in half.data.chunks_exact_mut(width).enumerate() {
            let (top, bottom) = (self.row(2 * y), self.row(2 * y + 1));
            let pairs = top.chunks_exact(2).zip(bottom.chunks_exact(2));
            for (out, (a, b)) in out.iter_mut().zip(pairs) {
                *out = 0.25 * (a[0] + a[1] + b[0] + b[1]);
            }
        }
        half
    }

    /// The value between pixels, edges repeated.
    #[inline]
    pub(crate) fn sample(&self, x: f32, y: f32) -> f32 {
        let x = x.clamp(0.0, (self.width - 1) as f32);
        let y = y.clamp(0.0, (self.height - 1) as f32);
        let column = (x as usize).min(self.width - 2);
        let row = (y as usize).min(self.height - 2);
        let (fx, fy) = (x - column as f32, y - row as f32);
        let top = &self.data[row * self.width + column..][..self.width + 2];
        let upper = top[0] + fx * (top[1] - top[0]);
        let lower = top[self.width] + fx * (top[self.width + 1] - top[self.width]);
        upper + fy * (lower - upper)
    }

    /// Central differences, edges repeated: d/dx and d/dy.
    pub(crate) fn gradients(&self) -> (Self, Self) {
        let (width, height) = (self.width, self.height);
        let (mut gx, mut gy) = (Self::new(width, height), Self::new(width, height));
        for y in 0..height {
            let row = self.row(y);
            let out = &mut gx.data[y * width..][..width];
            for (out, three) in out[1..].iter_mut().zip(row.windows(3)) {
                *out = 0.5 * (three[2] - three[0]);
            }
            out[0] = 0.5 * (row[1] - row[0]);
            out[width - 1] = 0.5 * (row[width - 1] - row[width - 2]);
            let (above, below) = (
                self.row(y.saturating_sub(1)),
                self.row((y + 1).min(height - 1)),
            );
            let out = &mut gy.data[y * width..][..width];
            for ((out, a), b) in out.iter_mut().zip(above).zip(below) {
                *out = 0.5 * (b - a);
            }
        }
        (gx, gy)
    }

    pub(crate) fn mean(&self) -> f64 {
        reduce(&self.data, &self.data, |a, _| a) / self.data.len() as f64
    }
}

/// Mean of |a − b|.
pub(crate) fn mean_abs_diff(a: &Plane, b: &Plane) -> f64 {
    reduce(&a.data, &b.data, |a, b| (a - b).abs()) / a.data.len() as f64
}

/// Mean of (a − b)².
pub(crate) fn mean_square_diff(a: &Plane, b: &Plane) -> f64 {
    reduce(&a.data, &b.data, |a, b| (a - b) * (a - b)) / a.data.len() as f64
}

/// Sum of `term(a, b)`: lanes in f32 over short stretches, stretches in f64.
pub(crate) fn reduce(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f64 {
    const STRETCH: usize = LANES * 64;
    let mut total = 0.0f64;
    for (a, b) in a.chunks(STRETCH).zip(b.chunks(STRETCH)) {
        let mut lanes = [0f32; LANES];
        let (a_whole, b_whole) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        for (a, b) in a_whole.remainder().iter().zip(b_whole.remainder()) {
            total += f64::from(term(*a, *b));
        }
        for (a, b) in a_whole.zip(b_whole) {
            for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                *lane += term(*a, *b);
            }
        }
        total += lanes.iter().map(|v| f64::from(*v)).sum::<f64>();
    }
    total
}

/// Width and height on which a clip of this size is measured; clips are never enlarged. Up to four times as long as
/// wide they keep their shape; longer ones, which no model makes, are shortened along their long side.
pub(crate) fn working_size(width: usize, height: usize) -> (usize, usize) {
    let short = width.min(height);
    if short <= SHORT_SIDE {
        return (width.min(LONG_SIDE), height.min(LONG_SIDE));
    }
    let scaled = |side: usize| {
        let exact = side as f64 * SHORT_SIDE as f64 / short as f64;
        (exact.round() as usize).clamp(SHORT_SIDE, LONG_SIDE)
    };
    (scaled(width), scaled(height))
}

/// Luma of every pixel at native size, BT.601.
pub(crate) fn luma(image: &RgbImage8) -> Plane {
    let data = image
        .data()
        .chunks_exact(3)
        .map(|p| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]))
        .collect();
    Plane {
        width: image.width(),
        height: image.height(),
        data,
    }
}

/// Which input positions make up each output position, and by which share of its area.
struct AreaTaps {
    first: Vec<usize>,
    count: Vec<usize>,
    weights: Vec<f32>,
    stride: usize,
}

impl AreaTaps {
    fn new(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let stride = scale.ceil() as usize + 1;
        let mut taps = Self {
            first: Vec::with_capacity(output),
            count: Vec::with_capacity(output),
            weights: vec![0.0; output * stride],
            stride,
        };
        for position in 0..output {
            let (start, end) = (position as f64 * scale, (position + 1) as f64 * scale);
            let first = (start as usize).min(input - 1);
            // Positions that only touch by rounding get no tap.
            let last = ((end - 1e-9).ceil() as usize).clamp(first + 1, input);
            let count = (last - first).min(stride);
            let weights = &mut taps.weights[position * stride..][..count];
            for (offset, weight) in weights.iter_mut().enumerate() {
                let left = (first + offset) as f64;
                *weight = ((end.min(left + 1.0) - start.max(left)).max(0.0) / scale) as f32;
            }
            taps.first.push(first);
            taps.count.push(count);
        }
        taps
    }

    fn of(&self, position: usize) -> (usize, &[f32]) {
        let weights = &self.weights[position * self.stride..][..self.count[position]];
        (self.first[position], weights)
    }
}

/// Reduction by area between two fixed sizes; enlarging repeats pixels.
pub(crate) struct AreaResize {
    columns: AreaTaps,
    rows: AreaTaps,
    from: (usize, usize),
    to: (usize, usize),
}

impl AreaResize {
    pub(crate) fn new(from: (usize, usize), to: (usize, usize)) -> Self {
        Self {
            columns: AreaTaps::new(from.0, to.0),
            rows: AreaTaps::new(from.1, to.1),
            from,
            to,
        }
    }

    /// Resizes a plane of the size given to `new`.
    pub(crate) fn apply(&self, plane: &Plane) -> Plane {
        if self.from == self.to {
            return plane.clone();
        }
        let mut out = Plane::new(self.to.0, self.to.1);
        let mut line = vec![0f32; self.from.0];
        for (y, out) in out.data.chunks_exact_mut(self.to.0).enumerate() {
            line.fill(0.0);
            let (first, weights) = self.rows.of(y);
            for (offset, weight) in weights.iter().enumerate() {
                for (sum, value) in line.iter_mut().zip(plane.row(first + offset)) {
                    *sum += weight * value;
                }
            }
            for (x, out) in out.iter_mut().enumerate() {
                let (first, weights) = self.columns.of(x);
                let taps = line[first..].iter().zip(weights);
                *out = taps.map(|(value, weight)| value * weight).sum();
            }
        }
        out
    }
}

/// The middle of the values; the mean of the two middle ones for an even count.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(sorted.len() / 2 - 1)?;
    Some(0.5 * (lower + upper))
}

/// Mean of the values; `None` without any.
pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ramp(width: usize, height: usize) -> Plane {
        let mut plane = Plane::new(width, height);
        for (i, value) in plane.data.iter_mut().enumerate() {
            *value = (3 * (i % width) + 5 * (i / width)) as f32;
        }
        plane
    }

    #[test]
    fn sizes_keep_their_shape_and_are_never_enlarged() {
        assert_eq!(working_size(832, 480), (444, 256));
        assert_eq!(working_size(480, 832), (256, 444));
        assert_eq!(working_size(160, 96), (160, 96));
        assert_eq!(working_size(4096, 1024), (1024, 256));
        assert_eq!(working_size(1024, 256), (1024, 256));
    }

    #[test]
    fn no_shape_makes_the_work_grow() {
        assert_eq!(working_size(16_384, 256), (1024, 256));
        assert_eq!(working_size(40, 100_000), (40, 1024));
        assert_eq!(working_size(8192, 512), (1024, 256));
    }

    #[test]
    fn area_keeps_the_mean_and_averages_whole_blocks() {
        let plane = ramp(30, 20);
        let third = AreaResize::new((30, 20), (10, 4)).apply(&plane);
        // Block (0, 0): columns 0..3, rows 0..5.
        assert!((third.data[0] - (3.0 + 10.0)).abs() < 1e-4);
        assert!((third.mean() - plane.mean()).abs() < 1e-3);
        let uneven = AreaResize::new((30, 20), (13, 7)).apply(&plane);
        assert!((uneven.mean() - plane.mean()).abs() < 1e-3);
        let larger = AreaResize::new((30, 20), (41, 20)).apply(&plane);
        assert!((larger.data[0] - plane.data[0]).abs() < 1e-4);
    }

    #[test]
    fn sampling_is_linear_and_repeats_the_edges() {
        let plane = ramp(8, 6);
        assert!((plane.sample(2.5, 1.25) - (7.5 + 6.25)).abs() < 1e-4);
        assert!((plane.sample(-9.0, 0.0) - 0.0).abs() < 1e-4);
        assert!((plane.sample(99.0, 99.0) - (21.0 + 25.0)).abs() < 0.02);
        let (gx, gy) = plane.gradients();
        assert_eq!((gx.data[3 * 8 + 4], gy.data[3 * 8 + 4]), (3.0, 5.0));
        assert_eq!(plane.half().data[0], 4.0);
    }

    #[test]
    fn sums_do_not_depend_on_where_lanes_end() {
        for count in [1usize, 15, 16, 17, 1023, 1024, 1025] {
            let a = vec![2.0f32; count];
            let b = vec![0.5f32; count];
            let sum = reduce(&a, &b, |a, b| a * b);
            assert!((sum - count as f64).abs() < 1e-9, "{count}: {sum}");
        }
        assert_eq!(median(&[3.0, 1.0, 2.0, 10.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
