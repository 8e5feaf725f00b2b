//! Differences of weights from a common base: what two models that were made from the same one have in
//! common.
//!
//! For models `a` and `b` and their base `c`, element by element, the sums of
//! `(a-c)^2`, `(b-c)^2`, `(a-c)(b-c)`, `(a-b)^2` and `c^2`: cosine and relative distance of the two
//! differences follow from them, with no cancellation where `a` and `b` are nearly equal. Sums run in f32
//! over short stretches and in f64 beyond.

use half::bf16;

/// Elements in one type, little-endian, as they lie in a file.
#[derive(Debug, Clone, Copy)]
pub enum Floats<'a> {
    /// 32-bit floats.
    F32(&'a [u8]),
    /// The upper halves of 32-bit floats.
    Bf16(&'a [u8]),
}

/// The sums over some elements.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Moments {
    /// Elements.
    pub count: u64,
    /// Sum of `(a-c)^2`.
    pub aa: f64,
    /// Sum of `(b-c)^2`.
    pub bb: f64,
    /// Sum of `(a-c)(b-c)`.
    pub ab: f64,
    /// Sum of `(a-b)^2`.
    pub dd: f64,
    /// Sum of `c^2`.
    pub cc: f64,
}

impl Moments {
    /// Adds the sums over other elements.
    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.aa += other.aa;
        self.bb += other.bb;
        self.ab += other.ab;
        self.dd += other.dd;
        self.cc += other.cc;
    }

    /// Cosine between the two differences; none where one of them is zero.
    pub fn cosine(&self) -> Option<f64> {
        let sizes = (self.aa * self.bb).sqrt();
        (sizes > 0.0).then(|| (self.ab / sizes).clamp(-1.0, 1.0))
    }
}

/// Elements per lane of a stretch that is summed in f32.
const STRETCH: usize = 256;
/// Elements side by side; enough for the widest vectors.
const LANES: usize = 16;

/// Bytes ahead of what is added that are asked of the memory. Alone, the processor's own reading ahead leaves a tenth
/// of what the memory gives to three streams; from 640 on it is disturbed and a quarter is lost (Zen 4).
const AHEAD: usize = 512;

/// Asks for what lies [`AHEAD`].
#[inline(always)]
fn fetch_ahead(next: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has SSE; an address that is not valid is ignored.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(AHEAD).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (next, AHEAD);
}

