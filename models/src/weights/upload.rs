//! A tensor's way to a CUDA device while it is read: every wave is cast into pinned memory and copied from
//! there, so that reading, casting and copying of one tensor overlap.
//!
//! Two pinned buffers take turns. They are costly to make and stay for the next tensor: two waves for each
//! tensor that is loaded at the same time.
#![allow(unsafe_code)] // copies from and to memory whose use by the device events end

use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtrMut, DeviceRepr, DriverError,
    PinnedHostSlice, result::memcpy_htod_async,
};
use candle_core::cuda_backend::{CudaDType, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, Storage, Tensor};

use super::read::wave;
use crate::error::{Error, Result};

fn driver(error: DriverError) -> Error {
    Error::local(format!("weights cannot be copied to the device: {error}"))
}

/// A buffer of one wave, and the event behind the last copy from it.
struct Buffer {
    bytes: PinnedHostSlice<u8>,
    copied: Option<CudaEvent>,
}

/// Two buffers of one device.
struct Ring {
    ordinal: usize,
    buffers: [Buffer; 2],
}

/// Rings that no tensor uses at the moment.
static IDLE: Mutex<Vec<Ring>> = Mutex::new(Vec::new());

fn idle() -> MutexGuard<'static, Vec<Ring>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ring {
    /// One that is idle, or a new one.
    fn of(context: &Arc<CudaContext>) -> Result<Self> {
        let ordinal = context.ordinal();
        let mut idle = idle();
        if let Some(at) = idle.iter().position(|ring| ring.ordinal == ordinal) {
            return Ok(idle.swap_remove(at));
        }
        drop(idle);
        let buffer = || -> Result<Buffer> {
            // SAFETY: plain bytes, and every wave is written before it is copied.
            let bytes = unsafe { context.alloc_pinned::<u8>(wave()) }.map_err(driver)?;
            Ok(Buffer {
                bytes,
                copied: None,
            })
        };
        Ok(Self {
            ordinal,
            buffers: [buffer()?, buffer()?],
        })
    }
}

/// A ring that is idle again when this is dropped. Copies from it may still be under way: their events stay
/// with the buffers.
struct Borrowed(Option<Ring>);

impl Drop for Borrowed {
    fn drop(&mut self) {
        idle().extend(self.0.take());
    }
}

/// A tensor of `T` on a device that is filled from its first element on.
pub(super) struct Upload<T> {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    ring: Borrowed,
    turn: usize,
    values: CudaSlice<T>,
    filled: usize,
}

impl<T: CudaDType + DeviceRepr> Upload<T> {
    pub(super) fn new(device: &CudaDevice, elements: usize) -> Result<Self> {
        let stream = device.cuda_stream();
        let ring = Borrowed(Some(Ring::of(stream.context())?));
        // SAFETY: `finish` hands it out only when all elements have been copied.
        let values = unsafe { stream.alloc::<T>(elements) }.map_err(driver)?;
        Ok(Self {
            device: device.clone(),
            stream,
            ring,
            turn: 0,
            values,
            filled: 0,
        })
    }

    /// Copies the next `count` elements, at most a wave of bytes, which `write` writes completely. Returns what
    /// `write` returned; the copy may still be under way.
    pub(super) fn append<R>(
        &mut self,
        count: usize,
        write: impl FnOnce(&mut [MaybeUninit<T>]) -> R,
    ) -> Result<R> {
        let bytes = count * size_of::<T>();
        let rest = self.values.len() - self.filled;
        let Some(ring) = &mut self.ring.0 else {
            return Err(Error::local("weights have no buffer to be copied from"));
        };
        let buffer = &mut ring.buffers[self.turn];
        if bytes > buffer.bytes.num_bytes() || count > rest {
            return Err(Error::local("a wave of weights is longer than its place"));
        }
        if let Some(copied) = buffer.copied.take() {
            copied.synchronize().map_err(driver)?;
        }
        let memory = buffer.bytes.as_mut_ptr().map_err(driver)?;
        // SAFETY: pinned memory begins on a page and has the bytes; nobody else has it, and the device is
        // through with it.
        let out = unsafe { std::slice::from_raw_parts_mut(memory.cast(), count) };
        let written = write(out);
        let (place, in_use) = self.values.device_ptr_mut(&self.stream);
        let place = place + (self.filled * size_of::<T>()) as u64;
        self.stream.context().bind_to_thread().map_err(driver)?;
        // SAFETY: `write` has written the elements; the place has room for them (checked above), and the
        // buffer is not touched before the event recorded below has passed.
        unsafe {
            let written = std::slice::from_raw_parts(memory.cast_const(), bytes);
            memcpy_htod_async(place, written, self.stream.cu_stream())
        }
        .map_err(driver)?;
        drop(in_use);
        buffer.copied = Some(self.stream.record_event(None).map_err(driver)?);
        self.turn = 1 - self.turn;
        self.filled += count;
        Ok(written)
    }

    /// The tensor; what is launched on the device's stream from now on finds it whole.
    pub(super) fn finish(self, shape: &[usize]) -> candle_core::Result<Tensor> {
        if self.filled != self.values.len() {
            candle_core::bail!("it was not read completely");
        }
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(self.values, self.device));
        Ok(Tensor::from_storage(
            storage,
            shape,
            BackpropOp::none(),
            false,
        ))
    }
}
