//! Layers that encoder and decoder share: causal convolution, residual block, mid attention.
//!
//! Activations are single frames, channels last: [1, h, w, C]. A layer that looks back in time owns a
//! slot in the [`State`] of the stream it works on, so that one set of weights serves many streams.

use candle_core::{DType, Result, Tensor};
use leoma_kernels::{Conv3d, Conv3dConfig, Linear, attention, channel_norm};

use crate::weights::VarBuilder;

/// Frames that a causal convolution (three taps in time) looks back.
const LOOK_BACK: usize = 2;

/// Hands out the slots of a [`State`] while a model is built.
#[derive(Debug, Default)]
pub(super) struct Slots(usize);

impl Slots {
    /// A slot of its own for one layer.
    pub(super) fn take(&mut self) -> usize {
        self.0 += 1;
        self.0 - 1
    }
}

/// What one stream of frames has left behind in each layer.
#[derive(Debug)]
pub(super) struct State {
    slots: Vec<Option<Tensor>>,
    /// True while the first frame of the stream passes: it skips the temporal resampling.
    pub(super) first: bool,
}

impl State {
    /// The state before the first frame of a model built with `slots`.
    pub(super) fn new(slots: &Slots) -> Self {
        Self {
            slots: vec![None; slots.0],
            first: true,
        }
    }

    /// What a layer has left in its slot.
    pub(super) fn get(&self, slot: usize) -> Option<&Tensor> {
        self.slots[slot].as_ref()
    }

    /// Empties a slot and gives what it held.
    pub(super) fn take(&mut self, slot: usize) -> Option<Tensor> {
        self.slots[slot].take()
    }

    /// Replaces what a slot holds.
    pub(super) fn put(&mut self, slot: usize, x: Tensor) {
        self.slots[slot] = Some(x);
    }

    /// Appends the frame `x` [1, h, w, C] to a slot, which keeps the last two frames.
    pub(super) fn push(&mut self, slot: usize, x: &Tensor) -> Result<()> {
        let held = match self.take(slot) {
            None => x.clone(),
            Some(held) if held.dim(0)? < LOOK_BACK => Tensor::cat(&[&held, x], 0)?,
            Some(held) => {
                // In place: a new pair per frame would cost twice the memory at the moment of change.
                let newest = held.narrow(0, 1, 1)?.force_contiguous()?;
                held.slice_set(&newest, 0, 0)?;
                held.slice_set(&x.contiguous()?, 0, 1)?;
                held
            }
        };
        self.put(slot, held);
        Ok(())
    }
}

/// 3x3x3 convolution that sees the present frame and the two before it.
#[derive(Debug)]
pub(super) struct CausalConv {
    conv: Conv3d,
    slot: usize,
}

impl CausalConv {
    pub(super) fn new(
        channels_in: usize,
        channels_out: usize,
        vb: &VarBuilder,
        slots: &mut Slots,
    ) -> crate::Result<Self> {
        let weight = vb.get([channels_out, channels_in, 3, 3, 3], "weight")?;
        let bias = vb.get([channels_out], "bias")?;
        let cfg = Conv3dConfig {
            pad: [1; 4],
            pad_front: LOOK_BACK,
            ..Conv3dConfig::default()
        };
        Ok(Self {
            conv: Conv3d::new(weight, Some(bias), cfg)?,
            slot: slots.take(),
        })
    }

    /// x [1, h, w, C] -> [1, h, w, C'], plus `residual` [1, h, w, C'].
    pub(super) fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        state: &mut State,
    ) -> Result<Tensor> {
        let y = self.conv.forward(x, state.get(self.slot), residual)?;
        state.push(self.slot, x)?;
        Ok(y)
    }
}

/// 1x1(x1) convolution: one linear map per pixel.
#[derive(Debug)]
pub(super) struct PointConv(Linear);

impl PointConv {
    /// `ones` is the number of window axes in the stored weight: 3 for 1x1x1, 2 for 1x1. Of the
    /// `channels_out` stored rows the first `keep` are used.
    pub(super) fn new(
        channels_in: usize,
        channels_out: usize,
        keep: usize,
        ones: usize,
        vb: &VarBuilder,
    ) -> crate::Result<Self> {
        let mut shape = vec![channels_out, channels_in];
        shape.resize(2 + ones, 1);
        // [C', C, 1, ..] -> [keep, C]
        let weight = vb
            .get(shape, "weight")?
            .reshape((channels_out, channels_in))?;
        let bias = vb.get([channels_out], "bias")?;
        Ok(Self(Linear::new(
            weight.narrow(0, 0, keep)?,
            Some(bias.narrow(0, 0, keep)?),
        )?))
    }

    /// x [.., C] -> [.., keep]
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}

/// L2 normalisation over the channels times sqrt(C) times a learnt factor ("RMS norm" in the sources).
#[derive(Debug)]
pub(super) struct ChannelNorm(Tensor);

impl ChannelNorm {
    /// `ones` is the number of broadcast axes in the stored factor: 3 for video, 2 for images.
    pub(super) fn new(channels: usize, ones: usize, vb: &VarBuilder) -> crate::Result<Self> {
        let mut shape = vec![channels];
        shape.resize(1 + ones, 1);
        // [C, 1, ..] -> [C]; rounded to the model's type, kept in f32 as the kernels read it.
        let gamma = vb.get(shape, "gamma")?.reshape(channels)?;
        Ok(Self(gamma.to_dtype(DType::F32)?))
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        channel_norm(x, &self.0, false)
    }

