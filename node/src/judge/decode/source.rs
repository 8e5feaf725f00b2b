//! FFmpeg's libraries on an open file: packets to frames to RGB.

use std::fs::File;
use std::io::Write;

use ffmpeg_next as ffmpeg;

use ffmpeg::codec::packet::side_data::Type as SideType;
use ffmpeg::codec::threading;
use ffmpeg::format::context::StreamIo;
use ffmpeg::format::{self, Pixel};
use ffmpeg::software::scaling::{Context as Scaler, Flags};
use ffmpeg::{Dictionary, Packet, Rational, codec, color, frame, log, media};

use super::child::{ChildLimits, Stop};
use super::colour::{Converter, Matrix};
use super::turn::{MATRIX_BYTES, Turn};
use super::wire::{Header, Refusal, Sender};

/// Containers that are opened. Playlists and image sequences, which name other files, are not among them.
const CONTAINERS: &str = "mov,matroska,avi,gif";
/// Video codecs that are decoded, by the name of the codec.
const CODECS: [&str; 9] = [
    "h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mjpeg", "gif", "rawvideo",
];
/// Decoders that opening may try on any stream, by the name of the decoder.
const DECODERS: &str =
    "h264,hevc,av1,libdav1d,libaom-av1,vp8,libvpx,vp9,libvpx-vp9,mpeg4,mjpeg,gif,rawvideo";

/// Decodes the best video stream of `file` and sends it.
pub(super) fn decode<W: Write>(
    file: File,
    limits: &ChildLimits,
    sender: &mut Sender<W>,
) -> Result<(), Stop> {
    ffmpeg::init().map_err(|error| {
        let message = format!("FFmpeg's libraries do not start ({error}): install them again");
        Stop::Refused(Refusal::Local(message))
    })?;
    log::set_level(log::Level::Quiet);

    let mut options = Dictionary::new();
    options.set("format_whitelist", CONTAINERS);
    options.set("codec_whitelist", DECODERS);
    // Nothing is opened by name: the file comes through callbacks.
    options.set("protocol_whitelist", "none");
    options.set("max_streams", "16");
    let stream = StreamIo::from_read_seek(file).map_err(refused)?;
    let mut input = format::input_from_stream(stream, None, Some(options)).map_err(refused)?;

    let (index, time_base, announced, parameters, stream_ticks, turn) = {
        let stream = input
            .streams()
            .best(media::Type::Video)
            .ok_or_else(|| not_video("it has no video stream"))?;
        (
            stream.index(),
            stream.time_base(),
            stream.avg_frame_rate(),
            stream.parameters(),
            stream.duration(),
            turn_of(&stream),
        )
    };
    // What the header announces is checked first: a long clip is refused before any of it is decoded.
    let container_ms = u64::try_from(input.duration() / 1000).unwrap_or(0);
    let stream_ms = ticks_to_ms(stream_ticks, time_base);
    let longest = container_ms.max(stream_ms);
    if longest > limits.max_ms {
        return Err(Stop::Refused(Refusal::TooLong(longest)));
    }
    let codec_name = parameters.id().name().to_owned();
    if !CODECS.contains(&codec_name.as_str()) {
        return Err(not_video(&format!("its codec is {codec_name}")));
    }
    let mut context = codec::Context::from_parameters(parameters).map_err(refused)?;
    // One thread: the limit on processor time is then one on the clock, too, and memory is smallest.
    context.set_threading(threading::Config {
        kind: threading::Type::None,
        count: 1,
        ..threading::Config::default()
    });
    let mut decoder = context.decoder().video().map_err(refused)?;
    check_pixels(decoder.width(), decoder.height(), limits)?;

    let mut out = Output {
        sender,
        limits,
        time_base,
        announced,
        codec: codec_name,
        turn,
        size: None,
        sent: 0,
        first_time: None,
        picture: Picture::default(),
        shown: Vec::new(),
    };
    let mut damaged = 0u32;
    let mut packet = Packet::empty();
    // Reading ends at the end of the file or where its structure breaks; what came before counts, as it
    // does for players.
    loop {
        match packet.read(&mut input) {
            Ok(()) => {}
            Err(ffmpeg::Error::Eof) => break,
            Err(error) => {
                damaged = damaged.saturating_add(lost(error)?);
                break;
            }
        }
        if packet.stream() != index {
            continue;
        }
        match decoder.send_packet(&packet) {
            Ok(()) => {}
            Err(ffmpeg::Error::Other {
                errno: libc::ENOMEM,
            }) => return Err(Stop::Refused(Refusal::Memory)),
            Err(_) => damaged = damaged.saturating_add(1),
        }
        damaged = damaged.saturating_add(drain(&mut decoder, &mut out)?);
    }
    // An error here means that nothing is left inside.
    let _ = decoder.send_eof();
    damaged = damaged.saturating_add(drain(&mut decoder, &mut out)?);
    sender.end(damaged)?;
    Ok(())
}

