//! What the decoding child sends: little-endian records over a pipe, and a reader that trusts none of them.
//!
//! * `H`: magic, width, height, time base, announced frame rate (u32 each), codec (16 bytes, zero-padded)
//! * `F`: time stamp (i64 ticks, [`NO_TIME`] for none), width·height·3 bytes of RGB
//! * `E`: damaged packets (u32); nothing follows
//! * `X`: a refusal: code (u8), two numbers (u64), text (u16 length, UTF-8); nothing follows
//!
//! `H` comes once, before the first `F`; a video without frames is an `E` alone.

use std::io::{self, Read, Write};

use super::super::clip::RequiredSize;

/// Guards against a child of another build.
const MAGIC: &[u8; 8] = b"LMCLIP01";
/// A frame without a time stamp.
const NO_TIME: i64 = i64::MIN;
const CODEC_BYTES: usize = 16;
/// Bytes of a refusal's text; longer ones are cut.
const MAX_TEXT: usize = 300;

/// What stands before the frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Seconds per tick, a fraction.
    pub(super) time_base: (u32, u32),
    /// The frame rate that the file announces; zero when it does not.
    pub(super) announced: (u32, u32),
    pub(super) codec: String,
}

impl Header {
    /// Bytes of a frame.
    fn frame_bytes(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height) * 3
    }
}

/// Why the child gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No video, or none of a kind that is accepted.
    NotVideo(String),
    /// Longer than allowed, milliseconds.
    TooLong(u64),
    /// More frames than allowed.
    TooManyFrames,
    /// More pixels than allowed.
    TooLarge(u32, u32),
    /// This frame has another size.
    SizeChanges(u64),
    /// No more memory.
    Memory,
    /// The child cannot do its work here.
    Local(String),
}

impl Refusal {
    fn parts(&self) -> (u8, u64, u64, &str) {
        match self {
            Self::NotVideo(text) => (1, 0, 0, text),
            Self::TooLong(ms) => (2, *ms, 0, ""),
            Self::TooManyFrames => (3, 0, 0, ""),
            Self::TooLarge(width, height) => (4, u64::from(*width), u64::from(*height), ""),
            Self::SizeChanges(frame) => (5, *frame, 0, ""),
            Self::Memory => (6, 0, 0, ""),
            Self::Local(text) => (7, 0, 0, text),
        }
    }

    fn from_parts(code: u8, a: u64, b: u64, text: String) -> Option<Self> {
        let side = |v: u64| u32::try_from(v).unwrap_or(u32::MAX);
        Some(match code {
            1 => Self::NotVideo(text),
            2 => Self::TooLong(a),
            3 => Self::TooManyFrames,
            4 => Self::TooLarge(side(a), side(b)),
            5 => Self::SizeChanges(a),
            6 => Self::Memory,
            7 => Self::Local(text),
            _ => return None,
        })
    }
}

/// Writes records.
#[derive(Debug)]
pub(super) struct Sender<W>(pub(super) W);

/// What a decoder has to say; without one there are only refusals.
#[cfg(any(test, feature = "ffmpeg"))]
impl<W: Write> Sender<W> {
    pub(super) fn header(&mut self, header: &Header) -> io::Result<()> {
        self.0.write_all(b"H")?;
        self.0.write_all(MAGIC)?;
        for value in [
            header.width,
            header.height,
            header.time_base.0,
            header.time_base.1,
            header.announced.0,
            header.announced.1,
        ] {
            self.0.write_all(&value.to_le_bytes())?;
        }
        let mut codec = [0u8; CODEC_BYTES];
        for (to, from) in codec.iter_mut().zip(header.codec.bytes()) {
            *to = from;
        }
        self.0.write_all(&codec)
    }

    pub(super) fn frame(&mut self, time: Option<i64>, rgb: &[u8]) -> io::Result<()> {
        self.0.write_all(b"F")?;
        self.0.write_all(&time.unwrap_or(NO_TIME).to_le_bytes())?;
        self.0.write_all(rgb)
    }

    pub(super) fn end(&mut self, damaged: u32) -> io::Result<()> {
        self.0.write_all(b"E")?;
        self.0.write_all(&damaged.to_le_bytes())?;
        self.0.flush()
    }
}

impl<W: Write> Sender<W> {
    pub(super) fn refuse(&mut self, refusal: &Refusal) -> io::Result<()> {
        let (code, a, b, text) = refusal.parts();
        let mut cut = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let text = &text.as_bytes()[..cut];
        self.0.write_all(&[b'X', code])?;
        self.0.write_all(&a.to_le_bytes())?;
        self.0.write_all(&b.to_le_bytes())?;
        self.0.write_all(&(cut as u16).to_le_bytes())?;
        self.0.write_all(text)?;
        self.0.flush()
    }
}

