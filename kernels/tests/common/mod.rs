//! Helpers of the kernel tests: reproducible tensors, f64 yardsticks, every instruction set.
#![allow(dead_code, clippy::unwrap_used)] // each test binary uses a part

use candle_core::{DType, Device, Tensor};
use leoma_kernels::Isa;

/// Values in about [-2, 2] from a small generator, the same for the same seed.
pub(crate) fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(0x1234_5678_9ABC_DEF1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| (next() + next() + next()) * 1.3).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// All elements in row-major order as f64.
pub(crate) fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Relative L2 distance of `got` from `want`.
pub(crate) fn distance(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| (g - w) * (g - w)).sum();
    let norm: f64 = want.iter().map(|w| w * w).sum();
    (error / norm.max(1e-30)).sqrt()
}

/// Fails unless `got` is within `limit` of `want` (relative L2) and of the same shape.
#[track_caller]
pub(crate) fn close(got: &Tensor, want: &Tensor, limit: f64, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}: shapes");
    let distance = distance(&values(got), &values(want));
    assert!(
        distance <= limit,
        "{what}: relative distance {distance:.2e} > {limit:.0e}"
    );
}

/// As [`close`], against values in f64.
#[track_caller]
pub(crate) fn close_f64(got: &Tensor, want: &[f64], limit: f64, what: &str) {
    let distance = distance(&values(got), want);
    assert!(
        distance <= limit,
        "{what}: relative distance {distance:.2e} > {limit:.0e}"
    );
}

/// As [`close_f64`] for sums whose terms may cancel; `squares` are the same sums over squared terms. What f32 loses
/// is as large as the terms, so the distance is relative to their L2 norm where that is larger than the sums.
#[track_caller]
pub(crate) fn close_sums(got: &Tensor, want: &[f64], squares: &[f64], limit: f64, what: &str) {
    let sums: f64 = want.iter().map(|w| w * w).sum();
    let terms: f64 = squares.iter().sum();
    let widened = (terms / sums.max(1e-30)).sqrt().max(1.0);
    let distance = distance(&values(got), want);
    assert!(
        distance <= limit * widened,
        "{what}: relative distance {distance:.2e} > {limit:.0e} x {widened:.1}"
    );
}

/// `x` with every element squared.
pub(crate) fn squared(x: &Tensor) -> Tensor {
    x.sqr().unwrap()
}

/// Runs `test` once per instruction set of this machine.
pub(crate) fn each_isa(test: impl Fn(&str)) {
    for isa in Isa::available() {
        isa.scope(|| test(isa.name()));
    }
}

/// The same values in memory laid out with the last two axes exchanged: not contiguous.
pub(crate) fn scattered(x: &Tensor) -> Tensor {
    let r = x.rank();
    let y = x.transpose(r - 2, r - 1).unwrap().contiguous().unwrap();
    y.transpose(r - 2, r - 1).unwrap()
}

/// The same values as a window into a longer tensor: contiguous, but not from offset 0.
pub(crate) fn narrowed(x: &Tensor) -> Tensor {
    let pad = x.narrow(0, 0, 1).unwrap();
    let longer = Tensor::cat(&[&pad, x, &pad], 0).unwrap();
    longer.narrow(0, 1, x.dim(0).unwrap()).unwrap()
}
