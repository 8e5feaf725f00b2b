//! The NVIDIA driver, asked through its library without opening a card: no context is made, so a program
//! that computes on the card is not disturbed.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::path::{Path, PathBuf};

use libloading::{Library, Symbol};
use serde::Serialize;

use super::problem::DRIVER;
use super::{Problem, Version};

/// A card as the driver shows it: under `CUDA_VISIBLE_DEVICES`, a MIG slice is a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Card {
    /// Name, as `NVIDIA H200`.
    pub name: String,
    /// Compute capability, as (9, 0).
    pub capability: (u32, u32),
    /// Its memory.
    pub memory_bytes: u64,
}

impl Card {
    /// The capability as people write it.
    pub fn capability_text(&self) -> String {
        format!("{}.{}", self.capability.0, self.capability.1)
    }
}

/// What the driver tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// Folder of the library, where the loader's path does not have it.
    pub folder: Option<PathBuf>,
    /// Newest CUDA release whose code it runs.
    pub version: Version,
    /// The cards, by number.
    pub cards: Vec<Card>,
}

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR` (cuda.h).
const CAPABILITY: (c_int, c_int) = (75, 76);

type Init = unsafe extern "C" fn(c_uint) -> c_int;
type Get = unsafe extern "C" fn(*mut c_int) -> c_int;
type Device = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
type Name = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
type Attribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
type Memory = unsafe extern "C" fn(*mut usize, c_int) -> c_int;

/// Opens the driver and asks it. Looks in `first`, then where the loader looks, then in `last`.
pub(super) fn ask(first: &[PathBuf], last: &[PathBuf]) -> Result<Driver, Problem> {
    let (library, folder) = open(first, last)?;
    let init = function::<Init>(&library, c"cuInit")?;
    let version = function::<Get>(&library, c"cuDriverGetVersion")?;
    let count = function::<Get>(&library, c"cuDeviceGetCount")?;
    let device = function::<Device>(&library, c"cuDeviceGet")?;
    let name = function::<Name>(&library, c"cuDeviceGetName")?;
    let attribute = function::<Attribute>(&library, c"cuDeviceGetAttribute")?;
    let memory = function::<Memory>(&library, c"cuDeviceTotalMem_v2")?;

    let number = |call: &dyn Fn(*mut c_int) -> c_int| -> Result<u32, Problem> {
        let mut value = 0;
        accepted(call(&raw mut value))?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    // SAFETY: the signatures are those of cuda.h; 0 is the only flag there is; every pointer is to a local
    // that outlives the call.
    let version = Version(number(&|value| unsafe { version(value) })?);
    // SAFETY: as above.
    accepted(unsafe { init(0) })?;
    // SAFETY: as above.
    let count = number(&|value| unsafe { count(value) })?;
    let mut cards = Vec::new();
    for ordinal in 0..count as c_int {
        // SAFETY: as above; the ordinal is below the count.
        let handle = number(&|value| unsafe { device(value, ordinal) })? as c_int;
        let mut text = [0 as c_char; 256];
        // SAFETY: as above; the driver writes at most the 256 bytes it is told of.
        accepted(unsafe { name(text.as_mut_ptr(), text.len() as c_int, handle) })?;
        let bytes: Vec<u8> = text.iter().map(|c| *c as u8).collect();
        // SAFETY: as above, with a handle that the driver gave.
        let part = |which| number(&|value| unsafe { attribute(value, which, handle) });
        let mut memory_bytes = 0;
        // SAFETY: as above.
        accepted(unsafe { memory(&raw mut memory_bytes, handle) })?;
        cards.push(Card {
            name: CStr::from_bytes_until_nul(&bytes)
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            capability: (part(CAPABILITY.0)?, part(CAPABILITY.1)?),
            memory_bytes: memory_bytes as u64,
        });
    }
    // Some drivers have threads of their own from here on: their code must stay.
    std::mem::forget(library);
    Ok(Driver {
        folder,
        version,
        cards,
    })
}

fn open(first: &[PathBuf], last: &[PathBuf]) -> Result<(Library, Option<PathBuf>), Problem> {
    let named = |folders: &[PathBuf]| -> Vec<PathBuf> {
        let there = folders.iter().filter(|f| f.join(DRIVER).exists());
        there.cloned().collect()
    };
    let mut broken = None;
    let tries = named(first)
        .into_iter()
        .map(Some)
        .chain([None])
        .chain(named(last).into_iter().map(Some));
    for folder in tries {
        let path = match &folder {
            Some(folder) => folder.join(DRIVER),
            None => PathBuf::from(DRIVER),
        };
        // SAFETY: the driver's initialisers are what every CUDA program runs when it starts.
        match unsafe { Library::new(&path) } {
            Ok(library) => return Ok((library, folder)),
            Err(error) => {
                let reason = reason(&error);
                // "libcuda.so.1: cannot open shared object file: No such file or directory" is the usual
                // case; a driver that lacks a library of its own names that one.
                let absent = folder.is_none()
                    && reason.starts_with(DRIVER)
                    && reason.contains("No such file");
                if !absent {
                    broken.get_or_insert(reason);
                }
            }
        }
    }
    Err(match broken {
        Some(reason) => Problem::BrokenDriver { reason },
        None => Problem::NoDriver {
            looked: first.iter().chain(last).cloned().collect(),
            needed: None,
        },
    })
}

/// What the loader said, in one line.
fn reason(error: &libloading::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    text.lines().collect::<Vec<_>>().join(" ")
}

fn function<'a, F>(library: &'a Library, name: &CStr) -> Result<Symbol<'a, F>, Problem> {
    // SAFETY: the callers name functions of cuda.h with their signatures.
    unsafe { library.get::<F>(name.to_bytes_with_nul()) }.map_err(|error| Problem::BrokenDriver {
        reason: reason(&error),
    })
}

fn accepted(code: c_int) -> Result<(), Problem> {
    if code == 0 {
        return Ok(());
    }
    Err(Problem::Refused {
        code,
        visible: visible(),
    })
}

/// `CUDA_VISIBLE_DEVICES`, as the driver reads it.
pub(super) fn visible() -> Option<String> {
    let value = std::env::var_os("CUDA_VISIBLE_DEVICES")?;
    Some(value.to_string_lossy().into_owned())
}

/// The number of the kernel module, as `580.65.06`.
pub(super) fn number() -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/proc/driver/nvidia/version")).ok()?;
    number_in(&text)
}

/// The first word of digits and at least one dot in the line of the kernel module.
fn number_in(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.contains("NVRM"))?;
    let is =
        |word: &&str| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    line.split_whitespace().find(is).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_the_kernel_module_is_read() {
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n\
                    GCC version:  gcc version 12.3.0\n";
        assert_eq!(number_in(open).as_deref(), Some("580.65.06"));
        let old = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024";
        assert_eq!(number_in(old).as_deref(), Some("470.256.02"));
        assert_eq!(number_in("GCC version: 12.3.0"), None);
    }

    #[test]
    fn a_file_that_is_no_library_is_a_broken_driver() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join(DRIVER), "no ELF").expect("a file");
        let found = ask(&[folder.path().to_owned()], &[]);
        // With a driver on this machine, that one is taken.
        match found {
            Err(Problem::BrokenDriver { reason }) => {
                assert!(reason.contains(DRIVER), "{reason}");
            }
            Err(Problem::Refused { .. }) | Ok(_) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}
