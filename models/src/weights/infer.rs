//! Sizes that the official layout does not write down, read off tensor shapes.

use super::names::numbered;
use super::source::FileSource;
use super::var_builder::TensorSource;
use crate::error::{Error, Result};
use crate::text::Umt5Config;
use crate::wan::{TransformerConfig, VaeConfig};

/// Most resolutions of a VAE; released ones have four.
const MAX_RESOLUTIONS: usize = 8;

/// Per-channel mean and standard deviation of the latents of the released VAEs: 16 channels (2.1) or 48
/// (2.2). The official code keeps them in its source, diffusers in `vae/config.json`.
pub fn latent_statistics(channels: usize) -> Option<(&'static [f64], &'static [f64])> {
    match channels {
        16 => Some((&MEAN_21, &STD_21)),
        48 => Some((&MEAN_22, &STD_22)),
        _ => None,
    }
}

/// The shape of a tensor that the inference needs.
fn shape<const N: usize>(source: &FileSource, name: &str) -> Result<[usize; N]> {
    let file = source
        .files()
        .first()
        .map(|file| file.path.clone())
        .unwrap_or_default();
    let Some(shape) = source.shape(name) else {
        return Err(Error::artifact(
            file,
            format!("tensor `{name}` is missing, and the sizes of the model with it"),
        ));
    };
    <[usize; N]>::try_from(shape.as_slice()).map_err(|_| {
        Error::artifact(
            file,
            format!("tensor `{name}` has shape {shape:?}; {N} axes are expected"),
        )
    })
}

/// (patch_size, text_dim) of a transformer.
pub(super) fn transformer(source: &FileSource) -> Result<([usize; 3], usize)> {
    let [_, _, pt, ph, pw] = shape(source, "patch_embedding.weight")?;
    let [_, text_dim] = shape(source, "condition_embedder.text_embedder.linear_1.weight")?;
    Ok(([pt, ph, pw], text_dim))
}

/// The sizes by which transformers of the family differ.
#[derive(Debug, PartialEq)]
pub(super) struct TransformerFacts {
    width: usize,
    feed_forward: usize,
    layers: usize,
    inputs: usize,
    /// Values per token that the head gives.
    outputs: usize,
}

impl TransformerFacts {
    /// Off the shapes of a file; `None` when it is no transformer of the family.
    pub(super) fn read(source: &FileSource) -> Option<Self> {
        let first = |name: &str, axis: usize| source.shape(name)?.get(axis).copied();
        Some(Self {
            width: first("patch_embedding.weight", 0)?,
            feed_forward: first("blocks.0.ffn.net.0.proj.weight", 0)?,
            layers: count(source, "blocks."),
            inputs: first("patch_embedding.weight", 1)?,
            outputs: first("proj_out.weight", 0)?,
        })
    }

    /// What a configuration asks for.
    pub(super) fn of(config: &TransformerConfig) -> Self {
        Self {
            width: config.dim(),
            feed_forward: config.ffn_dim,
            layers: config.num_layers,
            inputs: config.in_channels,
            outputs: config.out_channels * config.patch_size.iter().product::<usize>(),
        }
    }

    /// The released model of these sizes.
    fn model(&self) -> Option<&'static str> {
        Some(match (self.width, self.inputs) {
            (5120, 36) => "I2V-A14B",
            (5120, 16) => "T2V-A14B or Wan 2.1 T2V-14B",
            (3072, 48) => "TI2V-5B",
            (1536, 16) => "Wan 2.1 T2V-1.3B",
            _ => return None,
        })
    }
}

impl std::fmt::Display for TransformerFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(model) = self.model() {
            write!(f, "{model}: ")?;
        }
        write!(
            f,
            "width {}, feed-forward {}, {} blocks, {} input channels, {} values per token",
            self.width, self.feed_forward, self.layers, self.inputs, self.outputs
        )
    }
}

/// How many consecutive numbers follow a prefix, from 0.
fn count(source: &FileSource, prefix: &str) -> usize {
    let numbers: std::collections::BTreeSet<usize> = source
        .entries()
        .filter_map(|(name, _)| numbered(name, prefix).map(|(n, _)| n))
        .collect();
    (0..).take_while(|n| numbers.contains(n)).count()
}

