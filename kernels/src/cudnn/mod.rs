//! cuDNN, opened at run time: its graph ("backend") API for fused attention and 3-D convolution.
//!
//! The binary never links cuDNN. [`library`] looks for `libcudnn.so.9` in the directories of
//! `LEOMA_NODE_CUDA_LIBS` and then wherever the loader looks; without it, or with one that is too old,
//! operations take their next path and can say why. Names, numbers and argument types of the API are those
//! of NVIDIA's public headers of cuDNN 9; nothing here needs the headers to build.
//!
//! - [`backend`]: descriptors, execution plans, their execution;
//! - `names`: the numbers of attributes, types and descriptors;
//! - [`conv`]: convolution of channels-last video;
//! - [`sdpa`]: fused attention;
//! - `session`: handles and plans of the streams.

pub(crate) mod backend;
pub(crate) mod conv;
pub(crate) mod names;
pub(crate) mod sdpa;
mod session;
#[cfg(all(test, feature = "shim", unix))]
pub(crate) mod tests;

use std::cell::RefCell;
use std::ffi::{CStr, OsString, c_char, c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use candle_core::Device;

use crate::device::Target;

/// The name that the loader knows; cuDNN keeps it for all of version 9.
const SONAME: &str = "libcudnn.so.9";
/// Directories to look in before the loader's own, separated as in `PATH`.
const DIRECTORIES: &str = "LEOMA_NODE_CUDA_LIBS";

/// Why cuDNN cannot do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Error {
    /// No library; what the loader said for each place.
    NotFound(Vec<String>),
    /// A library without one of the functions needed.
    NoFunction {
        path: String,
        function: &'static str,
    },
    /// A library older than a feature.
    TooOld {
        found: Version,
        needed: Version,
        feature: &'static str,
    },
    /// A call that failed.
    Call {
        /// The function and what it was to do.
        what: String,
        status: c_int,
        /// The status in words and the library's last message.
        message: String,
    },
    /// No engine takes the graph; the last refusal.
    NoEngine { tried: usize, last: String },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(tried) => write!(
                f,
                "cuDNN is not there: {}; install it (Python wheel nvidia-cudnn-cu13) and name its \
                 directory in {DIRECTORIES}",
                tried.join("; ")
            ),
            Self::NoFunction { path, function } => {
                write!(f, "{path} is no cuDNN 9: it has no function {function}")
            }
            Self::TooOld {
                found,
                needed,
                feature,
            } => write!(
                f,
                "cuDNN {found} is too old for {feature}, which came with {needed}"
            ),
            Self::Call {
                what,
                status,
                message,
            } => write!(f, "cuDNN: {what} failed with status {status}, {message}"),
            Self::NoEngine { tried, last } => {
                write!(f, "cuDNN: none of {tried} engines takes this graph; {last}")
            }
        }
    }
}

impl std::error::Error for Error {}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// A version of cuDNN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: usize,
    pub(crate) minor: usize,
    pub(crate) patch: usize,
}

impl Version {
    pub(crate) const fn new(major: usize, minor: usize, patch: usize) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// From the number that `cudnnGetVersion` gives: 91301 is 9.13.1.
    fn from_number(number: usize) -> Self {
        Self::new(number / 10_000, number / 100 % 100, number % 100)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

type Status = c_int;
/// `cudnnHandle_t`, `cudnnBackendDescriptor_t` and `cudaStream_t` are pointers.
type Pointer = *mut c_void;

/// The functions used, by their own names without `cudnn`.
struct Functions {
    get_error_string: unsafe extern "C" fn(Status) -> *const c_char,
    /// Since cuDNN 9.
    get_last_error_string: Option<unsafe extern "C" fn(*mut c_char, usize)>,
    create: unsafe extern "C" fn(*mut Pointer) -> Status,
    destroy: unsafe extern "C" fn(Pointer) -> Status,
    set_stream: unsafe extern "C" fn(Pointer, Pointer) -> Status,
    backend_create_descriptor: unsafe extern "C" fn(c_int, *mut Pointer) -> Status,
    backend_destroy_descriptor: unsafe extern "C" fn(Pointer) -> Status,
    backend_finalize: unsafe extern "C" fn(Pointer) -> Status,
    backend_set_attribute:
        unsafe extern "C" fn(Pointer, c_int, c_int, i64, *const c_void) -> Status,
    backend_get_attribute:
        unsafe extern "C" fn(Pointer, c_int, c_int, i64, *mut i64, *mut c_void) -> Status,
    backend_execute: unsafe extern "C" fn(Pointer, Pointer, Pointer) -> Status,
}

/// An open cuDNN.
pub(crate) struct Library {
    functions: Functions,
    version: Version,
    path: String,
    /// Keeps the functions loaded; last, so that it goes last.
    _library: libloading::Library,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuDNN {} ({})", self.version, self.path)
    }
}

impl Library {
    /// Opens the first library that loads of `directories`' and the loader's own.
    pub(crate) fn open(directories: &[PathBuf]) -> Result<Arc<Self>> {
        let mut refusals = Vec::new();
        let places = directories.iter().map(|directory| directory.join(SONAME));
        for place in places.chain([PathBuf::from(SONAME)]) {
            // SAFETY: loading runs the library's initialisers; a file of this name in the places where
            // the user or the system keeps libraries is taken for NVIDIA's.
            match unsafe { libloading::Library::new(&place) } {
                Ok(library) => return Self::bind(library, &place).map(Arc::new),
                Err(error) => {
                    // What the loader says is the source of the error.
                    let said = std::error::Error::source(&error)
                        .map_or_else(|| error.to_string(), ToString::to_string);
                    refusals.push(if said.contains(SONAME) {
                        said
                    } else {
                        format!("{}: {said}", place.display())
                    });
                }
            }
        }
        Err(Error::NotFound(refusals))
    }

