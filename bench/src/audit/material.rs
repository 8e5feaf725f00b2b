//! Weights, models and registries to audit.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use leoma_models::random::Networks;
use leoma_models::tiny::make_tiny;
use leoma_models::wan::TransformerConfig;
use leoma_models::wan::transformer::tensor_shapes;
use leoma_models::weights::ModelKind;
use serde_json::{Map, Value, json};

use crate::stats::SplitMix;

/// The transformer's file in the folder of a model.
pub(crate) const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";
/// Tensors of a file that is hashed.
const TENSORS: usize = 8;
/// Values at the start of every sparse tensor that are not zero.
const WRITTEN: usize = 2048;

/// A safetensors header with its length in front, for bf16 tensors one after the other.
fn header(shapes: &[(String, Vec<usize>)]) -> Result<(Vec<u8>, u64)> {
    let mut entries = Map::new();
    let mut end = 0_u64;
    for (name, shape) in shapes {
        let start = end;
        end += 2 * shape.iter().product::<usize>() as u64;
        entries.insert(
            name.clone(),
            json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}),
        );
    }
    let mut text = serde_json::to_vec(&entries)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    Ok((bytes, end))
}

/// `bytes` of values near one as bf16.
pub(crate) fn values(bytes: usize, seed: u64) -> Vec<u8> {
    let mut rng = SplitMix(seed);
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        // Sign and mantissa at random, exponents around one: four values of a draw.
        let drawn = rng.next();
        out.extend(((drawn & 0x80ff_80ff_80ff_80ff) | 0x3f00_3f00_3f00_3f00).to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// A folder of `count` files with `bytes` of weights in all.
pub(crate) fn files(folder: &Path, count: usize, bytes: u64) -> Result<u64> {
    std::fs::create_dir(folder)?;
    let length = usize::try_from(bytes)? / count / TENSORS / 2;
    let mut total = 0;
    for number in 0..count {
        let shapes: Vec<_> = (0..TENSORS)
            .map(|tensor| (format!("layer.{number}.{tensor}.weight"), vec![length]))
            .collect();
        let (head, size) = header(&shapes)?;
        let path = folder.join(format!("model-{number:05}.safetensors"));
        let mut file = BufWriter::new(File::create(&path)?);
        file.write_all(&head)?;
        file.write_all(&values(usize::try_from(size)?, number as u64))?;
        file.flush()
            .with_context(|| format!("cannot write {}", path.display()))?;
        total += head.len() as u64 + size;
    }
    Ok(total)
}

/// Three models of the true architecture and about this size, whose files are mostly holes: A, B and their base.
pub(crate) fn sparse_models(folder: &Path, gigabytes: u32) -> Result<([PathBuf; 3], u64)> {
    three_models(folder, gigabytes, |seed, index, elements| {
        values(2 * elements.min(WRITTEN), 1_000_000 * seed + index)
    })
}

/// Three models of the true architecture and about this size: A, B and their base, from which A and B differ by a
/// percent or so in ways that have nothing to do with each other.
pub(crate) fn fine_tunes(folder: &Path, gigabytes: u32) -> Result<([PathBuf; 3], u64)> {
    three_models(folder, gigabytes, |seed, index, elements| {
        let mut weights = values(2 * elements, index);
        if seed > 0 {
            let change = values(2 * elements, 1_000_000 * seed + index);
            for (weight, change) in weights.iter_mut().step_by(2).zip(change.iter().step_by(2)) {
                // The last two bits of the mantissa, which is the lower byte of a bf16.
                *weight ^= change & 3;
            }
        }
        weights
    })
}

/// A, B and their base. `fill` gives the first bytes of a tensor by model (0 is the base), tensor and elements.
fn three_models(
    folder: &Path,
    gigabytes: u32,
    fill: impl Fn(u64, u64, usize) -> Vec<u8>,
) -> Result<([PathBuf; 3], u64)> {
    // Widths of the 14B from where the 5B would need more layers than it has.
    let (heads, ffn) = if gigabytes > 10 {
        (40, 13_824)
    } else {
        (24, 14_336)
    };
    let dim = 128 * heads;
    let layer = 2 * (8 * dim * dim + 2 * dim * ffn) as u64;
    let layers = (u64::from(gigabytes) * 1_000_000_000 / layer).max(1);
    let mut models = Vec::new();
    let mut total = 0;
    for (seed, name) in [(1, "a"), (2, "b"), (0, "base")] {
        let model = folder.join(format!("{gigabytes}-{name}"));
        make_tiny(ModelKind::Ti2v5b, 1, &model)?;
        let config_path = model.join("transformer/config.json");
        let mut config: Map<String, Value> = serde_json::from_slice(&std::fs::read(&config_path)?)?;
        for (key, value) in [
            ("num_attention_heads", heads as u64),
            ("attention_head_dim", 128),
            ("ffn_dim", ffn as u64),
            ("num_layers", layers),
        ] {
            config.insert(key.into(), value.into());
        }
        std::fs::write(&config_path, serde_json::to_vec(&config)?)?;
        let parsed: TransformerConfig = serde_json::from_value(Value::Object(config))?;
        let shapes = tensor_shapes(&parsed);
        let (head, size) = header(&shapes)?;
        let path = model.join(WEIGHTS);
        let file = File::create(&path)?;
        file.set_len(head.len() as u64 + size)?;
        file.write_all_at(&head, 0)?;
        let mut at = head.len() as u64;
        for (index, (_, shape)) in shapes.iter().enumerate() {
            let elements = shape.iter().product::<usize>();
            file.write_all_at(&fill(seed, index as u64, elements), at)?;
            at += 2 * elements as u64;
        }
        total += size;
        models.push(model);
    }
    let models = models
        .try_into()
        .map_err(|_| anyhow::anyhow!("three models"))?;
    Ok((models, total))
}

/// A registry's list of a base and `count` fine-tunes of the 5B's layout.
pub(crate) fn registry_list(path: &Path, count: u32) -> Result<()> {
    let shapes = tensor_shapes(&Networks::released(ModelKind::Ti2v5b).transformer);
    let mut rng = SplitMix(5);
    let mut file = BufWriter::new(File::create(path)?);
    let mut draw = move || f64::from(rng.unit_variance());
    // Of weights that are drawn at random, the squares of the 16 sums add up to the sum of squares.
    let base: Vec<(f64, [f64; 16])> = shapes
        .iter()
        .map(|_| {
            let squares = 10.0 + 100.0 * draw().abs();
            let size = (squares / 16.0).sqrt();
            (squares, std::array::from_fn(|_| size * draw()))
        })
        .collect();
    for number in 0..=count {
        let mut weights = Map::new();
        // A training moves weights by about a percent.
        let moved = if number == 0 { 0.0 } else { 0.01 };
        for ((name, shape), (squares, sums)) in shapes.iter().zip(&base) {
            let size = moved * (squares / 16.0).sqrt();
            let sums = sums.map(|sum| sum + size * draw());
            let squares = squares * (1.0 + moved * moved * draw().abs());
            let elements = shape.iter().product::<usize>();
            weights.insert(
                format!("transformer/{name}"),
                json!({"elements": elements, "squares": squares, "sums": sums}),
            );
        }
        let role = if number == 0 { "base" } else { "model" };
        let model = json!({
            "name": format!("user/model-{number}"), "revision": "", "role": role, "origin": "local",
            "hotkey": null, "block": number, "committed_at": null, "model_hash": null, "named": null,
            "unnamed": null, "added_at": "2026-01-01T00:00:00.000Z",
        });
        let line = json!({"registry": 1, "model": model, "sketch": {"weights": weights}});
        serde_json::to_writer(&mut file, &line)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}
