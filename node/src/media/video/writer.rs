//! The H.264/MP4 writer on FFmpeg's libraries and libx264.

use std::io;
use std::path::Path;

use ffmpeg_next as ffmpeg;

use ffmpeg::codec::threading;
use ffmpeg::format::context::Output;
use ffmpeg::format::{self, Pixel};
use ffmpeg::{Dictionary, Packet, Rational, codec, color, encoder, frame};

use super::yuv::{self, Plane};
use super::{Mp4Options, WrittenVideo};
use crate::media::error::{MediaError, Result};
use crate::media::publish::Pending;

/// Encoder threads; part of what decides the bytes, so not taken from the machine.
const THREADS: usize = 4;

/// Writes an MP4 file frame by frame: H.264, yuv420p, index first ("faststart").
///
/// Memory does not grow with the number of frames. Until [`finish`](Self::finish) there is only a
/// temporary file beside the target; dropping the writer removes it.
pub struct Mp4Writer {
    // Field order is drop order: the muxer closes the file before the file is removed.
    output: Output,
    encoder: encoder::video::Encoder,
    pending: Pending,
    options: Mp4Options,
    /// Duration of one frame, the encoder's unit.
    tick: Rational,
    frames: usize,
}

impl std::fmt::Debug for Mp4Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mp4Writer")
            .field("target", &self.pending.target())
            .field("options", &self.options)
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

impl Mp4Writer {
    /// Starts a file that [`finish`](Self::finish) will publish as `path`, replacing what is there.
    ///
    /// # Errors
    /// [`MediaError::Size`] for values that cannot be encoded, [`MediaError::Unwritable`] and
    /// [`MediaError::DiskFull`] from the folder, [`MediaError::Local`] without libx264.
    pub fn create(path: &Path, options: &Mp4Options) -> Result<Self> {
        options.validate()?;
        Self::open(Pending::beside(path)?, options)
    }

