//! Frames as JPEG, as the subnet sends them: `ffmpeg -q:v 2`.
//!
//! Quality 2 of FFmpeg's `mjpeg` encoder is a quantiser, not a percentage: every coefficient of the intra matrix
//! of MPEG-1 times 2, divided by 8, with 8 for the mean; so 8, 4, 4, 4, … 20, the same table for light and colour,
//! and colour at half size (4:2:0). libjpeg has no such table; its quality 90 lies nearest. With the feature
//! `ffmpeg` the same encoder is used, with its quantiser held at 2: for the same planes it gives the same bytes as
//! the command. Without the feature it is the `image` crate at quality 90 with colour at full size, and
//! [`ENCODING`], which is part of every verdict's digest, says so.
//!
//! The planes come from RGB frames and not straight from the decoder, as the command's do. The conversion undoes
//! the usual decoding (each colour sample repeated for its four pixels) up to rounding.

use crate::media::{MediaError, Result, RgbImage8};

/// What makes the pictures.
#[cfg(feature = "ffmpeg")]
pub const ENCODING: &str = "jpeg 4:2:0, mjpeg of FFmpeg at quantiser 2";
/// What makes the pictures.
#[cfg(not(feature = "ffmpeg"))]
pub const ENCODING: &str = "jpeg 4:4:4, image crate at quality 90";

/// A frame as the bytes of a JPEG file.
///
/// # Errors
/// [`MediaError::Encode`] and [`MediaError::Local`] from the encoder.
pub fn encode(frame: &RgbImage8) -> Result<Vec<u8>> {
    encoder::encode(frame)
}

/// A picture inside an address.
pub fn data_url(media_type: &str, bytes: &[u8]) -> String {
    use base64::Engine as _;
    let prefix = format!("data:{media_type};base64,");
    let mut url = String::with_capacity(prefix.len() + bytes.len().div_ceil(3) * 4);
    url.push_str(&prefix);
    base64::engine::general_purpose::STANDARD.encode_string(bytes, &mut url);
    url
}

/// The type of a picture file by its first bytes.
pub fn media_type(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [b'R', b'I', b'F', b'F', ..] => "image/webp",
        _ => "image/jpeg",
    }
}

fn failed(message: String) -> MediaError {
    MediaError::Encode { message }
}

#[cfg(not(feature = "ffmpeg"))]
mod encoder {
    use image::ExtendedColorType;
    use image::codecs::jpeg::JpegEncoder;

    use super::{Result, RgbImage8, failed};

    pub(super) fn encode(frame: &RgbImage8) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let (width, height) = (frame.width() as u32, frame.height() as u32);
        JpegEncoder::new_with_quality(&mut bytes, 90)
            .encode(frame.data(), width, height, ExtendedColorType::Rgb8)
            .map_err(|error| failed(error.to_string()))?;
        Ok(bytes)
    }
}

#[cfg(feature = "ffmpeg")]
mod encoder {
    use ffmpeg_next as ffmpeg;

    use ffmpeg::format::Pixel;
    use ffmpeg::{Dictionary, Packet, codec, color, encoder, frame};

    use super::{MediaError, Result, RgbImage8, failed, planes};

    /// The command's `-q:v`.
    const QUANTISER: i32 = 2;

    pub(super) fn encode(picture: &RgbImage8) -> Result<Vec<u8>> {
        crate::media::video::initialise()?;
        let codec = encoder::find(codec::Id::MJPEG).ok_or_else(|| MediaError::Local {
            message: "FFmpeg on this machine has no mjpeg encoder: install the distribution's full FFmpeg"
                .into(),
        })?;
        let of =
            |step: &'static str| move |error: ffmpeg::Error| failed(format!("{step}: {error}"));
        let mut video = codec::Context::new_with_codec(codec)
            .encoder()
            .video()
            .map_err(of("setting up"))?;
        let (width, height) = (picture.width() as u32, picture.height() as u32);
        video.set_width(width);
        video.set_height(height);
        video.set_format(Pixel::YUVJ420P);
        video.set_color_range(color::Range::JPEG);
        video.set_time_base((1, 25));
        // Between equal bounds the rate control has nothing to choose. No version of the library in the file.
        video.set_qmin(QUANTISER);
        video.set_qmax(QUANTISER);
        video.set_flags(codec::Flags::BITEXACT);
        let mut opened = video
            .open_as_with(codec, Dictionary::new())
            .map_err(of("opening"))?;

        let mut target = frame::Video::new(Pixel::YUVJ420P, width, height);
        for (index, plane) in planes::of(picture).iter().enumerate() {
            let stride = target.stride(index);
            let rows = target.data_mut(index).chunks_mut(stride);
            for (out, row) in rows.zip(plane.rows()) {
                out[..row.len()].copy_from_slice(row);
            }
        }
        target.set_pts(Some(0));
        opened.send_frame(&target).map_err(of("encoding"))?;
        opened.send_eof().map_err(of("ending"))?;
        let mut packet = Packet::empty();
        opened.receive_packet(&mut packet).map_err(of("encoding"))?;
        let bytes = packet.data().map(<[u8]>::to_vec).unwrap_or_default();
        if bytes.is_empty() {
            return Err(failed("the encoder gave nothing".into()));
        }
        Ok(bytes)
    }
}

