//! What the tests of this crate measure with.

use candle_core::{DType, Tensor};

/// All values in order, in f64.
pub(crate) fn values(x: &Tensor) -> Vec<f64> {
    let flat = x.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    flat.to_vec1().unwrap()
}

/// Relative L2 distance. The shapes must agree.
pub(crate) fn relative_l2(found: &Tensor, wanted: &Tensor) -> f64 {
    assert_eq!(found.dims(), wanted.dims());
    let (found, wanted) = (values(found), values(wanted));
    let apart: f64 = found
        .iter()
        .zip(&wanted)
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    let length: f64 = wanted.iter().map(|b| b * b).sum();
    (apart / length.max(f64::MIN_POSITIVE)).sqrt()
}
