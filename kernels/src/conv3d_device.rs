//! Convolution on a card: by cuDNN where it is there and takes the shape (`cudnn/conv.rs`), else by
//! `cuda/conv3d.cu`: the weight in the order of its sum, and the launch.
//!
//! Beside the result the kernel allocates nothing: it gathers the windows itself, also from the history.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Result, Tensor, bail};

use crate::conv3d::{Conv3dConfig, Geometry};
#[cfg(any(feature = "cuda", feature = "shim"))]
use crate::cudnn;
use crate::device::{Call, Grid, Target, suffix};
use crate::doubled::{Doubled, merge};

/// Constants of the kernel: output pixels of a block, its threads, stages of shared memory, bytes of a row
/// of one stage.
const ROWS: usize = 128;
const THREADS: u32 = 256;
const STAGES: usize = 3;
const ROW_BYTES: usize = 128;
/// Bytes of a piece of channels.
const PIECE_BYTES: usize = 16;

/// Reasons kept; a model has a handful of kinds of convolution.
const REASONS: usize = 64;

static REFUSALS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Why convolutions on a card went to this crate's own kernel and not to cuDNN: every reason met so far,
/// once. For reports.
pub fn conv3d_refusals() -> Vec<String> {
    let refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    refusals.iter().cloned().collect()
}

#[cfg_attr(not(any(feature = "cuda", feature = "shim")), allow(dead_code))]
fn refused(reason: String) {
    let mut refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    if refusals.len() < REASONS {
        refusals.insert(reason);
    }
}

/// A convolution's weight for the kernel.
#[derive(Debug, Clone)]
pub(crate) struct DeviceConv {
    /// [C', taps, C padded to pieces]; with `phases` [4, C', taps of a phase, C padded].
    weight: Tensor,
    /// f32 [C'].
    bias: Option<Tensor>,
    /// Whether the four phases of a doubled input have weights of their own (`doubled.rs`).
    phases: bool,
}

impl DeviceConv {
    /// From `weight` [C', C, kt, kh, kw] and `bias` [C'] on the target. The sums of a doubled input's
    /// phases are rounded to the type of the weight.
    pub(crate) fn new(
        weight: &Tensor,
        bias: Option<&Tensor>,
        geometry: Geometry,
        cfg: Conv3dConfig,
    ) -> Result<Self> {
        let phases = Doubled::applies(geometry, cfg);
        let weight = if phases {
            let dtype = weight.dtype();
            let weight = weight.to_dtype(DType::F32)?;
            let mut sets = Vec::with_capacity(4);
            for p in 0..2 {
                let rows = merge(&weight, 3, p)?;
                for q in 0..2 {
                    sets.push(in_order(&merge(&rows, 4, q)?.to_dtype(dtype)?)?);
                }
            }
            Tensor::stack(&sets, 0)?
        } else {
            in_order(weight)?
        };
        Ok(Self {
            weight,
            bias: bias
                .map(|b| b.to_dtype(DType::F32)?.contiguous())
                .transpose()?,
            phases,
        })
    }

    /// The result `out` [T', H', W', C'] of checked inputs: `x` [T, H, W, C], `history` [h, H, W, C],
    /// `residual` of the shape of the result.
    pub(crate) fn forward(
        &self,
        target: &Target,
        x: &Tensor,
        history: Option<&Tensor>,
        residual: Option<&Tensor>,
        out: [usize; 4],
        (geometry, cfg): (Geometry, Conv3dConfig),
    ) -> Result<Tensor> {
        let [frames, height, width, channels] = *x.dims() else {
            bail!("conv3d: x must have shape [T, H, W, C]");
        };
        let dtype = x.dtype();
        let x = whole(x)?;
        let history = history
            .filter(|history| history.elem_count() > 0)
            .map(whole)
            .transpose()?;
        let residual = residual
            .map(|residual| whole(&residual.to_dtype(dtype)?))
            .transpose()?;
        let weight = if self.weight.dtype() == dtype {
            self.weight.clone()
        } else {
            let used = self.weight.narrow(self.weight.rank() - 1, 0, channels)?;
            padded(&used.to_dtype(dtype)?)?
        };

        #[cfg(any(feature = "cuda", feature = "shim"))]
        {
            let operands = cudnn::conv::Operands {
                x: &x,
                history: history.as_ref(),
                weight: &weight,
                bias: self.bias.as_ref(),
                residual: residual.as_ref(),
            };
            match cudnn::conv::forward(target, &operands, out, (geometry, cfg)) {
                Ok(y) => return Ok(y),
                Err(reason) => refused(reason),
            }
        }

        let name = kernel(dtype, channels, geometry.cout)?;
        let mut call = Call::named(target, "conv3d", name.to_string());
        call.input(&x)?
            .optional(history.as_ref())?
            .input(&weight)?
            .optional(self.bias.as_ref())?
            .optional(residual.as_ref())?;
        let result = call.output(&out, dtype)?;
        let [kt, mut kh, mut kw] = geometry.kernel;
        let mut pixels = [out[0], out[1], out[2]];
        let (mut up, mut phases) = (cfg.upsample2x, 1);
        if self.phases {
            // Each phase is a 2x2 convolution of the input as it is; the kernel knows its padding.
            (kh, kw, up, phases) = (2, 2, false, 4);
            pixels = [out[0], height, width];
        }
        for size in [frames, height, width, channels] {
            call.i32(size)?;
        }
        call.i32(history.as_ref().map_or(Ok(0), |h| h.dim(0))?)?
            .i32(cfg.pad_front)?;
        for size in pixels.into_iter().chain([geometry.cout, kt, kh, kw]) {
            call.i32(size)?;
        }
        for step in cfg.stride {
            call.i32(step)?;
        }
        call.i32(cfg.pad[0])?.i32(cfg.pad[2])?.flag(up);
        let tiles = pixels.iter().product::<usize>().div_ceil(ROWS);
        let across = geometry.cout.div_ceil(name.columns);
        let Some(blocks) = tiles.checked_mul(across) else {
            bail!("conv3d: a result of shape {out:?} is too large; split the input");
        };
        call.launch(
            Grid::new(blocks, 1, phases),
            THREADS,
            shared_bytes(name.columns),
        )?;
        Ok(result)
    }
}

