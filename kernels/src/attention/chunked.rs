//! Attention composed of candle's operations, in portions, so that the score matrix of a long clip is
//! never built: the yardstick of the other paths, and what serves where none of them does (a bias, heads
//! wider than 128, a scale that is not positive).

use candle_core::{D, DType, Result, Tensor};

/// Elements of a score matrix held at once: 256 MiB in f32, of which a few copies are alive.
const SCORES: usize = 64 << 20;
/// Queries that one matrix product should at least have before heads are taken together.
const ROWS: usize = 1024;

/// Heads and queries taken at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Portion {
    heads: usize,
    queries: usize,
}

impl Portion {
    /// At most `scores` scores, or one query of one head where its keys alone are more.
    fn new(heads: usize, queries: usize, keys: usize, scores: usize) -> Self {
        let rows = ROWS.min(queries).max(1);
        let heads = (scores / (keys * rows).max(1)).clamp(1, heads.max(1));
        let queries = (scores / (keys * heads).max(1)).clamp(1, queries.max(1));
        Self { heads, queries }
    }
}

/// Attention of `q` [B, Lq, N, D] over `k`, `v` [B, Lk, N, D] with the additive `bias` [N, Lq, Lk].
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    within(SCORES, q, k, v, scale, bias)
}

/// As [`attention`], with at most `scores` scores at once.
fn within(
    scores: usize,
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
    let (batch, lq, n, _) = q.dims4()?;
    let lk = k.dim(1)?;
    if q.elem_count() == 0 {
        return q.zeros_like();
    }
    let portion = Portion::new(n, lq, lk, scores);
    let mut elements = Vec::with_capacity(batch);
    for b in 0..batch {
        // [L, N, D] -> [N, L, D]
        let heads_first = |x: &Tensor| x.get(b)?.transpose(0, 1)?.to_dtype(dtype)?.contiguous();
        let (qs, ks, vs) = (heads_first(q)?, heads_first(k)?, heads_first(v)?);
        let mut heads = Vec::new();
        for head in (0..n).step_by(portion.heads) {
            let count = portion.heads.min(n - head);
            let [qs, ks, vs] = [&qs, &ks, &vs].map(|x| x.narrow(0, head, count));
            let (qs, ks, vs) = (qs?, ks?, vs?);
            let kt = ks.transpose(1, 2)?;
            let mut rows = Vec::new();
            for start in (0..lq).step_by(portion.queries) {
                let count = portion.queries.min(lq - start);
                let bias = match bias {
                    Some(bias) => {
                        let heads = bias.narrow(0, head, qs.dim(0)?)?;
                        Some(heads.narrow(1, start, count)?)
                    }
                    None => None,
                };
                let part = qs.narrow(1, start, count)?.contiguous()?;
                let weights = weights(&part.matmul(&kt)?, scale, bias.as_ref())?;
                rows.push(weights.to_dtype(dtype)?.matmul(&vs)?.to_dtype(q.dtype())?);
            }
            heads.push(Tensor::cat(&rows, 1)?);
        }
        elements.push(Tensor::cat(&heads, 0)?);
    }
    // [B, N, Lq, D] -> [B, Lq, N, D]
    Tensor::stack(&elements, 0)?.transpose(1, 2)?.contiguous()
}

/// `softmax(scores * scale + bias)` over the last axis, in f32.
fn weights(scores: &Tensor, scale: f64, bias: Option<&Tensor>) -> Result<Tensor> {
    let mut scores = (scores.to_dtype(DType::F32)? * scale)?;
    if let Some(bias) = bias {
        scores = (scores + bias.to_dtype(DType::F32)?)?;
    }
    let max = scores.max_keepdim(D::Minus1)?;
    let weights = scores.broadcast_sub(&max)?.exp()?;
    weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::samples::samples;

    #[test]
    fn a_long_clip_never_has_its_score_matrix() {
        for (heads, tokens) in [
            (40, 75_600),
            (40, 32_760),
            (24, 27_280),
            (1, 6240),
            (64, 512),
        ] {
            let portion = Portion::new(heads, tokens, tokens, SCORES);
            let held = portion.heads * portion.queries * tokens;
            assert!(held <= SCORES, "{heads} {tokens}: {held}");
            // Not so thin that the products would crawl.
            assert!(portion.queries >= 256.min(tokens), "{portion:?}");
        }
        // All keys of one query are more than allowed: there is nothing smaller.
        let one = Portion {
            heads: 1,
            queries: 1,
        };
        assert_eq!(Portion::new(4, 9, 100, 10), one);
    }

    #[test]
    fn portions_of_any_size_give_the_same() {
        let (q, k, v) = (
            samples(&[2, 7, 3, 5], 1),
            samples(&[2, 9, 3, 5], 2),
            samples(&[2, 9, 3, 5], 3),
        );
        let bias = samples(&[3, 7, 9], 4);
        for bias in [None, Some(&bias)] {
            let whole = within(usize::MAX, &q, &k, &v, 0.4, bias).unwrap();
            let whole: Vec<f32> = whole.flatten_all().unwrap().to_vec1().unwrap();
            for scores in [1, 9, 20, 63, 64, 126, 150] {
                let parts = within(scores, &q, &k, &v, 0.4, bias).unwrap();
                assert_eq!(parts.dims(), q.dims());
                let parts: Vec<f32> = parts.flatten_all().unwrap().to_vec1().unwrap();
                for (a, b) in parts.iter().zip(&whole) {
                    assert!((a - b).abs() < 1e-6, "{scores}: {a} {b}");
                }
            }
        }
    }
}
