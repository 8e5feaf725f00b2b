//! Signals: what can be measured on a clip without any weights, on the CPU, the same on every run.
//!
//! [`measure`] reads a clip once and gives a [`Signals`]; [`gates`] turns them into caps and flags;
//! [`opinion`] is the local judge that has nothing else. Signals find damage. They do not measure quality:
//! against human ratings they are near zero once broken generators are left out, so nothing here may
//! raise a score. [`SignalId::describe`] holds each formula and what it is blind to.
//!
//! The main path: luma and reduction by area (`plane`) → one `flow::FlowFrame` per frame, shared by all
//! flows → pairs and triples of frames in one pass; a thumbnail of 32 px and a few numbers of each frame stay.

mod align;
mod catalogue;
mod first;
mod flow;
pub mod gates;
mod motion;
pub mod opinion;
mod plane;
mod ssim;
mod still;
mod stillness;
mod temporal;
mod texture;
pub mod thresholds;
pub mod writing;

use std::collections::VecDeque;

use leoma_models::Fault;

pub use catalogue::{Description, SignalId, description_table};
pub use motion::{CameraClass, CameraMotion};

use super::clip::Clip;
use crate::media::RgbImage8;
use flow::FlowFrame;
use motion::{camera_motion, camera_step, fastest, middle_error, warp_error};
use plane::{AreaResize, Plane, luma, mean, mean_abs_diff, median, working_size};
use ssim::SsimReference;
use still::StillZoom;
use texture::{OverlayDetector, blockiness, laplacian_variance};

/// The smallest side that signals are measured on.
pub const MIN_SIDE: usize = 32;
/// Seconds from which on the remote judge is not shown anything.
const TAIL_FROM_S: f64 = 4.0;
/// Pairs that a tail needs before it is compared.
const MIN_TAIL: usize = 4;
/// Frames that the overlay detector looks at.
const OVERLAY_FRAMES: usize = 24;
/// Short side on which the order of frames is judged.
const COARSE_SIDE: usize = 32;

/// Why a clip has no signals.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignalsError {
    /// Fewer than two frames.
    TooShort {
        /// Frames given.
        frames: usize,
    },
    /// A side below [`MIN_SIDE`].
    TooSmall {
        /// Pixels per row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// A conditioning image with a side below [`MIN_SIDE`].
    FirstTooSmall {
        /// Pixels per row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// A frame of another size than frame 0.
    SizeChanges {
        /// The frame.
        index: usize,
    },
    /// A frame rate that is no positive number.
    FrameRate,
    /// Whoever asked does not wait any more.
    Cancelled,
}

impl std::fmt::Display for SignalsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooShort { frames } => {
                write!(
                    f,
                    "the clip has {frames} frame(s): signals need two or more"
                )
            }
            Self::TooSmall { width, height } => write!(
                f,
                "the picture is {width}x{height}: signals need {MIN_SIDE} pixels or more on each side"
            ),
            Self::FirstTooSmall { width, height } => write!(
                f,
                "first_frame: {width}x{height} is too small: signals need {MIN_SIDE} pixels or more on each side"
            ),
            Self::SizeChanges { index } => {
                write!(f, "frame {index} has another size than frame 0")
            }
            Self::FrameRate => write!(f, "fps: a frame rate is a number above 0"),
            Self::Cancelled => write!(f, "the signals were not done in time"),
        }
    }
}

impl std::error::Error for SignalsError {}

impl SignalsError {
    /// Who has to act: who gave the conditioning image, or who made the clip; nobody where time was over.
    pub fn fault(&self) -> Fault {
        match self {
            Self::FirstTooSmall { .. } => Fault::Caller,
            Self::Cancelled => Fault::Transient,
            Self::TooShort { .. }
            | Self::TooSmall { .. }
            | Self::SizeChanges { .. }
            | Self::FrameRate => Fault::Artifact,
        }
    }
}

/// The signals of one clip.
#[derive(Debug, Clone, PartialEq)]
pub struct Signals {
    values: [Option<f64>; SignalId::ALL.len()],
    /// What the camera does; a description, nothing is judged by it.
    pub camera: CameraMotion,
    /// Frames measured.
    pub frames: usize,
}

