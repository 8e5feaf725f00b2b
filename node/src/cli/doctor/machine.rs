//! Checks of the machine: processor, memory, limits, clock, port.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use leoma_models::Isa;
use rustix::process::{Resource, getrlimit};

use super::{Finding, Subject, human};
use crate::memory::{meminfo, tightest};

/// Room for activations and the program, besides the weights.
const BESIDES_WEIGHTS: f64 = 1.25;

pub(super) fn cpu(_: &Subject) -> Finding {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let isa = Isa::current().name();
    let found = format!("{threads} thread(s), {isa} kernels");
    if isa == "scalar" {
        return Finding::poor(
            found,
            "computing on this CPU is slow: use one with AVX2, unset LEOMA_KERNELS_ISA, or compute on a GPU",
        );
    }
    Finding::good(found)
}

/// Bytes of memory of the host that the settings ask for, where that can be told.
fn needed(subject: &Subject) -> Option<u64> {
    let weights = subject.weights()?;
    // With a card, the host holds one tensor at a time.
    (!subject.uses_card()).then_some((weights as f64 * BESIDES_WEIGHTS) as u64)
}

const LESS_MEMORY: &str =
    "use --dtype bf16, --offload blocks, a smaller model, or a machine with more memory";

fn enough(found: String, available: u64, subject: &Subject) -> Finding {
    match needed(subject) {
        Some(needed) if needed > available => Finding::bad(
            format!("{found}; about {} are needed", human(needed)),
            LESS_MEMORY,
        ),
        Some(needed) => Finding::good(format!("{found}; about {} are needed", human(needed))),
        None => Finding::good(found),
    }
}

pub(super) fn memory(subject: &Subject) -> Finding {
    let Ok(text) = std::fs::read_to_string("/proc/meminfo") else {
        return Finding::skip("/proc/meminfo cannot be read");
    };
    let (Some(total), Some(available)) =
        (meminfo(&text, "MemTotal"), meminfo(&text, "MemAvailable"))
    else {
        return Finding::skip("/proc/meminfo does not tell");
    };
    let found = format!("{} of {} available", human(available), human(total));
    enough(found, available, subject)
}

pub(super) fn cgroup(subject: &Subject) -> Finding {
    let Ok(text) = std::fs::read_to_string("/proc/self/cgroup") else {
        return Finding::skip("/proc/self/cgroup cannot be read");
    };
    match tightest(&text, Path::new("/sys/fs/cgroup")) {
        Some((limit, used)) => {
            let found = format!("limit of {}, {} used", human(limit), human(used));
            enough(found, limit.saturating_sub(used), subject)
        }
        None => Finding::good("no memory limit"),
    }
}

pub(super) fn open_files(subject: &Subject) -> Finding {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return Finding::good("no limit");
    };
    // A connection, and beside them weight files, database, clips.
    let needed = subject.connections + 256;
    let found = format!("at most {limit} open files");
    if limit < needed {
        return Finding::bad(
            format!(
                "{found}; --max-connections {} needs {needed}",
                subject.connections
            ),
            format!(
                "`ulimit -n {needed}`, LimitNOFILE={needed} in a systemd unit, or fewer connections"
            ),
        );
    }
    Finding::good(found)
}

pub(super) fn shm(_: &Subject) -> Finding {
    let Ok(stat) = rustix::fs::statvfs("/dev/shm") else {
        return Finding::skip("no /dev/shm");
    };
    let total = stat.f_blocks * stat.f_frsize;
    let found = format!("/dev/shm has {}", human(total));
    if total < 64 << 20 {
        return Finding::poor(found, "give the container more: --shm-size=1g");
    }
    Finding::good(found)
}

/// Runs a program that only reports, and gives up on it after a while.
pub(super) fn ask(program: &str, args: &[&str]) -> Option<String> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => {
                // A driver that hangs would hang this command, too.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    let mut text = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut()?, &mut text).ok()?;
    status.success().then(|| text.trim().to_owned())
}

pub(super) fn clock(_: &Subject) -> Finding {
    let timedate = ask("timedatectl", &["show", "-p", "NTPSynchronized", "--value"]);
    let synchronised = match timedate.as_deref() {
        Some("yes") => Some(true),
        Some("no") => Some(false),
        _ => ask("chronyc", &["-n", "tracking"]).map(|text| {
            text.lines()
                .any(|line| line.starts_with("Leap status") && line.ends_with("Normal"))
        }),
    };
    match synchronised {
        Some(true) => Finding::good("the clock is synchronised"),
        Some(false) => Finding::poor(
            "the clock is not synchronised",
            "`timedatectl set-ntp true`, or install chrony",
        ),
        None => Finding::skip("neither timedatectl nor chronyc tells"),
    }
}

pub(super) fn port(subject: &Subject) -> Finding {
    let address = SocketAddr::new(subject.host, subject.port);
    match TcpListener::bind(address) {
        Ok(_) if subject.port == 0 => Finding::good("any free port"),
        Ok(_) => Finding::good(format!("{address} is free")),
        Err(error) => Finding::bad(
            format!("{address} cannot be listened on: {error}"),
            "stop what listens there, or choose another with --port",
        ),
    }
}
