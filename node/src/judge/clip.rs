//! A clip to be judged: its frames, where they come from, and what can be wrong with them.
//!
//! [`decode`] reads a video in a child process that may use only so much memory, time and space, since the
//! file comes from whoever is judged by it. Everything behind works on [`Clip`], which borrows the frames:
//! they are decoded once and shared.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use leoma_models::Fault;

use super::decode;
use crate::media::RgbImage8;

/// What every judge looks at.
#[derive(Debug, Clone, Copy)]
pub struct Clip<'a> {
    /// The frames in order, all of one size.
    pub frames: &'a [RgbImage8],
    /// Frames per second.
    pub fps: f64,
    /// The conditioning image, of any size.
    pub first: &'a RgbImage8,
}

/// A decoded video.
#[derive(Debug, Clone)]
pub struct DecodedClip {
    /// The frames as stored, in the order shown; none repeated, none dropped.
    pub frames: Vec<RgbImage8>,
    /// Frames per second, an exact fraction.
    pub fps: (u32, u32),
    /// When each frame is shown, seconds after the first.
    pub times_s: Vec<f64>,
    /// Name of the codec, e.g. `h264`.
    pub codec: String,
    /// Packets that the decoder complained about. What it made of them is among the frames, as players
    /// and the subnet's frame extraction would show it.
    pub damaged_packets: u32,
}

impl DecodedClip {
    /// Frames per second as a number.
    pub fn rate(&self) -> f64 {
        f64::from(self.fps.0) / f64::from(self.fps.1.max(1))
    }

    /// The clip together with its conditioning image.
    pub fn with_first<'a>(&'a self, first: &'a RgbImage8) -> Clip<'a> {
        Clip {
            frames: &self.frames,
            fps: self.rate(),
            first,
        }
    }
}

/// A frame size that a clip must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequiredSize {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Pixels by which each side may differ.
    pub tolerance: u32,
}

impl RequiredSize {
    /// Whether a frame fits.
    pub fn accepts(&self, width: u32, height: u32) -> bool {
        width.abs_diff(self.width) <= self.tolerance
            && height.abs_diff(self.height) <= self.tolerance
    }
}

/// What a clip may cost, and what it must be.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipLimits {
    /// Bytes of the file.
    pub max_bytes: u64,
    /// Frames it must have; never less than two.
    pub min_frames: usize,
    /// Frames it may have.
    pub max_frames: usize,
    /// Seconds it may last, by its header and by its frames.
    pub max_seconds: f64,
    /// Pixels of a frame.
    pub max_pixels: u64,
    /// Bytes of all decoded frames.
    pub max_decoded_bytes: u64,
    /// The size its frames must have, if any.
    pub size: Option<RequiredSize>,
    /// Address space of the child process beyond what the program itself takes, bytes.
    pub memory_bytes: u64,
    /// Processor time of the child process, seconds.
    pub cpu_seconds: u64,
    /// Time on the clock that decoding may take.
    pub patience: Duration,
}

impl Default for ClipLimits {
    /// Room for a minute of video: 256 MiB of file, 2 to 1,500 frames, 60 s, 4 Mi pixels, 2 GiB decoded; 2 GiB
    /// of address space, 60 s of processor time, 90 s on the clock. Any size.
    fn default() -> Self {
        Self {
            max_bytes: 256 << 20,
            min_frames: 2,
            max_frames: 1_500,
            max_seconds: 60.0,
            max_pixels: 4 << 20,
            max_decoded_bytes: 2 << 30,
            size: None,
            memory_bytes: 2 << 30,
            cpu_seconds: 60,
            patience: Duration::from_secs(90),
        }
    }
}

