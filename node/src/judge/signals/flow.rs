//! Dense optical flow: iterated Lucas–Kanade over a pyramid.
//!
//! At each level the flow u of the level above is refined: with w the second picture seen through u, g the
//! gradient of the first and r = first − w + g·u, the new flow at a pixel solves
//! (Σ g gᵀ + λ I) u' = Σ g r + λ u over a square window. Solving for the whole flow, not for its change,
//! averages neighbours, which plain Lucas–Kanade does not; λ keeps the flow of the level above where
//! there is nothing to see. Deterministic: fixed order, no threads, no randomness.

use super::plane::Plane;

/// Window radius.
const RADIUS: usize = 4;
/// Refinements per level.
const ITERATIONS: usize = 3;
/// λ per pixel of the window, in squared grey levels per pixel: about the gradient of sensor noise.
const DAMPING: f32 = 3.0;
/// Levels end before a side falls below this.
const MIN_SIDE: usize = 14;
const MAX_LEVELS: usize = 5;

/// Displacement per pixel: the first picture's (x, y) is found at (x + u, y + v) in the second.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) u: Plane,
    pub(crate) v: Plane,
}

struct Level {
    image: Plane,
    gx: Plane,
    gy: Plane,
    /// Inverse of Σ g gᵀ + λ I, symmetric: xx, xy, yy.
    inverse: [Vec<f32>; 3],
    /// λ times the pixels in the window.
    damping: Vec<f32>,
}

/// A picture and all that flow from it needs; used for every flow that starts or ends at it.
pub(crate) struct FlowFrame {
    /// Finest first.
    levels: Vec<Level>,
}

impl FlowFrame {
    pub(crate) fn new(image: Plane) -> Self {
        let mut levels = Vec::with_capacity(MAX_LEVELS);
        let mut next = Some(image);
        while let Some(image) = next {
            next = (levels.len() + 1 < MAX_LEVELS && image.width.min(image.height) / 2 >= MIN_SIDE)
                .then(|| image.half());
            levels.push(Level::new(image));
        }
        Self { levels }
    }

    pub(crate) fn image(&self) -> &Plane {
        &self.levels[0].image
    }

    pub(crate) fn gradients(&self) -> (&Plane, &Plane) {
        (&self.levels[0].gx, &self.levels[0].gy)
    }

    /// Flow from this picture to `second`, which has the same size.
    pub(crate) fn flow_to(&self, second: &Self) -> Flow {
        let mut flow: Option<Flow> = None;
        for (first, second) in self.levels.iter().zip(&second.levels).rev() {
            let (width, height) = (first.image.width, first.image.height);
            let mut current = match flow {
                None => Flow {
                    u: Plane::new(width, height),
                    v: Plane::new(width, height),
                },
                Some(coarse) => Flow {
                    u: doubled(&coarse.u, width, height),
                    v: doubled(&coarse.v, width, height),
                },
            };
            for _ in 0..ITERATIONS {
                first.refine(&second.image, &mut current);
            }
            flow = Some(current);
        }
        // `levels` has at least one entry, see `new`.
        flow.unwrap_or_else(|| Flow {
            u: Plane::new(self.image().width, self.image().height),
            v: Plane::new(self.image().width, self.image().height),
        })
    }
}

impl Level {
    fn new(image: Plane) -> Self {
        let (gx, gy) = image.gradients();
        let (width, height) = (image.width, image.height);
        let product = |a: &Plane, b: &Plane| {
            let mut data: Vec<f32> = a.data.iter().zip(&b.data).map(|(a, b)| a * b).collect();
            box_sum(&mut data, width, height);
            data
        };
        let mut damping = vec![DAMPING; width * height];
        box_sum(&mut damping, width, height);
        let (mut xx, mut xy, mut yy) = (product(&gx, &gx), product(&gx, &gy), product(&gy, &gy));
        for (((xx, xy), yy), damping) in xx.iter_mut().zip(&mut xy).zip(&mut yy).zip(&damping) {
            let (a, b, c) = (*xx + damping, *xy, *yy + damping);
            // Positive: both diagonal entries exceed what xy can take away by λ.
            let inverse = 1.0 / (a * c - b * b);
            (*xx, *xy, *yy) = (c * inverse, -b * inverse, a * inverse);
        }
        Self {
            image,
            gx,
            gy,
            inverse: [xx, xy, yy],
            damping,
        }
    }

    fn refine(&self, second: &Plane, flow: &mut Flow) {
        let (width, height) = (self.image.width, self.image.height);
        let warped = warp(second, &flow.u.data, &flow.v.data, 1.0);
        let mut bx = vec![0f32; width * height];
        let mut by = vec![0f32; width * height];
        let gradients = self.gx.data.iter().zip(&self.gy.data);
        let pictures = self.image.data.iter().zip(&warped.data);
        let flows = flow.u.data.iter().zip(&flow.v.data);
        let sums = bx.iter_mut().zip(&mut by);
        for ((((bx, by), (gx, gy)), (first, second)), (u, v)) in
            sums.zip(gradients).zip(pictures).zip(flows)
        {
            let r = first - second + gx * u + gy * v;
            *bx = gx * r;
            *by = gy * r;
        }
        box_sum(&mut bx, width, height);
        box_sum(&mut by, width, height);
        let [xx, xy, yy] = &self.inverse;
        let flows = flow.u.data.iter_mut().zip(&mut flow.v.data);
        let inverse = xx.iter().zip(xy).zip(yy);
        let right = bx.iter().zip(&by).zip(&self.damping);
        for (((u, v), ((xx, xy), yy)), ((bx, by), damping)) in flows.zip(inverse).zip(right) {
            let (bx, by) = (bx + damping * *u, by + damping * *v);
            *u = xx * bx + xy * by;
            *v = xy * bx + yy * by;
        }
    }
}