/// How the stream asks to be shown.
fn turn_of(stream: &format::stream::Stream<'_>) -> Turn {
    // By size first: the library may know kinds of data that its Rust names do not.
    let matrix = stream
        .side_data()
        .find(|data| data.data().len() == MATRIX_BYTES && data.kind() == SideType::DisplayMatrix);
    matrix.map_or_else(Turn::default, |matrix| Turn::of_matrix(matrix.data()))
}

/// Sends every frame that the decoder has ready, up to one that it cannot make: 1 then, else 0.
fn drain<W: Write>(
    decoder: &mut ffmpeg::decoder::Video,
    out: &mut Output<'_, W>,
) -> Result<u32, Stop> {
    let mut decoded = frame::Video::empty();
    loop {
        match decoder.receive_frame(&mut decoded) {
            Ok(()) => out.frame(&decoded)?,
            Err(error) => return lost(error),
        }
    }
}

/// What an error of the library costs: nothing where it waits for a packet or is done, else a packet. Memory that is
/// short ends it all: a frame that is missing for that would look like the clip's fault.
fn lost(error: ffmpeg::Error) -> Result<u32, Stop> {
    match error {
        ffmpeg::Error::Eof
        | ffmpeg::Error::Other {
            errno: libc::EAGAIN,
        } => Ok(0),
        ffmpeg::Error::Other {
            errno: libc::ENOMEM,
        } => Err(Stop::Refused(Refusal::Memory)),
        _ => Ok(1),
    }
}

struct Output<'a, W> {
    sender: &'a mut Sender<W>,
    limits: &'a ChildLimits,
    time_base: Rational,
    announced: Rational,
    codec: String,
    turn: Turn,
    /// As stored.
    size: Option<(u32, u32)>,
    sent: u64,
    first_time: Option<i64>,
    picture: Picture,
    /// The turned picture.
    shown: Vec<u8>,
}

impl<W: Write> Output<'_, W> {
    fn frame(&mut self, decoded: &frame::Video) -> Result<(), Stop> {
        let size = (decoded.width(), decoded.height());
        if self.sent >= self.limits.max_frames {
            return Err(Stop::Refused(Refusal::TooManyFrames));
        }
        let time = decoded.timestamp();
        let first = *self.first_time.get_or_insert(time.unwrap_or(0));
        // Headers can lie about the length; time stamps are what players go by.
        let ms = ticks_to_ms(time.unwrap_or(first).saturating_sub(first), self.time_base);
        if ms > self.limits.max_ms {
            return Err(Stop::Refused(Refusal::TooLong(ms)));
        }
        match self.size {
            None => {
                check_pixels(size.0, size.1, self.limits)?;
                self.size = Some(size);
                let (width, height) = self.turn.size(size);
                self.sender.header(&Header {
                    width,
                    height,
                    time_base: fraction(self.time_base).unwrap_or((1, 1_000_000)),
                    announced: fraction(self.announced).unwrap_or((0, 1)),
                    codec: self.codec.clone(),
                })?;
            }
            Some(before) if before != size => {
                return Err(Stop::Refused(Refusal::SizeChanges(self.sent)));
            }
            Some(_) => {}
        }
        let stored = self.picture.rgb(decoded)?;
        let is_turned = self.turn.apply(stored, size.0 as usize, &mut self.shown);
        let rgb = if is_turned {
            self.shown.as_slice()
        } else {
            stored
        };
        self.sender.frame(time, rgb)?;
        self.sent += 1;
        Ok(())
    }
}

/// Converts frames, keeping the tables and buffers from one to the next.
#[derive(Default)]
struct Picture {
    scaler: Option<Scaler>,
    planes: Option<frame::Video>,
    rgb: Vec<u8>,
}

