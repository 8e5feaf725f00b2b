//! The parent: starts the child, waits so long and no longer, and says what its end means.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::SUBCOMMAND;
use super::child::ChildLimits;
use super::timing::{Timing, TimingError, timing};
use super::wire::{Caps, Received, Refusal, WireError, receive};
use crate::judge::clip::{ClipError, ClipLimits, DecodedClip};
use crate::media::RgbImage8;

/// What a build without FFmpeg answers.
pub(super) const NO_DECODER: &str = "this build cannot decode video: build with the default feature `ffmpeg` \
     (needs the development packages of libavcodec, libavformat, libavutil and libswscale)";

/// The only variable that the child gets: where libraries are found.
const PASSED_ON: &str = "LD_LIBRARY_PATH";

/// How long the end of a child may take once its pipe is closed.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The file of this program.
pub(in crate::judge) fn own_program() -> Result<PathBuf, ClipError> {
    // Stays right while the file is being replaced by an update.
    if cfg!(target_os = "linux") {
        return Ok(PathBuf::from("/proc/self/exe"));
    }
    std::env::current_exe().map_err(|error| ClipError::Local {
        message: format!("cannot find this program's own file: {error}"),
    })
}

/// Decodes `path` with a child of `program`.
pub(in crate::judge) fn decode(
    program: &Path,
    path: &Path,
    limits: &ClipLimits,
) -> Result<DecodedClip, ClipError> {
    if cfg!(not(feature = "ffmpeg")) {
        return Err(ClipError::Local {
            message: NO_DECODER.into(),
        });
    }
    let file = open(path, limits)?;
    let allowed = ChildLimits {
        max_frames: limits.max_frames as u64,
        max_pixels: limits.max_pixels,
        max_ms: (limits.max_seconds * 1000.0) as u64,
        memory_bytes: limits.memory_bytes,
        cpu_seconds: limits.cpu_seconds,
    };
    let mut command = Command::new(program);
    command
        .arg0("leoma-node")
        .arg(SUBCOMMAND)
        .args(allowed.arguments())
        .env_clear()
        .stdin(Stdio::from(file))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(value) = std::env::var_os(PASSED_ON) {
        command.env(PASSED_ON, value);
    }
    let child = command.spawn().map_err(|error| ClipError::Local {
        message: format!(
            "{} cannot be started to decode a video: {error}",
            program.display()
        ),
    })?;
    let mut child = Guard(child);
    let caps = Caps {
        max_frames: limits.max_frames,
        max_pixels: limits.max_pixels,
        max_decoded_bytes: limits.max_decoded_bytes,
        size: limits.size,
    };
    let received = watch(&mut child, caps, limits.patience);
    let of = Of { path, limits };
    match received {
        None => Err(of.timed_out(limits.patience.as_secs())),
        Some(Ok(received)) => of.assemble(received),
        Some(Err(error)) => Err(of.explain(error, &mut child)),
    }
}

/// Opens the file without waiting for what is no file, and looks at its size.
fn open(path: &Path, limits: &ClipLimits) -> Result<File, ClipError> {
    let unreadable = |source: io::Error| ClipError::Unreadable {
        path: path.to_owned(),
        source,
    };
    // A named pipe would keep a plain open waiting for a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        let kind = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(unreadable(kind));
    }
    if metadata.len() > limits.max_bytes {
        return Err(ClipError::TooManyBytes {
            path: path.to_owned(),
            found: metadata.len(),
            limit: limits.max_bytes,
        });
    }
    if metadata.len() == 0 {
        return Err(ClipError::NotVideo {
            path: path.to_owned(),
            message: "the file is empty".into(),
        });
    }
    Ok(file)
}

/// A child that does not outlive its owner.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only for a child that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads what the child sends; `None` when time is up.
fn watch(child: &mut Guard, caps: Caps, patience: Duration) -> Option<Result<Received, WireError>> {
    let Some(pipe) = child.0.stdout.take() else {
        return Some(Err(WireError::Ended));
    };
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        // The receiver is gone when time is up; then nobody waits for this.
        let _ = sender.send(receive(pipe, &caps));
    });
    match receiver.recv_timeout(patience) {
        Ok(outcome) => Some(outcome),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let _ = child.0.kill();
            // The pipe ends with the child, and the reader with the pipe.
            let _ = reader.join();
            None
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Some(Err(WireError::Ended)),
    }
}

