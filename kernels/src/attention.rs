//! Scaled dot-product attention: `softmax(q k^T * scale + bias) v`, per batch element and head.
//!
//! q [B, Lq, N, D], k and v [B, Lk, N, D], bias [N, Lq, Lk]; result [B, Lq, N, D].
//!
//! The CPU path works block by block (`flash.rs`) and reads the heads in place.

use crate::check;
use crate::data::{Floats, View, per_dtype, tensor};
use crate::flash::{Inputs, Sizes, flash};
use crate::isa::Isa;
use crate::simd::Element;
use candle_core::{D, DType, Result, Tensor, bail};

/// Attention of `q` [B, Lq, N, D] over `k`, `v` [B, Lk, N, D] with the additive `bias` [N, Lq, Lk]
/// (f32) if given. Errors if the shapes or dtypes disagree or there are no keys.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    const OP: &str = "attention";
    for (name, x) in [("q", q), ("k", k), ("v", v)] {
        check::float(OP, name, x)?;
    }
    let [b, lq, n, d] = *q.dims() else {
        bail!(
            "{OP}: q must have shape [B, Lq, N, D], found {:?}",
            q.dims()
        );
    };
    let [_, lk, _, _] = *k.dims() else {
        bail!(
            "{OP}: k must have shape [B, Lk, N, D], found {:?}",
            k.dims()
        );
    };
    if lk == 0 || d == 0 {
        bail!(
            "{OP}: there is nothing to attend to, k has shape {:?}",
            k.dims()
        );
    }
    check::dims(OP, "k", k, &[b, lk, n, d])?;
    check::dims(OP, "v", v, &[b, lk, n, d])?;
    if k.dtype() != q.dtype() || v.dtype() != q.dtype() {
        bail!(
            "{OP}: q, k, v differ in dtype: {:?}, {:?}, {:?}",
            q.dtype(),
            k.dtype(),
            v.dtype()
        );
    }
    if let Some(bias) = bias {
        check::float(OP, "bias", bias)?;
        check::dims(OP, "bias", bias, &[n, lq, lk])?;
    }
    if !q.device().is_cpu() || q.elem_count() == 0 {
        return attention_reference(q, k, v, scale, bias);
    }
    let sizes = Sizes {
        batch: b,
        queries: lq,
        keys: lk,
        heads: n,
        width: d,
    };
    let bias = bias.map(Floats::new).transpose()?;
    let bias = bias.as_ref().map(Floats::as_slice);
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let (q_view, k_view, v_view) = (View::new(&q)?, View::new(&k)?, View::new(&v)?);
    let out = per_dtype!(q_view.slice(), q => {
        let (k, v) = (Element::of(k_view.slice()), Element::of(v_view.slice()));
        flash(Isa::current(), &Inputs { q, k, v, bias, scale: scale as f32 }, sizes)
    });
    tensor(out, q.dims(), q.dtype())
}

/// Queries handled at once by the reference, so that its score matrix stays bounded in long clips.
const REFERENCE_ROWS: usize = 1024;

/// Reference of [`attention`].
pub fn attention_reference(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    // The CPU multiplies in f32; accelerators accumulate in f32 whatever the operands are.
    let dtype = if q.device().is_cpu() {
        DType::F32
    } else {
        q.dtype()
    };
    let lq = q.dim(1)?;
    // [B, L, N, D] -> [B, N, L, D]
    let heads_first = |x: &Tensor| x.to_dtype(dtype)?.transpose(1, 2)?.contiguous();
    let (qs, ks, vs) = (heads_first(q)?, heads_first(k)?, heads_first(v)?);
    let kt = ks.transpose(2, 3)?.contiguous()?;
    let mut parts = Vec::new();
    for start in (0..lq).step_by(REFERENCE_ROWS) {
        let rows = REFERENCE_ROWS.min(lq - start);
        let scores = qs.narrow(2, start, rows)?.contiguous()?.matmul(&kt)?;
        let mut scores = (scores.to_dtype(DType::F32)? * scale)?;
        if let Some(bias) = bias {
            let bias = bias
                .narrow(1, start, rows)?
                .to_dtype(DType::F32)?
                .unsqueeze(0)?;
            scores = scores.broadcast_add(&bias)?;
        }
        let max = scores.max_keepdim(D::Minus1)?;
        let weights = scores.broadcast_sub(&max)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        parts.push(weights.to_dtype(dtype)?.matmul(&vs)?);
    }
    if parts.is_empty() {
        return q.zeros_like();
    }
    // [B, N, Lq, D] -> [B, Lq, N, D]
    Tensor::cat(&parts, 2)?
        .transpose(1, 2)?
        .contiguous()?
        .to_dtype(q.dtype())
}
