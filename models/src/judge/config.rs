//! `config.json` of a dense Qwen3-VL model, read by name: nothing is assumed that the file does not say.
//!
//! Both spellings of the rotary settings are read: `text_config.rope_theta` with
//! `text_config.rope_scaling` (transformers 4.57, the published files) and `text_config.rope_parameters`
//! (transformers 5).

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

type Object = Map<String, Value>;

/// Largest width or count; the released models stay below 300 000.
const MAX_SIZE: usize = 1 << 20;
/// Most layers.
const MAX_LAYERS: usize = 1000;

/// Sizes of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Qwen3VlConfig {
    /// The language model.
    pub text: TextConfig,
    /// The vision tower.
    pub vision: VisionConfig,
    /// Stands in the token list once per merged patch of an image.
    pub image_token_id: u32,
    /// Stands in the token list once per merged patch of a video.
    pub video_token_id: u32,
    /// Before the patches of an image or of one temporal patch of a video.
    pub vision_start_token_id: u32,
    /// After them.
    pub vision_end_token_id: u32,
    /// Whether the embedding table is the output layer too; otherwise `lm_head.weight` is.
    pub tie_word_embeddings: bool,
}

/// Sizes of the language model, names as in `text_config`.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of q.
    pub num_attention_heads: usize,
    /// Heads of k and v, each shared by several heads of q.
    pub num_key_value_heads: usize,
    /// Width of a head; heads times width need not be `hidden_size`.
    pub head_dim: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Rotary frequencies for time, height and width; together half a head.
    pub mrope_section: [usize; 3],
    /// Longest sequence.
    pub max_position_embeddings: usize,
}

/// Sizes of the vision tower, names as in `vision_config`.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Blocks.
    pub depth: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Heads.
    pub num_heads: usize,
    /// Colours.
    pub in_channels: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Frames of a patch.
    pub temporal_patch_size: usize,
    /// Side of a group of patches that becomes one token.
    pub spatial_merge_size: usize,
    /// Width of the tokens: that of the language model.
    pub out_hidden_size: usize,
    /// Rows of the position table, the square of its side.
    pub num_position_embeddings: usize,
    /// Blocks after which features are handed to the first layers of the language model.
    pub deepstack_visual_indexes: Vec<usize>,
}

impl VisionConfig {
    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Side of the position table.
    pub fn position_side(&self) -> usize {
        self.num_position_embeddings.isqrt()
    }

    /// Values of one patch: colours, frames, rows, columns.
    pub fn patch_values(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Patches that become one token.
    pub fn merge_unit(&self) -> usize {
        self.spatial_merge_size * self.spatial_merge_size
    }

    /// Pixels that both sides of a picture are multiples of.
    pub fn factor(&self) -> usize {
        self.patch_size * self.spatial_merge_size
    }
}

impl Qwen3VlConfig {
    /// Reads the text of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Artifact`] naming the field that is missing, of another type, out of range or not supported.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let object: Object = serde_json::from_str(text)
            .map_err(|error| Error::artifact(path, format!("bad JSON: {error}")))?;
        Self::from_object(path, &object)
    }

    pub(crate) fn from_object(path: &Path, object: &Object) -> Result<Self> {
        let root = Fields {
            path,
            prefix: "",
            object,
        };
        root.is("model_type", "qwen3_vl", "dense Qwen3-VL models are")?;
        let text = root.inner("text_config")?;
        let vision = root.inner("vision_config")?;
        // In either place; transformers leaves its default, false, out of what it saves.
        let tied = |fields: &Fields<'_>| fields.optional("tie_word_embeddings", Value::as_bool);
        let config = Self {
            text: TextConfig::read(&text)?,
            vision: VisionConfig::read(&vision)?,
            image_token_id: root.id("image_token_id")?,
            video_token_id: root.id("video_token_id")?,
            vision_start_token_id: root.id("vision_start_token_id")?,
            vision_end_token_id: root.id("vision_end_token_id")?,
            tie_word_embeddings: match tied(&root)? {
                Some(tied) => tied,
                None => tied(&text)?.unwrap_or(false),
            },
        };
        config.check(&root, &text, &vision)?;
        Ok(config)
    }

