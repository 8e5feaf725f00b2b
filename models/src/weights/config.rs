//! Configuration files: what is known, what is in range, what is not supported.

use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::text::Umt5Config;
use crate::wan::{TransformerConfig, VaeConfig};

/// Largest width or count in a configuration; the released models stay below 260 000.
const MAX_SIZE: usize = 1 << 20;
/// Most layers.
const MAX_LAYERS: usize = 1000;

/// The checkpoint's `scheduler_config.json`, as far as samplers look at it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchedulerConfig {
    /// diffusers class, e.g. `UniPCMultistepScheduler`.
    #[serde(rename = "_class_name", default)]
    pub class_name: Option<String>,
    /// Shift of the sigmas (UniPC, DPM++).
    #[serde(default)]
    pub flow_shift: Option<f64>,
    /// Shift of the sigmas (flow-match Euler).
    #[serde(default)]
    pub shift: Option<f64>,
    /// Timesteps of the training schedule.
    #[serde(default = "num_train_timesteps")]
    pub num_train_timesteps: usize,
    /// What the model predicts; `flow_prediction` for Wan.
    #[serde(default)]
    pub prediction_type: Option<String>,
    /// Whether sigmas are those of flow matching.
    #[serde(default)]
    pub use_flow_sigmas: Option<bool>,
    /// Order of the solver.
    #[serde(default)]
    pub solver_order: Option<usize>,
    /// Variant of the solver (`bh2`, `midpoint`).
    #[serde(default)]
    pub solver_type: Option<String>,
    /// Whether the last steps use a lower order.
    #[serde(default)]
    pub lower_order_final: Option<bool>,
    /// `zero` for Wan.
    #[serde(default)]
    pub final_sigmas_type: Option<String>,
}

fn num_train_timesteps() -> usize {
    1000
}

impl SchedulerConfig {
    /// The shift, under whichever name the scheduler class keeps it.
    pub fn shift(&self) -> Option<f64> {
        self.flow_shift.or(self.shift)
    }
}

/// Keys that are read or known to have no effect on inference.
const TRANSFORMER_KEYS: &[&str] = &[
    "patch_size",
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "out_channels",
    "text_dim",
    "freq_dim",
    "ffn_dim",
    "num_layers",
    "cross_attn_norm",
    "qk_norm",
    "eps",
    "image_dim",
    "added_kv_proj_dim",
    "rope_max_seq_len",
    "pos_embed_seq_len",
];
const OFFICIAL_KEYS: &[&str] = &[
    "model_type",
    "dim",
    "ffn_dim",
    "freq_dim",
    "in_dim",
    "out_dim",
    "num_heads",
    "num_layers",
    "text_len",
    "eps",
    "patch_size",
    "text_dim",
    "window_size",
    "qk_norm",
    "cross_attn_norm",
];
const VAE_KEYS: &[&str] = &[
    "base_dim",
    "decoder_base_dim",
    "z_dim",
    "dim_mult",
    "num_res_blocks",
    "attn_scales",
    "temperal_downsample",
    "latents_mean",
    "latents_std",
    "is_residual",
    "in_channels",
    "out_channels",
    "patch_size",
    "scale_factor_temporal",
    "scale_factor_spatial",
    "dropout",
    "clip_output",
];
const TEXT_KEYS: &[&str] = &[
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_heads",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "layer_norm_epsilon",
    "architectures",
    "classifier_dropout",
    "decoder_start_token_id",
    "dense_act_fn",
    "dropout_rate",
    "dtype",
    "torch_dtype",
    "eos_token_id",
    "feed_forward_proj",
    "initializer_factor",
    "is_decoder",
    "is_encoder_decoder",
    "is_gated_act",
    "model_type",
    "num_decoder_layers",
    "output_past",
    "pad_token_id",
    "scalable_attention",
    "tie_word_embeddings",
    "tokenizer_class",
    "transformers_version",
    "use_cache",
];

type Object = Map<String, Value>;

fn parse<T: DeserializeOwned>(path: &Path, object: &Object) -> Result<T> {
    serde_json::from_value(Value::Object(object.clone()))
        .map_err(|error| Error::artifact(path, format!("bad configuration: {error}")))
}

fn unknown(path: &Path, object: &Object, known: &[&str], warnings: &mut Vec<String>) {
    for key in object.keys() {
        if !key.starts_with('_') && !known.contains(&key.as_str()) {
            warnings.push(format!(
                "{}: unknown key {key:?} is ignored",
                path.display()
            ));
        }
    }
}

