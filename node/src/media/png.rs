//! Frames as PNG files, for `--frames-dir`.

use std::io::{BufWriter, Write};
use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::error::{MediaError, Result};
use super::publish::Pending;

/// Writes `rgb` (`[height, width, 3]`, 8 bits) as PNG; the file appears only when it is whole.
///
/// # Errors
/// [`MediaError::Size`] when the buffer does not fit the size; [`MediaError::Unwritable`] and
/// [`MediaError::DiskFull`] from the folder.
pub fn write_png(path: &Path, width: u32, height: u32, rgb: &[u8]) -> Result<()> {
    let expected = width as usize * height as usize * 3;
    if expected == 0 || rgb.len() != expected {
        return Err(MediaError::size(format!(
            "a {width}x{height} PNG needs {expected} bytes of RGB (at least one pixel), got {}",
            rgb.len()
        )));
    }
    let mut pending = Pending::beside(path)?;
    let mut writer = BufWriter::new(pending.file());
    let encoded = PngEncoder::new(&mut writer)
        .write_image(rgb, width, height, ExtendedColorType::Rgb8)
        .map_err(|error| match error {
            image::ImageError::IoError(source) => MediaError::writing(path, source),
            other => MediaError::Encode {
                message: format!("PNG: {other}"),
            },
        });
    let flushed = writer.flush();
    drop(writer);
    encoded?;
    flushed.map_err(|e| pending.error(e))?;
    pending.publish()?;
    Ok(())
}