    /// Starts a file that [`finish_into_bytes`](Self::finish_into_bytes) will hand out; it lives in the
    /// folder `scratch` until then.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_in_memory(scratch: &Path, options: &Mp4Options) -> Result<Self> {
        options.validate()?;
        Self::open(Pending::within(scratch)?, options)
    }

    fn open(pending: Pending, options: &Mp4Options) -> Result<Self> {
        super::info::initialise()?;
        let codec = encoder::find_by_name("libx264").ok_or_else(|| MediaError::Local {
            message: "FFmpeg on this machine has no libx264: install the distribution's full FFmpeg \
                      (Debian and Ubuntu: libavcodec with libx264), or write PNG frames with --frames-dir"
                .into(),
        })?;
        let failed = |error| sort(error, &pending, "setting up");

        let url = super::info::file_url(pending.path())?;
        let mut output = format::output_as(&url, "mp4").map_err(failed)?;
        let rate = Rational::new(options.fps.num as i32, options.fps.den as i32).reduce();
        let tick = rate.invert();

        let context = codec::Context::new_with_codec(codec);
        let mut video = context.encoder().video().map_err(failed)?;
        video.set_width(options.width);
        video.set_height(options.height);
        video.set_format(Pixel::YUV420P);
        video.set_time_base(tick);
        video.set_frame_rate(Some(rate));
        video.set_aspect_ratio((1, 1));
        video.set_colorspace(color::Space::SMPTE170M);
        video.set_color_range(color::Range::MPEG);
        video.set_color_primaries(color::Primaries::BT709);
        video.set_color_transfer_characteristic(color::TransferCharacteristic::IEC61966_2_1);
        video.set_threading(threading::Config {
            kind: threading::Type::Frame,
            count: THREADS,
            ..threading::Config::default()
        });
        // MP4 keeps the parameter sets in its header.
        video.set_flags(
            codec::Flags::GLOBAL_HEADER | codec::Flags::CLOSED_GOP | codec::Flags::BITEXACT,
        );
        let crf = options.crf.to_string();
        // x264's macroblock tree reads memory it never wrote (seen in core 164: files change with what
        // the allocator hands out), so it stays off: the same frames make the same file.
        let settings = [("preset", "medium"), ("crf", crf.as_str()), ("mbtree", "0")];
        let encoder = video
            .open_as_with(codec, settings.iter().collect())
            .map_err(failed)?;

        {
            let mut stream = output.add_stream(codec).map_err(failed)?;
            stream.set_parameters(&encoder);
            stream.set_time_base(tick);
            stream.set_rate(rate);
            stream.set_avg_frame_rate(rate);
        }
        let mut metadata = Dictionary::new();
        for (key, value) in &options.metadata {
            // The library takes C strings.
            metadata.set(&key.replace('\0', ""), &value.replace('\0', "\u{fffd}"));
        }
        output.set_metadata(metadata);
        let mux = [
            ("movflags", "+faststart+use_metadata_tags"),
            ("fflags", "+bitexact"),
        ];
        output
            .write_header_with(mux.iter().collect())
            .map_err(failed)?;
        let options = options.clone();
        Ok(Self {
            output,
            encoder,
            pending,
            options,
            tick,
            frames: 0,
        })
    }

    /// Frames pushed so far.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Appends a frame, `[height, width, 3]` bytes.
    ///
    /// # Errors
    /// [`MediaError::Size`] for a buffer of another length, [`MediaError::DiskFull`],
    /// [`MediaError::Encode`].
    pub fn push(&mut self, rgb: &[u8]) -> Result<()> {
        let expected = self.options.frame_bytes();
        if rgb.len() != expected {
            return Err(MediaError::size(format!(
                "frame {} has {} bytes, expected {expected} for {}x{} RGB",
                self.frames,
                rgb.len(),
                self.options.width,
                self.options.height
            )));
        }
        let (width, height) = (self.options.width, self.options.height);
        // The encoder keeps a reference while it looks ahead, so each frame has its own buffer.
        let mut picture = frame::Video::new(Pixel::YUV420P, width, height);
        fill(&mut picture, rgb, width as usize, height as usize);
        picture.set_pts(Some(self.frames as i64));
        self.encoder
            .send_frame(&picture)
            .map_err(|e| sort(e, &self.pending, "encoding a frame"))?;
        self.frames += 1;
        self.drain()
    }

    /// Moves finished packets from the encoder to the file.
    fn drain(&mut self) -> Result<()> {
        let mut packet = Packet::empty();
        loop {
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(
                    ffmpeg::Error::Eof
                    | ffmpeg::Error::Other {
                        errno: libc::EAGAIN,
                    },
                ) => {
                    return Ok(());
                }
                Err(error) => return Err(sort(error, &self.pending, "encoding")),
            }
            packet.set_stream(0);
            // Without a duration the last frame is lost on reading: its end is nowhere written.
            packet.set_duration(1);
            let target = self.output.stream(0).map_or(self.tick, |s| s.time_base());
            packet.rescale_ts(self.tick, target);
            packet
                .write_interleaved(&mut self.output)
                .map_err(|e| sort(e, &self.pending, "writing"))?;
        }
    }

    /// Ends the stream and closes the file; what remains is the whole, unpublished file.
    fn close(mut self) -> Result<(Pending, usize)> {
        if self.frames == 0 {
            return Err(MediaError::size(
                "a video needs at least one frame, got none",
            ));
        }
        self.encoder
            .send_eof()
            .map_err(|e| sort(e, &self.pending, "ending the stream"))?;
        self.drain()?;
        self.output
            .write_trailer()
            .map_err(|e| sort(e, &self.pending, "writing the index"))?;
        let Self {
            output,
            encoder,
            pending,
            frames,
            ..
        } = self;
        drop(output);
        drop(encoder);
        Ok((pending, frames))
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// [`MediaError::Size`] without a frame, [`MediaError::DiskFull`], [`MediaError::Unwritable`];
    /// nothing is left behind then, and an older file of that name is untouched.
    pub fn finish(self) -> Result<WrittenVideo> {
        let (mut pending, frames) = self.close()?;
        let bytes = pending
            .file()
            .metadata()
            .map_err(|e| pending.error(e))?
            .len();
        let path = pending.publish()?;
        Ok(WrittenVideo {
            path,
            bytes,
            frames,
        })
    }

    /// Completes the file, removes it and returns its bytes.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn finish_into_bytes(self) -> Result<Vec<u8>> {
        self.close()?.0.into_bytes()
    }
}

fn fill(picture: &mut frame::Video, rgb: &[u8], width: usize, height: usize) {
    let stride = picture.stride(0);
    yuv::luma(
        rgb,
        width,
        height,
        Plane {
            data: picture.data_mut(0),
            stride,
        },
    );
    // The safe interface lends one plane at a time; the second goes through a buffer.
    let (cb_stride, cr_stride) = (picture.stride(1), picture.stride(2));
    let mut cr = vec![0u8; cr_stride * height / 2];
    let cb = Plane {
        data: picture.data_mut(1),
        stride: cb_stride,
    };
    yuv::chroma(
        rgb,
        width,
        height,
        cb,
        Plane {
            data: &mut cr,
            stride: cr_stride,
        },
    );
    let plane = picture.data_mut(2);
    let bytes = plane.len().min(cr.len());
    plane[..bytes].copy_from_slice(&cr[..bytes]);
}

fn sort(error: ffmpeg::Error, pending: &Pending, step: &str) -> MediaError {
    match error {
        ffmpeg::Error::Other { errno } if errno != libc::EINVAL && errno != libc::ENOMEM => {
            pending.error(io::Error::from_raw_os_error(errno))
        }
        other => MediaError::Encode {
            message: format!("{step}: {other}"),
        },
    }
}
