//! Pictures to patches: sizes, resampling, normalisation, and the order in which the vision tower reads.
//!
//! A patch is `[C, T, P, P]`: colours, frames (an image stands twice), rows, columns. Patches are listed by
//! temporal patch, then by group of `merge x merge` patches (row by row of groups), then inside the group, so
//! that the patches of one token follow each other.
//!
//! Source: `image_processing_qwen2_vl.py` and `video_processing_qwen3_vl.py` of transformers 5.14.1. Settings
//! come from the files beside the weights: `preprocessor_config.json` and `video_preprocessor_config.json`, or
//! the two halves of `processor_config.json`, which transformers 5 writes.

use std::path::Path;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::config::VisionConfig;
use super::frame::Frame;
use super::resize::resize;
use super::sizes::{PixelRange, image_size, video_size};
use crate::error::{Error, Result};

type Object = Map<String, Value>;

/// Colours of a pixel.
const CHANNELS: usize = 3;
/// Most frames of one clip: a token list of this many patches is beyond every model.
pub const MAX_FRAMES: usize = 768;

/// Patches of one image or clip: temporal patches, rows, columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Temporal patches.
    pub frames: usize,
    /// Rows of patches.
    pub rows: usize,
    /// Columns of patches.
    pub columns: usize,
}

impl Grid {
    /// Patches in all.
    pub fn patches(&self) -> usize {
        self.frames * self.rows * self.columns
    }
}

/// Settings of one kind of picture.
#[derive(Debug, Clone, PartialEq)]
struct Settings {
    range: PixelRange,
    /// Multiplies a byte.
    rescale: f64,
    mean: [f64; CHANNELS],
    std: [f64; CHANNELS],
}

/// The processor of one checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Processor {
    image: Settings,
    video: Settings,
    patch: usize,
    temporal: usize,
    merge: usize,
}

/// Pictures in patches.
#[derive(Debug, Clone)]
pub struct Patches {
    /// `[patches, C * T * P * P]`, row-major.
    pub values: Vec<f32>,
    /// How many there are.
    pub grid: Grid,
}

impl Patches {
    /// `[patches, C * T * P * P]`, f32, of several pictures one after the other.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there are none or they differ in width.
    pub fn join(all: Vec<Self>, width: usize, device: &Device) -> Result<(Tensor, Vec<Grid>)> {
        let grids: Vec<Grid> = all.iter().map(|patches| patches.grid).collect();
        let count = grids.iter().map(Grid::patches).sum::<usize>();
        let mut values = Vec::with_capacity(count * width);
        for patches in all {
            values.extend(patches.values);
        }
        Ok((Tensor::from_vec(values, (count, width), device)?, grids))
    }
}

impl Processor {
    /// From the objects of `preprocessor_config.json` and `video_preprocessor_config.json` with their paths.
    /// Sizes of patches must be those of the vision tower.
    ///
    /// # Errors
    /// [`Error::Artifact`] naming the field.
    pub(super) fn new(
        image: (&Path, &Object),
        video: (&Path, &Object),
        vision: &VisionConfig,
    ) -> Result<Self> {
        Ok(Self {
            image: Settings::read(image.0, image.1, vision)?,
            video: Settings::read(video.0, video.1, vision)?,
            patch: vision.patch_size,
            temporal: vision.temporal_patch_size,
            merge: vision.spatial_merge_size,
        })
    }

    /// At most `tokens` per image and per temporal patch of a video of `frames` frames, where the files allow
    /// more.
    #[must_use]
    pub fn with_tokens_per_picture(&self, tokens: usize, frames: usize) -> Self {
        let pixels = tokens.max(1).saturating_mul(self.factor().pow(2));
        let mut limited = self.clone();
        // Growing a small picture to the least size overshoots it, so that must lie well below the most.
        let limit = |range: &mut PixelRange, pixels: usize| {
            if pixels < range.max {
                range.max = pixels;
                range.min = range.min.min(pixels / 4).max(1);
            }
        };
        limit(&mut limited.image.range, pixels);
        // The range of a video counts all its frames, not its temporal patches.
        let frames = frames.div_ceil(self.temporal) * self.temporal;
        limit(&mut limited.video.range, pixels.saturating_mul(frames));
        limited
    }

