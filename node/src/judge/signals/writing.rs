//! Where writing lies over a clip: what `overlay` measures, tile by tile.

use super::plane::{AreaResize, Plane, luma, working_size};
use super::texture::OverlayDetector;
use super::{MIN_SIDE, OVERLAY_FRAMES};
use crate::judge::clip::Clip;

/// Side of a tile, in pixels of the measured size.
const TILE: usize = 16;
/// Pixels beyond a tile that are looked at: as far as the detector looks for edges that it knows.
const MARGIN: usize = 2;
/// Share of a tile's pixels that makes it a tile with writing.
const LEAST: f64 = 0.01;

/// The area of a clip that has writing over it, which the conditioning image does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writing {
    columns: usize,
    rows: usize,
    /// Tiles with writing in them or beside them.
    tiles: Vec<bool>,
    /// Width and height that the tiles were measured on.
    measured: (usize, usize),
}

impl Writing {
    /// Looks at the frames that `overlay` looks at. Nothing is found on a clip that has no signals.
    pub fn of(clip: &Clip<'_>) -> Self {
        let Some(first) = clip.frames.first() else {
            return Self::none();
        };
        let native = (first.width(), first.height());
        let work = working_size(native.0, native.1);
        let own = (clip.first.width(), clip.first.height());
        if [work.0, work.1, own.0, own.1].into_iter().min() < Some(MIN_SIDE) {
            return Self::none();
        }
        let (columns, rows) = (work.0.div_ceil(TILE), work.1.div_ceil(TILE));
        let places: Vec<_> = (0..columns * rows)
            .map(|tile| Place::new(tile % columns, tile / columns, work))
            .collect();
        let mut detectors: Vec<_> = places
            .iter()
            .map(|place| OverlayDetector::new(place.width, place.height))
            .collect();
        let resize = AreaResize::new(native, work);
        let stride = clip.frames.len().div_ceil(OVERLAY_FRAMES).max(1);
        let sized = clip
            .frames
            .iter()
            .filter(|frame| (frame.width(), frame.height()) == native);
        for frame in sized.step_by(stride) {
            let plane = resize.apply(&luma(frame));
            for (detector, place) in detectors.iter_mut().zip(&places) {
                detector.add(&place.cut(&plane));
            }
        }
        let reference = AreaResize::new(own, work).apply(&luma(clip.first));
        let found: Vec<_> = detectors
            .iter()
            .zip(&places)
            .map(|(detector, place)| detector.share(&place.cut(&reference)) > LEAST)
            .collect();
        Self {
            columns,
            rows,
            tiles: widened(&found, columns),
            measured: work,
        }
    }

    fn none() -> Self {
        Self {
            columns: 0,
            rows: 0,
            tiles: Vec::new(),
            measured: (0, 0),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        !self.tiles.contains(&true)
    }

    /// Whether the pixel at (`x`, `y`) of a picture of `size`, width and height, belongs to the area.
    pub fn covers(&self, (x, y): (usize, usize), size: (usize, usize)) -> bool {
        let tile = |at: usize, side: usize, measured: usize, tiles: usize| {
            (at * measured / side.max(1) / TILE).min(tiles.saturating_sub(1))
        };
        let column = tile(x, size.0, self.measured.0, self.columns);
        let row = tile(y, size.1, self.measured.1, self.rows);
        self.tiles
            .get(row * self.columns + column)
            .copied()
            .unwrap_or(false)
    }
}

/// A tile with its margin.
struct Place {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl Place {
    fn new(column: usize, row: usize, picture: (usize, usize)) -> Self {
        let span = |tile: usize, side: usize| {
            let start = (tile * TILE).saturating_sub(MARGIN);
            (start, ((tile + 1) * TILE + MARGIN).min(side) - start)
        };
        let ((left, width), (top, height)) = (span(column, picture.0), span(row, picture.1));
        Self {
            left,
            top,
            width,
            height,
        }
    }

    fn cut(&self, plane: &Plane) -> Plane {
        let rows = (self.top..self.top + self.height).map(|y| plane.row(y));
        let data = rows.flat_map(|row| &row[self.left..self.left + self.width]);
        Plane {
            width: self.width,
            height: self.height,
            data: data.copied().collect(),
        }
    }
}

/// With the neighbours of every tile: the rim of a letter can be in the next one.
fn widened(found: &[bool], columns: usize) -> Vec<bool> {
    let rows = found.len() / columns.max(1);
    let near = |at: usize, most: usize| at.saturating_sub(1)..(at + 2).min(most);
    (0..found.len())
        .map(|tile| {
            let (column, row) = (tile % columns, tile / columns);
            near(row, rows)
                .any(|row| near(column, columns).any(|column| found[row * columns + column]))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::media::RgbImage8;

    /// Soft stripes that move, and from (30, 20) to (70, 40) perhaps letters that stay.
    fn frame(shift: usize, written: bool) -> RgbImage8 {
        let pixels = (0..128 * 96).flat_map(|at| {
            let (x, y) = (at % 128, at / 128);
            let inside = (30..70).contains(&x) && (20..40).contains(&y);
            let level = match (written && inside, x % 8 < 4 && y % 10 < 7) {
                (true, true) => 250,
                (true, false) => 5,
                (false, _) => (60.0 + 50.0 * ((x + shift) as f64 / 5.0).sin()) as u8,
            };
            [level; 3]
        });
        RgbImage8::new(128, 96, pixels.collect()).unwrap()
    }

    fn writing(written: bool) -> Writing {
        let frames: Vec<_> = (0..12).map(|t| frame(2 * t, written)).collect();
        Writing::of(&Clip {
            frames: &frames,
            fps: 16.0,
            first: &frame(0, false),
        })
    }

    #[test]
    fn letters_are_found_where_they_are() {
        let found = writing(true);
        assert!(!found.is_empty());
        for at in [(31, 21), (50, 30), (69, 39)] {
            assert!(found.covers(at, (128, 96)), "{at:?}");
        }
        // The same place of a picture twice as large.
        assert!(found.covers((100, 60), (256, 192)));
        assert!(!found.covers((120, 90), (128, 96)));
        assert!(writing(false).is_empty());
    }

    #[test]
    fn what_has_no_signals_has_no_writing() {
        let small = RgbImage8::new(20, 20, vec![0; 1200]).unwrap();
        let frames = [small.clone()];
        for frames in [&frames[..], &[]] {
            let clip = Clip {
                frames,
                fps: 16.0,
                first: &small,
            };
            let found = Writing::of(&clip);
            assert!(found.is_empty() && !found.covers((1, 1), (20, 20)));
        }
    }
}
