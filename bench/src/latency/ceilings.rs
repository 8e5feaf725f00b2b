//! What the device can do at the model's shapes, measured with the public operations of `leoma_kernels`.

use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use leoma_kernels::{Linear, attention};
use rayon::prelude::*;

use super::result::{Ceiling, CeilingKind};
use super::work::Work;
use crate::stats::{SplitMix, median};

/// Samples of each ceiling.
const SAMPLES: usize = 10;
/// Least time of one sample: shorter work is repeated within it.
const LEAST: Duration = Duration::from_millis(20);
/// Most work of one sample on the CPU, so that a large scenario's ceilings take seconds there.
const CPU_FLOPS: f64 = 4e10;
/// Largest tokens of attention on the CPU.
const CPU_TOKENS: usize = 4096;

/// Measures all ceilings of a scenario.
pub(crate) fn measure(work: &Work, dtype: DType, device: &Device) -> Result<Vec<Ceiling>> {
    let [dim, heads, head_dim, ffn] = work.shape;
    let on_cpu = device.is_cpu();
    let mut all = Vec::new();
    let side = if on_cpu { 1024 } else { 8192 };
    for (what, rows, inputs, outputs) in [
        ("projection", work.tokens, dim, dim),
        ("feed-forward up", work.tokens, dim, ffn),
        ("feed-forward down", work.tokens, ffn, dim),
        ("square", side, side, side),
    ] {
        let flops = 2.0 * (inputs * outputs) as f64;
        let rows = if on_cpu {
            rows.min((CPU_FLOPS / flops) as usize).max(1)
        } else {
            rows
        };
        let weight = random(&[outputs, inputs], dtype, device)?;
        let layer = Linear::new(weight, None)?;
        let x = random(&[rows, inputs], dtype, device)?;
        all.push(ceiling(
            CeilingKind::Gemm,
            format!("{what}, [{rows}, {inputs}] x [{inputs}, {outputs}]"),
            flops * rows as f64,
            device,
            &mut || layer.forward(&x).map(drop),
        )?);
    }

    let tokens = if on_cpu {
        work.tokens.min(CPU_TOKENS)
    } else {
        work.tokens
    };
    let shape = [1, tokens, heads, head_dim];
    let [q, k, v] = [
        random(&shape, dtype, device)?,
        random(&shape, dtype, device)?,
        random(&shape, dtype, device)?,
    ];
    let scale = (head_dim as f64).sqrt().recip();
    all.push(ceiling(
        CeilingKind::Attention,
        format!("self attention, {tokens} tokens, {heads} heads of {head_dim}"),
        4.0 * (tokens * tokens) as f64 * (heads * head_dim) as f64,
        device,
        &mut || attention(&q, &k, &v, scale, None).map(drop),
    )?);
    drop((q, k, v));
    all.push(copy(device)?);
    Ok(all)
}

/// A copy within the device's memory; read and written bytes count.
fn copy(device: &Device) -> Result<Ceiling> {
    if device.is_cpu() {
        // All threads, because one does not fill the memory's width.
        let from: Vec<u64> = {
            let mut rng = SplitMix(5);
            (0..32 << 20 >> 3)
                .map(|_| rng.next())
                .collect::<Vec<_>>()
                .repeat(4)
        };
        let mut to = vec![0_u64; from.len()];
        let bytes = 2.0 * 8.0 * from.len() as f64;
        let part = from.len().div_ceil(rayon::current_num_threads().max(1));
        let what = format!("copy of {} MiB", from.len() >> 17);
        return ceiling(CeilingKind::Copy, what, bytes, device, &mut || {
            to.par_chunks_mut(part)
                .zip(from.par_chunks(part))
                .for_each(|(to, from)| to.copy_from_slice(from));
            Ok(())
        });
    }
    let from = random(&[1 << 29], DType::F32, device)?;
    let what = "copy of 2048 MiB".to_owned();
    ceiling(
        CeilingKind::Copy,
        what,
        2.0 * f64::from(1_u32 << 31),
        device,
        &mut || from.copy().map(drop),
    )
}

/// Random numbers: zeros may run faster than real data.
fn random(shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    Ok(Tensor::randn(0_f32, 1_f32, shape, device)?.to_dtype(dtype)?)
}

fn ceiling(
    kind: CeilingKind,
    what: String,
    work: f64,
    device: &Device,
    run: &mut dyn FnMut() -> candle_core::Result<()>,
) -> Result<Ceiling> {
    let mut timed = |times: usize| -> Result<f64> {
        device.synchronize()?;
        let start = Instant::now();
        for _ in 0..times {
            run()?;
        }
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / times as f64)
    };
    timed(1)?;
    let once = timed(1)?;
    let times = (LEAST.as_secs_f64() / once).ceil().clamp(1.0, 10_000.0) as usize;
    timed(times)?;
    let samples_s = (0..SAMPLES)
        .map(|_| timed(times))
        .collect::<Result<Vec<f64>>>()?;
    Ok(Ceiling {
        kind,
        what,
        work,
        rate: work / median(&samples_s),
        samples_s,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::schedule::tests::scenario;
    use super::super::work::networks;
    use super::*;

    #[test]
    fn ceilings_of_every_kind_at_the_models_shapes() {
        let scenario = scenario();
        let work = Work::new(&scenario, &networks(scenario.kind().unwrap(), true), 20);
        let all = measure(&work, DType::F32, &Device::Cpu).unwrap();
        let kinds: Vec<CeilingKind> = all.iter().map(|ceiling| ceiling.kind).collect();
        use CeilingKind::{Attention, Copy, Gemm};
        assert_eq!(kinds, [Gemm, Gemm, Gemm, Gemm, Attention, Copy]);
        for ceiling in &all {
            assert_eq!(ceiling.samples_s.len(), SAMPLES, "{}", ceiling.what);
            assert!(ceiling.rate.is_finite() && ceiling.rate > 0.0);
            assert!((ceiling.work / ceiling.rate / median(&ceiling.samples_s) - 1.0).abs() < 1e-9);
        }
        assert!(
            all[0].what.contains(&format!("[{}, 64]", work.tokens)),
            "{}",
            all[0].what
        );
    }
}
