//! From `leoma-node` to a card: what the machine has, and the start of the CUDA build.
//!
//! candle binds the CUDA libraries when a program is linked, so a CUDA build does not even start where the
//! driver is missing: the loader ends it with 127 and no sentence. There are two programs of the same
//! sources therefore. `leoma-node` links no CUDA library. Where a card is asked for it looks at driver, card
//! and libraries ([`Survey`]), and either says what is missing or becomes `leoma-node-cuda` beside it
//! ([`launch`]), with the loader's path extended to where the libraries are.

mod driver;
#[cfg(not(feature = "cuda"))]
mod launch;
mod libraries;
mod problem;
mod survey;

pub use driver::Card;
pub use problem::{Problem, explain};
pub use survey::Survey;
#[cfg(feature = "cuda")]
pub(crate) use survey::check;

#[cfg(not(feature = "cuda"))]
pub use launch::launch;

/// Name of the CUDA build beside `leoma-node`.
pub const CUDA_PROGRAM: &str = "leoma-node-cuda";

/// More places to look for CUDA libraries in: folders of libraries, toolkits or Python environments.
pub const LIBRARIES_VARIABLE: &str = "LEOMA_NODE_CUDA_LIBS";

/// Oldest compute capability whose instructions the kernels use (bf16 tensor cores, asynchronous copies).
pub const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

/// Which build this program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Build {
    /// `cpu` or `cuda`.
    pub kind: &'static str,
    /// CUDA release of the compiler, as `13.0`.
    pub cuda: Option<Version>,
    /// `CUDA_COMPUTE_CAP` of the build: `80`, or `90a` for code that runs on that architecture alone.
    pub compute_cap: Option<&'static str>,
}

/// A CUDA release as the driver counts: 13000 is 13.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, utoipa::ToSchema)]
#[schema(value_type = String, example = "13.0")]
pub struct Version(pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

impl serde::Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Version {
    /// The branch of the NVIDIA driver that first runs code of this release. (NVIDIA, CUDA release notes,
    /// "CUDA driver".)
    pub fn driver(self) -> Option<u32> {
        const BRANCHES: [(u32, u32); 11] = [
            (12000, 525),
            (12010, 530),
            (12020, 535),
            (12030, 545),
            (12040, 550),
            (12050, 555),
            (12060, 560),
            (12080, 570),
            (12090, 575),
            (13000, 580),
            (13010, 590),
        ];
        let at = |(version, _): &&(u32, u32)| *version == self.0;
        BRANCHES.iter().find(at).map(|(_, branch)| *branch)
    }
}

/// What this program was built as.
pub const fn build() -> Build {
    #[cfg(feature = "cuda")]
    let build = Build {
        kind: "cuda",
        cuda: Some(Version(
            candle_core::cuda_backend::cudarc::driver::sys::CUDA_VERSION,
        )),
        // What candle's build read, too; .cargo/config.toml has the default.
        compute_cap: option_env!("CUDA_COMPUTE_CAP"),
    };
    #[cfg(not(feature = "cuda"))]
    let build = Build {
        kind: "cpu",
        cuda: None,
        compute_cap: None,
    };
    build
}

impl std::fmt::Display for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.cuda, self.compute_cap) {
            (None, _) => write!(f, "CPU build"),
            (Some(cuda), None) => write!(f, "CUDA {cuda} build"),
            (Some(cuda), Some(cap)) => write!(f, "CUDA {cuda} build for sm_{}", architecture(cap)),
        }
    }
}

/// `CUDA_COMPUTE_CAP` as the compiler was given it: candle's build adds the suffix from 90 on.
fn architecture(cap: &str) -> String {
    let base: u32 = cap.trim_end_matches(['a', 'f']).parse().unwrap_or(0);
    let suffix = match base {
        _ if cap.ends_with(['a', 'f']) => "",
        0..90 => "",
        90..=120 => "a",
        _ => "f",
    };
    format!("{cap}{suffix}")
}

/// Whether code built for `cap` runs on a card of this capability: from 90 on it runs on its own
/// architecture only, before on every newer card.
fn runs_on(cap: &str, capability: (u32, u32)) -> bool {
    let Ok(base) = cap.trim_end_matches(['a', 'f']).parse::<u32>() else {
        return true;
    };
    let card = capability.0 * 10 + capability.1;
    if architecture(cap).ends_with(['a', 'f']) {
        card == base
    } else {
        card >= base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_shown_and_ordered_as_people_do() {
        assert_eq!(Version(13000).to_string(), "13.0");
        assert_eq!(Version(12080).to_string(), "12.8");
        assert!(Version(12090) < Version(13000));
        assert_eq!(Version(13000).driver(), Some(580));
        assert_eq!(Version(14000).driver(), None);
    }

    #[test]
    fn code_for_80_runs_on_newer_cards_and_code_for_90_on_hopper_alone() {
        for (cap, card, runs) in [
            ("80", (8, 0), true),
            ("80", (8, 9), true),
            ("80", (9, 0), true),
            ("80", (12, 0), true),
            ("89", (8, 6), false),
            ("90", (9, 0), true),
            ("90", (12, 0), false),
            ("90", (8, 9), false),
            ("120a", (12, 1), false),
        ] {
            assert_eq!(runs_on(cap, card), runs, "{cap} {card:?}");
        }
        assert_eq!(architecture("80"), "80");
        assert_eq!(architecture("90"), "90a");
        assert_eq!(architecture("90a"), "90a");
        assert_eq!(architecture("121"), "121f");
    }

    #[test]
    fn the_build_says_what_it_is() {
        let text = build().to_string();
        assert_eq!(text.contains("CUDA"), cfg!(feature = "cuda"), "{text}");
        let known = Build {
            kind: "cuda",
            cuda: Some(Version(13000)),
            compute_cap: Some("80"),
        };
        assert_eq!(known.to_string(), "CUDA 13.0 build for sm_80");
    }
}