/// What may be received.
#[derive(Debug, Clone)]
pub(super) struct Caps {
    pub(super) max_frames: usize,
    pub(super) max_pixels: u64,
    pub(super) max_decoded_bytes: u64,
    pub(super) size: Option<RequiredSize>,
}

/// A whole stream.
#[derive(Debug)]
pub(super) struct Received {
    /// Absent for a video without frames.
    pub(super) header: Option<Header>,
    pub(super) frames: Vec<Vec<u8>>,
    pub(super) times: Vec<Option<i64>>,
    pub(super) damaged: u32,
}

/// Why a stream was not taken.
#[derive(Debug)]
pub(super) enum WireError {
    /// The pipe ended before the stream did, or broke.
    Ended,
    /// What came is not this protocol.
    Nonsense(&'static str),
    /// The child said no.
    Refused(Refusal),
    /// A frame size that was not asked for.
    WrongSize(u32, u32),
    /// No memory for the frames here.
    Memory,
}

impl From<io::Error> for WireError {
    fn from(_: io::Error) -> Self {
        Self::Ended
    }
}

/// Reads a stream to its end, allocating only for frames that are within `caps`.
pub(super) fn receive(mut input: impl Read, caps: &Caps) -> Result<Received, WireError> {
    let mut received = Received {
        header: None,
        frames: Vec::new(),
        times: Vec::new(),
        damaged: 0,
    };
    loop {
        let [tag] = array(&mut input)?;
        match tag {
            b'H' if received.header.is_none() => {
                received.header = Some(header(&mut input, caps)?);
            }
            b'F' => {
                let Some(header) = &received.header else {
                    return Err(WireError::Nonsense("a frame before its header"));
                };
                if received.frames.len() >= caps.max_frames {
                    return Err(WireError::Refused(Refusal::TooManyFrames));
                }
                let bytes = header.frame_bytes();
                if bytes.saturating_mul(received.frames.len() as u64 + 1) > caps.max_decoded_bytes {
                    let refusal = Refusal::TooLarge(header.width, header.height);
                    return Err(WireError::Refused(refusal));
                }
                let time = i64::from_le_bytes(array(&mut input)?);
                received.times.push((time != NO_TIME).then_some(time));
                received.frames.push(exactly(&mut input, bytes)?);
            }
            b'E' => {
                received.damaged = u32::from_le_bytes(array(&mut input)?);
                return Ok(received);
            }
            b'X' => return Err(WireError::Refused(refusal(&mut input)?)),
            _ => return Err(WireError::Nonsense("an unknown record")),
        }
    }
}

fn header(input: &mut impl Read, caps: &Caps) -> Result<Header, WireError> {
    if &array::<8>(input)? != MAGIC {
        return Err(WireError::Nonsense("another version"));
    }
    let mut numbers = [0u32; 6];
    for number in &mut numbers {
        *number = u32::from_le_bytes(array(input)?);
    }
    let [width, height, tick_num, tick_den, rate_num, rate_den] = numbers;
    let codec: [u8; CODEC_BYTES] = array(input)?;
    let codec: String = codec
        .iter()
        .take_while(|byte| **byte != 0)
        .map(|byte| {
            if byte.is_ascii_graphic() {
                char::from(*byte)
            } else {
                '?'
            }
        })
        .collect();
    if width == 0 || height == 0 || tick_num == 0 || tick_den == 0 {
        return Err(WireError::Nonsense("a header of zeros"));
    }
    if u64::from(width) * u64::from(height) > caps.max_pixels {
        return Err(WireError::Refused(Refusal::TooLarge(width, height)));
    }
    if caps.size.is_some_and(|size| !size.accepts(width, height)) {
        return Err(WireError::WrongSize(width, height));
    }
    Ok(Header {
        width,
        height,
        time_base: (tick_num, tick_den),
        announced: (rate_num, rate_den),
        codec,
    })
}

fn refusal(input: &mut impl Read) -> Result<Refusal, WireError> {
    let [code] = array(input)?;
    let a = u64::from_le_bytes(array(input)?);
    let b = u64::from_le_bytes(array(input)?);
    let bytes = u16::from_le_bytes(array(input)?);
    let text = exactly(input, u64::from(bytes))?;
    // The text ends in messages and logs: it may hold anything that was in the file.
    let text: String = String::from_utf8_lossy(&text)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_TEXT)
        .collect();
    Refusal::from_parts(code, a, b, text).ok_or(WireError::Nonsense("an unknown refusal"))
}

