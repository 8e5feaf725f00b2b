//! Linear layer: `y = act(x W^T + b)`.
//!
//! x [.., in], W [out, in], b [out]; result [.., out].
//!
//! On the CPU the weight is packed into panels when the layer is built, in its own dtype, and the
//! tensor is let go; rows of x are multiplied by the panels in f32, and bias and activation follow
//! on the hot tile.

use crate::activation::activate_reference;
use crate::data::{Floats, View, per_dtype, tensor};
use crate::gemm::{Dense, Finish, Packed, gemm};
use crate::{Activation, check};
use candle_core::{DType, Result, Tensor, bail};
use std::sync::Arc;

/// A linear layer. The weight may have another dtype than the input (bf16 weights, f32
/// activations).
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    in_features: usize,
    out_features: usize,
}

#[derive(Debug, Clone)]
enum Weight {
    /// On the CPU.
    Packed {
        weight: Arc<Packed>,
        bias: Option<Arc<[f32]>>,
    },
    /// On other devices.
    Plain {
        weight: Tensor,
        bias: Option<Tensor>,
    },
}

impl Linear {
    /// A layer of `weight` `[out, in]` and `bias` `[out]`. Errors if the shapes disagree.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        check::float("linear", "weight", &weight)?;
        let [out_features, in_features] = *weight.dims() else {
            bail!(
                "linear: weight must have shape [out, in], found {:?}",
                weight.dims()
            );
        };
        if out_features == 0 || in_features == 0 {
            bail!("linear: weight is empty, shape {:?}", weight.dims());
        }
        if let Some(bias) = &bias {
            check::float("linear", "bias", bias)?;
            check::dims("linear", "bias", bias, &[out_features])?;
        }
        let weight = if weight.device().is_cpu() {
            let bias =
                bias.map(|b| Ok::<_, candle_core::Error>(Floats::new(&b)?.as_slice().into()));
            let packed = Packed::new(&weight.contiguous()?, out_features, |k| k)?;
            Weight::Packed {
                weight: Arc::new(packed),
                bias: bias.transpose()?,
            }
        } else {
            Weight::Plain { weight, bias }
        };
        Ok(Self {
            weight,
            in_features,
            out_features,
        })
    }

    /// `x W^T + b` for `x` [.., in]; result [.., out] in the dtype of `x`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_act(x, Activation::None)
    }

    /// `act(x W^T + b)` for `x` [.., in]; result [.., out] in the dtype of `x`.
    pub fn forward_act(&self, x: &Tensor, act: Activation) -> Result<Tensor> {
        check::float("linear", "x", x)?;
        if x.dims().last() != Some(&self.in_features) {
            bail!(
                "linear: x must have shape [.., {}], found {:?} (weight is [{}, {}])",
                self.in_features,
                x.dims(),
                self.out_features,
                self.in_features
            );
        }
        match &self.weight {
            Weight::Plain { weight, bias } => linear_reference(x, weight, bias.as_ref(), act),
            Weight::Packed { weight, bias } => {
                let mut shape = x.dims().to_vec();
                shape.pop();
                shape.push(self.out_features);
                let x = x.contiguous()?;
                let finish = Finish {
                    bias: bias.as_deref(),
                    residual: None,
                    act,
                };
                let view = View::new(&x)?;
                let y = per_dtype!(view.slice(), values => {
                    gemm(&Dense { values, stride: self.in_features }, weight, &finish)
                });
                tensor(y, &shape, x.dtype())
            }
        }
    }

    /// Width of the input.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Width of the result.
    pub fn out_features(&self) -> usize {
        self.out_features
    }
}

/// Reference of [`Linear::forward_act`]: `weight` `[out, in]`, `bias` `[out]`.
pub fn linear_reference(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    act: Activation,
) -> Result<Tensor> {
    // The CPU multiplies in f32; accelerators accumulate in f32 whatever the operands are.
    let dtype = if x.device().is_cpu() {
        DType::F32
    } else {
        x.dtype()
    };
    let (out_features, in_features) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    let rows = shape.iter().rev().skip(1).product::<usize>();
    if let Some(last) = shape.last_mut() {
        *last = out_features;
    }
    let xs = x
        .to_dtype(dtype)?
        .reshape((rows, in_features))?
        .contiguous()?;
    let mut y = xs.matmul(&weight.to_dtype(dtype)?.t()?)?;
    if let Some(bias) = bias {
        y = y
            .to_dtype(DType::F32)?
            .broadcast_add(&bias.to_dtype(DType::F32)?)?;
    }
    activate_reference(&y, act)?
        .reshape(shape)?
        .to_dtype(x.dtype())
}
