//! Why a card cannot be used: what is wrong and what to do, in words for whoever started the program.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{CUDA_PROGRAM, Card, LIBRARIES_VARIABLE, OLDEST_CAPABILITY, Version};

/// The driver's library.
pub(super) const DRIVER: &str = "libcuda.so.1";

/// One reason why a card cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// There is no driver.
    NoDriver {
        /// Folders that were looked in besides the loader's path.
        looked: Vec<PathBuf>,
        /// CUDA release that is needed, where known.
        needed: Option<Version>,
    },
    /// The driver's library is there and cannot be used.
    BrokenDriver {
        /// What the loader says.
        reason: String,
    },
    /// The driver refuses to start.
    Refused {
        /// `CUresult`.
        code: i32,
        /// `CUDA_VISIBLE_DEVICES`, where set.
        visible: Option<String>,
    },
    /// The driver is older than the build.
    OldDriver {
        /// What it runs.
        found: Version,
        /// What is needed.
        needed: Version,
        /// The driver's own number, as `570.86.15`.
        number: Option<String>,
    },
    /// There is no card with this number.
    NoSuchCard {
        /// The number asked for.
        ordinal: usize,
        /// Cards that the driver shows.
        count: usize,
        /// `CUDA_VISIBLE_DEVICES`, where set.
        visible: Option<String>,
    },
    /// The card lacks instructions that are needed.
    OldCard {
        /// The number asked for.
        ordinal: usize,
        /// The card.
        card: Card,
    },
    /// This CUDA build is for other cards.
    OtherArchitecture {
        /// The number asked for.
        ordinal: usize,
        /// The card.
        card: Card,
        /// Architecture of the build, as `90a`.
        built: String,
    },
    /// The CUDA build is not beside this program.
    NoProgram {
        /// Where it would be.
        path: PathBuf,
    },
    /// The CUDA build cannot be executed.
    NotExecutable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What is installed as the CUDA build is none.
    NotCuda {
        /// The file.
        path: PathBuf,
    },
    /// Libraries that the CUDA build needs are missing.
    MissingLibraries {
        /// Their names.
        names: Vec<String>,
        /// Folders that were looked in besides the loader's path.
        looked: Vec<PathBuf>,
    },
    /// The loader refuses the CUDA build for another reason.
    Loader {
        /// The file.
        path: PathBuf,
        /// What the loader says.
        reason: String,
    },
    /// The card cannot be opened although driver and libraries are there.
    Unopened {
        /// The number asked for.
        ordinal: usize,
        /// What candle says.
        reason: String,
    },
    /// The driver did not answer in time.
    Silent,
}

impl Problem {
    /// What is wrong, in one line.
    pub fn what(&self) -> String {
        match self {
            Self::NoDriver { looked, .. } => {
                format!("no NVIDIA driver: {DRIVER} is not {}", places(looked))
            }
            Self::BrokenDriver { reason } => {
                format!("the NVIDIA driver cannot be opened: {reason}")
            }
            Self::Refused { code, visible } => {
                let (name, meaning, _) = refusal(*code);
                let visible = visible
                    .as_ref()
                    .map(|value| format!(", with CUDA_VISIBLE_DEVICES=\"{value}\""))
                    .unwrap_or_default();
                format!("the NVIDIA driver answers {name} ({code}): {meaning}{visible}")
            }
            Self::OldDriver {
                found,
                needed,
                number,
            } => {
                let number = number.as_ref().map(|n| format!(" {n}")).unwrap_or_default();
                format!(
                    "the NVIDIA driver{number} is too old: it runs CUDA {found}, and this build needs {needed}"
                )
            }
            Self::NoSuchCard {
                ordinal,
                count,
                visible,
            } => {
                let cards = match count {
                    0 => "no card".to_owned(),
                    1 => "1 card, cuda:0".to_owned(),
                    n => format!("{n} cards, cuda:0 to cuda:{}", n - 1),
                };
                let visible = visible
                    .as_ref()
                    .map(|value| format!(", with CUDA_VISIBLE_DEVICES=\"{value}\""))
                    .unwrap_or_default();
                format!("there is no cuda:{ordinal}: the driver shows {cards}{visible}")
            }
            Self::OldCard { ordinal, card } => {
                let (major, minor) = OLDEST_CAPABILITY;
                format!(
                    "cuda:{ordinal} ({}) has compute capability {}, and {major}.{minor} is needed: Ampere (2020) \
                     and newer",
                    card.name,
                    card.capability_text()
                )
            }
            Self::OtherArchitecture {
                ordinal,
                card,
                built,
            } => format!(
                "this program is built for sm_{built}, and cuda:{ordinal} ({}) has compute capability {}",
                card.name,
                card.capability_text()
            ),
            Self::NoProgram { path } => {
                format!(
                    "the CUDA build is not installed: {} is not there",
                    path.display()
                )
            }
            Self::NotExecutable { path, reason } => {
                format!("{} cannot be executed: {reason}", path.display())
            }
            Self::NotCuda { path } => {
                format!("{} is not a CUDA build", path.display())
            }
            Self::MissingLibraries { names, looked } => {
                let verb = if names.len() == 1 { "is" } else { "are" };
                format!("{} {verb} not {}", names.join(", "), places(looked))
            }
            Self::Loader { path, reason } => {
                format!("{} does not start: {reason}", path.display())
            }
            Self::Unopened { ordinal, reason } => {
                format!("cuda:{ordinal} cannot be opened: {reason}")
            }
            Self::Silent => "the NVIDIA driver does not answer".into(),
        }
    }