fn array<const N: usize>(input: &mut impl Read) -> Result<[u8; N], WireError> {
    let mut bytes = [0u8; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn exactly(input: &mut impl Read, bytes: u64) -> Result<Vec<u8>, WireError> {
    let length = usize::try_from(bytes).map_err(|_| WireError::Memory)?;
    let mut data = Vec::new();
    data.try_reserve_exact(length)
        .map_err(|_| WireError::Memory)?;
    input.take(bytes).read_to_end(&mut data)?;
    if data.len() == length {
        Ok(data)
    } else {
        Err(WireError::Ended)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn caps() -> Caps {
        Caps {
            max_frames: 3,
            max_pixels: 64,
            max_decoded_bytes: 1 << 20,
            size: None,
        }
    }

    fn a_header() -> Header {
        Header {
            width: 4,
            height: 2,
            time_base: (1, 16_000),
            announced: (16, 1),
            codec: "h264".into(),
        }
    }

    fn stream(frames: usize) -> Vec<u8> {
        let mut sender = Sender(Vec::new());
        sender.header(&a_header()).unwrap();
        for index in 0..frames {
            let time = (index > 0).then_some(index as i64 * 1000);
            sender.frame(time, &[index as u8; 24]).unwrap();
        }
        sender.end(2).unwrap();
        sender.0
    }

    #[test]
    fn what_is_sent_is_received() {
        let received = receive(&stream(3)[..], &caps()).unwrap();
        assert_eq!(received.header, Some(a_header()));
        assert_eq!(received.frames[2], [2; 24]);
        assert_eq!(received.times, [None, Some(1000), Some(2000)]);
        assert_eq!(received.damaged, 2);
        let mut empty = Sender(Vec::new());
        empty.end(0).unwrap();
        assert!(receive(&empty.0[..], &caps()).unwrap().header.is_none());
    }

    #[test]
    fn refusals_come_through_and_are_cleaned() {
        for refusal in [
            Refusal::NotVideo("moov atom not found".into()),
            Refusal::TooLong(14_400_000),
            Refusal::TooManyFrames,
            Refusal::TooLarge(9000, 9000),
            Refusal::SizeChanges(7),
            Refusal::Memory,
            Refusal::Local("no FFmpeg".into()),
        ] {
            let mut sender = Sender(Vec::new());
            sender.refuse(&refusal).unwrap();
            match receive(&sender.0[..], &caps()) {
                Err(WireError::Refused(found)) => assert_eq!(found, refusal),
                other => panic!("{other:?}"),
            }
        }
        let mut sender = Sender(Vec::new());
        let text = format!("a\u{1b}[31m{}", "é".repeat(400));
        sender.refuse(&Refusal::NotVideo(text)).unwrap();
        match receive(&sender.0[..], &caps()) {
            Err(WireError::Refused(Refusal::NotVideo(text))) => {
                assert!(text.starts_with("a [31m") && text.len() <= MAX_TEXT);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_cut_is_an_error_and_no_panic() {
        let whole = stream(2);
        for length in 0..whole.len() {
            assert!(matches!(
                receive(&whole[..length], &caps()),
                Err(WireError::Ended)
            ));
        }
    }

    #[test]
    fn a_lying_child_is_not_believed() {
        let mut large = Sender(Vec::new());
        let header = Header {
            width: u32::MAX,
            height: u32::MAX,
            ..a_header()
        };
        large.header(&header).unwrap();
        assert!(matches!(
            receive(&large.0[..], &caps()),
            Err(WireError::Refused(Refusal::TooLarge(..)))
        ));
        assert!(matches!(
            receive(&stream(4)[..], &caps()),
            Err(WireError::Refused(Refusal::TooManyFrames))
        ));
        let little = Caps {
            max_decoded_bytes: 47,
            ..caps()
        };
        assert!(matches!(
            receive(&stream(2)[..], &little),
            Err(WireError::Refused(Refusal::TooLarge(4, 2)))
        ));
        let mut twice = stream(0);
        twice.truncate(twice.len() - 5);
        twice.extend(stream(0));
        for nonsense in [&b"F"[..], b"Z", b"H12345678", &twice] {
            let found = receive(nonsense, &caps());
            assert!(matches!(found, Err(WireError::Nonsense(_))), "{found:?}");
        }
        let asked = RequiredSize {
            width: 8,
            height: 8,
            tolerance: 0,
        };
        let picky = Caps {
            size: Some(asked),
            ..caps()
        };
        assert!(matches!(
            receive(&stream(1)[..], &picky),
            Err(WireError::WrongSize(4, 2))
        ));
    }
}
