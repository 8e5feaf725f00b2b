//! Quantised layers in a file: which scales belong to which weight, and what the codes mean.
//!
//! Three conventions are told apart by what stands beside `<layer>.weight`:
//!
//! | convention | beside the weight | elsewhere |
//! |---|---|---|
//! | ComfyUI `fp8_scaled`, first form | `scale_weight` [1], `scale_input` [1] | tensor `scaled_fp8` |
//! | ComfyUI, second form | `weight_scale` [1] or [out], `input_scale`, `comfy_quant` (JSON in bytes) | or metadata `_quantization_metadata` |
//! | LightX2V | `weight_scale` [out, 1] | |
//!
//! fp8 tensors without a scale are plain casts: their scale is 1. Everything else that comes in 8-bit
//! types is refused, as a guess would load and give garbage.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::f16;
use leoma_kernels::e4m3;
use rayon::prelude::*;
use serde_json::Value;

use super::checkpoint::Component;
use super::folder::TensorFile;
use super::names::PREFIXES;
use super::stream::{self, Entry, StoredDType, Target};
use crate::error::{Error, Result};

/// Longest settings of a layer.
const MAX_SETTINGS: usize = 64 << 10;
/// Safetensors metadata with the settings of all layers.
const METADATA: &str = "_quantization_metadata";
/// Marks a file of the first form; its type names the fp8 type, two elements ask for products in full
/// precision.
const MARKER: &str = "scaled_fp8";
/// SentencePiece model that ComfyUI's text encoders carry along.
const SPIECE: &str = "spiece_model";

/// A tensor of a source: index of its file, name in it.
pub(super) type Place = (usize, String);

/// What belongs to a quantised weight.
#[derive(Debug, Clone, Default)]
pub(super) struct Scales {
    /// One value or one per row; absent: 1.
    pub(super) weight: Option<Place>,
    /// Fixed scale of the activations.
    pub(super) input: Option<Place>,
    /// The product is to be computed with the dequantised weight.
    pub(super) full_precision: bool,
    /// Codes as the settings name them.
    format: Option<StoredDType>,
}

/// The tensors of some files, sorted into weights and what describes them.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// Weights by place, in file order.
    pub(super) weights: Vec<Place>,
    /// Scales by the stored name of their weight.
    pub(super) scales: BTreeMap<String, Scales>,
    /// What was left aside, one sentence each.
    pub(super) warnings: Vec<String>,
}

/// What a name beside a weight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Scale,
    InputScale,
    Settings,
}

const BESIDE: [(&str, Beside); 5] = [
    (".scale_weight", Beside::Scale),
    (".weight_scale", Beside::Scale),
    (".scale_input", Beside::InputScale),
    (".input_scale", Beside::InputScale),
    (".comfy_quant", Beside::Settings),
];

/// Sorts the tensors of `files`.
///
/// # Errors
/// [`Error::Artifact`] naming file, tensor and what is not understood.
pub(super) fn sort(component: Component, files: &[TensorFile]) -> Result<Sorted> {
    let mut sorted = Sorted::default();
    let mut full_precision = false;
    for (number, file) in files.iter().enumerate() {
        let refuse = |message: String| Error::artifact(&file.path, message);
        for (stored, entry) in &file.entries {
            let place = (number, stored.clone());
            if without_prefix(stored) == MARKER {
                full_precision |= marker(file, stored, entry)?;
            } else if component == Component::TextEncoder && stored == SPIECE {
                sorted.warnings.push(format!(
                    "{}: the tokenizer in the file (`{SPIECE}`) is not used, the checkpoint's is",
                    file.path.display()
                ));
            } else if let Some(layer) = stored.strip_suffix(".weight_scale_2") {
                return Err(refuse(format!(
                    "layer `{layer}` has block scales (`{stored}`), which nvfp4 uses and this node does not \
                     know; use the fp8, bf16 or f16 file"
                )));
            } else if let Some((layer, beside)) = beside(stored) {
                let scales = sorted.scales.entry(format!("{layer}.weight")).or_default();
                let slot = match beside {
                    Beside::Scale => &mut scales.weight,
                    Beside::InputScale => &mut scales.input,
                    Beside::Settings => {
                        let bytes = settings_bytes(file, stored, entry)?;
                        scales.settle(&bytes).map_err(|what| {
                            refuse(format!("layer `{layer}`: `{stored}` {what}"))
                        })?;
                        continue;
                    }
                };
                if let Some((_, other)) = slot.replace(place) {
                    return Err(refuse(format!(
                        "`{stored}` and `{other}` are both the scale of layer `{layer}`"
                    )));
                }
            } else {
                sorted.weights.push(place);
            }
        }
        if let Some(text) = file.metadata.get(METADATA) {
            sorted
                .metadata(text, file)
                .map_err(|what| refuse(format!("metadata `{METADATA}` {what}")))?;
        }
    }
    if full_precision {
        for scales in sorted.scales.values_mut() {
            scales.full_precision = true;
        }
    }
    sorted.check(files)?;
    Ok(sorted)
}

