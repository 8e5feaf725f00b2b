//! Clips made by code, one generator per kind of motion.

use std::f32::consts::TAU;

use super::paint::{Canvas, Rng, world};
use crate::media::RgbImage8;

/// A kind of motion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A slow camera movement, 0.4 to 1.2 % of the short side per frame.
    Pan,
    /// A jointed figure that walks before a fixed ground.
    Articulated,
    /// A fixed ground with one small thing that swings, and little grain.
    Static,
    /// A light that flashes: gain 0.55 to 0.7, every 3 to 6 frames.
    Strobe,
    /// Twelve travelling waves with highlights.
    Water,
    /// A fast camera movement, 4 to 8 % of the short side per frame.
    FastPan,
}

impl Kind {
    /// Every kind, in the order of tables.
    pub const ALL: [Self; 6] = [
        Self::Pan,
        Self::Articulated,
        Self::Static,
        Self::Water,
        Self::FastPan,
        Self::Strobe,
    ];

    /// Spelling in tables.
    pub fn key(self) -> &'static str {
        match self {
            Self::Pan => "pan",
            Self::Articulated => "articulated motion",
            Self::Static => "static scene",
            Self::Strobe => "natural strobe",
            Self::Water => "water",
            Self::FastPan => "fast pan",
        }
    }
}

/// Size and length of generated clips.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Pixels per row, 64 or more.
    pub width: usize,
    /// Rows, 64 or more.
    pub height: usize,
    /// Frames, 8 or more.
    pub frames: usize,
    /// Frames per second.
    pub fps: f64,
}

impl Shape {
    /// The shape with every field at least as large as the generators need.
    pub fn normalised(self) -> Self {
        Self {
            width: self.width.max(64),
            height: self.height.max(64),
            frames: self.frames.max(8),
            fps: if self.fps.is_finite() && self.fps > 0.0 {
                self.fps
            } else {
                16.0
            },
        }
    }

    fn short(&self) -> f32 {
        self.width.min(self.height) as f32
    }
}

/// A clip with its conditioning image: frame 0 without grain.
#[derive(Debug, Clone)]
pub struct GeneratedClip {
    /// The frames.
    pub frames: Vec<RgbImage8>,
    /// The conditioning image.
    pub first: RgbImage8,
    /// Frames per second.
    pub fps: f64,
}

/// Standard deviation of the grain of a camera, grey levels.
const GRAIN: f32 = 1.2;
/// The grain of a clean static shot.
const LITTLE_GRAIN: f32 = 0.35;

/// Makes a clip. The same kind, seed and shape give the same bytes.
///
/// `None` only for shapes that [`Shape::normalised`] would change.
pub fn generate(kind: Kind, seed: u64, shape: &Shape) -> Option<GeneratedClip> {
    if shape.normalised() != *shape {
        return None;
    }
    let mut rng = Rng::new(seed.wrapping_mul(64).wrapping_add(kind as u64));
    let grain = if kind == Kind::Static {
        LITTLE_GRAIN
    } else {
        GRAIN
    };
    let mut scene = Scene::new(kind, &mut rng, shape);
    let mut first = None;
    let mut frames = Vec::with_capacity(shape.frames);
    for t in 0..shape.frames {
        let canvas = scene.paint(t as f32);
        if t == 0 {
            first = canvas.to_image(0.0, &mut rng);
        }
        frames.push(canvas.to_image(grain, &mut rng)?);
    }
    Some(GeneratedClip {
        frames,
        first: first?,
        fps: shape.fps,
    })
}

/// What a clip shows; frame number in, picture out.
enum Scene {
    Camera(Camera),
    Figure(Box<Figure>),
    Pendulum(Pendulum),
    Flashes(Flashes),
    Water(Water),
}

impl Scene {
    fn new(kind: Kind, rng: &mut Rng, shape: &Shape) -> Self {
        match kind {
            Kind::Pan => Self::Camera(Camera::new(rng, shape, (0.004, 0.012))),
            Kind::FastPan => Self::Camera(Camera::new(rng, shape, (0.04, 0.08))),
            Kind::Articulated => Self::Figure(Box::new(Figure::new(rng, shape))),
            Kind::Static => Self::Pendulum(Pendulum::new(rng, shape)),
            Kind::Strobe => Self::Flashes(Flashes::new(rng, shape)),
            Kind::Water => Self::Water(Water::new(rng, shape)),
        }
    }

    fn paint(&mut self, t: f32) -> Canvas {
        match self {
            Self::Camera(scene) => scene.paint(t),
            Self::Figure(scene) => scene.paint(t),
            Self::Pendulum(scene) => scene.paint(t),
            Self::Flashes(scene) => scene.paint(t),
            Self::Water(scene) => scene.paint(t),
        }
    }
}

/// A place seen by a camera that moves evenly, with a slight shake.
struct Camera {
    place: Canvas,
    size: (usize, usize),
    speed: (f32, f32),
    start: (f32, f32),
    shake: [f32; 4],
}