    /// Relations between the parts.
    fn check(&self, root: &Fields<'_>, text: &Fields<'_>, vision: &Fields<'_>) -> Result<()> {
        let (t, v) = (&self.text, &self.vision);
        if v.out_hidden_size != t.hidden_size {
            return Err(vision.wrong(
                "out_hidden_size",
                format!(
                    "is {}, the language model has the width {}",
                    v.out_hidden_size, t.hidden_size
                ),
            ));
        }
        if v.deepstack_visual_indexes.len() > t.num_hidden_layers {
            return Err(vision.wrong(
                "deepstack_visual_indexes",
                format!(
                    "names {} blocks for {} layers",
                    v.deepstack_visual_indexes.len(),
                    t.num_hidden_layers
                ),
            ));
        }
        for (name, id) in [
            ("image_token_id", self.image_token_id),
            ("video_token_id", self.video_token_id),
            ("vision_start_token_id", self.vision_start_token_id),
            ("vision_end_token_id", self.vision_end_token_id),
        ] {
            if id as usize >= t.vocab_size {
                let rows = t.vocab_size;
                let message = format!("is {id}, the embedding table has {rows} rows");
                return Err(root.wrong(name, message));
            }
        }
        if t.num_attention_heads % t.num_key_value_heads != 0 {
            return Err(text.wrong(
                "num_key_value_heads",
                format!("does not divide the {} heads", t.num_attention_heads),
            ));
        }
        Ok(())
    }
}

impl TextConfig {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        fields.is("hidden_act", "silu", "gated SiLU layers are")?;
        if fields.optional("attention_bias", Value::as_bool)? == Some(true) {
            return Err(fields.wrong(
                "attention_bias",
                "is true; no released model has these".into(),
            ));
        }
        let rope = fields
            .object
            .get("rope_parameters")
            .filter(|value| !value.is_null())
            .map_or("rope_scaling", |_| "rope_parameters");
        let scaling = fields.inner(rope)?;
        for name in ["rope_type", "type"] {
            if scaling.object.contains_key(name) {
                scaling.is(name, "default", "plain rotary frequencies are")?;
            }
        }
        if scaling.optional("mrope_interleaved", Value::as_bool)? == Some(false) {
            return Err(scaling.wrong(
                "mrope_interleaved",
                "is false; Qwen3-VL interleaves its axes".into(),
            ));
        }
        let theta = if scaling.object.contains_key("rope_theta") {
            scaling.number("rope_theta")?
        } else {
            fields.number("rope_theta")?
        };
        let section = scaling.list("mrope_section")?;
        let Ok(mrope_section) = <[usize; 3]>::try_from(section) else {
            return Err(scaling.wrong(
                "mrope_section",
                "needs three numbers: time, height, width".into(),
            ));
        };
        let config = Self {
            vocab_size: fields.size("vocab_size", MAX_SIZE)?,
            hidden_size: fields.size("hidden_size", MAX_SIZE)?,
            intermediate_size: fields.size("intermediate_size", MAX_SIZE)?,
            num_hidden_layers: fields.size("num_hidden_layers", MAX_LAYERS)?,
            num_attention_heads: fields.size("num_attention_heads", 1024)?,
            num_key_value_heads: fields.size("num_key_value_heads", 1024)?,
            head_dim: fields.size("head_dim", 1024)?,
            rms_norm_eps: fields.number("rms_norm_eps")?,
            rope_theta: theta,
            mrope_section,
            max_position_embeddings: fields.size("max_position_embeddings", 1 << 24)?,
        };
        if !config.head_dim.is_multiple_of(2) {
            return Err(fields.wrong("head_dim", "must be even".into()));
        }
        let sum: usize = mrope_section
            .iter()
            .fold(0_usize, |sum, &n| sum.saturating_add(n));
        if sum != config.head_dim / 2 {
            let half = config.head_dim / 2;
            let message = format!("adds up to {sum}, half a head has {half}");
            return Err(scaling.wrong("mrope_section", message));
        }
        if !(config.rope_theta > 1.0 && config.rope_theta.is_finite()) {
            return Err(fields.wrong("rope_theta", "must be a number above 1".into()));
        }
        if !(config.rms_norm_eps > 0.0 && config.rms_norm_eps < 0.1) {
            return Err(fields.wrong("rms_norm_eps", "must be a small positive number".into()));
        }
        Ok(config)
    }
}

