//! Checks of the graphics card. The driver is asked through its own tool: opening the device could disturb
//! a node that computes on it.

use std::path::Path;

use super::machine::ask;
use super::{Finding, Role, Subject, human};

const DRIVER: &str = "libcuda.so.1";

pub(super) fn device(subject: &Subject) -> Finding {
    let built = cfg!(feature = "cuda");
    match (subject.device.as_str(), built) {
        ("cpu", _) => Finding::good("the CPU, as asked"),
        ("auto", false) if subject.role == Role::Miner => Finding::bad(
            "this build has no CUDA support, and a CPU does not make clips in the subnet's time",
            "build with `--features cuda`; --device cpu says that the CPU is meant",
        ),
        ("auto", false) => Finding::good("the CPU: this build has no CUDA support"),
        (name, false) => Finding::bad(
            format!("{name} is asked for and this build has no CUDA support"),
            "build with `--features cuda`, or use --device cpu",
        ),
        (name, true) if !driver_found() => {
            let finding = if name == "auto" && subject.role != Role::Miner {
                Finding::Poor
            } else {
                Finding::Bad
            };
            finding(
                format!("{name}: {DRIVER} is not on this machine"),
                "install the NVIDIA driver, or start the container with --gpus all".into(),
            )
        }
        (name, true) => Finding::good(format!("{name}, built with CUDA support")),
    }
}

/// Whether the driver's library is where the loader looks.
pub(super) fn driver_found() -> bool {
    let folders = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/lib/wsl/lib",
        "/usr/local/nvidia/lib64",
    ];
    let in_folder = folders
        .split(':')
        .filter(|folder| !folder.is_empty())
        .chain(usual)
        .any(|folder| Path::new(folder).join(DRIVER).exists());
    in_folder
        || std::fs::read("/etc/ld.so.cache").is_ok_and(|cache| {
            cache
                .windows(DRIVER.len())
                .any(|window| window == DRIVER.as_bytes())
        })
}

pub(super) fn driver(subject: &Subject) -> Finding {
    if subject.leaves_cards() {
        return Finding::skip("computing on the CPU");
    }
    if driver_found() {
        return Finding::good(format!("{DRIVER} is there"));
    }
    Finding::bad(
        format!("{DRIVER} is not on this machine"),
        "install the NVIDIA driver, or start the container with --gpus all",
    )
}

pub(super) fn nodes(subject: &Subject) -> Finding {
    if subject.leaves_cards() {
        return Finding::skip("computing on the CPU");
    }
    let cards = std::fs::read_dir("/dev").map_or(0, |entries| {
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter_map(|name| name.strip_prefix("nvidia").map(str::to_owned))
            .filter(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
            .count()
    });
    let control = Path::new("/dev/nvidiactl").exists();
    if cards > 0 && control {
        return Finding::good(format!("{cards} card(s) under /dev/nvidia*"));
    }
    Finding::bad(
        "no card under /dev/nvidia*",
        "load the driver (`nvidia-modprobe`), or start the container with --gpus all",
    )
}

/// One card as `nvidia-smi` tells.
#[derive(Debug, PartialEq)]
struct Card {
    name: String,
    driver: String,
    total: u64,
    free: u64,
    capability: String,
    mig: bool,
}

impl Card {
    /// A line of the query below.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [name, driver, total, free, capability, mig] = fields.as_slice() else {
            return None;
        };
        let mebibytes = |text: &str| Some(text.parse::<u64>().ok()? << 20);
        Some(Self {
            name: (*name).to_owned(),
            driver: (*driver).to_owned(),
            total: mebibytes(total)?,
            free: mebibytes(free)?,
            capability: (*capability).to_owned(),
            mig: *mig == "Enabled",
        })
    }
}

fn cards() -> Option<Vec<Card>> {
    let text = ask(
        "nvidia-smi",
        &[
            "--query-gpu=name,driver_version,memory.total,memory.free,compute_cap,mig.mode.current",
            "--format=csv,noheader,nounits",
        ],
    )?;
    Some(text.lines().filter_map(Card::parse).collect())
}

pub(super) fn query(subject: &Subject) -> Finding {
    if subject.leaves_cards() {
        return Finding::skip("computing on the CPU");
    }
    let Some(cards) = cards() else {
        return Finding::skip("nvidia-smi is not there or does not answer");
    };
    let wanted = subject.device.strip_prefix("cuda:").unwrap_or("0");
    let wanted: usize = wanted.parse().unwrap_or(0);
    let Some(card) = cards.get(wanted) else {
        return Finding::bad(
            format!(
                "nvidia-smi tells of {} card(s), not of number {wanted}",
                cards.len()
            ),
            "choose another with --device cuda:N",
        );
    };
    let found = format!(
        "{}, driver {}, {} of {} free, compute capability {}",
        card.name,
        card.driver,
        human(card.free),
        human(card.total),
        card.capability
    );
    match subject.weights() {
        Some(weights) if weights > card.total => Finding::bad(
            format!("{found}; the weights alone take {}", human(weights)),
            "use --dtype bf16, --offload experts, a smaller model or a larger card",
        ),
        Some(weights) if weights > card.free => Finding::poor(
            format!("{found}; the weights alone take {}", human(weights)),
            "stop what else uses the card",
        ),
        _ => Finding::good(found),
    }
}

pub(super) fn mig(subject: &Subject) -> Finding {
    if subject.leaves_cards() {
        return Finding::skip("computing on the CPU");
    }
    match cards() {
        None => Finding::skip("nvidia-smi is not there or does not answer"),
        Some(cards) if cards.iter().any(|card| card.mig) => Finding::poor(
            "a card is split into MIG slices; only the first slice is visible to a process",
            "name the slice in CUDA_VISIBLE_DEVICES; `nvidia-smi -L` lists them",
        ),
        Some(_) => Finding::good("no card is split"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_of_the_query_parse() {
        let card = Card::parse("NVIDIA H200, 570.86.15, 143771, 143000, 9.0, Disabled").unwrap();
        assert_eq!(card.total, 143_771 << 20);
        assert_eq!((card.capability.as_str(), card.mig), ("9.0", false));
        let old = Card::parse("Tesla T4, 535.1, 15360, 15000, 7.5, [N/A]").unwrap();
        assert!(!old.mig);
        for broken in ["", "a, b", "n, d, [N/A], 1, 9.0, Enabled"] {
            assert_eq!(Card::parse(broken), None, "{broken}");
        }
    }
}
