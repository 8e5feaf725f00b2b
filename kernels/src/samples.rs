//! Values for tests.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor};

/// f32 from -1 to 1 without structure, on the CPU: the same for the same seed.
pub(crate) fn samples(shape: &[usize], seed: u32) -> Tensor {
    let mut state = seed;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}
