//! Block offload to a CUDA device: the blocks of one expert wait in pinned memory of the host.
//!
//! Copies run on a stream of their own. Its order keeps the memory right: a block's buffers are allocated,
//! filled and freed on that stream; computing waits for the event behind the copy, freeing waits for the
//! event behind the last kernel that was launched on the block. So while block `i` is computed the copy of
//! block `i + 1` runs, and there are never more than two blocks on the device.
//!
//! What is uploaded is what the block's own constructor asks for: it is run once over the checkpoint, and
//! the tensors it reads are kept in pinned memory in the types it asks for.
#![allow(unsafe_code)] // uninitialised buffers, each written completely before it is read

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaStream, DeviceRepr, DriverError, PinnedHostSlice, ValidAsZeroBits,
};
use candle_core::cuda_backend::{CudaDType, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, DType, Device, Storage, Tensor, WithDType};
use half::{bf16, f16};

use super::block::WanTransformerBlock;
use super::streaming::Mover;
use crate::error::{Error, Result};
use crate::wan::TransformerConfig;
use crate::weights::{MemorySource, TensorSource, VarBuilder};

fn driver(error: DriverError) -> Error {
    Error::local(format!("block offload: {error}"))
}

/// Copies blocks from pinned memory.
pub(super) struct PinnedMover {
    cfg: TransformerConfig,
    dtype: DType,
    device: CudaDevice,
    copies: Arc<CudaStream>,
    blocks: Vec<Vec<HostTensor>>,
}

impl std::fmt::Debug for PinnedMover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinnedMover")
            .field("blocks", &self.blocks.len())
            .finish_non_exhaustive()
    }
}

/// One tensor in pinned memory.
struct HostTensor {
    name: String,
    shape: Vec<usize>,
    values: Values,
}

enum Values {
    F32(PinnedHostSlice<f32>),
    Bf16(PinnedHostSlice<bf16>),
    F16(PinnedHostSlice<f16>),
    U8(PinnedHostSlice<u8>),
}

fn pinned<T>(context: &Arc<CudaContext>, tensor: &Tensor) -> Result<PinnedHostSlice<T>>
where
    T: WithDType + DeviceRepr + ValidAsZeroBits,
{
    let values = tensor.flatten_all()?.to_vec1::<T>()?;
    // SAFETY: written completely right below.
    let mut pinned = unsafe { context.alloc_pinned::<T>(values.len()) }.map_err(driver)?;
    pinned
        .as_mut_slice()
        .map_err(driver)?
        .copy_from_slice(&values);
    Ok(pinned)
}

impl HostTensor {
    fn new(context: &Arc<CudaContext>, name: &str, tensor: &Tensor) -> Result<Self> {
        let values = match tensor.dtype() {
            DType::F32 => Values::F32(pinned(context, tensor)?),
            DType::BF16 => Values::Bf16(pinned(context, tensor)?),
            DType::F16 => Values::F16(pinned(context, tensor)?),
            DType::U8 => Values::U8(pinned(context, tensor)?),
            other => {
                let message = format!("block offload: `{name}` is {}", other.as_str());
                return Err(Error::local(message));
            }
        };
        Ok(Self {
            name: name.to_owned(),
            shape: tensor.dims().to_vec(),
            values,
        })
    }

    /// Begins the copy to the device.
    fn upload(&self, copies: &Arc<CudaStream>, device: &CudaDevice) -> Result<Tensor> {
        let storage = match &self.values {
            Values::F32(values) => upload(values, copies, device),
            Values::Bf16(values) => upload(values, copies, device),
            Values::F16(values) => upload(values, copies, device),
            Values::U8(values) => upload(values, copies, device),
        }?;
        let storage = Storage::Cuda(storage);
        Ok(Tensor::from_storage(
            storage,
            self.shape.as_slice(),
            BackpropOp::none(),
            false,
        ))
    }
}