impl Picture {
    /// `[height, width, 3]` bytes of a frame.
    fn rgb(&mut self, decoded: &frame::Video) -> Result<&[u8], Stop> {
        let (width, height) = (decoded.width(), decoded.height());
        let name = decoded.format().descriptor().map_or("", |d| d.name());
        // Formats with a J are full range by their name, and stay so only between each other.
        let full = name.starts_with("yuvj") || decoded.color_range() == color::Range::JPEG;
        let ycc = ["yuv", "nv", "p0"]
            .iter()
            .any(|start| name.starts_with(start));
        let target = match (ycc, name.starts_with("yuvj")) {
            (true, true) => Pixel::YUVJ444P,
            (true, false) => Pixel::YUV444P,
            (false, _) => Pixel::RGB24,
        };
        let known = self.scaler.as_ref().is_some_and(|scaler| {
            scaler.input().format == decoded.format() && scaler.output().format == target
        });
        if !known {
            let flags = Flags::BICUBIC | Flags::ACCURATE_RND | Flags::BITEXACT;
            let scaler = Scaler::get(
                decoded.format(),
                width,
                height,
                target,
                width,
                height,
                flags,
            )
            .map_err(refused)?;
            self.scaler = Some(scaler);
            self.planes = None;
        }
        let Some(scaler) = &mut self.scaler else {
            return Err(not_video("its frames cannot be converted"));
        };
        let planes = self.planes.get_or_insert_with(frame::Video::empty);
        scaler.run(decoded, planes).map_err(refused)?;

        let (columns, rows) = (width as usize, height as usize);
        self.rgb.clear();
        let row = |plane: usize, y: usize, bytes: usize| {
            planes
                .data(plane)
                .get(planes.stride(plane) * y..)?
                .get(..bytes)
        };
        let converter = Converter::new(matrix(decoded.color_space()), full);
        for y in 0..rows {
            if ycc {
                let three = (row(0, y, columns), row(1, y, columns), row(2, y, columns));
                let (Some(luma), Some(cb), Some(cr)) = three else {
                    break;
                };
                converter.row(luma, cb, cr, &mut self.rgb);
            } else if let Some(bytes) = row(0, y, 3 * columns) {
                self.rgb.extend_from_slice(bytes);
            }
        }
        if self.rgb.len() != 3 * columns * rows {
            return Err(not_video("a frame is smaller than its header says"));
        }
        Ok(&self.rgb)
    }
}

fn matrix(space: color::Space) -> Matrix {
    match space {
        color::Space::BT709 => Matrix::BT709,
        color::Space::BT2020NCL | color::Space::BT2020CL => Matrix::BT2020,
        _ => Matrix::BT601,
    }
}

fn check_pixels(width: u32, height: u32, limits: &ChildLimits) -> Result<(), Stop> {
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(Stop::Refused(Refusal::TooLarge(width, height)));
    }
    Ok(())
}

/// Milliseconds of a number of ticks; zero for what is unknown or negative.
fn ticks_to_ms(ticks: i64, base: Rational) -> u64 {
    let Some((num, den)) = fraction(base) else {
        return 0;
    };
    let ms = i128::from(ticks) * 1000 * i128::from(num) / i128::from(den);
    u64::try_from(ms.max(0)).unwrap_or(u64::MAX)
}

/// A fraction of positive numbers.
fn fraction(value: Rational) -> Option<(u32, u32)> {
    let num = u32::try_from(value.numerator()).ok().filter(|n| *n > 0)?;
    let den = u32::try_from(value.denominator()).ok().filter(|d| *d > 0)?;
    Some((num, den))
}

fn not_video(message: &str) -> Stop {
    Stop::Refused(Refusal::NotVideo(message.to_owned()))
}

fn refused(error: ffmpeg::Error) -> Stop {
    match error {
        ffmpeg::Error::Other {
            errno: libc::ENOMEM,
        } => Stop::Refused(Refusal::Memory),
        error => Stop::Refused(Refusal::NotVideo(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_memory_is_never_a_missing_frame() {
        let other = |errno| ffmpeg::Error::Other { errno };
        assert!(matches!(lost(ffmpeg::Error::Eof), Ok(0)));
        assert!(matches!(lost(other(libc::EAGAIN)), Ok(0)));
        assert!(matches!(lost(ffmpeg::Error::InvalidData), Ok(1)));
        assert!(matches!(lost(other(libc::EIO)), Ok(1)));
        let short = lost(other(libc::ENOMEM));
        assert!(matches!(short, Err(Stop::Refused(Refusal::Memory))));
    }
}
