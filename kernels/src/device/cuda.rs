//! Launches on a CUDA stream.

use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Result, bail};
use half::{bf16, f16};

use super::Argument;

include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

/// What every block may have without asking.
const USUAL_SHARED_BYTES: u32 = 48 << 10;

/// Address of the first element.
pub(super) fn address(device: &CudaDevice, storage: &CudaStorage) -> Result<u64> {
    let stream = device.cuda_stream();
    // The guard that comes with a pointer orders other streams; the kernels have one.
    Ok(match &storage.slice {
        CudaStorageSlice::F32(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::BF16(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::F16(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::U8(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::U32(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::I64(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::F8E4M3(x) => x.device_ptr(&stream).0,
        _ => bail!("the kernels take no tensors of this type"),
    })
}

/// Ordinal and stream, with the device's context made current.
pub(super) fn stream(device: &CudaDevice) -> Result<(usize, *mut std::ffi::c_void)> {
    let stream = device.cuda_stream();
    let context = stream.context();
    context.bind_to_thread().w()?;
    Ok((context.ordinal(), stream.cu_stream().cast()))
}

/// Compute capability, major and minor.
pub(super) fn capability(device: &CudaDevice) -> Result<(i32, i32)> {
    device.cuda_stream().context().compute_capability().w()
}

/// Undefined memory.
pub(super) fn allocate(
    device: &CudaDevice,
    count: usize,
    dtype: DType,
) -> Result<(u64, CudaStorage)> {
    // SAFETY: the kernel that is given the address writes every element before anything reads them.
    let slice = unsafe {
        match dtype {
            DType::F32 => CudaStorageSlice::F32(device.alloc::<f32>(count)?),
            DType::BF16 => CudaStorageSlice::BF16(device.alloc::<bf16>(count)?),
            DType::F16 => CudaStorageSlice::F16(device.alloc::<f16>(count)?),
            DType::U8 => CudaStorageSlice::U8(device.alloc::<u8>(count)?),
            DType::U32 => CudaStorageSlice::U32(device.alloc::<u32>(count)?),
            DType::F8E4M3 => CudaStorageSlice::F8E4M3(device.alloc::<float8::F8E4M3>(count)?),
            other => bail!("no kernel writes {other:?}"),
        }
    };
    let storage = CudaStorage {
        slice,
        device: device.clone(),
    };
    Ok((address(device, &storage)?, storage))
}

pub(super) fn launch(
    device: &CudaDevice,
    module: &'static str,
    kernel: &str,
    arguments: &[Argument],
    grid: [u32; 3],
    threads: u32,
    shared_bytes: u32,
) -> Result<()> {
    let Some((_, ptx)) = PTX.iter().find(|(name, _)| *name == module) else {
        bail!("there is no source {module}.cu in cuda/");
    };
    let function = device.get_or_load_custom_func(kernel, module, ptx)?;
    if shared_bytes > USUAL_SHARED_BYTES {
        function
            .set_attribute(
                CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                shared_bytes as i32,
            )
            .w()?;
    }
    let mut builder = function.builder();
    for argument in arguments {
        match argument {
            Argument::Pointer(x) => builder.arg(x),
            Argument::I32(x) => builder.arg(x),
            Argument::I64(x) => builder.arg(x),
            Argument::U32(x) => builder.arg(x),
            Argument::F32(x) => builder.arg(x),
        };
    }
    let config = LaunchConfig {
        grid_dim: (grid[0], grid[1], grid[2]),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: shared_bytes,
    };
    // SAFETY: kernel and arguments belong together, which the shim tests check on the same call; the
    // addresses are those of tensors that the call holds, and the stream orders their release after it.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}
