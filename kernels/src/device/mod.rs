//! Running the kernels of `cuda/`: on a card, or on the host in the shim.
//!
//! An operation describes one launch as a [`Call`]: the kernel's name, its arguments in order, the result
//! it allocates, grid and block. [`Call::launch`] is the only place that differs: on CUDA tensors it goes
//! to the device's stream (all kernels run on that one stream, in order); on CPU tensors inside
//! [`with_shim`] the same call runs in the host shim, so that grid arithmetic, argument order and indexing
//! are tested without a card.
//!
//! ```text
//! let mut call = Call::new(&target, "layer_norm", x.dtype())?; // kernel layer_norm_bf16 of layer_norm.cu
//! call.input(x)?;
//! let y = call.output(x.dims(), x.dtype())?;
//! call.i32(d)?.f32(eps);
//! call.launch(Grid::rows(rows), 256, 0)?;
//! ```

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(feature = "cuda", feature = "shim"))]
pub(crate) mod foreign;
mod memory;
#[cfg(feature = "shim")]
mod shim;

#[cfg(feature = "shim")]
use std::os::raw::c_void;

use candle_core::{DType, Device, Result, Tensor, bail};

#[cfg(feature = "shim")]
pub use shim::with_shim;

/// Where a launch goes.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    #[cfg(feature = "cuda")]
    Cuda(candle_core::CudaDevice),
    #[cfg(feature = "shim")]
    Shim,
    /// Never made: keeps the launches compiled, and checked, in builds that cannot run them.
    #[cfg(not(any(feature = "cuda", feature = "shim")))]
    Nowhere,
}

/// Where the kernels for `x` run; `None` where the CPU's own path serves.
pub(crate) fn target(x: &Tensor) -> Option<Target> {
    target_of(x.device())
}

/// As [`target`], for results that depend on no tensor.
pub(crate) fn target_of(device: &Device) -> Option<Target> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Some(Target::Cuda(device.clone())),
        #[cfg(feature = "shim")]
        Device::Cpu if shim::active() => Some(Target::Shim),
        _ => None,
    }
}

impl Target {
    /// The tensors' device.
    pub(crate) fn device(&self) -> Device {
        match *self {
            #[cfg(feature = "cuda")]
            Self::Cuda(ref device) => Device::Cuda(device.clone()),
            #[cfg(feature = "shim")]
            Self::Shim => Device::Cpu,
            #[cfg(not(any(feature = "cuda", feature = "shim")))]
            Self::Nowhere => Device::Cpu,
        }
    }

    /// Compute capability of the card; the host shim has what the oldest supported card has.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps))]
    pub(crate) fn capability(&self) -> Result<(i32, i32)> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => cuda::capability(device),
            #[cfg(feature = "shim")]
            Self::Shim => Ok((8, 0)),
            #[cfg(not(any(feature = "cuda", feature = "shim")))]
            Self::Nowhere => bail!("this build has no kernels"),
        }
    }

    /// The address of the first element of `x`.
    pub(crate) fn address(&self, x: &Tensor) -> Result<u64> {
        memory::address(self, "an address", x)
    }
}

/// How kernels name an element type: `f32`, `bf16`, `f16`.
pub(crate) fn suffix(dtype: DType) -> Result<&'static str> {
    Ok(match dtype {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        other => bail!("no kernel for {other:?}; f32, bf16 and f16 have them"),
    })
}

/// Threads of a block that keeps a row of `d` elements in registers, five 16-byte packs per thread.
pub(crate) fn threads_per_row(d: usize, dtype: DType) -> u32 {
    let packs = d.div_ceil(16 / dtype.size_in_bytes());
    packs.div_ceil(5).next_multiple_of(32).clamp(32, 1024) as u32
}

/// Blocks of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    x: usize,
    y: usize,
    z: usize,
}

impl Grid {
    /// One block per row.
    pub(crate) fn rows(rows: usize) -> Self {
        Self::new(rows, 1, 1)
    }

    /// As many blocks of `threads` as give every one of `items` a thread.
    pub(crate) fn cover(items: usize, threads: u32) -> Self {
        Self::rows(items.div_ceil(threads as usize))
    }

    /// `x` is limited to 2^31 - 1 blocks, `y` and `z` to 65,535.
    pub(crate) fn new(x: usize, y: usize, z: usize) -> Self {
        Self { x, y, z }
    }

    fn checked(self, kernel: &str) -> Result<[u32; 3]> {
        if self.x > i32::MAX as usize || self.y > 65_535 || self.z > 65_535 {
            bail!(
                "{kernel}: a grid of {} x {} x {} blocks is more than a card takes; split the input",
                self.x,
                self.y,
                self.z
            );
        }
        Ok([self.x as u32, self.y as u32, self.z as u32])
    }
}

/// One argument, in the kernel's own type.
#[derive(Debug, Clone, Copy)]
enum Argument {
    /// Address on the target.
    Pointer(u64),
    I32(i32),
    I64(i64),
    U32(u32),
    F32(f32),
}

impl Argument {
    /// The address of the value, as launches want it.
    #[cfg(feature = "shim")]
    fn as_ptr(&mut self) -> *mut c_void {
        match self {
            Self::Pointer(x) => std::ptr::from_mut(x).cast(),
            Self::I32(x) => std::ptr::from_mut(x).cast(),
            Self::I64(x) => std::ptr::from_mut(x).cast(),
            Self::U32(x) => std::ptr::from_mut(x).cast(),
            Self::F32(x) => std::ptr::from_mut(x).cast(),
        }
    }
}

