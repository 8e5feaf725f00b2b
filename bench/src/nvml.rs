//! The few functions of NVIDIA's management library that a measurement needs, opened at run time: a machine
//! without the driver has no such library, and this program starts there too.
//!
//! **Source**: signatures, structures and constants of NVIDIA's `nvml.h`, API version 12. Nothing here
//! changes a setting of the device.
#![allow(unsafe_code)] // calls into a C library; each block says why it holds
#![cfg_attr(not(any(feature = "cuda", test)), allow(dead_code))] // only a CUDA build opens it

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulonglong, c_void};

use libloading::Library;

/// Names under which the library is found.
#[cfg(feature = "cuda")]
pub(crate) const NAMES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

const SUCCESS: c_int = 0;
const INSUFFICIENT_SIZE: c_int = 7;
const CLOCK_SM: c_uint = 1;
const CLOCK_MEMORY: c_uint = 2;
const TEMPERATURE_GPU: c_uint = 0;

type Handle = *mut c_void;

/// `nvmlMemory_t`.
#[repr(C)]
#[derive(Default)]
struct MemoryInfo {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlProcessInfo_t` of `nvmlDeviceGetComputeRunningProcesses_v3`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProcessInfo {
    pid: c_uint,
    used: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// The library, initialised.
#[derive(Debug)]
pub(crate) struct Nvml {
    library: Library,
}

/// One device.
#[derive(Debug)]
pub(crate) struct Device {
    nvml: Nvml,
    handle: Handle,
}

// SAFETY: NVML is thread-safe by its documentation ("API calls are thread-safe"), and the handle is an opaque
// name that NVML resolves in every call.
unsafe impl Send for Device {}
// SAFETY: as above; no call writes through the handle on our side.
unsafe impl Sync for Device {}

/// Which device to look at.
#[derive(Debug, Clone)]
pub(crate) enum Select {
    /// By number on the PCI bus, `0000:01:00.0`: what CUDA and NVML agree on whatever is made visible.
    Pci(String),
    /// By NVML's own number.
    #[cfg(test)]
    Index(u32),
}

impl Nvml {
    /// Opens the first of `names` that is there.
    ///
    /// # Errors
    /// In words: what is missing and what that means.
    pub(crate) fn open(names: &[&str]) -> Result<Self, String> {
        let mut last = String::new();
        for name in names {
            // SAFETY: loading NVIDIA's management library runs its constructors, which have no preconditions.
            match unsafe { Library::new(*name) } {
                Ok(library) => {
                    let nvml = Self { library };
                    let code = nvml
                        .call::<unsafe extern "C" fn() -> c_int>("nvmlInit_v2")
                        // SAFETY: `nvmlInit_v2(void)` takes nothing.
                        .map(|init| unsafe { init() });
                    return match code {
                        Some(SUCCESS) => Ok(nvml),
                        Some(code) => Err(format!(
                            "{name} cannot be used: nvmlInit_v2 says {}",
                            nvml.message(code)
                        )),
                        None => Err(format!("{name} has no nvmlInit_v2: it is no NVML library")),
                    };
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error);
                    last = cause.map_or_else(|| error.to_string(), ToString::to_string);
                }
            }
        }
        Err(format!(
            "NVML is not there ({}: {last}); it comes with NVIDIA's driver",
            names.join(", ")
        ))
    }

    /// A function of the library. `F` must be its type in `nvml.h`.
    fn call<F: Copy>(&self, name: &str) -> Option<F> {
        let name = CString::new(name).ok()?;
        // SAFETY: every caller in this file names `F` after the function's declaration in nvml.h.
        unsafe { self.library.get::<F>(name.as_bytes_with_nul()) }
            .ok()
            .map(|symbol| *symbol)
    }

    fn message(&self, code: c_int) -> String {
        let text = self
            .call::<unsafe extern "C" fn(c_int) -> *const c_char>("nvmlErrorString")
            // SAFETY: `nvmlErrorString(nvmlReturn_t)` accepts any number and returns a static string.
            .map(|function| unsafe { function(code) })
            .filter(|text| !text.is_null())
            .map(|text| {
                // SAFETY: not null, and static and zero-terminated by nvml.h.
                let text = unsafe { CStr::from_ptr(text) };
                text.to_string_lossy().into_owned()
            });
        text.unwrap_or_else(|| format!("error {code}"))
    }

    /// Version of the driver.
    pub(crate) fn driver(&self) -> Option<String> {
        let function: unsafe extern "C" fn(*mut c_char, c_uint) -> c_int =
            self.call("nvmlSystemGetDriverVersion")?;
        // SAFETY: the buffer is writable for the length that is passed.
        text(|buffer, length| unsafe { function(buffer, length) })
    }

    /// Highest CUDA version of the driver, as `13.0`.
    pub(crate) fn cuda(&self) -> Option<String> {
        let function: unsafe extern "C" fn(*mut c_int) -> c_int =
            self.call("nvmlSystemGetCudaDriverVersion_v2")?;
        let mut version = 0;
        // SAFETY: the pointer is to a live integer.
        let code = unsafe { function(&raw mut version) };
        (code == SUCCESS).then(|| format!("{}.{}", version / 1000, version % 1000 / 10))
    }

    /// Takes a device.
    ///
    /// # Errors
    /// In words, when there is no such device.
    pub(crate) fn device(self, select: &Select) -> Result<Device, String> {
        let mut handle: Handle = std::ptr::null_mut();
        let code = match select {
            Select::Pci(bus) => {
                let bus = CString::new(bus.as_str()).map_err(|error| error.to_string())?;
                self.call::<unsafe extern "C" fn(*const c_char, *mut Handle) -> c_int>(
                    "nvmlDeviceGetHandleByPciBusId_v2",
                )
                // SAFETY: a zero-terminated string and a live handle.
                .map(|function| unsafe { function(bus.as_ptr(), &raw mut handle) })
            }
            #[cfg(test)]
            Select::Index(index) => self
                .call::<unsafe extern "C" fn(c_uint, *mut Handle) -> c_int>(
                    "nvmlDeviceGetHandleByIndex_v2",
                )
                // SAFETY: a live handle.
                .map(|function| unsafe { function(*index, &raw mut handle) }),
        };
        match code {
            Some(SUCCESS) if !handle.is_null() => Ok(Device { nvml: self, handle }),
            Some(code) => Err(format!(
                "NVML has no device {select:?}: {}",
                self.message(code)
            )),
            None => Err("this NVML library is too old to name devices".to_owned()),
        }
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        if let Some(function) = self.call::<unsafe extern "C" fn() -> c_int>("nvmlShutdown") {
            // SAFETY: `nvmlShutdown(void)` undoes one nvmlInit_v2; the library is still loaded.
            unsafe { function() };
        }
    }
}

impl Device {
    /// The library behind the device.
    pub(crate) fn nvml(&self) -> &Nvml {
        &self.nvml
    }

    /// A function `(device, out)`.
    fn get<T: Default>(&self, name: &str) -> Option<T> {
        let function: unsafe extern "C" fn(Handle, *mut T) -> c_int = self.nvml.call(name)?;
        let mut value = T::default();
        // SAFETY: the callers pair each name with the type of its out parameter in nvml.h; the handle is alive.
        let code = unsafe { function(self.handle, &raw mut value) };
        (code == SUCCESS).then_some(value)
    }

    /// A function `(device, which, out)`.
    fn get_of(&self, name: &str, which: c_uint) -> Option<c_uint> {
        let function: unsafe extern "C" fn(Handle, c_uint, *mut c_uint) -> c_int =
            self.nvml.call(name)?;
        let mut value = 0;
        // SAFETY: all functions called here are declared (device, enum, unsigned int *) in nvml.h.
        let code = unsafe { function(self.handle, which, &raw mut value) };
        (code == SUCCESS).then_some(value)
    }

    /// A function `(device, current, pending)` of a mode that is 0 or 1.
    fn mode(&self, name: &str) -> Option<bool> {
        let function: unsafe extern "C" fn(Handle, *mut c_uint, *mut c_uint) -> c_int =
            self.nvml.call(name)?;
        let (mut current, mut pending) = (0, 0);
        // SAFETY: both functions called here are declared (device, current *, pending *) in nvml.h.
        let code = unsafe { function(self.handle, &raw mut current, &raw mut pending) };
        (code == SUCCESS).then_some(current != 0)
    }

    /// Product name.
    pub(crate) fn name(&self) -> Option<String> {
        let function: unsafe extern "C" fn(Handle, *mut c_char, c_uint) -> c_int =
            self.nvml.call("nvmlDeviceGetName")?;
        // SAFETY: the buffer is writable for the length that is passed.
        text(|buffer, length| unsafe { function(self.handle, buffer, length) })
    }

    /// (total, used) bytes of memory.
    pub(crate) fn memory(&self) -> Option<(u64, u64)> {
        let info: MemoryInfo = self.get("nvmlDeviceGetMemoryInfo")?;
        Some((info.total, info.used))
    }

    /// Power drawn now, in watts.
    pub(crate) fn power_w(&self) -> Option<f64> {
        self.get::<c_uint>("nvmlDeviceGetPowerUsage").map(watts)
    }

    /// Power limit in force, in watts.
    pub(crate) fn power_limit_w(&self) -> Option<f64> {
        self.get::<c_uint>("nvmlDeviceGetEnforcedPowerLimit")
            .map(watts)
    }

    /// Clock of the multiprocessors in MHz.
    pub(crate) fn sm_mhz(&self) -> Option<u32> {
        self.get_of("nvmlDeviceGetClockInfo", CLOCK_SM)
    }

    /// Clock of the memory in MHz.
    pub(crate) fn memory_mhz(&self) -> Option<u32> {
        self.get_of("nvmlDeviceGetClockInfo", CLOCK_MEMORY)
    }

    /// Highest clock of the multiprocessors in MHz.
    pub(crate) fn max_sm_mhz(&self) -> Option<u32> {
        self.get_of("nvmlDeviceGetMaxClockInfo", CLOCK_SM)
    }

    /// Highest clock of the memory in MHz.
    pub(crate) fn max_memory_mhz(&self) -> Option<u32> {
        self.get_of("nvmlDeviceGetMaxClockInfo", CLOCK_MEMORY)
    }

    /// Temperature in °C.
    pub(crate) fn temperature_c(&self) -> Option<u32> {
        self.get_of("nvmlDeviceGetTemperature", TEMPERATURE_GPU)
    }

    /// Why the clocks are not higher: a set of [`THROTTLE`] bits.
    pub(crate) fn throttle(&self) -> Option<u64> {
        self.get::<c_ulonglong>("nvmlDeviceGetCurrentClocksEventReasons")
            .or_else(|| self.get::<c_ulonglong>("nvmlDeviceGetCurrentClocksThrottleReasons"))
    }

    /// Whether memory errors are corrected.
    pub(crate) fn ecc(&self) -> Option<bool> {
        self.mode("nvmlDeviceGetEccMode")
    }

    /// Whether the device is divided into instances.
    pub(crate) fn mig(&self) -> Option<bool> {
        self.mode("nvmlDeviceGetMigMode")
    }

    /// Processes that compute on the device, this one left out. Inside a container numbers of processes may
    /// be hidden, then this one counts as another.
    pub(crate) fn other_processes(&self) -> Option<u32> {
        let function: unsafe extern "C" fn(Handle, *mut c_uint, *mut ProcessInfo) -> c_int =
            self.nvml.call("nvmlDeviceGetComputeRunningProcesses_v3")?;
        let mut list = vec![ProcessInfo::default(); 64];
        let mut count = list.len() as c_uint;
        // SAFETY: the list has `count` writable elements.
        let code = unsafe { function(self.handle, &raw mut count, list.as_mut_ptr()) };
        match code {
            SUCCESS => {
                list.truncate(count as usize);
                let own = std::process::id();
                Some(list.iter().filter(|process| process.pid != own).count() as u32)
            }
            INSUFFICIENT_SIZE => Some(count),
            _ => None,
        }
    }
}

/// Reasons for lower clocks that make a measurement slower than the device is, by bit, with their names.
pub(crate) const THROTTLE: [(u64, &str); 6] = [
    (0x4, "power cap"),
    (0x8, "hardware slowdown"),
    (0x10, "sync boost"),
    (0x20, "software thermal slowdown"),
    (0x40, "hardware thermal slowdown"),
    (0x80, "hardware power brake"),
];

fn watts(milliwatts: c_uint) -> f64 {
    f64::from(milliwatts) / 1e3
}

/// Calls a function that fills a buffer with zero-terminated text.
fn text(fill: impl FnOnce(*mut c_char, c_uint) -> c_int) -> Option<String> {
    let mut buffer = [0_u8; 96];
    let code = fill(buffer.as_mut_ptr().cast(), buffer.len() as c_uint);
    let text = CStr::from_bytes_until_nul(&buffer).ok()?;
    (code == SUCCESS).then(|| text.to_string_lossy().into_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::*;

    /// A library with NVML's interface and a device that draws more power with every look.
    const FAKE: &str = r#"
        #include <string.h>
        static unsigned looks = 0;
        int nvmlInit_v2(void) { return INIT; }
        int nvmlShutdown(void) { return 0; }
        const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : "Not Found"; }
        int nvmlSystemGetDriverVersion(char *out, unsigned n) { strncpy(out, "580.65.06", n); return 0; }
        int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 13000; return 0; }
        int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **out) { *out = (void *)0x10; return i ? 6 : 0; }
        int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **out) {
            *out = (void *)0x10; return strcmp(bus, "00000000:01:00.0") ? 6 : 0; }
        int nvmlDeviceGetName(void *d, char *out, unsigned n) { strncpy(out, "Fake GPU 9000", n); return 0; }
        int nvmlDeviceGetMemoryInfo(void *d, unsigned long long *out) {
            out[0] = 24ull << 30; out[1] = 20ull << 30; out[2] = (4ull << 30) + looks; return 0; }
        int nvmlDeviceGetPowerUsage(void *d, unsigned *out) { *out = 300000 + 1000 * looks++; return 0; }
        int nvmlDeviceGetEnforcedPowerLimit(void *d, unsigned *out) { *out = 450000; return 0; }
        int nvmlDeviceGetClockInfo(void *d, unsigned w, unsigned *out) { *out = w == 1 ? 1900 : 10501; return 0; }
        int nvmlDeviceGetMaxClockInfo(void *d, unsigned w, unsigned *out) { *out = w == 1 ? 2520 : 10501; return 0; }
        int nvmlDeviceGetTemperature(void *d, unsigned w, unsigned *out) { *out = 64; return 0; }
        int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *out) { *out = 0x4; return 0; }
        int nvmlDeviceGetEccMode(void *d, unsigned *a, unsigned *b) { return 3; }
        int nvmlDeviceGetMigMode(void *d, unsigned *a, unsigned *b) { *a = 0; *b = 0; return 0; }
        struct process { unsigned pid; unsigned long long used; unsigned a, b; };
        int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *count, struct process *out) {
            if (*count < 1) { *count = 1; return 7; }
            *count = 1; out[0].pid = 1; out[0].used = 1 << 30; return 0; }
    "#;

    /// Builds the library; `init` is what its initialisation returns.
    pub(crate) fn fake(dir: &Path, init: i32) -> PathBuf {
        let source = dir.join("nvml.c");
        let library = dir.join(format!("libnvidia-ml-{init}.so"));
        std::fs::write(&source, FAKE).unwrap();
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(format!("-DINIT={init}"))
            .arg(&source)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        library
    }

    fn open(path: &Path) -> Result<Nvml, String> {
        Nvml::open(&[path.to_str().unwrap()])
    }

    #[test]
    fn a_device_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let nvml = open(&fake(dir.path(), 0)).unwrap();
        assert_eq!(nvml.driver().unwrap(), "580.65.06");
        assert_eq!(nvml.cuda().unwrap(), "13.0");
        let device = nvml.device(&Select::Index(0)).unwrap();
        assert_eq!(device.name().unwrap(), "Fake GPU 9000");
        let (total, used) = device.memory().unwrap();
        assert_eq!((total, used >> 30), (24 << 30, 4));
        assert_eq!(device.power_w(), Some(300.0));
        assert_eq!(device.power_w(), Some(301.0));
        assert_eq!(device.power_limit_w(), Some(450.0));
        assert_eq!(
            (device.sm_mhz(), device.memory_mhz()),
            (Some(1900), Some(10501))
        );
        assert_eq!(
            (device.max_sm_mhz(), device.max_memory_mhz()),
            (Some(2520), Some(10501))
        );
        assert_eq!(device.temperature_c(), Some(64));
        // The name of before the rename serves too.
        assert_eq!(device.throttle(), Some(0x4));
        // Not supported is absent, not false.
        assert_eq!((device.ecc(), device.mig()), (None, Some(false)));
        assert_eq!(device.other_processes(), Some(1));
        assert_eq!(device.nvml().driver().unwrap(), "580.65.06");
    }

    #[test]
    fn devices_are_found_by_their_place_on_the_bus() {
        let dir = tempfile::tempdir().unwrap();
        let library = fake(dir.path(), 0);
        let pci = |bus: &str| open(&library).unwrap().device(&Select::Pci(bus.into()));
        assert!(pci("00000000:01:00.0").is_ok());
        assert!(pci("00000000:02:00.0").unwrap_err().contains("Not Found"));
    }

    #[test]
    fn what_is_missing_is_said() {
        let missing = Nvml::open(&["/nowhere/libnvidia-ml.so.1"]).unwrap_err();
        assert!(
            missing.contains("driver") && missing.contains("nowhere"),
            "{missing}"
        );
        let dir = tempfile::tempdir().unwrap();
        let unloaded = open(&fake(dir.path(), 9)).unwrap_err();
        assert!(unloaded.contains("Driver Not Loaded"), "{unloaded}");
    }
}
