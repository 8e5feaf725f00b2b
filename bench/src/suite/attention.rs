//! Part 5: attention alone, in turns with each of PyTorch's.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use leoma_kernels::{attention, philox_normal};
use serde_json::json;

use super::kernels::distance;
use super::parts::Session;
use super::result::{Row, Verdict};
use super::torch;
use crate::stats::median;

const ROUNDS: usize = 10;
const WARM_UPS: usize = 2;
const WIDTH: usize = 128;
/// Queries whose results are compared.
const CHECKED: usize = 256;

/// Tokens and heads: A14B at 480p and 720p, 5B at 720p.
const REAL: [(usize, usize); 3] = [(32_760, 40), (75_600, 40), (27_280, 24)];
const SMALL: [(usize, usize); 1] = [(70, 2)];

pub(super) fn run(session: &mut Session<'_>) -> Result<()> {
    let sizes: &[(usize, usize)] = if session.small() { &SMALL } else { &REAL };
    let work = tempfile::tempdir().context("a folder for inputs")?;
    let mut peer = torch::side(session, work.path())?.map(|(peer, _)| peer);
    let scale = (WIDTH as f64).sqrt().recip();
    for &(tokens, heads) in sizes {
        let name = format!("{tokens} tokens, {heads} heads");
        if session.late(&name)? {
            return Ok(());
        }
        let device = session.place.device().clone();
        let shape = [1, tokens, heads, WIDTH];
        let make = |seed| -> Result<Tensor> {
            Ok(philox_normal(seed, &shape, 256 * 1024, &device)?.to_dtype(DType::BF16)?)
        };
        let [q, k, v] = [make(1)?, make(2)?, make(3)?];
        let ours = || -> Result<Tensor> { Ok(attention(&q, &k, &v, scale, None)?) };
        session.place.poison(&q)?;
        let found = session.place.run(ours)?;
        let found = first_rows(&found, tokens)?;
        let finite = found.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite();
        session.push(Row::check(
            format!("{name}: finite"),
            finite,
            "no NaN and no infinity",
        ))?;

        let mut row = Row::new(format!("{name}: time"), Verdict::Measured, "");
        let mut subjects: Vec<String> = Vec::new();
        if let Some(peer) = &mut peer {
            let path = work.path().join("qkv.safetensors");
            let host = |x: &Tensor| -> Result<Tensor> { Ok(x.to_device(&Device::Cpu)?) };
            let all = [("q", host(&q)?), ("k", host(&k)?), ("v", host(&v)?)];
            let all = all.map(|(name, tensor)| (name.to_owned(), tensor));
            candle_core::safetensors::save(&std::collections::HashMap::from(all), &path)?;
            let setup = json!({"inputs": path, "rows": CHECKED.min(tokens)});
            let answer = peer.ask(&json!({"op": "setup", "case": "attention", "setup": setup}))?;
            subjects = serde_json::from_value(answer["subjects"].clone())?;
            let output = work.path().join("output.safetensors");
            let mut theirs = |subject: &str| -> Result<Tensor> {
                peer.ask(&json!({"op": "run", "subject": subject}))?;
                peer.write_output(&output)?;
                candle_core::safetensors::load(&output, &Device::Cpu)?
                    .remove("output")
                    .context("torch wrote no tensor")
            };
            let exact = theirs("exact")?;
            subjects.retain(|subject| subject != "exact");
            let default = distance(&theirs("default")?, &exact)?;
            let error = distance(&found, &exact)?;
            let limit = 2.0 * default;
            let detail =
                format!("{error:.1e} from f32, limit {limit:.1e} (twice PyTorch's own in bf16)");
            let check = Row::check(format!("{name}: result"), error <= limit, detail);
            session.push(check.value("error", error).value("limit", limit))?;
        }
        if !session.place.is_card() {
            let why = "the shim's time says nothing about a card";
            session.push(Row::new(row.name, Verdict::Skipped, why))?;
            continue;
        }
        for round in 0..WARM_UPS + ROUNDS {
            let (_, seconds) = session.place.time(ours)?;
            let mut all = vec![("leoma".to_owned(), seconds)];
            if let Some(peer) = &mut peer {
                for subject in &subjects {
                    let answer = peer.ask(&json!({"op": "run", "subject": subject}))?;
                    let seconds = answer["wall_s"].as_f64().context("torch gave no time")?;
                    all.push((subject.clone(), seconds));
                }
            }
            if round >= WARM_UPS {
                for (side, seconds) in all {
                    row.samples_s.entry(side).or_default().push(seconds);
                }
            }
            if round > WARM_UPS + 2 && session.is_late() {
                break;
            }
        }
        let flops = 4.0 * (tokens as f64).powi(2) * (heads * WIDTH) as f64;
        let mut words = Vec::new();
        for (side, samples) in row.samples_s.clone() {
            let rate = flops / median(&samples);
            words.push(format!("{side} {:.0} TFLOP/s", rate / 1e12));
            row = row.value(&format!("{side}_flops"), rate);
        }
        row.detail = words.join("; ");
        session.push(row)?;
    }
    Ok(())
}

/// The first queries' results [rows, heads * width] in f32 on the host.
fn first_rows(x: &Tensor, tokens: usize) -> Result<Tensor> {
    Ok(x.narrow(1, 0, CHECKED.min(tokens))?
        .squeeze(0)?
        .flatten_from(1)?
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F32)?)
}
