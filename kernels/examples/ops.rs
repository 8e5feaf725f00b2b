//! Speed of the operations on this machine: `cargo run --release -p leoma-kernels --example ops
//! [filter]`. Prints the best of several runs, in GFLOP/s for products and GB/s for the others; on
//! Linux also the rate per second of CPU time, which tells more on a busy machine.
#![allow(clippy::print_stdout)]

use candle_core::{Device, Result, Tensor};
use leoma_kernels::{
    Activation, Conv3d, Conv3dConfig, Linear, attention, channel_norm, gate_residual, gelu_tanh,
    layer_norm_modulate, rms_norm, rope, silu,
};
use std::time::Instant;

struct Bench {
    filter: String,
}

impl Bench {
    /// Times `work`; `amount` is in flop or bytes.
    fn run(
        &self,
        name: &str,
        amount: f64,
        unit: &str,
        work: impl Fn() -> Result<Tensor>,
    ) -> Result<()> {
        if !name.contains(&self.filter) {
            return Ok(());
        }
        work()?;
        let (mut best, mut best_cpu) = (f64::MAX, f64::MAX);
        let begin = Instant::now();
        for round in 0..40 {
            if round >= 3 && begin.elapsed().as_secs_f64() > 1.5 {
                break;
            }
            let (start, cpu) = (Instant::now(), cpu_seconds());
            work()?;
            best = best.min(start.elapsed().as_secs_f64());
            best_cpu = best_cpu.min(cpu_seconds() - cpu);
        }
        let rate = |seconds: f64| amount / seconds / 1e9;
        let (wall, cpu) = (rate(best), rate(best_cpu));
        println!(
            "{name:36} {:9.3} ms {wall:8.1} {unit} {cpu:8.1} {unit} per CPU",
            best * 1e3
        );
        Ok(())
    }
}

/// CPU time of all threads of this process; 0 where /proc does not tell.
fn cpu_seconds() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return 0.0;
    };
    let nanoseconds = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

fn main() -> Result<()> {
    let bench = Bench {
        filter: std::env::args().nth(1).unwrap_or_default(),
    };
    let device = &Device::Cpu;
    let randn = |shape: &[usize]| {
        let n = shape.iter().product::<usize>();
        let values =
            (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 8 & 0xffff) as f32 / 32768.0 - 1.0);
        Tensor::from_vec(values.collect(), shape, device)
    };

    for (m, k, n) in [
        (1024, 3072, 3072),
        (1024, 3072, 14336),
        (1024, 5120, 13824),
        (20, 4096, 10240),
        (1, 4096, 10240),
    ] {
        let name = format!("linear {m}x{k}x{n}");
        if !name.contains(&bench.filter) {
            continue;
        }
        let layer = Linear::new(randn(&[n, k])?, Some(randn(&[n])?))?;
        let x = randn(&[m, k])?;
        bench.run(&name, 2.0 * (m * k * n) as f64, "GFLOP/s", || {
            layer.forward_act(&x, Activation::None)
        })?;
    }
    let weight = randn(&[14336, 3072])?;
    let bytes = (14336 * 3072 * 4) as f64;
    bench.run("pack 14336x3072", bytes, "GB/s", || {
        Linear::new(weight.clone(), None).map(|_| weight.clone())
    })?;
    drop(weight);
    for (l, h, d) in [(1024, 24, 128), (512, 64, 64), (256, 1, 1024)] {
        let (q, k, v) = (
            randn(&[1, l, h, d])?,
            randn(&[1, l, h, d])?,
            randn(&[1, l, h, d])?,
        );
        let flop = 4.0 * (l * l * h * d) as f64;
        bench.run(&format!("attention {h}x{l}x{d}"), flop, "GFLOP/s", || {
            attention(&q, &k, &v, 0.09, None)
        })?;
    }
    let causal = Conv3dConfig {
        pad: [1; 4],
        pad_front: 2,
        ..Conv3dConfig::default()
    };
    for (c, o, t, s) in [
        (1024, 1024, 1, 16),
        (512, 512, 4, 64),
        (256, 256, 4, 128),
        (256, 12, 1, 128),
        (12, 160, 4, 64),
        (3, 96, 4, 128),
    ] {
        let name = format!("conv3d {c}->{o} {s}x{s}x{t}");
        if !name.contains(&bench.filter) {
            continue;
        }
        let layer = Conv3d::new(
            (randn(&[o, c, 3, 3, 3])? * 0.05)?,
            Some(randn(&[o])?),
            causal,
        )?;
        let (x, history) = (randn(&[t, s, s, c])?, randn(&[2, s, s, c])?);
        let flop = 2.0 * (t * s * s * c * o * 27) as f64;
        bench.run(&name, flop, "GFLOP/s", || {
            layer.forward(&x, Some(&history), None)
        })?;
    }
    let up = Conv3dConfig {
        pad: [1; 4],
        upsample2x: true,
        ..Conv3dConfig::default()
    };
    let layer = Conv3d::new((randn(&[512, 512, 1, 3, 3])? * 0.05)?, None, up)?;
    let x = randn(&[4, 32, 32, 512])?;
    let flop = 2.0 * (4 * 64 * 64 * 512 * 512 * 9usize) as f64;
    bench.run("conv2d upsample 512->512 32x32x4", flop, "GFLOP/s", || {
        layer.forward(&x, None, None)
    })?;

    let (l, d) = (1024, 3072);
    let (x, y, w) = (randn(&[l, d])?, randn(&[l, d])?, randn(&[d])?);
    let (scale, shift) = (randn(&[2, d])?, randn(&[2, d])?);
    let bytes = (l * d * 4) as f64;
    bench.run("silu 1024x3072", 2.0 * bytes, "GB/s", || silu(&x))?;
    bench.run("gelu_tanh 1024x3072", 2.0 * bytes, "GB/s", || gelu_tanh(&x))?;
    bench.run("rms_norm 1024x3072", 2.0 * bytes, "GB/s", || {
        rms_norm(&x, &w, 1e-6)
    })?;
    bench.run("layer_norm_modulate 1024x3072", 2.0 * bytes, "GB/s", || {
        layer_norm_modulate(&x, &scale, &shift, 300, 1e-6)
    })?;
    bench.run("gate_residual 1024x3072", 3.0 * bytes, "GB/s", || {
        gate_residual(&x, &y, &scale, 300)
    })?;
    let heads = x.reshape((l, 24, 128))?;
    let (cos, sin) = (randn(&[l, 64])?, randn(&[l, 64])?);
    bench.run("rope 1024x24x128", 2.0 * bytes, "GB/s", || {
        rope(&heads, &cos, &sin)
    })?;
    let (pixels, gamma) = (randn(&[4, 128, 128, 256])?, randn(&[256])?);
    let bytes = (4 * 128 * 128 * 256 * 4) as f64;
    bench.run(
        "channel_norm 4x128x128x256 silu",
        2.0 * bytes,
        "GB/s",
        || channel_norm(&pixels, &gamma, true),
    )?;
    Ok(())
}
