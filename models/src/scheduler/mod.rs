//! Samplers: the sigma grid, the timesteps fed to the model, and the update of the sample.
//!
//! The model predicts the velocity `v = noise - x0` of `x = (1 - sigma) x0 + sigma noise`, so
//! `x0 = x - sigma v`. Every sampler takes velocities and walks the sigmas from about 1 to 0. *Scheduler*
//! means this and nothing else in this project; the order of jobs is a queue.

mod dpmpp;
mod euler;
mod flow;
#[cfg(test)]
mod tests;
mod unipc;

use std::fmt;
use std::str::FromStr;

use candle_core::Tensor;
pub use leoma_kernels::Velocity;

use crate::error::{Error, Result};

pub use dpmpp::DpmSolverMultistep;
pub use euler::FlowMatchEuler;
pub use unipc::UniPcMultistep;

/// Steps the models were trained with: the scale between sigmas and timesteps.
const NUM_TRAIN_TIMESTEPS: f64 = 1000.0;

/// One sampling run: made for a number of steps, fed step by step, then dropped.
pub trait Scheduler: Send + fmt::Debug {
    /// What the model is fed at each step, from high to low noise; whole numbers for UniPC and DPM++.
    /// The expert boundary is tested on these values.
    fn timesteps(&self) -> &[f64];

    /// Noise levels: one per step, and the final 0.
    fn sigmas(&self) -> &[f32];

    /// Advances `sample` from sigma `index` to sigma `index + 1`.
    ///
    /// Steps must be taken in order, each once. `velocity` and `sample` have one shape; the result is
    /// float32 of that shape on their device, whatever the type of the velocity. Guidance and update are
    /// one pass over the tensors ([`leoma_kernels::combine`]); sigma times a velocity of 16 bits is rounded
    /// to its type, as the reference rounds it.
    fn step(&mut self, index: usize, velocity: Velocity<'_>, sample: &Tensor) -> Result<Tensor>;
}

/// The samplers, named as on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulerKind {
    /// `unipc`: UniPC of diffusers 0.35.2, the reference's default.
    UniPc,
    /// `euler`: flow-match Euler of diffusers 0.35.2.
    Euler,
    /// `dpmpp`: DPM-Solver++ 2M of the official script.
    Dpmpp,
}

impl SchedulerKind {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::UniPc, Self::Euler, Self::Dpmpp];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::UniPc => "unipc",
            Self::Euler => "euler",
            Self::Dpmpp => "dpmpp",
        }
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SchedulerKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| {
                Error::caller(
                    "scheduler",
                    format!("`{text}` is unknown: use unipc, euler or dpmpp"),
                )
            })
    }
}

/// Makes the sampler for one run.
///
/// # Errors
/// [`Error::Caller`] for a number of steps or a shift that gives no usable schedule.
pub fn build(
    kind: SchedulerKind,
    num_inference_steps: usize,
    flow_shift: f64,
) -> Result<Box<dyn Scheduler>> {
    if num_inference_steps == 0 || num_inference_steps as f64 > NUM_TRAIN_TIMESTEPS {
        return Err(Error::caller(
            "num_inference_steps",
            format!("{num_inference_steps} steps: use 1 to {NUM_TRAIN_TIMESTEPS}"),
        ));
    }
    if !flow_shift.is_finite() || flow_shift <= 0.0 {
        return Err(Error::caller(
            "flow_shift",
            format!("{flow_shift} must be a finite number above 0 (released models use 3 to 12)"),
        ));
    }
    let scheduler: Box<dyn Scheduler> = match kind {
        SchedulerKind::UniPc => Box::new(UniPcMultistep::new(num_inference_steps, flow_shift)),
        SchedulerKind::Euler => Box::new(FlowMatchEuler::new(num_inference_steps, flow_shift)),
        SchedulerKind::Dpmpp => Box::new(DpmSolverMultistep::new(num_inference_steps, flow_shift)),
    };
    let sigmas = scheduler.sigmas();
    if !sigmas.windows(2).all(|pair| pair[0] > pair[1]) {
        return Err(Error::caller(
            "flow_shift",
            format!("{flow_shift} with {num_inference_steps} steps gives sigmas that do not fall"),
        ));
    }
    // The reference finds its first step by timestep value and takes the second match, so a schedule
    // that starts with two equal timesteps would lose its first step there.
    if let [first, second, ..] = scheduler.timesteps()
        && first <= second
    {
        return Err(Error::caller(
            "num_inference_steps",
            format!(
                "{num_inference_steps} steps at flow_shift {flow_shift} start with two equal \
                 timesteps ({first}): use fewer steps"
            ),
        ));
    }
    Ok(scheduler)
}

/// Refuses steps out of order: the multistep samplers would silently mix histories.
fn check_order(expected: usize, index: usize, steps: usize) -> Result<()> {
    if index == expected && index < steps {
        return Ok(());
    }
    Err(Error::local(format!(
        "scheduler: step {index} was asked for, expected step {expected} of {steps}; make a new \
         scheduler for each run"
    )))
}
