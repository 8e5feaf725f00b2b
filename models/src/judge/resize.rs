//! Bicubic resampling of 8-bit pictures with antialiasing, as Pillow and torchvision do it.
//!
//! For each output position the cubic filter (a = -0.5) is stretched by the reduction factor and normalised to
//! one. Columns are done first, then rows, with bytes in between. The references round weights to fixed point
//! (Pillow to 22 bits, torchvision to 15), so single samples differ by one; this file keeps the weights in f32.

use rayon::prelude::*;

/// Half width of the filter when not reducing.
const SUPPORT: f64 = 2.0;
const A: f64 = -0.5;
/// Colours of a pixel.
const CHANNELS: usize = 3;

/// The weights of one axis.
struct Taps {
    /// First input position and weights, by output position.
    at: Vec<(usize, Vec<f32>)>,
}

impl Taps {
    fn new(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        let support = SUPPORT * stretch;
        let at = (0..output)
            .map(|position| {
                let center = (position as f64 + 0.5) * scale;
                // The casts truncate towards zero, as in C; negative values are cut at zero.
                let first = (center - support + 0.5).max(0.0) as usize;
                let end = ((center + support + 0.5) as usize).min(input);
                let weights: Vec<f64> = (first..end)
                    .map(|x| cubic((x as f64 - center + 0.5) / stretch))
                    .collect();
                let sum: f64 = weights.iter().sum();
                let weights = weights.iter().map(|weight| (weight / sum) as f32).collect();
                (first, weights)
            })
            .collect();
        Self { at }
    }
}

fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn to_byte(sum: f32) -> u8 {
    // The cast cuts at 0 and 255.
    (sum + 0.5).floor() as u8
}

/// Resizes `pixels` (`height` rows of `width` pixels of three bytes) to `(rows, columns)`. No side may be 0.
pub(super) fn resize(
    pixels: &[u8],
    (height, width): (usize, usize),
    (rows, columns): (usize, usize),
) -> Vec<u8> {
    let across = if width == columns {
        pixels.to_vec()
    } else {
        let taps = Taps::new(width, columns);
        let mut out = vec![0; height * columns * CHANNELS];
        out.par_chunks_mut(columns * CHANNELS)
            .zip(pixels.par_chunks(width * CHANNELS))
            .for_each(|(out, line)| {
                for (out, (first, weights)) in out.chunks_exact_mut(CHANNELS).zip(&taps.at) {
                    for (channel, out) in out.iter_mut().enumerate() {
                        let samples = line[first * CHANNELS + channel..].iter().step_by(CHANNELS);
                        let sum: f32 = samples.zip(weights).map(|(&x, w)| f32::from(x) * w).sum();
                        *out = to_byte(sum);
                    }
                }
            });
        out
    };
    if height == rows {
        return across;
    }
    let taps = Taps::new(height, rows);
    let stride = columns * CHANNELS;
    let mut out = vec![0; rows * stride];
    out.par_chunks_mut(stride)
        .zip(&taps.at)
        .for_each(|(out, (first, weights))| {
            let mut sums = vec![0f32; stride];
            for (line, weight) in across.chunks_exact(stride).skip(*first).zip(weights) {
                for (sum, &x) in sums.iter_mut().zip(line) {
                    *sum += f32::from(x) * weight;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = to_byte(sum);
            }
        });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_pictures_stay_flat() {
        for (from, to) in [((5, 7), (32, 64)), ((70, 50), (32, 32)), ((9, 9), (9, 4))] {
            let pixels = [7, 130, 255].repeat(from.0 * from.1);
            let out = resize(&pixels, from, to);
            assert_eq!(out, [7, 130, 255].repeat(to.0 * to.1));
        }
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let pixels: Vec<u8> = (0..4 * 6 * 3).map(|i| (i * 37 % 256) as u8).collect();
        assert_eq!(resize(&pixels, (4, 6), (4, 6)), pixels);
    }

    #[test]
    fn an_enlarged_edge_overshoots_and_is_cut() {
        // One row: black, then white. Enlarged four times the cubic filter swings below 0 and above 255.
        let pixels: Vec<u8> = [0u8; 12].into_iter().chain([255; 12]).collect();
        let out = resize(&pixels, (1, 8), (1, 32));
        let row: Vec<u8> = out.iter().step_by(3).copied().collect();
        assert!(row[..14].iter().all(|&x| x == 0) && row[18..].iter().all(|&x| x == 255));
        assert!(row.windows(2).all(|pair| pair[0] <= pair[1]), "{row:?}");
        assert!(row[15] < 128 && row[16] > 127, "{row:?}");
    }

    #[test]
    fn reducing_takes_the_mean_of_what_it_covers() {
        // A fine checkerboard becomes grey; without antialiasing it would stay black and white.
        let pixels: Vec<u8> = (0..64 * 64)
            .flat_map(|i| [if (i / 64 + i) % 2 == 0 { 0 } else { 255 }; 3])
            .collect();
        let out = resize(&pixels, (64, 64), (8, 8));
        assert!(out.iter().all(|&x| (120..=135).contains(&x)), "{out:?}");
    }
}
