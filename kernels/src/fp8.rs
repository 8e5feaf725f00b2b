//! Linear layer whose weight is stored in e4m3: `y = act((Q(x) W8^T) sx sw + b)`.
//!
//! x [.., in] any float, W8 [out, in] codes, sw one f32 or one per row of W8, b [out].
//!
//! Q rounds every row of x to e4m3 after scaling: with the row's own scale, `sx = max|x| / 448`, or
//! with one that the checkpoint brings. Products are summed in f32, multiplied by both scales, and
//! bias and activation follow in f32; the result is rounded once to the type of x. In the weight-only
//! mode x stays as it is (`sx = 1`): for checkpoints that ask for it and for devices without an e4m3
//! product.
//!
//! Both operands are exact in 16-bit floats, so this equals a product of 8-bit operands but for the
//! order of the sum: it is the twin that the GPU's e4m3 product is measured against.

use crate::activation::activated;
use crate::data::{Floats, tensor};
use crate::device;
#[cfg(any(feature = "cuda", feature = "shim"))]
use crate::fp8_device;
use crate::gemm::{Dense, Finish, Packed, gemm};
use crate::linear::linear_reference;
use crate::{Activation, check, e4m3};
use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, bail};
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;

/// Smallest `max|x|` that a scale is made from, so that a row of zeros has one with a finite inverse.
const MIN_AMAX: f32 = 1e-30;
/// Elements that a thread converts at a time.
const CHUNK: usize = 1 << 14;

/// How many scales a weight gets when it is quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fp8Scale {
    /// One for the tensor.
    PerTensor,
    /// One per row (output channel).
    PerRow,
}

/// A weight `[out, in]` in e4m3 with its scales: `W = value(code) * scale`.
#[derive(Debug, Clone)]
pub struct Fp8Weight {
    /// u8 `[out, in]`, contiguous. Plain bytes, as candle's own 8-bit kernels are not built for every
    /// device this runs on.
    codes: Tensor,
    /// f32 `[1]` or `[out]`, contiguous.
    scale: Tensor,
    input_scale: Option<f32>,
    weight_only: bool,
}

impl Fp8Weight {
    /// From stored `codes` u8 [out, in] and `scale` f32 of one element or of `out` elements (any
    /// shape). Errors if types, shapes or devices disagree.
    pub fn new(codes: Tensor, scale: Tensor) -> Result<Self> {
        if codes.dtype() != DType::U8 {
            bail!("fp8 linear: codes must be u8, found {:?}", codes.dtype());
        }
        let [out_features, in_features] = *codes.dims() else {
            bail!(
                "fp8 linear: codes must have shape [out, in], found {:?}",
                codes.dims()
            );
        };
        if out_features == 0 || in_features == 0 {
            bail!("fp8 linear: weight is empty, shape {:?}", codes.dims());
        }
        if scale.dtype() != DType::F32 {
            bail!("fp8 linear: scale must be f32, found {:?}", scale.dtype());
        }
        if ![1, out_features].contains(&scale.elem_count()) {
            bail!(
                "fp8 linear: scale must have 1 or {out_features} elements, found shape {:?}",
                scale.dims()
            );
        }
        if !codes.device().same_device(scale.device()) {
            bail!("fp8 linear: codes and scale are on different devices");
        }
        Ok(Self {
            codes: codes.contiguous()?,
            scale: scale.flatten_all()?.contiguous()?,
            input_scale: None,
            weight_only: false,
        })
    }

