//! Patches of pixels to the moments of the latent distribution, one frame at a time.

use candle_core::Tensor;

use super::blocks::{CausalConv, Head, MidBlock, PointConv, ResidualBlock, Slots, State};
use super::geometry;
use super::resample::Downsample;
use super::shortcut::AvgDown3d;
use crate::error::{Context, Result};
use crate::wan::VaeConfig;
use crate::weights::VarBuilder;

/// `encoder.*` and `quant_conv.*`.
#[derive(Debug)]
pub(super) struct Encoder {
    conv_in: CausalConv,
    levels: Vec<DownLevel>,
    mid_block: MidBlock,
    head: Head,
    quant_conv: PointConv,
    slots: Slots,
}

/// Residual blocks at one resolution, then the step to the next.
#[derive(Debug)]
struct DownLevel {
    resnets: Vec<ResidualBlock>,
    downsample: Option<Downsample>,
    avg_shortcut: Option<AvgDown3d>,
    /// Repetitions of a frame after which the output no longer changes.
    reach: usize,
}

impl Encoder {
    pub(super) fn new(cfg: &VaeConfig, vb: &VarBuilder) -> Result<Self> {
        let mut slots = Slots::default();
        let encoder = vb.pp("encoder");
        let width = geometry::encoder_width(cfg);
        let conv_in = CausalConv::new(cfg.in_channels, width, &encoder.pp("conv_in"), &mut slots)?;

        let mut levels = Vec::with_capacity(cfg.dim_mult.len());
        let mut flat = 0..;
        for (i, level) in geometry::encoder_levels(cfg).into_iter().enumerate() {
            let blocks = encoder.pp("down_blocks");
            // VAE 2.1 numbers blocks and resampling steps in one list, VAE 2.2 nests them by level.
            let mut child = |nested: VarBuilder| {
                if cfg.is_residual {
                    nested
                } else {
                    blocks.pp(flat.next().unwrap_or_default())
                }
            };
            let nested = blocks.pp(i);
            let mut resnets = Vec::with_capacity(cfg.num_res_blocks);
            for j in 0..cfg.num_res_blocks {
                let channels_in = if j == 0 {
                    level.channels_in
                } else {
                    level.channels_out
                };
                let vb = child(nested.pp("resnets").pp(j));
                resnets.push(ResidualBlock::new(
                    channels_in,
                    level.channels_out,
                    &vb,
                    &mut slots,
                )?);
            }
            let downsample = match level.resample {
                Some(step) => {
                    let vb = child(nested.pp("downsampler"));
                    Some(Downsample::new(
                        level.channels_out,
                        step.temporal,
                        &vb,
                        &mut slots,
                    )?)
                }
                None => None,
            };
            let avg_shortcut = cfg.is_residual.then(|| {
                let temporal = level.resample.is_some_and(|step| step.temporal);
                AvgDown3d::new(
                    level.channels_out,
                    temporal,
                    level.resample.is_some(),
                    &mut slots,
                )
            });
            // Two frames per convolution; the temporal step looks back two more and, on top of that, gives
            // an output only every second time.
            let convs = 2 * cfg.num_res_blocks + usize::from(i == 0);
            let reach = 2 * convs
                + level
                    .resample
                    .map_or(0, |step| 3 * usize::from(step.temporal));
            levels.push(DownLevel {
                resnets,
                downsample,
                avg_shortcut,
                reach,
            });
        }

        let width = geometry::encoder_mid_width(cfg);
        let z = cfg.z_dim;
        Ok(Self {
            conv_in,
            levels,
            mid_block: MidBlock::new(width, &encoder.pp("mid_block"), &mut slots)?,
            head: Head::new(width, 2 * z, &encoder, &mut slots)?,
            // Of mean and logarithm of the variance only the mean is ever used.
            quant_conv: PointConv::new(2 * z, 2 * z, z, 3, &vb.pp("quant_conv"))?,
            slots,
        })
    }

    /// The stream before its first frame.
    pub(super) fn start(&self) -> Stream {
        let runs = self.levels.iter().map(|_| Run::default()).collect();
        Stream {
            state: State::new(&self.slots),
            runs,
        }
    }

    /// One frame of patches [1, h, w, C] -> the mean of one latent frame [1, h', w', z]. The first frame
    /// gives a latent frame, later ones give one each time a group is complete.
    ///
    /// `again` promises that `x` equals the frame before it and that all further frames will, too. Once a
    /// level has seen the same frame for as long as it remembers, its output cannot change any more and
    /// is taken from the frame before: the result is the same bit for bit.
    pub(super) fn push(
        &self,
        x: &Tensor,
        again: bool,
        stream: &mut Stream,
    ) -> Result<Option<Tensor>> {
        let Stream { state, runs } = stream;
        let mut again = again;
        let mut x = x.clone();
        for (i, (level, run)) in self.levels.iter().zip(runs).enumerate() {
            run.repeats = if again { run.repeats + 1 } else { 0 };
            if run.repeats > level.reach {
                run.emitted = !(level.is_temporal() && run.emitted);
            } else {
                if i == 0 {
                    x = self
                        .conv_in
                        .forward(&x, None, state)
                        .context(|| "vae encoder input".into())?;
                }
                again = false;
                let output = level
                    .forward(x, state)
                    .context(|| format!("vae encoder level {i}"))?;
                run.emitted = output.is_some();
                run.output = output.or(run.output.take());
            }
            match (&run.output, run.emitted) {
                (Some(output), true) => x = output.clone(),
                _ => return Ok(None),
            }
            if run.repeats == 0 {
                // Nobody asks for it again: free it as soon as the next level is through with it.
                run.output = None;
            }
        }
        let mean = self
            .mid_block
            .forward(x, state)
            .and_then(|x| self.head.forward(x, state))
            .and_then(|x| self.quant_conv.forward(&x))
            .context(|| "vae encoder output".into())?;
        state.first = false;
        Ok(Some(mean))
    }
}

/// What one clip has left behind in the encoder.
#[derive(Debug)]
pub(super) struct Stream {
    state: State,
    runs: Vec<Run>,
}

/// How often in a row a level has been given the same frame, and what it made of it.
#[derive(Debug, Default)]
struct Run {
    repeats: usize,
    output: Option<Tensor>,
    /// Whether the last frame gave an output.
    emitted: bool,
}

impl DownLevel {
    fn is_temporal(&self) -> bool {
        self.downsample
            .as_ref()
            .is_some_and(Downsample::is_temporal)
    }

    fn forward(&self, x: Tensor, state: &mut State) -> candle_core::Result<Option<Tensor>> {
        // First, while x is here: the result is a quarter of its size.
        let residual = match &self.avg_shortcut {
            Some(shortcut) => shortcut.forward(&x, state)?,
            None => None,
        };
        let mut x = x;
        for resnet in &self.resnets {
            x = resnet.forward(x, state)?;
        }
        match (&self.downsample, residual) {
            (Some(downsample), residual) => downsample.forward(&x, residual.as_ref(), state),
            (None, Some(residual)) => (x + residual).map(Some),
            (None, None) => Ok(Some(x)),
        }
    }
}