    pub(super) fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        channel_norm(x, &self.0, true)
    }
}

/// Norm, SiLU, convolution, twice; plus the input, through a 1x1x1 convolution where the width changes.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    norm1: ChannelNorm,
    conv1: CausalConv,
    norm2: ChannelNorm,
    conv2: CausalConv,
    conv_shortcut: Option<PointConv>,
}

impl ResidualBlock {
    pub(super) fn new(
        channels_in: usize,
        channels_out: usize,
        vb: &VarBuilder,
        slots: &mut Slots,
    ) -> crate::Result<Self> {
        let conv_shortcut = if channels_in == channels_out {
            None
        } else {
            let vb = vb.pp("conv_shortcut");
            Some(PointConv::new(
                channels_in,
                channels_out,
                channels_out,
                3,
                &vb,
            )?)
        };
        Ok(Self {
            norm1: ChannelNorm::new(channels_in, 3, &vb.pp("norm1"))?,
            conv1: CausalConv::new(channels_in, channels_out, &vb.pp("conv1"), slots)?,
            norm2: ChannelNorm::new(channels_out, 3, &vb.pp("norm2"))?,
            conv2: CausalConv::new(channels_out, channels_out, &vb.pp("conv2"), slots)?,
            conv_shortcut,
        })
    }

    /// x [1, h, w, C] -> [1, h, w, C']. Takes `x` so that its memory is free as soon as it has been used.
    pub(super) fn forward(&self, x: Tensor, state: &mut State) -> Result<Tensor> {
        let h = self
            .conv1
            .forward(&self.norm1.forward_silu(&x)?, None, state)?;
        let shortcut = match &self.conv_shortcut {
            Some(conv) => conv.forward(&x)?,
            None => x,
        };
        let normed = self.norm2.forward_silu(&h)?;
        drop(h);
        self.conv2.forward(&normed, Some(&shortcut), state)
    }
}

/// Self-attention with one head over the pixels of a frame.
#[derive(Debug)]
pub(super) struct AttentionBlock {
    norm: ChannelNorm,
    to_qkv: PointConv,
    proj: PointConv,
    channels: usize,
}

impl AttentionBlock {
    pub(super) fn new(channels: usize, vb: &VarBuilder) -> crate::Result<Self> {
        Ok(Self {
            norm: ChannelNorm::new(channels, 2, &vb.pp("norm"))?,
            to_qkv: PointConv::new(channels, 3 * channels, 3 * channels, 2, &vb.pp("to_qkv"))?,
            proj: PointConv::new(channels, channels, channels, 2, &vb.pp("proj"))?,
            channels,
        })
    }

    /// x [f, h, w, C] -> [f, h, w, C]; frames do not see each other.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (f, h, w, c) = x.dims4()?;
        let qkv = self.to_qkv.forward(&self.norm.forward(x)?)?;
        // [f, h, w, 3C] -> [f, L = h*w, N = 1, 3C]; q, k, v are thirds of the channels
        let qkv = qkv.reshape((f, h * w, 1, 3 * c))?;
        let (q, k, v) = (
            qkv.narrow(3, 0, c)?,
            qkv.narrow(3, c, c)?,
            qkv.narrow(3, 2 * c, c)?,
        );
        let scale = 1.0 / (self.channels as f64).sqrt();
        // [f, L, 1, C] -> [f, h, w, C]
        let y = attention(&q, &k, &v, scale, None)?.reshape((f, h, w, c))?;
        self.proj.forward(&y)? + x
    }
}

/// Residual block, attention, residual block at the lowest resolution.
#[derive(Debug)]
pub(super) struct MidBlock {
    first: ResidualBlock,
    attention: AttentionBlock,
    second: ResidualBlock,
}

impl MidBlock {
    pub(super) fn new(channels: usize, vb: &VarBuilder, slots: &mut Slots) -> crate::Result<Self> {
        let resnets = vb.pp("resnets");
        Ok(Self {
            first: ResidualBlock::new(channels, channels, &resnets.pp(0), slots)?,
            attention: AttentionBlock::new(channels, &vb.pp("attentions").pp(0))?,
            second: ResidualBlock::new(channels, channels, &resnets.pp(1), slots)?,
        })
    }

    /// x [1, h, w, C] -> [1, h, w, C]
    pub(super) fn forward(&self, x: Tensor, state: &mut State) -> Result<Tensor> {
        let x = self.first.forward(x, state)?;
        let x = self.attention.forward(&x)?;
        self.second.forward(x, state)
    }
}

/// Norm, SiLU and the convolution that ends encoder and decoder.
#[derive(Debug)]
pub(super) struct Head {
    norm_out: ChannelNorm,
    conv_out: CausalConv,
}

impl Head {
    pub(super) fn new(
        channels_in: usize,
        channels_out: usize,
        vb: &VarBuilder,
        slots: &mut Slots,
    ) -> crate::Result<Self> {
        Ok(Self {
            norm_out: ChannelNorm::new(channels_in, 3, &vb.pp("norm_out"))?,
            conv_out: CausalConv::new(channels_in, channels_out, &vb.pp("conv_out"), slots)?,
        })
    }

    /// x [1, h, w, C] -> [1, h, w, C']
    pub(super) fn forward(&self, x: Tensor, state: &mut State) -> Result<Tensor> {
        let normed = self.norm_out.forward_silu(&x)?;
        drop(x);
        self.conv_out.forward(&normed, None, state)
    }
}
