//! Slices of CPU tensors, and tensors from vectors without a copy.

use crate::simd::Element;
use candle_core::{CpuStorage, DType, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use rayon::prelude::*;
use std::ops::Deref;

/// The elements of a contiguous CPU tensor, in its dtype.
#[derive(Clone, Copy)]
pub(crate) enum Slice<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

/// Read access to the storage of a contiguous CPU tensor.
pub(crate) struct View<'a> {
    /// The lock's guard, whose type candle does not export.
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    start: usize,
    end: usize,
}

impl<'a> View<'a> {
    /// Of a contiguous f32, bf16 or f16 tensor on the CPU; an error otherwise.
    pub(crate) fn new(x: &'a Tensor) -> Result<Self> {
        let (storage, layout) = x.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("a contiguous tensor is needed, found layout {layout:?}");
        };
        match &*storage {
            Storage::Cpu(CpuStorage::F32(_) | CpuStorage::BF16(_) | CpuStorage::F16(_)) => {}
            _ => bail!(
                "a CPU tensor of floats is needed, found {:?} on {:?}",
                x.dtype(),
                x.device()
            ),
        }
        Ok(Self {
            storage: Box::new(storage),
            start,
            end,
        })
    }

    pub(crate) fn slice(&self) -> Slice<'_> {
        let range = self.start..self.end;
        match &**self.storage {
            Storage::Cpu(CpuStorage::F32(v)) => Slice::F32(&v[range]),
            Storage::Cpu(CpuStorage::BF16(v)) => Slice::Bf16(&v[range]),
            Storage::Cpu(CpuStorage::F16(v)) => Slice::F16(&v[range]),
            // Excluded by `new`.
            _ => Slice::F32(&[]),
        }
    }
}

/// A tensor's elements in f32: borrowed where they already are, converted otherwise.
pub(crate) enum Floats<'a> {
    Borrowed(View<'a>),
    Owned(Vec<f32>),
}

impl<'a> Floats<'a> {
    /// Of any f32, bf16 or f16 tensor, in row-major order.
    pub(crate) fn new(x: &'a Tensor) -> Result<Self> {
        if x.dtype() == DType::F32 && x.is_contiguous() && x.device().is_cpu() {
            return Ok(Self::Borrowed(View::new(x)?));
        }
        Ok(Self::Owned(
            x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
        ))
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        match self {
            Self::Owned(v) => v,
            Self::Borrowed(view) => match view.slice() {
                Slice::F32(v) => v,
                Slice::Bf16(_) | Slice::F16(_) => &[],
            },
        }
    }
}

/// Runs `$body` with `$x` bound to the typed slice.
macro_rules! per_dtype {
    ($slice:expr, $x:ident => $body:expr) => {
        match $slice {
            $crate::data::Slice::F32($x) => $body,
            $crate::data::Slice::Bf16($x) => $body,
            $crate::data::Slice::F16($x) => $body,
        }
    };
}
pub(crate) use per_dtype;

/// A CPU tensor of `dtype` from f32 values.
pub(crate) fn tensor(values: Vec<f32>, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let device = &candle_core::Device::Cpu;
    match dtype {
        DType::BF16 => Tensor::from_vec(narrow::<bf16>(&values), shape, device),
        DType::F16 => Tensor::from_vec(narrow::<f16>(&values), shape, device),
        _ => Tensor::from_vec(values, shape, device),
    }
}

fn narrow<T: Element>(values: &[f32]) -> Vec<T> {
    let mut out = vec![T::default(); values.len()];
    out.par_chunks_mut(1 << 14)
        .zip(values.par_chunks(1 << 14))
        .for_each(|(out, values)| T::narrow(values, out));
    out
}

/// A pointer that tasks share to write disjoint parts of one allocation.
pub(crate) struct Shared<T = f32>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: the users of `Shared` write disjoint elements and read nothing that another task writes.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(p: *mut T) -> Self {
        Self(p)
    }

    /// The pointer, `offset` elements on.
    ///
    /// # Safety
    /// `offset` must lie within the allocation.
    pub(crate) unsafe fn at(self, offset: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}
