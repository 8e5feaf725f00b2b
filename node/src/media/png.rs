//! Frames as PNG and JPEG files.

use std::io::Write;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, ExtendedColorType, ImageEncoder, RgbImage};

use super::error::{MediaError, Result};
use super::publish::Pending;

/// Longest side of a poster.
const POSTER_SIDE: u32 = 480;
const POSTER_QUALITY: u8 = 82;

/// Writes `rgb` (`[height, width, 3]`, 8 bits) as PNG; the file appears only when it is whole.
///
/// # Errors
/// [`MediaError::Size`] when the buffer does not fit the size; [`MediaError::Unwritable`] and
/// [`MediaError::DiskFull`] from the folder.
pub fn write_png(path: &Path, width: u32, height: u32, rgb: &[u8]) -> Result<()> {
    let bytes = encode_png(width, height, rgb)?;
    let mut pending = Pending::beside(path)?;
    let written = pending.file().write_all(&bytes);
    written.map_err(|e| pending.error(e))?;
    pending.publish()?;
    Ok(())
}

/// `rgb` (`[height, width, 3]`, 8 bits) as the bytes of a PNG file.
///
/// # Errors
/// [`MediaError::Size`] when the buffer does not fit the size.
pub fn encode_png(width: u32, height: u32, rgb: &[u8]) -> Result<Vec<u8>> {
    let expected = width as usize * height as usize * 3;
    if expected == 0 || rgb.len() != expected {
        return Err(MediaError::size(format!(
            "a {width}x{height} PNG needs {expected} bytes of RGB (at least one pixel), got {}",
            rgb.len()
        )));
    }
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(rgb, width, height, ExtendedColorType::Rgb8)
        .map_err(failed)?;
    Ok(bytes)
}

/// A small JPEG of a frame, for lists of clips.
///
/// # Errors
/// [`MediaError::Size`] when the buffer does not fit the size.
pub fn poster(width: u32, height: u32, rgb: &[u8]) -> Result<Vec<u8>> {
    let frame = RgbImage::from_raw(width, height, rgb.to_vec()).ok_or_else(|| {
        MediaError::size(format!(
            "{} bytes are no frame of {width}x{height}",
            rgb.len()
        ))
    })?;
    let frame = DynamicImage::ImageRgb8(frame);
    let small = if width.max(height) > POSTER_SIDE {
        frame.resize(POSTER_SIDE, POSTER_SIDE, FilterType::Triangle)
    } else {
        frame
    };
    let mut bytes = Vec::new();
    small
        .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, POSTER_QUALITY))
        .map_err(failed)?;
    Ok(bytes)
}

fn failed(error: image::ImageError) -> MediaError {
    MediaError::Encode {
        message: error.to_string(),
    }
}
