//! Decoding and resampling against Pillow and torch; the data come from `scripts/golden/media.py`.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use leoma_node::media::resize::{Filter, resize, resize_torch_bicubic};
use leoma_node::media::{ImageLimits, RgbImage8, decode};
use serde_json::Value;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/media")
        .join(name)
}

fn reference() -> Value {
    serde_json::from_slice(&std::fs::read(data("reference.json")).unwrap()).unwrap()
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

/// (width, height) from and to, and the seed.
fn case(value: &Value) -> ([usize; 2], [usize; 2], u32) {
    let pair = |name: &str| [number(&value[name][0]), number(&value[name][1])];
    (pair("from"), pair("to"), number(&value["seed"]) as u32)
}

fn noise(width: usize, height: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    (0..width * height * 3)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn resampling_equals_pillow_bit_for_bit() {
    let reference = reference();
    let cases = reference["resize"].as_array().unwrap();
    assert!(cases.len() > 5);
    for value in cases {
        let ([iw, ih], [ow, oh], seed) = case(value);
        let image = RgbImage8::new(iw, ih, noise(iw, ih, seed)).unwrap();
        for (name, filter) in [("bicubic", Filter::Bicubic), ("lanczos", Filter::Lanczos)] {
            let out = resize(&image, ow, oh, filter).unwrap();
            assert_eq!((out.width(), out.height()), (ow, oh));
            let crc = crc32(out.data()) as usize;
            assert_eq!(crc, number(&value[name]), "{name} {iw}x{ih} -> {ow}x{oh}");
        }
    }
}

#[test]
fn torch_bicubic() {
    for value in reference()["torch_bicubic"].as_array().unwrap() {
        let ([iw, ih], [ow, oh], seed) = case(value);
        let bytes = noise(iw, ih, seed);
        // [H, W, 3] -> [3, H, W]
        let planes: Vec<f32> = (0..3)
            .flat_map(|c| bytes.iter().skip(c).step_by(3))
            .map(|&b| f32::from(b) / 255.0 * 2.0 - 1.0)
            .collect();
        let out = resize_torch_bicubic(&planes, (ih, iw), (oh, ow)).unwrap();
        let expected: Vec<f64> = value["values"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap())
            .collect();
        assert_eq!(out.len(), expected.len());
        let distance: f64 = out
            .iter()
            .zip(&expected)
            .map(|(a, b)| (f64::from(*a) - b).powi(2))
            .sum();
        let norm: f64 = expected.iter().map(|v| v * v).sum();
        let relative = (distance / norm).sqrt();
        assert!(
            relative < 5e-7,
            "{iw}x{ih} -> {ow}x{oh}: relative L2 {relative:e}"
        );
    }
}

#[test]
fn decoding_equals_pillow() {
    // Largest difference allowed: none, except where decoders round differently.
    let allowed = |name: &str| match name {
        // Half-size chroma: the upsampling filters differ in rounding too.
        "progressive.jpg" | "subsampled.jpg" => 4,
        "rgb.jpg" | "ycck.jpg" => 3,
        "grey.jpg" | "cmyk.jpg" => 1,
        _ => 0,
    };
    for (name, expected) in reference()["decoded"].as_object().unwrap() {
        let bytes = std::fs::read(data(name)).unwrap();
        let image = decode(&bytes, &ImageLimits::default()).unwrap();
        let size = (number(&expected["width"]), number(&expected["height"]));
        assert_eq!((image.width(), image.height()), size, "{name}");
        let pixels = expected["pixels"].as_array().unwrap();
        assert_eq!(image.data().len(), pixels.len(), "{name}");
        let worst = image
            .data()
            .iter()
            .zip(pixels)
            .map(|(a, b)| usize::from(*a).abs_diff(number(b)))
            .max()
            .unwrap();
        assert!(worst <= allowed(name), "{name}: differs by up to {worst}");
    }
}

#[test]
fn every_exif_orientation_is_applied() {
    let load = |n: usize| {
        let bytes = std::fs::read(data(&format!("orientation-{n}.png"))).unwrap();
        decode(&bytes, &ImageLimits::default()).unwrap()
    };
    let upright = load(1);
    let (w, h) = (upright.width(), upright.height());
    assert_eq!((w, h), (6, 4));
    let pixel = |image: &RgbImage8, x: usize, y: usize| {
        image.data()[3 * (y * image.width() + x)..][..3].to_vec()
    };
    // Where the stored pixel (x, y) must appear, by the EXIF standard's table of row 0 and column 0.
    type Place = fn(usize, usize, usize, usize) -> (usize, usize);
    let places: [Place; 8] = [
        |x, y, _, _| (x, y),
        |x, y, w, _| (w - 1 - x, y),
        |x, y, w, h| (w - 1 - x, h - 1 - y),
        |x, y, _, h| (x, h - 1 - y),
        |x, y, _, _| (y, x),
        |x, y, _, h| (h - 1 - y, x),
        |x, y, w, h| (h - 1 - y, w - 1 - x),
        |x, y, w, _| (y, w - 1 - x),
    ];
    for (index, place) in places.iter().enumerate() {
        let image = load(index + 1);
        for y in 0..h {
            for x in 0..w {
                let (px, py) = place(x, y, w, h);
                assert_eq!(
                    pixel(&image, px, py),
                    pixel(&upright, x, y),
                    "orientation {}",
                    index + 1
                );
            }
        }
    }
}
