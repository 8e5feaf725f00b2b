//! Takes decoded frames one latent frame at a time and writes them where they belong.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use candle_core::{Device, Tensor};
use serde_json::json;

use super::dump::Dump;
use super::guard::OutputGuard;
use super::run::Output;
use super::settings::{OutputFormat, Settings};
use crate::error::{Error, Result};
use crate::media::{Fps, Mp4Options, Mp4Writer, encode_png, frames_to_u8, poster, write_png};

/// Where frames go.
pub(super) enum Target<'a> {
    /// Named files; anything that can be written is.
    Files(&'a Output),
    /// One file handed out as bytes, guarded: what must not leave the node is an error.
    Memory {
        /// Folder that holds the file while it is written.
        scratch: &'a Path,
    },
}

/// A finished file and its still.
#[derive(Clone, PartialEq)]
pub struct Media {
    /// The whole file.
    pub bytes: Bytes,
    /// What kind of file it is.
    pub format: OutputFormat,
    /// A small JPEG of the frame in the middle.
    pub poster: Bytes,
}

impl std::fmt::Debug for Media {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Media")
            .field("bytes", &self.bytes.len())
            .field("format", &self.format)
            .field("poster_bytes", &self.poster.len())
            .finish()
    }
}

pub(super) struct FrameSink<'a> {
    settings: &'a Settings,
    digest: &'a str,
    target: Target<'a>,
    writer: Option<Mp4Writer>,
    still: Option<Vec<u8>>,
    poster: Vec<u8>,
    guard: OutputGuard,
    written: usize,
    dump: Option<&'a mut Dump>,
    seconds: f64,
}

impl<'a> FrameSink<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        digest: &'a str,
        target: Target<'a>,
        dump: Option<&'a mut Dump>,
    ) -> Self {
        Self {
            settings,
            digest,
            target,
            writer: None,
            still: None,
            poster: Vec::new(),
            guard: OutputGuard::new(settings.params.num_frames),
            written: 0,
            dump,
            seconds: 0.0,
        }
    }

    /// `chunk [3, f, H, W]` f32 in [-1, 1].
    pub(super) fn take(&mut self, chunk: &Tensor) -> Result<()> {
        let start = Instant::now();
        if self.written == 0 {
            self.writer = self.open()?;
        }
        let (_, count, height, width) = chunk.dims4().map_err(leoma_models::Error::from)?;
        let values = chunk
            .to_device(&Device::Cpu)
            .and_then(|chunk| chunk.flatten_all()?.to_vec1::<f32>())
            .map_err(leoma_models::Error::from)?;
        let guarded = matches!(self.target, Target::Memory { .. });
        if guarded {
            self.guard.values(&values)?;
        }
        let bytes = frames_to_u8(&values, count, height, width, self.settings.rounding)?;
        if let Some(dump) = &mut self.dump {
            dump.decoded(chunk)?;
        }
        for frame in bytes.chunks_exact(3 * height * width) {
            if guarded {
                self.guard.frame(frame);
            }
            self.write(frame, height, width)?;
            self.written += 1;
        }
        self.seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    fn open(&self) -> Result<Option<Mp4Writer>> {
        let options = mp4_options(self.settings, self.digest);
        Ok(match &self.target {
            Target::Files(output) => match &output.mp4 {
                Some(path) => Some(Mp4Writer::create(path, &options)?),
                None => None,
            },
            Target::Memory { scratch } => match self.settings.format {
                OutputFormat::Mp4 => Some(Mp4Writer::create_in_memory(scratch, &options)?),
                OutputFormat::Png => None,
            },
        })
    }

    fn write(&mut self, frame: &[u8], height: usize, width: usize) -> Result<()> {
        if let Some(writer) = &mut self.writer {
            writer.push(frame)?;
        }
        match &self.target {
            Target::Files(output) => {
                if let Some(folder) = &output.frames_dir {
                    let path = folder.join(format!("frame_{:05}.png", self.written));
                    write_png(&path, width as u32, height as u32, frame)?;
                }
            }
            Target::Memory { .. } => {
                if self.written == self.settings.params.num_frames / 2 {
                    self.poster = poster(width as u32, height as u32, frame)?;
                }
                if self.settings.format == OutputFormat::Png && self.written == 0 {
                    self.still = Some(encode_png(width as u32, height as u32, frame)?);
                }
            }
        }
        if let Some(dump) = &mut self.dump {
            dump.frame_u8(frame, [height, width]);
        }
        Ok(())
    }

    /// Closes the file; with a file handed out and the seconds spent on frames.
    pub(super) fn finish(mut self) -> Result<(Option<Media>, f64)> {
        let start = Instant::now();
        let media = match self.target {
            Target::Files(_) => {
                if let Some(writer) = self.writer {
                    writer.finish()?;
                }
                None
            }
            Target::Memory { .. } => {
                self.guard.verdict().map_err(Error::from)?;
                let bytes = match (self.writer.take(), self.still.take()) {
                    (Some(writer), _) => writer.finish_into_bytes()?,
                    (None, still) => still.unwrap_or_default(),
                };
                (!bytes.is_empty()).then_some(Media {
                    bytes: bytes.into(),
                    format: self.settings.format,
                    poster: self.poster.into(),
                })
            }
        };
        Ok((media, self.seconds + start.elapsed().as_secs_f64()))
    }
}

fn mp4_options(settings: &Settings, digest: &str) -> Mp4Options {
    let comment = json!({
        "generator": concat!("leoma-node ", env!("CARGO_PKG_VERSION")),
        "parameters": settings.parameters(),
        "checkpoint_digest": digest,
    });
    Mp4Options {
        width: settings.params.width as u32,
        height: settings.params.height as u32,
        fps: Fps::from(settings.fps),
        crf: settings.crf,
        metadata: vec![("comment".into(), comment.to_string())],
    }
}
