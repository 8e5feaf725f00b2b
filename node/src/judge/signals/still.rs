//! A still picture with a zoom laid over it: frame 0 under an affine map explains every later frame.

use super::align::{Affine, Template};
use super::flow::FlowFrame;
use super::plane::Plane;

/// Grey levels a codec may leave between a frame and frame 0 seen through the map …
const TOLERANCE: f32 = 8.0;
/// … and how much more per grey level of gradient: half a pixel of error of the map.
const PER_GRADIENT: f32 = 0.5;
/// Corner motion, as a share of the short side, from which there is a zoom at all.
const MIN_MOTION: f64 = 0.02;
/// What the map must explain beyond no map at all: a thing that moves by itself pulls the map a little, and
/// a fixed shot must not become a zoom by that.
const MIN_GAIN: f64 = 0.02;
/// Frames looked at; motion between them is small enough to follow.
const FRAMES: usize = 27;
/// A share explained below which the clip cannot become a zoomed still any more.
const HOPELESS: f64 = 0.6;

/// Follows frame 0 through a clip.
pub(crate) struct StillZoom {
    first: Plane,
    stride: usize,
    map: Affine,
    moved: bool,
    explained: f64,
}

impl StillZoom {
    /// `first` is frame 0 at the size of the flow; the clip has `frames` frames.
    pub(crate) fn new(first: Plane, frames: usize) -> Self {
        Self {
            first,
            stride: frames.div_ceil(FRAMES).max(1),
            map: Affine::IDENTITY,
            moved: false,
            explained: 1.0,
        }
    }

    /// Takes frame `index`, 1 or later, in order.
    pub(crate) fn add(&mut self, index: usize, frame: &FlowFrame) {
        if !index.is_multiple_of(self.stride) || self.explained < HOPELESS {
            return;
        }
        let (gx, gy) = frame.gradients();
        let image = frame.image();
        self.map = Template::new(image, gx, gy).align(&self.first, self.map, 5);
        let (width, height) = (image.width, image.height);
        let short = width.min(height) as f64;
        let explained = self.explains(&self.map, frame);
        self.explained = self.explained.min(explained);
        if !self.moved && self.map.corner_motion(width, height) >= MIN_MOTION * short {
            self.moved = explained >= MIN_GAIN + self.explains(&Affine::IDENTITY, frame);
        }
    }

    /// Share of the frame that lies in frame 0 and looks as it does there.
    fn explains(&self, map: &Affine, frame: &FlowFrame) -> f64 {
        let (gx, gy) = frame.gradients();
        let image = frame.image();
        let (width, height) = (image.width, image.height);
        let (cx, cy) = (0.5 * (width - 1) as f64, 0.5 * (height - 1) as f64);
        // The map is good to a fraction of a pixel: so much outside is not outside.
        let slack = 0.5;
        let (right, below) = ((width - 1) as f64 + slack, (height - 1) as f64 + slack);
        let (mut same, mut all) = (0usize, 0usize);
        for row in 0..height {
            for column in (row % 2..width).step_by(2) {
                all += 1;
                let (u, v) = map.apply(column as f64 - cx, row as f64 - cy);
                let (u, v) = (u + cx, v + cy);
                if u < -slack || v < -slack || u > right || v > below {
                    continue;
                }
                let at = row * width + column;
                let difference = (image.data[at] - self.first.sample(u as f32, v as f32)).abs();
                let gradient = gx.data[at].abs() + gy.data[at].abs();
                same += usize::from(difference <= TOLERANCE + PER_GRADIENT * gradient);
            }
        }
        same as f64 / all.max(1) as f64
    }

    /// `still_zoom`.
    pub(crate) fn value(&self) -> f64 {
        if self.moved { self.explained } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::align::warp_affine;
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

    fn follow(map: impl Fn(f64) -> Affine) -> f64 {
        let first = scene();
        let mut still = StillZoom::new(first.clone(), 20);
        for t in 1..20 {
            let frame = warp_affine(&first, &map(t as f64 / 19.0));
            still.add(t, &FlowFrame::new(frame));
        }
        still.value()
    }

    #[test]
    fn a_zoom_into_frame_0_is_explained_whole() {
        let zoom = follow(|t| Affine([0.0, -0.2 * t, 0.0, 0.0, 0.0, -0.2 * t]));
        assert!(zoom > 0.98, "{zoom}");
    }

    #[test]
    fn a_pan_leaves_frame_0_and_a_still_has_no_zoom() {
        let pan = follow(|t| Affine([15.0 * t, 0.0, 0.0, 0.0, 0.0, 0.0]));
        assert!(pan < 0.9, "{pan}");
        assert_eq!(follow(|_| Affine::IDENTITY), 0.0);
    }
}