fn in_range(path: &Path, key: &str, value: usize, limit: usize) -> Result<()> {
    if (1..=limit).contains(&value) {
        return Ok(());
    }
    Err(Error::artifact(
        path,
        format!("`{key}` is {value}; 1 to {limit} is accepted"),
    ))
}

fn epsilon(path: &Path, key: &str, value: f64) -> Result<()> {
    if value > 0.0 && value < 0.1 {
        return Ok(());
    }
    Err(Error::artifact(
        path,
        format!("`{key}` is {value}; a small positive number is expected"),
    ))
}

fn class(path: &Path, object: &Object, expected: &str) -> Result<()> {
    match object.get("_class_name").and_then(Value::as_str) {
        Some(found) if found != expected => Err(Error::artifact(
            path,
            format!(
                "describes a {found}; {expected} is expected here, other variants are not supported"
            ),
        )),
        _ => Ok(()),
    }
}

/// `transformer/config.json` of diffusers.
pub(super) fn transformer(
    path: &Path,
    object: &Object,
    warnings: &mut Vec<String>,
) -> Result<TransformerConfig> {
    class(path, object, "WanTransformer3DModel")?;
    unknown(path, object, TRANSFORMER_KEYS, warnings);
    let cfg: TransformerConfig = parse(path, object)?;
    check_transformer(path, &cfg)?;
    Ok(cfg)
}

/// `config.json` of the official release. What it leaves out is read off tensor shapes: `patch_size` and
/// `text_dim`.
pub(super) fn official_transformer(
    path: &Path,
    object: &Object,
    patch_size: [usize; 3],
    text_dim: usize,
    warnings: &mut Vec<String>,
) -> Result<TransformerConfig> {
    #[derive(Deserialize)]
    struct Official {
        dim: usize,
        ffn_dim: usize,
        #[serde(default = "freq_dim")]
        freq_dim: usize,
        in_dim: usize,
        out_dim: usize,
        num_heads: usize,
        num_layers: usize,
        #[serde(default = "eps")]
        eps: f64,
    }
    fn freq_dim() -> usize {
        256
    }
    fn eps() -> f64 {
        1e-6
    }
    class(path, object, "WanModel")?;
    if let Some(variant) = object.get("model_type").and_then(Value::as_str)
        && !["t2v", "i2v", "ti2v"].contains(&variant)
    {
        return Err(Error::artifact(
            path,
            format!("model_type {variant:?} is not supported; t2v, i2v and ti2v are"),
        ));
    }
    unknown(path, object, OFFICIAL_KEYS, warnings);
    let official: Official = parse(path, object)?;
    in_range(path, "num_heads", official.num_heads, MAX_SIZE)?;
    if !official.dim.is_multiple_of(official.num_heads) {
        return Err(Error::artifact(
            path,
            format!(
                "`dim` {} is not a multiple of `num_heads` {}",
                official.dim, official.num_heads
            ),
        ));
    }
    let cfg = TransformerConfig {
        patch_size,
        num_attention_heads: official.num_heads,
        attention_head_dim: official.dim / official.num_heads,
        in_channels: official.in_dim,
        out_channels: official.out_dim,
        text_dim,
        freq_dim: official.freq_dim,
        ffn_dim: official.ffn_dim,
        num_layers: official.num_layers,
        cross_attn_norm: true,
        qk_norm: Some("rms_norm_across_heads".into()),
        eps: official.eps,
        image_dim: None,
        added_kv_proj_dim: None,
        rope_max_seq_len: 1024,
    };
    check_transformer(path, &cfg)?;
    Ok(cfg)
}

