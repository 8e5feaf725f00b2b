//! Flow-match Euler, `FlowMatchEulerDiscreteScheduler` of diffusers 0.35.2.
//!
//! `x' = x + (sigma' - sigma) v`. The shift acts twice, as in the reference: on the training grid whose
//! ends the steps are spread between, and again on the spread sigmas. Timesteps are `1000 sigma`, not
//! truncated.

use candle_core::{DType, Tensor};
use leoma_kernels::{Combination, Velocity};

use super::flow::{combined, linspace, shifted};
use super::{NUM_TRAIN_TIMESTEPS, Scheduler, check_order};
use crate::error::Result;

/// Flow-match Euler sampler.
#[derive(Debug)]
pub struct FlowMatchEuler {
    sigmas: Vec<f32>,
    timesteps: Vec<f64>,
    next: usize,
}

impl FlowMatchEuler {
    pub(super) fn new(steps: usize, shift: f64) -> Self {
        // Ends of the training grid, shifted in float32.
        let end = |timestep: f32| {
            let sigma = timestep / NUM_TRAIN_TIMESTEPS as f32;
            let sigma = shift as f32 * sigma / (1.0 + (shift - 1.0) as f32 * sigma);
            f64::from(sigma) * NUM_TRAIN_TIMESTEPS
        };
        let mut sigmas: Vec<f32> = linspace(end(1000.0), end(1.0), steps)
            .into_iter()
            .map(|timestep| shifted(timestep / NUM_TRAIN_TIMESTEPS, shift) as f32)
            .collect();
        let timesteps = sigmas
            .iter()
            .map(|sigma| f64::from(sigma * NUM_TRAIN_TIMESTEPS as f32))
            .collect();
        sigmas.push(0.0);
        Self {
            sigmas,
            timesteps,
            next: 0,
        }
    }
}

impl Scheduler for FlowMatchEuler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn step(&mut self, index: usize, velocity: Velocity<'_>, sample: &Tensor) -> Result<Tensor> {
        check_order(self.next, index, self.timesteps.len())?;
        self.next += 1;
        let next = Combination {
            terms: [1.0, 0.0, 0.0, 0.0],
            velocity: self.sigmas[index + 1] - self.sigmas[index],
            ..Combination::default()
        };
        let [next] = combined(velocity, &[&sample.to_dtype(DType::F32)?], [next])?;
        Ok(next)
    }
}
