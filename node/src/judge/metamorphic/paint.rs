//! Random numbers, textures and a float canvas: what the generated clips are painted with.

use crate::media::RgbImage8;

/// SplitMix64: one 64-bit state, the same numbers on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x6a09_e667_f3bc_c909)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in [low, high).
    pub(crate) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform in 0..n.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// −1 or 1.
    pub(crate) fn sign(&mut self) -> f32 {
        if self.next() & 1 == 0 { -1.0 } else { 1.0 }
    }

    /// A colour away from black and white, so that lighting has room both ways.
    pub(crate) fn colour(&mut self) -> [f32; 3] {
        std::array::from_fn(|_| self.range(35.0, 220.0))
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// RGB in f32, 0 to 255, `[height, width, 3]`.
#[derive(Debug, Clone)]
pub(crate) struct Canvas {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) data: Vec<[f32; 3]>,
}

impl Canvas {
    pub(crate) fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            data: vec![[0.0; 3]; width * height],
        }
    }

    /// Calls `colour` for every pixel centre.
    pub(crate) fn filled(
        width: usize,
        height: usize,
        colour: impl Fn(f32, f32) -> [f32; 3],
    ) -> Self {
        let mut canvas = Self::new(width, height);
        for (y, row) in canvas.data.chunks_exact_mut(width).enumerate() {
            for (x, pixel) in row.iter_mut().enumerate() {
                *pixel = colour(x as f32, y as f32);
            }
        }
        canvas
    }

    pub(crate) fn from_image(image: &RgbImage8) -> Self {
        let data = image
            .data()
            .chunks_exact(3)
            .map(|p| [p[0], p[1], p[2]].map(f32::from))
            .collect();
        Self {
            width: image.width(),
            height: image.height(),
            data,
        }
    }

    /// The value between pixels, the canvas repeated in both directions.
    pub(crate) fn sample_repeated(&self, x: f32, y: f32) -> [f32; 3] {
        let (w, h) = (self.width as i64, self.height as i64);
        let (left, top) = (x.floor(), y.floor());
        let (fx, fy) = (x - left, y - top);
        let (left, top) = (left as i64, top as i64);
        let at = |x: i64, y: i64| {
            self.data[y.rem_euclid(h) as usize * self.width + x.rem_euclid(w) as usize]
        };
        let (a, b) = (at(left, top), at(left + 1, top));
        let (c, d) = (at(left, top + 1), at(left + 1, top + 1));
        std::array::from_fn(|i| {
            let upper = a[i] + fx * (b[i] - a[i]);
            let lower = c[i] + fx * (d[i] - c[i]);
            upper + fy * (lower - upper)
        })
    }

    /// The value between pixels, edges repeated.
    pub(crate) fn sample_clamped(&self, x: f32, y: f32) -> [f32; 3] {
        let x = x.clamp(0.0, (self.width - 1) as f32);
        let y = y.clamp(0.0, (self.height - 1) as f32);
        self.sample_repeated(x, y)
    }

    /// Bytes, rounded to nearest, with triangular noise of the given standard deviation.
    pub(crate) fn to_image(&self, noise: f32, rng: &mut Rng) -> Option<RgbImage8> {
        // The sum of two uniform numbers in ±1/2 has a standard deviation of 1/√6.
        let scale = noise * 6f32.sqrt() / 65_536.0;
        let mut data = Vec::with_capacity(3 * self.data.len());
        for pixel in &self.data {
            let (mut bits, mut more) = (0u64, 0u64);
            if noise > 0.0 {
                (bits, more) = (rng.next(), rng.next());
            }
            for (channel, value) in pixel.iter().enumerate() {
                let a = (bits >> (16 * channel)) as u16;
                let b = (more >> (16 * channel)) as u16;
                let grain = if noise > 0.0 {
                    (f32::from(a) + f32::from(b) - 65_535.0) * scale
                } else {
                    0.0
                };
                data.push((value + grain).round().clamp(0.0, 255.0) as u8);
            }
        }
        RgbImage8::new(self.width, self.height, data).ok()
    }

    /// Covers what lies within `radius` of the segment from `a` to `b`, with one pixel of soft edge.
    pub(crate) fn capsule(
        &mut self,
        a: (f32, f32),
        b: (f32, f32),
        radius: f32,
        colour: impl Fn(f32) -> [f32; 3],
    ) {
        let reach = radius + 1.0;
        let clip = |v: f32, most: usize| v.clamp(0.0, most as f32) as usize;
        let columns =
            clip(a.0.min(b.0) - reach, self.width)..clip(a.0.max(b.0) + reach + 1.0, self.width);
        let rows =
            clip(a.1.min(b.1) - reach, self.height)..clip(a.1.max(b.1) + reach + 1.0, self.height);
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let length = (dx * dx + dy * dy).max(1e-6);
        for y in rows {
            for x in columns.clone() {
                let (px, py) = (x as f32 - a.0, y as f32 - a.1);
                let along = ((px * dx + py * dy) / length).clamp(0.0, 1.0);
                let off = (px - along * dx).hypot(py - along * dy);
                let cover = (radius + 0.5 - off).clamp(0.0, 1.0);
                if cover > 0.0 {
                    let colour = colour(along);
                    let pixel = &mut self.data[y * self.width + x];
                    for (value, colour) in pixel.iter_mut().zip(colour) {
                        *value += cover * (colour - *value);
                    }
                }
            }
        }
    }
}