impl Camera {
    fn new(rng: &mut Rng, shape: &Shape, speed: (f32, f32)) -> Self {
        let short = shape.short();
        let length = rng.range(speed.0, speed.1) * short;
        let angle = rng.range(0.0, TAU);
        Self {
            place: world(rng, 2 * shape.width, 2 * shape.height, short),
            size: (shape.width, shape.height),
            speed: (length * angle.cos(), length * angle.sin()),
            start: (rng.range(0.0, short), rng.range(0.0, short)),
            shake: std::array::from_fn(|_| rng.range(0.3, 0.9)),
        }
    }

    fn paint(&self, t: f32) -> Canvas {
        let [a, b, c, d] = self.shake;
        let dx = self.start.0 + t * self.speed.0 + 0.3 * (a * t + 6.0 * b).sin();
        let dy = self.start.1 + t * self.speed.1 + 0.3 * (c * t + 6.0 * d).sin();
        Canvas::filled(self.size.0, self.size.1, |x, y| {
            self.place.sample_repeated(x + dx, y + dy)
        })
    }
}

/// A figure of capsules whose limbs swing while it walks across.
struct Figure {
    ground: Canvas,
    colours: [[f32; 3]; 6],
    start: f32,
    walk: f32,
    pace: f32,
    swing: [f32; 4],
    phase: f32,
}

impl Figure {
    fn new(rng: &mut Rng, shape: &Shape) -> Self {
        let width = shape.width as f32;
        let direction = rng.sign();
        Self {
            ground: world(rng, shape.width, shape.height, shape.short()),
            colours: std::array::from_fn(|_| rng.colour()),
            start: width * (0.5 - 0.2 * direction),
            walk: direction * width * rng.range(0.002, 0.006),
            pace: TAU * rng.range(0.8, 1.6) / shape.fps as f32,
            swing: std::array::from_fn(|_| rng.range(0.35, 0.8)),
            phase: rng.range(0.0, TAU),
        }
    }

    fn paint(&self, t: f32) -> Canvas {
        let mut canvas = self.ground.clone();
        let (height, width) = (canvas.height as f32, canvas.width as f32);
        let size = 0.75 * height.min(width);
        // Walks between the edges and turns there.
        let way = (self.start + t * self.walk).rem_euclid(2.0 * width);
        let x = if way > width { 2.0 * width - way } else { way };
        let step = (self.pace * t + self.phase).sin();
        let hip = (
            x,
            0.55 * height + 0.015 * size * (2.0 * self.pace * t).cos(),
        );
        let neck = (hip.0, hip.1 - 0.32 * size);
        let limb = |from: (f32, f32), angle: f32, length: f32| {
            (from.0 + length * angle.sin(), from.1 + length * angle.cos())
        };
        let striped = |colour: [f32; 3]| {
            move |along: f32| {
                let stripe = if (along * 5.0) as i32 % 2 == 0 {
                    1.0
                } else {
                    0.8
                };
                colour.map(|v| v * stripe)
            }
        };
        for (side, sign) in [(0usize, 1.0f32), (1, -1.0)] {
            let thigh = sign * self.swing[side] * step;
            let knee = limb(hip, thigh, 0.23 * size);
            let foot = limb(knee, thigh - 0.35 * (1.0 - sign * step), 0.23 * size);
            canvas.capsule(hip, knee, 0.05 * size, striped(self.colours[side]));
            canvas.capsule(knee, foot, 0.04 * size, striped(self.colours[side]));
            let upper = -sign * self.swing[2 + side] * step;
            let elbow = limb(neck, upper, 0.18 * size);
            let hand = limb(elbow, upper + 0.5, 0.17 * size);
            canvas.capsule(neck, elbow, 0.035 * size, striped(self.colours[2 + side]));
            canvas.capsule(elbow, hand, 0.03 * size, striped(self.colours[2 + side]));
        }
        canvas.capsule(hip, neck, 0.08 * size, striped(self.colours[4]));
        let head = (neck.0, neck.1 - 0.12 * size);
        canvas.capsule(head, head, 0.075 * size, |_| self.colours[5]);
        canvas
    }
}

/// A still place with one disc on a string, under light that drifts by a level and a half.
struct Pendulum {
    ground: Canvas,
    colour: [f32; 3],
    pivot: (f32, f32),
    length: f32,
    radius: f32,
    swing: f32,
    pace: f32,
}

impl Pendulum {
    fn new(rng: &mut Rng, shape: &Shape) -> Self {
        let (short, width) = (shape.short(), shape.width as f32);
        Self {
            ground: world(rng, shape.width, shape.height, short),
            colour: rng.colour(),
            pivot: (rng.range(0.3, 0.7) * width, 0.05 * shape.height as f32),
            length: rng.range(0.4, 0.7) * short,
            radius: rng.range(0.04, 0.07) * short,
            swing: rng.range(0.2, 0.45),
            pace: TAU * rng.range(0.4, 0.9) / shape.fps as f32,
        }
    }

