//! What moves and how evenly: signals of the optical flow, and the camera's part of it.

use super::align::{Affine, solve};
use super::flow::{Flow, FlowFrame, warp};
use super::plane::{Plane, mean_abs_diff};

/// `warp`: forward and backward flow agree where |F + B|² < 0.01 (|F|² + |B|²) + 0.5.
const CHECK_RELATIVE: f32 = 0.01;
const CHECK_ABSOLUTE: f32 = 0.5;
/// Below this share of agreeing pixels the error is taken over all of them: what agrees by chance in an
/// incoherent pair would look good.
const MIN_AGREEING: f64 = 0.3;

/// `warp` of one pair.
pub(crate) fn warp_error(
    first: &FlowFrame,
    second: &FlowFrame,
    forward: &Flow,
    backward: &Flow,
) -> f64 {
    let (width, first_plane) = (first.image().width, first.image());
    let seen = warp(second.image(), &forward.u.data, &forward.v.data, 1.0);
    let (mut agreeing, mut error, mut all) = (0usize, 0f64, 0f64);
    for (at, (here, there)) in first_plane.data.iter().zip(&seen.data).enumerate() {
        let (u, v) = (forward.u.data[at], forward.v.data[at]);
        let (x, y) = ((at % width) as f32 + u, (at / width) as f32 + v);
        let (bu, bv) = (backward.u.sample(x, y), backward.v.sample(x, y));
        let gap = (u + bu).powi(2) + (v + bv).powi(2);
        let length = u * u + v * v + bu * bu + bv * bv;
        let difference = f64::from((here - there).abs());
        all += difference;
        if gap < CHECK_RELATIVE * length + CHECK_ABSOLUTE {
            agreeing += 1;
            error += difference;
        }
    }
    let pixels = first_plane.data.len();
    if (agreeing as f64) < MIN_AGREEING * pixels as f64 {
        all / pixels as f64
    } else {
        error / agreeing as f64
    }
}

/// `mid` of three frames: the middle one against what its neighbours say, `across` from first to last.
pub(crate) fn middle_error(first: &Plane, middle: &Plane, last: &Plane, across: &Flow) -> f64 {
    let from_first = warp(first, &across.u.data, &across.v.data, -0.5);
    let mut guess = warp(last, &across.u.data, &across.v.data, 0.5);
    for (guess, other) in guess.data.iter_mut().zip(&from_first.data) {
        *guess = 0.5 * (*guess + other);
    }
    mean_abs_diff(middle, &guess)
}

/// `mag` of one pair: mean length of the longest 5 % of the flow, in pixels of the flow's picture. A rim of
/// 5 % is left out: what enters the picture there has no counterpart, and its flow is a guess.
pub(crate) fn fastest(flow: &Flow) -> f64 {
    let (width, height) = (flow.u.width, flow.u.height);
    let (rim_x, rim_y) = (width / 20, height / 20);
    let mut lengths = Vec::with_capacity(width * height);
    for y in rim_y..height - rim_y {
        let (u, v) = (flow.u.row(y), flow.v.row(y));
        let inside = rim_x..width - rim_x;
        let pairs = u[inside.clone()].iter().zip(&v[inside]);
        lengths.extend(pairs.map(|(u, v)| u * u + v * v));
    }
    let top = (lengths.len() / 20).max(1);
    let cut = lengths.len() - top;
    lengths.select_nth_unstable_by(cut, f32::total_cmp);
    let sum: f64 = lengths[cut..].iter().map(|v| f64::from(v.sqrt())).sum();
    sum / top as f64
}

/// Rounds of reweighting in [`camera_step`].
const ROUNDS: usize = 8;

/// The affine motion that most of the flow follows, with what moves by itself weighted down.
pub(crate) fn camera_step(flow: &Flow) -> Affine {
    let (width, height) = (flow.u.width, flow.u.height);
    let (cx, cy) = (0.5 * (width - 1) as f64, 0.5 * (height - 1) as f64);
    let unit = cx.max(cy);
    let mut map = Affine::IDENTITY;
    for round in 0..ROUNDS {
        // Wide at first, so that the first model need not be good; half a pixel in the end.
        let width_of_weights = (4.0 * 0.5f64.powi(round as i32)).max(0.5);
        let mut normal = [[0f64; 3]; 3];
        let (mut right_u, mut right_v) = ([0f64; 3], [0f64; 3]);
        for row in (2..height).step_by(4) {
            for column in (2..width).step_by(4) {
                let at = row * width + column;
                let (u, v) = (f64::from(flow.u.data[at]), f64::from(flow.v.data[at]));
                let (x, y) = (column as f64 - cx, row as f64 - cy);
                let (mu, mv) = map.apply(x, y);
                let off = (x + u - mu).hypot(y + v - mv);
                // Cauchy weights; the first round has no model to be off from.
                let weight = if round == 0 {
                    1.0
                } else {
                    1.0 / (1.0 + (off / width_of_weights).powi(2))
                };
                let terms = [1.0, x / unit, y / unit];
                for (i, a) in terms.iter().enumerate() {
                    right_u[i] += weight * a * u;
                    right_v[i] += weight * a * v;
                    for (j, b) in terms.iter().enumerate() {
                        normal[i][j] += weight * a * b;
                    }
                }
            }
        }
        let (Some(u), Some(v)) = (solve(normal, right_u), solve(normal, right_v)) else {
            return map;
        };
        map = Affine([
            u[0],
            u[1] / unit,
            u[2] / unit,
            v[0],
            v[1] / unit,
            v[2] / unit,
        ]);
    }
    map
}

