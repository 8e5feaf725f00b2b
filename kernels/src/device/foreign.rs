//! What NVIDIA's libraries are given: addresses, scratch memory and the stream that the kernels run on.

use std::ffi::c_void;

use candle_core::{DType, Result, Tensor};

use super::{Target, memory};

/// The address of the first element of `x`, for `what`.
pub(crate) fn address(target: &Target, what: &str, x: &Tensor) -> Result<*mut c_void> {
    Ok(memory::address(target, what, x)? as *mut c_void)
}

/// A contiguous tensor with undefined contents, and its address. A tensor that is dropped goes back to the
/// pool in the stream's order, so scratch memory may be dropped once its use is enqueued.
pub(crate) fn empty(
    target: &Target,
    what: &str,
    shape: &[usize],
    dtype: DType,
) -> Result<(*mut c_void, Tensor)> {
    let (address, tensor) = memory::allocate(target, what, shape, dtype)?;
    Ok((address as *mut c_void, tensor))
}

/// Ordinal of the device and its stream as a driver handle; makes the device's context current. The
/// stream lives as long as `target` or a clone of it.
// Only a card's stream can fail to be had.
#[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps))]
pub(crate) fn stream(target: &Target) -> Result<(usize, *mut c_void)> {
    match target {
        #[cfg(feature = "cuda")]
        Target::Cuda(device) => super::cuda::stream(device),
        #[cfg(feature = "shim")]
        Target::Shim => Ok((0, std::ptr::null_mut())),
    }
}