    /// The same without the places that were looked in.
    pub fn brief(&self) -> String {
        match self {
            Self::NoDriver { .. } => format!("no NVIDIA driver ({DRIVER}) on this machine"),
            Self::MissingLibraries { names, .. } => {
                format!("CUDA libraries are missing: {}", names.join(", "))
            }
            other => other.what(),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoDriver { needed, .. } => {
                let version = branch(*needed)
                    .map(|branch| format!(" ({branch} or newer)"))
                    .unwrap_or_default();
                format!(
                    "install the NVIDIA driver{version}, or start the container with --gpus all"
                )
            }
            Self::BrokenDriver { .. } => {
                "install the NVIDIA driver again, for this machine's architecture".into()
            }
            Self::Refused { code, .. } => refusal(*code).2.into(),
            Self::OldDriver { needed, .. } => {
                let to = match branch(Some(*needed)) {
                    Some(branch) => format!("driver {branch} or newer"),
                    None => "the newest driver".into(),
                };
                format!(
                    "install {to}; data-centre cards can keep theirs with NVIDIA's package cuda-compat, whose \
                     folder {LIBRARIES_VARIABLE} names"
                )
            }
            Self::NoSuchCard { count: 0, .. } => refusal(NO_DEVICE).2.into(),
            Self::NoSuchCard { .. } => "choose another with --device cuda:N".into(),
            Self::OldCard { .. } => {
                "choose another card with --device cuda:N, or compute with --device cpu".into()
            }
            Self::OtherArchitecture { .. } => {
                "build with CUDA_COMPUTE_CAP=80, which runs on every newer card".into()
            }
            Self::NoProgram { path } => {
                let folder = path.parent().unwrap_or(path).display();
                format!("put {CUDA_PROGRAM} into {folder} (docs/cuda.md: how to build it)")
            }
            Self::NotExecutable { path, .. } => {
                format!("`chmod 755 {}`, or install it again", path.display())
            }
            Self::NotCuda { .. } => {
                format!(
                    "build it with `--features cuda --bin {CUDA_PROGRAM}` and install that file"
                )
            }
            Self::MissingLibraries { names, .. } => install(names),
            Self::Loader { .. } => {
                "use a build made for this system, or build it here (docs/cuda.md)".into()
            }
            Self::Unopened { .. } => {
                "stop what else uses the card (`nvidia-smi` lists it), or choose another with --device cuda:N"
                    .into()
            }
            Self::Silent => "see whether `nvidia-smi` answers; restart the machine if not".into(),
        }
    }
}

/// Several problems for the user of `--device`: each with its remedy.
pub fn explain(device: &str, problems: &[Problem]) -> String {
    let mut text = format!("{device} cannot be used");
    for problem in problems {
        // Writing into a text cannot fail.
        let _ = write!(
            text,
            "\n  {}\n    hint: {}",
            problem.what(),
            problem.remedy()
        );
    }
    text
}

