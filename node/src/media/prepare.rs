//! The first frame: from any picture to the pixels the image encoder gets.
//!
//! | rule | reference | size | filter |
//! |---|---|---|---|
//! | [`Leoma`](ImagePreparation::Leoma) | the subnet's evaluator | asked, aspect not kept | Pillow bicubic |
//! | [`Diffusers`](ImagePreparation::Diffusers) | diffusers' `VideoProcessor` | asked, aspect not kept | Pillow Lanczos |
//! | [`OfficialA14b`](ImagePreparation::OfficialA14b) | official script, I2V-A14B | asked area, aspect kept | torch bicubic |
//! | [`Official5b`](ImagePreparation::Official5b) | official script, TI2V-5B | asked area, aspect nearly kept | Pillow Lanczos, centre crop |
//! | [`CoverCrop`](ImagePreparation::CoverCrop) | none | asked, aspect kept by cropping | Pillow Lanczos, centre crop |
//!
//! A picture that already has the size is used as it is.

use super::error::{MediaError, Result};
use super::image::RgbImage8;
use super::resize::{Filter, resize, resize_torch_bicubic};

/// How a picture becomes the first frame; see the table of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImagePreparation {
    /// The evaluator resizes with Pillow's default before diffusers sees the picture, whose own
    /// resize then has nothing to do.
    Leoma,
    /// What diffusers does with a picture of any size.
    Diffusers,
    /// Size from area and aspect, multiples of 16, rounded down.
    OfficialA14b,
    /// Size from area and aspect, multiples of 32, the better of two candidates.
    Official5b,
    /// Scaled to cover the asked size, the overhang cut off evenly.
    CoverCrop,
}

/// The first frame, ready to become a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedImage {
    /// `[3, height, width]`; in [-1, 1], for torch bicubic slightly beyond.
    pub pixels: Vec<f32>,
    /// Rows.
    pub height: usize,
    /// Pixels per row.
    pub width: usize,
}

impl ImagePreparation {
    /// Spelling in settings and metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leoma => "leoma",
            Self::Diffusers => "diffusers",
            Self::OfficialA14b => "official-a14b",
            Self::Official5b => "official-5b",
            Self::CoverCrop => "cover-crop",
        }
    }

    /// (height, width) of the video for a picture of `image_height` x `image_width` when `height` x
    /// `width` was asked for. The official rules take the product of these two as the wanted area.
    ///
    /// # Errors
    /// [`MediaError::Size`] when a side is zero or would become zero.
    pub fn output_size(
        self,
        image_height: usize,
        image_width: usize,
        height: usize,
        width: usize,
    ) -> Result<(usize, usize)> {
        if image_height == 0 || image_width == 0 || height == 0 || width == 0 {
            return Err(MediaError::size(format!(
                "an image of {image_width}x{image_height} cannot become a frame of {width}x{height}"
            )));
        }
        let area = height as f64 * width as f64;
        let (image_h, image_w) = (image_height as f64, image_width as f64);
        let size = match self {
            Self::Leoma | Self::Diffusers | Self::CoverCrop => (height, width),
            Self::OfficialA14b => official_a14b_size(area, image_h, image_w),
            Self::Official5b => official_5b_size(area, image_h, image_w),
        };
        if size.0 == 0 || size.1 == 0 {
            return Err(MediaError::size(format!(
                "image: {image_width}x{image_height} is too narrow for a frame of {width}x{height} pixels \
                 in all: crop it first or ask for a larger area"
            )));
        }
        Ok(size)
    }
}

/// Makes the first frame by `rule`; `height` and `width` as in [`ImagePreparation::output_size`].
///
/// # Errors
/// [`MediaError::Size`] as there.
pub fn prepare(
    image: &RgbImage8,
    rule: ImagePreparation,
    height: usize,
    width: usize,
) -> Result<PreparedImage> {
    let (height, width) = rule.output_size(image.height(), image.width(), height, width)?;
    let pixels = match rule {
        ImagePreparation::Leoma => to_planes(&resize(image, width, height, Filter::Bicubic)?),
        ImagePreparation::Diffusers => to_planes(&resize(image, width, height, Filter::Lanczos)?),
        ImagePreparation::OfficialA14b => {
            let planes = to_planes(image);
            let size = (image.height(), image.width());
            if size == (height, width) {
                planes
            } else {
                resize_torch_bicubic(&planes, size, (height, width))?
            }
        }
        ImagePreparation::Official5b | ImagePreparation::CoverCrop => {
            to_planes(&cover(image, height, width)?)
        }
    };
    Ok(PreparedImage {
        pixels,
        height,
        width,
    })
}

/// Python's `//` on floats.
fn floor_div(a: f64, b: f64) -> f64 {
    (a / b).floor()
}

/// Latent sides rounded down to even, from the square root of area times aspect. There is no
/// tolerance in these divisions: 832x480 at its own area gives 832x464, because the root comes out
/// just under 480.
fn official_a14b_size(area: f64, image_h: f64, image_w: f64) -> (usize, usize) {
    const STRIDE: f64 = 8.0;
    const PATCH: f64 = 2.0;
    let aspect = image_h / image_w;
    let side = |root: f64| {
        let latent = floor_div(floor_div(root, STRIDE), PATCH) * PATCH;
        (latent * STRIDE) as usize
    };
    (side((area * aspect).sqrt()), side((area / aspect).sqrt()))
}

