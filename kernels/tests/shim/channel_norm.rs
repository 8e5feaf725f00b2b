use candle_core::{Device, Tensor};
use leoma_kernels::channel_norm;

use crate::support::{FLOATS, agrees, random};

#[test]
fn with_and_without_silu() {
    for (dtype, limit) in FLOATS {
        // The widths of the VAEs, and odd ones.
        for c in [1, 3, 12, 96, 160, 256, 384, 640, 1024, 1032, 1500] {
            for pixels in [1, 5, 37] {
                let x = random(&[pixels, c], 0.2, c as u64).to_dtype(dtype).unwrap();
                let gamma = random(&[c], 1.0, 2).to_dtype(dtype).unwrap();
                for act in [false, true] {
                    agrees(limit, &format!("{dtype:?} {pixels} x {c} {act}"), || {
                        channel_norm(&x, &gamma, act)
                    });
                }
            }
        }
    }
}

#[test]
fn a_black_pixel_stays_black_and_views_are_read_right() {
    let zeros = Tensor::zeros((2, 3, 96), candle_core::DType::F32, &Device::Cpu).unwrap();
    let gamma = random(&[96], 1.0, 2);
    let y = leoma_kernels::with_shim(0, || channel_norm(&zeros, &gamma, true)).unwrap();
    let largest = y.abs().unwrap().max_all().unwrap();
    assert_eq!(largest.to_scalar::<f32>().unwrap().to_bits(), 0);
    let part = random(&[4, 5, 96], 0.0, 3).narrow(1, 1, 3).unwrap();
    agrees(2e-6, "columns of a frame", || {
        channel_norm(&part, &gamma, false)
    });
}