/// Why a file gave no clip.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClipError {
    /// The file is not there, not a file, or not readable.
    #[error("{}: cannot be read ({source}): give a video file", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The file is larger than allowed.
    #[error("{}: {found} bytes, the limit is {limit}", path.display())]
    TooManyBytes {
        /// The file.
        path: PathBuf,
        /// Bytes found.
        found: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The file is no video, or of a kind that is not accepted.
    #[error("{}: not a video that can be judged ({message})", path.display())]
    NotVideo {
        /// The file.
        path: PathBuf,
        /// What was found, in the library's words.
        message: String,
    },
    /// The file has a video stream without a single frame.
    #[error("{}: the video has no frame", path.display())]
    NoFrames {
        /// The file.
        path: PathBuf,
    },
    /// Fewer frames than a clip must have.
    #[error("{}: {found} frame(s), at least {needed} are needed", path.display())]
    TooFewFrames {
        /// The file.
        path: PathBuf,
        /// Frames found.
        found: usize,
        /// Frames needed.
        needed: usize,
    },
    /// More frames than allowed.
    #[error("{}: more than {limit} frames", path.display())]
    TooManyFrames {
        /// The file.
        path: PathBuf,
        /// Frames allowed.
        limit: usize,
    },
    /// Longer than allowed.
    #[error("{}: lasts {seconds:.1} s, the limit is {limit:.1} s", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Seconds found.
        seconds: f64,
        /// Seconds allowed.
        limit: f64,
    },
    /// Frames with more pixels than allowed, or more of them than memory is set aside for.
    #[error("{}: {width}x{height}, the limits are {max_pixels} pixels a frame and {max_decoded_bytes} bytes in all", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// Pixels allowed.
        max_pixels: u64,
        /// Bytes allowed for all frames.
        max_decoded_bytes: u64,
    },
    /// Not the size asked for.
    #[error("{}: {width}x{height}, not {}x{} (each side may differ by {})", path.display(), needed.width, needed.height, needed.tolerance)]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// What is needed.
        needed: RequiredSize,
    },
    /// The frame size changes inside the clip.
    #[error("{}: frame {frame} has another size than the frames before it", path.display())]
    SizeChanges {
        /// The file.
        path: PathBuf,
        /// The first frame that differs.
        frame: u64,
    },
    /// The frames are not evenly spaced in time.
    #[error("{}: the frame rate varies (a frame lasts {shortest_ms:.1} to {longest_ms:.1} ms): encode it at a constant rate", path.display())]
    VariableRate {
        /// The file.
        path: PathBuf,
        /// Shortest frame.
        shortest_ms: f64,
        /// Longest frame.
        longest_ms: f64,
    },
    /// Decoding took longer than it may, on the clock or of the processor.
    #[error("{}: decoding was stopped after {limit_s} s: the video is hostile or this machine is busy", path.display())]
    TimedOut {
        /// The file.
        path: PathBuf,
        /// The limit that was hit, seconds.
        limit_s: u64,
    },
    /// Decoding needed more memory than it may have.
    #[error("{}: decoding needs more memory than the limit of {limit_bytes} bytes", path.display())]
    OutOfMemory {
        /// The file.
        path: PathBuf,
        /// Bytes allowed.
        limit_bytes: u64,
    },
    /// The decoding process died.
    #[error("{}: the decoder died ({how}): the video is hostile or the decoder has a fault", path.display())]
    Crashed {
        /// The file.
        path: PathBuf,
        /// Signal or exit code.
        how: String,
    },
    /// This installation cannot decode.
    #[error("{message}")]
    Local {
        /// What is missing and the remedy.
        message: String,
    },
}

impl ClipError {
    /// Who has to act. `Artifact` means that the clip itself is at fault; only that may count against who made
    /// it. A decoder that dies or runs out of time may be our own fault, so it is `Transient`: no verdict.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Unreadable { .. } => Fault::Caller,
            Self::TooManyBytes { .. }
            | Self::NotVideo { .. }
            | Self::NoFrames { .. }
            | Self::TooFewFrames { .. }
            | Self::TooManyFrames { .. }
            | Self::TooLong { .. }
            | Self::TooLarge { .. }
            | Self::WrongSize { .. }
            | Self::SizeChanges { .. }
            | Self::VariableRate { .. } => Fault::Artifact,
            Self::TimedOut { .. } | Self::OutOfMemory { .. } | Self::Crashed { .. } => {
                Fault::Transient
            }
            Self::Local { .. } => Fault::Local,
        }
    }
}

/// Decodes a video at its own frame rate to 8-bit RGB, in a child process of this program.
///
/// **Colours**: YCbCr is converted with the matrix and range that the stream names; BT.601 and limited range
/// when it names none, as the subnet's frame extraction does. **Turned pictures**: marks that ask for a turn by
/// 90, 180 or 270 degrees or a mirror image are followed, as that does.
///
/// # Errors
/// [`ClipError`]; see [`ClipError::fault`] for what may be held against whom.
pub fn decode(path: &Path, limits: &ClipLimits) -> Result<DecodedClip, ClipError> {
    decode::parent::decode(&decode::parent::own_program()?, path, limits)
}

/// As [`decode`], with the program that is started as the child: a `leoma-node` of the same build. For
/// programs that are not `leoma-node` themselves.
///
/// # Errors
/// As [`decode`].
pub fn decode_with(
    program: &Path,
    path: &Path,
    limits: &ClipLimits,
) -> Result<DecodedClip, ClipError> {
    decode::parent::decode(program, path, limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_with_the_clip_counts_against_it() {
        let path = PathBuf::from("clip.mp4");
        let artifact = ClipError::NoFrames { path: path.clone() };
        assert_eq!(artifact.fault(), Fault::Artifact);
        let crash = ClipError::Crashed {
            path: path.clone(),
            how: "signal 11".into(),
        };
        let slow = ClipError::TimedOut { path, limit_s: 3 };
        for error in [crash, slow] {
            assert_eq!(error.fault(), Fault::Transient);
            assert!(error.to_string().starts_with("clip.mp4: "), "{error}");
        }
    }

    #[test]
    fn sizes_may_differ_by_the_tolerance() {
        let size = RequiredSize {
            width: 832,
            height: 480,
            tolerance: 32,
        };
        assert!(size.accepts(832, 480) && size.accepts(864, 448));
        assert!(!size.accepts(865, 480) && !size.accepts(480, 832));
    }
}