/// What the camera does over a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CameraClass {
    /// Nothing above the threshold.
    Static,
    /// The picture moves right: the camera turns left.
    PanLeft,
    /// The picture moves left: the camera turns right.
    PanRight,
    /// The picture moves down: the camera turns up.
    TiltUp,
    /// The picture moves up: the camera turns down.
    TiltDown,
    /// The picture grows.
    ZoomIn,
    /// The picture shrinks.
    ZoomOut,
    /// Several of these at once, or a rotation.
    Mixed,
}

impl CameraClass {
    /// Spelling in records.
    pub fn key(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::PanLeft => "pan_left",
            Self::PanRight => "pan_right",
            Self::TiltUp => "tilt_up",
            Self::TiltDown => "tilt_down",
            Self::ZoomIn => "zoom_in",
            Self::ZoomOut => "zoom_out",
            Self::Mixed => "mixed",
        }
    }
}

/// The camera's motion over a clip, as shares of the short side of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CameraMotion {
    /// What it is called.
    pub class: CameraClass,
    /// Shift of the picture to the right from the first frame to the last.
    pub right: f64,
    /// Shift downwards.
    pub down: f64,
    /// Size of the last frame's content over the first's.
    pub zoom: f64,
}

/// Share of the short side from which a motion counts over a clip. VBench's 0.005 is for tracked points;
/// flow fitted pair by pair drifts by more than that.
const CAMERA_THRESHOLD: f64 = 0.03;
/// The second strongest motion makes it mixed from this share of the strongest.
const MIXED: f64 = 0.6;

/// Names the camera motion from the motions of each pair.
pub(crate) fn camera_motion(steps: &[Affine], width: usize, height: usize) -> CameraMotion {
    let total = steps
        .iter()
        .fold(Affine::IDENTITY, |sum, step| sum.then(step));
    let short = width.min(height) as f64;
    let (right, down, zoom) = (total.0[0] / short, total.0[3] / short, total.scale());
    let turn = 0.5 * (total.0[4] - total.0[2]).abs();
    // Zoom and rotation as what they move at the middle of an edge.
    let strengths = [
        right.abs(),
        down.abs(),
        0.5 * (zoom - 1.0).abs(),
        0.5 * turn,
    ];
    let mut order = [0, 1, 2, 3];
    order.sort_by(|&a, &b| strengths[b].total_cmp(&strengths[a]));
    let (strongest, second) = (strengths[order[0]], strengths[order[1]]);
    let class = if strongest < CAMERA_THRESHOLD {
        CameraClass::Static
    } else if second > MIXED * strongest {
        CameraClass::Mixed
    } else {
        match (order[0], right > 0.0, down > 0.0, zoom > 1.0) {
            (0, true, _, _) => CameraClass::PanLeft,
            (0, false, _, _) => CameraClass::PanRight,
            (1, _, true, _) => CameraClass::TiltUp,
            (1, _, false, _) => CameraClass::TiltDown,
            (2, _, _, true) => CameraClass::ZoomIn,
            (2, _, _, false) => CameraClass::ZoomOut,
            _ => CameraClass::Mixed,
        }
    };
    CameraMotion {
        class,
        right,
        down,
        zoom,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affine_flow(map: &Affine) -> Flow {
        let (width, height) = (96, 64);
        let (mut u, mut v) = (Plane::new(width, height), Plane::new(width, height));
        for at in 0..width * height {
            let (x, y) = ((at % width) as f64 - 47.5, (at / width) as f64 - 31.5);
            let (mx, my) = map.apply(x, y);
            (u.data[at], v.data[at]) = ((mx - x) as f32, (my - y) as f32);
        }
        Flow { u, v }
    }

    #[test]
    fn the_camera_is_told_from_a_thing_that_moves() {
        let truth = Affine([1.0, 0.01, 0.0, -0.5, 0.0, 0.01]);
        let mut flow = affine_flow(&truth);
        for at in 0..96 * 64 {
            // A fifth of the picture runs the other way.
            if at % 96 < 20 {
                flow.u.data[at] = -6.0;
            }
        }
        let found = camera_step(&flow);
        for (found, truth) in found.0.iter().zip(truth.0) {
            assert!((found - truth).abs() < 0.15, "{found} against {truth}");
        }
    }

    #[test]
    fn motions_have_their_names() {
        let name = |map: Affine| camera_motion(&vec![map; 20], 96, 64).class;
        assert_eq!(name(Affine::IDENTITY), CameraClass::Static);
        assert_eq!(
            name(Affine([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])),
            CameraClass::PanLeft
        );
        assert_eq!(
            name(Affine([-1.0, 0.0, 0.0, 0.0, 0.0, 0.0])),
            CameraClass::PanRight
        );
        assert_eq!(
            name(Affine([0.0, 0.0, 0.0, 1.0, 0.0, 0.0])),
            CameraClass::TiltUp
        );
        assert_eq!(
            name(Affine([0.0, 0.01, 0.0, 0.0, 0.0, 0.01])),
            CameraClass::ZoomIn
        );
        assert_eq!(
            name(Affine([0.0, -0.01, 0.0, 0.0, 0.0, -0.01])),
            CameraClass::ZoomOut
        );
        assert_eq!(
            name(Affine([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])),
            CameraClass::Mixed
        );
    }

    #[test]
    fn the_fastest_twentieth_is_what_counts() {
        let mut flow = affine_flow(&Affine::IDENTITY);
        // Of 88x58 inside the rim, 260 are a twentieth.
        for row in 10..13 {
            flow.u.data[row * 96 + 4..][..88].fill(3.0);
        }
        assert!((fastest(&flow) - 3.0).abs() < 0.02);
        // The rim does not count.
        flow.v.data[..96].fill(50.0);
        assert!((fastest(&flow) - 3.0).abs() < 0.02);
    }
}
