//! PNG, JPEG and WebP to 8-bit RGB, with limits that hold before anything is decoded.
//!
//! The result equals what the reference pipelines see after PIL's `convert("RGB")`: alpha is dropped
//! (not blended), grey and palette are expanded, CMYK and YCCK JPEG use the Adobe convention (stored
//! inverted). Colour profiles are ignored, as there. Three rules differ on purpose:
//! * EXIF orientation is applied (PIL keeps the stored rows unless asked);
//! * 16-bit samples keep their high byte; PIL does that for colour but clips 16-bit grey at 255,
//!   which turns nearly every such picture white;
//! * animated pictures are refused, not reduced to their first frame without a word.
//!
//! PNG and WebP equal PIL bit for bit. JPEG differs from libjpeg-turbo by rounding: at most 4 levels
//! (more than 2 in under 0.05 % of the samples of a picture, 0.16 % of pure noise), on average
//! under 0.4; so a first frame that must match a reference exactly should be a PNG.

use std::io::Cursor;

use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::error::ImageError;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, Limits, RgbImage};

use super::error::{MediaError, Result};

/// What a picture may cost before it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLimits {
    /// Bytes of the encoded file.
    pub max_bytes: u64,
    /// Pixels (width times height).
    pub max_pixels: u64,
    /// Pixels along one side.
    pub max_side: u32,
}

impl Default for ImageLimits {
    /// 32 MiB, 48 Mi pixels (a 48-megapixel phone picture fits), 32,768 along a side.
    fn default() -> Self {
        Self {
            max_bytes: 32 << 20,
            max_pixels: 48 << 20,
            max_side: 1 << 15,
        }
    }
}

/// An 8-bit RGB picture.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage8 {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

impl std::fmt::Debug for RgbImage8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage8({}x{})", self.width, self.height)
    }
}

impl RgbImage8 {
    /// Wraps `data`, shape `[height, width, 3]`.
    ///
    /// # Errors
    /// [`MediaError::Size`] when a side is zero or the buffer does not fit.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self> {
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        if width == 0 || height == 0 || expected != Some(data.len()) {
            return Err(MediaError::size(format!(
                "a {width}x{height} RGB picture needs {expected:?} bytes (at least one pixel), got {}",
                data.len()
            )));
        }
        Ok(Self {
            width,
            height,
            data,
        })
    }

    /// Pixels per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, `[height, width, 3]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

/// Width and height that a PNG file names in its first bytes; nothing is decoded.
pub fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    if !bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return None;
    }
    Some((be32(bytes, 16)?, be32(bytes, 20)?))
}

/// Decodes a PNG, JPEG or WebP picture; the format is read from its first bytes, never from a name.
///
/// # Errors
/// [`MediaError::TooManyBytes`] and [`MediaError::TooManyPixels`] before decoding;
/// [`MediaError::UnsupportedFormat`], [`MediaError::Animated`], [`MediaError::Truncated`],
/// [`MediaError::Corrupt`].
pub fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage8> {
    let found = bytes.len() as u64;
    if found > limits.max_bytes {
        return Err(MediaError::TooManyBytes {
            found,
            limit: limits.max_bytes,
        });
    }
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        // The header chunk comes first; its size is judged before the decoder allocates anything.
        if let Some((width, height)) = png_size(bytes) {
            check_size(width, height, "PNG", limits)?;
        }
        // The limit given here covers what the decoder keeps besides the pixels (profiles, texts).
        let mut decoder_limits = Limits::no_limits();
        decoder_limits.max_alloc = Some(SIDE_ALLOCATIONS);
        let decoder = PngDecoder::with_limits(Cursor::new(bytes), decoder_limits)
            .map_err(|e| sort(e, "PNG"))?;
        if decoder.is_apng().map_err(|e| sort(e, "PNG"))? {
            return Err(MediaError::Animated { format: "PNG" });
        }
        read(decoder, "PNG", limits)
    } else if bytes.starts_with(b"\xff\xd8\xff") {
        // The decoder fills what is missing with grey: look for the end mark first.
        if !jpeg_is_whole(bytes) {
            return Err(MediaError::Truncated { format: "JPEG" });
        }
        let decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(|e| sort(e, "JPEG"))?;
        read(decoder, "JPEG", limits)
    } else if bytes.len() >= 12 && bytes.starts_with(b"RIFF") && &bytes[8..12] == b"WEBP" {
        let payload = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        if u64::from(payload) + 8 > found {
            return Err(MediaError::Truncated { format: "WebP" });
        }
        let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| sort(e, "WebP"))?;
        if decoder.has_animation() {
            return Err(MediaError::Animated { format: "WebP" });
        }
        read(decoder, "WebP", limits)
    } else {
        Err(MediaError::UnsupportedFormat {
            found: describe(bytes),
        })
    }
}

/// Bytes a decoder may allocate besides the pixels.
const SIDE_ALLOCATIONS: u64 = 64 << 20;

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_be_bytes)
}

fn check_size(width: u32, height: u32, format: &'static str, limits: &ImageLimits) -> Result<()> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.max_pixels || width.max(height) > limits.max_side {
        return Err(MediaError::TooManyPixels {
            width,
            height,
            max_pixels: limits.max_pixels,
            max_side: limits.max_side,
        });
    }
    if pixels == 0 {
        let message = format!("the header says {width}x{height}");
        return Err(MediaError::Corrupt { format, message });
    }
    Ok(())
}