/// The sums over the elements of three tensors of the same shape and type.
///
/// # Panics
/// When lengths or types differ.
pub fn moments(a: Floats<'_>, b: Floats<'_>, c: Floats<'_>) -> Moments {
    #[cfg(target_arch = "x86_64")]
    match crate::Isa::current().kind() {
        // SAFETY: an `Isa` of this kind is the proof that the processor has AVX-512 F, BW, DQ, VL and FMA.
        crate::isa::Kind::Avx512 => return unsafe { avx512(a, b, c) },
        // SAFETY: an `Isa` of this kind is the proof that the processor has AVX2 and FMA.
        crate::isa::Kind::Avx2 => return unsafe { avx2(a, b, c) },
        crate::isa::Kind::Scalar => {}
    }
    any::<false>(a, b, c)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn avx512(a: Floats<'_>, b: Floats<'_>, c: Floats<'_>) -> Moments {
    any::<true>(a, b, c)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(a: Floats<'_>, b: Floats<'_>, c: Floats<'_>) -> Moments {
    any::<true>(a, b, c)
}

/// `FMA`: the caller's instruction set has it; without, it would be a call per element.
#[inline(always)]
fn any<const FMA: bool>(a: Floats<'_>, b: Floats<'_>, c: Floats<'_>) -> Moments {
    match (a, b, c) {
        (Floats::F32(a), Floats::F32(b), Floats::F32(c)) => {
            sums::<FMA, 4>(a, b, c, f32::from_le_bytes)
        }
        (Floats::Bf16(a), Floats::Bf16(b), Floats::Bf16(c)) => sums::<FMA, 2>(a, b, c, |bytes| {
            f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
        }),
        _ => panic!("tensors to be compared are brought to one type before"),
    }
}

#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn sums<const FMA: bool, const N: usize>(
    a: &[u8],
    b: &[u8],
    c: &[u8],
    value: impl Fn([u8; N]) -> f32,
) -> Moments {
    assert!(
        a.len() == b.len() && b.len() == c.len(),
        "tensors to be compared have one shape"
    );
    let (a, b, c) = (
        a.as_chunks::<N>().0,
        b.as_chunks::<N>().0,
        c.as_chunks::<N>().0,
    );
    let mut total = Moments {
        count: a.len() as u64,
        ..Moments::default()
    };
    let stretch = STRETCH * LANES;
    for ((a, b), c) in a
        .chunks(stretch)
        .zip(b.chunks(stretch))
        .zip(c.chunks(stretch))
    {
        let mut sums = [[0_f32; LANES]; 5];
        let (a, rest_a) = a.as_chunks::<LANES>();
        let (b, rest_b) = b.as_chunks::<LANES>();
        let (c, rest_c) = c.as_chunks::<LANES>();
        for ((a, b), c) in a.iter().zip(b).zip(c) {
            for next in [a.as_ptr(), b.as_ptr(), c.as_ptr()] {
                fetch_ahead(next.cast());
            }
            step::<FMA, N>(a, b, c, &value, &mut sums);
        }
        if !rest_a.is_empty() {
            let padded = |rest: &[[u8; N]]| {
                let mut lanes = [[0; N]; LANES];
                lanes[..rest.len()].copy_from_slice(rest);
                lanes
            };
            step::<FMA, N>(
                &padded(rest_a),
                &padded(rest_b),
                &padded(rest_c),
                &value,
                &mut sums,
            );
        }
        let [aa, bb, ab, dd, cc] =
            sums.map(|lanes| lanes.iter().map(|x| f64::from(*x)).sum::<f64>());
        total.add(&Moments {
            count: 0,
            aa,
            bb,
            ab,
            dd,
            cc,
        });
    }
    total
}

#[inline(always)]
fn step<const FMA: bool, const N: usize>(
    a: &[[u8; N]; LANES],
    b: &[[u8; N]; LANES],
    c: &[[u8; N]; LANES],
    value: &impl Fn([u8; N]) -> f32,
    sums: &mut [[f32; LANES]; 5],
) {
    let [aa, bb, ab, dd, cc] = sums;
    for i in 0..LANES {
        let (a, b, c) = (value(a[i]), value(b[i]), value(c[i]));
        let (x, y, d) = (a - c, b - c, a - b);
        aa[i] = multiply_add::<FMA>(x, x, aa[i]);
        bb[i] = multiply_add::<FMA>(y, y, bb[i]);
        ab[i] = multiply_add::<FMA>(x, y, ab[i]);
        dd[i] = multiply_add::<FMA>(d, d, dd[i]);
        cc[i] = multiply_add::<FMA>(c, c, cc[i]);
    }
}

/// Appends the values of elements to `out`.
pub fn widen(elements: Floats<'_>, out: &mut Vec<f32>) {
    match elements {
        Floats::F32(bytes) => {
            out.extend(
                bytes
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|bytes| f32::from_le_bytes(*bytes)),
            );
        }
        Floats::Bf16(bytes) => {
            out.extend(
                bytes
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|b| bf16::from_le_bytes(*b).to_f32()),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn values(count: usize, seed: u64, size: f32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..count)
            .map(|_| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * size
            })
            .collect()
    }

    /// The sums in f64, as the documentation has them.
    fn expected(a: &[f32], b: &[f32], c: &[f32]) -> Moments {
        let mut sums = Moments {
            count: a.len() as u64,
            ..Moments::default()
        };
        for ((a, b), c) in a.iter().zip(b).zip(c) {
            let (a, b, c) = (f64::from(*a), f64::from(*b), f64::from(*c));
            sums.aa += (a - c) * (a - c);
            sums.bb += (b - c) * (b - c);
            sums.ab += (a - c) * (b - c);
            sums.dd += (a - b) * (a - b);
            sums.cc += c * c;
        }
        sums
    }

    fn close(found: &Moments, expected: &Moments) {
        assert_eq!(found.count, expected.count);
        // Differences of neighbouring f32 are exact; sums over a stretch lose a few bits.
        for (found, expected, scale) in [
            (found.aa, expected.aa, expected.aa),
            (found.bb, expected.bb, expected.bb),
            (found.ab, expected.ab, (expected.aa * expected.bb).sqrt()),
            (found.dd, expected.dd, expected.dd),
            (found.cc, expected.cc, expected.cc),
        ] {
            assert!(
                (found - expected).abs() <= 1e-5 * scale,
                "{found} {expected}"
            );
        }
    }

    #[test]
    fn sums_on_every_instruction_set() {
        for count in [0, 1, 15, 16, 17, 4095, 4096, 4097, 50_000] {
            let c = values(count, 1, 1.0);
            let shift = |seed, size| -> Vec<f32> {
                c.iter()
                    .zip(values(count, seed, size))
                    .map(|(c, d)| c + d)
                    .collect()
            };
            let (a, b) = (shift(2, 0.01), shift(3, 0.02));
            for half in [false, true] {
                let bytes = |v: &[f32]| -> Vec<u8> {
                    if half {
                        v.iter()
                            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                            .collect()
                    } else {
                        v.iter().flat_map(|v| v.to_le_bytes()).collect()
                    }
                };
                let (a, b, c) = (bytes(&a), bytes(&b), bytes(&c));
                let of = |bytes| {
                    if half {
                        Floats::Bf16(bytes)
                    } else {
                        Floats::F32(bytes)
                    }
                };
                let wide = |bytes| {
                    let mut out = Vec::new();
                    widen(of(bytes), &mut out);
                    out
                };
                let want = expected(&wide(&a), &wide(&b), &wide(&c));
                for isa in crate::Isa::available() {
                    close(&isa.scope(|| moments(of(&a), of(&b), of(&c))), &want);
                }
            }
        }
    }

    #[test]
    fn equal_differences_have_no_distance() {
        let c: Vec<u8> = values(1000, 1, 1.0)
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let a: Vec<u8> = values(1000, 2, 1.0)
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let same = moments(Floats::F32(&a), Floats::F32(&a), Floats::F32(&c));
        assert_eq!((same.dd, same.aa), (0.0, same.bb));
        assert!((same.cosine().unwrap() - 1.0).abs() < 1e-12);
        let none = moments(Floats::F32(&a), Floats::F32(&c), Floats::F32(&c));
        assert_eq!(none.cosine(), None);
    }

    /// Not a test of speed: prints the rate per thread over the bytes of all three tensors.
    #[test]
    #[ignore = "measures"]
    #[cfg(target_os = "linux")]
    #[allow(clippy::print_stdout)]
    fn rates() {
        fn cpu_seconds() -> f64 {
            let mut time = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // SAFETY: the call writes to the given structure only.
            unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
            time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
        }
        for kilobytes in [64, 256, 4096, 65_536] {
            let bytes: Vec<Vec<u8>> = (0..3).map(|i| vec![i + 60; kilobytes << 10]).collect();
            for half in [false, true] {
                let of = |i: usize| -> Floats<'_> {
                    if half {
                        Floats::Bf16(&bytes[i])
                    } else {
                        Floats::F32(&bytes[i])
                    }
                };
                let name = if half { "bf16" } else { "f32" };
                let rounds = (1 << 17) / kilobytes;
                let least = (0..5).fold(f64::INFINITY, |least, _| {
                    let start = cpu_seconds();
                    for _ in 0..rounds {
                        std::hint::black_box(moments(of(0), of(1), of(2)));
                    }
                    least.min(cpu_seconds() - start)
                });
                let rate = (rounds * 3 * (kilobytes << 10)) as f64 / least / 1e9;
                println!("{kilobytes:6} KiB each, {name:<4} {rate:6.1} GB/s");
            }
        }
    }
}
