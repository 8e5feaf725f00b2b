//! Convolution over channels-last video, plus an optional residual:
//! `y[t, i, j, o] = b[o] + sum over c, dt, di, dj of W[o, c, dt, di, dj] x[t', i', j', c]` with
//! `t' = t*st + dt - pad_front`, `i' = i*sh + di - top`, `j' = j*sw + dj - left`.
//!
//! x [T, H, W, C] -> [T', H', W', C']; W [C', C, kt, kh, kw]. Covers the causal 3-D convolution of
//! the VAE (frames before x come from `history` or are zero), 2-D convolution (kt = 1) and 1x1x1.
//! With `upsample2x` x is read as if doubled in H and W by nearest neighbour.
//!
//! On the CPU this is a matrix product of pixels by (dt, di, dj, c): the weight is packed in that
//! order when the layer is built, in its own dtype, and the tensor is let go; windows are gathered
//! block by block into scratch memory (`gather.rs`), where history, padding and doubling are
//! resolved. A 3x3 window over a doubled input is taken apart into four 2x2 windows (`doubled.rs`).
//!
//! On a card the same product runs in `cuda/conv3d.cu` (`conv3d_device.rs`).

use crate::check;
use crate::conv3d_device::DeviceConv;
use crate::data::{Floats, View, per_dtype, tensor};
use crate::device;
use crate::doubled::Doubled;
use crate::gather::Windows;
use crate::gemm::{Finish, Packed, gemm};
use crate::simd::Element;
use candle_core::{DType, Result, Tensor, bail};
use std::sync::Arc;

/// Geometry of a [`Conv3d`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv3dConfig {
    /// Steps in time, height, width.
    pub stride: [usize; 3],
    /// Rows and columns of zeros: top, bottom, left, right.
    pub pad: [usize; 4],
    /// Frames wanted in front of the input: kt - 1 for a causal convolution, 0 for none. They come
    /// from the history as far as it reaches and are zero before that.
    pub pad_front: usize,
    /// Read the input as if doubled in height and width by nearest neighbour (padding applies after
    /// that).
    pub upsample2x: bool,
}

impl Default for Conv3dConfig {
    fn default() -> Self {
        Self {
            stride: [1; 3],
            pad: [0; 4],
            pad_front: 0,
            upsample2x: false,
        }
    }
}

/// A convolution layer over channels-last video.
#[derive(Debug, Clone)]
pub struct Conv3d {
    weight: Weight,
    cfg: Conv3dConfig,
    geometry: Geometry,
}

#[derive(Debug, Clone)]
enum Weight {
    /// On the CPU.
    Packed {
        weight: Arc<Matrix>,
        bias: Option<Arc<[f32]>>,
    },
    /// On a card, or built inside the host shim.
    Device(DeviceConv),
    /// On other devices.
    Plain {
        weight: Tensor,
        bias: Option<Tensor>,
    },
}

/// The weight as the right-hand side of matrix products.
#[derive(Debug)]
enum Matrix {
    Whole(Packed),
    Doubled(Doubled),
}

/// Where column (tap, c) of the product stands in a row [C, taps] of the weight.
pub(crate) fn column(cin: usize, taps: usize) -> impl Fn(usize) -> usize + Sync {
    move |k| k % cin * taps + k / cin
}

/// Sizes of the kernel: channels out and in, and the window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) cout: usize,
    pub(crate) cin: usize,
    pub(crate) kernel: [usize; 3],
}

