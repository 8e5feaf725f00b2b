//! Halving and doubling of resolution, in space and (where the level says so) in time.
//!
//! The first frame of a stream stands for itself: it passes without the temporal step, and the frames
//! that follow are halved or doubled in groups.

use candle_core::{Result, Tensor};
use leoma_kernels::{Conv3d, Conv3dConfig};

use super::blocks::{Slots, State};
use crate::weights::VarBuilder;

/// The 3x3 convolution `resample.1`, stored as [C', C, 3, 3].
fn spatial_conv(
    channels_in: usize,
    channels_out: usize,
    cfg: Conv3dConfig,
    vb: &VarBuilder,
) -> crate::Result<Conv3d> {
    let vb = vb.pp("resample").pp(1);
    // [C', C, 3, 3] -> [C', C, 1, 3, 3]
    let weight = vb
        .get([channels_out, channels_in, 3, 3], "weight")?
        .unsqueeze(2)?;
    Ok(Conv3d::new(
        weight,
        Some(vb.get([channels_out], "bias")?),
        cfg,
    )?)
}

/// Stride-2 convolution in space, then in time over pairs of frames.
#[derive(Debug)]
pub(super) struct Downsample {
    conv: Conv3d,
    time: Option<(Conv3d, usize)>,
}

impl Downsample {
    pub(super) fn new(
        channels: usize,
        temporal: bool,
        vb: &VarBuilder,
        slots: &mut Slots,
    ) -> crate::Result<Self> {
        // Zeros at the bottom and right only.
        let cfg = Conv3dConfig {
            stride: [1, 2, 2],
            pad: [0, 1, 0, 1],
            ..Conv3dConfig::default()
        };
        let conv = spatial_conv(channels, channels, cfg, vb)?;
        let time = if temporal {
            let vb = vb.pp("time_conv");
            let weight = vb.get([channels, channels, 3, 1, 1], "weight")?;
            // One frame at a time against the two before it: the stride lies in when it is called.
            let cfg = Conv3dConfig {
                pad_front: 2,
                ..Conv3dConfig::default()
            };
            let conv = Conv3d::new(weight, Some(vb.get([channels], "bias")?), cfg)?;
            Some((conv, slots.take()))
        } else {
            None
        };
        Ok(Self { conv, time })
    }

    /// Whether only every second frame comes out.
    pub(super) fn is_temporal(&self) -> bool {
        self.time.is_some()
    }

    /// x [1, h, w, C] -> [1, h/2, w/2, C] plus `residual` of that shape, or nothing when the frame is the
    /// first of a pair. `residual` must be present exactly when the level has one and a frame comes out.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        state: &mut State,
    ) -> Result<Option<Tensor>> {
        let Some((time, slot)) = &self.time else {
            return Ok(Some(self.conv.forward(x, None, residual)?));
        };
        let x = self.conv.forward(x, None, None)?;
        // The slot holds the last frame of the previous group, and the first of this group once it is here.
        let complete = state.get(*slot).map(|held| held.dim(0)).transpose()? == Some(2);
        let y = if state.first {
            match residual {
                Some(residual) => (&x + residual)?,
                None => x.clone(),
            }
        } else if complete {
            let y = time.forward(&x, state.get(*slot), residual)?;
            state.take(*slot);
            y
        } else {
            state.push(*slot, &x)?;
            return Ok(None);
        };
        state.push(*slot, &x)?;
        Ok(Some(y))
    }
}

/// Doubling in time by a convolution with twice the channels, then in space by nearest neighbour and a
/// convolution.
#[derive(Debug)]
pub(super) struct Upsample {
    time: Option<TimeUpsample>,
    conv: Conv3d,
}

/// The temporal convolution, cut into the halves that make the even and the odd frames.
#[derive(Debug)]
struct TimeUpsample {
    halves: [Conv3d; 2],
    slot: usize,
}

impl Upsample {
    pub(super) fn new(
        channels_in: usize,
        channels_out: usize,
        temporal: bool,
        vb: &VarBuilder,
        slots: &mut Slots,
    ) -> crate::Result<Self> {
        let time = if temporal {
            Some(TimeUpsample::new(channels_in, &vb.pp("time_conv"), slots)?)
        } else {
            None
        };
        let cfg = Conv3dConfig {
            pad: [1; 4],
            upsample2x: true,
            ..Conv3dConfig::default()
        };
        Ok(Self {
            time,
            conv: spatial_conv(channels_in, channels_out, cfg, vb)?,
        })
    }

    /// The temporal step: x [1, h, w, C] -> one frame (no temporal step here, or first frame of the
    /// stream) or two.
    pub(super) fn in_time(&self, x: Tensor, state: &mut State) -> Result<Vec<Tensor>> {
        match &self.time {
            // The first frame is not remembered either: the second sees zeros behind it.
            Some(time) if !state.first => time.forward(&x, state),
            _ => Ok(vec![x]),
        }
    }

    /// The spatial step: x [1, h, w, C] -> [1, 2h, 2w, C'] plus `residual` of that shape.
    pub(super) fn in_space(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        self.conv.forward(x, None, residual)
    }
}

impl TimeUpsample {
    fn new(channels: usize, vb: &VarBuilder, slots: &mut Slots) -> crate::Result<Self> {
        let weight = vb.get([2 * channels, channels, 3, 1, 1], "weight")?;
        let bias = vb.get([2 * channels], "bias")?;
        // Output channels [2, C]: the first half is the even frame, the second the odd one.
        let half = |i: usize| {
            let weight = weight.narrow(0, i * channels, channels)?;
            let bias = bias.narrow(0, i * channels, channels)?;
            let cfg = Conv3dConfig {
                pad_front: 2,
                ..Conv3dConfig::default()
            };
            Conv3d::new(
                weight.force_contiguous()?,
                Some(bias.force_contiguous()?),
                cfg,
            )
        };
        Ok(Self {
            halves: [half(0)?, half(1)?],
            slot: slots.take(),
        })
    }

    fn forward(&self, x: &Tensor, state: &mut State) -> Result<Vec<Tensor>> {
        let history = state.get(self.slot);
        let frames = self
            .halves
            .iter()
            .map(|conv| conv.forward(x, history, None));
        let frames = frames.collect::<Result<Vec<_>>>()?;
        state.push(self.slot, x)?;
        Ok(frames)
    }
}
