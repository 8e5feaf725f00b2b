//! Where a model in bf16 rounds.
//!
//! The two reference implementations agree in float32 and differ in bf16 in what they keep wider:
//!
//! | | [`Rounding::Diffusers`] | [`Rounding::Official`] |
//! |---|---|---|
//! | weights of the blocks, matrix products, attention | bf16 | bf16 |
//! | modulation tables, norms, rotation | f32 arithmetic, result bf16 | the same |
//! | residual stream | bf16 after every addition | f32 |
//! | time projection | bf16 | f32 |
//! | q and k norm | rounded after the weight | rounded before the weight, product in f32 |
//! | output head, velocity, guidance | bf16, every operation rounded | f32 |
//! | product sigma * velocity in the sampler | rounded to bf16 | f32 |
//! | sampler state | f32 | f32 |
//! | VAE | bf16 | f32 |
//!
//! Diffusers means 0.35.2. Everything that follows from the velocity (guidance, sampler) takes its type from
//! the velocity itself, so that there is one place to choose: the transformer's output.

use std::fmt;
use std::str::FromStr;

use candle_core::DType;

use crate::error::{Error, Result};

/// Which reference's rounding is followed; see the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rounding {
    /// As diffusers 0.35.2 in the pipeline's type.
    #[default]
    Diffusers,
    /// As the official Wan 2.2 code with bf16 weights.
    Official,
}

impl Rounding {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Diffusers, Self::Official];

    /// Name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Diffusers => "diffusers",
            Self::Official => "official",
        }
    }

    /// The type of what the official code keeps in f32, in a model that computes in `dtype`: residual stream,
    /// time projection, output head and so velocity and guidance, VAE.
    pub fn wide(self, dtype: DType) -> DType {
        match self {
            Self::Diffusers => dtype,
            Self::Official => DType::F32,
        }
    }

    /// Refuses official rounding in another type than bf16, where nobody defines it.
    ///
    /// # Errors
    /// [`Error::Caller`] naming the remedy.
    pub fn check(self, dtype: DType) -> Result<()> {
        if self == Self::Official && dtype != DType::BF16 {
            return Err(Error::caller(
                "rounding",
                format!(
                    "`official` says where bf16 is rounded and means nothing in {}; use --dtype bf16, or \
                     leave --rounding out",
                    dtype.as_str()
                ),
            ));
        }
        Ok(())
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Rounding {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|mode| mode.as_str() == name);
        found.ok_or_else(|| {
            Error::caller(
                "rounding",
                format!("`{name}` is not one of diffusers, official"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn official_rounding_is_for_bf16_only() {
        Rounding::Official.check(DType::BF16).unwrap();
        assert_eq!(Rounding::Official.wide(DType::BF16), DType::F32);
        for dtype in [DType::F32, DType::F16] {
            let error = Rounding::Official.check(dtype).unwrap_err();
            assert!(error.to_string().contains("--dtype bf16"), "{error}");
            Rounding::Diffusers.check(dtype).unwrap();
            assert_eq!(Rounding::Diffusers.wide(dtype), dtype);
        }
        for mode in Rounding::ALL {
            assert_eq!(mode.as_str().parse::<Rounding>().unwrap(), mode);
        }
        assert!("bf16".parse::<Rounding>().is_err());
    }
}
