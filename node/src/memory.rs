//! How much memory there is to be had: of the machine, of the group the process is in, of the device.

use std::path::{Path, PathBuf};

use candle_core::Device;

/// Bytes of the machine's memory that this process could still take, without pushing anything out: what
/// the system calls available, and no more than the tightest group around the process leaves.
pub fn host_available() -> Option<u64> {
    let system = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| meminfo(&text, "MemAvailable"));
    let group = std::fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| tightest(&text, Path::new("/sys/fs/cgroup")))
        .map(|(limit, used)| limit.saturating_sub(used));
    match (system, group) {
        (Some(system), Some(group)) => Some(system.min(group)),
        (system, group) => system.or(group),
    }
}

/// Bytes of an accelerator's memory that nobody has taken; none for the CPU.
#[cfg(not(feature = "cuda"))]
pub fn device_available(_: &Device) -> Option<u64> {
    None
}

/// Bytes of an accelerator's memory that nobody has taken; none for the CPU.
#[cfg(feature = "cuda")]
pub fn device_available(device: &Device) -> Option<u64> {
    let Device::Cuda(cuda) = device else {
        return None;
    };
    let (free, _) = cuda.cuda_stream().context().mem_get_info().ok()?;
    Some(free as u64)
}

/// Bytes that a line like `MemTotal:  123 kB` speaks of.
pub(crate) fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// The limit that leaves least, and what is used of it, over this group and those around it.
///
/// Used is what cannot be given back: cached files of the group go when memory is wanted.
pub(crate) fn tightest(groups: &str, root: &Path) -> Option<(u64, u64)> {
    let mut folders: Vec<(PathBuf, &str, &str)> = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (base, limit, used) = if controllers.is_empty() {
            (root.to_owned(), "memory.max", "memory.current")
        } else if controllers.split(',').any(|name| name == "memory") {
            let names = ("memory.limit_in_bytes", "memory.usage_in_bytes");
            (root.join("memory"), names.0, names.1)
        } else {
            continue;
        };
        let path = Path::new(path.trim_start_matches('/'));
        folders.extend(path.ancestors().map(|part| (base.join(part), limit, used)));
    }
    let number =
        |path: PathBuf| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    folders
        .into_iter()
        .filter_map(|(folder, limit, used)| {
            let limit = number(folder.join(limit))?;
            let used = number(folder.join(used)).unwrap_or(0);
            Some((limit, used.saturating_sub(cached_files(&folder))))
        })
        // Version 1 writes "no limit" as a number near 2^63.
        .filter(|(limit, _)| *limit < 1 << 60)
        .min_by_key(|(limit, used)| limit.saturating_sub(*used))
}

/// Bytes of a group's cached files that nobody has open for writing back.
fn cached_files(folder: &Path) -> u64 {
    let Ok(text) = std::fs::read_to_string(folder.join("memory.stat")) else {
        return 0;
    };
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file "));
    line.and_then(|bytes| bytes.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn memory_is_read_from_proc() {
        let text = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    500 kB\n";
        assert_eq!(meminfo(text, "MemAvailable"), Some(512_000));
        assert_eq!(meminfo(text, "Mem"), None);
        assert_eq!(meminfo("MemTotal: x kB", "MemTotal"), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("a/memory.max", "1000\n");
        put("a/memory.current", "990\n");
        put("a/memory.stat", "anon 5\ninactive_file 90\n");
        put("a/b/memory.max", "max\n");
        put("a/b/c/memory.max", "500\n");
        put("a/b/c/memory.current", "100\n");
        put("memory/d/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(tightest("0::/a/b/c\n", root.path()), Some((1000, 900)));
        assert_eq!(tightest("4:cpu,memory:/d\n", root.path()), None);
        assert_eq!(tightest("nonsense\n", root.path()), None);
    }
}