    /// Rounds a weight [out, in] (f32, bf16 or f16) to e4m3, `scale = max|W| / 448` over a row or the
    /// tensor. Computed on the CPU; the result is on the CPU.
    pub fn quantize(weight: &Tensor, per: Fp8Scale) -> Result<Self> {
        check::float("fp8 linear", "weight", weight)?;
        let (out_features, in_features) = weight.dims2()?;
        let weight = weight.to_device(&Device::Cpu)?;
        let floats = Floats::new(&weight)?;
        let values = floats.as_slice();
        let rows = match per {
            Fp8Scale::PerTensor => 1,
            Fp8Scale::PerRow => out_features,
        };
        let width = (values.len() / rows).max(1);
        let mut codes = vec![0_u8; values.len()];
        let mut scales = vec![0_f32; rows];
        codes
            .par_chunks_mut(width)
            .zip(values.par_chunks(width))
            .zip(&mut scales)
            .for_each(|((codes, values), scale)| {
                let (inverse, row_scale) = scales_of(amax(values));
                *scale = row_scale;
                codes
                    .par_chunks_mut(CHUNK)
                    .zip(values.par_chunks(CHUNK))
                    .for_each(|(codes, values)| {
                        for (code, value) in codes.iter_mut().zip(values) {
                            *code = e4m3::encode(value * inverse);
                        }
                    });
            });
        Self::new(
            Tensor::from_vec(codes, (out_features, in_features), &Device::Cpu)?,
            Tensor::from_vec(scales, rows, &Device::Cpu)?,
        )
    }

    /// Takes a fixed scale for the activations, which a calibration found, in place of one per row.
    /// Errors unless it is a positive number.
    pub fn with_input_scale(self, scale: f32) -> Result<Self> {
        if !(scale > 0.0 && scale.is_finite() && (1.0 / scale).is_finite()) {
            bail!("fp8 linear: input scale must be a positive number, found {scale}");
        }
        Ok(Self {
            input_scale: Some(scale),
            ..self
        })
    }

    /// Leaves the activations as they are.
    pub fn weight_only(self) -> Self {
        Self {
            weight_only: true,
            ..self
        }
    }

    /// Weights of several layers that share their input, one below the other [sum of out, in]: the
    /// scales become one per row. The input scale is the largest, which covers all of them; none
    /// unless all have one. Weight-only if any is.
    pub fn cat(weights: &[Self]) -> Result<Self> {
        let codes: Vec<_> = weights.iter().map(|weight| &weight.codes).collect();
        let scales = weights
            .iter()
            .map(|weight| weight.scale.broadcast_as(weight.out_features()))
            .collect::<Result<Vec<_>>>()?;
        let joined = Self::new(Tensor::cat(&codes, 0)?, Tensor::cat(&scales, 0)?)?;
        let input_scale = weights
            .iter()
            .map(|weight| weight.input_scale)
            .reduce(|a, b| Some(a?.max(b?)))
            .flatten();
        Ok(Self {
            input_scale,
            weight_only: weights.iter().any(|weight| weight.weight_only),
            ..joined
        })
    }

    /// The same weight on another device.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self {
            codes: self.codes.to_device(device)?,
            scale: self.scale.to_device(device)?,
            ..self.clone()
        })
    }

    /// `value(code) * scale` [out, in], rounded once to `dtype`, on the device of the weight.
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        let device = self.codes.device();
        let shape = (self.out_features(), self.in_features());
        if device.is_cpu() {
            let scale = Floats::new(&self.scale)?;
            let values = with_codes(&self.codes, |codes| {
                dequantize_rows(codes, scale.as_slice(), shape.1)
            })?;
            return tensor(values, &[shape.0, shape.1], dtype);
        }
        let values = Tensor::new(&e4m3::VALUES, device)?;
        let column = match self.scale.elem_count() {
            1 => (1, 1),
            rows => (rows, 1),
        };
        values
            .index_select(&self.codes.flatten_all()?, 0)?
            .reshape(shape)? // [out * in] -> [out, in]
            .broadcast_mul(&self.scale.reshape(column)?)?
            .to_dtype(dtype)
    }

    /// u8 `[out, in]`, contiguous.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// f32 `[1]` or `[out]`, contiguous.
    pub fn scale(&self) -> &Tensor {
        &self.scale
    }

    /// The fixed scale of the activations; `None`: one per row, found at run time.
    pub fn input_scale(&self) -> Option<f32> {
        self.input_scale
    }

    /// Whether activations stay as they are.
    pub fn is_weight_only(&self) -> bool {
        self.weight_only
    }

    /// Rows of the weight: width of the result.
    pub fn out_features(&self) -> usize {
        self.codes.dims().first().copied().unwrap_or(0)
    }

    /// Columns of the weight: width of the input.
    pub fn in_features(&self) -> usize {
        self.codes.dims().last().copied().unwrap_or(0)
    }
}

