//! Tensor names: the official release's and diffusers'.
//!
//! Models ask for diffusers names. [`to_diffusers`] leaves diffusers names as they are, so that it can be
//! applied to any file; [`to_official`] is its inverse and serves tests and conversion.

use super::checkpoint::Component;

/// Prefixes that repackaged transformer files put before every name.
pub(super) const PREFIXES: [&str; 2] = ["model.diffusion_model.", "diffusion_model."];

/// Transformer, outside the blocks: (official, diffusers).
const TRANSFORMER: [(&str, &str); 7] = [
    (
        "text_embedding.0.",
        "condition_embedder.text_embedder.linear_1.",
    ),
    (
        "text_embedding.2.",
        "condition_embedder.text_embedder.linear_2.",
    ),
    (
        "time_embedding.0.",
        "condition_embedder.time_embedder.linear_1.",
    ),
    (
        "time_embedding.2.",
        "condition_embedder.time_embedder.linear_2.",
    ),
    ("time_projection.1.", "condition_embedder.time_proj."),
    ("head.head.", "proj_out."),
    ("head.modulation", "scale_shift_table"),
];

/// Transformer, after `blocks.N.`. The norms cross over: the affine norm before the cross attention is the
/// official norm3 and diffusers' norm2; the other two have no parameters.
const TRANSFORMER_BLOCK: [(&str, &str); 16] = [
    ("modulation", "scale_shift_table"),
    ("self_attn.q.", "attn1.to_q."),
    ("self_attn.k.", "attn1.to_k."),
    ("self_attn.v.", "attn1.to_v."),
    ("self_attn.o.", "attn1.to_out.0."),
    ("self_attn.norm_q.", "attn1.norm_q."),
    ("self_attn.norm_k.", "attn1.norm_k."),
    ("cross_attn.q.", "attn2.to_q."),
    ("cross_attn.k.", "attn2.to_k."),
    ("cross_attn.v.", "attn2.to_v."),
    ("cross_attn.o.", "attn2.to_out.0."),
    ("cross_attn.norm_q.", "attn2.norm_q."),
    ("cross_attn.norm_k.", "attn2.norm_k."),
    ("norm3.", "norm2."),
    ("ffn.0.", "ffn.net.0.proj."),
    ("ffn.2.", "ffn.net.2."),
];

/// Text encoder, after `blocks.N.` or `encoder.block.N.`.
const TEXT_BLOCK: [(&str, &str); 10] = [
    ("norm1.", "layer.0.layer_norm."),
    ("attn.q.", "layer.0.SelfAttention.q."),
    ("attn.k.", "layer.0.SelfAttention.k."),
    ("attn.v.", "layer.0.SelfAttention.v."),
    ("attn.o.", "layer.0.SelfAttention.o."),
    (
        "pos_embedding.embedding.",
        "layer.0.SelfAttention.relative_attention_bias.",
    ),
    ("norm2.", "layer.1.layer_norm."),
    ("ffn.gate.0.", "layer.1.DenseReluDense.wi_0."),
    ("ffn.fc1.", "layer.1.DenseReluDense.wi_1."),
    ("ffn.fc2.", "layer.1.DenseReluDense.wo."),
];

/// VAE, whole-model prefixes.
const VAE: [(&str, &str); 14] = [
    ("conv1.", "quant_conv."),
    ("conv2.", "post_quant_conv."),
    ("encoder.conv1.", "encoder.conv_in."),
    ("encoder.middle.0.", "encoder.mid_block.resnets.0."),
    ("encoder.middle.1.", "encoder.mid_block.attentions.0."),
    ("encoder.middle.2.", "encoder.mid_block.resnets.1."),
    ("encoder.head.0.", "encoder.norm_out."),
    ("encoder.head.2.", "encoder.conv_out."),
    ("decoder.conv1.", "decoder.conv_in."),
    ("decoder.middle.0.", "decoder.mid_block.resnets.0."),
    ("decoder.middle.1.", "decoder.mid_block.attentions.0."),
    ("decoder.middle.2.", "decoder.mid_block.resnets.1."),
    ("decoder.head.0.", "decoder.norm_out."),
    ("decoder.head.2.", "decoder.conv_out."),
];

/// VAE, inside a residual block.
const VAE_RESNET: [(&str, &str); 5] = [
    ("residual.0.", "norm1."),
    ("residual.2.", "conv1."),
    ("residual.3.", "norm2."),
    ("residual.6.", "conv2."),
    ("shortcut.", "conv_shortcut."),
];

/// Residual blocks per resolution in the encoder of every released VAE; the decoder has one more. Official
/// names count the resampling layer after them.
const RESNETS: usize = 2;

