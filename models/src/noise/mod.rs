//! Starting noise, equal to the generator a reference run used.
//!
//! A seed alone does not name a noise tensor: torch's CPU and CUDA generators differ, and the CUDA one
//! deals its values out over the threads of a launch, so it also depends on the card. The source is
//! therefore part of every request and of every result.

mod file;
mod mt19937;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// Threads of one block in torch's CUDA normal kernel.
const BLOCK: u64 = 256;

/// Cards by name and the threads their largest launch has (multiprocessors × threads of each).
const CARDS: [(&str, u64); 9] = [
    ("h100", 132 * 2048),
    ("h200", 132 * 2048),
    ("h100-pcie", 114 * 2048),
    ("a100", 108 * 2048),
    ("b200", 148 * 2048),
    ("4090", 128 * 1536),
    ("5090", 170 * 1536),
    ("3090", 82 * 1536),
    ("l40s", 142 * 1536),
];

/// Where the starting noise comes from.
///
/// Parsed from and shown as `cpu`, `cuda:h100` (or another known card), `cuda:270336` (threads of the
/// card's largest launch). A file is shown as `file:PATH`; it is chosen by its own option, so that
/// form is not parsed.
#[derive(Clone, Debug, PartialEq)]
pub enum NoiseSource {
    /// `torch.randn` with a CPU generator, bit for bit on every machine.
    TorchCpu,
    /// `torch.randn` with a CUDA generator on a card whose largest launch has `threads` threads.
    TorchCuda {
        /// Multiprocessors × threads per multiprocessor: a positive multiple of 256.
        threads: u64,
        /// Name of the card, for display only.
        card: Option<&'static str>,
    },
    /// The F32 tensor `noise` of a safetensors file; the seed is not used.
    File(PathBuf),
}

impl NoiseSource {
    /// The CUDA generator on an H100 SXM, the card of the subnet's own evaluator.
    pub const H100: Self = Self::TorchCuda {
        threads: CARDS[0].1,
        card: Some(CARDS[0].0),
    };

    /// Draws standard normal noise.
    ///
    /// **Shapes**: `shape` in float32 on the CPU. Only the count and order of the elements matter, so
    /// a leading 1 changes nothing.
    ///
    /// `TorchCpu` uses the low 32 bits of the seed, as torch does; `TorchCuda` all 64.
    ///
    /// # Errors
    /// [`Error::Caller`] when the noise file cannot be used.
    pub fn sample(&self, seed: u64, shape: &[usize]) -> Result<Tensor> {
        self.sample_on(seed, shape, &Device::Cpu)
    }

    /// As [`NoiseSource::sample`], on `device`. `TorchCuda` is drawn there, on a card with the intrinsics
    /// that torch uses, so that the values are torch's own and not only within 1e-6 of them; the other
    /// sources are drawn on the host and copied.
    ///
    /// # Errors
    /// As [`NoiseSource::sample`].
    pub fn sample_on(&self, seed: u64, shape: &[usize], device: &Device) -> Result<Tensor> {
        let values = match self {
            Self::TorchCpu => mt19937::randn(seed, shape.iter().product()),
            Self::TorchCuda { threads, .. } => {
                let threads = check_threads(*threads)?;
                return Ok(leoma_kernels::philox_normal(seed, shape, threads, device)?);
            }
            Self::File(path) => file::read(path, shape)?,
        };
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(device)?)
    }
}

fn check_threads(threads: u64) -> Result<u64> {
    // The upper bound only keeps the arithmetic of the kernel in range; no card comes near it.
    if threads == 0 || !threads.is_multiple_of(BLOCK) || threads > u64::from(u32::MAX) {
        return Err(Error::caller(
            "noise_source",
            format!(
                "{threads} is not a number of CUDA threads: give multiprocessors x threads per \
                 multiprocessor, a positive multiple of {BLOCK} (270336 for an H100)"
            ),
        ));
    }
    Ok(threads)
}

