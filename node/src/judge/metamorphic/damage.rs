//! Damages of fixed strength, done to a clip by code.

use super::clips::GeneratedClip;
use super::jpeg;
use super::paint::{Canvas, Rng};
use super::writing;
use crate::media::RgbImage8;

/// What is done to a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Damage {
    /// The conditioning image belongs to another clip.
    WrongFirst,
    /// The conditioning image is pasted before another clip.
    PastedFirst,
    /// The whole clip is cropped.
    Zoom,
    /// The colours turn.
    Hue,
    /// Brightness jumps.
    Flicker,
    /// Another clip takes over at once.
    Cut,
    /// Everything is soft.
    Blur,
    /// JPEG of very low quality.
    Blocks,
    /// Frame 0 repeated.
    Freeze,
    /// The second half stands still.
    HalfFreeze,
    /// Every frame twice.
    Doubled,
    /// Frames out of order.
    Shuffle,
    /// Another clip takes over slowly.
    Dissolve,
    /// Frame 0 with a zoom laid over it.
    ZoomedStill,
    /// Writing over the picture.
    Overlay,
    /// Played backwards.
    Reversed,
}

impl Damage {
    /// Every damage, in the order of tables.
    pub const ALL: [Self; 16] = [
        Self::WrongFirst,
        Self::PastedFirst,
        Self::Zoom,
        Self::Hue,
        Self::Flicker,
        Self::Cut,
        Self::Blur,
        Self::Blocks,
        Self::Freeze,
        Self::HalfFreeze,
        Self::Doubled,
        Self::Shuffle,
        Self::Dissolve,
        Self::ZoomedStill,
        Self::Overlay,
        Self::Reversed,
    ];

    /// Name in tables.
    pub fn key(self) -> &'static str {
        match self {
            Self::WrongFirst => "wrong first frame",
            Self::PastedFirst => "pasted first frame",
            Self::Zoom => "15 % zoom",
            Self::Hue => "hue shift",
            Self::Flicker => "flicker",
            Self::Cut => "hard cut",
            Self::Blur => "blur",
            Self::Blocks => "blocking",
            Self::Freeze => "freeze",
            Self::HalfFreeze => "half freeze",
            Self::Doubled => "doubled frames",
            Self::Shuffle => "shuffle",
            Self::Dissolve => "dissolve",
            Self::ZoomedStill => "zoomed still",
            Self::Overlay => "text overlay",
            Self::Reversed => "reversed",
        }
    }

    /// Its strength, in words.
    pub fn strength(self) -> &'static str {
        match self {
            Self::WrongFirst => "conditioning image of another clip",
            Self::PastedFirst => "frame 0 = conditioning image, all others from another clip",
            Self::Zoom => "every frame cropped to 1/1.15 about its centre, bilinear",
            Self::Hue => "chroma turned by 60 degrees in YCbCr",
            Self::Flicker => "plus or minus 10 levels per frame, sign at random",
            Self::Cut => "another clip from the middle on",
            Self::Blur => "Gaussian, sigma 2.5 px at a short side of 192, scaled with it",
            Self::Blocks => "JPEG, quality 8, 4:2:0",
            Self::Freeze => "frame 0 repeated, 15 % of samples off by one",
            Self::HalfFreeze => "the middle frame repeated to the end, 15 % of samples off by one",
            Self::Doubled => "every second frame is the one before, 15 % of samples off by one",
            Self::Shuffle => "all frames but frame 0 in random order",
            Self::Dissolve => "linear blend into another clip over 16 frames in the middle",
            Self::ZoomedStill => {
                "frame 0 zoomed evenly to 1.2 about its centre, fresh grain of 1 level"
            }
            Self::Overlay => {
                "white letters with dark rim, 9 % of the height, two lines, on every frame"
            }
            Self::Reversed => "frames 0 to T-1 in reverse, conditioning image replaced likewise",
        }
    }

    /// Whether it needs a second clip.
    pub fn needs_other(self) -> bool {
        matches!(
            self,
            Self::WrongFirst | Self::PastedFirst | Self::Cut | Self::Dissolve
        )
    }
}

