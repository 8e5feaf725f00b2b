//! Reading back what a video file says about itself.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ffmpeg_next as ffmpeg;

use ffmpeg::format::Pixel;
use ffmpeg::{Packet, codec, format, log, media};

use super::{Fps, VideoInfo};
use crate::media::error::{MediaError, Result};

/// Sets the library up once; it logs nothing by itself, since every failure is reported as an error.
pub(crate) fn initialise() -> Result<()> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        ffmpeg::init().map_err(|e| e.to_string())?;
        log::set_level(log::Level::Quiet);
        Ok(())
    });
    done.clone().map_err(|message| MediaError::Local {
        message: format!("FFmpeg's libraries do not start ({message}): install them again"),
    })
}

/// The library reads names as addresses; the prefix keeps names with a colon what they are.
pub(super) fn file_url(path: &Path) -> Result<PathBuf> {
    let name = path.to_str().ok_or_else(|| {
        MediaError::size(format!(
            "{}: choose a folder whose name is valid UTF-8",
            path.display()
        ))
    })?;
    Ok(PathBuf::from(format!("file:{name}")))
}

/// Reads size, rate, codec and tags of the first video stream and counts its frames.
///
/// # Errors
/// [`MediaError::Video`] when the file cannot be read as video.
pub fn read_video_info(path: &Path) -> Result<VideoInfo> {
    initialise()?;
    let failed = |message: String| MediaError::Video {
        path: path.to_owned(),
        message,
    };
    let mut input =
        format::input(&file_url(path)?).map_err(|e: ffmpeg::Error| failed(e.to_string()))?;
    let stream = input
        .streams()
        .best(media::Type::Video)
        .ok_or_else(|| failed("it has no video stream".into()))?;
    let index = stream.index();
    let rate = stream.avg_frame_rate();
    let parameters = stream.parameters();
    let codec = parameters.id().name().to_owned();
    let decoder = codec::Context::from_parameters(parameters)
        .and_then(|context| context.decoder().video())
        .map_err(|e| failed(e.to_string()))?;
    let pixel: Pixel = decoder.format();
    let metadata = input
        .metadata()
        .iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();

    let mut frames = 0;
    let mut packet = Packet::empty();
    loop {
        match packet.read(&mut input) {
            Ok(()) => frames += usize::from(packet.stream() == index && packet.size() > 0),
            Err(ffmpeg::Error::Eof) => break,
            Err(error) => return Err(failed(error.to_string())),
        }
    }
    Ok(VideoInfo {
        width: decoder.width(),
        height: decoder.height(),
        fps: Fps {
            num: rate.numerator() as u32,
            den: rate.denominator() as u32,
        },
        frames,
        codec,
        pix_fmt: pixel
            .descriptor()
            .map_or_else(|| "unknown".into(), |d| d.name().to_owned()),
        color_space: decoder.color_space().name().unwrap_or("unknown").to_owned(),
        metadata,
    })
}