impl Signals {
    /// The value of a signal; `None` where the clip is too short for it.
    pub fn get(&self, id: SignalId) -> Option<f64> {
        self.values.get(id as usize).copied().flatten()
    }

    /// Every signal that has a value, in the order of [`SignalId::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (SignalId, f64)> + '_ {
        SignalId::ALL
            .into_iter()
            .filter_map(|id| Some((id, self.get(id)?)))
    }

    /// A set from given values, for tables and tests of what is built on signals.
    pub fn from_values(values: impl IntoIterator<Item = (SignalId, f64)>) -> Self {
        let mut signals = Self {
            values: [None; SignalId::ALL.len()],
            camera: camera_motion(&[], 1, 1),
            frames: 0,
        };
        for (id, value) in values {
            signals.values[id as usize] = Some(value);
        }
        signals
    }
}

/// What is collected per pair or triple of frames; index i ends at frame i + 1 (pairs) or i + 2 (triples).
#[derive(Debug, Default)]
struct Series {
    difference: Vec<f64>,
    frozen: Vec<bool>,
    histogram: Vec<f64>,
    warp: Vec<f64>,
    mag: Vec<f64>,
    jerk: Vec<f64>,
    mid: Vec<f64>,
}

/// One frame as the pass keeps it.
struct Seen {
    work: Plane,
    flow: FlowFrame,
    histogram: Vec<u32>,
}

/// Measures every signal of a clip.
///
/// **Units**: differences in grey levels of 0 to 255, lengths in pixels of the measured size (256 px short
/// side, at most 1024 px long side), shares 0 to 1.
///
/// # Errors
/// [`SignalsError`] for clips that cannot be measured; all of them are found before any work, except a
/// frame of another size.
pub fn measure(clip: &Clip<'_>) -> Result<Signals, SignalsError> {
    measure_while(clip, &|| true)
}

/// The same, as long as `go_on` says so; it is asked before every frame.
///
/// # Errors
/// As [`measure`], and [`SignalsError::Cancelled`].
pub fn measure_while(clip: &Clip<'_>, go_on: &dyn Fn() -> bool) -> Result<Signals, SignalsError> {
    let frames = clip.frames.len();
    let Some(first) = clip.frames.first().filter(|_| frames >= 2) else {
        return Err(SignalsError::TooShort { frames });
    };
    if !(clip.fps.is_finite() && clip.fps > 0.0) {
        return Err(SignalsError::FrameRate);
    }
    let native = (first.width(), first.height());
    let work = working_size(native.0, native.1);
    if work.0.min(work.1) < MIN_SIDE {
        let (width, height) = native;
        return Err(SignalsError::TooSmall { width, height });
    }
    let (width, height) = (clip.first.width(), clip.first.height());
    if width.min(height) < MIN_SIDE {
        return Err(SignalsError::FirstTooSmall { width, height });
    }
    Pass::new(clip, native, work).run(clip, go_on)
}

struct Pass {
    native: (usize, usize),
    resize: AreaResize,
    coarse: AreaResize,
    reference: SsimReference,
    reference_laplacian: f64,
    overlay: OverlayDetector,
    overlay_stride: usize,
    still: Option<StillZoom>,
    seen: VecDeque<Seen>,
    series: Series,
    /// Mean luma, Laplacian variance, blockiness and coarse luma of each frame.
    means: Vec<f64>,
    laplacians: Vec<f64>,
    blocks: Vec<f64>,
    coarse_frames: Vec<Plane>,
    ff_ssim: Vec<f64>,
    ff_align: f64,
    ff_corr: Option<f64>,
    ff_psnr: f64,
    steps: Vec<align::Affine>,
}

