//! Loading of layers by name.

use leoma_kernels::Linear;

use crate::error::Result;
use crate::weights::VarBuilder;

/// A linear layer with bias: `weight [out, in]`, `bias [out]`.
pub(super) fn linear(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Linear> {
    let weight = vb.get([outputs, inputs], "weight")?;
    let bias = vb.get([outputs], "bias")?;
    Ok(Linear::new(weight, Some(bias))?)
}