/// The diffusers name of a tensor of either naming.
pub fn to_diffusers(component: Component, name: &str) -> String {
    match component {
        Component::Transformer | Component::Transformer2 => {
            let name = PREFIXES
                .iter()
                .find_map(|p| name.strip_prefix(p))
                .unwrap_or(name);
            if let Some((block, rest)) = numbered(name, "blocks.") {
                return format!("blocks.{block}.{}", forward(&TRANSFORMER_BLOCK, rest));
            }
            forward(&TRANSFORMER, name)
        }
        Component::TextEncoder => {
            if let Some((block, rest)) = numbered(name, "blocks.") {
                return format!("encoder.block.{block}.{}", forward(&TEXT_BLOCK, rest));
            }
            match name {
                "token_embedding.weight" => "shared.weight".into(),
                "norm.weight" => "encoder.final_layer_norm.weight".into(),
                _ => name.into(),
            }
        }
        Component::Vae => {
            if let Some((block, rest)) = numbered(name, "encoder.downsamples.") {
                return match numbered(rest, "downsamples.") {
                    None => format!("encoder.down_blocks.{block}.{}", forward(&VAE_RESNET, rest)),
                    Some((_, rest)) if is_resample(rest) => {
                        format!("encoder.down_blocks.{block}.downsampler.{rest}")
                    }
                    Some((j, rest)) => {
                        format!(
                            "encoder.down_blocks.{block}.resnets.{j}.{}",
                            forward(&VAE_RESNET, rest)
                        )
                    }
                };
            }
            if let Some((k, rest)) = numbered(name, "decoder.upsamples.") {
                let (block, resnet, rest, sampler) = match numbered(rest, "upsamples.") {
                    // VAE 2.1 counts flatly: four layers per resolution.
                    None => (k / (RESNETS + 2), k % (RESNETS + 2), rest, "upsamplers.0"),
                    Some((j, rest)) => (k, j, rest, "upsampler"),
                };
                return if is_resample(rest) {
                    format!("decoder.up_blocks.{block}.{sampler}.{rest}")
                } else {
                    format!(
                        "decoder.up_blocks.{block}.resnets.{resnet}.{}",
                        forward(&VAE_RESNET, rest)
                    )
                };
            }
            let name = forward(&VAE, name);
            match split_mid(&name) {
                Some((head, rest)) => format!("{head}{}", forward(&VAE_RESNET, rest)),
                None => name,
            }
        }
    }
}

/// The official name of a tensor that has a diffusers name.
pub fn to_official(component: Component, name: &str) -> String {
    match component {
        Component::Transformer | Component::Transformer2 => match numbered(name, "blocks.") {
            Some((block, rest)) => format!("blocks.{block}.{}", backward(&TRANSFORMER_BLOCK, rest)),
            None => backward(&TRANSFORMER, name),
        },
        Component::TextEncoder => match (numbered(name, "encoder.block."), name) {
            (Some((block, rest)), _) => format!("blocks.{block}.{}", backward(&TEXT_BLOCK, rest)),
            (None, "shared.weight" | "encoder.embed_tokens.weight") => {
                "token_embedding.weight".into()
            }
            (None, "encoder.final_layer_norm.weight") => "norm.weight".into(),
            (None, _) => name.into(),
        },
        Component::Vae => {
            if let Some((block, rest)) = numbered(name, "encoder.down_blocks.") {
                let head = format!("encoder.downsamples.{block}");
                if let Some(rest) = rest.strip_prefix("downsampler.") {
                    return format!("{head}.downsamples.{RESNETS}.{rest}");
                }
                return match numbered(rest, "resnets.") {
                    Some((j, rest)) => {
                        format!("{head}.downsamples.{j}.{}", backward(&VAE_RESNET, rest))
                    }
                    None => format!("{head}.{}", backward(&VAE_RESNET, rest)),
                };
            }
            if let Some((block, rest)) = numbered(name, "decoder.up_blocks.") {
                if let Some(rest) = rest.strip_prefix("upsampler.") {
                    return format!("decoder.upsamples.{block}.upsamples.{}.{rest}", RESNETS + 1);
                }
                if let Some(rest) = rest.strip_prefix("upsamplers.0.") {
                    return format!(
                        "decoder.upsamples.{}.{rest}",
                        (RESNETS + 2) * block + RESNETS + 1
                    );
                }
            }
            match split_mid(name) {
                Some((head, rest)) => {
                    backward(&VAE, &format!("{head}{}", backward(&VAE_RESNET, rest)))
                }
                None => backward(&VAE, name),
            }
        }
    }
}

/// The official name of a decoder residual block's tensor: VAE 2.1 counts flatly, VAE 2.2 by block, and
/// the diffusers name alone does not tell which.
pub fn to_official_vae(residual: bool, name: &str) -> String {
    if let Some((block, rest)) = numbered(name, "decoder.up_blocks.")
        && let Some((j, rest)) = numbered(rest, "resnets.")
    {
        let rest = backward(&VAE_RESNET, rest);
        return if residual {
            format!("decoder.upsamples.{block}.upsamples.{j}.{rest}")
        } else {
            format!("decoder.upsamples.{}.{rest}", (RESNETS + 2) * block + j)
        };
    }
    to_official(Component::Vae, name)
}

/// Splits `{prefix}{number}.{rest}`.
pub(super) fn numbered<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (number, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

fn is_resample(rest: &str) -> bool {
    rest.starts_with("resample.") || rest.starts_with("time_conv.")
}

/// Splits after `….mid_block.resnets.N.`.
fn split_mid(name: &str) -> Option<(&str, &str)> {
    let marker = ".mid_block.resnets.";
    let number = name.find(marker)? + marker.len();
    let rest = number + name[number..].find('.')? + 1;
    Some((&name[..rest], &name[rest..]))
}

fn forward(table: &[(&str, &str)], name: &str) -> String {
    replace(table.iter().copied(), name)
}

fn backward(table: &[(&str, &str)], name: &str) -> String {
    replace(
        table
            .iter()
            .map(|&(official, diffusers)| (diffusers, official)),
        name,
    )
}

/// Replaces the first prefix of the table that fits. An entry without a final dot is a whole name.
fn replace<'a>(table: impl Iterator<Item = (&'a str, &'a str)>, name: &str) -> String {
    for (from, to) in table {
        if let Some(rest) = name.strip_prefix(from)
            && (from.ends_with('.') || rest.is_empty())
        {
            return format!("{to}{rest}");
        }
    }
    name.to_owned()
}
