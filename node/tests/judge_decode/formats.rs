//! Formats that other encoders write: odd sizes, alpha, ten bits, a rate that varies, pictures that lie on their side.

use std::path::Path;

use ffmpeg_next as ffmpeg;

use ffmpeg::format::{self, Pixel};
use ffmpeg::{Packet, Rational, codec, encoder, frame};
use leoma_models::Fault;
use leoma_node::judge::clip::{ClipError, ClipLimits, DecodedClip};

use super::{mp4, refused, run};

/// A colour as luma, blue and red difference, BT.601 in limited range.
const YCBCR: [u8; 3] = [75, 150, 100];
/// The same: 1.164 (Y - 16), and 2.017 of blue or 1.596 of red.
const RGB: [u8; 3] = [24, 83, 113];
const FRAMES: usize = 8;

/// Every pixel of every frame has the colour; the edges, where planes of half the size end, are no other.
fn is_of_one_colour(clip: &DecodedClip, (width, height): (usize, usize)) {
    assert_eq!((clip.frames.len(), clip.fps), (FRAMES, (16, 1)));
    for (index, frame) in clip.frames.iter().enumerate() {
        assert_eq!((frame.width(), frame.height()), (width, height));
        for (at, pixel) in frame.data().chunks_exact(3).enumerate() {
            let is_near = pixel.iter().zip(RGB).all(|(a, b)| a.abs_diff(b) <= 3);
            assert!(is_near, "frame {index}, pixel {at}: {pixel:?}");
        }
    }
}

/// A part of a RIFF file.
fn chunk(name: [u8; 4], content: &[u8]) -> Vec<u8> {
    let mut bytes = name.to_vec();
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes
}

fn numbers<const N: usize>(numbers: [u32; N]) -> Vec<u8> {
    numbers.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// An AVI file of uncompressed frames that are all the same; `code` is their format's, of so many bits.
fn avi(path: &Path, code: [u8; 4], bits: u32, (width, height): (u32, u32), frame: &[u8]) {
    let (count, bytes) = (FRAMES as u32, frame.len() as u32);
    let main = [
        62_500, 0, 0, 0, count, 0, 1, bytes, width, height, 0, 0, 0, 0,
    ];
    let stream = [
        &b"vids"[..],
        &code,
        &numbers([0, 0, 0, 1, 16, 0, count, bytes, u32::MAX, 0]),
        &numbers([0, (height << 16) | width]),
    ];
    let picture = [
        &numbers([40, width, height, (bits << 16) | 1])[..],
        &code,
        &numbers([bytes, 0, 0, 0, 0]),
    ];
    let stream = [
        &b"strl"[..],
        &chunk(*b"strh", &stream.concat()),
        &chunk(*b"strf", &picture.concat()),
    ];
    let header = [
        &b"hdrl"[..],
        &chunk(*b"avih", &numbers(main)),
        &chunk(*b"LIST", &stream.concat()),
    ];
    let frames = [&b"movi"[..], &chunk(*b"00db", frame).repeat(FRAMES)];
    let file = [
        &b"AVI "[..],
        &chunk(*b"LIST", &header.concat()),
        &chunk(*b"LIST", &frames.concat()),
    ];
    std::fs::write(path, chunk(*b"RIFF", &file.concat())).unwrap();
}

/// An H.264 file of one colour; `planes` are the bytes of a sample in each, `ticks` the times in sixteenths of a
/// second.
fn h264(path: &Path, pixel: Pixel, planes: [&[u8]; 3], ticks: &[i64]) {
    ffmpeg::init().unwrap();
    let codec = encoder::find_by_name("libx264").unwrap();
    let mut output = format::output_as(path, "mp4").unwrap();
    let tick = Rational::new(1, 16);
    let context = codec::Context::new_with_codec(codec);
    let mut video = context.encoder().video().unwrap();
    video.set_width(64);
    video.set_height(48);
    video.set_format(pixel);
    video.set_time_base(tick);
    video.set_flags(codec::Flags::GLOBAL_HEADER);
    let settings = [("preset", "ultrafast"), ("crf", "8")];
    let settings = settings.iter().collect();
    let mut encoder = video.open_as_with(codec, settings).unwrap();
    {
        let mut stream = output.add_stream(codec).unwrap();
        stream.set_parameters(&encoder);
        stream.set_time_base(tick);
    }
    output.write_header().unwrap();
    let target = output.stream(0).unwrap().time_base();
    let mut drain = |encoder: &mut encoder::video::Encoder| {
        let mut packet = Packet::empty();
        while encoder.receive_packet(&mut packet).is_ok() {
            packet.set_stream(0);
            packet.set_duration(1);
            packet.rescale_ts(tick, target);
            packet.write_interleaved(&mut output).unwrap();
        }
    };
    for at in ticks {
        let mut picture = frame::Video::new(pixel, 64, 48);
        for (plane, sample) in planes.into_iter().enumerate() {
            let bytes = picture.data_mut(plane).iter_mut();
            for (byte, value) in bytes.zip(sample.iter().cycle()) {
                *byte = *value;
            }
        }
        picture.set_pts(Some(*at));
        encoder.send_frame(&picture).unwrap();
        drain(&mut encoder);
    }
    encoder.send_eof().unwrap();
    drain(&mut encoder);
    output.write_trailer().unwrap();
}

#[test]
fn odd_sizes_and_alpha_keep_their_colours() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.avi");
    // Colour at half size: 9x7 samples.
    let [luma, blue, red] = YCBCR;
    let planes = [vec![luma; 17 * 13], vec![blue; 9 * 7], vec![red; 9 * 7]];
    avi(&path, *b"I420", 12, (17, 13), &planes.concat());
    let clip = run(&path, &ClipLimits::default()).unwrap();
    is_of_one_colour(&clip, (17, 13));

    // What is see-through has a colour all the same, as for the `ffmpeg` command that writes JPEG.
    let [r, g, b] = RGB;
    let pixels: Vec<u8> = (0..17 * 13)
        .flat_map(|at| [b, g, r, if at % 2 == 0 { 0 } else { 255 }])
        .collect();
    avi(&path, [0; 4], 32, (17, 13), &pixels);
    let clip = run(&path, &ClipLimits::default()).unwrap();
    is_of_one_colour(&clip, (17, 13));
}

