//! Frames on the page: small pictures inside it, and what changes from one to the next.

use crate::judge::jpeg;
use crate::media::RgbImage8;
use crate::media::resize::{Filter, resize};

/// Pixels per row and column that are looked at for the courses.
const GRID: usize = 96;

/// A picture as a data URL, at most `widest` pixels wide. None when it cannot be encoded.
pub(super) fn picture(image: &RgbImage8, widest: usize) -> Option<String> {
    let (width, height) = (image.width(), image.height());
    let encoded = if width <= widest {
        jpeg::encode(image)
    } else {
        let rows = (height * widest).div_ceil(width).max(1);
        resize(image, widest, rows, Filter::Bicubic).and_then(|small| jpeg::encode(&small))
    };
    Some(jpeg::data_url("image/jpeg", &encoded.ok()?))
}

/// Mean brightness of every frame, and mean difference of every frame to the one before it, in levels of 0 to 255.
///
/// For eyes only: the signals that gates rest on are measured on all pixels.
pub(super) fn courses(frames: &[RgbImage8]) -> (Vec<f64>, Vec<f64>) {
    let grids: Vec<Vec<f64>> = frames.iter().map(grid).collect();
    let mean = |sum: f64, grid: &[f64]| sum / grid.len().max(1) as f64;
    let brightness = grids.iter().map(|grid| mean(grid.iter().sum(), grid));
    let change = grids.windows(2).map(|pair| match pair {
        [before, after] => {
            let apart = before.iter().zip(after).map(|(a, b)| (a - b).abs());
            mean(apart.sum(), after)
        }
        _ => 0.0,
    });
    (brightness.collect(), change.collect())
}

/// Luma (BT.601) of evenly spread pixels.
fn grid(frame: &RgbImage8) -> Vec<f64> {
    let step = |side: usize| side.div_ceil(GRID).max(1);
    let rows = frame.data().chunks_exact(3 * frame.width());
    rows.step_by(step(frame.height()))
        .flat_map(|row| row.chunks_exact(3).step_by(step(frame.width())))
        .map(|pixel| match *pixel {
            [r, g, b] => 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b),
            _ => 0.0,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plain(width: usize, height: usize, level: u8) -> RgbImage8 {
        RgbImage8::new(width, height, vec![level; width * height * 3]).unwrap()
    }

    #[test]
    fn courses_are_levels() {
        let frames = [plain(300, 7, 10), plain(300, 7, 10), plain(300, 7, 40)];
        let (brightness, change) = courses(&frames);
        let near = |found: &[f64], wanted: &[f64]| {
            found.len() == wanted.len()
                && found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-9)
        };
        assert!(near(&brightness, &[10.0, 10.0, 40.0]), "{brightness:?}");
        assert!(near(&change, &[0.0, 30.0]), "{change:?}");
        assert_eq!(courses(&[]), (Vec::new(), Vec::new()));
    }

    #[test]
    fn pictures_are_small_and_whole() {
        let url = picture(&plain(101, 57, 90), 40).unwrap();
        let encoded = url.strip_prefix("data:image/jpeg;base64,").unwrap();
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .unwrap();
        let image = crate::media::decode(&bytes, &crate::media::ImageLimits::default()).unwrap();
        assert_eq!((image.width(), image.height()), (40, 23));
        assert!(picture(&plain(16, 16, 0), 40).is_some());
    }
}