/// A linear layer over an [`Fp8Weight`], behind [`Linear::fp8`](crate::Linear::fp8).
#[derive(Debug, Clone)]
pub(crate) enum Fp8Linear {
    /// On the CPU: codes as bf16 panels (exact), scales, bias.
    Packed {
        codes: Arc<Packed>,
        scale: Arc<[f32]>,
        bias: Option<Arc<[f32]>>,
        input_scale: Option<f32>,
        weight_only: bool,
    },
    /// On other devices, and in the host shim.
    Plain {
        weight: Fp8Weight,
        bias: Option<Tensor>,
    },
}

impl Fp8Linear {
    /// `bias` `[out]` has been checked by the caller.
    pub(crate) fn new(weight: Fp8Weight, bias: Option<Tensor>) -> Result<Self> {
        if !weight.codes.device().is_cpu() || device::target(&weight.codes).is_some() {
            return Ok(Self::Plain { weight, bias });
        }
        let (n, k) = (weight.out_features(), weight.in_features());
        let values: Vec<bf16> = with_codes(&weight.codes, |codes| {
            let table = e4m3::VALUES.map(bf16::from_f32);
            codes.par_iter().map(|&code| table[code as usize]).collect()
        })?;
        let values = Tensor::from_vec(values, (n, k), &Device::Cpu)?;
        let bias = bias.map(|b| Ok::<_, candle_core::Error>(Floats::new(&b)?.as_slice().into()));
        Ok(Self::Packed {
            codes: Arc::new(Packed::new(&values, n, |k| k)?),
            scale: Floats::new(&weight.scale)?.as_slice().into(),
            bias: bias.transpose()?,
            input_scale: weight.input_scale,
            weight_only: weight.weight_only,
        })
    }

    /// Weight and bias where they are held as they came: not on the CPU.
    pub(crate) fn on_device(&self) -> Option<(&Fp8Weight, &Option<Tensor>)> {
        match self {
            Self::Plain { weight, bias } => Some((weight, bias)),
            Self::Packed { .. } => None,
        }
    }

    /// `x` [.., in] with a checked last axis; result [.., out] in the dtype of `x`.
    pub(crate) fn forward(&self, x: &Tensor, act: Activation) -> Result<Tensor> {
        match self {
            Self::Plain { weight, bias } => {
                #[cfg(any(feature = "cuda", feature = "shim"))]
                if let Some(target) = device::target(x) {
                    return fp8_device::forward(&target, x, weight, bias.as_ref(), act);
                }
                fp8_linear_reference(x, weight, bias.as_ref(), act)
            }
            Self::Packed {
                codes,
                scale,
                bias,
                input_scale,
                weight_only,
            } => {
                let (n, k) = (codes.n(), codes.k());
                let mut shape = x.dims().to_vec();
                if let Some(last) = shape.last_mut() {
                    *last = n;
                }
                let x_floats = Floats::new(x)?;
                let values = x_floats.as_slice();
                let finish = Finish::default();
                let (mut sums, row_scales) = if *weight_only {
                    (gemm(&Dense { values, stride: k }, codes, &finish), None)
                } else {
                    let (rounded, scales) = round_rows(values, k, *input_scale);
                    let source = Dense {
                        values: rounded.as_slice(),
                        stride: k,
                    };
                    (gemm(&source, codes, &finish), Some(scales))
                };
                sums.par_chunks_mut(n).enumerate().for_each(|(row, sums)| {
                    let row_scale = row_scales.as_ref().map_or(1.0, |scales| scales[row]);
                    for (col, sum) in sums.iter_mut().enumerate() {
                        let weight_scale = scale[if scale.len() == 1 { 0 } else { col }];
                        let bias = bias.as_ref().map_or(0.0, |bias| bias[col]);
                        *sum = *sum * (row_scale * weight_scale) + bias;
                    }
                });
                let y = tensor(sums, &shape, DType::F32)?;
                activated(&y, act)?.to_dtype(x.dtype())
            }
        }
    }
}

