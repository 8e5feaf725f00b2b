//! Eight lanes of AVX2 with FMA and F16C, sixteen lanes of AVX-512.

use super::Vector;
use half::{bf16, f16};
#[allow(clippy::wildcard_imports)] // some forty intrinsics
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(crate) struct Lanes8(__m256);

#[derive(Clone, Copy)]
pub(crate) struct Lanes16(__m512);

impl Vector for Lanes8 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(_mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(_mm256_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
        Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        Self(_mm256_cvtph_ps(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(_mm256_round_ps::<
            { _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC },
        >(self.0))
    }
    #[inline(always)]
    unsafe fn scale2(self, n: Self) -> Self {
        let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.0), _mm256_set1_epi32(127));
        Self(_mm256_mul_ps(
            self.0,
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)),
        ))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        _mm256_storeu_ps(p, self.0);
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(_mm256_add_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(_mm256_sub_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(_mm256_mul_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(_mm256_div_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Self(_mm256_fmadd_ps(self.0, b.0, c.0))
    }
    #[inline(always)]
    unsafe fn min(self, x: Self) -> Self {
        Self(_mm256_min_ps(self.0, x.0)) // the second operand wins when one is NaN
    }
    #[inline(always)]
    unsafe fn max(self, x: Self) -> Self {
        Self(_mm256_max_ps(self.0, x.0)) // the second operand wins when one is NaN
    }
    #[inline(always)]
    unsafe fn swap_pairs(self) -> Self {
        Self(_mm256_permute_ps::<0b10_11_00_01>(self.0))
    }
}

impl Vector for Lanes16 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
        Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        Self(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast())))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(_mm512_roundscale_ps::<
            { _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC },
        >(self.0))
    }
    #[inline(always)]
    unsafe fn scale2(self, n: Self) -> Self {
        Self(_mm512_scalef_ps(self.0, n.0))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        _mm512_storeu_ps(p, self.0);
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(_mm512_add_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(_mm512_sub_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(_mm512_mul_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(_mm512_div_ps(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Self(_mm512_fmadd_ps(self.0, b.0, c.0))
    }
    #[inline(always)]
    unsafe fn min(self, x: Self) -> Self {
        Self(_mm512_min_ps(self.0, x.0)) // the second operand wins when one is NaN
    }
    #[inline(always)]
    unsafe fn max(self, x: Self) -> Self {
        Self(_mm512_max_ps(self.0, x.0)) // the second operand wins when one is NaN
    }
    #[inline(always)]
    unsafe fn swap_pairs(self) -> Self {
        Self(_mm512_permute_ps::<0b10_11_00_01>(self.0))
    }
}