/// RGB to planes of full range, BT.601, colour at half size: what JPEG holds.
#[cfg(any(feature = "ffmpeg", test))]
mod planes {
    use crate::media::RgbImage8;

    /// Y = 0.299 R + 0.587 G + 0.114 B; Cb = 128 + (B - Y)/1.772; Cr = 128 + (R - Y)/1.402; times 2^16. Rows of
    /// colour sum to zero, so grey stays exactly grey.
    const Y: [i32; 3] = [19_595, 38_470, 7_471];
    const CB: [i32; 3] = [-11_058, -21_710, 32_768];
    const CR: [i32; 3] = [32_768, -27_439, -5_329];

    #[derive(Debug)]
    pub(super) struct Plane {
        pub(super) width: usize,
        pub(super) data: Vec<u8>,
    }

    impl Plane {
        pub(super) fn rows(&self) -> impl Iterator<Item = &[u8]> {
            self.data.chunks_exact(self.width)
        }
    }

    fn dot(weights: [i32; 3], rgb: [i32; 3]) -> i32 {
        weights[0] * rgb[0] + weights[1] * rgb[1] + weights[2] * rgb[2]
    }

    /// Cb and Cr of four pixels by their sums. Two bits more than the weights' sixteen; rows of colour sum to zero and
    /// no weight is above a half, so values lie in 1 to 255.5, and pure red or blue rounds to one too much.
    fn colours(sum: [i32; 3]) -> [u8; 2] {
        [CB, CR].map(|weights| {
            let value = (dot(weights, sum) + (128 << 18) + (1 << 17)) >> 18;
            value.min(255) as u8
        })
    }