/// Frames of a dissolve.
const DISSOLVE: usize = 16;
/// Share of samples a codec leaves off by one when a frame repeats.
const OFF_BY_ONE: f32 = 0.15;

/// A damaged copy. `other` is a clip of the same shape, taken where [`Damage::needs_other`].
///
/// `None` when the shapes differ.
pub fn apply(
    damage: Damage,
    clip: &GeneratedClip,
    other: &GeneratedClip,
    seed: u64,
) -> Option<GeneratedClip> {
    let same_shape = other.frames.len() == clip.frames.len()
        && other.first.width() == clip.first.width()
        && other.first.height() == clip.first.height();
    if !same_shape {
        return None;
    }
    let mut rng = Rng::new(seed ^ ((damage as u64 + 1) << 40));
    let mut out = clip.clone();
    let frames = clip.frames.len();
    match damage {
        Damage::WrongFirst => out.first = other.first.clone(),
        Damage::PastedFirst => out.frames[1..].clone_from_slice(&other.frames[1..]),
        Damage::Zoom => each(&mut out, |frame| zoomed(frame, 1.15, 0.0, &mut rng))?,
        Damage::Hue => each(&mut out, turned)?,
        Damage::Flicker => each(&mut out, |frame| {
            let change = 10.0 * rng.sign();
            mapped(frame, |pixel| pixel.map(|v| v + change))
        })?,
        Damage::Cut => out.frames[frames / 2..].clone_from_slice(&other.frames[frames / 2..]),
        Damage::Blur => {
            let short = clip.first.width().min(clip.first.height());
            let weights = gaussian(2.5 * short as f32 / 192.0);
            each(&mut out, |frame| blurred(frame, &weights))?;
        }
        Damage::Blocks => each(&mut out, |frame| jpeg::roundtrip(frame, 8))?,
        Damage::Freeze => {
            for index in 1..frames {
                out.frames[index] = recoded(&clip.frames[0], &mut rng)?;
            }
        }
        Damage::HalfFreeze => {
            for index in frames / 2 + 1..frames {
                out.frames[index] = recoded(&clip.frames[frames / 2], &mut rng)?;
            }
        }
        Damage::Doubled => {
            for index in (1..frames).step_by(2) {
                out.frames[index] = recoded(&clip.frames[index - 1], &mut rng)?;
            }
        }
        Damage::Shuffle => {
            // Fisher–Yates.
            for index in (2..frames).rev() {
                out.frames.swap(index, 1 + rng.below(index));
            }
        }
        Damage::Dissolve => {
            let start = frames.saturating_sub(DISSOLVE) / 2;
            for index in start..frames {
                let share = ((index - start + 1) as f32 / DISSOLVE as f32).min(1.0);
                out.frames[index] = blended(&clip.frames[index], &other.frames[index], share)?;
            }
        }
        Damage::ZoomedStill => {
            for index in 1..frames {
                let factor = 1.0 + 0.2 * index as f32 / (frames - 1) as f32;
                out.frames[index] = zoomed(&clip.frames[0], factor, 1.0, &mut rng)?;
            }
        }
        Damage::Overlay => each(&mut out, |frame| {
            let mut canvas = Canvas::from_image(frame);
            writing::overlay(&mut canvas);
            canvas.to_image(0.0, &mut rng)
        })?,
        Damage::Reversed => {
            out.frames.reverse();
            out.first = out.frames[0].clone();
        }
    }
    Some(out)
}

fn each(
    clip: &mut GeneratedClip,
    mut change: impl FnMut(&RgbImage8) -> Option<RgbImage8>,
) -> Option<()> {
    for frame in &mut clip.frames {
        *frame = change(frame)?;
    }
    Some(())
}

fn mapped(frame: &RgbImage8, change: impl Fn([f32; 3]) -> [f32; 3]) -> Option<RgbImage8> {
    let mut canvas = Canvas::from_image(frame);
    for pixel in &mut canvas.data {
        *pixel = change(*pixel);
    }
    canvas.to_image(0.0, &mut Rng::new(0))
}

