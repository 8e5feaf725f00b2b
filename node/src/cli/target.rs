//! Where to compute: an option shared by `generate` and `serve`.

use std::str::FromStr;

use candle_core::Device;
use leoma_models::{Error, Result};

use crate::cuda::{Problem, explain};

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceArg {
    /// The processor.
    Cpu,
    /// A CUDA device by ordinal.
    Cuda(usize),
    /// CUDA device 0 when there is one, else the processor.
    Auto,
}

impl FromStr for DeviceArg {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let wrong = || {
            Error::caller(
                "device",
                format!("`{name}` is not one of cpu, cuda, cuda:N, auto"),
            )
        };
        match name {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::Auto),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let ordinal = name.strip_prefix("cuda:").ok_or_else(wrong)?;
                ordinal.parse().map(Self::Cuda).map_err(|_| wrong())
            }
        }
    }
}

impl DeviceArg {
    /// Opens the device. The CPU build has no card to open: for one that can be used it becomes the CUDA
    /// build and does not return. `auto` falls back to the processor and says why.
    ///
    /// # Errors
    /// [`Error::Local`] when a CUDA device was asked for and cannot be had.
    #[allow(clippy::print_stderr)]
    pub(crate) fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => {
                let device = format!("cuda:{ordinal}");
                cuda(ordinal).map_err(|problems| Error::local(explain(&device, &problems)))
            }
            Self::Auto => cuda(0).or_else(|problems| {
                let why = problems.first().map(Problem::brief).unwrap_or_default();
                eprintln!("note: computing on the CPU: {why}");
                Ok(Device::Cpu)
            }),
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> std::result::Result<Device, Vec<Problem>> {
    crate::cuda::launch(ordinal).map(|never| match never {})
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> std::result::Result<Device, Vec<Problem>> {
    if let Some(problem) = crate::cuda::check(ordinal) {
        return Err(vec![problem]);
    }
    let unopened = |reason| vec![Problem::Unopened { ordinal, reason }];
    // The driver bindings panic where they cannot go on, instead of returning an error.
    match std::panic::catch_unwind(|| Device::new_cuda(ordinal)) {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(error)) => Err(unopened(error.to_string())),
        Err(_) => Err(unopened("the driver's bindings gave up".into())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn devices_parse() {
        assert_eq!("cuda:3".parse::<DeviceArg>().unwrap(), DeviceArg::Cuda(3));
        for wrong in ["gpu", "cuda:", "cuda:x", ""] {
            assert!(wrong.parse::<DeviceArg>().is_err(), "{wrong}");
        }
    }
}
