//! Exponential and activations on vectors.

use super::Vector;
use crate::Activation;

/// `e^x`, within 2 ulp; arguments are clamped to [-87.3, 88.3], so that the result stays a normal
/// number.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(crate) unsafe fn exp<V: Vector>(x: V) -> V {
    let x = V::splat(-87.33).max(x);
    let x = V::splat(88.37).min(x);
    // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts keeps r exact to the last bit.
    let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
    let r = n.fma(V::splat(-0.693_359_375), x);
    let r = n.fma(V::splat(2.121_944_4e-4), r);
    // Minimax polynomial of (e^r - 1 - r) / r^2.
    let p = V::splat(1.987_569_1e-4);
    let p = p.fma(r, V::splat(1.398_199_9e-3));
    let p = p.fma(r, V::splat(8.333_452e-3));
    let p = p.fma(r, V::splat(4.166_579_6e-2));
    let p = p.fma(r, V::splat(1.666_666_5e-1));
    let p = p.fma(r, V::splat(0.5));
    let y = p.fma(r.mul(r), r).add(V::splat(1.0));
    y.scale2(n)
}

/// `x * sigmoid(x)`.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(crate) unsafe fn silu<V: Vector>(x: V) -> V {
    let e = exp(V::splat(0.0).sub(x));
    x.div(e.add(V::splat(1.0)))
}

/// GELU in its tanh form as `x * sigmoid(2u)`, `u = sqrt(2/pi) (x + 0.044715 x^3)`.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(crate) unsafe fn gelu_tanh<V: Vector>(x: V) -> V {
    const A: f32 = -2.0 * 0.797_884_56;
    let cubic = x.mul(x).fma(V::splat(A * 0.044_715), V::splat(A));
    let e = exp(x.mul(cubic));
    x.div(e.add(V::splat(1.0)))
}

/// The activation `act`; the branch is outside the loop once inlined.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(crate) unsafe fn activate<V: Vector>(x: V, act: Activation) -> V {
    match act {
        Activation::None => x,
        Activation::GeluTanh => gelu_tanh(x),
        Activation::Silu => silu(x),
    }
}