fn check_transformer(path: &Path, cfg: &TransformerConfig) -> Result<()> {
    if cfg.image_dim.is_some() || cfg.added_kv_proj_dim.is_some() {
        return Err(Error::artifact(
            path,
            "the model has a CLIP image branch (Wan 2.1 image-to-video), which is not supported; use a \
             Wan 2.2 I2V-A14B or TI2V-5B checkpoint",
        ));
    }
    for (key, value, limit) in [
        ("num_attention_heads", cfg.num_attention_heads, 1024),
        ("attention_head_dim", cfg.attention_head_dim, 1024),
        ("in_channels", cfg.in_channels, 4096),
        ("out_channels", cfg.out_channels, 4096),
        ("text_dim", cfg.text_dim, MAX_SIZE),
        ("freq_dim", cfg.freq_dim, MAX_SIZE),
        ("ffn_dim", cfg.ffn_dim, MAX_SIZE),
        ("num_layers", cfg.num_layers, MAX_LAYERS),
        ("rope_max_seq_len", cfg.rope_max_seq_len, 1 << 16),
        ("patch_size[0]", cfg.patch_size[0], 16),
        ("patch_size[1]", cfg.patch_size[1], 16),
        ("patch_size[2]", cfg.patch_size[2], 16),
    ] {
        in_range(path, key, value, limit)?;
    }
    epsilon(path, "eps", cfg.eps)?;
    if !cfg.attention_head_dim.is_multiple_of(2) || cfg.attention_head_dim < 6 {
        return Err(Error::artifact(
            path,
            format!(
                "`attention_head_dim` is {}; the three rotary axes need an even number of at least 6",
                cfg.attention_head_dim
            ),
        ));
    }
    if !cfg.freq_dim.is_multiple_of(2) {
        return Err(Error::artifact(
            path,
            format!("`freq_dim` is {}; it must be even", cfg.freq_dim),
        ));
    }
    if let Some(norm) = cfg.qk_norm.as_deref()
        && norm != "rms_norm_across_heads"
    {
        return Err(Error::artifact(
            path,
            format!("`qk_norm` {norm:?} is not supported; rms_norm_across_heads is"),
        ));
    }
    Ok(())
}

/// `vae/config.json`.
pub(super) fn vae(path: &Path, object: &Object, warnings: &mut Vec<String>) -> Result<VaeConfig> {
    class(path, object, "AutoencoderKLWan")?;
    unknown(path, object, VAE_KEYS, warnings);
    let mut object = object.clone();
    // diffusers' defaults, which older files rely on.
    for (key, value) in [("base_dim", 96), ("z_dim", 16)] {
        object.entry(key).or_insert_with(|| value.into());
    }
    let z = object.get("z_dim").and_then(Value::as_u64).unwrap_or(0) as usize;
    if z == 16
        && let Some((mean, std)) = super::infer::latent_statistics(16)
    {
        object
            .entry("latents_mean")
            .or_insert_with(|| mean.to_vec().into());
        object
            .entry("latents_std")
            .or_insert_with(|| std.to_vec().into());
    }
    let cfg: VaeConfig = parse(path, &object)?;
    check_vae(path, &cfg)?;
    Ok(cfg)
}

pub(super) fn check_vae(path: &Path, cfg: &VaeConfig) -> Result<()> {
    for (key, value, limit) in [
        ("base_dim", cfg.base_dim, 4096),
        (
            "decoder_base_dim",
            cfg.decoder_base_dim.unwrap_or(cfg.base_dim),
            4096,
        ),
        ("z_dim", cfg.z_dim, 1024),
        ("dim_mult", cfg.dim_mult.len(), 8),
        ("num_res_blocks", cfg.num_res_blocks, 16),
        ("in_channels", cfg.in_channels, 4096),
        ("out_channels", cfg.out_channels, 4096),
        ("patch_size", cfg.patch_size.unwrap_or(1), 16),
        ("scale_factor_temporal", cfg.scale_factor_temporal, 64),
        ("scale_factor_spatial", cfg.scale_factor_spatial, 256),
    ] {
        in_range(path, key, value, limit)?;
    }
    for &multiple in &cfg.dim_mult {
        in_range(path, "dim_mult", multiple, 64)?;
    }
    let refuse = |message: String| Err(Error::artifact(path, message));
    if cfg.temperal_downsample.len() + 1 != cfg.dim_mult.len() {
        return refuse(format!(
            "`temperal_downsample` has {} entries and `dim_mult` {}; one less is expected",
            cfg.temperal_downsample.len(),
            cfg.dim_mult.len()
        ));
    }
    for (key, values) in [
        ("latents_mean", &cfg.latents_mean),
        ("latents_std", &cfg.latents_std),
    ] {
        if values.len() != cfg.z_dim {
            return refuse(format!(
                "`{key}` has {} values, `z_dim` is {}",
                values.len(),
                cfg.z_dim
            ));
        }
        if values.iter().any(|value| !value.is_finite()) {
            return refuse(format!("`{key}` holds a value that is not finite"));
        }
    }
    if cfg.latents_std.iter().any(|&std| std <= 0.0) {
        return refuse("`latents_std` holds a value that is not positive".into());
    }
    if !cfg.attn_scales.is_empty() {
        return refuse(
            "`attn_scales` is not empty; attention outside the middle block is not supported"
                .into(),
        );
    }
    let patch = cfg.patch_size.unwrap_or(1);
    for (key, channels) in [
        ("in_channels", cfg.in_channels),
        ("out_channels", cfg.out_channels),
    ] {
        if channels != 3 * patch * patch {
            return refuse(format!(
                "`{key}` is {channels}; 3 colours in patches of {patch} make {}",
                3 * patch * patch
            ));
        }
    }
    let spatial = patch << (cfg.dim_mult.len() - 1);
    let temporal = 1
        << cfg
            .temperal_downsample
            .iter()
            .filter(|&&halves| halves)
            .count();
    // diffusers writes the class default (8) even where the pixel patch makes it 16.
    if ![spatial, spatial / patch].contains(&cfg.scale_factor_spatial)
        || cfg.scale_factor_temporal != temporal
    {
        return refuse(format!(
            "the scale factors are {} in time and {} in space; the layers make {temporal} and {spatial}",
            cfg.scale_factor_temporal, cfg.scale_factor_spatial
        ));
    }
    Ok(())
}

