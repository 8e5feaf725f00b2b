//! DPM-Solver++ 2M (midpoint) on the official script's grid.
//!
//! Source: Lu et al. 2022 (arXiv 2211.01095), as the official Wan 2.2 code runs it: sigmas are the
//! shifted `linspace(1, 0, n + 1)`, so the first is exactly 1 and the first timestep 1000. The
//! first and the last step are of first order. The update formulas are also those of diffusers 0.35.2's
//! `DPMSolverMultistepScheduler` with flow prediction, but *that class's own grid starts at 0.999*; this
//! sampler equals it only when it is given the official sigmas, and offers no mixture of the two.

use candle_core::Tensor;

use super::flow::{exp_m1, lambda, linspace, predict_x0, scale, schedule, shifted};
use super::{Scheduler, check_order};
use crate::error::Result;

/// DPM-Solver++ 2M sampler.
#[derive(Debug)]
pub struct DpmSolverMultistep {
    sigmas: Vec<f32>,
    timesteps: Vec<f64>,
    next: usize,
    /// Clean sample predicted at the step before.
    previous: Option<Tensor>,
}

impl DpmSolverMultistep {
    pub(super) fn new(steps: usize, shift: f64) -> Self {
        let grid = linspace(1.0, 0.0, steps + 1);
        let sigmas: Vec<f64> = grid[..steps].iter().map(|u| shifted(*u, shift)).collect();
        let (sigmas, timesteps) = schedule(&sigmas);
        Self {
            sigmas,
            timesteps,
            next: 0,
            previous: None,
        }
    }
}

impl Scheduler for DpmSolverMultistep {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn step(&mut self, index: usize, velocity: &Tensor, sample: &Tensor) -> Result<Tensor> {
        let steps = self.timesteps.len();
        check_order(self.next, index, steps)?;
        self.next += 1;
        let (s, t) = (self.sigmas[index], self.sigmas[index + 1]);
        let m0 = predict_x0(sample, velocity, s)?;
        // lambda is -inf at sigma 1 and +inf at sigma 0; h is then infinite and exp(-h) - 1 is -1.
        let h = lambda(t) - lambda(s);
        let gain = (1.0 - t) * exp_m1(-h);
        let base = (scale(sample, t / s)? - scale(&m0, gain)?)?;
        let next = match &self.previous {
            Some(m1) if index + 1 < steps => {
                let ratio = (lambda(s) - lambda(self.sigmas[index - 1])) / h;
                let slope = scale(&(&m0 - m1)?, 1.0 / ratio)?;
                (base - scale(&slope, 0.5 * gain)?)?
            }
            _ => base,
        };
        self.previous = Some(m0);
        Ok(next)
    }
}
