//! `leoma-node judge bench`: what the signals see, what they and a local model cost, and how far a judge agrees with
//! people.

mod clock;
mod extract;
mod human;
mod local;

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};
use rayon::prelude::*;

use clock::{peak_mib, thread_cpu_seconds};

use super::weights::LocalArgs;

use crate::judge::clip::{Clip, ClipLimits, decode};
use crate::judge::embeddings::embedding_table;
use crate::judge::metamorphic::{
    Damage, GeneratedClip, Kind, Sample, Setting, Shape, Split, damage_table, gate_table, generate,
    results, sample, signal_table,
};
use crate::judge::signals::measure;
use crate::judge::signals::thresholds::Thresholds;
use crate::media::{Fps, Mp4Options, Mp4Writer};

/// Clips that generated clips are measured on, and how many.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Size of the generated clips.
    #[arg(long, value_name = "WxH", default_value = "160x96")]
    size: Size,
    /// Frames per clip.
    #[arg(long, value_name = "N", default_value_t = 33,
          value_parser = clap::value_parser!(u32).range(8..=600))]
    frames: u32,
    /// Frames per second.
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=120))]
    fps: u32,
    /// Clips of each kind of motion.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clips: u32,
    /// Which seeds: those that thresholds are set on, or those that figures are reported on.
    #[arg(long, value_enum, default_value_t = Seeds::Report)]
    seeds: Seeds,
    /// Print the tables of signals, damages and gates as well.
    #[arg(long)]
    describe: bool,
    /// Print what the signals of one 81-frame 832x480 clip and the local model cost, and measure nothing else.
    #[arg(long)]
    cost_only: bool,
    /// Judgements of one clip that are measured, after one that is not, where there is a local model.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=100),
          help_heading = "Local judge")]
    rounds: u32,
    #[command(flatten)]
    local: LocalArgs,
    #[command(flatten)]
    human: human::HumanArgs,
    /// Decode this video and encode the frames that the subnet takes of it, and nothing else; prints JSON.
    #[arg(long, value_name = "VIDEO", help_heading = "Frames")]
    extract: Option<PathBuf>,
    /// Encode every frame, not only those.
    #[arg(long, requires = "extract", help_heading = "Frames")]
    every_frame: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Seeds {
    Thresholds,
    Report,
}

impl From<Seeds> for Split {
    fn from(seeds: Seeds) -> Self {
        match seeds {
            Seeds::Thresholds => Self::Thresholds,
            Seeds::Report => Self::Report,
        }
    }
}

/// `160x96`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    width: usize,
    height: usize,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| text.parse().ok().filter(|side| (64..=2048).contains(side));
        text.split_once('x')
            .and_then(|(width, height)| Some((side(width)?, side(height)?)))
            .map(|(width, height)| Self { width, height })
            .ok_or_else(|| "write WIDTHxHEIGHT, each from 64 to 2048".into())
    }
}

/// The clip that costs are told for: that of the subnet.
const COST_SHAPE: Shape = Shape {
    width: 832,
    height: 480,
    frames: 81,
    fps: 16.0,
};

pub(super) fn run(args: &BenchArgs) -> Result<ExitCode> {
    let text = if let Some(video) = &args.extract {
        extract::run(video, args.every_frame)?
    } else if args.human.human.is_some() {
        human::run(&args.human)?
    } else {
        let mut text = signals(args);
        let local = local::run(&args.local, args.rounds)?;
        if !local.is_empty() {
            text.push('\n');
            text.push_str(&local);
        }
        text
    };
    crate::cli::output(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The tables of the signals, and what they cost.
fn signals(args: &BenchArgs) -> String {
    let mut text = String::new();
    if args.describe {
        for table in [
            signal_table(),
            embedding_table(),
            damage_table(),
            gate_table(&Thresholds::default()),
        ] {
            text.push_str(&table);
            text.push('\n');
        }
    }
    if !args.cost_only {
        text.push_str(&suite(args));
        text.push('\n');
    }
    text.push_str(&cost());
    text
}

fn suite(args: &BenchArgs) -> String {
    let setting = Setting {
        shape: Shape {
            width: args.size.width,
            height: args.size.height,
            frames: args.frames as usize,
            fps: f64::from(args.fps),
        },
        clips: args.clips as usize,
        split: args.seeds.into(),
    };
    let cases: Vec<(Kind, u64)> = Kind::ALL
        .into_iter()
        .flat_map(|kind| (0..setting.clips).map(move |index| (kind, setting.split.seed(index))))
        .collect();
    let done = AtomicUsize::new(0);
    let samples: Vec<Sample> = cases
        .par_iter()
        .filter_map(|(kind, seed)| {
            // The options have ranges, so every shape can be painted.
            let sample = sample(*kind, *seed, &setting.shape, &Damage::ALL);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, cases.len());
            sample
        })
        .collect();
    results(&setting, &samples, &Thresholds::default())
}

/// Every tenth clip, so that a log stays readable.
#[allow(clippy::print_stderr)]
fn progress(done: usize, all: usize) {
    if done.is_multiple_of(10) || done == all {
        eprintln!("{done} of {all} clips with their damaged copies");
    }
}

/// Time and memory of one clip's signals, on one thread.
fn cost() -> String {
    let Some(clip) = generate(Kind::Articulated, 1, &COST_SHAPE) else {
        return String::new();
    };
    let clip_mib = clip
        .frames
        .iter()
        .map(|frame| frame.data().len())
        .sum::<usize>()
        >> 20;
    let (wall, cpu) = (Instant::now(), thread_cpu_seconds());
    let measured = measure(&Clip {
        frames: &clip.frames,
        fps: clip.fps,
        first: &clip.first,
    });
    let wall = wall.elapsed().as_secs_f64();
    let cpu = thread_cpu_seconds() - cpu;
    let signals = measured.map_or(0, |signals| signals.iter().count());
    let peak = peak_mib().map_or_else(String::new, |mib| {
        format!("; peak memory of this process {mib} MiB, {clip_mib} of them the clip")
    });
    let Shape {
        width,
        height,
        frames,
        ..
    } = COST_SHAPE;
    format!(
        "Cost of the {signals} signals of one {frames}-frame {width}x{height} clip: {cpu:.2} s of processor \
         time, {wall:.2} s on the clock, one thread{peak}.\n{}",
        decoding(&clip)
    )
}

/// Time of decoding the clip in a child process; nothing in a build that cannot encode it first.
fn decoding(clip: &GeneratedClip) -> String {
    let timed = || -> Option<(f64, usize)> {
        let folder = tempfile::tempdir().ok()?;
        let path = folder.path().join("clip.mp4");
        let options = Mp4Options {
            width: COST_SHAPE.width as u32,
            height: COST_SHAPE.height as u32,
            fps: Fps::from(COST_SHAPE.fps as u32),
            crf: 20,
            metadata: Vec::new(),
        };
        let mut writer = Mp4Writer::create(&path, &options).ok()?;
        for frame in &clip.frames {
            writer.push(frame.data()).ok()?;
        }
        writer.finish().ok()?;
        let start = Instant::now();
        let decoded = decode(&path, &ClipLimits::default()).ok()?;
        Some((start.elapsed().as_secs_f64(), decoded.frames.len()))
    };
    timed().map_or_else(String::new, |(seconds, frames)| {
        format!("Decoding it from H.264 (CRF 20) in the child process: {frames} frames in {seconds:.2} s on the clock.\n")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_are_checked() {
        let size: Size = "832x480".parse().unwrap();
        assert_eq!((size.width, size.height), (832, 480));
        for wrong in ["832", "832x", "63x64", "64x4096", "-1x64", "axb"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}
