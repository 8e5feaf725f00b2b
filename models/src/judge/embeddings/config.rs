//! `config.json` of CLIP and of DINOv2. Defaults are those of the classes in transformers 5.14.1, which leaves such
//! fields out of the files it writes; sizes that decide about tensors are checked against those when they are read.

use std::path::Path;

use super::fields::{Fields, MAX_LAYERS, MAX_SIDE, MAX_SIZE, Object};
use super::layers::{Act, Encoder};
use crate::error::Result;

/// Sizes of a CLIP model.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    /// The tower that reads prompts.
    pub text: ClipTextConfig,
    /// The tower that sees pictures.
    pub vision: ClipVisionConfig,
    /// Width of the space that both end in.
    pub projection_dim: usize,
}

/// Sizes of the text tower.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipTextConfig {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Most tokens with the two marks; 77 in the published models.
    pub max_position_embeddings: usize,
    /// The id that ends a text, by the file. 2 in the oldest files, where it is wrong and the largest id is meant.
    pub eos_token_id: usize,
    pub(super) encoder: Encoder,
}

/// Sizes of the vision tower.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipVisionConfig {
    /// Side of a picture, pixels. It cannot be another: the position table is not interpolated.
    pub image_size: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    pub(super) encoder: Encoder,
}

/// Sizes of a DINOv2 model.
#[derive(Debug, Clone, PartialEq)]
pub struct Dinov2Config {
    /// Side of the pictures that the position table is for, pixels; others interpolate it.
    pub image_size: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    pub(super) encoder: Encoder,
}

/// Sizes and activation of a tower; `ratio` is DINOv2's way to say the width between the layers of a block.
fn encoder<'a>(
    fields: Fields<'a>,
    act: &'a str,
    eps: f64,
    ratio: Option<usize>,
) -> Result<Encoder> {
    let width = fields.size("hidden_size", MAX_SIZE, None)?;
    let heads = fields.size("num_attention_heads", 1024, None)?;
    if !width.is_multiple_of(heads) {
        return Err(fields.wrong("num_attention_heads", format!("does not divide {width}")));
    }
    let act = match fields.text("hidden_act", act)? {
        "quick_gelu" => Act::QuickGelu,
        "gelu" => Act::Gelu,
        other => {
            let message = format!("is {other:?}; quick_gelu and gelu are supported");
            return Err(fields.wrong("hidden_act", message));
        }
    };
    Ok(Encoder {
        width,
        heads,
        wide: match ratio {
            Some(ratio) => ratio * width,
            None => fields.size("intermediate_size", MAX_SIZE, None)?,
        },
        layers: fields.size("num_hidden_layers", MAX_LAYERS, None)?,
        eps: fields.positive("layer_norm_eps", eps)?,
        act,
    })
}

/// Sides of pictures and patches; whole patches must fill a picture.
fn sides(fields: Fields<'_>) -> Result<(usize, usize)> {
    let image = fields.size("image_size", MAX_SIDE, None)?;
    let patch = fields.size("patch_size", MAX_SIDE, None)?;
    if fields.size("num_channels", 4, Some(3))? != 3 {
        return Err(fields.wrong("num_channels", "must be 3: pictures are red, green, blue"));
    }
    if !image.is_multiple_of(patch) {
        return Err(fields.wrong(
            "patch_size",
            format!("does not divide a picture of {image}"),
        ));
    }
    Ok((image, patch))
}

impl ClipConfig {
    /// From the object of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Artifact`](crate::Error::Artifact) naming the field that is missing, out of range or not supported.
    pub fn read(path: &Path, object: &Object) -> Result<Self> {
        let root = Fields::new(path, object);
        root.must_be("model_type", "clip")?;
        let text = root.inner("text_config", "text_config.")?;
        let vision = root.inner("vision_config", "vision_config.")?;
        let (image_size, patch_size) = sides(vision)?;
        Ok(Self {
            text: ClipTextConfig {
                vocab_size: text.size("vocab_size", MAX_SIZE, Some(49_408))?,
                max_position_embeddings: text.size("max_position_embeddings", 4096, Some(77))?,
                eos_token_id: text.size("eos_token_id", MAX_SIZE, Some(49_407))?,
                encoder: encoder(text, "quick_gelu", 1e-5, None)?,
            },
            vision: ClipVisionConfig {
                image_size,
                patch_size,
                encoder: encoder(vision, "quick_gelu", 1e-5, None)?,
            },
            projection_dim: root.size("projection_dim", MAX_SIZE, Some(512))?,
        })
    }
}

