//! What work cost this process: processor time and memory, as the kernel counts them.

use rustix::time::{ClockId, clock_gettime};

/// Processor time of the calling thread so far, seconds.
pub(super) fn thread_cpu_seconds() -> f64 {
    seconds(ClockId::ThreadCPUTime)
}

/// Processor time of all threads of this process so far, seconds; without its children.
pub(super) fn process_cpu_seconds() -> f64 {
    seconds(ClockId::ProcessCPUTime)
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Most memory this process has had, MiB, where the kernel tells.
pub(super) fn peak_mib() -> Option<u64> {
    status_mib("VmHWM:")
}

/// Memory that this process has now, MiB, where the kernel tells.
pub(super) fn resident_mib() -> Option<u64> {
    status_mib("VmRSS:")
}

fn status_mib(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    parse_mib(&text, field)
}

fn parse_mib(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_processor_time_and_waiting_does_not() {
        let (thread, process) = (thread_cpu_seconds(), process_cpu_seconds());
        let start = std::time::Instant::now();
        let mut sum = 0_u64;
        // Until the thread has had 20 ms of processor time, however busy the machine is.
        while thread_cpu_seconds() - thread < 0.02 && start.elapsed().as_secs() < 60 {
            sum = (0..10_000).fold(sum, |sum, x| sum.rotate_left(5) ^ x);
        }
        assert_ne!(sum, 1);
        let worked = thread_cpu_seconds() - thread;
        assert!(worked >= 0.02, "{worked} s after {:?}", start.elapsed());
        assert!(worked <= start.elapsed().as_secs_f64() + 0.01, "{worked}");
        assert!(process_cpu_seconds() - process >= 0.02);

        let before = thread_cpu_seconds();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let slept = thread_cpu_seconds() - before;
        assert!((0.0..0.04).contains(&slept), "{slept}");
    }

    #[test]
    fn memory_is_counted_in_kib() {
        let text = "Name:\tx\nVmHWM:\t    3072 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(parse_mib(text, "VmHWM:"), Some(3));
        assert_eq!(parse_mib(text, "VmSwap:"), None);
        assert_eq!(parse_mib("VmHWM:\tmuch\n", "VmHWM:"), None);
        if let (Some(peak), Some(now)) = (peak_mib(), resident_mib()) {
            assert!(peak > 0 && now <= peak + 1, "{now} {peak}");
        }
    }
}