impl VisionConfig {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        fields.is("hidden_act", "gelu_pytorch_tanh", "tanh GELU layers are")?;
        let config = Self {
            depth: fields.size("depth", MAX_LAYERS)?,
            hidden_size: fields.size("hidden_size", MAX_SIZE)?,
            intermediate_size: fields.size("intermediate_size", MAX_SIZE)?,
            num_heads: fields.size("num_heads", 1024)?,
            in_channels: fields.size("in_channels", 3)?,
            patch_size: fields.size("patch_size", 1024)?,
            temporal_patch_size: fields.size("temporal_patch_size", 16)?,
            spatial_merge_size: fields.size("spatial_merge_size", 16)?,
            out_hidden_size: fields.size("out_hidden_size", MAX_SIZE)?,
            num_position_embeddings: fields.size("num_position_embeddings", MAX_SIZE)?,
            deepstack_visual_indexes: fields.list("deepstack_visual_indexes")?,
        };
        let refuse = |name: &str, message: &str| Err(fields.wrong(name, message.into()));
        if config.in_channels != 3 {
            return refuse("in_channels", "must be 3: pictures are red, green, blue");
        }
        if !config.hidden_size.is_multiple_of(config.num_heads) {
            return refuse("num_heads", "does not divide hidden_size");
        }
        if !config.head_dim().is_multiple_of(4) {
            return refuse(
                "num_heads",
                "leaves heads whose width is no multiple of 4; rows and columns take half of each half",
            );
        }
        if config.position_side().pow(2) != config.num_position_embeddings {
            return refuse("num_position_embeddings", "is not a square");
        }
        let indexes = &config.deepstack_visual_indexes;
        if indexes.windows(2).any(|pair| pair[0] >= pair[1])
            || indexes.iter().any(|&index| index >= config.depth)
        {
            return refuse(
                "deepstack_visual_indexes",
                "must name blocks of the tower in increasing order",
            );
        }
        Ok(config)
    }
}

/// An object of the file with its place in it.
struct Fields<'a> {
    path: &'a Path,
    /// Empty, or ends in a dot.
    prefix: &'a str,
    object: &'a Object,
}

impl<'a> Fields<'a> {
    fn wrong(&self, name: &str, message: String) -> Error {
        Error::artifact(self.path, format!("`{}{name}` {message}", self.prefix))
    }

    fn get(&self, name: &str) -> Result<&'a Value> {
        self.object.get(name).ok_or_else(|| {
            self.wrong(
                name,
                "is missing; use the config.json that the model was published with".into(),
            )
        })
    }

    fn inner(&self, name: &str) -> Result<Fields<'a>> {
        let prefix = match name {
            "text_config" => "text_config.",
            "vision_config" => "vision_config.",
            "rope_parameters" => "text_config.rope_parameters.",
            _ => "text_config.rope_scaling.",
        };
        match self.get(name)? {
            Value::Object(object) => Ok(Fields {
                path: self.path,
                prefix,
                object,
            }),
            _ => Err(self.wrong(name, "must be an object".into())),
        }
    }

    /// The text `name` must be `expected`.
    fn is(&self, name: &str, expected: &str, supported: &str) -> Result<()> {
        let value = self.get(name)?;
        if value.as_str() == Some(expected) {
            return Ok(());
        }
        let message = format!("is {value}, expected {expected:?}: only {supported} supported");
        Err(self.wrong(name, message))
    }

    fn optional<T>(&self, name: &str, read: fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value)
                .map(Some)
                .ok_or_else(|| self.wrong(name, format!("cannot be {value}"))),
        }
    }

    /// A count from 1 to `limit`.
    fn size(&self, name: &str, limit: usize) -> Result<usize> {
        let value = self.get(name)?;
        value
            .as_u64()
            .and_then(|value| usize::try_from(value).ok())
            .filter(|value| (1..=limit).contains(value))
            .ok_or_else(|| self.wrong(name, format!("is {value}; 1 to {limit} is accepted")))
    }

    fn number(&self, name: &str) -> Result<f64> {
        let value = self.get(name)?;
        value
            .as_f64()
            .ok_or_else(|| self.wrong(name, format!("is {value}, expected a number")))
    }

    fn id(&self, name: &str) -> Result<u32> {
        let value = self.get(name)?;
        value
            .as_u64()
            .and_then(|value| u32::try_from(value).ok())
            .ok_or_else(|| self.wrong(name, format!("is {value}, expected the id of a token")))
    }

    fn list(&self, name: &str) -> Result<Vec<usize>> {
        let value = self.get(name)?;
        value
            .as_array()
            .and_then(|items| {
                items
                    .iter()
                    .map(|item| usize::try_from(item.as_u64()?).ok())
                    .collect()
            })
            .ok_or_else(|| self.wrong(name, format!("is {value}, expected a list of counts")))
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
