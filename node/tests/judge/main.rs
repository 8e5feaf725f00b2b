//! The judge against a server whose every answer is written down, through the real binary and through the library.
#![allow(clippy::unwrap_used, missing_docs)]

mod answers;
mod commands;
mod faults;
mod local;
mod mock;
#[path = "../audit/schema.rs"]
mod schema;
#[path = "../seen/mod.rs"]
mod seen;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use leoma_node::media::{Fps, Mp4Options, Mp4Writer, RgbImage8, write_png};
use serde_json::Value;

/// Frames of the clip.
const FRAMES: usize = 33;
const WIDTH: usize = 64;
const HEIGHT: usize = 48;

/// A frame in which something moves.
fn frame(number: usize) -> RgbImage8 {
    let pixels = (0..HEIGHT).flat_map(|y| {
        (0..WIDTH).flat_map(move |x| {
            let inside = (x + WIDTH - 2 * number % WIDTH) % WIDTH < 16 && (16..32).contains(&y);
            if inside {
                [220, 40, 40]
            } else {
                [(x * 3) as u8, (y * 4) as u8, 90]
            }
        })
    });
    RgbImage8::new(WIDTH, HEIGHT, pixels.collect()).unwrap()
}

/// A folder with `clip.mp4` and `first.png`.
struct Clip {
    folder: tempfile::TempDir,
}

impl Clip {
    fn new() -> Self {
        Self::of(frame)
    }

    /// Of other frames, by number.
    fn of(shown: impl Fn(usize) -> RgbImage8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Mp4Options {
            width: WIDTH as u32,
            height: HEIGHT as u32,
            fps: Fps::from(16),
            crf: 18,
            metadata: Vec::new(),
        };
        let mut writer = Mp4Writer::create(&folder.path().join("clip.mp4"), &options).unwrap();
        for number in 0..FRAMES {
            writer.push(shown(number).data()).unwrap();
        }
        writer.finish().unwrap();
        let first = folder.path().join("first.png");
        write_png(&first, WIDTH as u32, HEIGHT as u32, frame(0).data()).unwrap();
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// `leoma-node judge` on this clip.
    fn judge(&self, base: &str, more: &[&str]) -> Output {
        let mut command = command(self.path());
        command
            .args(["judge", "--video", "clip.mp4", "--first-frame", "first.png"])
            .args(["--prompt", "a red box moves over a table"])
            .args([
                "--base-url",
                base,
                "--remote-model",
                "m",
                "--state-dir",
                "state",
            ])
            .args(more);
        if !more.contains(&"--mode") {
            command.args(["--mode", "remote"]);
        }
        command.output().unwrap()
    }
}

/// The command with an environment that says nothing.
fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leoma-node"));
    command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("XDG_CONFIG_HOME", "/nonexistent");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LEOMA_NODE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Standard output as JSON.
fn json(output: &Output) -> Value {
    let parsed = serde_json::from_slice(&output.stdout);
    parsed.unwrap_or_else(|error| panic!("{error}: {}", shown(output)))
}

fn shown(output: &Output) -> String {
    format!(
        "{:?}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