/// The driver's branch for a release; for unknown ones none is better than a wrong one.
fn branch(version: Option<Version>) -> Option<u32> {
    version.and_then(Version::driver)
}

/// "on the loader's path or in …", for behind a "not".
fn places(looked: &[PathBuf]) -> String {
    let mut folders: Vec<String> = looked.iter().map(|f| f.display().to_string()).collect();
    match folders.pop() {
        None => "on the loader's path, and none of the usual folders is there".into(),
        Some(last) if folders.is_empty() => format!("on the loader's path or in {last}"),
        Some(last) => format!(
            "on the loader's path or in {} or {last}",
            folders.join(", ")
        ),
    }
}

/// How to get CUDA libraries, by the release that their names tell.
fn install(names: &[String]) -> String {
    // NVIDIA's wheels of CUDA 13; before, names ended in -cu12.
    let known = [
        ("libcublas", "nvidia-cublas"),
        ("libcurand", "nvidia-curand"),
        ("libnvrtc", "nvidia-cuda-nvrtc"),
        ("libcudart", "nvidia-cuda-runtime"),
    ];
    let of = |name: &String| {
        let found = known.iter().find(|(start, _)| name.starts_with(start));
        found.map(|(_, package)| *package)
    };
    let mut packages: Vec<&str> = names.iter().filter_map(of).collect();
    packages.dedup();
    if packages.is_empty() {
        return "install the system's packages that hold them".into();
    }
    let release = names
        .iter()
        .filter(|name| !name.starts_with("libcurand"))
        .find_map(|name| {
            name.rsplit_once(".so.")?
                .1
                .split('.')
                .next()?
                .parse::<u32>()
                .ok()
        });
    let (toolkit, suffix) = match release {
        Some(13..) | None => ("the CUDA toolkit".to_owned(), String::new()),
        Some(old) => (format!("the CUDA {old} toolkit"), format!("-cu{old}")),
    };
    let packages: Vec<String> = packages
        .iter()
        .map(|package| format!("{package}{suffix}"))
        .collect();
    format!(
        "install {toolkit}, or `pip install {}` into a Python environment and name that in {LIBRARIES_VARIABLE}",
        packages.join(" ")
    )
}

const NO_DEVICE: i32 = 100;