    fn bind(library: libloading::Library, path: &Path) -> Result<Self> {
        let path = path.display().to_string();
        macro_rules! function {
            ($name:literal) => {{
                // SAFETY: the type is the one that cuDNN's header declares for this name.
                match unsafe { library.get(concat!($name, "\0").as_bytes()) } {
                    Ok(function) => *function,
                    Err(_) => {
                        return Err(Error::NoFunction {
                            path,
                            function: $name,
                        });
                    }
                }
            }};
        }
        let get_version: unsafe extern "C" fn() -> usize = function!("cudnnGetVersion");
        // SAFETY: takes nothing, needs no device.
        let version = Version::from_number(unsafe { get_version() });
        let functions = Functions {
            get_error_string: function!("cudnnGetErrorString"),
            // SAFETY: as above.
            get_last_error_string: unsafe { library.get(b"cudnnGetLastErrorString\0") }
                .ok()
                .map(|function| *function),
            create: function!("cudnnCreate"),
            destroy: function!("cudnnDestroy"),
            set_stream: function!("cudnnSetStream"),
            backend_create_descriptor: function!("cudnnBackendCreateDescriptor"),
            backend_destroy_descriptor: function!("cudnnBackendDestroyDescriptor"),
            backend_finalize: function!("cudnnBackendFinalize"),
            backend_set_attribute: function!("cudnnBackendSetAttribute"),
            backend_get_attribute: function!("cudnnBackendGetAttribute"),
            backend_execute: function!("cudnnBackendExecute"),
        };
        Ok(Self {
            functions,
            version,
            path,
            _library: library,
        })
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// An error unless the library is at least of the version that brought `feature`.
    pub(crate) fn require(&self, needed: Version, feature: &'static str) -> Result<()> {
        if self.version < needed {
            return Err(Error::TooOld {
                found: self.version,
                needed,
                feature,
            });
        }
        Ok(())
    }

    /// Turns a status into a result; `what` says which call it was.
    fn check(&self, status: Status, what: impl FnOnce() -> String) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: gives a string with static lifetime for any status.
        let name = unsafe { (self.functions.get_error_string)(status) };
        let mut message = if name.is_null() {
            "of no name".to_owned()
        } else {
            // SAFETY: not null, ends with a zero.
            unsafe { CStr::from_ptr(name) }
                .to_string_lossy()
                .into_owned()
        };
        if let Some(last) = self.functions.get_last_error_string {
            let mut text = [0u8; 1024];
            // SAFETY: writes at most the given number of bytes.
            unsafe { last(text.as_mut_ptr().cast(), text.len()) };
            if let Ok(text) = CStr::from_bytes_until_nul(&text) {
                let text = text.to_string_lossy();
                if !text.trim().is_empty() {
                    message.push_str(": ");
                    message.push_str(text.trim());
                }
            }
        }
        Err(Error::Call {
            what: what(),
            status,
            message,
        })
    }
}

/// The process's cuDNN, opened at the first call, or why there is none.
pub(crate) fn library() -> Result<Arc<Library>> {
    static OPEN: OnceLock<Result<Arc<Library>>> = OnceLock::new();
    OPEN.get_or_init(|| Library::open(&directories(std::env::var_os(DIRECTORIES))))
        .clone()
}

/// The cuDNN that serves `target`: the process's on a card; in the host shim, whose addresses a real one
/// must never get, the one that a test brought.
pub(crate) fn library_of(target: &Target) -> Result<Arc<Library>> {
    match target.device() {
        Device::Cpu => BROUGHT.with_borrow(Clone::clone).ok_or_else(|| {
            Error::NotFound(vec!["the host shim runs on the CPU, cuDNN does not".into()])
        }),
        _ => library(),
    }
}

thread_local! {
    static BROUGHT: RefCell<Option<Arc<Library>>> = const { RefCell::new(None) };
}

/// Runs `work` with `library` as the cuDNN of the host shim.
#[cfg(all(test, feature = "shim", unix))]
pub(crate) fn with_library<R>(library: &Arc<Library>, work: impl FnOnce() -> R) -> R {
    BROUGHT.set(Some(library.clone()));
    let result = work();
    BROUGHT.set(None);
    result
}

fn directories(value: Option<OsString>) -> Vec<PathBuf> {
    value
        .iter()
        .flat_map(std::env::split_paths)
        .filter(|directory| !directory.as_os_str().is_empty())
        .collect()
}