    /// Pixels that both sides of a picture are multiples of.
    pub fn factor(&self) -> usize {
        self.patch * self.merge
    }

    /// Frames of a temporal patch.
    pub fn temporal_patch(&self) -> usize {
        self.temporal
    }

    /// Rows and columns of tokens of each temporal patch.
    pub fn token_grid(&self, grid: Grid) -> (usize, usize) {
        (grid.rows / self.merge, grid.columns / self.merge)
    }

    /// Values of one patch.
    pub fn patch_values(&self) -> usize {
        CHANNELS * self.temporal * self.patch * self.patch
    }

    /// An image.
    ///
    /// # Errors
    /// [`Error::Caller`] when its aspect is beyond what the model takes.
    pub fn image(&self, frame: &Frame<'_>) -> Result<Patches> {
        let size = image_size(
            frame.height(),
            frame.width(),
            self.factor(),
            self.image.range,
        );
        let size = size.map_err(|message| Error::caller("image", message))?;
        self.patches(&[*frame], size, &self.image)
    }

    /// A clip: frames of one size, in order; an odd tail repeats its last frame.
    ///
    /// # Errors
    /// [`Error::Caller`] when there are no frames, too many, or of several sizes, or a side is below the
    /// factor.
    pub fn video(&self, frames: &[Frame<'_>]) -> Result<Patches> {
        let Some(first) = frames.first() else {
            return Err(Error::caller("video", "has no frames"));
        };
        if frames.len() > MAX_FRAMES {
            let message = format!("{} frames; at most {MAX_FRAMES} fit", frames.len());
            return Err(Error::caller("video", message));
        }
        let (height, width) = (first.height(), first.width());
        if let Some(other) = frames
            .iter()
            .find(|frame| (frame.height(), frame.width()) != (height, width))
        {
            return Err(Error::caller(
                "video",
                format!(
                    "has frames of {width}x{height} and of {}x{} pixels",
                    other.width(),
                    other.height()
                ),
            ));
        }
        let size = video_size(
            frames.len(),
            height,
            width,
            self.temporal,
            self.factor(),
            self.video.range,
        );
        let size = size.map_err(|message| Error::caller("video", message))?;
        self.patches(frames, size, &self.video)
    }

    fn patches(
        &self,
        frames: &[Frame<'_>],
        (height, width): (usize, usize),
        settings: &Settings,
    ) -> Result<Patches> {
        let (patch, merge) = (self.patch, self.merge);
        let grid = Grid {
            frames: frames.len().div_ceil(self.temporal),
            rows: height / patch,
            columns: width / patch,
        };
        if grid.patches() == 0 {
            return Err(Error::caller("image", "is too small for a single patch"));
        }
        let resized: Vec<Vec<u8>> = frames
            .iter()
            .map(|frame| {
                resize(
                    frame.pixels(),
                    (frame.height(), frame.width()),
                    (height, width),
                )
            })
            .collect();
        let table = settings.table();
        let size = self.patch_values();
        let per_frame = grid.rows * grid.columns;
        let across = grid.columns / merge;
        let mut values = vec![0f32; grid.patches() * size];
        values
            .par_chunks_mut(size)
            .enumerate()
            .for_each(|(index, out)| {
                // index = (temporal patch, group row, group column, row in group, column in group)
                let (time, rest) = (index / per_frame, index % per_frame);
                let (group, inside) = (rest / (merge * merge), rest % (merge * merge));
                let row = (group / across * merge + inside / merge) * patch;
                let column = (group % across * merge + inside % merge) * patch;
                // out is [C, T, P, P]
                for (line, out) in out.chunks_exact_mut(patch).enumerate() {
                    let (plane, y) = (line / patch, row + line % patch);
                    let (channel, frame) = (plane / self.temporal, plane % self.temporal);
                    let frame = (time * self.temporal + frame).min(resized.len() - 1);
                    let from = (y * width + column) * CHANNELS + channel;
                    let bytes = resized[frame][from..].iter().step_by(CHANNELS);
                    for (out, &byte) in out.iter_mut().zip(bytes) {
                        *out = table[channel][usize::from(byte)];
                    }
                }
            });
        Ok(Patches { values, grid })
    }
}

impl Settings {
    fn read(path: &Path, object: &Object, vision: &VisionConfig) -> Result<Self> {
        let wrong = |name: &str, message: &str| {
            Error::artifact(path, format!("`{name}` {message}; use the published file"))
        };
        let count = |object: &Object, name: &str| {
            object
                .get(name)
                .and_then(Value::as_u64)
                .and_then(|value| usize::try_from(value).ok())
        };
        for (name, wanted) in [
            ("patch_size", vision.patch_size),
            ("temporal_patch_size", vision.temporal_patch_size),
            ("merge_size", vision.spatial_merge_size),
        ] {
            match count(object, name) {
                None => return Err(wrong(name, "is missing or no count")),
                Some(found) if found != wanted => {
                    let message = format!("is {found}, the vision tower has {wanted}");
                    return Err(wrong(name, &message));
                }
                Some(_) => {}
            }
        }
        for name in ["do_resize", "do_rescale", "do_normalize"] {
            if object.get(name).and_then(Value::as_bool) == Some(false) {
                return Err(wrong(name, "is false, which is not supported"));
            }
        }
        let size = object.get("size").and_then(Value::as_object);
        let edge = |name: &str, short: &str| {
            let found = size
                .and_then(|size| count(size, name))
                .or_else(|| count(object, short));
            found
                .filter(|&pixels| pixels > 0)
                .ok_or_else(|| wrong(&format!("size.{name}"), "is missing or no count of pixels"))
        };
        let range = PixelRange {
            min: edge("shortest_edge", "min_pixels")?,
            max: edge("longest_edge", "max_pixels")?,
        };
        if range.min > range.max {
            return Err(wrong("size", "has a shortest_edge above its longest_edge"));
        }
        let rescale = match object.get("rescale_factor") {
            None | Some(Value::Null) => 1.0 / 255.0,
            Some(value) => value
                .as_f64()
                .filter(|factor| *factor > 0.0)
                .ok_or_else(|| wrong("rescale_factor", "is no positive number"))?,
        };
        let colours = |name: &str| {
            let list = object.get(name).and_then(Value::as_array);
            let values: Option<Vec<f64>> =
                list.and_then(|list| list.iter().map(Value::as_f64).collect());
            values
                .and_then(|values| <[f64; CHANNELS]>::try_from(values).ok())
                .ok_or_else(|| wrong(name, "is missing or not three numbers"))
        };
        let (mean, std) = (colours("image_mean")?, colours("image_std")?);
        if std.iter().any(|std| *std <= 0.0) {
            return Err(wrong("image_std", "must be positive"));
        }
        Ok(Self {
            range,
            rescale,
            mean,
            std,
        })
    }

    /// Normalised value of every byte. Mean and deviation are scaled to bytes instead of the byte to them, in
    /// f32, as the reference's fused form does.
    fn table(&self) -> [[f32; 256]; CHANNELS] {
        let mut table = [[0f32; 256]; CHANNELS];
        for (channel, table) in table.iter_mut().enumerate() {
            let mean = (self.mean[channel] / self.rescale) as f32;
            let std = (self.std[channel] / self.rescale) as f32;
            for (byte, value) in table.iter_mut().enumerate() {
                *value = (byte as f32 - mean) / std;
            }
        }
        table
    }
}

#[cfg(test)]
#[path = "processor_tests.rs"]
mod tests;
