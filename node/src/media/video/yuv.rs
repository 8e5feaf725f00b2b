//! RGB to planar 4:2:0, BT.601 matrix, limited range.
//!
//! Y = 16 + 219·(0.299 R + 0.587 G + 0.114 B), Cb = 128 + 112·(B - Y')/(1 - 0.114),
//! Cr = 128 + 112·(R - Y')/(1 - 0.299), with R, G, B in [0, 1], computed in fixed point and rounded to
//! nearest. Chroma samples sit where H.264 expects them unless told otherwise: on the left column of
//! each 2x2 block and between its rows, so they average [1 2 1] columns and [1 1] rows.

use rayon::prelude::*;

/// Weights times 2^16/255. Each chroma row sums to zero, so grey stays exactly grey.
const Y: [i32; 3] = [16_829, 33_039, 6_416];
const CB: [i32; 3] = [-9_714, -19_070, 28_784];
const CR: [i32; 3] = [28_784, -24_103, -4_681];

fn dot(weights: [i32; 3], rgb: [i32; 3]) -> i32 {
    weights[0] * rgb[0] + weights[1] * rgb[1] + weights[2] * rgb[2]
}

/// One plane of a frame: its bytes and the distance between rows.
#[derive(Debug)]
pub(super) struct Plane<'a> {
    pub(super) data: &'a mut [u8],
    pub(super) stride: usize,
}

/// Fills the luma plane from `[height, width, 3]` bytes.
pub(super) fn luma(rgb: &[u8], width: usize, height: usize, plane: Plane<'_>) {
    let Plane { data, stride } = plane;
    data.par_chunks_mut(stride)
        .zip(rgb.par_chunks_exact(3 * width))
        .take(height)
        .for_each(|(out, row)| {
            for (out, pixel) in out.iter_mut().zip(row.chunks_exact(3)) {
                let pixel = [pixel[0], pixel[1], pixel[2]].map(i32::from);
                *out = ((dot(Y, pixel) + (16 << 16) + (1 << 15)) >> 16) as u8;
            }
        });
}

/// Fills both chroma planes from `[height, width, 3]` bytes; both sides are even.
pub(super) fn chroma(rgb: &[u8], width: usize, height: usize, cb: Plane<'_>, cr: Plane<'_>) {
    // Sums of eight samples: 2^3 more than the weights' 2^16.
    let round = |weights, sums| ((dot(weights, sums) + (128 << 19) + (1 << 18)) >> 19) as u8;
    let Plane {
        data: cb,
        stride: cb_stride,
    } = cb;
    let Plane {
        data: cr,
        stride: cr_stride,
    } = cr;
    cb.par_chunks_mut(cb_stride)
        .zip(cr.par_chunks_mut(cr_stride))
        .zip(rgb.par_chunks_exact(6 * width))
        .take(height / 2)
        .for_each(|((cb, cr), rows)| {
            let (top, bottom) = rows.split_at(3 * width);
            for (x, (cb, cr)) in cb.iter_mut().zip(cr).take(width / 2).enumerate() {
                let middle = 2 * x;
                let columns = [middle.saturating_sub(1), middle, middle, middle + 1];
                let mut sums = [0i32; 3];
                for column in columns {
                    for (channel, sum) in sums.iter_mut().enumerate() {
                        let at = 3 * column + channel;
                        *sum += i32::from(top[at]) + i32::from(bottom[at]);
                    }
                }
                (*cb, *cr) = (round(CB, sums), round(CR, sums));
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(rgb: &[u8], width: usize, height: usize) -> [Vec<u8>; 3] {
        let stride = width + 5;
        let mut y = vec![7; stride * height];
        let mut cb = vec![7; stride * height / 2];
        let mut cr = cb.clone();
        luma(
            rgb,
            width,
            height,
            Plane {
                data: &mut y,
                stride,
            },
        );
        let plane = Plane {
            data: &mut cb,
            stride,
        };
        chroma(
            rgb,
            width,
            height,
            plane,
            Plane {
                data: &mut cr,
                stride,
            },
        );
        let crop = |data: Vec<u8>, w: usize| {
            data.chunks(stride)
                .flat_map(|row| row[..w].to_vec())
                .collect()
        };
        [crop(y, width), crop(cb, width / 2), crop(cr, width / 2)]
    }

    #[test]
    fn flat_colours_have_their_textbook_values() {
        let colours = [
            ([255u8, 255, 255], [235u8, 128, 128]),
            ([0, 0, 0], [16, 128, 128]),
            ([255, 0, 0], [81, 90, 240]),
            ([0, 255, 0], [145, 54, 34]),
            ([0, 0, 255], [41, 240, 110]),
        ];
        for (rgb, expected) in colours {
            let planes = convert(&rgb.repeat(8), 4, 2);
            for (plane, value) in planes.iter().zip(expected) {
                assert!(
                    plane.iter().all(|v| *v == value),
                    "{rgb:?}: {plane:?}, not {value}"
                );
            }
        }
    }

    #[test]
    fn every_colour_is_within_one_half_of_the_formula() {
        for index in 0..4096u32 {
            let rgb = [index % 16, index / 16 % 16, index / 256].map(|v| (v * 17) as u8);
            let [r, g, b] = rgb.map(|v| f64::from(v) / 255.0);
            let grey = 0.299 * r + 0.587 * g + 0.114 * b;
            let exact = [
                16.0 + 219.0 * grey,
                128.0 + 112.0 * (b - grey) / 0.886,
                128.0 + 112.0 * (r - grey) / 0.701,
            ];
            let planes = convert(&rgb.repeat(4), 2, 2);
            for (plane, exact) in planes.iter().zip(exact) {
                let off = (f64::from(plane[0]) - exact).abs();
                assert!(off < 0.51, "{rgb:?}: {} against {exact}", plane[0]);
            }
        }
    }

    #[test]
    fn chroma_sits_on_the_left_column() {
        // Black except a red column at x = 2: the second sample weighs it by one half, the first not.
        let mut row = [0u8; 3 * 6];
        row[6] = 255;
        let [_, _, cr] = convert(&row.repeat(2), 6, 2);
        assert_eq!(cr, [128, 184, 128]);
        // A red column at x = 1 reaches both neighbours by a quarter.
        let mut row = [0u8; 3 * 6];
        row[3] = 255;
        let [_, _, cr] = convert(&row.repeat(2), 6, 2);
        assert_eq!(cr, [156, 156, 128]);
    }
}
