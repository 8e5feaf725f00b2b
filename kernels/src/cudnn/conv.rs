//! Convolution of channels-last video as one cuDNN graph: `y = conv(x, W) + b + residual`.
//!
//! x [T, H, W, C] with the history in front of it, W [C', taps, C] (the layout that the kernel of
//! `cuda/conv3d.cu` has, so that one copy serves both), bias f32 [C'], residual and y [T', H', W', C'].
//! cuDNN names the axes N, C, D, H, W; strides say that channels are last and nothing is moved. The
//! convolution sums in f32; bias and residual are added in f32 before the one rounding.
//!
//! History and x are joined by a copy where there is a history: cuDNN reads one tensor. Frames that are still
//! missing in front are its padding in D.
//!
//! One plan is kept per shape, with its workspace allocated per run.

use std::ffi::c_int;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::backend::{Descriptor, Handle, Limits, Plan, TensorSpec};
use super::names::{Attribute, ConvolutionMode, DataType, Kind, Note, PointwiseMode, Type};
use super::session::{self, Sessions, said};
use super::{Library, Result, Version, library_of};
use crate::conv3d::{Conv3dConfig, Geometry};
use crate::device::{Target, foreign};

/// Fused bias and residual in any number of dimensions: the first release of cuDNN 9.
const NEEDED: Version = Version::new(9, 0, 0);
/// An engine that wants more would hold the windows.
const WORKSPACE_BYTES: usize = 256 << 20;
/// cuDNN's channels-last kernels move 16 bytes at once.
const ALIGNMENT_BYTES: usize = 16;
const CHANNELS: usize = 8;

const X: i64 = 1;
const W: i64 = 2;
const Y: i64 = 3;
const BIAS: i64 = 4;
const RESIDUAL: i64 = 5;
/// Values inside the graph.
const SUM: i64 = 6;
const BIASED: i64 = 7;

/// What a plan is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Problem {
    dtype: DataType,
    /// T with the history, H, W.
    size: [usize; 3],
    /// T', H', W'.
    out: [usize; 3],
    channels: [usize; 2],
    kernel: [usize; 3],
    stride: [usize; 3],
    /// Zeros before and after, in D, H, W.
    before: [usize; 3],
    after: [usize; 3],
    bias: bool,
    residual: bool,
}

/// The operands of one convolution, contiguous and beginning at multiples of 16 bytes.
pub(crate) struct Operands<'a> {
    pub(crate) x: &'a Tensor,
    pub(crate) history: Option<&'a Tensor>,
    /// [C', taps, C].
    pub(crate) weight: &'a Tensor,
    /// f32 [C'].
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) residual: Option<&'a Tensor>,
}

static SESSIONS: Sessions<Problem> = Sessions::new();

/// Whether cuDNN takes such a convolution at all, or why not. Builds nothing.
pub(crate) fn available(
    target: &Target,
    dtype: DType,
    geometry: Geometry,
    cfg: Conv3dConfig,
) -> std::result::Result<Arc<Library>, String> {
    if !matches!(dtype, DType::BF16 | DType::F16) {
        return Err(format!(
            "cuDNN's convolution serves bf16 and f16, not {dtype:?}"
        ));
    }
    if cfg.upsample2x {
        return Err("cuDNN does not read its input doubled".into());
    }
    if !geometry.cin.is_multiple_of(CHANNELS) || !geometry.cout.is_multiple_of(CHANNELS) {
        return Err(format!(
            "cuDNN's channels-last convolution needs channels in multiples of {CHANNELS}, not {} and {}",
            geometry.cin, geometry.cout
        ));
    }
    let library = library_of(target).map_err(|error| error.to_string())?;
    library
        .require(NEEDED, "convolution with fused bias and residual")
        .map_err(|error| error.to_string())?;
    Ok(library)
}

/// The convolution with the result `out` [T', H', W', C'], or why cuDNN cannot.
pub(crate) fn forward(
    target: &Target,
    operands: &Operands<'_>,
    out: [usize; 4],
    (geometry, cfg): (Geometry, Conv3dConfig),
) -> std::result::Result<Tensor, String> {
    const WHAT: &str = "cuDNN convolution";
    available(target, operands.x.dtype(), geometry, cfg)?;
    let given = operands.history.map_or(0, |history| history.dims()[0]);
    let x = match operands.history {
        Some(history) if given > 0 => Tensor::cat(&[history, operands.x], 0).map_err(said)?,
        _ => operands.x.clone(),
    };
    let problem = Problem::new(&x, given, operands, out, (geometry, cfg))?;
    SESSIONS.with(target, |session| {
        let mut addresses = Vec::with_capacity(5);
        for (uid, tensor) in [
            (X, Some(&x)),
            (W, Some(operands.weight)),
            (BIAS, operands.bias),
            (RESIDUAL, operands.residual),
        ] {
            if let Some(tensor) = tensor {
                let address = foreign::address(target, WHAT, tensor).map_err(said)?;
                addresses.push((uid, address));
            }
        }
        // SAFETY: live contiguous tensors of the plan's shapes, whose memory goes back to the pool in the
        // stream's order.
        unsafe { session.run(target, WHAT, problem, addresses, (Y, &out, x.dtype())) }
    })
}

