//! Shape and dtype checks shared by the operations.

use candle_core::{DType, Result, Tensor, bail};

/// Fails unless `x` is f32, bf16 or f16.
pub(crate) fn float(op: &str, name: &str, x: &Tensor) -> Result<()> {
    match x.dtype() {
        DType::F32 | DType::BF16 | DType::F16 => Ok(()),
        other => bail!("{op}: {name} must be f32, bf16 or f16, found {other:?}"),
    }
}

/// Fails unless `to` is the type `from`, or a float type with `from` f32.
pub(crate) fn narrowing(op: &str, from: DType, to: DType) -> Result<()> {
    match (from, to) {
        (from, to) if from == to => Ok(()),
        (DType::F32, DType::BF16 | DType::F16) => Ok(()),
        _ => bail!("{op}: {from:?} beside {to:?}; one type for all, or the stream in f32"),
    }
}

/// Fails unless `x` has exactly the dimensions `want`.
pub(crate) fn dims(op: &str, name: &str, x: &Tensor, want: &[usize]) -> Result<()> {
    if x.dims() != want {
        bail!(
            "{op}: {name} must have shape {want:?}, found {:?}",
            x.dims()
        );
    }
    Ok(())
}

/// The last dimension of `x`; an error for scalars and for an empty last dimension.
pub(crate) fn last_dim(op: &str, x: &Tensor) -> Result<usize> {
    match x.dims().last() {
        Some(&d) if d > 0 => Ok(d),
        _ => bail!(
            "{op}: the input needs a last dimension of at least 1, found shape {:?}",
            x.dims()
        ),
    }
}

/// Checks per-token parameters: `p` [R, d] with R = 1, or R = 2 where the first `first` of `len`
/// tokens use row 0 and the others row 1.
pub(crate) fn token_rows(
    op: &str,
    name: &str,
    p: &Tensor,
    len: usize,
    d: usize,
    first: usize,
) -> Result<()> {
    float(op, name, p)?;
    match p.dims() {
        [1, pd] if *pd == d => Ok(()),
        [2, pd] if *pd == d => {
            if first > len {
                bail!("{op}: `first` is {first} but there are only {len} tokens");
            }
            Ok(())
        }
        found => bail!("{op}: {name} must have shape [1, {d}] or [2, {d}], found {found:?}"),
    }
}

/// Spreads per-token parameters `p` [R, d] over the tokens, in f32: [1, d] when one row serves all
/// of them, [len, d] otherwise.
pub(crate) fn spread_rows(p: &Tensor, len: usize, first: usize) -> Result<Tensor> {
    let p = p.to_dtype(DType::F32)?;
    let (rows, d) = p.dims2()?;
    if rows == 1 || first == 0 {
        return p.narrow(0, rows - 1, 1);
    }
    if first == len {
        return p.narrow(0, 0, 1);
    }
    let head = p.narrow(0, 0, 1)?.broadcast_as((first, d))?;
    let tail = p.narrow(0, 1, 1)?.broadcast_as((len - first, d))?;
    Tensor::cat(&[head, tail], 0)
}
