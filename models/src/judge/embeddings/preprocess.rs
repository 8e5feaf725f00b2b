//! Frames to pixel values: resize, centre crop, normalise, as `preprocessor_config.json` says.
//!
//! The shortest edge is brought to a size and the longer one follows, rounded down; then the middle is cut out. So of
//! a wide frame the left and right ends are not seen: of 832x480 at 224 of 224 the middle 58 %.
//!
//! Both spellings of sizes are read: a number (files of 2021) and an object. Padding, other filters than bicubic and
//! processors that leave a step out are refused.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::super::Frame;
use super::super::resize::resize;
use super::fields::{Fields, MAX_SIDE, Object};
use crate::error::{Context, Error, Result};
use crate::weights::PlainFolder;

/// Pillow's number of the bicubic filter.
const BICUBIC: u64 = 3;
/// Most pixels of a resized frame; a strip of 1 x 10000 pixels would become one of many millions.
const MAX_RESIZED: usize = 16 << 20;

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocess {
    size: Size,
    /// Side of the square that is cut out; the whole picture where it is the size already.
    crop: usize,
    /// Normalised value of every byte, by colour.
    table: Vec<[f32; 256]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    ShortestEdge(usize),
    Exactly { height: usize, width: usize },
}

impl Preprocess {
    /// Of a folder: `preprocessor_config.json`, or `image_processor` in the `processor_config.json` of transformers 5.
    pub(super) fn open(folder: &PlainFolder) -> Result<Self> {
        const OWN: &str = "preprocessor_config.json";
        const JOINT: &str = "processor_config.json";
        if let Some(object) = folder.json(OWN)? {
            return Self::read(&folder.path(OWN), &object);
        }
        let joint = folder.json(JOINT)?.unwrap_or_default();
        match joint.get("image_processor") {
            Some(Value::Object(object)) => Self::read(&folder.path(JOINT), object),
            _ => Err(Error::artifact(
                folder.path(OWN),
                format!(
                    "missing, and there is no {JOINT} with `image_processor`; fetch the model again"
                ),
            )),
        }
    }

    /// From the object of such a file; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Artifact`] naming the field.
    pub fn read(path: &Path, object: &Object) -> Result<Self> {
        let fields = Fields::new(path, object);
        for name in ["do_resize", "do_normalize", "do_rescale", "do_center_crop"] {
            if !fields.flag(name, true)? {
                return Err(fields.wrong(name, "is false, which is not supported"));
            }
        }
        if fields.flag("do_pad", false)? {
            return Err(fields.wrong("do_pad", "is true, which is not supported"));
        }
        let filter = fields.get("resample").map(Value::as_u64);
        if filter.is_some_and(|filter| filter != Some(BICUBIC)) {
            return Err(fields.wrong("resample", "is not 3 (bicubic), which alone is supported"));
        }
        let size = size(fields)?;
        let crop = match square(fields, "crop_size", "crop_size.")? {
            Size::ShortestEdge(side) => side,
            Size::Exactly { height, width } if height == width => height,
            Size::Exactly { .. } => return Err(fields.wrong("crop_size", "must be a square")),
        };
        let least = match size {
            Size::ShortestEdge(edge) => edge,
            Size::Exactly { height, width } => height.min(width),
        };
        if crop > least {
            let message =
                format!("is {crop}, more than the {least} pixels that frames are resized to");
            return Err(fields.wrong("crop_size", message));
        }
        let rescale = fields.positive("rescale_factor", 1.0 / 255.0)?;
        let (mean, std) = (fields.three("image_mean")?, fields.three("image_std")?);
        if std.iter().any(|std| *std <= 0.0) {
            return Err(fields.wrong("image_std", "must be positive"));
        }
        let table = mean.iter().zip(std).map(|(mean, std)| {
            let mut table = [0f32; 256];
            for (byte, value) in table.iter_mut().enumerate() {
                *value = ((byte as f64 * rescale - mean) / std) as f32;
            }
            table
        });
        Ok(Self {
            size,
            crop,
            table: table.collect(),
        })
    }

    /// Side of the square that a model sees, pixels.
    pub fn side(&self) -> usize {
        self.crop
    }