/// Contiguous, beginning at a multiple of 16 bytes, as the kernel's copies need it.
fn whole(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    if x.layout().start_offset() * x.dtype().size_in_bytes() % PIECE_BYTES == 0 {
        Ok(x)
    } else {
        x.force_contiguous()
    }
}

/// [C', C, kt, kh, kw] -> [C', taps, C padded].
fn in_order(weight: &Tensor) -> Result<Tensor> {
    let (cout, cin, kt, kh, kw) = weight.dims5()?;
    // [C', C, kt, kh, kw] -> [C', kt, kh, kw, C] -> [C', taps, C]
    let weight =
        weight
            .permute((0, 2, 3, 4, 1))?
            .contiguous()?
            .reshape((cout, kt * kh * kw, cin))?;
    padded(&weight)
}

/// The last axis [.., C] padded with zeros to whole pieces.
fn padded(weight: &Tensor) -> Result<Tensor> {
    let axis = weight.rank() - 1;
    let channels = weight.dim(axis)?;
    let piece = PIECE_BYTES / weight.dtype().size_in_bytes();
    weight
        .pad_with_zeros(axis, 0, channels.next_multiple_of(piece) - channels)?
        .contiguous()
}

/// A kernel of `conv3d.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kernel {
    /// Output channels of a block.
    columns: usize,
    /// Whether channels fill whole pieces, so that they can be copied asynchronously.
    aligned: bool,
    suffix: &'static str,
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let loose = if self.aligned { "" } else { "_loose" };
        write!(f, "conv3d_{}{loose}_{}", self.columns, self.suffix)
    }
}

/// The kernel for `cin` channels in and `cout` out.
fn kernel(dtype: DType, cin: usize, cout: usize) -> Result<Kernel> {
    let aligned = cin.is_multiple_of(PIECE_BYTES / dtype.size_in_bytes());
    let widths: &[usize] = match (dtype == DType::F32, aligned) {
        (true, true) => &[32, 64],
        (true, false) => &[64],
        (false, true) => &[32, 64, 96, 128],
        (false, false) => &[96],
    };
    // Work with the columns that are padding, and what a block does beside its columns (loading pixels),
    // taken as 32 columns' worth. Of equals the wider.
    let cost = |columns: usize| cout.div_ceil(columns) * (columns + 32);
    let best = widths.iter().copied().rev().min_by_key(|&c| cost(c));
    let Some(columns) = best else {
        bail!("conv3d: no kernel for {dtype:?}");
    };
    Ok(Kernel {
        columns,
        aligned,
        suffix: suffix(dtype)?,
    })
}

/// Shared memory of a block: the stages, later the sums in f32 with rows 4 longer.
fn shared_bytes(columns: usize) -> usize {
    let stages = STAGES * (ROWS + columns) * ROW_BYTES;
    stages.max(ROWS * (columns + 4) * size_of::<f32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widths_of_the_vaes_take_the_tiles_that_waste_least() {
        let columns = |cin, cout| kernel(DType::BF16, cin, cout).map(|k| k.columns).ok();
        for (cout, want) in [
            (3, 32),
            (12, 32),
            (16, 32),
            (96, 96),
            (160, 96),
            (192, 96),
            (256, 128),
            (384, 128),
            (640, 128),
            (1024, 128),
        ] {
            assert_eq!(columns(96, cout), Some(want), "{cout}");
        }
        assert_eq!(columns(3, 160), Some(96));
    }

    #[test]
    fn names_are_those_of_the_source() {
        let source = include_str!("../cuda/conv3d.cu");
        let instances: Vec<_> = [(DType::F32, 4), (DType::BF16, 8), (DType::F16, 8)]
            .iter()
            .flat_map(|&(dtype, piece)| {
                [piece, 3]
                    .into_iter()
                    .flat_map(move |cin| [8, 64, 96, 128].map(|cout| kernel(dtype, cin, cout)))
            })
            .collect();
        for kernel in instances {
            let Ok(kernel) = kernel else {
                panic!("no kernel: {kernel:?}");
            };
            let loose = if kernel.aligned { ", )" } else { ", _loose)" };
            let flag = if kernel.aligned { "true" } else { "false" };
            let all = if kernel.suffix == "f32" {
                "float, f32"
            } else {
                "T, suffix"
            };
            let line = format!("({all}, {}, {flag}{loose}", kernel.columns);
            assert!(source.contains(&line), "{line}");
        }
    }

    #[test]
    fn shared_memory_fits_cards_of_99_kib() {
        assert_eq!(shared_bytes(128), 96 << 10);
        assert!(
            [32, 64, 96, 128]
                .iter()
                .all(|&c| shared_bytes(c) <= 99 << 10)
        );
    }
}