impl Pass {
    fn new(clip: &Clip<'_>, native: (usize, usize), work: (usize, usize)) -> Self {
        let own = (clip.first.width(), clip.first.height());
        let reference = AreaResize::new(own, work).apply(&luma(clip.first));
        let short = work.0.min(work.1) as f64;
        let coarse = |side: usize| {
            ((side as f64 * COARSE_SIDE as f64 / short).round() as usize).clamp(2, side)
        };
        Self {
            native,
            resize: AreaResize::new(native, work),
            coarse: AreaResize::new(work, (coarse(work.0), coarse(work.1))),
            reference_laplacian: laplacian_variance(&reference),
            reference: SsimReference::new(reference),
            overlay: OverlayDetector::new(work.0, work.1),
            overlay_stride: clip.frames.len().div_ceil(OVERLAY_FRAMES).max(1),
            still: None,
            seen: VecDeque::with_capacity(3),
            series: Series::default(),
            means: Vec::new(),
            laplacians: Vec::new(),
            blocks: Vec::new(),
            coarse_frames: Vec::new(),
            ff_ssim: Vec::new(),
            ff_align: 0.0,
            ff_corr: None,
            ff_psnr: 0.0,
            steps: Vec::new(),
        }
    }

    fn run(mut self, clip: &Clip<'_>, go_on: &dyn Fn() -> bool) -> Result<Signals, SignalsError> {
        for (index, frame) in clip.frames.iter().enumerate() {
            if !go_on() {
                return Err(SignalsError::Cancelled);
            }
            if (frame.width(), frame.height()) != self.native {
                return Err(SignalsError::SizeChanges { index });
            }
            self.add(index, frame, clip.frames.len());
        }
        Ok(self.finish(clip))
    }

    fn add(&mut self, index: usize, image: &RgbImage8, frames: usize) {
        let native = luma(image);
        self.blocks.extend(blockiness(&native));
        let work = self.resize.apply(&native);
        drop(native);
        self.means.push(work.mean());
        self.laplacians.push(laplacian_variance(&work));
        self.coarse_frames.push(self.coarse.apply(&work));
        if index < 4 {
            self.ff_ssim.push(self.reference.score(&work));
        }
        if index == 0 {
            let plain = self.ff_ssim.first().copied().unwrap_or_default();
            let reference = self.reference.plane();
            self.ff_align = first::best_aligned(reference, &work, plain);
            self.ff_corr = self
                .coarse_frames
                .first()
                .and_then(|coarse| first::correlation(&self.coarse.apply(reference), coarse));
            self.ff_psnr = first::psnr(reference, &work);
        }
        if index.is_multiple_of(self.overlay_stride) {
            self.overlay.add(&work);
        }
        // Flow at half size: a quarter of the work, and grain is averaged away.
        let half = if work.width.min(work.height) >= 2 * MIN_SIDE {
            work.half()
        } else {
            work.clone()
        };
        let seen = Seen {
            flow: FlowFrame::new(half),
            histogram: temporal::histogram(image),
            work,
        };
        match &mut self.still {
            None => self.still = Some(StillZoom::new(seen.flow.image().clone(), frames)),
            Some(still) => still.add(index, &seen.flow),
        }
        self.compare(&seen);
        self.seen.push_back(seen);
        if self.seen.len() > 2 {
            self.seen.pop_front();
        }
    }

    /// Pairs and triples that end at `here`.
    fn compare(&mut self, here: &Seen) {
        let Some(last) = self.seen.back() else { return };
        let series = &mut self.series;
        let difference = mean_abs_diff(&last.work, &here.work);
        series.difference.push(difference);
        series
            .frozen
            .push(temporal::is_frozen(&last.work, &here.work, difference));
        series.histogram.push(temporal::histogram_distance(
            &last.histogram,
            &here.histogram,
        ));
        let forward = last.flow.flow_to(&here.flow);
        let backward = here.flow.flow_to(&last.flow);
        series
            .warp
            .push(warp_error(&last.flow, &here.flow, &forward, &backward));
        let scale = here.work.width as f64 / here.flow.image().width as f64;
        series.mag.push(scale * fastest(&forward));
        self.steps.push(camera_step(&forward));
        if let Some(before) = self.seen.front().filter(|_| self.seen.len() == 2) {
            series.jerk.push(temporal::jerk(
                &before.work,
                &last.work,
                &here.work,
                difference,
            ));
            let across = before.flow.flow_to(&here.flow);
            let (a, b, c) = (before.flow.image(), last.flow.image(), here.flow.image());
            series.mid.push(middle_error(a, b, c, &across));
        }
    }