fn zoomed(frame: &RgbImage8, factor: f32, grain: f32, rng: &mut Rng) -> Option<RgbImage8> {
    let source = Canvas::from_image(frame);
    let (cx, cy) = (
        0.5 * (source.width - 1) as f32,
        0.5 * (source.height - 1) as f32,
    );
    Canvas::filled(source.width, source.height, |x, y| {
        source.sample_clamped(cx + (x - cx) / factor, cy + (y - cy) / factor)
    })
    .to_image(grain, rng)
}

fn turned(frame: &RgbImage8) -> Option<RgbImage8> {
    let (sine, cosine) = 60f32.to_radians().sin_cos();
    mapped(frame, |rgb| {
        let [y, cb, cr] = jpeg::to_ycc(rgb);
        jpeg::to_rgb([y, cosine * cb - sine * cr, sine * cb + cosine * cr])
    })
}

fn blended(a: &RgbImage8, b: &RgbImage8, share: f32) -> Option<RgbImage8> {
    let mut canvas = Canvas::from_image(a);
    for (pixel, other) in canvas.data.iter_mut().zip(b.data().chunks_exact(3)) {
        for (value, other) in pixel.iter_mut().zip(other) {
            *value += share * (f32::from(*other) - *value);
        }
    }
    canvas.to_image(0.0, &mut Rng::new(0))
}

/// A repeated frame as a codec leaves it.
fn recoded(frame: &RgbImage8, rng: &mut Rng) -> Option<RgbImage8> {
    let data = frame
        .data()
        .iter()
        .map(|&v| {
            if rng.unit() >= OFF_BY_ONE {
                v
            } else if rng.sign() > 0.0 {
                v.saturating_add(1)
            } else {
                v.saturating_sub(1)
            }
        })
        .collect();
    RgbImage8::new(frame.width(), frame.height(), data).ok()
}

fn gaussian(sigma: f32) -> Vec<f32> {
    let reach = (3.0 * sigma).ceil() as i32;
    let weights: Vec<f32> = (-reach..=reach)
        .map(|i| (-0.5 * (i as f32 / sigma).powi(2)).exp())
        .collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

fn blurred(frame: &RgbImage8, weights: &[f32]) -> Option<RgbImage8> {
    let source = Canvas::from_image(frame);
    let reach = weights.len() / 2;
    let (width, height) = (source.width, source.height);
    let pass = |from: &Canvas, along_x: bool| {
        let mut to = Canvas::new(width, height);
        for at in 0..width * height {
            let (x, y) = (at % width, at / width);
            let mut sum = [0f32; 3];
            for (offset, weight) in weights.iter().enumerate() {
                let shifted = |v: usize, most: usize| (v + offset).saturating_sub(reach).min(most);
                let source = if along_x {
                    from.data[y * width + shifted(x, width - 1)]
                } else {
                    from.data[shifted(y, height - 1) * width + x]
                };
                for (sum, value) in sum.iter_mut().zip(source) {
                    *sum += weight * value;
                }
            }
            to.data[at] = sum;
        }
        to
    };
    pass(&pass(&source, true), false).to_image(0.0, &mut Rng::new(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::clips::{Kind, Shape, generate};
    use super::*;

    #[test]
    fn every_damage_changes_what_it_says_and_keeps_the_shape() {
        let shape = Shape {
            width: 96,
            height: 64,
            frames: 18,
            fps: 16.0,
        };
        let clip = generate(Kind::Pan, 1, &shape).unwrap();
        let other = generate(Kind::Water, 2, &shape).unwrap();
        for damage in Damage::ALL {
            let damaged = apply(damage, &clip, &other, 5).unwrap();
            assert_eq!(damaged.frames.len(), clip.frames.len());
            let moved = damaged.frames != clip.frames || damaged.first != clip.first;
            assert!(moved, "{}", damage.key());
            let again = apply(damage, &clip, &other, 5).unwrap();
            assert_eq!(damaged.frames, again.frames, "{}", damage.key());
        }
        let shuffled = apply(Damage::Shuffle, &clip, &other, 5).unwrap();
        assert_eq!(shuffled.frames[0], clip.frames[0]);
        for frame in &clip.frames {
            assert!(shuffled.frames.contains(frame));
        }
        let short = generate(Kind::Pan, 1, &Shape { frames: 9, ..shape }).unwrap();
        assert!(apply(Damage::Cut, &clip, &short, 5).is_none());
    }
}
