//! H.264 in MP4: written frame by frame, published when whole.
//!
//! **Colours.** The bytes are sRGB. They are converted with the BT.601 matrix to limited range, and the
//! file says so: matrix `smpte170m`, primaries `bt709` (those of sRGB), transfer `iec61966-2-1`, range
//! `tv`. The references convert the same way but leave the file untagged. Tagged, every player that
//! reads tags is right; and tools that ignore them and assume BT.601 (OpenCV, most Python loaders) are
//! right as well, which they would not be with BT.709.
//!
//! **Same input, same file.** The number of encoder threads is fixed, since it changes x264's decisions,
//! and its macroblock tree is off, since it depends on stray memory; no dates and no library versions are written by the muxer. Files still differ between versions
//! of libx264, which also notes its version and settings in the stream.
//!
//! Binaries built with the feature `ffmpeg` load libx264 and are then under the GPL as a whole.

use std::path::PathBuf;

use super::error::{MediaError, Result};

#[cfg(feature = "ffmpeg")]
mod info;
#[cfg(feature = "ffmpeg")]
mod writer;
#[cfg(feature = "ffmpeg")]
mod yuv;

#[cfg(feature = "ffmpeg")]
pub(crate) use info::initialise;
#[cfg(feature = "ffmpeg")]
pub use info::read_video_info;
#[cfg(feature = "ffmpeg")]
pub use writer::Mp4Writer;

#[cfg(not(feature = "ffmpeg"))]
mod without;
#[cfg(not(feature = "ffmpeg"))]
pub use without::{Mp4Writer, read_video_info};

/// Frames per second, an exact fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fps {
    /// Frames …
    pub num: u32,
    /// … in so many seconds.
    pub den: u32,
}

impl From<u32> for Fps {
    fn from(num: u32) -> Self {
        Self { num, den: 1 }
    }
}

impl std::fmt::Display for Fps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.den == 1 {
            write!(f, "{}", self.num)
        } else {
            write!(f, "{}/{}", self.num, self.den)
        }
    }
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mp4Options {
    /// Pixels per row; even.
    pub width: u32,
    /// Rows; even.
    pub height: u32,
    /// Frame rate, at most 1000.
    pub fps: Fps,
    /// Constant rate factor, 0 (lossless) to 51 (worst).
    pub crf: u8,
    /// Keys and values for the container, e.g. `comment`, readable with `ffprobe -show_format`.
    pub metadata: Vec<(String, String)>,
}

impl Mp4Options {
    /// Checks sizes, rate and quality.
    ///
    /// # Errors
    /// [`MediaError::Size`] naming the field.
    pub fn validate(&self) -> Result<()> {
        const MAX_SIDE: u32 = 16_384;
        let Self {
            width,
            height,
            fps,
            crf,
            ..
        } = self;
        for (name, side) in [("width", *width), ("height", *height)] {
            if side == 0 || side % 2 != 0 || side > MAX_SIDE {
                return Err(MediaError::size(format!(
                    "{name}: {side} cannot be encoded as yuv420p: choose an even number from 2 to {MAX_SIDE}"
                )));
            }
        }
        if fps.num == 0 || fps.den == 0 || fps.num / fps.den.max(1) > 1000 {
            return Err(MediaError::size(format!(
                "fps: {fps} is not a frame rate: choose one above 0 and at most 1000"
            )));
        }
        if *crf > 51 {
            return Err(MediaError::size(format!(
                "crf: {crf} is out of range: choose 0 to 51"
            )));
        }
        Ok(())
    }

    /// Bytes of one RGB frame.
    pub fn frame_bytes(&self) -> usize {
        self.width as usize * self.height as usize * 3
    }
}

/// A published file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenVideo {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Frames in it.
    pub frames: usize,
}

/// What a video file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoInfo {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Average frame rate.
    pub fps: Fps,
    /// Frames, counted by reading the whole file.
    pub frames: usize,
    /// Name of the codec, e.g. `h264`.
    pub codec: String,
    /// Pixel format, e.g. `yuv420p`.
    pub pix_fmt: String,
    /// Colour matrix, e.g. `smpte170m`.
    pub color_space: String,
    /// Keys and values of the container.
    pub metadata: Vec<(String, String)>,
}
