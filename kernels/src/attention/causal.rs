//! Causal attention with shared heads of k and v: `softmax(q k^T * scale) v`, where query i of Lq sees the
//! keys 0 ..= Lk - Lq + i. The queries are the last Lq of Lk positions, as after a prefix that is cached.
//!
//! q [Lq, N, D], k and v [Lk, G, D] with N a multiple of G: head n reads head n / (N / G) of k and v.
//! Result [Lq, N, D].
//!
//! On the CPU blocks (`flash.rs`), in which keys that no query of a block sees cost nothing. On a card a
//! single query (a step of decoding) is ordinary attention over all keys and takes the fused kernels of
//! [`attention`](super::attention), with the N / G heads that share a head of k in the place of queries. More
//! than one are done in portions of candle's own operations, the products by cuBLAS; there is no CUDA kernel
//! of our own for them.

use candle_core::{D, DType, Device, Result, Tensor, bail};

use super::attention;
use crate::check;
use crate::data::{View, per_dtype, tensor};
use crate::device::target;
use crate::flash::{Inputs, Sizes, flash};
use crate::isa::Isa;
use crate::simd::Element;

const OP: &str = "causal_attention";
/// Elements of scores held at once: 256 MiB in f32, of which a few copies are alive.
const SCORES: usize = 64 << 20;
/// Added to the score of a key that is not seen: its weight is exactly 0. Not -inf, which times 0 is NaN.
const UNSEEN: f64 = -1e30;

/// Attention of `q` [Lq, N, D], the last Lq positions, over `k`, `v` [Lk, G, D]; see the file header. Errors
/// if the shapes or dtypes disagree, N is no multiple of G, or there are fewer keys than queries.
pub fn causal_attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    let [queries, keys, heads, kv_heads, width] = sizes(q, k, v)?;
    if q.elem_count() == 0 {
        return q.zeros_like();
    }
    if target(q).is_some() || !q.device().is_cpu() {
        return if queries == 1 {
            one_query(q, k, v, scale)
        } else {
            portions(SCORES, q, k, v, scale)
        };
    }
    let sizes = Sizes {
        batch: 1,
        queries,
        keys,
        heads,
        kv_heads,
        width,
        causal: true,
    };
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let (q_view, k_view, v_view) = (View::new(&q)?, View::new(&k)?, View::new(&v)?);
    let out = per_dtype!(q_view.slice(), q => {
        let (k, v) = (Element::of(k_view.slice()), Element::of(v_view.slice()));
        flash(Isa::current(), &Inputs { q, k, v, bias: None, scale: scale as f32 }, sizes)
    });
    tensor(out, q.dims(), q.dtype())
}

