//! UniPC (order 2, `bh2`, predicting the clean sample), `UniPCMultistepScheduler` of diffusers 0.35.2
//! with flow sigmas.
//!
//! Source: Zhao et al. 2023 (arXiv 2302.04867). The grid runs from 0.999 to 0 (later diffusers releases
//! run from 1 to 0.001, which is another schedule), is shifted in float64 and stored in float32;
//! timesteps are truncated. Each step first *corrects* the sample with the new prediction, then
//! *predicts* the next one; the last step is of first order.
//!
//! Coefficients are computed in float32 in the reference's order.

use candle_core::{DType, Tensor};
use leoma_kernels::{Combination, Velocity};

use super::flow::{combined, exp_m1, lambda, linspace, schedule, shifted};
use super::{NUM_TRAIN_TIMESTEPS, Scheduler, check_order};
use crate::error::Result;

/// UniPC sampler of order 2.
#[derive(Debug)]
pub struct UniPcMultistep {
    sigmas: Vec<f32>,
    timesteps: Vec<f64>,
    next: usize,
    /// Clean samples predicted at the last two steps, latest last.
    predictions: Vec<Tensor>,
    /// The corrected sample of the step before and the order its predictor used.
    last: Option<(Tensor, usize)>,
}

impl UniPcMultistep {
    pub(super) fn new(steps: usize, shift: f64) -> Self {
        let alphas = linspace(1.0, 1.0 / NUM_TRAIN_TIMESTEPS, steps + 1);
        let sigmas: Vec<f64> = alphas[1..]
            .iter()
            .rev()
            .map(|alpha| shifted(1.0 - alpha, shift))
            .collect();
        let (sigmas, timesteps) = schedule(&sigmas);
        Self {
            sigmas,
            timesteps,
            next: 0,
            predictions: Vec::new(),
            last: None,
        }
    }

    /// `(lambda(sigma[back]) - lambda(sigma[from])) / h`.
    fn ratio(&self, back: usize, from: usize, h: f32) -> f32 {
        (lambda(self.sigmas[back]) - lambda(self.sigmas[from])) / h
    }

    /// Factors that correct the sample at `index` with the prediction made there, which is result 0.
    /// Terms: sample, last, m0 and m1: the corrected sample of the step before and the predictions of the
    /// two steps before, latest first.
    fn correct(&self, index: usize, order: usize) -> Combination {
        let (s, t) = (self.sigmas[index - 1], self.sigmas[index]);
        let h = lambda(t) - lambda(s);
        let e = exp_m1(-h);
        let gain = (1.0 - t) * e;
        // base = t/s last - gain m0, less gain times the update.
        let (slope, change) = if order == 1 {
            (0.0, 0.5)
        } else {
            let r = self.ratio(index - 2, index - 1, h);
            let (rho1, rho2) = corrector_weights(h, e, r);
            (rho1 / r, rho2)
        };
        // The update is slope (m1 - m0) + change (model - m0).
        Combination {
            terms: [0.0, t / s, gain * (slope + change - 1.0), -gain * slope],
            results: [-gain * change, 0.0],
            velocity: 0.0,
        }
    }

    /// Factors that move the corrected sample from sigma `index` to the next one: of the corrected sample,
    /// of the prediction made at `index`, and of the one before (0 at first order).
    fn predict(&self, index: usize, order: usize) -> [f32; 3] {
        let (s, t) = (self.sigmas[index], self.sigmas[index + 1]);
        // At sigma 0 lambda is +inf, so e is -1 and the result is the prediction itself.
        let h = lambda(t) - lambda(s);
        let gain = (1.0 - t) * exp_m1(-h);
        if order == 1 {
            return [t / s, -gain, 0.0];
        }
        let slope = gain * 0.5 / self.ratio(index - 1, index, h);
        [t / s, slope - gain, -slope]
    }
}

/// Solves `rho1 + rho2 = b1`, `r rho1 + rho2 = b2` for the second-order corrector, `e = exp(-h) - 1`.
fn corrector_weights(h: f32, e: f32, r: f32) -> (f32, f32) {
    let phi1 = e / -h - 1.0;
    let phi2 = phi1 / -h - 0.5;
    let (b1, b2) = (phi1 / e, phi2 * 2.0 / e);
    // Elimination on the larger entry of the first column (1 or r), as a pivoting solver does.
    if r.abs() > 1.0 {
        let factor = 1.0 / r;
        let rho2 = (b1 - factor * b2) / (1.0 - factor);
        ((b2 - rho2) / r, rho2)
    } else {
        let rho2 = (b2 - r * b1) / (1.0 - r);
        (b1 - rho2, rho2)
    }
}

impl Scheduler for UniPcMultistep {
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
        let sample = sample.to_dtype(DType::F32)?;
        let order = 2.min(steps - index).min(index + 1);
        let [of_sample, of_model, of_m0] = self.predict(index, order);
        // The prediction x - sigma v, the corrected sample, the next sample: each from those before.
        let prediction = Combination {
            terms: [1.0, 0.0, 0.0, 0.0],
            velocity: -self.sigmas[index],
            ..Combination::default()
        };
        let before = self.last.as_ref().zip(self.predictions.last());
        let (model, corrected, next) = if let Some(((last, last_order), m0)) = before {
            let next = Combination {
                terms: [0.0, 0.0, of_m0, 0.0],
                results: [of_model, of_sample],
                velocity: 0.0,
            };
            let mut terms = vec![&sample, last, m0];
            terms.extend(self.predictions.iter().rev().nth(1));
            let rows = [prediction, self.correct(index, *last_order), next];
            let [model, corrected, next] = combined(velocity, &terms, rows)?;
            (model, corrected, next)
        } else {
            let next = Combination {
                terms: [of_sample, 0.0, 0.0, 0.0],
                results: [of_model, 0.0],
                velocity: 0.0,
            };
            let [model, next] = combined(velocity, &[&sample], [prediction, next])?;
            (model, sample, next)
        };
        if self.predictions.len() == 2 {
            self.predictions.remove(0);
        }
        self.predictions.push(model);
        self.last = Some((corrected, order));
        Ok(next)
    }
}