impl Sorted {
    /// Settings of all layers in one text: `{"layers": {name: settings}}`.
    fn metadata(&mut self, text: &str, file: &TensorFile) -> Result<(), String> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| format!("is bad JSON: {error}"))?;
        let layers = value
            .get("layers")
            .and_then(Value::as_object)
            .ok_or("has no `layers`")?;
        for (layer, settings) in layers {
            let weight = std::iter::once("")
                .chain(PREFIXES)
                .map(|prefix| format!("{prefix}{layer}.weight"))
                .find(|name| file.entries.contains_key(name))
                .ok_or_else(|| {
                    format!("describes the layer `{layer}`, whose weight is not in the file")
                })?;
            self.scales
                .entry(weight)
                .or_default()
                .set(settings)
                .map_err(|what| format!("of layer `{layer}` {what}"))?;
        }
        Ok(())
    }

    /// Every scale has its weight, every weight its scale, and shapes and types go together.
    fn check(&self, files: &[TensorFile]) -> Result<()> {
        let weights: BTreeMap<&str, (&TensorFile, &Entry)> = self
            .weights
            .iter()
            .filter_map(|(number, name)| {
                let file = files.get(*number)?;
                Some((name.as_str(), (file, file.entries.get(name)?)))
            })
            .collect();
        for (name, (file, entry)) in &weights {
            let refuse = |message: String| Error::artifact(&file.path, message);
            match entry.dtype {
                StoredDType::U8 => {
                    return Err(refuse(format!(
                        "tensor `{name}` is stored as bytes (u8): weights packed in 4 bits are not supported; \
                         use the fp8, bf16 or f16 file"
                    )));
                }
                StoredDType::I8
                    if self
                        .scales
                        .get(*name)
                        .is_none_or(|scales| scales.weight.is_none()) =>
                {
                    return Err(refuse(format!(
                        "tensor `{name}` is stored as int8 without a scale (`weight_scale`); fetch the file \
                         again, or use the fp8, bf16 or f16 file"
                    )));
                }
                _ => {}
            }
        }
        for (name, scales) in &self.scales {
            let Some((file, entry)) = weights.get(name.as_str()) else {
                let (path, beside) = scales.first(files);
                return Err(Error::artifact(
                    path,
                    format!(
                        "`{beside}` belongs to `{name}`, which is missing; fetch the file again"
                    ),
                ));
            };
            scales.check(name, file, entry, files)?;
        }
        Ok(())
    }
}

impl Scales {
    fn settle(&mut self, bytes: &[u8]) -> Result<(), String> {
        let settings =
            serde_json::from_slice(bytes).map_err(|error| format!("is bad JSON: {error}"))?;
        self.set(&settings)
    }

