//! Names in LoRA files: which weight a tensor changes, and in which way.
//!
//! A name is `[prefix]layer<ending>`. Layers go by their diffusers or official name, with dots, or with
//! underscores throughout after `lora_unet_`.

use std::collections::BTreeMap;

use crate::weights::checkpoint::Component;
use crate::weights::names;

/// What a tensor of a LoRA file is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// `[r, in]`
    Down,
    /// `[out, r]`
    Up,
    /// `[out]`, scaled like the product and added to the bias.
    UpBias,
    /// Scalar.
    Alpha,
    /// Added to the weight.
    Diff,
    /// Added to the bias.
    DiffBias,
    /// Added to the modulation table.
    DiffModulation,
}

/// Endings; a longer one stands before those it ends with.
const ENDINGS: [(&str, Role); 24] = [
    (".lora_A.weight", Role::Down),
    (".lora_A.default.weight", Role::Down),
    (".lora_A", Role::Down),
    (".lora_down.weight", Role::Down),
    (".lora_down", Role::Down),
    ("_lora.down.weight", Role::Down),
    (".lora.down.weight", Role::Down),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_B.default.weight", Role::Up),
    (".lora_B", Role::Up),
    (".lora_up.weight", Role::Up),
    (".lora_up", Role::Up),
    ("_lora.up.weight", Role::Up),
    (".lora.up.weight", Role::Up),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora_B.bias", Role::UpBias),
    (".lora_B.default.bias", Role::UpBias),
    (".lora_up.bias", Role::UpBias),
    (".lora.up.bias", Role::UpBias),
    (".alpha", Role::Alpha),
    (".diff", Role::Diff),
    (".diff_b", Role::DiffBias),
    (".diff_m", Role::DiffModulation),
];

/// Parts of names of other adapter methods. Merged as a LoRA, or left out, they would give another model
/// than the file describes.
const OTHER_METHODS: [(&str, &str); 6] = [
    (".dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    (".lora_mid", "LoCon (Tucker)"),
    (".lokr_", "LoKr"),
    (".hada_", "LoHa"),
    (".oft_", "OFT"),
];

/// The method that a name belongs to, when it is not LoRA.
pub(super) fn other_method(name: &str) -> Option<&'static str> {
    OTHER_METHODS
        .iter()
        .find(|(part, _)| name.contains(part))
        .map(|(_, method)| *method)
}

/// A name taken apart.
#[derive(Debug, PartialEq)]
pub(super) struct Key<'a> {
    /// The expert that the prefix names.
    pub(super) expert: Option<Component>,
    /// Everything before the ending, prefix included.
    pub(super) module: &'a str,
    /// The layer as the file calls it.
    layer: &'a str,
    /// Dots of the layer are underscores.
    flat: bool,
    pub(super) role: Role,
}

/// Takes a name apart; `None` when it has no ending of a LoRA.
pub(super) fn parse(name: &str) -> Option<Key<'_>> {
    let (module, role) = ENDINGS
        .iter()
        .find_map(|(ending, role)| Some((name.strip_suffix(ending)?, *role)))?;
    let (mut expert, mut layer, mut flat) = (None, module, false);
    layer = layer.strip_prefix("base_model.model.").unwrap_or(layer);
    if let Some(rest) = layer.strip_prefix("lora_unet_") {
        (layer, flat) = (rest, true);
    } else if let Some(rest) = layer.strip_prefix("transformer_2.") {
        (layer, expert) = (rest, Some(Component::Transformer2));
    } else if let Some(rest) = layer.strip_prefix("transformer.") {
        (layer, expert) = (rest, Some(Component::Transformer));
    } else if let Some(rest) = names::PREFIXES
        .iter()
        .find_map(|prefix| layer.strip_prefix(prefix))
    {
        layer = rest;
    }
    Some(Key {
        expert,
        module,
        layer,
        flat,
        role,
    })
}

/// The tensors of a transformer under all names that LoRA files use.
#[derive(Debug)]
pub(super) struct Targets {
    /// Name of a layer, as a file may write it → diffusers name.
    dotted: BTreeMap<String, String>,
    flat: BTreeMap<String, String>,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Targets {
    /// From names (diffusers) and shapes of a transformer.
    pub(super) fn new<'a>(tensors: impl Iterator<Item = (&'a str, &'a [usize])>) -> Self {
        let mut targets = Self {
            dotted: BTreeMap::new(),
            flat: BTreeMap::new(),
            shapes: BTreeMap::new(),
        };
        for (name, shape) in tensors {
            targets.shapes.insert(name.to_owned(), shape.to_vec());
            let official = names::to_official(Component::Transformer, name);
            let layer = |name: &str| name.strip_suffix(".weight").map(str::to_owned);
            let Some(diffusers) = layer(name) else {
                continue;
            };
            let mut aliases = vec![diffusers.clone()];
            aliases.extend(layer(&official));
            // Attention processors of older diffusers leave the index of the list out.
            aliases.extend(
                diffusers
                    .strip_suffix(".to_out.0")
                    .map(|head| format!("{head}.to_out")),
            );
            for alias in aliases {
                targets
                    .flat
                    .insert(alias.replace('.', "_"), diffusers.clone());
                targets.dotted.insert(alias, diffusers.clone());
            }
        }
        targets
    }

