//! Process CPU time and resident memory, read from the operating system (Linux).

use std::fs;
use std::time::Instant;

use crate::measure::Sample;

/// Runs `work` and measures elapsed and CPU time of this process around it.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Sample) {
    let cpu = cpu_seconds();
    let start = Instant::now();
    let value = work();
    let wall_s = start.elapsed().as_secs_f64();
    (
        value,
        Sample {
            wall_s,
            cpu_s: cpu_seconds() - cpu,
        },
    )
}

/// User and system time of all threads and of all children waited for, in seconds.
pub(crate) fn cpu_seconds() -> f64 {
    usage_seconds(libc::RUSAGE_SELF) + usage_seconds(libc::RUSAGE_CHILDREN)
}

// The standard library has no CPU clock.
#[allow(unsafe_code)]
fn usage_seconds(who: libc::c_int) -> f64 {
    // SAFETY: `rusage` is plain integers, for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, writable `rusage`.
    if unsafe { libc::getrusage(who, &raw mut usage) } != 0 {
        return f64::NAN;
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Gives memory that the allocator keeps for later back to the system, so that a base line holds
/// only what is alive.
#[allow(unsafe_code)]
pub(crate) fn trim_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers; safe to call at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Resident memory now, in bytes.
pub(crate) fn resident_bytes() -> u64 {
    status_bytes("VmRSS:")
}

/// Most resident memory since the start or the last reset, in bytes.
pub(crate) fn peak_resident_bytes() -> u64 {
    status_bytes("VmHWM:")
}

/// Makes [`peak_resident_bytes`] start anew. False when the system does not allow it.
pub(crate) fn reset_peak() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Most resident memory of another process so far, in bytes; `None` when it is gone.
pub(crate) fn peak_resident_bytes_of(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    Some(parse_status(&text, "VmHWM:"))
}

fn status_bytes(field: &str) -> u64 {
    fs::read_to_string("/proc/self/status")
        .map(|text| parse_status(&text, field))
        .unwrap_or(0)
}

/// Finds `field` in the text of `/proc/<pid>/status`; the kernel counts in KiB.
fn parse_status(text: &str, field: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_fields_are_kib() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(parse_status(text, "VmRSS:"), 1 << 20);
        assert_eq!(parse_status(text, "VmHWM:"), 2 << 20);
        assert_eq!(parse_status(text, "VmSwap:"), 0);
    }

    #[test]
    fn busy_work_costs_cpu_time() {
        let (sum, sample) = timed(|| (0..30_000_000u64).fold(0u64, |a, b| a.rotate_left(3) ^ b));
        assert_ne!(sum, 0);
        assert!(sample.wall_s > 0.0 && sample.cpu_s > 0.0, "{sample:?}");
    }

    #[test]
    fn touched_memory_shows_in_the_peak() {
        let before = resident_bytes();
        let block = vec![1u8; 64 << 20];
        let during = peak_resident_bytes();
        assert!(block.iter().step_by(4096).all(|&byte| byte == 1));
        assert!(
            before > 0 && during >= before.min(64 << 20),
            "{before} {during}"
        );
        assert!(during >= 64 << 20, "{during}");
    }
}
