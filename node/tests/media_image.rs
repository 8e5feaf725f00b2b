//! What is refused, and with which words.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageBuffer, ImageFormat};
use leoma_node::media::{ImageLimits, MediaError, decode, write_png};

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/media");
    std::fs::read(folder.join(name)).unwrap()
}

fn refuse(bytes: &[u8]) -> MediaError {
    decode(bytes, &ImageLimits::default()).unwrap_err()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// A PNG of a few bytes that announces any size.
fn png_bomb(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], body: &[u8]| {
        bytes.extend((body.len() as u32).to_be_bytes());
        let tagged = [kind.as_slice(), body].concat();
        bytes.extend(&tagged);
        bytes.extend(crc32(&tagged).to_be_bytes());
    };
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([8, 2, 0, 0, 0]);
    chunk(b"IHDR", &header);
    chunk(b"IDAT", &[0x78, 0x9c, 0x03, 0x00, 0x00, 0x00, 0x00, 0x01]);
    chunk(b"IEND", &[]);
    bytes
}

#[test]
fn bombs_are_refused_at_the_header() {
    for (width, height) in [
        (20_000, 20_000),
        (1, 40_000),
        (u32::MAX >> 1, 1),
        (65_535, 65_535),
    ] {
        let error = refuse(&png_bomb(width, height));
        assert!(
            matches!(error, MediaError::TooManyPixels { .. }),
            "{width}x{height}: {error}"
        );
        assert!(error.is_too_large());
    }
    // Allowed size, but next to no data behind it.
    let error = refuse(&png_bomb(4000, 4000));
    assert!(
        matches!(
            error,
            MediaError::Truncated { .. } | MediaError::Corrupt { .. }
        ),
        "{error}"
    );
    assert!(matches!(
        refuse(&png_bomb(0, 5)),
        MediaError::Corrupt { .. }
    ));
    // JPEG keeps its size in the frame header: make it 65,535 on each side.
    let mut jpeg = fixture("rgb.jpg");
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].fill(0xff);
    let error = refuse(&jpeg);
    assert!(matches!(error, MediaError::TooManyPixels { .. }), "{error}");
}

#[test]
fn limits_are_the_callers() {
    let bytes = fixture("rgb.jpg");
    let limits = ImageLimits {
        max_bytes: 10,
        ..ImageLimits::default()
    };
    let error = decode(&bytes, &limits).unwrap_err();
    assert!(matches!(error, MediaError::TooManyBytes { .. }), "{error}");
    let limits = ImageLimits {
        max_pixels: 24 * 16 - 1,
        ..ImageLimits::default()
    };
    let error = decode(&bytes, &limits).unwrap_err();
    assert!(
        matches!(
            error,
            MediaError::TooManyPixels {
                width: 24,
                height: 16,
                ..
            }
        ),
        "{error}"
    );
    let limits = ImageLimits {
        max_pixels: 24 * 16,
        ..ImageLimits::default()
    };
    assert!(decode(&bytes, &limits).is_ok());
}

#[test]
fn other_formats_and_animations_are_named() {
    for (bytes, word) in [
        (fixture("other.gif"), "GIF"),
        (b"BM\0\0".to_vec(), "BMP"),
        (Vec::new(), "empty"),
        (b"\0\0\0\x20ftypisom".to_vec(), "video"),
        (b"hello there, not a picture".to_vec(), "unknown"),
    ] {
        let error = refuse(&bytes);
        assert!(
            matches!(error, MediaError::UnsupportedFormat { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(word), "{error}");
        assert!(error.to_string().contains("PNG, JPEG or WebP"), "{error}");
    }
    for name in ["animated.png", "animated.webp"] {
        let error = refuse(&fixture(name));
        assert!(
            matches!(error, MediaError::Animated { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn cut_files_are_refused_wherever_they_are_cut() {
    for name in [
        "rgb.jpg",
        "progressive.jpg",
        "rgba.png",
        "lossless.webp",
        "lossy.webp",
    ] {
        let bytes = fixture(name);
        assert!(decode(&bytes, &ImageLimits::default()).is_ok(), "{name}");
        // The last twelve bytes of a PNG are its empty end chunk, the picture is whole without it.
        let whole = if name.ends_with("png") {
            bytes.len() - 16
        } else {
            bytes.len()
        };
        for end in (12..whole).step_by(7).chain([whole - 1, whole - 2]) {
            let result = decode(&bytes[..end], &ImageLimits::default());
            assert!(
                matches!(
                    result,
                    Err(MediaError::Truncated { .. } | MediaError::Corrupt { .. })
                ),
                "{name} cut at {end} of {}: {result:?}",
                bytes.len()
            );
        }
    }
}

#[test]
fn damaged_files_never_panic() {
    for name in [
        "rgb.jpg",
        "progressive.jpg",
        "cmyk.jpg",
        "rgba.png",
        "palette.png",
        "lossy.webp",
    ] {
        let bytes = fixture(name);
        for at in 0..bytes.len().min(600) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x5a;
            // Any answer will do; what counts is that there is one.
            let limits = ImageLimits {
                max_pixels: 1 << 20,
                ..ImageLimits::default()
            };
            drop(decode(&damaged, &limits));
        }
    }
}

#[test]
fn sixteen_bits_keep_the_high_byte() {
    let limits = ImageLimits::default();
    let png = |image: DynamicImage| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    let rgb = ImageBuffer::from_raw(
        2,
        1,
        vec![0x12ffu16, 0x3400, 0x56aa, 0xff80, 0x0080, 0x7fff],
    );
    let image = decode(&png(DynamicImage::ImageRgb16(rgb.unwrap())), &limits).unwrap();
    assert_eq!(image.data(), [0x12, 0x34, 0x56, 0xff, 0x00, 0x7f]);
    let grey = ImageBuffer::from_raw(2, 1, vec![0x12ffu16, 0xff80]);
    let image = decode(&png(DynamicImage::ImageLuma16(grey.unwrap())), &limits).unwrap();
    assert_eq!(image.data(), [0x12, 0x12, 0x12, 0xff, 0xff, 0xff]);
    let rgba = ImageBuffer::from_raw(1, 1, vec![0x12ffu16, 0x3400, 0x56aa, 0]);
    let image = decode(&png(DynamicImage::ImageRgba16(rgba.unwrap())), &limits).unwrap();
    assert_eq!(image.data(), [0x12, 0x34, 0x56]);
}

#[test]
fn frames_are_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frame-000.png");
    let rgb: Vec<u8> = (0..5 * 3 * 3).map(|i| i * 5).collect();
    write_png(&path, 5, 3, &rgb).unwrap();
    let image = decode(&std::fs::read(&path).unwrap(), &ImageLimits::default()).unwrap();
    assert_eq!(
        (image.width(), image.height(), image.data()),
        (5, 3, rgb.as_slice())
    );

    assert!(matches!(
        write_png(&path, 5, 4, &rgb),
        Err(MediaError::Size { .. })
    ));
    let missing = folder.path().join("missing/frame.png");
    let error = write_png(&missing, 5, 3, &rgb).unwrap_err();
    assert!(matches!(error, MediaError::Unwritable { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
