//! Widths and levels that follow from a configuration, and the tensors that they need.

use crate::error::{Error, Result};
use crate::wan::VaeConfig;

/// One resolution of the encoder or decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::wan) struct Level {
    pub(in crate::wan) channels_in: usize,
    pub(in crate::wan) channels_out: usize,
    /// The step to the next resolution; none at the last level.
    pub(in crate::wan) resample: Option<Resample>,
}

/// Halving or doubling at the end of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::wan) struct Resample {
    /// Whether time changes along with height and width.
    pub(in crate::wan) temporal: bool,
    /// Width of what comes out.
    pub(in crate::wan) channels_out: usize,
}

/// Whether a configuration describes a model that can be built. Errors name the checkpoint's field.
pub(in crate::wan) fn check(cfg: &VaeConfig) -> Result<()> {
    let refuse = |message: String| Err(Error::artifact("vae/config.json", message));
    if !cfg.attn_scales.is_empty() {
        return refuse(format!(
            "attn_scales is {:?}; attention inside the levels is not supported, no released Wan VAE has it",
            cfg.attn_scales
        ));
    }
    if cfg.dim_mult.is_empty() || cfg.temperal_downsample.len() + 1 != cfg.dim_mult.len() {
        return refuse(format!(
            "temperal_downsample must have one entry fewer than dim_mult, found {} and {}",
            cfg.temperal_downsample.len(),
            cfg.dim_mult.len()
        ));
    }
    for (field, found) in [
        ("latents_mean", &cfg.latents_mean),
        ("latents_std", &cfg.latents_std),
    ] {
        if found.len() != cfg.z_dim {
            return refuse(format!(
                "{field} must have z_dim = {} entries, found {}",
                cfg.z_dim,
                found.len()
            ));
        }
    }
    if cfg.latents_std.iter().any(|std| !std.is_normal()) {
        return refuse("latents_std must hold finite numbers other than zero".into());
    }
    let widths = [
        cfg.base_dim,
        cfg.decoder_base_dim.unwrap_or(1),
        cfg.z_dim,
        cfg.num_res_blocks,
    ];
    if widths.contains(&0) || cfg.dim_mult.contains(&0) || cfg.patch_size == Some(0) {
        return refuse("base_dim, decoder_base_dim, z_dim, num_res_blocks, dim_mult and patch_size must be positive".into());
    }
    let channels = 3 * patch(cfg) * patch(cfg);
    if cfg.in_channels != channels || cfg.out_channels != channels {
        return refuse(format!(
            "in_channels and out_channels must be 3 * patch_size^2 = {channels}, found {} and {}",
            cfg.in_channels, cfg.out_channels
        ));
    }
    if cfg.is_residual {
        // The shortcuts spread channels over pixels in whole groups.
        for (direction, levels) in [("down", encoder_levels(cfg)), ("up", decoder_levels(cfg))] {
            for level in levels {
                let Level {
                    channels_in,
                    channels_out,
                    resample,
                } = level;
                let block = resample.map_or(1, |step| if step.temporal { 8 } else { 4 });
                let (many, few) = match direction {
                    "down" => (channels_in * block, channels_out),
                    _ => (channels_out * block, channels_in),
                };
                if !many.is_multiple_of(few) && (direction == "down" || resample.is_some()) {
                    return refuse(format!(
                        "dim_mult makes a level from {channels_in} to {channels_out} channels, whose \
                         {direction} shortcut does not divide into whole groups"
                    ));
                }
            }
        }
    } else if decoder_levels(cfg)
        .iter()
        .any(|level| level.channels_in * level.channels_out == 0)
    {
        return refuse("the decoder halves an odd width of 1: raise base_dim".into());
    }
    Ok(())
}

/// Pixels along each side of the patches that the model works on.
pub(in crate::wan) fn patch(cfg: &VaeConfig) -> usize {
    cfg.patch_size.unwrap_or(1)
}

/// Width of the decoder before its multipliers.
fn decoder_base(cfg: &VaeConfig) -> usize {
    cfg.decoder_base_dim.unwrap_or(cfg.base_dim)
}

/// Width of the encoder's first convolution.
pub(in crate::wan) fn encoder_width(cfg: &VaeConfig) -> usize {
    cfg.base_dim
}

/// Width at the encoder's lowest resolution.
pub(in crate::wan) fn encoder_mid_width(cfg: &VaeConfig) -> usize {
    cfg.base_dim * cfg.dim_mult.last().copied().unwrap_or(1)
}

/// Width at the decoder's lowest resolution.
pub(in crate::wan) fn decoder_mid_width(cfg: &VaeConfig) -> usize {
    decoder_base(cfg) * cfg.dim_mult.last().copied().unwrap_or(1)
}

/// Width at the decoder's highest resolution.
pub(in crate::wan) fn decoder_width(cfg: &VaeConfig) -> usize {
    decoder_base(cfg) * cfg.dim_mult.first().copied().unwrap_or(1)
}

/// Levels of the encoder, highest resolution first.
pub(in crate::wan) fn encoder_levels(cfg: &VaeConfig) -> Vec<Level> {
    let mut channels_in = cfg.base_dim;
    let widths = cfg.dim_mult.iter().enumerate().map(|(i, mult)| {
        let channels_out = cfg.base_dim * mult;
        let resample = cfg.temperal_downsample.get(i).map(|&temporal| Resample {
            temporal,
            channels_out,
        });
        let level = Level {
            channels_in,
            channels_out,
            resample,
        };
        channels_in = channels_out;
        level
    });
    widths.collect()
}

