//! Linear layer: `y = act(x W^T + b)`.
//!
//! x [.., in], W [out, in], b [out]; result [.., out].
//!
//! On the CPU the weight is packed into panels when the layer is built, in its own dtype, and the
//! tensor is let go; rows of x are multiplied by the panels in f32, and bias and activation follow
//! on the hot tile.
//!
//! On a card the product is cuBLASLt's (`linear_device.rs`), with bias and GELU in its epilogue.

use crate::activation::activate_reference;
use crate::data::{Floats, View, per_dtype, tensor};
use crate::fp8::{Fp8Linear, Fp8Weight};
use crate::gemm::{Dense, Finish, Packed, gemm};
#[cfg(feature = "cuda")]
use crate::linear_device;
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
    /// In e4m3, on any device.
    Fp8(Fp8Linear),
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

    /// A layer whose `weight` is in e4m3, and `bias` `[out]`. Errors if the shapes disagree.
    pub fn fp8(weight: Fp8Weight, bias: Option<Tensor>) -> Result<Self> {
        let (out_features, in_features) = (weight.out_features(), weight.in_features());
        if let Some(bias) = &bias {
            check::float("fp8 linear", "bias", bias)?;
            check::dims("fp8 linear", "bias", bias, &[out_features])?;
        }
        Ok(Self {
            weight: Weight::Fp8(Fp8Linear::new(weight, bias)?),
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
            Weight::Fp8(layer) => layer.forward(x, act),
            Weight::Plain { weight, bias } => {
                #[cfg(feature = "cuda")]
                if let Some(target) = crate::device::target(x) {
                    return linear_device::linear(&target, x, weight, bias.as_ref(), act);
                }
                linear_reference(x, weight, bias.as_ref(), act)
            }
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

    /// One layer that gives the results of all `layers` (of one width of input) side by side; `None`
    /// where their weights cannot stand in one tensor, which on the CPU they never can.
    pub(crate) fn join(layers: &[Self]) -> Result<Option<Self>> {
        if layers.len() < 2 {
            return Ok(None);
        }
        let (mut plain, mut fp8, mut biases) = (Vec::new(), Vec::new(), Vec::new());
        for layer in layers {
            let bias = match &layer.weight {
                Weight::Packed { .. } => return Ok(None),
                Weight::Plain { weight, bias } => {
                    plain.push(weight);
                    bias
                }
                Weight::Fp8(layer) => match layer.on_device() {
                    Some((weight, bias)) => {
                        fp8.push(weight.clone());
                        bias
                    }
                    None => return Ok(None),
                },
            };
            biases.extend(bias);
        }
        let bias = match biases.len() {
            0 => None,
            n if n == layers.len() && alike(&biases) => Some(Tensor::cat(&biases, 0)?),
            _ => return Ok(None),
        };
        if fp8.len() == layers.len() {
            return Self::fp8(Fp8Weight::cat(&fp8)?, bias).map(Some);
        }
        if plain.len() == layers.len() && alike(&plain) {
            return Self::new(Tensor::cat(&plain, 0)?, bias).map(Some);
        }
        Ok(None)
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

/// Whether tensors can stand in one: one type, one device.
fn alike(tensors: &[&Tensor]) -> bool {
    tensors.windows(2).all(|pair| {
        pair[0].dtype() == pair[1].dtype() && pair[0].device().same_device(pair[1].device())
    })
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