impl Problem {
    /// Of `x` [T, H, W, C] with `given` frames of history in it.
    fn new(
        x: &Tensor,
        given: usize,
        operands: &Operands<'_>,
        out: [usize; 4],
        (geometry, cfg): (Geometry, Conv3dConfig),
    ) -> std::result::Result<Self, String> {
        let (Some(dtype), &[t, h, w, _]) = (DataType::of(x.dtype()), x.dims()) else {
            return Err(format!("cuDNN cannot read {:?} {:?}", x.dtype(), x.dims()));
        };
        let [top, bottom, left, right] = cfg.pad;
        Ok(Self {
            dtype,
            size: [t, h, w],
            out: [out[0], out[1], out[2]],
            channels: [geometry.cin, geometry.cout],
            kernel: geometry.kernel,
            stride: cfg.stride,
            before: [cfg.pad_front - given, top, left],
            after: [0, bottom, right],
            bias: operands.bias.is_some(),
            residual: operands.residual.is_some(),
        })
    }
}

impl session::Problem for Problem {
    /// A decoder has some dozens of convolutions.
    const PLANS: usize = 256;

    fn plan(&self, handle: &Handle) -> Result<Plan> {
        let library = handle.library();
        let [cin, cout] = self.channels;
        let mut parts = Vec::new();
        let mut operations = Vec::new();

        let mut conv = Descriptor::new(library, Kind::CONVOLUTION)?;
        conv.data_type(Attribute::CONVOLUTION_COMP_TYPE, DataType::FLOAT)?
            .choice(
                Attribute::CONVOLUTION_CONV_MODE,
                Type::CONVOLUTION_MODE,
                ConvolutionMode::CROSS_CORRELATION as c_int,
            )?
            .int64s(Attribute::CONVOLUTION_SPATIAL_DIMS, &[3])?
            .int64s(Attribute::CONVOLUTION_DILATIONS, &[1; 3])?
            .int64s(Attribute::CONVOLUTION_FILTER_STRIDES, &int64s(self.stride))?
            .int64s(Attribute::CONVOLUTION_PRE_PADDINGS, &int64s(self.before))?
            .int64s(Attribute::CONVOLUTION_POST_PADDINGS, &int64s(self.after))?
            .finalize()?;

        let x = video(library, X, self.dtype, cin, self.size)?;
        let weight = tensor(library, W, self.dtype, cout, cin, self.kernel)?;
        // The chain: sum, plus bias, plus residual; the last value is y.
        let steps = [(SUM, true), (BIASED, self.bias), (Y, self.residual)];
        let last = steps.iter().rposition(|&(_, there)| there).unwrap_or(0);
        let mut value = None;
        for (index, &(uid, there)) in steps.iter().enumerate() {
            if !there {
                continue;
            }
            let result = if index == last {
                video(library, Y, self.dtype, cout, self.out)?
            } else {
                inside(library, uid, cout, self.out)?
            };
            let operation = match (&value, index) {
                (None, _) => convolution(library, &conv, &x, &weight, &result)?,
                (Some(value), 1) => {
                    let bias = tensor(library, BIAS, DataType::FLOAT, 1, cout, [1; 3])?;
                    let operation = addition(library, value, &bias, &result, &mut parts)?;
                    parts.push(bias);
                    operation
                }
                (Some(value), _) => {
                    let residual = video(library, RESIDUAL, self.dtype, cout, self.out)?;
                    let operation = addition(library, value, &residual, &result, &mut parts)?;
                    parts.push(residual);
                    operation
                }
            };
            operations.push(operation);
            parts.extend(value.replace(result));
        }
        parts.extend(value);
        parts.extend([conv, x, weight]);
        let limits = Limits {
            refuse: &[
                Note::NONDETERMINISTIC,
                Note::DOWN_CONVERT_INPUTS,
                Note::REDUCED_PRECISION_REDUCTION,
                Note::WINOGRAD,
                Note::FFT,
            ],
            workspace_bytes: WORKSPACE_BYTES,
        };
        Plan::build(handle, operations, parts, &limits)
    }
}