#[test]
fn ten_bits_become_eight() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    let samples = YCBCR.map(|sample| (u16::from(sample) << 2).to_le_bytes());
    let planes = [&samples[0][..], &samples[1], &samples[2]];
    let ticks: Vec<i64> = (0..FRAMES as i64).collect();
    h264(&path, Pixel::YUV420P10LE, planes, &ticks);
    let clip = run(&path, &ClipLimits::default()).unwrap();
    is_of_one_colour(&clip, (64, 48));
}

#[test]
fn a_rate_that_varies_is_the_clips_fault() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    let planes = [&YCBCR[..1], &YCBCR[1..2], &YCBCR[2..]];
    // The same file with even times is a clip.
    h264(&path, Pixel::YUV420P, planes, &[0, 1, 2, 3, 4, 5, 6, 7]);
    is_of_one_colour(&run(&path, &ClipLimits::default()).unwrap(), (64, 48));
    h264(&path, Pixel::YUV420P, planes, &[0, 1, 2, 3, 6, 7, 8, 9]);
    let error = refused(&path);
    assert!(matches!(error, ClipError::VariableRate { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Artifact);
}

/// Where a pixel of a turned picture of 96x64 stands in the upright one.
type Place = fn(usize, usize) -> (usize, usize);

#[test]
fn pictures_that_lie_on_their_side_are_turned() {
    const ONE: i32 = 1 << 16;
    let folder = tempfile::tempdir().unwrap();
    let path = mp4(folder.path(), "clip.mp4", (96, 64), 3);
    let upright = run(&path, &ClipLimits::default()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let header = bytes.windows(4).position(|name| name == b"tkhd").unwrap();
    // After version and flags, times, number, duration, layer, group and volume.
    let at = header + 44;
    // Quarter turns either way, half a turn, a mirror image.
    let turns: [([i32; 4], (usize, usize), Place); 4] = [
        ([0, ONE, -ONE, 0], (64, 96), |x, y| (y, 63 - x)),
        ([0, -ONE, ONE, 0], (64, 96), |x, y| (95 - y, x)),
        ([-ONE, 0, 0, -ONE], (96, 64), |x, y| (95 - x, 63 - y)),
        ([ONE, 0, 0, -ONE], (96, 64), |x, y| (x, 63 - y)),
    ];
    for ([a, b, c, d], (width, height), place) in turns {
        let matrix = [a, b, 0, c, d, 0, 0, 0, 1 << 30].map(i32::to_be_bytes);
        let mut turned = bytes.clone();
        turned[at..at + 36].copy_from_slice(&matrix.concat());
        std::fs::write(&path, turned).unwrap();
        let clip = run(&path, &ClipLimits::default()).unwrap();
        assert_eq!(clip.frames.len(), 3);
        for (shown, stored) in clip.frames.iter().zip(&upright.frames) {
            assert_eq!((shown.width(), shown.height()), (width, height));
            for (at, pixel) in shown.data().chunks_exact(3).enumerate() {
                let (x, y) = place(at % width, at / width);
                let from = 3 * (y * 96 + x);
                assert_eq!(pixel, &stored.data()[from..from + 3], "{x}, {y}");
            }
        }
    }
}
