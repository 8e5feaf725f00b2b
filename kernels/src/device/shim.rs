//! The host shim: kernels as C++ on fibers, see `cuda/shim.h`.

use std::cell::Cell;
use std::ffi::CString;
use std::os::raw::{c_char, c_int, c_uint, c_void};

use candle_core::{CpuStorage, DType, Result, bail};
use half::{bf16, f16};

use super::Argument;

unsafe extern "C" {
    fn leoma_shim_launch(
        name: *const c_char,
        grid: *const c_uint,
        block: *const c_uint,
        shared_bytes: c_uint,
        order: c_uint,
        args: *mut *mut c_void,
        count: c_uint,
    ) -> c_int;
}

thread_local! {
    static ORDER: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Runs `work` with every operation on CPU tensors of this thread going through the kernels of `cuda/` in
/// the host shim instead of the CPU's own path. `order` is the order of a block's threads: 0 as numbered,
/// 1 reversed, any other value shuffled by it; a result that depends on it is a missing barrier.
pub fn with_shim<R>(order: u32, work: impl FnOnce() -> R) -> R {
    struct Restore(Option<u32>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ORDER.set(self.0);
        }
    }
    let _restore = Restore(ORDER.replace(Some(order)));
    work()
}

pub(super) fn active() -> bool {
    ORDER.get().is_some()
}

/// Address of the first element.
pub(super) fn address(storage: &CpuStorage) -> Result<u64> {
    Ok(match storage {
        CpuStorage::F32(x) => x.as_ptr() as u64,
        CpuStorage::BF16(x) => x.as_ptr() as u64,
        CpuStorage::F16(x) => x.as_ptr() as u64,
        CpuStorage::U8(x) => x.as_ptr() as u64,
        CpuStorage::U32(x) => x.as_ptr() as u64,
        CpuStorage::I64(x) => x.as_ptr() as u64,
        CpuStorage::F8E4M3(x) => x.as_ptr() as u64,
        _ => bail!("the kernels take no tensors of this type"),
    })
}

/// Memory full of NaN (or the largest integer), so that an element that no thread writes is seen.
pub(super) fn allocate(count: usize, dtype: DType) -> Result<(u64, CpuStorage)> {
    let mut storage = match dtype {
        DType::F32 => CpuStorage::F32(vec![f32::NAN; count]),
        DType::BF16 => CpuStorage::BF16(vec![bf16::NAN; count]),
        DType::F16 => CpuStorage::F16(vec![f16::NAN; count]),
        DType::U8 => CpuStorage::U8(vec![u8::MAX; count]),
        DType::U32 => CpuStorage::U32(vec![u32::MAX; count]),
        DType::F8E4M3 => CpuStorage::F8E4M3(vec![float8_nan(); count]),
        other => bail!("no kernel writes {other:?}"),
    };
    // Taken mutably, since the kernel writes through it.
    let address = match &mut storage {
        CpuStorage::F32(x) => x.as_mut_ptr() as u64,
        CpuStorage::BF16(x) => x.as_mut_ptr() as u64,
        CpuStorage::F16(x) => x.as_mut_ptr() as u64,
        CpuStorage::U8(x) => x.as_mut_ptr() as u64,
        CpuStorage::U32(x) => x.as_mut_ptr() as u64,
        CpuStorage::F8E4M3(x) => x.as_mut_ptr() as u64,
        _ => 0,
    };
    Ok((address, storage))
}

fn float8_nan() -> float8::F8E4M3 {
    float8::F8E4M3::from_bits(0x7f)
}

pub(super) fn launch(
    kernel: &str,
    arguments: &mut [Argument],
    grid: [u32; 3],
    threads: u32,
    shared_bytes: u32,
) -> Result<()> {
    let Ok(name) = CString::new(kernel) else {
        bail!("`{kernel}` is no kernel's name");
    };
    let mut pointers: Vec<*mut c_void> = arguments.iter_mut().map(Argument::as_ptr).collect();
    let block = [threads, 1, 1];
    // SAFETY: the pointers lead to as many live values as counted; the shim checks name and count, and the
    // addresses among them are those of tensors that the call holds.
    let code = unsafe {
        leoma_shim_launch(
            name.as_ptr(),
            grid.as_ptr(),
            block.as_ptr(),
            shared_bytes,
            ORDER.get().unwrap_or(0),
            pointers.as_mut_ptr(),
            pointers.len() as c_uint,
        )
    };
    match code {
        0 => Ok(()),
        1 => bail!("there is no kernel {kernel} in cuda/"),
        2 => bail!("{kernel} does not take {} arguments", pointers.len()),
        _ => bail!("{kernel}: no card takes a grid {grid:?} of {threads} threads"),
    }
}
