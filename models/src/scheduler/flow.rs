//! What the samplers share: grids, the log signal-to-noise ratio, linear combinations.

use candle_core::{DType, Tensor};

use super::NUM_TRAIN_TIMESTEPS;
use crate::error::Result;

/// `n` points from `start` to `stop`, both included, rounded as `numpy.linspace` rounds them.
pub(super) fn linspace(start: f64, stop: f64, n: usize) -> Vec<f64> {
    if n == 1 {
        return vec![start];
    }
    let step = (stop - start) / (n - 1) as f64;
    let mut points: Vec<f64> = (0..n).map(|i| i as f64 * step + start).collect();
    points[n - 1] = stop;
    points
}

/// Moves a sigma towards 1: `k u / (1 + (k - 1) u)`.
pub(super) fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// Sigmas with the final 0 in float32, and the timesteps, which the reference truncates to integers.
pub(super) fn schedule(sigmas: &[f64]) -> (Vec<f32>, Vec<f64>) {
    let timesteps = sigmas
        .iter()
        .map(|sigma| (sigma * NUM_TRAIN_TIMESTEPS).trunc())
        .collect();
    (
        sigmas
            .iter()
            .map(|sigma| *sigma as f32)
            .chain([0.0])
            .collect(),
        timesteps,
    )
}

/// `ln(1 - sigma) - ln(sigma)`, each step rounded to float32 as the reference does.
///
/// Logarithms go through float64, so that the result does not depend on the machine's float32 library.
pub(super) fn lambda(sigma: f32) -> f32 {
    let ln = |x: f32| f64::from(x).ln() as f32;
    ln(1.0 - sigma) - ln(sigma)
}

/// `exp(x) - 1` in float32.
pub(super) fn exp_m1(x: f32) -> f32 {
    f64::from(x).exp_m1() as f32
}

/// `tensor * factor`.
pub(super) fn scale(tensor: &Tensor, factor: f32) -> Result<Tensor> {
    Ok(tensor.affine(f64::from(factor), 0.0)?)
}

/// `factor * velocity` in float32, rounded to the type of the velocity on the way: in the reference the
/// factor is a tensor without dimensions, which does not widen a velocity of 16 bits.
pub(super) fn scale_velocity(velocity: &Tensor, factor: f32) -> Result<Tensor> {
    let product = scale(&velocity.to_dtype(DType::F32)?, factor)?;
    Ok(product.to_dtype(velocity.dtype())?.to_dtype(DType::F32)?)
}

/// The clean sample that a velocity points to: `sample - sigma * velocity`, in float32 but for the product.
pub(super) fn predict_x0(sample: &Tensor, velocity: &Tensor, sigma: f32) -> Result<Tensor> {
    Ok((sample.to_dtype(DType::F32)? - scale_velocity(velocity, sigma)?)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_product_has_the_type_of_the_velocity() {
        let velocity = Tensor::new(&[1.0f32], &Device::Cpu).unwrap();
        let sample = velocity.zeros_like().unwrap();
        // 0.999 lies between the bf16 numbers 0.99609375 and 1.
        for (dtype, expected) in [(DType::F32, -0.999), (DType::BF16, -1.0)] {
            let velocity = velocity.to_dtype(dtype).unwrap();
            let x0 = predict_x0(&sample, &velocity, 0.999).unwrap();
            let x0 = x0.to_vec1::<f32>().unwrap()[0];
            assert_eq!(x0.to_bits(), f32::to_bits(expected), "{dtype:?}: {x0}");
        }
    }
}