    /// `[B, 3, side, side]` in f32 of frames of any sizes.
    ///
    /// # Errors
    /// [`Error::Caller`] for a frame so narrow that it cannot be resized, and when there is none.
    pub fn pixels(&self, frames: &[Frame<'_>], device: &Device) -> Result<Tensor> {
        if frames.is_empty() {
            return Err(Error::caller("frames", "there is none to look at"));
        }
        let side = self.crop;
        let mut values: Vec<f32> =
            Vec::with_capacity(frames.len() * self.table.len() * side * side);
        for frame in frames {
            let (height, width) = self.resized(frame)?;
            let bytes = resize(
                frame.pixels(),
                (frame.height(), frame.width()),
                (height, width),
            );
            let (top, left) = ((height - side) / 2, (width - side) / 2);
            for (channel, table) in self.table.iter().enumerate() {
                for line in bytes.chunks_exact(3 * width).skip(top).take(side) {
                    let line = line.chunks_exact(3).skip(left).take(side);
                    values.extend(
                        line.filter_map(|pixel| table.get(usize::from(*pixel.get(channel)?))),
                    );
                }
            }
        }
        let shape = (frames.len(), self.table.len(), side, side);
        Tensor::from_vec(values, shape, device).context(|| "pixels of frames".to_owned())
    }

    /// Height and width before the crop, neither below it.
    fn resized(&self, frame: &Frame<'_>) -> Result<(usize, usize)> {
        let (height, width) = (frame.height(), frame.width());
        let (rows, columns) = match self.size {
            Size::Exactly { height, width } => (height, width),
            Size::ShortestEdge(edge) => {
                let long = edge.saturating_mul(height.max(width)) / height.min(width);
                if height <= width {
                    (edge, long)
                } else {
                    (long, edge)
                }
            }
        };
        if rows.saturating_mul(columns) > MAX_RESIZED {
            return Err(Error::caller(
                "frames",
                format!("{width}x{height} is too narrow: it would be resized to {columns}x{rows}"),
            ));
        }
        Ok((rows, columns))
    }
}

/// `size`: a number or `shortest_edge` for the shorter side, or `height` and `width`.
fn size(fields: Fields<'_>) -> Result<Size> {
    if let Some(Value::Object(_)) = fields.get("size") {
        let inner = fields.inner("size", "size.")?;
        if inner.get("longest_edge").is_some() {
            return Err(inner.wrong("longest_edge", "is set, which is not supported"));
        }
        if inner.get("shortest_edge").is_some() {
            return Ok(Size::ShortestEdge(inner.size(
                "shortest_edge",
                MAX_SIDE,
                None,
            )?));
        }
    }
    square(fields, "size", "size.")
}

/// A number, or an object of `height` and `width`.
fn square<'a>(fields: Fields<'a>, name: &str, prefix: &'a str) -> Result<Size> {
    if let Some(Value::Object(_)) = fields.get(name) {
        let inner = fields.inner(name, prefix)?;
        return Ok(Size::Exactly {
            height: inner.size("height", MAX_SIDE, None)?,
            width: inner.size("width", MAX_SIDE, None)?,
        });
    }
    Ok(Size::ShortestEdge(fields.size(name, MAX_SIDE, None)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        value.as_object().cloned().unwrap()
    }

    /// As of facebook/dinov2-base, smaller.
    fn file() -> Object {
        object(json!({
            "crop_size": {"height": 4, "width": 4}, "do_center_crop": true, "do_resize": true,
            "image_mean": [0.0, 0.5, 1.0], "image_std": [1.0, 0.5, 0.25], "resample": 3,
            "size": {"shortest_edge": 4}
        }))
    }

    fn read(object: &Object) -> Result<Preprocess> {
        Preprocess::read(Path::new("preprocessor_config.json"), object)
    }

    #[test]
    fn the_middle_is_seen_and_normalised() {
        let preprocess = read(&file()).unwrap();
        // 4 rows of 8 columns: nothing is resized, columns 2 to 5 are seen.
        let pixels: Vec<u8> = (0..32)
            .flat_map(|at| [(at % 8 * 51).min(255) as u8, 255, 0])
            .collect();
        let frame = Frame::new(&pixels, 4, 8).unwrap();
        let found = preprocess.pixels(&[frame], &Device::Cpu).unwrap();
        assert_eq!(found.dims(), [1, 3, 4, 4]);
        let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
        for (found, expected) in found.iter().zip([0.4, 0.6, 0.8, 1.0]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        assert!(found[16..32].iter().all(|x| (x - 1.0).abs() < 1e-6));
        assert!(found[32..].iter().all(|x| (x + 4.0).abs() < 1e-6));
    }

    #[test]
    fn the_longer_side_is_rounded_down() {
        let preprocess = read(&file()).unwrap();
        let pixels = vec![0; 7 * 12 * 3];
        // 4 * 12 / 7 = 6.86.
        let wide = Frame::new(&pixels, 7, 12).unwrap();
        assert_eq!(preprocess.resized(&wide).unwrap(), (4, 6));
        let tall = Frame::new(&pixels, 12, 7).unwrap();
        assert_eq!(preprocess.resized(&tall).unwrap(), (6, 4));
        let mut large = file();
        large.insert("size".into(), json!(4096));
        let pixels = vec![0; 3 * 9999];
        let strip = Frame::new(&pixels, 1, 9999).unwrap();
        let message = read(&large)
            .unwrap()
            .resized(&strip)
            .unwrap_err()
            .to_string();
        assert!(message.contains("9999x1"), "{message}");
    }

    #[test]
    fn old_and_new_spellings_mean_the_same() {
        let mut old = file();
        old.insert("crop_size".into(), json!(4));
        old.insert("size".into(), json!(4));
        assert_eq!(read(&old).unwrap(), read(&file()).unwrap());
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (name, value) in [
            ("do_resize", json!(false)),
            ("do_center_crop", json!(false)),
            ("do_pad", json!(true)),
            ("resample", json!(2)),
            ("size", json!({"longest_edge": 9})),
            ("size", json!(null)),
            ("crop_size", json!({"height": 4, "width": 3})),
            ("crop_size", json!(5)),
            ("image_mean", json!([0.5, 0.5])),
            ("image_std", json!([0.0, 1.0, 1.0])),
            ("rescale_factor", json!("1/255")),
        ] {
            let mut wrong = file();
            wrong.insert(name.into(), value.clone());
            let message = read(&wrong).unwrap_err().to_string();
            assert!(
                message.contains(name) && message.contains("preprocessor"),
                "{value}: {message}"
            );
        }
    }
}