    fn paint(&self, t: f32) -> Canvas {
        let mut canvas = self.ground.clone();
        let angle = self.swing * (self.pace * t).cos();
        let bob = (
            self.pivot.0 + self.length * angle.sin(),
            self.pivot.1 + self.length * angle.cos(),
        );
        canvas.capsule(self.pivot, bob, 0.15 * self.radius, |_| [20.0; 3]);
        canvas.capsule(bob, bob, self.radius, |_| self.colour);
        let light = 1.5 * (0.11 * t).sin();
        for pixel in &mut canvas.data {
            *pixel = pixel.map(|v| v + light);
        }
        canvas
    }
}

/// A figure under a light that goes on and off.
struct Flashes {
    scene: Figure,
    gain: f32,
    period: usize,
    lit: usize,
}

impl Flashes {
    fn new(rng: &mut Rng, shape: &Shape) -> Self {
        let period = 3 + rng.below(4);
        Self {
            scene: Figure::new(rng, shape),
            gain: rng.range(0.55, 0.7),
            period,
            lit: 1 + rng.below(period - 1),
        }
    }

    fn paint(&self, t: f32) -> Canvas {
        let mut canvas = self.scene.paint(t);
        if t as usize % self.period >= self.lit {
            for pixel in &mut canvas.data {
                *pixel = pixel.map(|v| v * self.gain);
            }
        }
        canvas
    }
}

/// One travelling wave: wave numbers, speed, phase, height.
struct Wave {
    kx: f32,
    ky: f32,
    speed: f32,
    phase: f32,
    height: f32,
}

/// A sum of waves, coloured by height, with highlights on steep slopes.
struct Water {
    size: (usize, usize),
    waves: Vec<Wave>,
    deep: [f32; 3],
    bright: [f32; 3],
    glint: f32,
}

impl Water {
    fn new(rng: &mut Rng, shape: &Shape) -> Self {
        let short = shape.short();
        let wind = rng.range(0.0, TAU);
        let waves = (0..12)
            .map(|_| {
                let length = short * (rng.range(0.03f32.ln(), 0.5f32.ln())).exp();
                let k = TAU / length;
                let angle = wind + rng.range(-1.1, 1.1);
                Wave {
                    kx: k * angle.cos(),
                    ky: k * angle.sin(),
                    // Deep water: speed grows with the root of the wave number.
                    speed: 0.6 * (0.25 * short / length).sqrt() * rng.range(0.8, 1.25),
                    phase: rng.range(0.0, TAU),
                    height: (length / short).powf(0.6),
                }
            })
            .collect();
        Self {
            size: (shape.width, shape.height),
            waves,
            deep: [
                rng.range(10.0, 60.0),
                rng.range(40.0, 100.0),
                rng.range(70.0, 140.0),
            ],
            bright: [
                rng.range(90.0, 170.0),
                rng.range(140.0, 210.0),
                rng.range(150.0, 230.0),
            ],
            glint: rng.range(0.9, 1.3),
        }
    }

    fn paint(&self, t: f32) -> Canvas {
        let total: f32 = self.waves.iter().map(|wave| wave.height).sum();
        Canvas::filled(self.size.0, self.size.1, |x, y| {
            let (mut height, mut slope) = (0f32, 0f32);
            for wave in &self.waves {
                let angle = wave.kx * x + wave.ky * y - wave.speed * t + wave.phase;
                let (sine, cosine) = angle.sin_cos();
                height += wave.height * sine;
                slope += wave.height * wave.kx * cosine;
            }
            let level = 0.5 + 1.6 * height / total;
            let light = 60.0 * (slope - self.glint).clamp(0.0, 1.0);
            std::array::from_fn(|i| {
                (self.deep[i] + level.clamp(0.0, 1.0) * (self.bright[i] - self.deep[i]) + light)
                    .clamp(0.0, 255.0)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SHAPE: Shape = Shape {
        width: 96,
        height: 64,
        frames: 9,
        fps: 16.0,
    };

    #[test]
    fn a_seed_names_a_clip() {
        for kind in Kind::ALL {
            let clip = generate(kind, 3, &SHAPE).unwrap();
            assert_eq!(clip.frames.len(), 9);
            assert_eq!(clip.frames, generate(kind, 3, &SHAPE).unwrap().frames);
            assert_ne!(clip.frames, generate(kind, 4, &SHAPE).unwrap().frames);
            // Something moves in every kind.
            assert_ne!(clip.frames[0], clip.frames[8], "{}", kind.key());
        }
    }

    #[test]
    fn shapes_that_generators_cannot_paint_are_refused() {
        let small = Shape { width: 20, ..SHAPE };
        assert!(generate(Kind::Pan, 1, &small).is_none());
        assert!(generate(Kind::Pan, 1, &small.normalised()).is_some());
        let odd = Shape {
            fps: f64::NAN,
            ..SHAPE
        };
        assert_eq!(odd.normalised().fps, 16.0);
    }
}
