//! Linear layers on a card: products through cuBLASLt, the rest by kernels; for weights in e4m3 see
//! `fp8_device.rs`. The host shim has no cuBLASLt: in it plain layers take the CPU's own product, and 8-bit
//! ones a plain product of the decoded operands between the same kernels.

#[cfg(feature = "cuda")]
use crate::Activation;
#[cfg(feature = "cuda")]
use crate::activation::activated;
#[cfg(feature = "cuda")]
use crate::cublaslt::{Addresses, Session, version};
use crate::device::Target;
#[cfg(feature = "cuda")]
use crate::device::foreign;
use crate::product::{Element, Epilogue, Problem, Scales, alignment, rows_of};
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::{
    WrapErr,
    cudarc::{cublaslt::result::CublasError, cublaslt::sys::cublasStatus_t},
};
use candle_core::{DType, Result, Tensor, bail};
#[cfg(feature = "cuda")]
use std::sync::{Mutex, PoisonError};

const OP: &str = "linear";
/// What NVIDIA recommends for cuBLASLt on Hopper.
#[cfg(feature = "cuda")]
const WORKSPACE_BYTES: usize = 32 << 20;

/// One product `y = x W^T` into columns of a result.
pub(crate) struct Product<'a> {
    /// [.., K], rows at equal distances ([`rows_of`]).
    pub(crate) x: &'a Tensor,
    /// [N, K], contiguous.
    pub(crate) weight: &'a Tensor,
    /// [N] in the type of the result, for epilogues with a bias.
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) epilogue: Epilogue,
    pub(crate) scales: Scales,
    /// f32 factors of the weight and of x.
    pub(crate) factors: Option<(&'a Tensor, &'a Tensor)>,
    /// [.., columns of the result], contiguous; the product fills N of them from `first_column` on.
    pub(crate) out: &'a Tensor,
    pub(crate) first_column: usize,
}

impl Product<'_> {
    /// How it is put to the library, up to the alignments.
    fn problem(&self) -> Result<Problem> {
        let (columns, inner) = self.weight.dims2()?;
        let Some((rows, x_stride)) = rows_of(self.x) else {
            bail!("{OP}: rows of x must be at equal distances");
        };
        let Some(&y_stride) = self.out.dims().last() else {
            bail!("{OP}: the result has no columns");
        };
        let mut problem = Problem::new(rows, inner, columns, Element::of(self.weight.dtype())?);
        problem.x_stride = x_stride;
        problem.y_stride = y_stride;
        problem.result = Element::of(self.out.dtype())?;
        problem.epilogue = self.epilogue;
        problem.scales = self.scales;
        Ok(problem)
    }
}

/// A call's part of a product: its rows and how far its operands are from the first, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    rows: usize,
    x: usize,
    y: usize,
    x_scale: usize,
}

/// The calls that a product takes.
fn parts(problem: &Problem) -> Vec<Part> {
    let step = problem.rows_per_call().max(1);
    (0..problem.rows)
        .step_by(step)
        .map(|first| Part {
            rows: step.min(problem.rows - first),
            x: first * problem.x_stride * problem.operands.bytes(),
            y: first * problem.y_stride * problem.result.bytes(),
            x_scale: match problem.scales {
                Scales::OuterVectors => first * size_of::<f32>(),
                Scales::None | Scales::Scalars => 0,
            },
        })
        .collect()
}

/// cuBLASLt on one stream.
#[cfg(feature = "cuda")]
struct Entry {
    place: (usize, usize),
    session: Session,
    _workspace: Tensor,
    /// Keeps the stream alive.
    _target: Target,
}

