//! Which way attention takes, and how to choose it.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use candle_core::{DType, Device, Error, Result};

use super::fused::Variant;
use crate::device::{Target, target_of};

/// The variable that sets the [`AttentionPreference`] of a process.
const VARIABLE: &str = "LEOMA_NODE_ATTENTION";

/// What computes attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttentionBackend {
    /// cuDNN's fused attention, of this version (`9.19.0`).
    CudnnSdpa(String),
    /// Our own kernel on tensor cores.
    LeomaMma,
    /// Our own kernel in f32 arithmetic.
    LeomaFma,
    /// candle's operations on portions of the queries.
    Chunked,
    /// The CPU's own path.
    CpuFlash,
}

impl fmt::Display for AttentionBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CudnnSdpa(version) => write!(f, "cudnn-sdpa {version}"),
            Self::LeomaMma => f.write_str("leoma-mma"),
            Self::LeomaFma => f.write_str("leoma-fma"),
            Self::Chunked => f.write_str("chunked"),
            Self::CpuFlash => f.write_str("cpu-flash"),
        }
    }
}

/// Where the search for a backend begins; what cannot serve a call is passed over for what comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum AttentionPreference {
    /// cuDNN, then our own kernels, then portions; on the CPU its own path.
    #[default]
    Auto,
    /// Our own kernels, then portions.
    Leoma,
    /// Portions, on the CPU too.
    Chunked,
}

impl FromStr for AttentionPreference {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "" | "auto" => Self::Auto,
            "leoma" => Self::Leoma,
            "chunked" => Self::Chunked,
            other => candle_core::bail!(
                "`{other}` is no choice of attention: auto, leoma (no cuDNN) or chunked (no fused kernel)"
            ),
        })
    }
}

impl fmt::Display for AttentionPreference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Leoma => "leoma",
            Self::Chunked => "chunked",
        })
    }
}

/// Set by [`set_attention_preference`]: 0 not, else one more than the preference.
static SET: AtomicU8 = AtomicU8::new(0);

/// Sets the preference of the process, over `LEOMA_NODE_ATTENTION`.
pub fn set_attention_preference(preference: AttentionPreference) {
    SET.store(preference as u8 + 1, Ordering::Relaxed);
}

/// The preference of the process. Errors if `LEOMA_NODE_ATTENTION` names none.
pub(super) fn preference() -> Result<AttentionPreference> {
    static NAMED: OnceLock<std::result::Result<AttentionPreference, String>> = OnceLock::new();
    match SET.load(Ordering::Relaxed) {
        1 => Ok(AttentionPreference::Auto),
        2 => Ok(AttentionPreference::Leoma),
        3 => Ok(AttentionPreference::Chunked),
        _ => NAMED
            .get_or_init(|| {
                let name = std::env::var(VARIABLE).unwrap_or_default();
                name.parse()
                    .map_err(|error: Error| format!("{VARIABLE}: {error}"))
            })
            .clone()
            .map_err(Error::msg),
    }
}

/// The backend of a kind of call, and why it is not a faster one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionChoice {
    /// What computes.
    pub backend: AttentionBackend,
    /// Why what comes before it in the search was passed over; none if nothing was.
    pub reason: Option<String>,
}

impl fmt::Display for AttentionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "{} ({reason})", self.backend),
            None => self.backend.fmt(f),
        }
    }
}

/// What computes attention (without a bias, with heads of `head_dim`) on this device. Where cuDNN is
/// there it is asked for a small problem, since an installation without its runtime compiler opens but
/// has no engine. Errors if `LEOMA_NODE_ATTENTION` has no meaning.
pub fn attention_backend(
    device: &Device,
    dtype: DType,
    head_dim: usize,
) -> Result<AttentionChoice> {
    let preference = preference()?;
    let Some(target) = target_of(device) else {
        let backend = if preference == AttentionPreference::Chunked || !device.is_cpu() {
            AttentionBackend::Chunked
        } else {
            AttentionBackend::CpuFlash
        };
        return Ok(AttentionChoice {
            backend,
            reason: (preference != AttentionPreference::Auto)
                .then(|| format!("{VARIABLE} is {preference}")),
        });
    };
    let passed = match cudnn(&target, preference, dtype, head_dim) {
        Ok(backend) => {
            return Ok(AttentionChoice {
                backend,
                reason: None,
            });
        }
        Err(reason) => reason,
    };
    Ok(match own(&target, preference, dtype, head_dim) {
        Ok(variant) => AttentionChoice {
            backend: variant.backend(),
            reason: Some(passed),
        },
        Err(reason) => AttentionChoice {
            backend: AttentionBackend::Chunked,
            reason: Some(reason),
        },
    })
}

#[cfg(any(feature = "cuda", feature = "shim"))]
fn cudnn(
    target: &Target,
    preference: AttentionPreference,
    dtype: DType,
    head_dim: usize,
) -> std::result::Result<AttentionBackend, String> {
    use crate::cudnn::sdpa;
    if preference > AttentionPreference::Auto {
        return Err(format!("{VARIABLE} is {preference}"));
    }
    let version = sdpa::available(target, dtype, head_dim)?;
    sdpa::probe(target, dtype, head_dim)?;
    Ok(AttentionBackend::CudnnSdpa(version.to_string()))
}

#[cfg(not(any(feature = "cuda", feature = "shim")))]
fn cudnn(
    _: &Target,
    _: AttentionPreference,
    _: DType,
    _: usize,
) -> std::result::Result<AttentionBackend, String> {
    Err("this build has no CUDA".into())
}

/// The own kernel that serves, or why none does.
pub(super) fn own(
    target: &Target,
    preference: AttentionPreference,
    dtype: DType,
    head_dim: usize,
) -> std::result::Result<Variant, String> {
    if preference > AttentionPreference::Leoma {
        return Err(format!("{VARIABLE} is {preference}"));
    }
    let capability = target.capability().map_err(|error| error.to_string())?;
    Variant::new(capability, dtype, head_dim).ok_or_else(|| {
        format!(
            "the fused kernels take heads of up to {}, not {head_dim}",
            super::fused::WIDEST
        )
    })
}

impl Variant {
    fn backend(self) -> AttentionBackend {
        match self {
            Self::Mma { .. } => AttentionBackend::LeomaMma,
            Self::Plain => AttentionBackend::LeomaFma,
        }
    }
}
