//! Scaled dot-product attention: `softmax(q k^T * scale + bias) v`, per batch element and head.
//!
//! q [B, Lq, N, D], k and v [B, Lk, N, D], bias [N, Lq, Lk]; result [B, Lq, N, D].
//!
//! One function, several ways, taken in this order ([`attention_backend`] says which):
//!
//! | way | where | takes |
//! |---|---|---|
//! | cuDNN's fused attention (`cudnn/sdpa.rs`) | a card with cuDNN 9.13.1 or newer | bf16, f16; D = 8, 16 .. 128 |
//! | own kernel (`cuda/attention.cu`) | any card from 8.0 on | D up to 128; tensor cores in bf16 and f16 if 8 divides D |
//! | portions of candle's operations (`chunked.rs`) | everywhere | everything |
//! | blocks on the CPU (`flash.rs`) | CPU | everything |
//!
//! A bias, or a scale that is not positive, takes portions on a card. Nothing builds the score matrix.
//! Attention in which no query sees a later key is in `causal.rs`.

pub(crate) mod causal;
mod choice;
mod chunked;
mod fused;
#[cfg(all(test, feature = "shim"))]
mod tests;

use crate::check;
use crate::data::{Floats, View, per_dtype, tensor};
use crate::device::{Target, target};
use crate::flash::{Inputs, Sizes, flash};
use crate::isa::Isa;
use crate::simd::Element;
use candle_core::{Result, Tensor, bail};

pub use causal::causal_attention;
pub use choice::{
    AttentionBackend, AttentionChoice, AttentionPreference, attention_backend,
    set_attention_preference,
};

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
    if q.elem_count() == 0 {
        return q.zeros_like();
    }
    let preference = choice::preference()?;
    let target = target(q);
    if let Some(target) = &target
        && bias.is_none()
        && scale > 0.0
        && scale.is_finite()
        && let Some(out) = fused_attention(target, preference, q, k, v, scale)?
    {
        return Ok(out);
    }
    if target.is_some() || !q.device().is_cpu() || preference == AttentionPreference::Chunked {
        return chunked::attention(q, k, v, scale, bias);
    }
    let sizes = Sizes {
        batch: b,
        queries: lq,
        keys: lk,
        heads: n,
        kv_heads: n,
        width: d,
        causal: false,
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

/// Attention without a bias on the target's fused paths: cuDNN, then our own kernel. `None` where neither
/// serves.
fn fused_attention(
    target: &Target,
    preference: AttentionPreference,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
) -> Result<Option<Tensor>> {
    #[cfg(any(feature = "cuda", feature = "shim"))]
    if preference == AttentionPreference::Auto
        && let Ok(out) = crate::cudnn::sdpa::attention(target, q, k, v, scale)
    {
        return Ok(Some(out));
    }
    match choice::own(target, preference, q.dtype(), q.dim(3)?) {
        Ok(variant) => fused::attention(target, variant, q, k, v, scale).map(Some),
        Err(_) => Ok(None),
    }
}

/// Reference of [`attention`].
pub fn attention_reference(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    chunked::attention(q, k, v, scale, bias)
}
