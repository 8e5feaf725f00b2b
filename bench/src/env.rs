//! What a result depends on besides the code: machine, compiler, versions, load.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The conditions of a comparison with a Python peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// This machine and this program.
    #[serde(flatten)]
    pub(crate) machine: Machine,
    /// Threads of the Python side, as PyTorch reports them.
    pub(crate) peer_threads: usize,
    /// Python, torch, diffusers, transformers.
    pub(crate) peer_versions: BTreeMap<String, String>,
}

/// The machine and the program. Holds nothing that names the machine or its owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Processor as it names itself.
    pub(crate) cpu_model: String,
    /// Cores this process may use.
    pub(crate) cores: usize,
    /// Instruction sets that matter to numeric code.
    pub(crate) cpu_flags: Vec<String>,
    /// Memory of the machine in bytes.
    pub(crate) memory_bytes: u64,
    /// Operating system kernel.
    pub(crate) kernel: String,
    /// Compiler of this program.
    pub(crate) rustc: String,
    /// Target features the compiler was allowed to assume.
    pub(crate) target_features: String,
    /// Cargo profile: figures of anything but `release` mean little.
    pub(crate) profile: String,
    /// Commit of the working directory, `-dirty` when files differ from it.
    pub(crate) git: String,
    /// Threads of the Rust side.
    pub(crate) threads: usize,
    /// One-minute load average before the first case.
    pub(crate) load_average: f64,
}

impl Environment {
    /// Reads the machine; `hello` is the peer's first answer.
    pub(crate) fn read(threads: usize, hello: &Value) -> Self {
        Self {
            machine: Machine::read(threads),
            peer_threads: hello["threads"].as_u64().unwrap_or(0) as usize,
            peer_versions: serde_json::from_value(hello["versions"].clone()).unwrap_or_default(),
        }
    }
}

impl Machine {
    /// Reads the machine.
    pub(crate) fn read(threads: usize) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            cpu_model: cpu_field(&cpuinfo, "model name"),
            cores: available_cores(),
            cpu_flags: numeric_flags(&cpu_field(&cpuinfo, "flags")),
            memory_bytes: memory_bytes(),
            kernel: read_trimmed("/proc/sys/kernel/osrelease"),
            rustc: env!("LEOMA_BENCH_RUSTC").to_owned(),
            target_features: env!("LEOMA_BENCH_TARGET_FEATURES").to_owned(),
            profile: env!("LEOMA_BENCH_PROFILE").to_owned(),
            git: git_revision(),
            threads,
            load_average: load_average(),
        }
    }

    /// Short name of the kind of machine: processor and thread count.
    pub(crate) fn label(&self) -> String {
        format!("{}-{}t", slug(&self.cpu_model), self.threads)
    }
}

/// Cores this process may use.
pub(crate) fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// One-minute load average; NaN when unknown.
pub(crate) fn load_average() -> f64 {
    read_trimmed("/proc/loadavg")
        .split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(f64::NAN)
}

/// CPU time that all processes together have used since the machine started, in seconds.
pub(crate) fn machine_cpu_seconds() -> f64 {
    // The kernel counts in ticks of USER_HZ, 100 per second on every Linux that runs this.
    busy_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default()) as f64 / 100.0
}

/// Sum of user, nice, system, irq, softirq and steal on the first line of `/proc/stat`.
fn busy_ticks(stat: &str) -> u64 {
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .map(|rest| {
            rest.split_whitespace()
                .filter_map(|field| field.parse().ok())
                .collect()
        })
        .unwrap_or_default();
    [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|&index| fields.get(index))
        .sum()
}

/// Today in UTC as `2026-01-31`.
pub(crate) fn today() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    date_of_day(seconds / 86_400)
}

/// Calendar date of a day counted from 1970-01-01, by walking years and months.
fn date_of_day(mut day: u64) -> String {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", day + 1)
}

fn read_trimmed(path: &str) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn cpu_field(cpuinfo: &str, name: &str) -> String {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

fn numeric_flags(flags: &str) -> Vec<String> {
    flags
        .split_whitespace()
        .filter(|flag| {
            ["avx", "amx", "fma", "f16c"]
                .iter()
                .any(|prefix| flag.starts_with(prefix))
        })
        .map(str::to_owned)
        .collect()
}

fn memory_bytes() -> u64 {
    read_trimmed("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

fn git_revision() -> String {
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git").args(arguments).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}-dirty"),
    }
}

/// Lower-case letters and digits, everything else one hyphen.
pub(crate) fn slug(text: &str) -> String {
    let mut slug = String::new();
    for character in text.chars().flat_map(char::to_lowercase) {
        if character.is_ascii_alphanumeric() {
            slug.push(character);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.trim_end_matches('-').to_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn machine() -> Machine {
        Machine {
            cpu_model: "Test CPU".into(),
            cores: 2,
            cpu_flags: vec!["avx2".into()],
            memory_bytes: 8 << 30,
            kernel: "6.0".into(),
            rustc: "rustc 1.95.0".into(),
            target_features: "sse2".into(),
            profile: "release".into(),
            git: "0123456789ab".into(),
            threads: 2,
            load_average: 0.5,
        }
    }

    #[test]
    fn dates() {
        assert_eq!(date_of_day(0), "1970-01-01");
        assert_eq!(date_of_day(59), "1970-03-01");
        assert_eq!(date_of_day(11_016), "2000-02-29");
        assert_eq!(date_of_day(20_454), "2026-01-01");
        assert_eq!(date_of_day(20_453), "2025-12-31");
    }

    #[test]
    fn slugs_name_no_odd_characters() {
        assert_eq!(
            slug("Intel(R) Xeon(R) CPU @ 2.20GHz"),
            "intel-r-xeon-r-cpu-2-20ghz"
        );
        assert_eq!(slug("AMD EPYC"), "amd-epyc");
    }

    #[test]
    fn cpuinfo_fields_and_flags() {
        let text =
            "processor\t: 0\nmodel name\t: Some CPU 9000\nflags\t\t: fpu avx2 sse fma avx512f\n";
        assert_eq!(cpu_field(text, "model name"), "Some CPU 9000");
        assert_eq!(
            numeric_flags(&cpu_field(text, "flags")),
            ["avx2", "fma", "avx512f"]
        );
    }

    #[test]
    fn busy_time_leaves_out_idle_and_guest() {
        assert_eq!(
            busy_ticks("cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 9 9 9\n"),
            63
        );
        assert_eq!(busy_ticks(""), 0);
    }
}
