//! DPM-Solver++ 2M (midpoint) on the official script's grid.
//!
//! Source: Lu et al. 2022 (arXiv 2211.01095), as the official Wan 2.2 code runs it: sigmas are the
//! shifted `linspace(1, 0, n + 1)`, so the first is exactly 1 and the first timestep 1000. The
//! first and the last step are of first order. The update formulas are also those of diffusers 0.35.2's
//! `DPMSolverMultistepScheduler` with flow prediction, but *that class's own grid starts at 0.999*; this
//! sampler equals it only when it is given the official sigmas, and offers no mixture of the two.

use candle_core::{DType, Tensor};
use leoma_kernels::{Combination, Velocity};

use super::flow::{combined, exp_m1, lambda, linspace, schedule, shifted};
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

    fn step(&mut self, index: usize, velocity: Velocity<'_>, sample: &Tensor) -> Result<Tensor> {
        let steps = self.timesteps.len();
        check_order(self.next, index, steps)?;
        self.next += 1;
        let (s, t) = (self.sigmas[index], self.sigmas[index + 1]);
        let sample = sample.to_dtype(DType::F32)?;
        // The prediction m0 = x - sigma v, then the next sample from x, m0 and the prediction before.
        let prediction = Combination {
            terms: [1.0, 0.0, 0.0, 0.0],
            velocity: -s,
            ..Combination::default()
        };
        // lambda is -inf at sigma 1 and +inf at sigma 0; h is then infinite and exp(-h) - 1 is -1.
        let h = lambda(t) - lambda(s);
        let gain = (1.0 - t) * exp_m1(-h);
        let mut next = Combination {
            terms: [t / s, 0.0, 0.0, 0.0],
            results: [-gain, 0.0],
            velocity: 0.0,
        };
        let [m0, next] = match &self.previous {
            Some(m1) if index + 1 < steps => {
                // Half the slope (m0 - m1) / ratio on top.
                let ratio = (lambda(s) - lambda(self.sigmas[index - 1])) / h;
                let slope = 0.5 * gain / ratio;
                next.terms[1] = slope;
                next.results[0] -= slope;
                combined(velocity, &[&sample, m1], [prediction, next])?
            }
            _ => combined(velocity, &[&sample], [prediction, next])?,
        };
        self.previous = Some(m0);
        Ok(next)
    }
}