/// Lq, Lk, N, G, D of inputs that fit together.
fn sizes(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<[usize; 5]> {
    for (name, x) in [("q", q), ("k", k), ("v", v)] {
        check::float(OP, name, x)?;
    }
    let [queries, heads, width] = *q.dims() else {
        bail!("{OP}: q must have shape [Lq, N, D], found {:?}", q.dims());
    };
    let [keys, kv_heads, _] = *k.dims() else {
        bail!("{OP}: k must have shape [Lk, G, D], found {:?}", k.dims());
    };
    check::dims(OP, "k", k, &[keys, kv_heads, width])?;
    check::dims(OP, "v", v, &[keys, kv_heads, width])?;
    if kv_heads == 0 || heads % kv_heads != 0 || width == 0 {
        bail!("{OP}: {heads} heads of q cannot share {kv_heads} heads of k, of width {width}");
    }
    if keys < queries {
        bail!("{OP}: {queries} queries are more than the {keys} positions there are");
    }
    if k.dtype() != q.dtype() || v.dtype() != q.dtype() {
        bail!(
            "{OP}: q, k, v differ in dtype: {:?}, {:?}, {:?}",
            q.dtype(),
            k.dtype(),
            v.dtype()
        );
    }
    Ok([queries, keys, heads, kv_heads, width])
}

/// The last position sees every key: attention without a mask, q [1, N, D].
fn one_query(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    let (_, heads, width) = q.dims3()?;
    let kv_heads = k.dim(1)?;
    // [1, N, D] -> [G, N/G, D] -> [N/G, G, D] -> [1, N/G, G, D]
    let folded = q
        .reshape((kv_heads, heads / kv_heads, width))?
        .transpose(0, 1)?
        .contiguous()?
        .unsqueeze(0)?;
    let out = attention(&folded, &k.unsqueeze(0)?, &v.unsqueeze(0)?, scale, None)?;
    // [1, N/G, G, D] -> [N/G, G, D] -> [G, N/G, D] -> [1, N, D]
    out.squeeze(0)?
        .transpose(0, 1)?
        .contiguous()?
        .reshape((1, heads, width))
}

/// Composed of candle's operations, with at most `scores` scores at once (or one query of each head).
fn portions(scores: usize, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    let (queries, heads, width) = q.dims3()?;
    let (keys, kv_heads, _) = k.dims3()?;
    let group = heads / kv_heads;
    // The CPU multiplies in f32; accelerators accumulate in f32 whatever the operands are.
    let dtype = if q.device().is_cpu() {
        DType::F32
    } else {
        q.dtype()
    };
    // [Lk, G, D] -> [G, Lk, D]
    let heads_first = |x: &Tensor| x.transpose(0, 1)?.to_dtype(dtype)?.contiguous();
    let (ks, vs) = (heads_first(k)?, heads_first(v)?);
    // [Lq, N, D] -> [Lq, G, N/G, D] -> [G, Lq, N/G, D]
    let qs = q
        .reshape((queries, kv_heads, group, width))?
        .transpose(0, 1)?
        .to_dtype(dtype)?
        .contiguous()?;
    let step = (scores / (heads * keys).max(1)).clamp(1, queries);
    let mut parts = Vec::with_capacity(queries.div_ceil(step));
    for start in (0..queries).step_by(step) {
        let count = step.min(queries - start);
        let first = keys - queries + start;
        let seen = first + count;
        // [G, count, N/G, D] -> [G, count * N/G, D]
        let part =
            qs.narrow(1, start, count)?
                .contiguous()?
                .reshape((kv_heads, count * group, width))?;
        // [G, seen, D] -> [G, D, seen]
        let kt = ks.narrow(1, 0, seen)?.transpose(1, 2)?;
        let scores = (part.matmul(&kt)?.to_dtype(DType::F32)? * scale)?;
        // [G, count * N/G, seen] -> [G, count, N/G, seen], masked -> [G, count * N/G, seen]
        let scores = scores
            .reshape((kv_heads, count, group, seen))?
            .broadcast_add(&mask(first, count, q.device())?)?
            .reshape((kv_heads, count * group, seen))?;
        let weights = scores
            .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
            .exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        let values = vs.narrow(1, 0, seen)?.contiguous()?;
        let out = weights.to_dtype(dtype)?.matmul(&values)?;
        // [G, count * N/G, D] -> [G, count, N/G, D] -> [count, G, N/G, D] -> [count, N, D]
        let out = out
            .reshape((kv_heads, count, group, width))?
            .transpose(0, 1)?
            .contiguous()?
            .reshape((count, heads, width))?;
        parts.push(out.to_dtype(q.dtype())?);
    }
    Tensor::cat(&parts, 0)
}

/// What is added to the scores of the queries at `first..first + count` over all keys up to the last of them,
/// `[1, count, 1, first + count]`, made where it is used.
fn mask(first: usize, count: usize, device: &Device) -> Result<Tensor> {
    let seen = first + count;
    // Positions stay below 2^24, where f32 counts exactly.
    let queries = Tensor::arange(first as f32, seen as f32, device)?.reshape((1, count, 1, 1))?;
    let keys = Tensor::arange(0f32, seen as f32, device)?.reshape((1, 1, 1, seen))?;
    let later = keys.broadcast_gt(&queries)?;
    later.to_dtype(DType::F32)? * UNSEEN
}

/// Reference of [`causal_attention`].
pub fn causal_attention_reference(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    sizes(q, k, v)?;
    if q.elem_count() == 0 {
        return q.zeros_like();
    }
    portions(SCORES, q, k, v, scale)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::samples::samples;

    fn flat(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn portions_of_any_size_give_the_same() {
        let q = samples(&[7, 6, 5], 1);
        let (k, v) = (samples(&[9, 2, 5], 2), samples(&[9, 2, 5], 3));
        let whole = flat(&portions(usize::MAX, &q, &k, &v, 0.4).unwrap());
        for scores in [1, 54, 108, 200] {
            let parts = flat(&portions(scores, &q, &k, &v, 0.4).unwrap());
            for (a, b) in parts.iter().zip(&whole) {
                assert!((a - b).abs() < 1e-6, "{scores}: {a} {b}");
            }
        }
    }

    #[test]
    fn one_query_is_the_last_of_several() {
        let q = samples(&[4, 6, 8], 4);
        let (k, v) = (samples(&[11, 3, 8], 5), samples(&[11, 3, 8], 6));
        let all = causal_attention(&q, &k, &v, 0.3).unwrap();
        let last = one_query(&q.narrow(0, 3, 1).unwrap(), &k, &v, 0.3).unwrap();
        for (a, b) in flat(&last).iter().zip(flat(&all.narrow(0, 3, 1).unwrap())) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }
}
