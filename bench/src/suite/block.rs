//! Part 4: one transformer block of real width, in turns with PyTorch on the same weights and inputs.
//!
//! PyTorch runs the block eagerly as diffusers writes it, compiled, and compiled with the attention that is
//! fastest on this card. All results are held against PyTorch's own in float32 before anything is timed.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use leoma_kernels::Linear;
use leoma_models::random::{Networks, RandomSource};
use leoma_models::wan::transformer::{CrossKeyValue, RotaryTables, WanTransformerBlock};
use leoma_models::weights::{Component, ModelKind, TensorSource, VarBuilder};
use serde_json::json;

use super::kernels::{distance, random};
use super::parts::Session;
use super::result::{Row, Verdict};
use super::torch;
use crate::peer::Peer;
use crate::stats::median;

/// Rounds; each runs every side once.
const ROUNDS: usize = 20;
const WARM_UPS: usize = 3;
/// Rows of the text context.
const CONTEXT: usize = 512;
/// Rows of a result that are compared: every so many-th.
const CHECKED: usize = 512;

/// Name, model, heads, feed-forward width, token grid.
type Size = (&'static str, ModelKind, usize, usize, [usize; 3]);

const REAL: [Size; 3] = [
    ("A14B 480p", ModelKind::T2vA14b, 40, 13_824, [21, 30, 52]),
    ("5B 720p", ModelKind::Ti2v5b, 24, 14_336, [31, 22, 40]),
    ("A14B 720p", ModelKind::T2vA14b, 40, 13_824, [21, 45, 80]),
];
const SMALL: [Size; 1] = [("small", ModelKind::T2vA14b, 2, 192, [2, 3, 5])];

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let sizes: &[Size] = if session.small() { &SMALL } else { &REAL };
    let work = tempfile::tempdir().context("a folder for weights")?;
    let mut peer = torch::side(session, work.path())?.map(|(peer, _)| peer);
    if session.place.is_card() {
        let rate = gemm_rate(session)?;
        let detail = format!("{:.0} TFLOP/s, 8192 x 8192 x 8192 in bf16", rate / 1e12);
        session.push(Row::new("matrix product", Verdict::Measured, detail).value("flops", rate))?;
    }
    for size in sizes {
        if session.late(size.0)? {
            return Ok(());
        }
        if let Err(error) = block(session, *size, peer.as_mut(), work.path()) {
            session.push(Row::new(size.0, Verdict::Fail, format!("{error:#}")))?;
        }
    }
    Ok(())
}

/// Rate of a large product on random data.
fn gemm_rate(session: &Session<'_>) -> Result<f64> {
    const SIDE: usize = 8192;
    let device = session.place.device();
    let make = |seed| -> Result<Tensor> {
        Ok(
            leoma_kernels::philox_normal(seed, &[SIDE, SIDE], 256 * 1024, device)?
                .to_dtype(DType::BF16)?,
        )
    };
    let (x, layer) = (make(1)?, Linear::new(make(2)?, None)?);
    let mut times = Vec::new();
    for round in 0..WARM_UPS + 10 {
        let (found, seconds) = session.place.time(|| Ok(layer.forward(&x)?))?;
        drop(found);
        if round >= WARM_UPS {
            times.push(seconds);
        }
    }
    Ok(2.0 * (SIDE as f64).powi(3) / median(&times))
}

/// A block with its inputs on the device.
struct Ours {
    block: WanTransformerBlock,
    rotary: RotaryTables,
    cross: CrossKeyValue,
    x: Tensor,
    modulation: Tensor,
}

impl Ours {
    fn run(&self) -> Result<Tensor> {
        Ok(self
            .block
            .forward(&self.x, &self.modulation, 0, &self.rotary, &self.cross)?)
    }
}

