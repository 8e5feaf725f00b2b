//! Running one operation on both paths.

use candle_core::{DType, Device, Result, Tensor};
use leoma_kernels::with_shim;

/// The three element types with the error allowed against the CPU twin (relative L2): f32 rounding in
/// another order, one rounding of the result in the 16-bit types.
pub(crate) const FLOATS: [(DType, f64); 3] =
    [(DType::F32, 2e-6), (DType::BF16, 3e-3), (DType::F16, 4e-4)];

/// Normally distributed values around `mean`, the same for every run.
pub(crate) fn random(shape: &[usize], mean: f32, seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 + 0.5) / (1u64 << 24) as f32
    };
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| mean + (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos())
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// `|a - b| / |b|` in f64; infinite where `a` has a NaN.
pub(crate) fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let values = |x: &Tensor| -> Vec<f32> {
        let x = x.to_dtype(DType::F32).unwrap();
        x.flatten_all().unwrap().to_vec1().unwrap()
    };
    let (mut error, mut norm) = (0f64, 0f64);
    for (a, b) in values(a).into_iter().zip(values(b)) {
        error += (f64::from(a) - f64::from(b)).powi(2);
        norm += f64::from(b).powi(2);
    }
    let distance = (error / norm.max(f64::MIN_POSITIVE)).sqrt();
    if distance.is_nan() {
        f64::INFINITY
    } else {
        distance
    }
}

/// The result of `op` through the kernels; the same bits whatever order the threads run in.
pub(crate) fn through_shim(op: impl Fn() -> Result<Tensor>) -> Tensor {
    let first = with_shim(0, &op).unwrap();
    for order in [1, 7] {
        let again = with_shim(order, &op).unwrap();
        assert_eq!(
            bits(&again),
            bits(&first),
            "the result depends on the order of the threads ({order})"
        );
    }
    first
}

/// The elements as bits, so that equal NaNs are equal.
fn bits(x: &Tensor) -> Vec<u32> {
    let x = x.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    x.to_vec1::<f32>()
        .unwrap()
        .into_iter()
        .map(f32::to_bits)
        .collect()
}

/// Fails unless `op` gives the same through the kernels as on the CPU's own path.
pub(crate) fn agrees(limit: f64, what: &str, op: impl Fn() -> Result<Tensor>) {
    let expected = op().unwrap();
    let found = through_shim(&op);
    assert_eq!(found.dtype(), expected.dtype(), "{what}");
    let distance = distance(&found, &expected);
    assert!(
        distance <= limit,
        "{what}: distance {distance:e}, limit {limit:e}"
    );
}