/// Rows of `x` (length `k`) rounded to e4m3, and the scale of each row.
fn round_rows(x: &[f32], k: usize, input_scale: Option<f32>) -> (Vec<bf16>, Vec<f32>) {
    let mut rounded = vec![bf16::ZERO; x.len()];
    let mut scales = vec![0_f32; x.len() / k];
    rounded
        .par_chunks_mut(k)
        .zip(x.par_chunks(k))
        .zip(&mut scales)
        .for_each(|((rounded, x), scale)| {
            let (inverse, row_scale) = match input_scale {
                Some(scale) => (1.0 / scale, scale),
                None => scales_of(amax(x)),
            };
            *scale = row_scale;
            for (rounded, x) in rounded.iter_mut().zip(x) {
                *rounded = bf16::from_f32(e4m3::decode(e4m3::encode(x * inverse)));
            }
        });
    (rounded, scales)
}

/// `value(code) * scale` of rows of `width` codes, with one scale or one per row.
fn dequantize_rows(codes: &[u8], scale: &[f32], width: usize) -> Vec<f32> {
    let mut values = vec![0_f32; codes.len()];
    values
        .par_chunks_mut(width)
        .zip(codes.par_chunks(width))
        .enumerate()
        .for_each(|(row, (values, codes))| {
            let scale = scale[if scale.len() == 1 { 0 } else { row }];
            for (value, &code) in values.iter_mut().zip(codes) {
                *value = e4m3::decode(code) * scale;
            }
        });
    values
}

/// Factor before rounding and its inverse, the scale. All users compute them in this way, in f32, so
/// that CPU and GPU round alike.
fn scales_of(amax: f32) -> (f32, f32) {
    let amax = if amax < MIN_AMAX { MIN_AMAX } else { amax };
    (e4m3::MAX / amax, amax / e4m3::MAX)
}

/// Largest magnitude; NaN and infinity where there are any, so that they show in the result.
fn amax(values: &[f32]) -> f32 {
    // The bits of magnitudes order as the magnitudes do, NaN last.
    let bits = values
        .iter()
        .fold(0, |max: u32, v| max.max(v.to_bits() & 0x7fff_ffff));
    f32::from_bits(bits)
}

/// Lends the codes of a contiguous CPU tensor.
fn with_codes<R>(codes: &Tensor, work: impl FnOnce(&[u8]) -> R) -> Result<R> {
    let (storage, layout) = codes.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::U8(values)), Some((start, end))) => Ok(work(&values[start..end])),
        _ => bail!("fp8 linear: contiguous codes on the CPU are needed, found {layout:?}"),
    }
}

/// Composed of candle's own operations, for any device: the weight is dequantised to the type of `x`
/// and x stays as it is, so this is the weight-only mode whatever the weight says.
pub fn fp8_linear_reference(
    x: &Tensor,
    weight: &Fp8Weight,
    bias: Option<&Tensor>,
    act: Activation,
) -> Result<Tensor> {
    let dtype = if x.device().is_cpu() {
        DType::F32
    } else {
        x.dtype()
    };
    let dense = weight.dequantize(dtype)?;
    linear_reference(x, &dense, bias, act)
}