impl Dinov2Config {
    /// From the object of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Artifact`](crate::Error::Artifact) naming the field that is missing, out of range or not supported.
    pub fn read(path: &Path, object: &Object) -> Result<Self> {
        let root = Fields::new(path, object);
        root.must_be("model_type", "dinov2")?;
        if root.flag("use_swiglu_ffn", false)? {
            let message =
                "is true (dinov2-giant), which is not supported; take small, base or large";
            return Err(root.wrong("use_swiglu_ffn", message));
        }
        let (image_size, patch_size) = sides(root)?;
        let ratio = root.size("mlp_ratio", 64, Some(4))?;
        Ok(Self {
            image_size,
            patch_size,
            qkv_bias: root.flag("qkv_bias", true)?,
            encoder: encoder(root, "gelu", 1e-6, Some(ratio))?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn object(value: serde_json::Value) -> Object {
        value.as_object().cloned().unwrap()
    }

    /// The fields of facebook/dinov2-base that are read.
    fn base() -> Object {
        object(json!({
            "hidden_act": "gelu", "hidden_size": 768, "image_size": 518, "layer_norm_eps": 1e-6,
            "mlp_ratio": 4, "model_type": "dinov2", "num_attention_heads": 12, "num_channels": 3,
            "num_hidden_layers": 12, "patch_size": 14, "qkv_bias": true, "use_swiglu_ffn": false
        }))
    }

    /// The same of openai/clip-vit-large-patch14.
    fn large() -> Object {
        object(json!({
            "model_type": "clip", "projection_dim": 768,
            "text_config": {
                "eos_token_id": 2, "hidden_act": "quick_gelu", "hidden_size": 768,
                "intermediate_size": 3072, "layer_norm_eps": 1e-5, "max_position_embeddings": 77,
                "num_attention_heads": 12, "num_hidden_layers": 12, "vocab_size": 49408
            },
            "vision_config": {
                "hidden_act": "quick_gelu", "hidden_size": 1024, "image_size": 224,
                "intermediate_size": 4096, "layer_norm_eps": 1e-5, "num_attention_heads": 16,
                "num_hidden_layers": 24, "patch_size": 14
            }
        }))
    }

    #[test]
    fn published_sizes_are_read() {
        let path = Path::new("config.json");
        let base = Dinov2Config::read(path, &base()).unwrap();
        assert_eq!((base.encoder.wide, base.encoder.heads), (3072, 12));
        assert_eq!(base.encoder.act, Act::Gelu);
        let large = ClipConfig::read(path, &large()).unwrap();
        assert_eq!(
            (large.text.encoder.width, large.vision.encoder.layers),
            (768, 24)
        );
        assert_eq!(
            (large.text.max_position_embeddings, large.projection_dim),
            (77, 768)
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let path = Path::new("config.json");
        for (name, value) in [
            ("model_type", json!("dinov2_with_registers")),
            ("use_swiglu_ffn", json!(true)),
            ("hidden_size", json!(0)),
            ("hidden_size", json!("wide")),
            ("num_attention_heads", json!(7)),
            ("hidden_act", json!("relu")),
            ("image_size", json!([518, 518])),
            ("patch_size", json!(15)),
            ("num_channels", json!(4)),
            ("layer_norm_eps", json!(-1.0)),
            ("num_hidden_layers", json!(null)),
        ] {
            let mut wrong = base();
            wrong.insert(name.into(), value.clone());
            let message = Dinov2Config::read(path, &wrong).unwrap_err().to_string();
            assert!(
                message.contains(name) && message.contains("config.json"),
                "{value}: {message}"
            );
        }
        let mut wrong = large();
        wrong.remove("vision_config");
        let message = ClipConfig::read(path, &wrong).unwrap_err().to_string();
        assert!(message.contains("vision_config"), "{message}");
        let mut wrong = large();
        wrong["text_config"]["vocab_size"] = json!(-3);
        let message = ClipConfig::read(path, &wrong).unwrap_err().to_string();
        assert!(message.contains("text_config.vocab_size"), "{message}");
    }
}
