//! Standard normal noise as `torch.randn` draws it with a CUDA generator, for a card of any size.
//!
//! torch launches `T = 256 * min(ceil(n / 256), threads / 256)` threads. Thread `p` runs Philox4x32-10
//! with the seed as key and counter `(call, 0, p, 0)`; each call yields four normals, which go to the
//! elements `p + T * (4 * call + i)`, `i = 0..4` (ATen `DistributionTemplates.h`, curand
//! `curand_normal.h`).
//!
//! On a card (`cuda/philox.cu`) words become normals with the operations and intrinsics that curand uses
//! there. On the host the layout and the words are exact; sine and cosine are accurate where the card's are
//! the fast ones, which leaves differences of about 1e-6.

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

use crate::device::{Call, Grid, Target, target_of};

/// Threads of one block in torch's CUDA normal kernel.
const BLOCK: u64 = 256;

/// Standard normal values `shape` f32 on `device`, as on a card whose largest launch has `threads`
/// threads (multiprocessors x threads of each). **Errors** unless `threads` is a positive multiple of 256
/// under 2^32.
pub fn philox_normal(seed: u64, shape: &[usize], threads: u64, device: &Device) -> Result<Tensor> {
    if threads == 0 || !threads.is_multiple_of(BLOCK) || threads > u64::from(u32::MAX) {
        bail!(
            "philox_normal: {threads} threads; a positive multiple of {BLOCK} under 2^32 is needed"
        );
    }
    let n = shape.iter().product::<usize>();
    match target_of(device) {
        Some(target) => on_device(&target, seed, shape, launched(n, threads)),
        None => Tensor::from_vec(randn(seed, n, threads), shape, &Device::Cpu)?.to_device(device),
    }
}

/// Threads that torch launches for `n` values.
fn launched(n: usize, threads: u64) -> u64 {
    (n as u64).div_ceil(BLOCK).min(threads / BLOCK) * BLOCK
}

/// The kernel `cuda/philox.cu`: its launch is torch's, thread for thread.
fn on_device(target: &Target, seed: u64, shape: &[usize], launched: u64) -> Result<Tensor> {
    let mut call = Call::named(target, "philox", "philox_normal".to_owned());
    let out = call.output(shape, DType::F32)?;
    call.i64(out.elem_count())
        .u32(launched as u32)
        .u32(seed as u32)
        .u32((seed >> 32) as u32);
    call.launch(
        Grid::cover(launched as usize, BLOCK as u32),
        BLOCK as u32,
        0,
    )?;
    Ok(out)
}

/// Threads that one parallel job handles.
const JOB: usize = 4096;

/// `n` values on the host.
fn randn(seed: u64, n: usize, threads: u64) -> Vec<f32> {
    let mut values = vec![0.0; n];
    let launched = launched(n, threads) as usize;
    if n == 0 {
        return values;
    }
    // One job: the same threads' elements in the four rows of one call; the last rows may be short.
    let mut jobs = Vec::new();
    for (call, rows) in values.chunks_mut(4 * launched).enumerate() {
        let mut rows: Vec<_> = rows
            .chunks_mut(launched)
            .map(|row| row.chunks_mut(JOB))
            .collect();
        for first in (0..launched).step_by(JOB) {
            let parts: Vec<&mut [f32]> = rows.iter_mut().filter_map(Iterator::next).collect();
            if parts.is_empty() {
                break;
            }
            jobs.push((call as u64, first, parts));
        }
    }
    jobs.into_par_iter().for_each(|(call, first, mut parts)| {
        // Rows shrink with their index, so the first part is the longest.
        for p in 0..parts.first().map_or(0, |part| part.len()) {
            let normals = normals(seed, call, (first + p) as u32);
            for (part, normal) in parts.iter_mut().zip(normals) {
                if let Some(value) = part.get_mut(p) {
                    *value = normal;
                }
            }
        }
    });
    values
}

/// The four normals of one call of thread `p`.
fn normals(seed: u64, call: u64, p: u32) -> [f32; 4] {
    let words = philox([call as u32, (call >> 32) as u32, p, 0], seed);
    let (a, b) = box_muller(words[0], words[1]);
    let (c, d) = box_muller(words[2], words[3]);
    [a, b, c, d]
}

/// curand's Box-Muller: two words to two normals, sine first.
fn box_muller(x: u32, y: u32) -> (f32, f32) {
    const SCALE: f32 = 2.3283064e-10;
    const TURN: f32 = 2.3283064e-10 * 6.2831855;
    let u = (x as f32).mul_add(SCALE, SCALE / 2.0);
    let v = (y as f32).mul_add(TURN, TURN / 2.0);
    // The logarithm is the accurate float32 one on the card: float64, rounded, is as good.
    let radius = (-2.0 * f64::from(u).ln() as f32).sqrt();
    let (sin, cos) = f64::from(v).sin_cos();
    (radius * sin as f32, radius * cos as f32)
}

/// Philox4x32 with ten rounds (Salmon et al. 2011).
fn philox(mut counter: [u32; 4], key: u64) -> [u32; 4] {
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..10 {
        let a = 0xD251_1F53_u64 * u64::from(counter[0]);
        let b = 0xCD9E_8D57_u64 * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ k0,
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ k1,
            a as u32,
        ];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(values: &[f32], expected: &[f32]) {
        for (a, b) in values.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{a} instead of {b}");
        }
    }

    #[test]
    fn words_are_the_published_ones() {
        assert_eq!(
            philox([0; 4], 0),
            [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]
        );
    }

    #[test]
    fn values_and_layout_are_those_of_torch() {
        close(
            &randn(0, 300, 270_336),
            &[-0.924662, -0.425344, -2.643846, 0.145184],
        );
        let n = 16 * 21 * 60 * 104;
        let h100 = randn(42, n, 270_336);
        close(&h100, &[0.194019, 2.161374, -0.172051, 0.849060]);
        for (e, value) in [
            (270_335, -0.652003),
            (270_336, -0.970190),
            (540_672, 1.923927),
            (811_008, -1.235621),
            (1_081_344, 0.139138),
            (n - 1, -0.590930),
        ] {
            close(&h100[e..=e], &[value]);
        }
        let rtx4090 = randn(42, n, 196_608);
        close(&rtx4090[n - 1..], &[-0.569323]);
        assert_eq!(rtx4090[..196_608], h100[..196_608]);
        assert!((rtx4090[196_608] - h100[196_608]).abs() > 1e-3);
    }

    #[test]
    fn every_element_follows_the_formula() {
        // Few threads, so that a short draw has several calls and a short last row.
        for (n, threads) in [
            (1, 256),
            (255, 512),
            (1025, 256),
            (5000, 512),
            (20_001, 4608),
        ] {
            let values = randn(9 << 40 | 3, n, threads);
            let launched = (n as u64).div_ceil(256).min(threads / 256) * 256;
            for (e, value) in values.into_iter().enumerate() {
                let (row, p) = (e as u64 / launched, e as u64 % launched);
                let expected = normals(9 << 40 | 3, row / 4, p as u32)[(row % 4) as usize];
                assert_eq!(value.to_bits(), expected.to_bits());
            }
        }
    }
}
