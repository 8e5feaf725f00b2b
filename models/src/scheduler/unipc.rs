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

use super::flow::{exp_m1, lambda, linspace, predict_x0, scale, schedule, shifted};
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

    /// Corrects the sample at `index` with the prediction `model` made there.
    fn correct(&self, index: usize, last: &Tensor, order: usize, model: &Tensor) -> Result<Tensor> {
        let (s, t) = (self.sigmas[index - 1], self.sigmas[index]);
        let h = lambda(t) - lambda(s);
        let e = exp_m1(-h);
        let m0 = &self.predictions[self.predictions.len() - 1];
        let base = (scale(last, t / s)? - scale(m0, (1.0 - t) * e)?)?;
        let change = (model - m0)?;
        let update = if order == 1 {
            scale(&change, 0.5)?
        } else {
            let r = self.ratio(index - 2, index - 1, h);
            let (rho1, rho2) = corrector_weights(h, e, r);
            let slope = scale(&(&self.predictions[0] - m0)?, 1.0 / r)?;
            (scale(&slope, rho1)? + scale(&change, rho2)?)?
        };
        Ok((base - scale(&update, (1.0 - t) * e)?)?)
    }

    /// Moves `sample` (corrected) from sigma `index` to the next one.
    fn predict(&self, index: usize, sample: &Tensor, order: usize) -> Result<Tensor> {
        let (s, t) = (self.sigmas[index], self.sigmas[index + 1]);
        // At sigma 0 lambda is +inf, so e is -1 and the result is the prediction itself.
        let h = lambda(t) - lambda(s);
        let gain = (1.0 - t) * exp_m1(-h);
        let m0 = &self.predictions[self.predictions.len() - 1];
        let base = (scale(sample, t / s)? - scale(m0, gain)?)?;
        if order == 1 {
            return Ok(base);
        }
        let r = self.ratio(index - 1, index, h);
        let slope = scale(&(&self.predictions[0] - m0)?, 1.0 / r)?;
        Ok((base - scale(&slope, gain * 0.5)?)?)
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

    fn step(&mut self, index: usize, velocity: &Tensor, sample: &Tensor) -> Result<Tensor> {
        let steps = self.timesteps.len();
        check_order(self.next, index, steps)?;
        self.next += 1;
        let model = predict_x0(sample, velocity, self.sigmas[index])?;
        let sample = match &self.last {
            Some((last, order)) => self.correct(index, last, *order, &model)?,
            None => sample.to_dtype(DType::F32)?,
        };
        if self.predictions.len() == 2 {
            self.predictions.remove(0);
        }
        self.predictions.push(model);
        let order = 2.min(steps - index).min(index + 1);
        let next = self.predict(index, &sample, order)?;
        self.last = Some((sample, order));
        Ok(next)
    }
}