fn int64s(values: [usize; 3]) -> [i64; 3] {
    values.map(|value| value as i64)
}

/// `value = conv(x, W)`.
fn convolution(
    library: &Arc<Library>,
    conv: &Descriptor,
    x: &Descriptor,
    weight: &Descriptor,
    result: &Descriptor,
) -> Result<Descriptor> {
    let mut operation = Descriptor::new(library, Kind::OPERATION_CONVOLUTION_FORWARD)?;
    operation
        .descriptors(Attribute::OPERATION_CONVOLUTION_FORWARD_CONV_DESC, &[conv])?
        .descriptors(Attribute::OPERATION_CONVOLUTION_FORWARD_X, &[x])?
        .descriptors(Attribute::OPERATION_CONVOLUTION_FORWARD_W, &[weight])?
        .descriptors(Attribute::OPERATION_CONVOLUTION_FORWARD_Y, &[result])?
        .float(Attribute::OPERATION_CONVOLUTION_FORWARD_ALPHA, 1.0)?
        .float(Attribute::OPERATION_CONVOLUTION_FORWARD_BETA, 0.0)?
        .finalize()?;
    Ok(operation)
}

/// `result = a + b` in f32.
fn addition(
    library: &Arc<Library>,
    a: &Descriptor,
    b: &Descriptor,
    result: &Descriptor,
    parts: &mut Vec<Descriptor>,
) -> Result<Descriptor> {
    let mut add = Descriptor::new(library, Kind::POINTWISE)?;
    add.choice(
        Attribute::POINTWISE_MODE,
        Type::POINTWISE_MODE,
        PointwiseMode::ADD as c_int,
    )?
    .data_type(Attribute::POINTWISE_MATH_PREC, DataType::FLOAT)?
    .finalize()?;
    let mut operation = Descriptor::new(library, Kind::OPERATION_POINTWISE)?;
    operation
        .descriptors(Attribute::OPERATION_POINTWISE_PW_DESCRIPTOR, &[&add])?
        .descriptors(Attribute::OPERATION_POINTWISE_XDESC, &[a])?
        .descriptors(Attribute::OPERATION_POINTWISE_BDESC, &[b])?
        .descriptors(Attribute::OPERATION_POINTWISE_YDESC, &[result])?
        .finalize()?;
    parts.push(add);
    Ok(operation)
}

/// [n, channels, D, H, W], channels last in memory.
fn tensor(
    library: &Arc<Library>,
    uid: i64,
    dtype: DataType,
    n: usize,
    channels: usize,
    size: [usize; 3],
) -> Result<Descriptor> {
    let (dims, strides) = channels_last(n, channels, size);
    TensorSpec {
        uid,
        dtype,
        dims: &dims,
        strides: &strides,
        alignment_bytes: ALIGNMENT_BYTES as i64,
        by_value: false,
    }
    .describe(library)
}

fn video(
    library: &Arc<Library>,
    uid: i64,
    dtype: DataType,
    channels: usize,
    size: [usize; 3],
) -> Result<Descriptor> {
    tensor(library, uid, dtype, 1, channels, size)
}

/// A value in f32 that is never stored.
fn inside(
    library: &Arc<Library>,
    uid: i64,
    channels: usize,
    size: [usize; 3],
) -> Result<Descriptor> {
    let (dims, strides) = channels_last(1, channels, size);
    let mut value = Descriptor::new(library, Kind::TENSOR)?;
    value
        .data_type(Attribute::TENSOR_DATA_TYPE, DataType::FLOAT)?
        .int64s(Attribute::TENSOR_DIMENSIONS, &dims)?
        .int64s(Attribute::TENSOR_STRIDES, &strides)?
        .int64s(Attribute::TENSOR_UNIQUE_ID, &[uid])?
        .int64s(Attribute::TENSOR_BYTE_ALIGNMENT, &[ALIGNMENT_BYTES as i64])?
        .boolean(Attribute::TENSOR_IS_VIRTUAL, true)?
        .finalize()?;
    Ok(value)
}

/// Dimensions N, C, D, H, W and their strides with channels last.
fn channels_last(n: usize, channels: usize, [d, h, w]: [usize; 3]) -> ([i64; 5], [i64; 5]) {
    let dims = [n, channels, d, h, w].map(|dim| dim as i64);
    let [_, c, d, h, w] = dims;
    (dims, [d * h * w * c, 1, h * w * c, w * c, c])
}

/// Drops what is kept for `library`.
#[cfg(all(test, feature = "shim", unix))]
pub(crate) fn forget(library: &Arc<Library>) {
    SESSIONS.forget(library);
}

#[cfg(all(test, feature = "shim", unix))]
#[path = "conv_tests.rs"]
mod tests;