    /// The tensor (diffusers name) that a key changes, when the model has it.
    pub(super) fn tensor(&self, key: &Key<'_>) -> Option<String> {
        let name = match key.role {
            Role::DiffModulation => {
                // `blocks.0.diff_m` or `blocks.0.modulation.diff_m`
                let layer = if key.flat {
                    return None;
                } else {
                    key.layer
                };
                let layer = layer.strip_suffix(".modulation").unwrap_or(layer);
                names::to_diffusers(Component::Transformer, &format!("{layer}.modulation"))
            }
            Role::Diff | Role::Down | Role::Up | Role::Alpha => {
                format!("{}.weight", self.layer(key)?)
            }
            Role::DiffBias | Role::UpBias => format!("{}.bias", self.layer(key)?),
        };
        self.shapes.contains_key(&name).then_some(name)
    }

    fn layer(&self, key: &Key<'_>) -> Option<&String> {
        if key.flat {
            return self.flat.get(key.layer);
        }
        self.dotted
            .get(key.layer)
            .or_else(|| self.dotted.get(&key.layer.replace(".processor.", ".")))
    }

    /// Shape of a tensor.
    pub(super) fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.shapes.get(tensor).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_spelling_finds_its_tensor() {
        let names = [
            "blocks.1.attn1.to_q.weight",
            "blocks.1.attn1.to_q.bias",
            "blocks.1.attn2.to_out.0.weight",
            "blocks.1.attn2.to_out.0.bias",
            "blocks.1.ffn.net.0.proj.weight",
            "blocks.1.ffn.net.0.proj.bias",
            "blocks.1.norm2.weight",
            "blocks.1.scale_shift_table",
            "scale_shift_table",
            "proj_out.weight",
            "patch_embedding.weight",
        ];
        let targets = Targets::new(names.iter().map(|name| (*name, [4, 4].as_slice())));
        let (first, second) = (Some(Component::Transformer), Some(Component::Transformer2));
        for (name, role, tensor, expert) in [
            (
                "transformer.blocks.1.attn1.to_q.lora_A.weight",
                Role::Down,
                names[0],
                first,
            ),
            (
                "transformer_2.blocks.1.attn1.to_q.lora_B.default.weight",
                Role::Up,
                names[0],
                second,
            ),
            (
                "transformer.blocks.1.attn1.to_q.lora_B.bias",
                Role::UpBias,
                names[1],
                first,
            ),
            (
                "base_model.model.blocks.1.attn1.to_q.lora_A.default.weight",
                Role::Down,
                names[0],
                None,
            ),
            (
                "diffusion_model.blocks.1.self_attn.q.lora_down.weight",
                Role::Down,
                names[0],
                None,
            ),
            (
                "model.diffusion_model.blocks.1.cross_attn.o.lora_up.weight",
                Role::Up,
                names[2],
                None,
            ),
            ("blocks.1.ffn.0.lora_up.weight", Role::Up, names[4], None),
            ("blocks.1.ffn.0.alpha", Role::Alpha, names[4], None),
            (
                "lora_unet_blocks_1_self_attn_q.lora_down.weight",
                Role::Down,
                names[0],
                None,
            ),
            (
                "lora_unet_blocks_1_ffn_0.alpha",
                Role::Alpha,
                names[4],
                None,
            ),
            (
                "lora_unet_blocks_1_attn2_to_out_0.lora_up.weight",
                Role::Up,
                names[2],
                None,
            ),
            (
                "blocks.1.attn1.processor.to_q_lora.down.weight",
                Role::Down,
                names[0],
                None,
            ),
            (
                "transformer.blocks.1.attn2.processor.to_out_lora.up.weight",
                Role::Up,
                names[2],
                first,
            ),
            (
                "blocks.1.self_attn.q.lora.up.weight",
                Role::Up,
                names[0],
                None,
            ),
            (
                "blocks.1.self_attn.q.lora_linear_layer.down.weight",
                Role::Down,
                names[0],
                None,
            ),
            ("blocks.1.self_attn.q.lora_A", Role::Down, names[0], None),
            (
                "diffusion_model.blocks.1.self_attn.q.diff",
                Role::Diff,
                names[0],
                None,
            ),
            (
                "diffusion_model.blocks.1.self_attn.q.diff_b",
                Role::DiffBias,
                names[1],
                None,
            ),
            (
                "diffusion_model.blocks.1.norm3.diff",
                Role::Diff,
                names[6],
                None,
            ),
            (
                "diffusion_model.blocks.1.diff_m",
                Role::DiffModulation,
                names[7],
                None,
            ),
            (
                "diffusion_model.blocks.1.modulation.diff_m",
                Role::DiffModulation,
                names[7],
                None,
            ),
            (
                "diffusion_model.head.diff_m",
                Role::DiffModulation,
                names[8],
                None,
            ),
            (
                "diffusion_model.head.head.lora_down.weight",
                Role::Down,
                names[9],
                None,
            ),
            (
                "diffusion_model.patch_embedding.diff",
                Role::Diff,
                names[10],
                None,
            ),
        ] {
            let key = parse(name).unwrap();
            assert_eq!((key.role, key.expert), (role, expert), "{name}");
            assert_eq!(targets.tensor(&key).as_deref(), Some(tensor), "{name}");
        }
        for unknown in [
            "blocks.9.attn1.to_q.lora_A.weight",
            "lora_te_text_1.lora_up.weight",
            "blocks.1.norm1.diff",
        ] {
            assert_eq!(targets.tensor(&parse(unknown).unwrap()), None, "{unknown}");
        }
        assert!(parse("blocks.1.attn1.to_q.weight").is_none());
        assert_eq!(other_method("blocks.0.ffn.0.dora_scale"), Some("DoRA"));
        assert_eq!(
            other_method("lora_unet_blocks_0_ffn_0.lokr_w1"),
            Some("LoKr")
        );
        assert_eq!(other_method("blocks.0.ffn.0.lora_up.weight"), None);
    }
}
