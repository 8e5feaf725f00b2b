//! Latent frames to patches of pixels, one frame at a time.

use candle_core::Tensor;

use super::blocks::{CausalConv, Head, MidBlock, PointConv, ResidualBlock, Slots, State};
use super::geometry;
use super::resample::Upsample;
use super::shortcut::DupUp3d;
use crate::error::{Context, Result};
use crate::wan::VaeConfig;
use crate::weights::VarBuilder;

/// `decoder.*` and `post_quant_conv.*`.
#[derive(Debug)]
pub(super) struct Decoder {
    post_quant_conv: PointConv,
    conv_in: CausalConv,
    mid_block: MidBlock,
    levels: Vec<UpLevel>,
    head: Head,
    slots: Slots,
}

/// Residual blocks at one resolution, then the step to the next.
#[derive(Debug)]
struct UpLevel {
    resnets: Vec<ResidualBlock>,
    upsample: Option<Upsample>,
    avg_shortcut: Option<DupUp3d>,
}

impl Decoder {
    pub(super) fn new(cfg: &VaeConfig, vb: &VarBuilder) -> Result<Self> {
        let mut slots = Slots::default();
        let decoder = vb.pp("decoder");
        let (z, width) = (cfg.z_dim, geometry::decoder_mid_width(cfg));
        let post_quant_conv = PointConv::new(z, z, z, 3, &vb.pp("post_quant_conv"))?;
        let conv_in = CausalConv::new(z, width, &decoder.pp("conv_in"), &mut slots)?;
        let mid_block = MidBlock::new(width, &decoder.pp("mid_block"), &mut slots)?;

        let mut levels = Vec::with_capacity(cfg.dim_mult.len());
        for (i, level) in geometry::decoder_levels(cfg).into_iter().enumerate() {
            let vb = decoder.pp("up_blocks").pp(i);
            let (channels_in, channels_out) = (level.channels_in, level.channels_out);
            let mut resnets = Vec::with_capacity(cfg.num_res_blocks + 1);
            for j in 0..=cfg.num_res_blocks {
                let from = if j == 0 { channels_in } else { channels_out };
                let vb = vb.pp("resnets").pp(j);
                resnets.push(ResidualBlock::new(from, channels_out, &vb, &mut slots)?);
            }
            let upsample = match level.resample {
                Some(step) => {
                    let name = if cfg.is_residual {
                        "upsampler"
                    } else {
                        "upsamplers.0"
                    };
                    let (vb, to) = (vb.pp(name), step.channels_out);
                    Some(Upsample::new(
                        channels_out,
                        to,
                        step.temporal,
                        &vb,
                        &mut slots,
                    )?)
                }
                None => None,
            };
            let avg_shortcut = match level.resample {
                Some(step) if cfg.is_residual => Some(DupUp3d::new(
                    channels_in,
                    channels_out,
                    step.temporal,
                    vb.device(),
                )?),
                _ => None,
            };
            levels.push(UpLevel {
                resnets,
                upsample,
                avg_shortcut,
            });
        }

        let width = geometry::decoder_width(cfg);
        let head = Head::new(width, cfg.out_channels, &decoder, &mut slots)?;
        Ok(Self {
            post_quant_conv,
            conv_in,
            mid_block,
            levels,
            head,
            slots,
        })
    }

    /// The state before the first frame.
    pub(super) fn start(&self) -> State {
        State::new(&self.slots)
    }

    /// One latent frame [1, h, w, z] -> the frames of patches it stands for, each [1, h', w', C], in
    /// order: one for the first latent frame of a stream, a group for each later one.
    pub(super) fn push(
        &self,
        z: &Tensor,
        state: &mut State,
        sink: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        let x = self
            .post_quant_conv
            .forward(z)
            .and_then(|x| self.conv_in.forward(&x, None, state))
            .and_then(|x| self.mid_block.forward(x, state))
            .context(|| "vae decoder input".into())?;
        self.climb(0, x, state, sink)?;
        state.first = false;
        Ok(())
    }

    /// Takes one frame through the levels from `i` upwards. Where a level doubles time, the first of the
    /// two frames goes all the way up before the second is enlarged: at the resolutions where memory
    /// counts there is never more than one frame.
    fn climb(
        &self,
        i: usize,
        x: Tensor,
        state: &mut State,
        sink: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        let place = || format!("vae decoder level {i}");
        let Some(level) = self.levels.get(i) else {
            return sink(
                self.head
                    .forward(x, state)
                    .context(|| "vae decoder output".into())?,
            );
        };
        let shortcut = level
            .avg_shortcut
            .as_ref()
            .map(|shortcut| (shortcut, x.clone()));
        let mut x = x;
        for resnet in &level.resnets {
            x = resnet.forward(x, state).context(place)?;
        }
        let Some(upsample) = &level.upsample else {
            return self.climb(i + 1, x, state, sink);
        };
        for (a, x) in upsample
            .in_time(x, state)
            .context(place)?
            .into_iter()
            .enumerate()
        {
            let residual = match &shortcut {
                Some((shortcut, input)) => Some(shortcut.forward(input, a, state).context(place)?),
                None => None,
            };
            let larger = upsample.in_space(&x, residual.as_ref()).context(place)?;
            drop((x, residual));
            self.climb(i + 1, larger, state, sink)?;
        }
        Ok(())
    }
}