impl Conv3d {
    /// A layer of `weight` [C', C, kt, kh, kw] and `bias` [C']. Errors if the shapes disagree.
    pub fn new(weight: Tensor, bias: Option<Tensor>, cfg: Conv3dConfig) -> Result<Self> {
        check::float("conv3d", "weight", &weight)?;
        let [cout, cin, kt, kh, kw] = *weight.dims() else {
            bail!(
                "conv3d: weight must have shape [C', C, kt, kh, kw], found {:?}",
                weight.dims()
            );
        };
        if weight.elem_count() == 0 {
            bail!("conv3d: weight is empty, shape {:?}", weight.dims());
        }
        if cfg.stride.contains(&0) {
            bail!("conv3d: strides must be at least 1, found {:?}", cfg.stride);
        }
        if let Some(bias) = &bias {
            check::float("conv3d", "bias", bias)?;
            check::dims("conv3d", "bias", bias, &[cout])?;
        }
        let geometry = Geometry {
            cout,
            cin,
            kernel: [kt, kh, kw],
        };
        let weight = if device::target(&weight).is_some() {
            Weight::Device(DeviceConv::new(&weight, bias.as_ref(), geometry, cfg)?)
        } else if weight.device().is_cpu() {
            let bias =
                bias.map(|b| Ok::<_, candle_core::Error>(Floats::new(&b)?.as_slice().into()));
            let matrix = if Doubled::applies(geometry, cfg) {
                Matrix::Doubled(Doubled::new(&weight, geometry)?)
            } else {
                let weight = weight.contiguous()?;
                Matrix::Whole(Packed::new(&weight, cout, column(cin, kt * kh * kw))?)
            };
            Weight::Packed {
                weight: Arc::new(matrix),
                bias: bias.transpose()?,
            }
        } else {
            Weight::Plain { weight, bias }
        };
        Ok(Self {
            weight,
            cfg,
            geometry,
        })
    }

    /// Convolves `x` [T, H, W, C]. `history`: up to `pad_front` frames [h, H, W, C] that precede
    /// `x` in time; frames still missing in front are zero. `residual` [T', H', W', C'] is added to
    /// the result. Errors if the shapes disagree or the input is smaller than the window.
    pub fn forward(
        &self,
        x: &Tensor,
        history: Option<&Tensor>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let out = self.check(x, history)?;
        if let Some(residual) = residual {
            check::float("conv3d", "residual", residual)?;
            check::dims("conv3d", "residual", residual, &out)?;
        }
        match &self.weight {
            Weight::Device(layer) => {
                let Some(target) = device::target(x) else {
                    bail!(
                        "conv3d: the weight is laid out for a card or the shim, x is on {:?}",
                        x.device().location()
                    );
                };
                let how = (self.geometry, self.cfg);
                layer.forward(&target, x, history, residual, out, how)
            }
            Weight::Plain { weight, bias } => {
                conv3d_reference(x, history, residual, weight, bias.as_ref(), self.cfg)
            }
            Weight::Packed { weight, bias } => {
                let residual = residual.map(Floats::new).transpose()?;
                let finish = Finish {
                    bias: bias.as_deref(),
                    residual: residual.as_ref().map(Floats::as_slice),
                    ..Finish::default()
                };
                let x = x.contiguous()?;
                let history = history.map(Tensor::contiguous).transpose()?;
                let view = View::new(&x)?;
                let before = history.as_ref().map(View::new).transpose()?;
                let y = per_dtype!(view.slice(), values => {
                    let history = before.as_ref().map_or(&[][..], |b| Element::of(b.slice()));
                    let windows = Windows {
                        x: values,
                        history,
                        size: [x.dim(1)?, x.dim(2)?],
                        out: [out[0], out[1], out[2]],
                        geometry: self.geometry,
                        cfg: self.cfg,
                    };
                    match &**weight {
                        Matrix::Whole(packed) => gemm(&windows, packed, &finish),
                        Matrix::Doubled(doubled) => doubled.forward(&windows, &finish),
                    }
                });
                tensor(y, &out, x.dtype())
            }
        }
    }

    /// Checks the inputs and gives the shape of the result.
    fn check(&self, x: &Tensor, history: Option<&Tensor>) -> Result<[usize; 4]> {
        check::float("conv3d", "x", x)?;
        let Geometry { cout, cin, kernel } = self.geometry;
        let [t, h, w, c] = *x.dims() else {
            bail!(
                "conv3d: x must have shape [T, H, W, C], found {:?}",
                x.dims()
            );
        };
        if c != cin {
            bail!(
                "conv3d: x must have shape [T, H, W, {cin}], found {:?}",
                x.dims()
            );
        }
        if let Some(history) = history {
            check::float("conv3d", "history", history)?;
            match *history.dims() {
                [n, hh, hw, hc] if [hh, hw, hc] == [h, w, c] && n <= self.cfg.pad_front => {}
                ref found => bail!(
                    "conv3d: history must have shape [0..={}, {h}, {w}, {c}], found {found:?}",
                    self.cfg.pad_front
                ),
            }
            if history.dtype() != x.dtype() {
                bail!(
                    "conv3d: history is {:?} but x is {:?}, give both one dtype",
                    history.dtype(),
                    x.dtype()
                );
            }
        }
        let [top, bottom, left, right] = self.cfg.pad;
        let zoom = if self.cfg.upsample2x { 2 } else { 1 };
        let padded = [
            t + self.cfg.pad_front,
            h * zoom + top + bottom,
            w * zoom + left + right,
        ];
        let mut out = [0, 0, 0, cout];
        for axis in 0..3 {
            if padded[axis] < kernel[axis] || x.elem_count() == 0 {
                bail!(
                    "conv3d: input {:?} (T, H, W with padding {padded:?}) is smaller than \
                     the window {kernel:?}",
                    x.dims()
                );
            }
            out[axis] = (padded[axis] - kernel[axis]) / self.cfg.stride[axis] + 1;
        }
        Ok(out)
    }
}