    /// Takes the settings of a layer over. Every key has to be known: an unknown one may change what the
    /// codes mean.
    fn set(&mut self, settings: &Value) -> Result<(), String> {
        let settings = settings.as_object().ok_or("is no JSON object")?;
        for (key, value) in settings {
            match (key.as_str(), value) {
                ("format", Value::String(format)) => {
                    self.format = Some(match format.as_str() {
                        "float8_e4m3fn" => StoredDType::F8E4M3,
                        "float8_e5m2" => StoredDType::F8E5M2,
                        "int8_tensorwise" => StoredDType::I8,
                        _ => {
                            return Err(format!(
                                "gives the format `{format}`; float8_e4m3fn, float8_e5m2 and int8_tensorwise \
                                 are supported"
                            ));
                        }
                    });
                }
                ("full_precision_matrix_mult", Value::Bool(full)) => self.full_precision = *full,
                _ => {
                    return Err(format!(
                        "has the key `{key}` ({value}), which this node does not know: the weight may be \
                         stored in a form that plain scaling does not undo; use another file of the model"
                    ));
                }
            }
        }
        self.format
            .map(drop)
            .ok_or_else(|| "gives no `format`".to_owned())
    }

    fn check(
        &self,
        name: &str,
        file: &TensorFile,
        entry: &Entry,
        files: &[TensorFile],
    ) -> Result<()> {
        let refuse = |message: String| Err(Error::artifact(&file.path, message));
        if let Some(format) = self.format
            && format != entry.dtype
        {
            return refuse(format!(
                "tensor `{name}` is stored as {}, its settings say {}",
                entry.dtype.as_str(),
                format.as_str()
            ));
        }
        let place = |place: &Option<Place>| {
            let (number, stored) = place.as_ref()?;
            let entry = files.get(*number)?.entries.get(stored)?;
            Some((stored.clone(), entry.clone()))
        };
        let rows = entry.shape.first().copied().unwrap_or(1);
        for (scale, per_row) in [(place(&self.weight), true), (place(&self.input), false)] {
            let Some((stored, scale)) = scale else {
                continue;
            };
            if !entry.dtype.is_quantised() {
                return refuse(format!(
                    "`{stored}` scales `{name}`, which is stored as {} and needs none",
                    entry.dtype.as_str()
                ));
            }
            if scale.dtype.size() == 1 {
                return refuse(format!(
                    "`{stored}` is stored as {}: block scales (nvfp4, mxfp) are not supported; use the fp8, \
                     bf16 or f16 file",
                    scale.dtype.as_str()
                ));
            }
            // One, or one per row: the first axis, whatever axes of one follow.
            let count = scale.elements();
            let fits = count == 1
                || per_row
                    && count == rows
                    && scale.shape.first() == Some(&rows)
                    && entry.shape.len() == 2;
            if !fits {
                let rows = if per_row {
                    format!(" or {rows}")
                } else {
                    String::new()
                };
                return refuse(format!(
                    "`{stored}` has shape {:?} for `{name}` {:?}; 1{rows} values are supported",
                    scale.shape, entry.shape
                ));
            }
        }
        Ok(())
    }

    /// Something that names this entry, for a message.
    fn first(&self, files: &[TensorFile]) -> (std::path::PathBuf, String) {
        let place = self.weight.as_ref().or(self.input.as_ref());
        let file = files.get(place.map_or(0, |(number, _)| *number));
        (
            file.map(|file| file.path.clone()).unwrap_or_default(),
            place.map_or_else(|| "comfy_quant".to_owned(), |(_, name)| name.clone()),
        )
    }
}

fn without_prefix(stored: &str) -> &str {
    PREFIXES
        .iter()
        .find_map(|prefix| stored.strip_prefix(prefix))
        .unwrap_or(stored)
}

fn beside(stored: &str) -> Option<(&str, Beside)> {
    BESIDE
        .iter()
        .find_map(|(ending, beside)| Some((stored.strip_suffix(ending)?, *beside)))
}

/// Whether the marker asks for products in full precision.
fn marker(file: &TensorFile, stored: &str, entry: &Entry) -> Result<bool> {
    match entry.dtype {
        StoredDType::F8E4M3 | StoredDType::F8E5M2 | StoredDType::F32 => Ok(entry.elements() == 2),
        other => Err(Error::artifact(
            &file.path,
            format!(
                "marker `{stored}` has the type {}, which names no fp8 type",
                other.as_str()
            ),
        )),
    }
}

