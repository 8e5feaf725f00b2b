use candle_core::DType;
use leoma_kernels::{layer_norm, layer_norm_modulate, layer_norm_modulate_to};

use crate::support::{FLOATS, agrees, random};

const EPS: f64 = 1e-6;

/// Widths with and without whole 16-byte packs, below and above one pass of a block.
const WIDTHS: [usize; 6] = [1, 7, 32, 100, 768, 3072];

#[test]
fn plain_and_affine() {
    for (dtype, limit) in FLOATS {
        for d in WIDTHS {
            let x = random(&[5, d], 0.5, d as u64).to_dtype(dtype).unwrap();
            let (w, b) = (random(&[d], 1.0, 2), random(&[d], 0.0, 3));
            // A row of one element is zero whatever it was: nothing to compare relatively.
            if d > 1 {
                agrees(limit, &format!("plain {dtype:?} {d}"), || {
                    layer_norm(&x, None, EPS)
                });
            }
            agrees(limit, &format!("affine {dtype:?} {d}"), || {
                layer_norm(&x, Some((&w, &b)), EPS)
            });
        }
    }
}

#[test]
fn modulated_with_one_row_and_with_two() {
    for (dtype, limit) in FLOATS {
        for (rows, first) in [(1, 0), (2, 0), (2, 3), (2, 9)] {
            let d = 260;
            let x = random(&[9, d], -1.0, 5).to_dtype(dtype).unwrap();
            let (scale, shift) = (random(&[rows, d], 0.0, 6), random(&[rows, d], 0.0, 7));
            agrees(
                limit,
                &format!("{dtype:?} {rows} rows, first {first}"),
                || layer_norm_modulate(&x, &scale, &shift, first, EPS),
            );
        }
    }
}

#[test]
fn a_stream_in_f32_feeds_layers_in_16_bits() {
    for (dtype, limit) in [(DType::BF16, 3e-3), (DType::F16, 4e-4)] {
        for d in [36, 104] {
            let x = random(&[4, d], 2.0, 1);
            let (scale, shift) = (random(&[2, d], 0.0, 2), random(&[2, d], 0.0, 3));
            agrees(limit, &format!("{dtype:?} {d}"), || {
                layer_norm_modulate_to(&x, &scale, &shift, 1, EPS, dtype)
            });
        }
    }
    let half = random(&[4, 8], 0.0, 1).to_dtype(DType::BF16).unwrap();
    let row = random(&[1, 8], 0.0, 1);
    assert!(layer_norm_modulate_to(&half, &row, &row, 0, EPS, DType::F32).is_err());
}

#[test]
fn a_view_that_does_not_begin_at_the_start() {
    let x = random(&[8, 64], 0.0, 9);
    let part = x.narrow(0, 3, 2).unwrap();
    agrees(2e-6, "two rows in the middle", || {
        layer_norm(&part, None, EPS)
    });
    let across = x.t().unwrap();
    agrees(2e-6, "not contiguous", || layer_norm(&across, None, EPS));
}

#[test]
fn no_rows_are_no_launch() {
    let x = random(&[4, 16], 0.0, 1).narrow(0, 0, 0).unwrap();
    let y = leoma_kernels::with_shim(0, || layer_norm(&x, None, EPS)).unwrap();
    assert_eq!(y.dims(), [0, 16]);
}
