//! Checks of the graphics card: what the launcher looks at, and what else the driver's own tool tells. No
//! card is opened: that could disturb a node that computes on it.

use std::path::Path;

use super::machine::ask;
use super::{Finding, Role, Subject, human};
use crate::cuda::{Problem, build};

fn bad(problem: &Problem) -> Finding {
    Finding::bad(problem.what(), problem.remedy())
}

/// Where clips would be computed, and why not elsewhere.
pub(super) fn device(subject: &Subject) -> Finding {
    let name = subject.device.as_str();
    if name == "cpu" {
        return Finding::good("the CPU, as asked");
    }
    let survey = subject.survey();
    let ordinal = subject.ordinal();
    let problems = survey.problems(ordinal);
    let Some(problem) = problems.first() else {
        let cards = survey.driver.as_ref().map(|driver| driver.cards.as_slice());
        let card = cards.ok().and_then(|cards| cards.get(ordinal));
        let card = card.map_or_else(String::new, |card| {
            format!(
                ": {}, {}, compute capability {}",
                card.name,
                human(card.memory_bytes),
                card.capability_text()
            )
        });
        return Finding::good(format!("cuda:{ordinal}{card}"));
    };
    let why = problem.brief();
    match name {
        "auto" if subject.role == Role::Miner => Finding::bad(
            format!("the CPU, which does not make clips in the subnet's time: {why}"),
            format!(
                "{}; --device cpu says that the CPU is meant",
                problem.remedy()
            ),
        ),
        "auto" if subject.leaves_cards() => Finding::good(format!("the CPU: {why}")),
        "auto" => Finding::poor(format!("the CPU: {why}"), problem.remedy()),
        name => Finding::bad(
            format!("{name} cannot be used: {why}"),
            format!("{}; --device cpu computes on the CPU", problem.remedy()),
        ),
    }
}

/// The build that computes on cards.
pub(super) fn program(subject: &Subject) -> Finding {
    if subject.leaves_cards() {
        return Finding::skip("computing on the CPU");
    }
    match &subject.survey().program {
        Ok(_) if cfg!(feature = "cuda") => Finding::good(format!("this is it: {}", build())),
        Ok(path) => Finding::good(format!("{} is there", path.display())),
        Err(problem) => bad(problem),
    }
}

pub(super) fn driver(subject: &Subject) -> Finding {
    if subject.leaves_cards() {
        return Finding::skip("computing on the CPU");
    }
    let survey = subject.survey();
    match (&survey.driver, survey.card_problem(subject.ordinal())) {
        (_, Some(problem)) => bad(&problem),
        (Ok(driver), None) => {
            let cards: Vec<&str> = driver.cards.iter().map(|card| card.name.as_str()).collect();
            Finding::good(format!(
                "runs CUDA {}, shows {}",
                driver.version,
                cards.join(", ")
            ))
        }
        (Err(problem), None) => bad(problem),
    }
}

/// The libraries that the CUDA build is linked with.
pub(super) fn libraries(subject: &Subject) -> Finding {
    if subject.leaves_cards() {
        return Finding::skip("computing on the CPU");
    }
    let survey = subject.survey();
    if let Some(problem) = survey.library_problem() {
        return bad(problem);
    }
    let mut folders: Vec<(&Path, Vec<&str>)> = Vec::new();
    for library in &survey.libraries {
        let folder = library.path.as_deref().and_then(Path::parent);
        let folder = folder.unwrap_or(Path::new("?"));
        match folders.iter_mut().find(|(known, _)| *known == folder) {
            Some((_, names)) => names.push(&library.name),
            None => folders.push((folder, vec![&library.name])),
        }
    }
    if folders.is_empty() {
        return Finding::skip("the CUDA build is not there to say which it needs");
    }
    let list: Vec<String> = folders
        .iter()
        .map(|(folder, names)| format!("{} in {}", names.join(", "), folder.display()))
        .collect();
    Finding::good(list.join("; "))
}

/// The library that is not needed and makes some kernels faster.
pub(super) fn cudnn(subject: &Subject) -> Finding {
    if subject.leaves_cards() {
        return Finding::skip("computing on the CPU");
    }
    match &subject.survey().cudnn {
        Some(path) => Finding::good(format!("{} is there", path.display())),
        None => Finding::poor(
            "libcudnn.so.9 is not found; slower kernels serve in its place",
            "install cuDNN 9, or `pip install nvidia-cudnn-cu13` into the Python environment that holds the CUDA \
             libraries",
        ),
    }
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
    let wanted = subject.ordinal();
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