/// Levels of the decoder, lowest resolution first.
pub(in crate::wan) fn decoder_levels(cfg: &VaeConfig) -> Vec<Level> {
    let mut channels_in = decoder_mid_width(cfg);
    let steps = cfg.temperal_downsample.iter().rev().map(Some).chain([None]);
    let levels = cfg.dim_mult.iter().rev().zip(steps).map(|(mult, step)| {
        let channels_out = decoder_base(cfg) * mult;
        // VAE 2.1 halves the width along with the resolution step, VAE 2.2 keeps it.
        let resampled = if cfg.is_residual {
            channels_out
        } else {
            channels_out / 2
        };
        let resample = step.map(|&temporal| Resample {
            temporal,
            channels_out: resampled,
        });
        let level = Level {
            channels_in,
            channels_out,
            resample,
        };
        channels_in = resampled;
        level
    });
    levels.collect()
}

/// Every tensor of the VAE under its diffusers name, with its shape; encoder first.
pub(in crate::wan) fn tensor_shapes(cfg: &VaeConfig) -> Vec<(String, Vec<usize>)> {
    let mut list = List(Vec::new());
    let z = cfg.z_dim;

    list.conv(
        "encoder.conv_in",
        encoder_width(cfg),
        cfg.in_channels,
        &[3; 3],
    );
    let mut flat = 0;
    for (i, level) in encoder_levels(cfg).into_iter().enumerate() {
        // VAE 2.1 numbers blocks and resampling steps in one list, VAE 2.2 nests them by level.
        let mut name = |tail: &str| {
            flat += 1;
            if cfg.is_residual {
                format!("encoder.down_blocks.{i}.{tail}")
            } else {
                format!("encoder.down_blocks.{}", flat - 1)
            }
        };
        list.resnets(level, cfg.num_res_blocks, |j| name(&format!("resnets.{j}")));
        if let Some(step) = level.resample {
            list.resample(&name("downsampler"), level, step, 1);
        }
    }
    let width = encoder_mid_width(cfg);
    list.mid_block("encoder", width);
    list.norm("encoder.norm_out", width, 3);
    list.conv("encoder.conv_out", 2 * z, width, &[3; 3]);
    list.conv("quant_conv", 2 * z, 2 * z, &[1; 3]);

    list.conv("post_quant_conv", z, z, &[1; 3]);
    list.conv("decoder.conv_in", decoder_mid_width(cfg), z, &[3; 3]);
    list.mid_block("decoder", decoder_mid_width(cfg));
    for (i, level) in decoder_levels(cfg).into_iter().enumerate() {
        let block = format!("decoder.up_blocks.{i}");
        list.resnets(level, cfg.num_res_blocks + 1, |j| {
            format!("{block}.resnets.{j}")
        });
        if let Some(step) = level.resample {
            let name = if cfg.is_residual {
                "upsampler"
            } else {
                "upsamplers.0"
            };
            list.resample(&format!("{block}.{name}"), level, step, 2);
        }
    }
    let width = decoder_width(cfg);
    list.norm("decoder.norm_out", width, 3);
    list.conv("decoder.conv_out", cfg.out_channels, width, &[3; 3]);
    list.0
}

/// Names and shapes, layer by layer.
struct List(Vec<(String, Vec<usize>)>);

impl List {
    fn conv(&mut self, name: &str, channels_out: usize, channels_in: usize, window: &[usize]) {
        let shape = [&[channels_out, channels_in], window].concat();
        self.0.push((format!("{name}.weight"), shape));
        self.0.push((format!("{name}.bias"), vec![channels_out]));
    }

    fn norm(&mut self, name: &str, channels: usize, ones: usize) {
        self.0.push((
            format!("{name}.gamma"),
            [vec![channels], vec![1; ones]].concat(),
        ));
    }

    fn resnets(&mut self, level: Level, count: usize, mut name: impl FnMut(usize) -> String) {
        for j in 0..count {
            let channels_in = if j == 0 {
                level.channels_in
            } else {
                level.channels_out
            };
            self.resnet(&name(j), channels_in, level.channels_out);
        }
    }

    fn resnet(&mut self, name: &str, channels_in: usize, channels_out: usize) {
        self.norm(&format!("{name}.norm1"), channels_in, 3);
        self.conv(&format!("{name}.conv1"), channels_out, channels_in, &[3; 3]);
        self.norm(&format!("{name}.norm2"), channels_out, 3);
        self.conv(
            &format!("{name}.conv2"),
            channels_out,
            channels_out,
            &[3; 3],
        );
        if channels_in != channels_out {
            self.conv(
                &format!("{name}.conv_shortcut"),
                channels_out,
                channels_in,
                &[1; 3],
            );
        }
    }

    fn mid_block(&mut self, part: &str, width: usize) {
        let name = format!("{part}.mid_block");
        self.resnet(&format!("{name}.resnets.0"), width, width);
        self.norm(&format!("{name}.attentions.0.norm"), width, 2);
        self.conv(
            &format!("{name}.attentions.0.to_qkv"),
            3 * width,
            width,
            &[1; 2],
        );
        self.conv(&format!("{name}.attentions.0.proj"), width, width, &[1; 2]);
        self.resnet(&format!("{name}.resnets.1"), width, width);
    }

    /// `frames` is how many frames the temporal convolution makes of one.
    fn resample(&mut self, name: &str, level: Level, step: Resample, frames: usize) {
        let width = level.channels_out;
        self.conv(
            &format!("{name}.resample.1"),
            step.channels_out,
            width,
            &[3; 2],
        );
        if step.temporal {
            self.conv(
                &format!("{name}.time_conv"),
                frames * width,
                width,
                &[3, 1, 1],
            );
        }
    }
}
