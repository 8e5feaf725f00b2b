//! Makes a tiny random judge, lets it judge a clip made here, and writes what that was made from: something for
//! `scripts/golden/judge_compare.py` to hold against transformers, with weights and pictures of any seed.
//!
//! ```sh
//! cargo run -p leoma-models --example judge_dump -- /tmp/judge /tmp/dump.safetensors 7 tied
//! python scripts/golden/judge_compare.py /tmp/dump.safetensors /tmp/judge
//! ```
#![allow(clippy::print_stdout)]

use std::path::Path;

use candle_core::Device;
use leoma_models::judge::rubric::JudgedClip;
use leoma_models::judge::{Frame, LocalJudge};
use leoma_models::tiny::make_tiny_judge;
use leoma_models::{Error, Precision, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, dump, seed, head] = &arguments[..] else {
        return Err(Error::caller(
            "arguments",
            "four are needed: a new folder for the model, a file for the dump, a seed, `tied` or `untied`",
        ));
    };
    let seed: u64 = seed
        .parse()
        .map_err(|_| Error::caller("seed", format!("{seed} is no number")))?;
    make_tiny_judge(head == "tied", seed, Path::new(model))?;
    let judge = LocalJudge::open(model, Precision::F32, &Device::Cpu)?;

    let (height, width) = (72 + seed as usize % 60, 100 + seed as usize % 90);
    let pictures: Vec<Vec<u8>> = (0..8)
        .map(|index| picture(seed + index, height, width))
        .collect();
    let frames = pictures
        .iter()
        .map(|pixels| Frame::new(pixels, height, width))
        .collect::<Result<Vec<_>>>()?;
    let (first, frames) = frames
        .split_first()
        .ok_or_else(|| Error::local("no pictures were made"))?;
    let run = judge.rubric(&JudgedClip {
        first: *first,
        frames,
        indices: &[2, 7, 13, 18, 23, 29, 34],
        fps: 16.0,
        prompt: "a red panda rides a \"bicycle\"; 静止的画面",
    })?;
    for reading in &run.readings {
        println!(
            "{:22} {:5.1}  mass {:.3}  confidence {:.3}",
            reading.key, reading.score, reading.mass, reading.confidence
        );
    }
    println!(
        "{} tokens, {} of them vision, {} bytes of cache",
        run.sequence.len(),
        run.vision_tokens(),
        run.cache_bytes
    );
    run.save(dump)
}

/// Waves of a frequency and direction that depend on the seed, with some grain.
fn picture(seed: u64, height: usize, width: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut grain = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 56) as f64 / 12.0
    };
    let (across, down) = ((seed % 7 + 1) as f64 / 20.0, (seed % 5 + 1) as f64 / 15.0);
    let mut pixels = Vec::with_capacity(height * width * 3);
    for y in 0..height {
        for x in 0..width {
            for colour in 0..3 {
                let phase = x as f64 * across + y as f64 * down + f64::from(colour);
                pixels.push((110.0 + 100.0 * phase.sin() + grain()) as u8);
            }
        }
    }
    pixels
}
