//! What a build without FFmpeg answers.

use std::convert::Infallible;
use std::path::Path;

use super::{Mp4Options, VideoInfo, WrittenVideo};
use crate::media::error::{MediaError, Result};

/// Writes an MP4 file; in this build it cannot be made.
#[derive(Debug)]
pub struct Mp4Writer {
    never: Infallible,
}

impl Mp4Writer {
    /// Refuses: this build has no encoder.
    ///
    /// # Errors
    /// Always [`MediaError::Local`].
    pub fn create(_path: &Path, options: &Mp4Options) -> Result<Self> {
        options.validate()?;
        Err(missing())
    }

    /// Refuses: this build has no encoder.
    ///
    /// # Errors
    /// Always [`MediaError::Local`].
    pub fn create_in_memory(_scratch: &Path, options: &Mp4Options) -> Result<Self> {
        options.validate()?;
        Err(missing())
    }

    /// Never called.
    pub fn push(&mut self, _rgb: &[u8]) -> Result<()> {
        match self.never {}
    }

    /// Never called.
    pub fn frames(&self) -> usize {
        match self.never {}
    }

    /// Never called.
    pub fn finish(self) -> Result<WrittenVideo> {
        match self.never {}
    }

    /// Never called.
    pub fn finish_into_bytes(self) -> Result<Vec<u8>> {
        match self.never {}
    }
}

/// Refuses: this build cannot read video.
///
/// # Errors
/// Always [`MediaError::Local`].
pub fn read_video_info(_path: &Path) -> Result<VideoInfo> {
    Err(missing())
}

fn missing() -> MediaError {
    MediaError::Local {
        message: "this build has no video encoder: write PNG frames with --frames-dir, or build with the \
                  default feature `ffmpeg` (needs the development packages of libavcodec, libavformat, \
                  libavutil and libswscale)"
            .into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::media::Fps;

    #[test]
    fn says_how_to_get_an_encoder() {
        let options = Mp4Options {
            width: 16,
            height: 16,
            fps: Fps::from(16),
            crf: 18,
            metadata: Vec::new(),
        };
        let error = Mp4Writer::create(Path::new("out.mp4"), &options).unwrap_err();
        assert!(error.to_string().contains("--frames-dir"), "{error}");
        assert_eq!(error.fault(), leoma_models::Fault::Local);
    }
}