/// Reference of [`Conv3d::forward`]: one 2-D convolution per tap in time, summed in f32.
pub fn conv3d_reference(
    x: &Tensor,
    history: Option<&Tensor>,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    cfg: Conv3dConfig,
) -> Result<Tensor> {
    // The CPU multiplies in f32; accelerators accumulate in f32 whatever the operands are.
    let dtype = if x.device().is_cpu() {
        DType::F32
    } else {
        x.dtype()
    };
    let (cout, _, kt, kh, kw) = weight.dims5()?;
    let [st, sh, sw] = cfg.stride;
    let [top, bottom, left, right] = cfg.pad;

    let mut frames = x.to_dtype(dtype)?;
    let mut missing = cfg.pad_front;
    if let Some(history) = history.filter(|h| h.elem_count() > 0) {
        missing -= history.dim(0)?;
        frames = Tensor::cat(&[&history.to_dtype(dtype)?, &frames], 0)?;
    }
    frames = frames.pad_with_zeros(0, missing, 0)?;
    // [T, H, W, C] -> [T, C, H, W]
    let mut frames = frames.permute((0, 3, 1, 2))?.contiguous()?;
    if cfg.upsample2x {
        let (_, _, h, w) = frames.dims4()?;
        frames = frames.upsample_nearest2d(2 * h, 2 * w)?;
    }
    let frames = frames
        .pad_with_zeros(2, top, bottom)?
        .pad_with_zeros(3, left, right)?;
    let (total, _, h, w) = frames.dims4()?;
    let steps = (total - kt) / st + 1;

    let mut sum: Option<Tensor> = None;
    for tap in 0..kt {
        // [C', C, kt, kh, kw] -> [C', C, kh, kw]
        let kernel = weight
            .narrow(2, tap, 1)?
            .squeeze(2)?
            .to_dtype(dtype)?
            .contiguous()?;
        let picked = every(&frames.narrow(0, tap, total - kt + 1)?, 0, steps, st)?;
        // candle has one stride for both axes: take the rest from the dense result.
        let common = if sh == sw { sh } else { 1 };
        let mut part = picked
            .conv2d(&kernel, 0, common, 1, 1)?
            .to_dtype(DType::F32)?;
        if sh != sw {
            part = every(&part, 2, (h - kh) / sh + 1, sh)?;
            part = every(&part, 3, (w - kw) / sw + 1, sw)?;
        }
        sum = Some(match sum {
            Some(sum) => (sum + part)?,
            None => part,
        });
    }
    let Some(sum) = sum else {
        bail!("conv3d: the kernel has no taps, shape {:?}", weight.dims())
    };
    // [T', C', H', W'] -> [T', H', W', C']
    let mut y = sum.permute((0, 2, 3, 1))?;
    if let Some(bias) = bias {
        y = y.broadcast_add(&bias.to_dtype(DType::F32)?.reshape((1, 1, 1, cout))?)?;
    }
    if let Some(residual) = residual {
        y = (y + residual.to_dtype(DType::F32)?)?;
    }
    y.contiguous()?.to_dtype(x.dtype())
}

/// Every `step`-th of the first entries of `x` along `axis`, `count` of them.
fn every(x: &Tensor, axis: usize, count: usize, step: usize) -> Result<Tensor> {
    if step == 1 {
        return x.narrow(axis, 0, count)?.contiguous();
    }
    let picks: Vec<u32> = (0..count).map(|i| (i * step) as u32).collect();
    x.contiguous()?
        .index_select(&Tensor::new(picks, x.device())?, axis)
}