/// Of every stream that has come by.
#[cfg(feature = "cuda")]
static SESSIONS: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// Enqueues a product; false if the library does not do it so.
#[cfg(feature = "cuda")]
pub(crate) fn multiply(target: &Target, product: &Product<'_>) -> Result<bool> {
    let problem = product.problem()?;
    let at = |x: &Tensor| foreign::address(target, OP, x);
    let optional = |x: Option<&Tensor>| x.map_or(Ok(std::ptr::null_mut()), at);
    let offset = product.first_column * problem.result.bytes();
    let base = Addresses {
        weight: at(product.weight)?,
        x: at(product.x)?,
        y: at(product.out)?.wrapping_byte_add(offset),
        bias: optional(product.bias)?,
        weight_scale: optional(product.factors.map(|(weight, _)| weight))?,
        x_scale: optional(product.factors.map(|(_, x)| x))?,
    };
    let mut sessions = SESSIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let (device, stream) = foreign::stream(target)?;
    let place = (device, stream as usize);
    let known = sessions.iter().position(|entry| entry.place == place);
    let index = if let Some(index) = known {
        index
    } else {
        let (address, workspace) = foreign::empty(target, OP, &[WORKSPACE_BYTES], DType::U8)?;
        // SAFETY: the stream's context was made current; the entry holds stream and workspace.
        let session = unsafe { Session::new(stream, address, WORKSPACE_BYTES) };
        sessions.push(Entry {
            place,
            session: session.map_err(failed)?,
            _workspace: workspace,
            _target: target.clone(),
        });
        sessions.len() - 1
    };
    for part in parts(&problem) {
        let addresses = Addresses {
            x: base.x.wrapping_byte_add(part.x),
            y: base.y.wrapping_byte_add(part.y),
            x_scale: base.x_scale.wrapping_byte_add(part.x_scale),
            ..base
        };
        let problem = Problem {
            rows: part.rows,
            alignments: [addresses.weight, addresses.x, addresses.y.cast_const()]
                .map(|address| alignment(address as usize)),
            ..problem
        };
        // SAFETY: the context is current; the addresses are those of tensors of the problem's shapes on
        // this device, which the stream's order keeps until the product has run.
        match unsafe { sessions[index].session.run(&problem, &addresses) } {
            Ok(()) => {}
            Err(CublasError(
                cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED
                | cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE,
            )) => return Ok(false),
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(true)
}

#[cfg(feature = "cuda")]
fn failed(error: CublasError) -> candle_core::Error {
    candle_core::Error::Msg(format!("{OP}: cuBLASLt failed, {error}")).bt()
}

/// `act(x W^T + b)`; the weight [N, K] and bias [N] on the target in any type.
#[cfg(feature = "cuda")]
pub(crate) fn linear(
    target: &Target,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    act: Activation,
) -> Result<Tensor> {
    let dtype = x.dtype();
    let whole = |p: &Tensor| p.to_dtype(dtype)?.contiguous();
    let (weight, bias) = (whole(weight)?, bias.map(whole).transpose()?);
    let out = result(target, x, weight.dim(0)?, dtype)?;
    if out.elem_count() == 0 {
        return Ok(out);
    }
    let x = regular(x)?;
    for (epilogue, bias_left, act_left) in Epilogue::choices(bias.is_some(), act) {
        let product = Product {
            x: &x,
            weight: &weight,
            bias: bias.as_ref().filter(|_| epilogue.has_bias()),
            epilogue,
            scales: Scales::None,
            factors: None,
            out: &out,
            first_column: 0,
        };
        if multiply(target, &product)? {
            let y = match &bias {
                Some(bias) if bias_left => out.broadcast_add(bias)?,
                _ => out,
            };
            return activated(&y, act_left);
        }
    }
    crate::linear::linear_reference(&x, &weight, bias.as_ref(), act)
}

/// A result [.., columns] for rows of `x`, not yet written.
#[cfg(feature = "cuda")]
pub(crate) fn result(target: &Target, x: &Tensor, columns: usize, dtype: DType) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    Ok(foreign::empty(target, OP, &shape, dtype)?.1)
}

/// `x` with rows at equal distances: itself if it has, else a copy.
pub(crate) fn regular(x: &Tensor) -> Result<Tensor> {
    match rows_of(x) {
        Some(_) => Ok(x.clone()),
        None => x.contiguous(),
    }
}

/// `x W^T` of codes u8 [M, K] and [N, K], in f32 [M, N].
pub(crate) fn sums_of_codes(target: &Target, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    match target {
        #[cfg(feature = "cuda")]
        Target::Cuda(_) => {
            let out = result(target, x, weight.dim(0)?, DType::F32)?;
            let product = Product {
                x,
                weight,
                bias: None,
                epilogue: Epilogue::None,
                scales: Scales::None,
                factors: None,
                out: &out,
                first_column: 0,
            };
            if !multiply(target, &product)? {
                bail!("{OP}: cuBLASLt has no product of e4m3 operands with sums in f32 here");
            }
            Ok(out)
        }
        #[cfg(feature = "shim")]
        Target::Shim => {
            let values = Tensor::new(&crate::e4m3::VALUES, x.device())?;
            let wide = |codes: &Tensor| {
                let flat = values.index_select(&codes.flatten_all()?, 0)?;
                flat.reshape(codes.dims()) // [M * K] -> [M, K]
            };
            wide(x)?.matmul(&wide(weight)?.t()?)
        }
    }
}

/// Compute capability of the card and version of cuBLASLt; `None` in the host shim.
#[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps))]
pub(crate) fn capability(target: &Target) -> Result<(Option<(i32, i32)>, usize)> {
    match target {
        #[cfg(feature = "cuda")]
        Target::Cuda(device) => {
            let capability = device.cuda_stream().context().compute_capability().w()?;
            Ok((Some(capability), version()))
        }
        #[cfg(feature = "shim")]
        Target::Shim => Ok((None, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_product_is_told_of_strides_and_types() -> Result<()> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::BF16, &Device::Cpu);
        // Columns 8..24 of rows 40 wide; into columns 16.. of a result 64 wide.
        let x = zeros(&[3, 5, 40])?.narrow(2, 8, 16)?;
        let (weight, out) = (zeros(&[32, 16])?, zeros(&[3, 5, 64])?.to_dtype(DType::F32)?);
        let product = Product {
            x: &x,
            weight: &weight,
            bias: None,
            epilogue: Epilogue::Gelu,
            scales: Scales::None,
            factors: None,
            out: &out,
            first_column: 16,
        };
        let problem = product.problem()?;
        assert_eq!((problem.rows, problem.inner, problem.columns), (15, 16, 32));
        assert_eq!((problem.x_stride, problem.y_stride), (40, 64));
        assert_eq!(
            (problem.operands, problem.result),
            (Element::Bf16, Element::F32)
        );
        assert_eq!((problem.epilogue, problem.tf32), (Epilogue::Gelu, false));
        Ok(())
    }

    #[test]
    fn parts_cover_all_rows_once() {
        let mut problem = Problem::new(700_000, 5120, 15_360, Element::E4m3);
        problem.result = Element::Bf16;
        problem.scales = Scales::OuterVectors;
        let parts = parts(&problem);
        assert!(parts.len() > 1);
        let mut first = 0;
        for part in &parts {
            assert_eq!(part.x, first * 5120);
            assert_eq!(part.y, first * 15_360 * 2);
            assert_eq!(part.x_scale, first * 4);
            first += part.rows;
        }
        assert_eq!(first, 700_000);
        assert_eq!(super::parts(&Problem::new(0, 8, 8, Element::F32)), []);
    }
}