/// Sizes of a text encoder.
pub(super) fn text(source: &FileSource) -> Result<Umt5Config> {
    let attention = "encoder.block.0.layer.0.SelfAttention";
    let [vocab_size, d_model] = shape(source, "shared.weight")?;
    let [buckets, num_heads] = shape(
        source,
        &format!("{attention}.relative_attention_bias.weight"),
    )?;
    let [inner, _] = shape(source, &format!("{attention}.q.weight"))?;
    let [d_ff, _] = shape(source, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight")?;
    Ok(Umt5Config {
        vocab_size,
        d_model,
        d_kv: inner.checked_div(num_heads).unwrap_or(0),
        d_ff,
        num_layers: count(source, "encoder.block."),
        num_heads,
        relative_attention_num_buckets: buckets,
        // Not in any shape; UMT5's own value.
        relative_attention_max_distance: 128,
        layer_norm_epsilon: 1e-6,
    })
}

/// Sizes of a VAE.
pub(super) fn vae(source: &FileSource) -> Result<VaeConfig> {
    let file = source
        .files()
        .first()
        .map(|file| file.path.clone())
        .unwrap_or_default();
    let refuse = |message: String| Err(Error::artifact(&file, message));
    let has = |name: &str| source.shape(name).is_some();
    let [base_dim, in_channels, ..] = shape::<5>(source, "encoder.conv_in.weight")?;
    let [out_channels, ..] = shape::<5>(source, "decoder.conv_out.weight")?;
    let [z_dim, ..] = shape::<5>(source, "post_quant_conv.weight")?;
    let [decoder_width, ..] = shape::<4>(source, "decoder.norm_out.gamma")?;
    let is_residual = has("encoder.down_blocks.0.resnets.0.conv1.weight");

    // Per resolution: width, whether a downsampling follows, and whether that one halves time.
    let mut widths = Vec::new();
    let mut temperal_downsample = Vec::new();
    let mut num_res_blocks = 0;
    let blocks = count(source, "encoder.down_blocks.");
    if is_residual {
        for block in 0..blocks {
            let head = format!("encoder.down_blocks.{block}");
            let [width, ..] = shape::<5>(source, &format!("{head}.resnets.0.conv1.weight"))?;
            widths.push(width);
            if block == 0 {
                num_res_blocks = count(source, &format!("{head}.resnets."));
            }
            if has(&format!("{head}.downsampler.resample.1.weight")) {
                temperal_downsample.push(has(&format!("{head}.downsampler.time_conv.weight")));
            }
        }
    } else {
        let mut in_resolution = 0;
        for layer in 0..blocks {
            let head = format!("encoder.down_blocks.{layer}");
            if has(&format!("{head}.resample.1.weight")) {
                temperal_downsample.push(has(&format!("{head}.time_conv.weight")));
                in_resolution = 0;
            } else if has(&format!("{head}.conv1.weight")) {
                let [width, ..] = shape::<5>(source, &format!("{head}.conv1.weight"))?;
                if in_resolution == 0 {
                    widths.push(width);
                }
                in_resolution += 1;
                num_res_blocks = num_res_blocks.max(in_resolution);
            } else {
                return refuse(format!(
                    "`{head}` is neither a residual block nor a downsampling; attention \
                                       outside the middle block is not supported"
                ));
            }
        }
    }
    if widths.len() > MAX_RESOLUTIONS || temperal_downsample.len() > MAX_RESOLUTIONS {
        return refuse(format!(
            "{} resolutions; at most {MAX_RESOLUTIONS} are accepted",
            widths.len()
        ));
    }
    if base_dim == 0 || widths.is_empty() || widths.iter().any(|width| width % base_dim != 0) {
        return refuse(format!(
            "encoder widths {widths:?} are not multiples of the first, {base_dim}"
        ));
    }
    let dim_mult: Vec<usize> = widths.iter().map(|width| width / base_dim).collect();
    if dim_mult[0] == 0 || decoder_width % dim_mult[0] != 0 {
        return refuse(format!(
            "decoder width {decoder_width} does not go with the multipliers {dim_mult:?}"
        ));
    }
    let decoder_base_dim = decoder_width / dim_mult[0];
    let Some(patch) = (1..=16).find(|patch| 3 * patch * patch == in_channels) else {
        return refuse(format!(
            "{in_channels} input channels are not 3 colours in square patches"
        ));
    };
    let Some((mean, std)) = latent_statistics(z_dim) else {
        return refuse(format!(
            "the official layout does not store the latents' mean and deviation; they are known for 16 \
             and 48 channels, not for {z_dim}: use the diffusers layout of this checkpoint"
        ));
    };
    Ok(VaeConfig {
        base_dim,
        decoder_base_dim: (decoder_base_dim != base_dim).then_some(decoder_base_dim),
        z_dim,
        num_res_blocks,
        attn_scales: Vec::new(),
        latents_mean: mean.to_vec(),
        latents_std: std.to_vec(),
        is_residual,
        in_channels,
        out_channels,
        patch_size: (patch > 1).then_some(patch),
        scale_factor_temporal: 1 << temperal_downsample.iter().filter(|&&halves| halves).count(),
        scale_factor_spatial: patch << (dim_mult.len() - 1),
        dim_mult,
        temperal_downsample,
    })
}

const MEAN_21: [f64; 16] = [
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517,
    -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
];
const STD_21: [f64; 16] = [
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579,
    1.6382, 1.1253, 2.8251, 1.9160,
];
const MEAN_22: [f64; 48] = [
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813,
    0.0891, 0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108,
    -0.2158, 0.2502, -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313,
    -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944,
    0.3573, -0.0548, -0.1681, -0.0667,
];
const STD_22: [f64; 48] = [
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
];