/// `image` seen through `factor` times the flow.
pub(crate) fn warp(image: &Plane, u: &[f32], v: &[f32], factor: f32) -> Plane {
    let (width, height) = (image.width, image.height);
    let mut out = Plane::new(width, height);
    let flows = u.chunks_exact(width).zip(v.chunks_exact(width));
    for ((y, out), (u, v)) in out.data.chunks_exact_mut(width).enumerate().zip(flows) {
        for ((x, out), (u, v)) in out.iter_mut().enumerate().zip(u.iter().zip(v)) {
            *out = image.sample(x as f32 + factor * u, y as f32 + factor * v);
        }
    }
    out
}

/// A flow component of the level above at this level's size and in its pixels.
fn doubled(coarse: &Plane, width: usize, height: usize) -> Plane {
    let mut out = Plane::new(width, height);
    for (y, out) in out.data.chunks_exact_mut(width).enumerate() {
        for (x, out) in out.iter_mut().enumerate() {
            // Coarse pixel i covers fine pixels 2i and 2i + 1.
            let (x, y) = (0.5 * x as f32 - 0.25, 0.5 * y as f32 - 0.25);
            *out = 2.0 * coarse.sample(x, y);
        }
    }
    out
}

/// Sums over the window round each pixel, cut at the edges, in place.
fn box_sum(data: &mut [f32], width: usize, height: usize) {
    let mut line = vec![0f32; width + 2 * RADIUS];
    for row in data.chunks_exact_mut(width) {
        line[RADIUS..][..width].copy_from_slice(row);
        row.fill(0.0);
        // Whole shifted rows are added: more additions than a sliding sum, but each row at vector speed.
        for offset in 0..=2 * RADIUS {
            for (sum, value) in row.iter_mut().zip(&line[offset..]) {
                *sum += value;
            }
        }
    }
    let source = data.to_vec();
    let mut sums = vec![0f32; width];
    for row in source.chunks_exact(width).take(RADIUS) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
    for y in 0..height {
        if let Some(entering) = source.chunks_exact(width).nth(y + RADIUS) {
            for (sum, value) in sums.iter_mut().zip(entering) {
                *sum += value;
            }
        }
        if let Some(leaving) = y
            .checked_sub(RADIUS + 1)
            .and_then(|y| source.chunks_exact(width).nth(y))
        {
            for (sum, value) in sums.iter_mut().zip(leaving) {
                *sum -= value;
            }
        }
        data[y * width..][..width].copy_from_slice(&sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texture(x: f32, y: f32) -> f32 {
        128.0
            + 40.0 * (x * 0.19 + (y * 0.07).sin()).sin()
            + 30.0 * (y * 0.23 - x * 0.05).cos()
            + 15.0 * ((x + 2.0 * y) * 0.31).sin()
    }

    fn picture(dx: f32, dy: f32) -> FlowFrame {
        let mut plane = Plane::new(128, 96);
        for (i, value) in plane.data.iter_mut().enumerate() {
            *value = texture((i % 128) as f32 - dx, (i / 128) as f32 - dy);
        }
        FlowFrame::new(plane)
    }

    #[test]
    fn a_pan_is_measured_to_a_tenth_of_a_pixel() {
        let still = picture(0.0, 0.0);
        for (dx, dy) in [(0.0, 0.0), (1.5, -0.75), (-6.0, 3.0), (9.5, 0.0)] {
            let flow = still.flow_to(&picture(dx, dy));
            for y in (20..76).step_by(7) {
                for x in (20..108).step_by(7) {
                    let at = y * 128 + x;
                    let (u, v) = (flow.u.data[at], flow.v.data[at]);
                    assert!(
                        (u - dx).abs() < 0.1 && (v - dy).abs() < 0.1,
                        "({x}, {y}): ({u}, {v}), not ({dx}, {dy})"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_to_see_is_no_motion() {
        let flat = FlowFrame::new(Plane::new(64, 48));
        let flow = flat.flow_to(&flat);
        assert!(flow.u.data.iter().chain(&flow.v.data).all(|v| *v == 0.0));
    }

    #[test]
    fn windows_are_cut_at_the_edges() {
        let mut ones = vec![1.0; 20 * 12];
        box_sum(&mut ones, 20, 12);
        let side = (2 * RADIUS + 1) as f32;
        let corner = (RADIUS + 1) as f32;
        assert_eq!(ones[0], corner * corner);
        assert_eq!(ones[6 * 20 + 10], side * side);
        assert_eq!(ones[11 * 20 + 19], corner * corner);
    }
}
