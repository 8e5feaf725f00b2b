//! The child: limits itself, decodes standard input, writes to standard output.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::AsFd;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::wire::{Refusal, Sender};

/// What the child may do; handed over on its command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChildLimits {
    pub(super) max_frames: u64,
    pub(super) max_pixels: u64,
    pub(super) max_ms: u64,
    pub(super) memory_bytes: u64,
    pub(super) cpu_seconds: u64,
}

impl ChildLimits {
    /// The command line for them.
    pub(super) fn arguments(&self) -> [String; 5] {
        [
            self.max_frames,
            self.max_pixels,
            self.max_ms,
            self.memory_bytes,
            self.cpu_seconds,
        ]
        .map(|value| value.to_string())
    }

    fn parse(arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let values: Option<Vec<u64>> = arguments
            .map(|value| value.to_str().and_then(|text| text.parse().ok()))
            .collect();
        let [max_frames, max_pixels, max_ms, memory_bytes, cpu_seconds] =
            values?.try_into().ok()?;
        Some(Self {
            max_frames,
            max_pixels,
            max_ms,
            memory_bytes,
            cpu_seconds,
        })
    }

    /// Makes them hold for this process, for good.
    fn enforce(&self) -> io::Result<()> {
        let both = |value: u64| Rlimit {
            current: Some(value),
            maximum: Some(value),
        };
        let memory = own_size().saturating_add(self.memory_bytes);
        setrlimit(Resource::As, both(memory))?;
        // The first signal says what happened; the second cannot be caught.
        let time = Rlimit {
            current: Some(self.cpu_seconds),
            maximum: Some(self.cpu_seconds + 1),
        };
        setrlimit(Resource::Cpu, time)?;
        // No file can be written, not even a core dump; what is open stays open.
        setrlimit(Resource::Fsize, both(0))?;
        setrlimit(Resource::Core, both(0))?;
        setrlimit(Resource::Nofile, both(16))?;
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{Signal, set_parent_process_death_signal};
            // A parent that is killed must not leave a decoder behind.
            set_parent_process_death_signal(Some(Signal::KILL))?;
        }
        Ok(())
    }
}

/// Address space of this process as it starts, bytes: its libraries, which with CUDA are larger than any video.
/// Zero where the kernel does not tell.
fn own_size() -> u64 {
    let size = |text: String| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let kib = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(size);
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Exit codes: a stream or a refusal was written; it could not be; the command line is wrong.
const PIPE_BROKEN: u8 = 3;
const USAGE: u8 = 2;

/// Runs the child. `arguments` follow the subcommand.
pub(super) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(limits) = ChildLimits::parse(arguments) else {
        return ExitCode::from(USAGE);
    };
    // Standard output is line-buffered, which costs a search through every frame.
    let (Ok(input), Ok(output)) = (
        io::stdin().as_fd().try_clone_to_owned(),
        io::stdout().as_fd().try_clone_to_owned(),
    ) else {
        return ExitCode::from(PIPE_BROKEN);
    };
    let mut sender = Sender(BufWriter::new(File::from(output)));
    let outcome = match limits.enforce() {
        Ok(()) => decode(File::from(input), &limits, &mut sender),
        Err(error) => Err(Stop::Refused(Refusal::Local(format!(
            "the limits of the decoding process cannot be set: {error}"
        )))),
    };
    let sent = match outcome {
        Ok(()) => Ok(()),
        Err(Stop::Refused(refusal)) => sender.refuse(&refusal),
        Err(Stop::Pipe(error)) => Err(error),
    };
    match sent {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(PIPE_BROKEN),
    }
}

/// Why decoding ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// Something to tell the parent.
    Refused(Refusal),
    /// The parent is gone.
    #[cfg_attr(not(feature = "ffmpeg"), allow(dead_code))]
    Pipe(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Pipe(error)
    }
}

#[cfg(feature = "ffmpeg")]
use super::source::decode;

#[cfg(not(feature = "ffmpeg"))]
fn decode<W: io::Write>(_: File, _: &ChildLimits, _: &mut Sender<W>) -> Result<(), Stop> {
    Err(Stop::Refused(Refusal::Local(
        super::parent::NO_DECODER.into(),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_survive_the_command_line() {
        let limits = ChildLimits {
            max_frames: 1,
            max_pixels: 2,
            max_ms: 3,
            memory_bytes: 4,
            cpu_seconds: u64::MAX,
        };
        let arguments = limits.arguments().map(OsString::from);
        assert_eq!(ChildLimits::parse(arguments.into_iter()), Some(limits));
        for wrong in [
            &["1"][..],
            &["1", "2", "3", "4", "x"],
            &["1", "2", "3", "4", "5", "6"],
        ] {
            assert_eq!(ChildLimits::parse(wrong.iter().map(OsString::from)), None);
        }
    }
}
