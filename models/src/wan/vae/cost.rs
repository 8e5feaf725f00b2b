//! How much arithmetic encoding and decoding are. One multiply-add is two FLOP; every position of a
//! convolution counts, those in the padding too.

use super::geometry::{
    decoder_levels, decoder_mid_width, encoder_levels, encoder_mid_width, encoder_width, patch,
};
use crate::wan::VaeConfig;

/// Multiply-adds per position of two 3x3x3 convolutions and, where the width changes, the shortcut.
fn residual_block(from: f64, to: f64) -> f64 {
    27.0 * (from * to + to * to) + if from == to { 0.0 } else { from * to }
}

/// Multiply-adds per position of the middle: two residual blocks around attention within a frame.
fn middle(width: f64, positions: f64) -> f64 {
    2.0 * residual_block(width, width) + 4.0 * width * width + 2.0 * positions * width
}

/// FLOP of decoding a clip of `frames` pixel frames of `height` x `width`.
pub fn decode_flops(cfg: &VaeConfig, frames: usize, height: usize, width: usize) -> f64 {
    let stride = cfg.spatial_stride();
    let mut positions = (height / stride * (width / stride)) as f64;
    let mut times = (frames.saturating_sub(1) / cfg.temporal_stride() + 1) as f64;
    let (z, mid) = (cfg.z_dim as f64, decoder_mid_width(cfg) as f64);
    let input = z * z + 27.0 * z * mid + middle(mid, positions);
    let mut work = times * positions * input;
    let mut last = mid;
    for level in decoder_levels(cfg) {
        let (from, to) = (level.channels_in as f64, level.channels_out as f64);
        let blocks = residual_block(from, to) + cfg.num_res_blocks as f64 * residual_block(to, to);
        work += times * positions * blocks;
        last = to;
        if let Some(step) = level.resample {
            if step.temporal {
                // Three taps to twice the channels; the first frame is left alone.
                work += (times - 1.0) * positions * 6.0 * to * to;
                times = 2.0 * times - 1.0;
            }
            positions *= 4.0;
            last = step.channels_out as f64;
            work += times * positions * 9.0 * to * last;
        }
    }
    work += times * positions * 27.0 * last * cfg.out_channels as f64;
    2.0 * work
}

/// FLOP of encoding a clip of `frames` different pixel frames of `height` x `width`. An image followed by grey
/// frames takes less here: what repeats is not computed again.
pub fn encode_flops(cfg: &VaeConfig, frames: usize, height: usize, width: usize) -> f64 {
    let mut positions = (height / patch(cfg) * (width / patch(cfg))) as f64;
    let mut times = frames as f64;
    let mut work = times * positions * 27.0 * (cfg.in_channels * encoder_width(cfg)) as f64;
    for level in encoder_levels(cfg) {
        let (from, to) = (level.channels_in as f64, level.channels_out as f64);
        let blocks =
            residual_block(from, to) + (cfg.num_res_blocks as f64 - 1.0) * residual_block(to, to);
        work += times * positions * blocks;
        if let Some(step) = level.resample {
            positions /= 4.0;
            work += times * positions * 9.0 * to * to;
            if step.temporal {
                times = ((times - 1.0) / 2.0).floor() + 1.0;
                work += (times - 1.0) * positions * 3.0 * to * to;
            }
        }
    }
    let (z, mid) = (cfg.z_dim as f64, encoder_mid_width(cfg) as f64);
    let output = middle(mid, positions) + 54.0 * mid * z + 4.0 * z * z;
    2.0 * (work + times * positions * output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Networks;
    use crate::weights::ModelKind;

    /// The figures were counted by operator over the reference implementation on shape-only tensors.
    #[test]
    fn the_formulas_give_the_counted_work() {
        let tera = |flop: f64| (flop / 1e11).round() / 10.0;
        let small = Networks::released(ModelKind::I2vA14b).vae;
        assert_eq!(tera(decode_flops(&small, 81, 480, 832)), 275.4);
        assert_eq!(tera(decode_flops(&small, 81, 720, 1280)), 639.2);
        assert_eq!(tera(encode_flops(&small, 81, 480, 832)), 163.7);
        assert_eq!(tera(encode_flops(&small, 1, 480, 832)), 2.7);
        assert_eq!(tera(encode_flops(&small, 81, 720, 1280)), 381.7);
        let large = Networks::released(ModelKind::Ti2v5b).vae;
        assert_eq!(tera(decode_flops(&large, 81, 480, 832)), 597.0);
        assert_eq!(tera(decode_flops(&large, 121, 480, 832)), 890.9);
        assert_eq!(tera(decode_flops(&large, 121, 704, 1280)), 2011.1);
        assert_eq!(tera(decode_flops(&large, 1, 704, 1280)), 20.6);
        assert_eq!(tera(encode_flops(&large, 121, 704, 1280)), 382.6);
        assert_eq!(tera(encode_flops(&large, 1, 704, 1280)), 4.2);
    }
}