fn block(
    session: &mut Session<'_>,
    size: Size,
    peer: Option<&mut Peer>,
    work: &Path,
) -> Result<()> {
    let (name, kind, heads, ffn, grid) = size;
    let mut networks = Networks::released(kind);
    networks.transformer.num_attention_heads = heads;
    networks.transformer.ffn_dim = ffn;
    networks.transformer.num_layers = 1;
    let (cfg, d) = (networks.transformer.clone(), heads * 128);
    let tokens: usize = grid.iter().product();
    let source = RandomSource::new(&networks, Component::Transformer, 7);
    let x = random(&[tokens, d], 0.0, 1)?.to_dtype(DType::BF16)?;
    let context = random(&[CONTEXT, d], 0.0, 2)?.to_dtype(DType::BF16)?;
    let modulation = (random(&[1, 6, d], 0.0, 3)? * 0.3)?;
    let (weights, inputs) = (
        work.join("block.safetensors"),
        work.join("inputs.safetensors"),
    );
    if peer.is_some() {
        write_block(&source, &weights)?;
        let all = [
            ("x", &x),
            ("context", &context),
            ("modulation", &modulation),
        ];
        let all = all.map(|(name, tensor)| (name.to_owned(), tensor.clone()));
        candle_core::safetensors::save(&std::collections::HashMap::from(all), &inputs)?;
    }
    let device = session.place.device().clone();
    let ours = session.place.run(|| -> Result<Ours> {
        let vb = VarBuilder::new(Arc::new(source), DType::BF16, &device);
        let block = WanTransformerBlock::new(&cfg, &vb.pp("blocks").pp(0))?;
        Ok(Ours {
            cross: block.cross_key_value(&context.to_device(&device)?, 1)?,
            rotary: RotaryTables::new(128, grid, &device)?,
            x: x.to_device(&device)?,
            // [1, 6, d] to [6, 1, d]
            modulation: modulation
                .transpose(0, 1)?
                .contiguous()?
                .to_device(&device)?,
            block,
        })
    })?;
    let step = tokens.div_ceil(CHECKED);
    session.place.poison(&x)?;
    let found = every(&session.place.run(|| ours.run())?, step)?;
    let finite = found.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite();
    session.push(Row::check(
        format!("{name}: finite"),
        finite,
        "no NaN and no infinity",
    ))?;
    let Some(peer) = peer else {
        return time(session, name, &ours, None, tokens, &cfg);
    };
    let answer = peer.ask(&json!({"op": "setup", "case": "block", "setup": {
        "weights": weights, "inputs": inputs, "heads": heads, "grid": grid, "eps": cfg.eps, "every": step,
    }}))?;
    let subjects: Vec<String> = serde_json::from_value(answer["subjects"].clone())?;
    // Theirs are written one after the other; the last is the yardstick.
    let path = work.join("output.safetensors");
    let mut theirs = |subject: &str| -> Result<Tensor> {
        peer.ask(&json!({"op": "run", "subject": subject}))?;
        peer.write_output(&path)?;
        candle_core::safetensors::load(&path, &Device::Cpu)?
            .remove("output")
            .context("torch wrote no tensor")
    };
    let exact = theirs("exact")?;
    let eager = distance(&theirs("eager")?, &exact)?;
    let error = distance(&found, &exact)?;
    let detail = format!(
        "{error:.1e} from PyTorch in f32, limit {:.1e} (twice eager bf16)",
        2.0 * eager
    );
    session.push(
        Row::check(format!("{name}: result"), error <= 2.0 * eager, detail)
            .value("error", error)
            .value("eager_error", eager),
    )?;
    let subjects = subjects
        .into_iter()
        .filter(|name| name != "exact")
        .collect();
    time(session, name, &ours, Some((peer, subjects)), tokens, &cfg)
}

/// Times all sides in turns.
fn time(
    session: &mut Session<'_>,
    name: &str,
    ours: &Ours,
    peer: Option<(&mut Peer, Vec<String>)>,
    tokens: usize,
    cfg: &leoma_models::wan::TransformerConfig,
) -> Result<()> {
    if !session.place.is_card() {
        let why = "the shim's time says nothing about a card";
        return session.push(Row::new(format!("{name}: time"), Verdict::Skipped, why));
    }
    let (l, d, f) = (tokens as f64, cfg.dim() as f64, cfg.ffn_dim as f64);
    // Linear layers, self attention, cross attention; the context's keys and values are made once per prompt.
    let flops = 12.0 * l * d * d + 4.0 * l * d * f + 4.0 * l * l * d + 4.0 * l * CONTEXT as f64 * d;
    let mut row = Row::new(format!("{name}: time"), Verdict::Measured, "");
    let (mut peer, subjects) = match peer {
        Some((peer, subjects)) => (Some(peer), subjects),
        None => (None, Vec::new()),
    };
    for round in 0..WARM_UPS + ROUNDS {
        let (_, seconds) = session.place.time(|| ours.run())?;
        let mut keep = |side: &str, seconds: f64| {
            if round >= WARM_UPS {
                row.samples_s
                    .entry(side.to_owned())
                    .or_default()
                    .push(seconds);
            }
        };
        keep("leoma", seconds);
        if let Some(peer) = peer.as_deref_mut() {
            for subject in &subjects {
                let answer = peer.ask(&json!({"op": "run", "subject": subject}))?;
                keep(
                    subject,
                    answer["wall_s"].as_f64().context("torch gave no time")?,
                );
            }
        }
        if round > WARM_UPS + 4 && session.is_late() {
            break;
        }
    }
    let medians: Vec<(String, f64)> = row
        .samples_s
        .iter()
        .map(|(side, samples)| (side.clone(), median(samples)))
        .collect();
    let mine = medians
        .iter()
        .find(|(side, _)| side == "leoma")
        .map_or(f64::NAN, |(_, seconds)| *seconds);
    let mut words = Vec::new();
    for (side, seconds) in medians {
        words.push(format!(
            "{side} {:.2} ms {:.0} TFLOP/s{}",
            seconds * 1e3,
            flops / seconds / 1e12,
            if side == "leoma" {
                String::new()
            } else {
                format!(" ({:.2}x as long as leoma)", seconds / mine)
            }
        ));
        row = row
            .value(&format!("{side}_s"), seconds)
            .value(&format!("{side}_flops"), flops / seconds);
    }
    row.detail = words.join("; ");
    session.push(row)
}

/// Every `step`-th row, on the host in f32.
fn every(x: &Tensor, step: usize) -> Result<Tensor> {
    let rows: Vec<u32> = (0..x.dim(0)?).step_by(step).map(|row| row as u32).collect();
    let rows = Tensor::new(rows, x.device())?;
    Ok(x.index_select(&rows, 0)?
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F32)?)
}

/// The block's weights in bf16, by the names that diffusers' block has by itself.
fn write_block(source: &RandomSource, path: &Path) -> Result<()> {
    let mut all = std::collections::HashMap::new();
    for name in source.names() {
        if let Some(short) = name.strip_prefix("blocks.0.") {
            let tensor = source.load(&name, DType::BF16, &Device::Cpu)?;
            all.insert(short.to_owned(), tensor);
        }
    }
    Ok(candle_core::safetensors::save(&all, path)?)
}
