//! One video decoded and its frames made into JPEG, measured: our side of `scripts/dev/judge-frames`.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use super::clock::process_cpu_seconds;
use crate::judge::clip::{ClipLimits, decode};
use crate::judge::jpeg;
use crate::judge::sampling::FrameRule;

/// What it took. The processor time of decoding is that of a child process: whoever started this one can see it.
#[derive(Debug, Serialize)]
struct Extracted {
    frames_decoded: usize,
    frames_encoded: usize,
    /// Of all addresses with pictures inside, as they are sent.
    bytes: usize,
    decode_s: f64,
    encode_s: f64,
    encode_cpu_s: f64,
    encoding: &'static str,
}

/// Decodes the whole clip as a judge does; encodes the frames that the subnet takes, or `every` one.
pub(super) fn run(video: &Path, every: bool) -> Result<String> {
    let start = Instant::now();
    let clip = decode(video, &ClipLimits::default())?;
    let decode_s = start.elapsed().as_secs_f64();
    let count = clip.frames.len();
    let indices = if every {
        (0..count).collect()
    } else {
        FrameRule::default().indices(count, clip.fps)
    };
    let (start, cpu) = (Instant::now(), process_cpu_seconds());
    let mut bytes = 0;
    for frame in indices.iter().filter_map(|index| clip.frames.get(*index)) {
        let picture = jpeg::encode(frame).context("encoding a frame")?;
        bytes += jpeg::data_url("image/jpeg", &picture).len();
    }
    let extracted = Extracted {
        frames_decoded: count,
        frames_encoded: indices.len(),
        bytes,
        decode_s,
        encode_s: start.elapsed().as_secs_f64(),
        encode_cpu_s: process_cpu_seconds() - cpu,
        encoding: jpeg::ENCODING,
    };
    Ok(format!("{}\n", serde_json::to_string(&extracted)?))
}