impl FromStr for NoiseSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "cpu" {
            return Ok(Self::TorchCpu);
        }
        let Some(card) = text.strip_prefix("cuda:") else {
            return Err(unknown(text));
        };
        if let Some((name, threads)) = CARDS.iter().find(|(name, _)| *name == card) {
            return Ok(Self::TorchCuda {
                threads: *threads,
                card: Some(name),
            });
        }
        if card.is_empty() || !card.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(unknown(text));
        }
        let threads = card.parse().map_err(|_| unknown(text))?;
        Ok(Self::TorchCuda {
            threads: check_threads(threads)?,
            card: None,
        })
    }
}

fn unknown(text: &str) -> Error {
    let cards: Vec<_> = CARDS
        .iter()
        .map(|(name, _)| format!("cuda:{name}"))
        .collect();
    Error::caller(
        "noise_source",
        format!(
            "`{text}` is not a noise source: use cpu, {} or cuda:THREADS (multiprocessors x \
             threads per multiprocessor)",
            cards.join(", ")
        ),
    )
}

impl fmt::Display for NoiseSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TorchCpu => f.write_str("cpu"),
            Self::TorchCuda {
                card: Some(card), ..
            } => write!(f, "cuda:{card}"),
            Self::TorchCuda {
                threads,
                card: None,
            } => write!(f, "cuda:{threads}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_round_trip() {
        for text in [
            "cpu",
            "cuda:h100",
            "cuda:h200",
            "cuda:h100-pcie",
            "cuda:a100",
            "cuda:b200",
            "cuda:4090",
            "cuda:5090",
            "cuda:3090",
            "cuda:l40s",
            "cuda:256",
            "cuda:270336",
        ] {
            assert_eq!(text.parse::<NoiseSource>().unwrap().to_string(), text);
        }
        assert_eq!(
            "cuda:h100".parse::<NoiseSource>().unwrap(),
            NoiseSource::H100
        );
        let threads = |text: &str| match text.parse().unwrap() {
            NoiseSource::TorchCuda { threads, .. } => threads,
            other => panic!("{other}"),
        };
        assert_eq!(threads("cuda:h100"), 270_336);
        assert_eq!(threads("cuda:h200"), 270_336);
        assert_eq!(threads("cuda:h100-pcie"), 233_472);
        assert_eq!(threads("cuda:a100"), 221_184);
        assert_eq!(threads("cuda:b200"), 303_104);
        assert_eq!(threads("cuda:4090"), 196_608);
        assert_eq!(threads("cuda:5090"), 261_120);
        assert_eq!(threads("cuda:3090"), 125_952);
        assert_eq!(threads("cuda:l40s"), 218_112);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "gpu",
            "cuda",
            "cuda:",
            "cuda:0",
            "cuda:255",
            "cuda:-256",
            "cuda:+256",
            "cuda:h101",
            "cuda:99999999999999999999999",
            "cuda:17179869184",
            "CPU",
        ] {
            let error = text.parse::<NoiseSource>().unwrap_err();
            assert_eq!(error.fault(), crate::Fault::Caller, "{text}");
        }
        let source = NoiseSource::TorchCuda {
            threads: 100,
            card: None,
        };
        assert!(source.sample(0, &[4]).is_err());
    }

    #[test]
    fn a_leading_one_changes_nothing() {
        for source in [NoiseSource::TorchCpu, NoiseSource::H100] {
            let a = source.sample(7, &[1, 4, 3, 5]).unwrap();
            let b = source.sample(7, &[4, 3, 5]).unwrap();
            assert_eq!(a.dims(), [1, 4, 3, 5]);
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(&a), flat(&b));
        }
        assert_eq!(
            NoiseSource::TorchCpu
                .sample(1, &[0, 3])
                .unwrap()
                .elem_count(),
            0
        );
        assert_eq!(
            NoiseSource::H100.sample(1, &[0, 3]).unwrap().elem_count(),
            0
        );
    }
}
