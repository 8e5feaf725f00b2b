//! Loading of layers by name.

use leoma_kernels::Linear;

use crate::error::Result;
use crate::weights::VarBuilder;

/// A linear layer with bias: `weight [out, in]`, `bias [out]`; in e4m3 where the builder says so.
pub(super) fn linear(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Linear> {
    if vb.is_fp8("weight") {
        let weight = vb.get_fp8([outputs, inputs], "weight")?;
        return Ok(Linear::fp8(weight, Some(vb.get([outputs], "bias")?))?);
    }
    let weight = vb.get([outputs, inputs], "weight")?;
    let bias = vb.get([outputs], "bias")?;
    Ok(Linear::new(weight, Some(bias))?)
}