/// Two candidates, one rounding the width down first and one the height; the nearer aspect wins.
fn official_5b_size(area: f64, image_h: f64, image_w: f64) -> (usize, usize) {
    const STEP: f64 = 32.0;
    let ratio = image_w / image_h;
    let width = (area * ratio).sqrt();
    let height = area / width;
    let down = |side: f64| floor_div(side, STEP) * STEP;

    let width_a = down(width);
    let height_a = down(area / width_a);
    let height_b = down(height);
    let width_b = down(area / height_b);

    let misfit = |w: f64, h: f64| (ratio / (w / h)).max(w / h / ratio);
    // A candidate with an empty side gives an infinite or undefined misfit and loses.
    let a = misfit(width_a, height_a);
    let b = misfit(width_b, height_b);
    let (w, h) = if a < b || b.is_nan() {
        (width_a, height_a)
    } else {
        (width_b, height_b)
    };
    if w.is_finite() && h.is_finite() {
        (h as usize, w as usize)
    } else {
        (0, 0)
    }
}

/// Lanczos to the smallest size that covers height x width, then the middle of it.
fn cover(image: &RgbImage8, height: usize, width: usize) -> Result<RgbImage8> {
    let (image_w, image_h) = (image.width() as f64, image.height() as f64);
    let scale = (width as f64 / image_w).max(height as f64 / image_h);
    // Python's round: halves to even.
    let scaled_w = ((image_w * scale).round_ties_even() as usize).max(width);
    let scaled_h = ((image_h * scale).round_ties_even() as usize).max(height);
    let scaled = resize(image, scaled_w, scaled_h, Filter::Lanczos)?;
    let (left, top) = ((scaled_w - width) / 2, (scaled_h - height) / 2);
    let data = scaled
        .data()
        .chunks_exact(3 * scaled_w)
        .skip(top)
        .take(height)
        .flat_map(|row| row[3 * left..3 * (left + width)].iter().copied())
        .collect();
    RgbImage8::new(width, height, data)
}

/// `[H, W, 3]` bytes to `[3, H, W]` in [-1, 1]: x / 255, doubled, less one, each step rounded to f32
/// (diffusers). The official (x / 255 - 0.5) / 0.5 gives the same bits, since halving is exact.
fn to_planes(image: &RgbImage8) -> Vec<f32> {
    let mut planes = Vec::with_capacity(image.data().len());
    for channel in 0..3 {
        let samples = image.data().iter().skip(channel).step_by(3);
        planes.extend(samples.map(|&byte| 2.0 * (f32::from(byte) / 255.0) - 1.0));
    }
    planes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use super::*;

    /// Input, I2V-A14B at 832x480, at 1280x720, TI2V-5B at 1280x704; all as width, height.
    type Row = [(usize, usize); 4];

    const SIZES: [Row; 6] = [
        [(1920, 1080), (832, 464), (1280, 720), (1248, 704)],
        [(1024, 1024), (624, 624), (960, 960), (960, 928)],
        [(640, 480), (720, 544), (1104, 816), (1088, 800)],
        [(832, 480), (832, 464), (1248, 720), (1248, 704)],
        [(1280, 704), (848, 464), (1280, 704), (1280, 704)],
        [(1216, 832), (752, 512), (1152, 784), (1152, 768)],
    ];

    #[test]
    fn official_sizes() {
        for [(w, h), a480, a720, b704] in SIZES {
            let size = |rule: ImagePreparation, height, width| {
                let (h, w) = rule.output_size(h, w, height, width).unwrap();
                (w, h)
            };
            assert_eq!(
                size(ImagePreparation::OfficialA14b, 480, 832),
                a480,
                "{w}x{h} at 480p"
            );
            assert_eq!(
                size(ImagePreparation::OfficialA14b, 720, 1280),
                a720,
                "{w}x{h} at 720p"
            );
            assert_eq!(
                size(ImagePreparation::Official5b, 704, 1280),
                b704,
                "{w}x{h} 5B"
            );
        }
    }

    #[test]
    fn needles_are_refused() {
        for rule in [ImagePreparation::OfficialA14b, ImagePreparation::Official5b] {
            assert!(rule.output_size(1, 100_000, 480, 832).is_err(), "{rule:?}");
            assert!(rule.output_size(100_000, 1, 480, 832).is_err(), "{rule:?}");
        }
        assert!(ImagePreparation::Leoma.output_size(10, 10, 0, 832).is_err());
    }

    #[test]
    fn a_picture_of_the_asked_size_is_left_alone() {
        let data: Vec<u8> = (0..32 * 32 * 3).map(|i| (i * 7 % 256) as u8).collect();
        let image = RgbImage8::new(32, 32, data).unwrap();
        for rule in [
            ImagePreparation::Leoma,
            ImagePreparation::Diffusers,
            ImagePreparation::OfficialA14b,
            ImagePreparation::Official5b,
            ImagePreparation::CoverCrop,
        ] {
            let prepared = prepare(&image, rule, 32, 32).unwrap();
            assert_eq!((prepared.height, prepared.width), (32, 32), "{rule:?}");
            assert_eq!(prepared.pixels, to_planes(&image), "{rule:?}");
        }
    }

    #[test]
    fn cover_cuts_evenly() {
        // Three vertical stripes; covering a square keeps the middle of the wide picture.
        let row: Vec<u8> = [10u8, 128, 250]
            .iter()
            .flat_map(|&v| vec![v; 3 * 16])
            .collect();
        let image = RgbImage8::new(48, 16, row.repeat(16)).unwrap();
        let prepared = prepare(&image, ImagePreparation::CoverCrop, 16, 16).unwrap();
        let middle = 2.0 * (128.0f32 / 255.0) - 1.0;
        assert!(prepared.pixels.iter().all(|&v| v == middle));
        // Scaled as well as cut.
        let prepared = prepare(&image, ImagePreparation::CoverCrop, 30, 40).unwrap();
        assert_eq!(prepared.pixels.len(), 3 * 30 * 40);
    }
}
