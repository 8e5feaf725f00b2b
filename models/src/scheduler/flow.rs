//! What the samplers share: grids, the log signal-to-noise ratio, linear combinations.

use candle_core::Tensor;
use leoma_kernels::{Combination, Velocity};

use super::NUM_TRAIN_TIMESTEPS;
use crate::error::{Error, Result};

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

/// [`leoma_kernels::combine`] with as many results as combinations.
pub(super) fn combined<const N: usize>(
    velocity: Velocity<'_>,
    terms: &[&Tensor],
    combinations: [Combination; N],
) -> Result<[Tensor; N]> {
    leoma_kernels::combine(velocity, terms, &combinations)?
        .try_into()
        .map_err(|_| Error::local("scheduler: one combination gave no result"))
}
