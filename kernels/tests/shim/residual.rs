use candle_core::{DType, Tensor};
use leoma_kernels::{Norm, gate_residual, reference, residual_norm};

use crate::support::{agrees, distance, random};

const EPS: f64 = 1e-6;

/// Types of x and of y, and the error allowed. The norm amplifies the rounding of the sum, which may fall
/// the other way where the twin fuses multiplication and addition.
const TYPES: [(DType, DType, f64); 5] = [
    (DType::F32, DType::F32, 2e-6),
    (DType::BF16, DType::BF16, 4e-3),
    (DType::F16, DType::F16, 6e-4),
    (DType::F32, DType::BF16, 3e-3),
    (DType::F32, DType::F16, 4e-4),
];

fn operands(len: usize, d: usize, x: DType, y: DType) -> (Tensor, Tensor) {
    (
        random(&[len, d], 1.0, d as u64).to_dtype(x).unwrap(),
        random(&[len, d], -0.5, 7).to_dtype(y).unwrap(),
    )
}

#[test]
fn gated_with_one_row_and_with_two() {
    for (x_type, y_type, limit) in TYPES {
        // Rows of packs, rows that are not, more packs than a block holds.
        for d in [1, 7, 40, 640, 3072, 3076] {
            for (rows, first) in [(1, 0), (2, 2), (2, 5)] {
                let (x, y) = operands(5, d, x_type, y_type);
                let gate = random(&[rows, d], 0.0, 3);
                agrees(
                    limit,
                    &format!("{x_type:?} {y_type:?} {d} {rows} {first}"),
                    || gate_residual(&x, &y, &gate, first),
                );
            }
        }
    }
}

#[test]
fn the_sum_and_its_norm_in_one_pass() {
    for (x_type, y_type, limit) in TYPES {
        for d in [9, 64, 1000, 5120] {
            let (x, y) = operands(6, d, x_type, y_type);
            let (gate, scale, shift) = (
                random(&[2, d], 0.0, 4),
                random(&[2, d], 0.0, 5),
                random(&[2, d], 0.0, 6),
            );
            let (weight, bias) = (random(&[d], 1.0, 8), random(&[d], 0.0, 9));
            let norms = [
                Norm::Plain,
                Norm::Affine {
                    weight: &weight,
                    bias: &bias,
                },
                Norm::Modulated {
                    scale: &scale,
                    shift: &shift,
                },
            ];
            for norm in norms {
                for gate in [None, Some(&gate)] {
                    let what = format!("{x_type:?} {y_type:?} {d} {norm:?}");
                    let run = || residual_norm(&x, &y, gate, &norm, 2, EPS);
                    agrees(limit, &what, || Ok(run()?.0));
                    agrees(limit, &what, || Ok(run()?.1));
                    let (sum, normed) = run().unwrap();
                    assert_eq!((sum.dtype(), normed.dtype()), (x_type, y_type));
                    let (plain, plain_normed) =
                        reference::residual_norm(&x, &y, gate, &norm, 2, EPS).unwrap();
                    assert!(distance(&sum, &plain) <= limit, "{what}");
                    assert!(distance(&normed, &plain_normed) <= limit, "{what}");
                }
            }
        }
    }
}

#[test]
fn the_norm_sees_the_rounded_sum() {
    // 256 + 1 is 256 in bf16: the update is lost, and a row of one value has no variance.
    let x = Tensor::full(256f32, (1, 8), &candle_core::Device::Cpu).unwrap();
    let x = x.to_dtype(DType::BF16).unwrap();
    let y = Tensor::from_vec(
        vec![0f32, 1., 0., 1., 0., 1., 0., 1.],
        (1, 8),
        &candle_core::Device::Cpu,
    )
    .unwrap();
    let y = y.to_dtype(DType::BF16).unwrap();
    for normed in [
        residual_norm(&x, &y, None, &Norm::Plain, 0, EPS).unwrap().1,
        leoma_kernels::with_shim(0, || residual_norm(&x, &y, None, &Norm::Plain, 0, EPS))
            .unwrap()
            .1,
    ] {
        let normed = normed.to_dtype(DType::F32).unwrap();
        let largest = normed.abs().unwrap().max_all().unwrap();
        assert_eq!(largest.to_scalar::<f32>().unwrap().to_bits(), 0);
    }
}

#[test]
fn parts_of_larger_tensors_and_no_rows() {
    let (x, y) = operands(9, 64, DType::F32, DType::F32);
    let (x, y) = (x.narrow(0, 3, 4).unwrap(), y.narrow(0, 1, 4).unwrap());
    let gate = random(&[1, 64], 0.0, 3);
    agrees(2e-6, "middle rows", || gate_residual(&x, &y, &gate, 0));
    let (x, y) = (x.narrow(0, 0, 0).unwrap(), y.narrow(0, 0, 0).unwrap());
    let none = leoma_kernels::with_shim(0, || residual_norm(&x, &y, None, &Norm::Plain, 0, EPS));
    assert_eq!(none.unwrap().1.dims(), [0, 64]);
    let half = y.to_dtype(DType::BF16).unwrap();
    assert!(residual_norm(&half, &y, None, &Norm::Plain, 0, EPS).is_err());
}