/// Smooth value noise of one wavelength, 0 to 1.
fn value_noise(seed: u64, x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    let (fx, fy) = (smooth(x - left), smooth(y - top));
    let (left, top) = (left as i64 as u64, top as i64 as u64);
    let at = |x: u64, y: u64| {
        let key =
            seed ^ x.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ y.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        (mix(key) >> 40) as f32 / (1u32 << 24) as f32
    };
    let upper = at(left, top) + fx * (at(left.wrapping_add(1), top) - at(left, top));
    let below = top.wrapping_add(1);
    let lower = at(left, below) + fx * (at(left.wrapping_add(1), below) - at(left, below));
    upper + fy * (lower - upper)
}

/// Sum of octaves, each half as long and `persistence` as strong as the one before; about 0 to 1.
fn octaves(seed: u64, x: f32, y: f32, wavelength: f32, persistence: f32, count: u32) -> f32 {
    let (mut sum, mut weight, mut total) = (0.0, 1.0, 0.0);
    let mut scale = 1.0 / wavelength;
    for octave in 0..count {
        sum += weight * value_noise(seed.wrapping_add(u64::from(octave)), x * scale, y * scale);
        total += weight;
        weight *= persistence;
        scale *= 2.0;
    }
    sum / total
}

/// A painted place: a mix of four colours over soft noise, fine texture, and hard-edged shapes.
pub(crate) fn world(rng: &mut Rng, width: usize, height: usize, short: f32) -> Canvas {
    let palette: [[f32; 3]; 4] = std::array::from_fn(|_| rng.colour());
    let (seed_a, seed_b, seed_c) = (rng.next(), rng.next(), rng.next());
    let long = rng.range(0.5, 0.9) * short;
    let persistence = rng.range(0.45, 0.6);
    let (fine, strength) = (rng.range(0.05, 0.1) * short, rng.range(50.0, 120.0));
    let mut canvas = Canvas::filled(width, height, |x, y| {
        let spread = |v: f32| (1.8 * (v - 0.5) + 0.5).clamp(0.0, 1.0);
        let a = spread(octaves(seed_a, x, y, long, persistence, 5));
        let b = spread(octaves(seed_b, x, y, long, persistence, 5));
        let grain = strength * (octaves(seed_c, x, y, fine, 0.7, 4) - 0.5);
        std::array::from_fn(|i| {
            let upper = palette[0][i] + a * (palette[1][i] - palette[0][i]);
            let lower = palette[2][i] + a * (palette[3][i] - palette[2][i]);
            (upper + b * (lower - upper) + grain).clamp(0.0, 255.0)
        })
    });
    let area = (width * height) as f32 / (short * short);
    let count = (rng.range(6.0, 12.0) * area) as usize;
    for _ in 0..count {
        let colour = rng.colour();
        let centre = (rng.range(0.0, width as f32), rng.range(0.0, height as f32));
        let (radius, length) = (rng.range(0.02, 0.08) * short, rng.range(0.0, 0.4) * short);
        let angle = rng.range(0.0, std::f32::consts::TAU);
        let end = (
            centre.0 + length * angle.cos(),
            centre.1 + length * angle.sin(),
        );
        canvas.capsule(centre, end, radius, |_| colour);
    }
    canvas
}
