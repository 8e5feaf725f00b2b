//! Where the kernels run: on a card, or in the host shim.

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};

/// See the module.
#[derive(Debug)]
pub(crate) enum Place {
    /// A card.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    Card(Device),
    /// The same launches on the host.
    #[cfg_attr(not(feature = "shim"), allow(dead_code))]
    Shim,
}

/// Fails where this build cannot do what is asked, before anything is started.
pub(crate) fn check(dry_run: bool) -> Result<()> {
    if dry_run && !cfg!(feature = "shim") {
        bail!("a dry run needs the host shim: build leoma-bench with --features shim");
    }
    if !dry_run && !cfg!(feature = "cuda") {
        bail!("this build has no CUDA: run leoma-bench-cuda, or give --dry-run");
    }
    Ok(())
}

impl Place {
    pub(crate) fn open(dry_run: bool) -> Result<Self> {
        check(dry_run)?;
        if dry_run { Ok(Self::Shim) } else { card() }
    }

    /// Where tensors live.
    pub(crate) fn device(&self) -> &Device {
        match self {
            Self::Card(device) => device,
            Self::Shim => &Device::Cpu,
        }
    }

    pub(crate) fn is_card(&self) -> bool {
        matches!(self, Self::Card(_))
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Card(_) => "card".to_owned(),
            Self::Shim => "host shim".to_owned(),
        }
    }

    /// Runs `work` with operations going to the kernels.
    #[cfg_attr(not(feature = "shim"), allow(clippy::unused_self))]
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        #[cfg(feature = "shim")]
        if matches!(self, Self::Shim) {
            return leoma_kernels::with_shim(0, work);
        }
        work()
    }

    /// Fills memory like that of `tensor` with NaN and gives it back to the allocator, so that a result put
    /// there shows which of its elements were not written. The shim does that by itself.
    pub(crate) fn poison(&self, tensor: &Tensor) -> Result<()> {
        if self.is_card() {
            let dtype = tensor.dtype();
            let nan = Tensor::full(f32::NAN, tensor.shape(), self.device())?.to_dtype(dtype)?;
            self.device().synchronize()?;
            drop(nan);
        }
        Ok(())
    }

    /// Runs `work` on the kernels and measures it: between two events of the card's stream, or by the clock
    /// where there is none.
    pub(crate) fn time<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        #[cfg(feature = "cuda")]
        if let Self::Card(device) = self {
            use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
            let stream = device.as_cuda_device()?.cuda_stream();
            let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
            device.synchronize()?;
            let start = stream.record_event(timed)?;
            let value = work()?;
            let end = stream.record_event(timed)?;
            end.synchronize()?;
            return Ok((value, f64::from(start.elapsed_ms(&end)?) / 1e3));
        }
        let start = std::time::Instant::now();
        let value = self.run(work)?;
        Ok((value, start.elapsed().as_secs_f64()))
    }

    /// Most bytes that the card's allocator has given out since [`Self::reset_peak`]; `None` without a card.
    pub(crate) fn peak(&self) -> Result<Option<u64>> {
        self.pool(false)
    }

    /// Starts the peak anew at what is held now.
    pub(crate) fn reset_peak(&self) -> Result<()> {
        self.pool(true).map(drop)
    }

    #[cfg(feature = "cuda")]
    #[allow(unsafe_code)]
    fn pool(&self, reset: bool) -> Result<Option<u64>> {
        use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
        use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute as Attribute;
        let Self::Card(card) = self else {
            return Ok(None);
        };
        card.synchronize()?;
        let stream = card.as_cuda_device()?.cuda_stream();
        let mut bytes = 0u64;
        // SAFETY: the device is that of a live context, its default pool lives as long, and the attribute is
        // a 64-bit number, which may be set to zero.
        unsafe {
            let pool = device::get_default_mem_pool(stream.context().cu_device())?;
            let value = (&raw mut bytes).cast();
            let high = Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
            if reset {
                mem_pool::set_attribute(pool, high, value)?;
            } else {
                mem_pool::get_attribute(pool, high, value)?;
            }
        }
        Ok(Some(bytes))
    }

    #[cfg(not(feature = "cuda"))]
    #[allow(clippy::unnecessary_wraps, clippy::unused_self)]
    fn pool(&self, _reset: bool) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Multiprocessors times threads of each, for torch's launch of random numbers.
    #[cfg_attr(
        not(feature = "cuda"),
        allow(clippy::unnecessary_wraps, clippy::unused_self)
    )]
    pub(crate) fn threads(&self) -> Result<u64> {
        #[cfg(feature = "cuda")]
        if let Self::Card(device) = self {
            use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute as Attribute;
            let stream = device.as_cuda_device()?.cuda_stream();
            let of = |attribute| stream.context().attribute(attribute);
            let processors = of(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
            let each = of(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?;
            let each = u64::from(each.unsigned_abs() / 256 * 256);
            return Ok(u64::from(processors.unsigned_abs()) * each);
        }
        // Few, so that a small draw has several calls.
        Ok(4 * 256)
    }
}

#[cfg(feature = "cuda")]
fn card() -> Result<Place> {
    use anyhow::Context;
    // The driver bindings panic instead of returning an error when a library is missing.
    let opened = std::panic::catch_unwind(|| Device::new_cuda(0)).map_err(|_| {
        anyhow::anyhow!("the CUDA libraries could not be loaded; scripts/gpu-suite sets their path")
    })?;
    Ok(Place::Card(
        opened.context("the first card cannot be used")?,
    ))
}

#[cfg(not(feature = "cuda"))]
fn card() -> Result<Place> {
    bail!("this build has no CUDA: run leoma-bench-cuda, or give --dry-run")
}