/// The file and limits that errors speak of.
struct Of<'a> {
    path: &'a Path,
    limits: &'a ClipLimits,
}

impl Of<'_> {
    fn path(&self) -> PathBuf {
        self.path.to_owned()
    }

    fn timed_out(&self, limit_s: u64) -> ClipError {
        ClipError::TimedOut {
            path: self.path(),
            limit_s,
        }
    }

    fn not_video(&self, message: impl Into<String>) -> ClipError {
        ClipError::NotVideo {
            path: self.path(),
            message: message.into(),
        }
    }

    fn assemble(&self, received: Received) -> Result<DecodedClip, ClipError> {
        let Some(header) = received.header.filter(|_| !received.frames.is_empty()) else {
            return Err(ClipError::NoFrames { path: self.path() });
        };
        let found = received.frames.len();
        let needed = self.limits.min_frames.max(2);
        if found < needed {
            return Err(ClipError::TooFewFrames {
                path: self.path(),
                found,
                needed,
            });
        }
        let times = timing(&received.times, header.time_base, header.announced);
        let Timing { fps, times_s } = times.map_err(|error| match error {
            TimingError::Variable { shortest, longest } => ClipError::VariableRate {
                path: self.path(),
                shortest_ms: 1000.0 * shortest,
                longest_ms: 1000.0 * longest,
            },
            TimingError::Missing => self.not_video("it has no frame rate"),
        })?;
        let (width, height) = (header.width as usize, header.height as usize);
        let frames: Result<Vec<RgbImage8>, _> = received
            .frames
            .into_iter()
            .map(|data| RgbImage8::new(width, height, data))
            .collect();
        Ok(DecodedClip {
            frames: frames.map_err(|error| self.not_video(error.to_string()))?,
            fps,
            times_s,
            codec: header.codec,
            damaged_packets: received.damaged,
        })
    }

    fn explain(&self, error: WireError, child: &mut Guard) -> ClipError {
        let path = self.path();
        let limits = self.limits;
        match error {
            WireError::Refused(refusal) => self.refused(refusal),
            WireError::WrongSize(width, height) => match limits.size {
                Some(needed) => ClipError::WrongSize {
                    path,
                    width,
                    height,
                    needed,
                },
                None => self.not_video(format!("its size is {width}x{height}")),
            },
            WireError::Memory => ClipError::OutOfMemory {
                path,
                limit_bytes: limits.max_decoded_bytes,
            },
            WireError::Nonsense(what) => ClipError::Local {
                message: format!(
                    "the decoding process sent {what}: the program that was started is not this build of leoma-node"
                ),
            },
            WireError::Ended => match last_status(&mut child.0) {
                Some(status) if status.signal() == Some(libc::SIGXCPU) => {
                    self.timed_out(limits.cpu_seconds)
                }
                Some(status) => ClipError::Crashed {
                    path,
                    how: describe(status),
                },
                None => ClipError::Crashed {
                    path,
                    how: "it closed its output and went on running".into(),
                },
            },
        }
    }

    fn refused(&self, refusal: Refusal) -> ClipError {
        let path = self.path();
        let limits = self.limits;
        match refusal {
            Refusal::NotVideo(message) => self.not_video(message),
            Refusal::TooLong(ms) => ClipError::TooLong {
                path,
                seconds: ms as f64 / 1000.0,
                limit: limits.max_seconds,
            },
            Refusal::TooManyFrames => ClipError::TooManyFrames {
                path,
                limit: limits.max_frames,
            },
            Refusal::TooLarge(width, height) => ClipError::TooLarge {
                path,
                width,
                height,
                max_pixels: limits.max_pixels,
                max_decoded_bytes: limits.max_decoded_bytes,
            },
            Refusal::SizeChanges(frame) => ClipError::SizeChanges { path, frame },
            Refusal::Memory => ClipError::OutOfMemory {
                path,
                limit_bytes: limits.memory_bytes,
            },
            Refusal::Local(message) => ClipError::Local { message },
        }
    }
}

/// How a child ended whose pipe is closed; `None` when it goes on.
fn last_status(child: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < LAST_WORDS {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(_) => return None,
        }
    }
    None
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "no exit code".into(),
    }
}