fn upload<T: CudaDType + DeviceRepr>(
    values: &PinnedHostSlice<T>,
    copies: &Arc<CudaStream>,
    device: &CudaDevice,
) -> Result<CudaStorage> {
    // SAFETY: filled by the copy that follows on the same stream, before anything reads it.
    let mut slice = unsafe { copies.alloc::<T>(values.len()) }.map_err(driver)?;
    copies.memcpy_htod(values, &mut slice).map_err(driver)?;
    Ok(CudaStorage::wrap_cuda_slice(slice, device.clone()))
}

/// Hands tensors on and keeps pinned copies of them.
struct Recorder {
    inner: Arc<dyn TensorSource>,
    context: Arc<CudaContext>,
    kept: Mutex<Vec<HostTensor>>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl TensorSource for Recorder {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.inner.shape(name)
    }

    fn names(&self) -> Vec<String> {
        self.inner.names()
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self.inner.load(name, dtype, &Device::Cpu)?;
        let kept = HostTensor::new(&self.context, name, &tensor)?;
        self.kept
            .lock()
            .map_err(|_| Error::local("block offload: a thread ended on an internal error"))?
            .push(kept);
        Ok(tensor.to_device(device)?)
    }
}

impl PinnedMover {
    /// Reads all blocks into pinned memory. `vb` is at `blocks`.
    pub(super) fn new(
        cfg: &TransformerConfig,
        vb: &VarBuilder,
        device: &CudaDevice,
    ) -> Result<Self> {
        let stream = device.cuda_stream();
        let context = Arc::clone(stream.context());
        let blocks = (0..cfg.num_layers)
            .map(|index| {
                let recorder = Arc::new(Recorder {
                    inner: vb.source(),
                    context: Arc::clone(&context),
                    kept: Mutex::default(),
                });
                let vb = vb.with_source(Arc::clone(&recorder) as Arc<dyn TensorSource>);
                WanTransformerBlock::new(cfg, &vb.pp(index))?;
                let mut kept = recorder
                    .kept
                    .lock()
                    .map_err(|_| Error::local("block offload: a thread panicked"))?;
                Ok(std::mem::take(&mut *kept))
            })
            .collect::<Result<Vec<_>>>()?;
        device.synchronize()?;
        Ok(Self {
            cfg: cfg.clone(),
            dtype: vb.dtype(),
            device: device.clone(),
            copies: context.new_stream().map_err(driver)?,
            blocks,
        })
    }
}

/// A block whose copy has begun.
pub(super) struct Copying {
    prefix: String,
    tensors: BTreeMap<String, Tensor>,
    /// Behind the copy.
    copied: CudaEvent,
}

impl Mover for PinnedMover {
    type Block = WanTransformerBlock;
    type Ticket = Copying;

    fn begin(&self, index: usize) -> Result<Copying> {
        let Some(block) = self.blocks.get(index) else {
            return Err(Error::local(format!("there is no block {index}")));
        };
        let tensors = block
            .iter()
            .map(|tensor| {
                let copy = tensor.upload(&self.copies, &self.device)?;
                Ok((tensor.name.clone(), copy))
            })
            .collect::<Result<_>>()?;
        Ok(Copying {
            prefix: format!("blocks.{index}"),
            tensors,
            copied: self.copies.record_event(None).map_err(driver)?,
        })
    }

    fn finish(&self, ticket: Copying) -> Result<WanTransformerBlock> {
        // The host does not wait: kernels launched from now on do.
        self.device
            .cuda_stream()
            .wait(&ticket.copied)
            .map_err(driver)?;
        let source = Arc::new(MemorySource::new(ticket.tensors));
        let device = Device::Cuda(self.device.clone());
        let vb = VarBuilder::new(source, self.dtype, &device).pp(ticket.prefix);
        WanTransformerBlock::new(&self.cfg, &vb)
    }

    fn release(&self, block: WanTransformerBlock) -> Result<()> {
        let computed = self
            .device
            .cuda_stream()
            .record_event(None)
            .map_err(driver)?;
        // The buffers are freed on the copying stream, behind the kernels that use them; the copy after
        // the next begins behind that.
        self.copies.wait(&computed).map_err(driver)?;
        drop(block);
        Ok(())
    }
}
