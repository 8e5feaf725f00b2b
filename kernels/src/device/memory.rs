//! Addresses of tensors on a target, and new tensors with undefined contents.

use candle_core::op::BackpropOp;
use candle_core::{DType, Result, Storage, Tensor, bail};

use super::Target;

/// The address of the first element of `x`.
pub(super) fn address(target: &Target, kernel: &str, x: &Tensor) -> Result<u64> {
    let (storage, layout) = x.storage_and_layout();
    let offset = (layout.start_offset() * x.dtype().size_in_bytes()) as u64;
    let base: u64 = match (target, &*storage) {
        #[cfg(feature = "cuda")]
        (Target::Cuda(device), Storage::Cuda(storage)) => super::cuda::address(device, storage)?,
        #[cfg(feature = "shim")]
        (Target::Shim, Storage::Cpu(storage)) => super::shim::address(storage)?,
        _ => bail!(
            "{kernel}: all tensors must be on one device, found {:?} beside {:?}",
            x.device().location(),
            target.device().location()
        ),
    };
    Ok(base + offset)
}

/// A contiguous tensor with undefined contents, and its address.
pub(super) fn allocate(
    target: &Target,
    kernel: &str,
    shape: &[usize],
    dtype: DType,
) -> Result<(u64, Tensor)> {
    let Some(count) = shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n)) else {
        bail!("{kernel}: a result of shape {shape:?} has more elements than can be counted");
    };
    let (address, storage): (u64, Storage) = match *target {
        #[cfg(feature = "cuda")]
        Target::Cuda(ref device) => {
            let (address, storage) = super::cuda::allocate(device, count, dtype)?;
            (address, Storage::Cuda(storage))
        }
        #[cfg(feature = "shim")]
        Target::Shim => {
            let (address, storage) = super::shim::allocate(count, dtype)?;
            (address, Storage::Cpu(storage))
        }
        #[cfg(not(any(feature = "cuda", feature = "shim")))]
        Target::Nowhere => bail!("{kernel}: this build cannot make {count} elements of {dtype:?}"),
    };
    let tensor = Tensor::from_storage(storage, shape, BackpropOp::none(), false);
    Ok((address, tensor))
}