/// Name, meaning and remedy of what `cuInit` and its like answer. (cuda.h, `enum cudaError_enum`.)
fn refusal(code: i32) -> (&'static str, &'static str, &'static str) {
    match code {
        2 => (
            "CUDA_ERROR_OUT_OF_MEMORY",
            "the host or the card has no memory left",
            "stop what else uses the card (`nvidia-smi` lists it)",
        ),
        34 => (
            "CUDA_ERROR_STUB_LIBRARY",
            "this libcuda.so.1 is the stub for linking, not the driver",
            "take the toolkit's stubs folder out of LD_LIBRARY_PATH; if there is no driver, install it",
        ),
        46 => (
            "CUDA_ERROR_DEVICE_UNAVAILABLE",
            "the card is taken by another process or in exclusive mode",
            "stop what else uses the card, or `nvidia-smi --compute-mode=DEFAULT`",
        ),
        100 => (
            "CUDA_ERROR_NO_DEVICE",
            "it finds no card",
            "see whether `nvidia-smi -L` lists one, start the container with --gpus all, correct CUDA_VISIBLE_DEVICES",
        ),
        101 => (
            "CUDA_ERROR_INVALID_DEVICE",
            "there is no such card",
            "correct CUDA_VISIBLE_DEVICES; `nvidia-smi -L` lists cards and MIG slices",
        ),
        304 => (
            "CUDA_ERROR_OPERATING_SYSTEM",
            "the system refuses access to the card",
            "see that this user may open /dev/nvidia*, and that the container gets them (--gpus all)",
        ),
        802 => (
            "CUDA_ERROR_SYSTEM_NOT_READY",
            "the links between the cards are not set up yet",
            "start NVIDIA's Fabric Manager: `systemctl start nvidia-fabricmanager`",
        ),
        803 => (
            "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "library and kernel module of the driver are of different versions",
            "restart the machine after the driver's update, or update it where the container cannot",
        ),
        804 => (
            "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
            "the package cuda-compat does not work on this card",
            "install a newer driver, and take the cuda-compat folder out of the loader's path",
        ),
        999 => (
            "CUDA_ERROR_UNKNOWN",
            "the kernel module is in a bad state or not fully loaded",
            "load it (`nvidia-modprobe -u -c=0`), or restart the machine",
        ),
        _ => (
            "an error",
            "it cannot be used",
            "see what `nvidia-smi` says; restart the machine if it fails too",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_missing_is_named_with_where_it_was_looked_for() {
        let looked = vec![
            PathBuf::from("/a"),
            PathBuf::from("/b"),
            PathBuf::from("/c"),
        ];
        let libraries = Problem::MissingLibraries {
            names: texts(&["libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10"]),
            looked: looked.clone(),
        };
        assert_eq!(
            libraries.what(),
            "libcublas.so.13, libcublasLt.so.13, libcurand.so.10 are not on the loader's path or in /a, /b or /c"
        );
        assert!(
            libraries
                .remedy()
                .contains("`pip install nvidia-cublas nvidia-curand`"),
            "{}",
            libraries.remedy()
        );
        let driver = Problem::NoDriver {
            looked: looked[..1].to_vec(),
            needed: Some(Version(13000)),
        };
        assert_eq!(
            driver.what(),
            "no NVIDIA driver: libcuda.so.1 is not on the loader's path or in /a"
        );
        assert!(driver.remedy().contains("580"));
        assert!(!driver.brief().contains("/a"));
    }

    #[test]
    fn packages_follow_the_release_that_is_missing() {
        assert!(install(&texts(&["libcublas.so.12", "libcudart.so.12"])).contains(
            "install the CUDA 12 toolkit, or `pip install nvidia-cublas-cu12 nvidia-cuda-runtime-cu12`"
        ));
        assert!(install(&texts(&["libavcodec.so.59"])).contains("the system's packages"));
    }

    #[test]
    fn every_problem_is_one_line_with_a_remedy() {
        let card = Card {
            name: "Tesla T4".into(),
            capability: (7, 5),
            memory_bytes: 1,
        };
        let path = PathBuf::from("/opt/bin/leoma-node-cuda");
        let mut problems = vec![
            Problem::BrokenDriver {
                reason: "wrong ELF class".into(),
            },
            Problem::OldDriver {
                found: Version(12040),
                needed: Version(13000),
                number: Some("550.54".into()),
            },
            Problem::OldCard {
                ordinal: 0,
                card: card.clone(),
            },
            Problem::OtherArchitecture {
                ordinal: 0,
                card,
                built: "90a".into(),
            },
            Problem::NoProgram { path: path.clone() },
            Problem::NotExecutable {
                path: path.clone(),
                reason: "Permission denied".into(),
            },
            Problem::NotCuda { path: path.clone() },
            Problem::Loader {
                path,
                reason: "GLIBC_2.99 not found".into(),
            },
            Problem::Unopened {
                ordinal: 0,
                reason: "out of memory".into(),
            },
            Problem::Silent,
        ];
        for count in 0..3 {
            problems.push(Problem::NoSuchCard {
                ordinal: 7,
                count,
                visible: Some("0".into()),
            });
        }
        for code in [1, 2, 34, 46, 100, 101, 304, 802, 803, 804, 999] {
            problems.push(Problem::Refused {
                code,
                visible: None,
            });
        }
        for problem in &problems {
            for text in [problem.what(), problem.brief(), problem.remedy()] {
                assert!(!text.is_empty() && !text.contains('\n'), "{text}");
                assert!(!text.ends_with('.'), "{text}");
            }
        }
        let text = explain("cuda:0", &problems);
        assert_eq!(text.matches("hint:").count(), problems.len());
        assert!(text.contains(
            "the NVIDIA driver 550.54 is too old: it runs CUDA 12.4, and this build needs 13.0\n    \
             hint: install driver 580 or newer"
        ));
        assert!(
            text.contains("there is no cuda:7: the driver shows 2 cards, cuda:0 to cuda:1, with")
        );
    }
}
