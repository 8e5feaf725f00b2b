//! The number types that a model is computed with.

use std::fmt;
use std::str::FromStr;

use candle_core::DType;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A precision mode. Weights, activations and arithmetic between roundings follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32-bit floats throughout.
    #[default]
    F32,
    /// As [`Precision::F32`], with matrix products whose operands a card rounds to TF32 (10 bits of
    /// mantissa instead of 23). Lossy; needs a card.
    Tf32,
    /// bf16 weights and activations.
    Bf16,
    /// IEEE half precision weights and activations.
    F16,
    /// As [`Precision::Bf16`], and the large linear layers of the transformer blocks with weights and
    /// activations in e4m3. Lossy: the clip is another one than in bf16, by more than rounding order.
    Fp8,
}

impl Precision {
    /// All modes.
    pub const ALL: [Self; 5] = [Self::F32, Self::Tf32, Self::Bf16, Self::F16, Self::Fp8];

    /// Name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Fp8 => "fp8",
        }
    }

    /// Type of activations, and of every weight that is not in 8 bits.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Tf32 => DType::F32,
            Self::Bf16 | Self::Fp8 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }

    /// Whether transformer blocks compute in 8 bits.
    pub fn is_fp8(self) -> bool {
        self == Self::Fp8
    }

    /// Whether clips must be labelled as made with a loss that the checkpoint does not ask for.
    pub fn is_lossy(self) -> bool {
        matches!(self, Self::Fp8 | Self::Tf32)
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|precision| precision.as_str() == name)
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL
                    .iter()
                    .map(|precision| precision.as_str())
                    .collect();
                Error::caller(
                    "dtype",
                    format!("`{name}` is not one of {}", names.join(", ")),
                )
            })
    }
}