fn settings_bytes(file: &TensorFile, stored: &str, entry: &Entry) -> Result<Vec<u8>> {
    if entry.dtype != StoredDType::U8 || entry.elements() > MAX_SETTINGS {
        return Err(Error::artifact(
            &file.path,
            format!(
                "`{stored}` is {} {:?}; settings are a text of at most {MAX_SETTINGS} bytes (u8)",
                entry.dtype.as_str(),
                entry.shape
            ),
        ));
    }
    stream::bytes(&file.file, &file.path, stored, entry, false).map(|(bytes, _)| bytes)
}

/// The linear layers of a transformer that `fp8` computes in 8 bits: attention projections and
/// feed-forward of every block. They hold 98 % of the weights and most of the work. Patch, text and time
/// embeddings, modulation, norms and the output projection keep 16 bits: they are small, and an error in
/// them reaches every token of every block.
pub(super) fn is_fp8_layer(name: &str) -> bool {
    const LAYERS: [&str; 10] = [
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "attn2.to_q",
        "attn2.to_k",
        "attn2.to_v",
        "attn2.to_out.0",
        "ffn.net.0.proj",
        "ffn.net.2",
    ];
    super::names::numbered(name, "blocks.")
        .and_then(|(_, rest)| rest.strip_suffix(".weight"))
        .is_some_and(|layer| LAYERS.contains(&layer))
}

impl StoredDType {
    /// The values of the 256 codes of an 8-bit type, before the scale; none for other types and for bytes
    /// that are no weights.
    pub fn code_values(self) -> Option<[f32; 256]> {
        self.is_quantised().then(|| values_of(self))
    }
}

/// Values of the 256 codes of a stored type.
fn values_of(dtype: StoredDType) -> [f32; 256] {
    match dtype {
        StoredDType::F8E4M3 => e4m3::VALUES,
        // The upper half of an f16.
        StoredDType::F8E5M2 => {
            std::array::from_fn(|code| f16::from_bits((code as u16) << 8).to_f32())
        }
        _ => std::array::from_fn(|code| f32::from(code as u8 as i8)),
    }
}

/// Whether all codes have a finite value.
pub(super) fn all_finite(codes: &[u8], dtype: StoredDType) -> bool {
    let values = values_of(dtype);
    codes
        .par_iter()
        .all(|&code| values[code as usize].is_finite())
}

/// `value(code) * scale`, rounded once to `dtype`. `scales` holds one value or one per row.
///
/// # Errors
/// [`Error::Artifact`] when a value is not finite, [`Error::Caller`] when one does not fit `dtype`.
pub(super) fn dequantise(
    codes: &[u8],
    scales: &[f32],
    entry: &Entry,
    (path, name): (&Path, &str),
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    match dtype {
        DType::F32 => dequantise_to::<f32>(codes, scales, entry, (path, name), device),
        DType::BF16 => dequantise_to::<half::bf16>(codes, scales, entry, (path, name), device),
        DType::F16 => dequantise_to::<f16>(codes, scales, entry, (path, name), device),
        other => Err(Error::local(format!(
            "weights load as f32, bf16 or f16, not as {}",
            other.as_str()
        ))),
    }
}

fn dequantise_to<T: Target>(
    codes: &[u8],
    scales: &[f32],
    entry: &Entry,
    (path, name): (&Path, &str),
    device: &Device,
) -> Result<Tensor> {
    let table = values_of(entry.dtype);
    if !all_finite(codes, entry.dtype) {
        return Err(stream::not_finite(path, name));
    }
    let width = (codes.len() / scales.len().max(1)).max(1);
    let mut values = vec![T::from_single(0.0); codes.len()];
    let fits = values
        .par_chunks_mut(width)
        .zip(codes.par_chunks(width))
        .zip(scales)
        .map(|((values, codes), &scale)| {
            values
                .iter_mut()
                .zip(codes)
                .fold(true, |fits, (value, &code)| {
                    *value = T::from_single(table[code as usize] * scale);
                    fits & value.finite()
                })
        })
        .reduce(|| true, |a, b| a & b);
    if !fits {
        return Err(stream::too_large(path, name, T::DTYPE));
    }
    Ok(Tensor::from_vec(values, entry.shape.as_slice(), device)?)
}