    /// Y, Cb, Cr.
    pub(super) fn of(picture: &RgbImage8) -> [Plane; 3] {
        let (width, height) = (picture.width(), picture.height());
        let (pixels, _) = picture.data().as_chunks::<3>();
        let luma = pixels.iter().map(|pixel| {
            let light = dot(Y, pixel.map(i32::from)) + (1 << 15);
            (light >> 16) as u8
        });
        let luma = Plane {
            width,
            data: luma.collect(),
        };
        let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
        let [mut cb, mut cr] = [(), ()].map(|()| vec![0; half_width * half_height]);
        let lines = cb
            .chunks_exact_mut(half_width)
            .zip(cr.chunks_exact_mut(half_width));
        for (rows, (cb, cr)) in picture.data().chunks(6 * width).zip(lines) {
            let (top, bottom) = rows.split_at(3 * width);
            // The last column or row of an odd size stands for its missing neighbour.
            let bottom = if bottom.is_empty() { top } else { bottom };
            let (above, above_end) = top.as_chunks::<6>();
            let (below, below_end) = bottom.as_chunks::<6>();
            let places = cb.iter_mut().zip(cr.iter_mut());
            for ((cb, cr), (above, below)) in places.zip(above.iter().zip(below)) {
                let [r, g, b, r2, g2, b2] = above.map(i32::from);
                let [r3, g3, b3, r4, g4, b4] = below.map(i32::from);
                [*cb, *cr] = colours([r + r2 + r3 + r4, g + g2 + g3 + g4, b + b2 + b3 + b4]);
            }
            let ends = (above_end, below_end, cb.last_mut(), cr.last_mut());
            if let ([r, g, b], [r2, g2, b2], Some(cb), Some(cr)) = ends {
                let twice = |one: &u8, other: &u8| 2 * (i32::from(*one) + i32::from(*other));
                [*cb, *cr] = colours([twice(r, r2), twice(g, g2), twice(b, b2)]);
            }
        }
        let plane = |data| Plane {
            width: half_width,
            data,
        };
        [luma, plane(cb), plane(cr)]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::media::{ImageLimits, decode};

    fn gradient(width: usize, height: usize) -> RgbImage8 {
        let pixels = (0..height).flat_map(|y| {
            (0..width).flat_map(move |x| {
                [
                    (x * 255 / width) as u8,
                    (y * 255 / height) as u8,
                    ((x + y) % 256) as u8,
                ]
            })
        });
        RgbImage8::new(width, height, pixels.collect()).unwrap()
    }

    #[test]
    fn pictures_come_back() {
        for (width, height) in [(64, 48), (33, 17), (1, 1)] {
            let picture = gradient(width, height);
            let bytes = encode(&picture).unwrap();
            assert_eq!(media_type(&bytes), "image/jpeg");
            let again = decode(&bytes, &ImageLimits::default()).unwrap();
            assert_eq!((again.width(), again.height()), (width, height));
            // Light, since colour is kept at half size.
            let light = |p: &[u8]| {
                f64::from(p[0]) * 0.299 + f64::from(p[1]) * 0.587 + f64::from(p[2]) * 0.114
            };
            let pairs = picture.data().chunks(3).zip(again.data().chunks(3));
            let off: f64 = pairs.map(|(a, b)| (light(a) - light(b)).abs()).sum();
            assert!(
                off / ((width * height) as f64) < 2.5,
                "{width}x{height}: {off}"
            );
        }
    }

    #[cfg(feature = "ffmpeg")]
    #[test]
    fn the_tables_are_those_of_quality_2() {
        let bytes = encode(&gradient(64, 48)).unwrap();
        let at = bytes
            .windows(2)
            .position(|pair| pair == [0xff, 0xdb])
            .unwrap();
        // ffmpeg -q:v 2, read from the file.
        let expected = [8, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 6, 6, 6, 6];
        assert_eq!(bytes[at + 5..at + 21], expected);
        assert_eq!(bytes[at + 5 + 63], 20);
        let frame = bytes
            .windows(2)
            .position(|pair| pair == [0xff, 0xc0])
            .unwrap();
        // Three components: light with two samples each way, both colours with one.
        assert_eq!(
            [bytes[frame + 11], bytes[frame + 14], bytes[frame + 17]],
            [0x22, 0x11, 0x11]
        );
    }

    #[test]
    fn grey_stays_grey_and_colours_have_their_planes() {
        for grey in [0u8, 77, 255] {
            let planes = planes::of(&RgbImage8::new(3, 3, vec![grey; 27]).unwrap());
            assert!(planes[0].data.iter().all(|v| *v == grey));
            for colour in &planes[1..] {
                assert_eq!(colour.data, [128; 4]);
            }
        }
        let red = RgbImage8::new(2, 2, [255, 0, 0].repeat(4)).unwrap();
        let found: Vec<_> = planes::of(&red).iter().map(|plane| plane.data[0]).collect();
        assert_eq!(found, [76, 85, 255]);
    }

    #[test]
    fn colours_are_means_of_four_pixels_at_every_size() {
        for (width, height) in [(1, 1), (2, 3), (5, 4), (33, 17)] {
            let picture = gradient(width, height);
            let [_, cb, cr] = planes::of(&picture);
            let pixel = |x: usize, y: usize| {
                let at = 3 * (y.min(height - 1) * width + x.min(width - 1));
                [0, 1, 2].map(|c| f64::from(picture.data()[at + c]))
            };
            for (index, (cb, cr)) in cb.data.iter().zip(&cr.data).enumerate() {
                let (x, y) = (2 * (index % cb_width(width)), 2 * (index / cb_width(width)));
                let four = [(x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)];
                let mean = |c: usize| four.iter().map(|&(x, y)| pixel(x, y)[c]).sum::<f64>() / 4.0;
                let light = 0.299 * mean(0) + 0.587 * mean(1) + 0.114 * mean(2);
                for (found, expected) in [
                    (*cb, 128.0 + (mean(2) - light) / 1.772),
                    (*cr, 128.0 + (mean(0) - light) / 1.402),
                ] {
                    assert!(
                        (f64::from(found) - expected).abs() < 0.51,
                        "{width}x{height}"
                    );
                }
            }
        }
    }

    fn cb_width(width: usize) -> usize {
        width.div_ceil(2)
    }

    /// Not a test of speed: prints the time for a frame on one thread.
    #[test]
    #[ignore = "measures"]
    #[allow(clippy::print_stdout)]
    fn rates() {
        let picture = gradient(832, 480);
        let start = std::time::Instant::now();
        let mut bytes = 0;
        for _ in 0..100 {
            bytes = encode(&picture).unwrap().len();
        }
        let millis = start.elapsed().as_secs_f64() * 10.0;
        println!("832x480: {millis:.2} ms a frame, {bytes} bytes ({ENCODING})");
    }

    #[test]
    fn addresses_hold_the_bytes() {
        assert_eq!(
            data_url("image/jpeg", b"\xff\xd8\xff"),
            "data:image/jpeg;base64,/9j/"
        );
        assert_eq!(media_type(b"\x89PNG\r\n"), "image/png");
    }
}