fn read<D: ImageDecoder>(
    mut decoder: D,
    format: &'static str,
    limits: &ImageLimits,
) -> Result<RgbImage8> {
    let (width, height) = decoder.dimensions();
    check_size(width, height, format, limits)?;
    let mut decoder_limits = Limits::no_limits();
    decoder_limits.max_alloc = Some(decoder.total_bytes().saturating_add(SIDE_ALLOCATIONS));
    decoder
        .set_limits(decoder_limits)
        .map_err(|e| sort(e, format))?;
    // A damaged EXIF block is no reason to refuse the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let color = decoder.color_type();
    let bytes = usize::try_from(decoder.total_bytes())
        .map_err(|_| MediaError::size(format!("{width}x{height} does not fit this machine")))?;
    let mut samples = vec![0u8; bytes];
    decoder
        .read_image(&mut samples)
        .map_err(|e| sort(e, format))?;

    let rgb = to_rgb(samples, color, format)?;
    let mut picture = RgbImage::from_raw(width, height, rgb)
        .map(DynamicImage::ImageRgb8)
        .ok_or_else(|| MediaError::Corrupt {
            format,
            message: "sizes disagree".into(),
        })?;
    picture.apply_orientation(orientation);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    RgbImage8::new(width, height, picture.into_bytes())
}

/// Samples as the decoder left them to RGB bytes; alpha is dropped, 16 bits keep the high byte.
fn to_rgb(samples: Vec<u8>, color: ColorType, format: &'static str) -> Result<Vec<u8>> {
    // 16-bit samples come in the machine's byte order.
    let high = usize::from(cfg!(target_endian = "little"));
    let rgb = match color {
        ColorType::Rgb8 => samples,
        ColorType::L8 => samples.iter().flat_map(|&g| [g; 3]).collect(),
        ColorType::La8 => samples.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        ColorType::Rgba8 => samples
            .chunks_exact(4)
            .flat_map(|p| [p[0], p[1], p[2]])
            .collect(),
        ColorType::L16 => samples.chunks_exact(2).flat_map(|p| [p[high]; 3]).collect(),
        ColorType::La16 => samples.chunks_exact(4).flat_map(|p| [p[high]; 3]).collect(),
        ColorType::Rgb16 => samples.chunks_exact(2).map(|p| p[high]).collect(),
        ColorType::Rgba16 => samples
            .chunks_exact(8)
            .flat_map(|p| [p[high], p[2 + high], p[4 + high]])
            .collect(),
        other => {
            let message = format!("samples of type {other:?}");
            return Err(MediaError::Corrupt { format, message });
        }
    };
    Ok(rgb)
}

fn sort(error: ImageError, format: &'static str) -> MediaError {
    match error {
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            MediaError::Truncated { format }
        }
        ImageError::Limits(_) => MediaError::Corrupt {
            format,
            message: "reading it would take more memory than its size explains".into(),
        },
        other => {
            let message = other.to_string();
            let lower = message.to_ascii_lowercase();
            if [
                "unexpected end",
                "unexpected eof",
                "exhausted",
                "end of file",
                "fill whole buffer",
            ]
            .iter()
            .any(|sign| lower.contains(sign))
            {
                MediaError::Truncated { format }
            } else {
                MediaError::Corrupt { format, message }
            }
        }
    }
}

/// Walks the markers of a JPEG file up to its end mark (EOI), through all scans.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const EOI: u8 = 0xd9;
    const SOS: u8 = 0xda;
    let mut at = 2;
    loop {
        // A marker: 0xff, any number of fill bytes 0xff, then the code.
        while bytes.get(at).is_some_and(|&b| b != 0xff) {
            at += 1;
        }
        while bytes.get(at) == Some(&0xff) {
            at += 1;
        }
        let Some(&code) = bytes.get(at) else {
            return false;
        };
        at += 1;
        match code {
            EOI => return true,
            // Stuffed zero, restart marks and stand-alone codes carry no length.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            _ => {
                let Some(&[a, b]) = bytes.get(at..at + 2) else {
                    return false;
                };
                at += usize::from(u16::from_be_bytes([a, b]));
                // After a scan header come entropy-coded bytes, in which 0xff is followed by zero or
                // a restart mark: the search above walks over them.
                if at > bytes.len() || (code == SOS && at == bytes.len()) {
                    return false;
                }
            }
        }
    }
}

fn describe(bytes: &[u8]) -> String {
    let known: [(&[u8], &str); 8] = [
        (b"GIF8", "GIF"),
        (b"BM", "BMP"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"%PDF", "PDF"),
        (b"<svg", "SVG"),
        (b"<?xml", "XML or SVG"),
        (b"\0\0\0\x0cjP", "JPEG 2000"),
    ];
    if bytes.is_empty() {
        return "empty".into();
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        let brand = bytes.get(8..12).unwrap_or_default();
        return match brand {
            b"avif" | b"avis" => "AVIF".into(),
            b"heic" | b"heix" | b"mif1" | b"msf1" => "HEIC".into(),
            _ => "a video (MP4 family)".into(),
        };
    }
    known
        .iter()
        .find(|(magic, _)| bytes.starts_with(magic))
        .map_or_else(
            || "of an unknown format".into(),
            |(_, name)| (*name).to_owned(),
        )
}