/// One launch of one kernel, see the module.
///
/// Tensors given to it are held until the launch, so that their memory cannot be reused before; after it
/// the stream's order keeps it safe.
#[derive(Debug)]
pub(crate) struct Call {
    target: Target,
    module: &'static str,
    kernel: String,
    arguments: Vec<Argument>,
    held: Vec<Tensor>,
}

impl Call {
    /// A launch of `kernel_SUFFIX` for `dtype` from the source `kernel.cu`.
    pub(crate) fn new(target: &Target, kernel: &'static str, dtype: DType) -> Result<Self> {
        Ok(Self::named(
            target,
            kernel,
            format!("{kernel}_{}", suffix(dtype)?),
        ))
    }

    /// A launch of `kernel_SUFFIX` from the source `module.cu` where two types may meet: `f32_bf16` reads
    /// f32 and writes bf16.
    pub(crate) fn mixed(
        target: &Target,
        module: &'static str,
        kernel: &str,
        from: DType,
        to: DType,
    ) -> Result<Self> {
        let name = match (from, to) {
            (from, to) if from == to => format!("{kernel}_{}", suffix(from)?),
            (DType::F32, to) => format!("{kernel}_f32_{}", suffix(to)?),
            (from, to) => bail!("{kernel}: no kernel reads {from:?} and writes {to:?}"),
        };
        Ok(Self::named(target, module, name))
    }

    /// A launch of the kernel with exactly this name from the source `module.cu`.
    pub(crate) fn named(target: &Target, module: &'static str, kernel: String) -> Self {
        Self {
            target: target.clone(),
            module,
            kernel,
            arguments: Vec::new(),
            held: Vec::new(),
        }
    }

    /// The address of a tensor's first element. The tensor must be contiguous.
    pub(crate) fn input(&mut self, x: &Tensor) -> Result<&mut Self> {
        if !x.is_contiguous() {
            bail!(
                "{}: a contiguous tensor is needed, found strides {:?} of shape {:?}",
                self.kernel,
                x.stride(),
                x.dims()
            );
        }
        self.strided(x)
    }

    /// The address of a tensor's first element; the kernel is told the strides by the caller.
    pub(crate) fn strided(&mut self, x: &Tensor) -> Result<&mut Self> {
        let address = memory::address(&self.target, &self.kernel, x)?;
        self.arguments.push(Argument::Pointer(address));
        self.held.push(x.clone());
        Ok(self)
    }

    /// A tensor where there is one, the null pointer otherwise.
    pub(crate) fn optional(&mut self, x: Option<&Tensor>) -> Result<&mut Self> {
        match x {
            Some(x) => self.input(x),
            None => Ok(self.null()),
        }
    }

    /// The null pointer.
    pub(crate) fn null(&mut self) -> &mut Self {
        self.arguments.push(Argument::Pointer(0));
        self
    }

    /// Allocates a contiguous result and passes its address. Its elements are undefined until the launch;
    /// the kernel must write all of them.
    pub(crate) fn output(&mut self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let (address, tensor) = memory::allocate(&self.target, &self.kernel, shape, dtype)?;
        self.arguments.push(Argument::Pointer(address));
        self.held.push(tensor.clone());
        Ok(tensor)
    }

    /// A size as a 32-bit integer; an error where it does not fit.
    pub(crate) fn i32(&mut self, value: usize) -> Result<&mut Self> {
        let Ok(value) = i32::try_from(value) else {
            bail!(
                "{}: a size of {value} is over 2^31 - 1; split the input",
                self.kernel
            );
        };
        self.arguments.push(Argument::I32(value));
        Ok(self)
    }

    /// A size as a 64-bit integer.
    pub(crate) fn i64(&mut self, value: usize) -> &mut Self {
        self.arguments.push(Argument::I64(value as i64));
        self
    }

    /// A 32-bit word.
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.arguments.push(Argument::U32(value));
        self
    }

    /// A number.
    pub(crate) fn f32(&mut self, value: f64) -> &mut Self {
        self.arguments.push(Argument::F32(value as f32));
        self
    }

    /// A switch, as the kernels take it.
    pub(crate) fn flag(&mut self, value: bool) -> &mut Self {
        self.arguments.push(Argument::I32(i32::from(value)));
        self
    }

    /// Runs the kernel with `threads` per block and `shared_bytes` of dynamic shared memory. A grid
    /// without blocks is no launch.
    #[cfg_attr(not(feature = "shim"), allow(unused_mut))] // the shim takes addresses of the arguments
    pub(crate) fn launch(mut self, grid: Grid, threads: u32, shared_bytes: usize) -> Result<()> {
        let grid = grid.checked(&self.kernel)?;
        if grid.contains(&0) {
            return Ok(());
        }
        let Ok(shared_bytes) = u32::try_from(shared_bytes) else {
            bail!("{}: {shared_bytes} bytes of shared memory", self.kernel);
        };
        match self.target {
            #[cfg(feature = "cuda")]
            Target::Cuda(ref device) => cuda::launch(
                device,
                self.module,
                &self.kernel,
                &self.arguments,
                grid,
                threads,
                shared_bytes,
            ),
            #[cfg(feature = "shim")]
            Target::Shim => shim::launch(
                &self.kernel,
                &mut self.arguments,
                grid,
                threads,
                shared_bytes,
            ),
            #[cfg(not(any(feature = "cuda", feature = "shim")))]
            Target::Nowhere => bail!(
                "{}.cu: this build cannot launch {} ({grid:?} blocks of {threads}, {shared_bytes} bytes)",
                self.module,
                self.kernel
            ),
        }
    }
}
