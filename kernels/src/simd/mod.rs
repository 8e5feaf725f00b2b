//! One vector type per instruction set behind the trait [`Vector`], the element types that load
//! into it, and the `dispatch!` macro that compiles a generic kernel once per instruction set.
//!
//! Kernels are written as `#[inline(always)] unsafe fn kernel<V: Vector>(..)`; `dispatch!` wraps
//! them in functions with the matching `#[target_feature]`, into which everything inlines.
#![allow(unsafe_op_in_unsafe_fn)] // kernels run under `#[target_feature]` as a whole

pub(crate) mod math;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::data::Slice;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

pub(crate) use math::activate;
pub(crate) use portable::Lanes4;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Lanes8, Lanes16};

/// `LANES` f32 values in a register.
///
/// # Safety
/// All methods may only run on a processor that has the implementor's instruction set; pointers
/// must be valid for `LANES` elements.
pub(crate) trait Vector: Copy {
    const LANES: usize;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn load_bf16(p: *const bf16) -> Self;
    unsafe fn load_f16(p: *const f16) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * b + c`, with one rounding where the hardware has it.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The smaller of the two; NaN if `x` is NaN.
    unsafe fn min(self, x: Self) -> Self;
    /// The larger of the two; NaN if `x` is NaN.
    unsafe fn max(self, x: Self) -> Self;
    /// Nearest integer.
    unsafe fn round(self) -> Self;
    /// `self * 2^n` for whole `n` in -126..=127.
    unsafe fn scale2(self, n: Self) -> Self;
    /// Lanes (0,1), (2,3), .. exchanged.
    unsafe fn swap_pairs(self) -> Self;
}

/// Largest `LANES`: the size of stack buffers for partial vectors.
pub(crate) const MAX_LANES: usize = 16;

/// Loads the first `n < LANES` elements, zero beyond.
///
/// # Safety
/// As [`Vector`]; `p` valid for `n` elements.
#[inline(always)]
pub(crate) unsafe fn load_part<V: Vector>(p: *const f32, n: usize) -> V {
    let mut lanes = [0f32; MAX_LANES];
    for (i, lane) in lanes.iter_mut().enumerate().take(n) {
        *lane = *p.add(i);
    }
    V::load(lanes.as_ptr())
}

/// Stores the first `n < LANES` elements.
///
/// # Safety
/// As [`Vector`]; `p` valid for `n` elements.
#[inline(always)]
pub(crate) unsafe fn store_part<V: Vector>(x: V, p: *mut f32, n: usize) {
    let mut lanes = [0f32; MAX_LANES];
    x.store(lanes.as_mut_ptr());
    for (i, lane) in lanes.iter().enumerate().take(n) {
        *p.add(i) = *lane;
    }
}

/// Loads `n <= LANES` elements, zero beyond.
///
/// # Safety
/// As [`Vector`]; `p` valid for `n` elements.
#[inline(always)]
pub(crate) unsafe fn load_n<V: Vector>(p: *const f32, n: usize) -> V {
    if n == V::LANES {
        V::load(p)
    } else {
        load_part(p, n)
    }
}

/// Stores the first `n <= LANES` elements.
///
/// # Safety
/// As [`Vector`]; `p` valid for `n` elements.
#[inline(always)]
pub(crate) unsafe fn store_n<V: Vector>(x: V, p: *mut f32, n: usize) {
    if n == V::LANES {
        x.store(p);
    } else {
        store_part(x, p, n);
    }
}

/// Sum of `(x - centre)^2` over `x`, in several lanes that are combined in f64.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(crate) unsafe fn sum_squares<V: Vector>(x: &[f32], centre: f32) -> f64 {
    let mut sums = [V::splat(0.0); 4];
    let shift = V::splat(centre);
    let mut i = 0;
    while i + 4 * V::LANES <= x.len() {
        for (j, sum) in sums.iter_mut().enumerate() {
            let d = V::load(x.as_ptr().add(i + j * V::LANES)).sub(shift);
            *sum = d.fma(d, *sum);
        }
        i += 4 * V::LANES;
    }
    let tail: f64 = x[i..]
        .iter()
        .map(|&v| f64::from(v - centre) * f64::from(v - centre))
        .sum();
    tail + sum_lanes(sums[0].add(sums[1]).add(sums[2].add(sums[3])))
}

/// Sum of `x`, in several lanes that are combined in f64.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(crate) unsafe fn sum<V: Vector>(x: &[f32]) -> f64 {
    let mut sums = [V::splat(0.0); 4];
    let mut i = 0;
    while i + 4 * V::LANES <= x.len() {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = sum.add(V::load(x.as_ptr().add(i + j * V::LANES)));
        }
        i += 4 * V::LANES;
    }
    let tail: f64 = x[i..].iter().map(|&v| f64::from(v)).sum();
    tail + sum_lanes(sums[0].add(sums[1]).add(sums[2].add(sums[3])))
}

/// Sum of the lanes, in f64.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(crate) unsafe fn sum_lanes<V: Vector>(x: V) -> f64 {
    let mut lanes = [0f32; MAX_LANES];
    x.store(lanes.as_mut_ptr());
    lanes.iter().map(|&v| f64::from(v)).sum()
}

/// Largest lane.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(crate) unsafe fn max_lane<V: Vector>(x: V) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; MAX_LANES];
    x.store(lanes.as_mut_ptr());
    lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// A floating-point type that tensors hold and kernels read as f32.
pub(crate) trait Element: Copy + Send + Sync + Default + 'static {
    /// Loads `V::LANES` elements.
    ///
    /// # Safety
    /// As [`Vector`].
    unsafe fn load<V: Vector>(p: *const Self) -> V;
    /// Writes `src` to `dst` of the same length as f32.
    fn widen(src: &[Self], dst: &mut [f32]);
    /// The slice if it holds this type, else an empty one.
    fn of(slice: Slice<'_>) -> &[Self];
    /// Writes `src` to `dst` of the same length, rounded to nearest.
    fn narrow(src: &[f32], dst: &mut [Self]);
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const Self) -> V {
        V::load(p)
    }
    #[inline(always)]
    fn widen(src: &[Self], dst: &mut [f32]) {
        if src.len() < 32 {
            // A call of memcpy costs more than a short loop.
            for (d, s) in dst.iter_mut().zip(src) {
                *d = *s;
            }
        } else {
            dst.copy_from_slice(src);
        }
    }
    fn of(slice: Slice<'_>) -> &[Self] {
        match slice {
            Slice::F32(values) => values,
            _ => &[],
        }
    }
    fn narrow(src: &[f32], dst: &mut [Self]) {
        dst.copy_from_slice(src);
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const Self) -> V {
        V::load_bf16(p)
    }
    fn widen(src: &[Self], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = f32::from_bits(u32::from(s.to_bits()) << 16);
        }
    }
    fn of(slice: Slice<'_>) -> &[Self] {
        match slice {
            Slice::Bf16(values) => values,
            _ => &[],
        }
    }
    fn narrow(src: &[f32], dst: &mut [Self]) {
        dst.convert_from_f32_slice(src);
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const Self) -> V {
        V::load_f16(p)
    }
    fn widen(src: &[Self], dst: &mut [f32]) {
        src.convert_to_f32_slice(dst);
    }
    fn of(slice: Slice<'_>) -> &[Self] {
        match slice {
            Slice::F16(values) => values,
            _ => &[],
        }
    }
    fn narrow(src: &[f32], dst: &mut [Self]) {
        dst.convert_from_f32_slice(src);
    }
}

/// Defines `unsafe fn $name(isa, args..)` that runs `$generic::<V>(args..)` compiled for `isa`.
macro_rules! dispatch {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $generic:ident) => {
        $(#[$doc])*
        unsafe fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $ty),*) {
                $generic::<$crate::simd::Lanes8>($($arg),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            unsafe fn avx512($($arg: $ty),*) {
                $generic::<$crate::simd::Lanes16>($($arg),*);
            }
            match isa.kind() {
                $crate::isa::Kind::Scalar => $generic::<$crate::simd::Lanes4>($($arg),*),
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx2 => avx2($($arg),*),
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx512 => avx512($($arg),*),
            }
        }
    };
}
pub(crate) use dispatch;