/// `text_encoder/config.json`.
pub(super) fn text(path: &Path, object: &Object, warnings: &mut Vec<String>) -> Result<Umt5Config> {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    if let Some(model) = text("model_type")
        && model != "umt5"
    {
        return Err(Error::artifact(
            path,
            format!("model_type is {model:?}; Wan's text encoder is umt5"),
        ));
    }
    if let Some(activation) = text("feed_forward_proj")
        && activation != "gated-gelu"
    {
        return Err(Error::artifact(
            path,
            format!("feed_forward_proj {activation:?} is not supported; gated-gelu is"),
        ));
    }
    unknown(path, object, TEXT_KEYS, warnings);
    let cfg: Umt5Config = parse(path, object)?;
    check_text(path, &cfg)?;
    Ok(cfg)
}

pub(super) fn check_text(path: &Path, cfg: &Umt5Config) -> Result<()> {
    for (key, value, limit) in [
        ("vocab_size", cfg.vocab_size, 1 << 22),
        ("d_model", cfg.d_model, MAX_SIZE),
        ("d_kv", cfg.d_kv, 4096),
        ("d_ff", cfg.d_ff, MAX_SIZE),
        ("num_layers", cfg.num_layers, MAX_LAYERS),
        ("num_heads", cfg.num_heads, 4096),
        (
            "relative_attention_num_buckets",
            cfg.relative_attention_num_buckets,
            4096,
        ),
        (
            "relative_attention_max_distance",
            cfg.relative_attention_max_distance,
            1 << 20,
        ),
    ] {
        in_range(path, key, value, limit)?;
    }
    epsilon(path, "layer_norm_epsilon", cfg.layer_norm_epsilon)?;
    // Half of the buckets per direction, half of those one position each.
    let exact = cfg.relative_attention_num_buckets / 4;
    if !cfg.relative_attention_num_buckets.is_multiple_of(4)
        || cfg.relative_attention_max_distance <= exact
    {
        return Err(Error::artifact(
            path,
            format!(
                "{} position buckets up to distance {} do not make a table",
                cfg.relative_attention_num_buckets, cfg.relative_attention_max_distance
            ),
        ));
    }
    Ok(())
}

/// `scheduler/scheduler_config.json`.
pub(super) fn scheduler(path: &Path, object: &Object) -> Result<SchedulerConfig> {
    let cfg: SchedulerConfig = parse(path, object)?;
    if let Some(shift) = cfg.shift()
        && !(shift.is_finite() && shift > 0.0 && shift <= 1000.0)
    {
        return Err(Error::artifact(
            path,
            format!("the flow shift is {shift}; a positive number is expected"),
        ));
    }
    if let Some(prediction) = cfg.prediction_type.as_deref()
        && prediction != "flow_prediction"
    {
        return Err(Error::artifact(
            path,
            format!(
                "prediction_type {prediction:?} is not supported; Wan models predict flow_prediction"
            ),
        ));
    }
    Ok(cfg)
}