    fn finish(self, clip: &Clip<'_>) -> Signals {
        let Self {
            series, ff_ssim, ..
        } = &self;
        let luma_hf = temporal::second_difference(&self.means);
        let pairs = series.frozen.len().max(1) as f64;
        let run = temporal::longest_run(&series.frozen, &series.difference) as f64;
        let mut values = [None; SignalId::ALL.len()];
        let mut set = |id: SignalId, value: Option<f64>| values[id as usize] = value;
        set(SignalId::FfSsim, ff_ssim.first().copied());
        set(SignalId::FfAlign, Some(self.ff_align));
        set(SignalId::FfCorr, self.ff_corr);
        set(SignalId::FfPsnr, Some(self.ff_psnr));
        set(
            SignalId::FfChroma,
            clip.frames
                .first()
                .map(|frame| first::chroma_distance(clip.first, frame)),
        );
        set(SignalId::FfMin4, ff_ssim.iter().copied().reduce(f64::min));
        set(
            SignalId::FirstJump,
            temporal::first_jump(&series.difference),
        );
        set(
            SignalId::FlickVb,
            mean(&series.difference).map(|d| 1.0 - d / 255.0),
        );
        set(SignalId::LumaHf, mean(&luma_hf));
        set(SignalId::Dup, Some(temporal::share(&series.frozen)));
        // A run of n pairs is n + 1 equal frames; what counts is the time in which nothing changes.
        set(SignalId::FreezeShare, Some(run / pairs));
        set(SignalId::FreezeRun, Some(run / clip.fps));
        set(SignalId::Jerk, mean(&series.jerk));
        set(SignalId::Order, temporal::disorder(&self.coarse_frames));
        set(SignalId::Warp, mean(&series.warp));
        set(SignalId::Mid, mean(&series.mid));
        set(SignalId::Mag, mean(&series.mag));
        set(SignalId::Scene, Some(temporal::scene(&series.difference)));
        set(
            SignalId::Histmax,
            series.histogram.iter().copied().reduce(f64::max),
        );
        set(
            SignalId::LapRel,
            // A flat conditioning image has no sharpness to compare with.
            median(&self.laplacians)
                .filter(|_| self.reference_laplacian > 1.0)
                .map(|value| value / self.reference_laplacian),
        );
        set(SignalId::Block, median(&self.blocks));
        set(
            SignalId::Overlay,
            Some(self.overlay.share(self.reference.plane())),
        );
        set(
            SignalId::StillZoom,
            self.still.as_ref().map(StillZoom::value),
        );
        set(SignalId::TailGap, tail_gap(series, &luma_hf, clip.fps));
        let (width, height) = match self.seen.back() {
            Some(seen) => (seen.flow.image().width, seen.flow.image().height),
            None => self.native,
        };
        Signals {
            values,
            camera: camera_motion(&self.steps, width, height),
            frames: clip.frames.len(),
        }
    }
}

/// `tail_gap`; `None` for clips whose tail has fewer than [`MIN_TAIL`] entries.
fn tail_gap(series: &Series, luma_hf: &[f64], fps: f64) -> Option<f64> {
    // Entry i of a series of pairs ends at frame i + 1, of triples at frame i + 2.
    let gap = |values: &[f64], ends: usize| {
        let seen = values
            .iter()
            .enumerate()
            .take_while(|(i, _)| (i + ends) as f64 / fps <= TAIL_FROM_S)
            .count();
        let (before, after) = values.split_at(seen);
        if after.len() < MIN_TAIL {
            return None;
        }
        let (before, after) = (mean(before)?, mean(after)?);
        // By the smaller one: a tail that stops must stand out as much as one that starts to run.
        Some((after - before).abs() / (0.25 + before.min(after)))
    };
    let gaps = [
        gap(&series.difference, 1),
        gap(luma_hf, 2),
        gap(&series.jerk, 2),
        gap(&series.warp, 1),
        gap(&series.mid, 2),
        gap(&series.mag, 1),
    ];
    gaps.into_iter().flatten().reduce(f64::max)
}

#[cfg(test)]
mod tests;
