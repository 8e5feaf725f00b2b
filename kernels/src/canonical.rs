//! Stored weights as canonical values: every element rounded once to bf16, zero without a sign, one NaN.
//! Two files that hold the same values in different types or spellings give the same bytes.

/// How elements are stored, little-endian.
#[derive(Debug, Clone, Copy)]
pub enum StoredAs<'a> {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// The upper halves of 32-bit floats.
    Bf16,
    /// Bytes that stand for `values[byte] * scale`, the product rounded to f32.
    Codes {
        /// Value of each code.
        values: &'a [f32; 256],
        /// What the values are multiplied by.
        scale: f32,
    },
}

impl StoredAs<'_> {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Codes { .. } => 1,
        }
    }
}

/// What a run of elements holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Values {
    /// At least one element is NaN.
    pub nan: bool,
    /// At least one element is infinite as stored.
    pub infinite: bool,
    /// At least one element is neither of the two zeros.
    pub nonzero: bool,
    /// At least one element is stored as bf16 in another spelling than the canonical one.
    pub respelled: bool,
}

impl Values {
    /// What two runs hold together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            nan: self.nan | other.nan,
            infinite: self.infinite | other.infinite,
            nonzero: self.nonzero | other.nonzero,
            respelled: self.respelled | other.respelled,
        }
    }
}

const NAN: u16 = 0x7fc0;

/// Writes the canonical form of `bytes`, whole elements, to `out`: two bytes each.
///
/// # Panics
/// When `out` has not two bytes for every element.
pub fn canonical(stored: StoredAs<'_>, bytes: &[u8], out: &mut [u8]) -> Values {
    assert_eq!(
        out.len(),
        bytes.len() / stored.size() * 2,
        "room for the canonical form"
    );
    #[cfg(target_arch = "x86_64")]
    match crate::Isa::current().kind() {
        // SAFETY: an `Isa` of this kind is the proof that the processor has AVX-512 F, BW, DQ and VL.
        crate::isa::Kind::Avx512 => return unsafe { avx512(stored, bytes, out) },
        // SAFETY: an `Isa` of this kind is the proof that the processor has AVX2.
        crate::isa::Kind::Avx2 => return unsafe { avx2(stored, bytes, out) },
        crate::isa::Kind::Scalar => {}
    }
    plain(stored, bytes, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512(stored: StoredAs<'_>, bytes: &[u8], out: &mut [u8]) -> Values {
    plain(stored, bytes, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(stored: StoredAs<'_>, bytes: &[u8], out: &mut [u8]) -> Values {
    plain(stored, bytes, out)
}

/// Branch-free per element, so that the compiler vectorises it for the caller's instruction set.
#[inline(always)]
fn plain(stored: StoredAs<'_>, bytes: &[u8], out: &mut [u8]) -> Values {
    let (out, _) = out.as_chunks_mut::<2>();
    match stored {
        StoredAs::F32 => singles(bytes.as_chunks::<4>().0, out, |b| u32::from_le_bytes(*b)),
        StoredAs::F16 => singles(bytes.as_chunks::<2>().0, out, |b| {
            half_bits(u16::from_le_bytes(*b))
        }),
        StoredAs::F64 => singles(bytes.as_chunks::<8>().0, out, |b| {
            to_odd(f64::from_le_bytes(*b)).to_bits()
        }),
        StoredAs::Codes { values, scale } => singles(bytes.as_chunks::<1>().0, out, |&[code]| {
            (values[usize::from(code)] * scale).to_bits()
        }),
        StoredAs::Bf16 => {
            let found = halves(bytes);
            out.as_flattened_mut().copy_from_slice(bytes);
            if found.respelled {
                for element in out {
                    *element = respelled(u16::from_le_bytes(*element)).to_le_bytes();
                }
            }
            found
        }
    }
}

/// What elements that are stored as bf16 hold. Where none of them is respelled, the stored bytes are the canonical
/// ones.
///
/// # Panics
/// When `bytes` ends within an element.
pub fn bf16_values(bytes: &[u8]) -> Values {
    assert!(bytes.len().is_multiple_of(2), "whole elements");
    #[cfg(target_arch = "x86_64")]
    match crate::Isa::current().kind() {
        // SAFETY: an `Isa` of this kind is the proof that the processor has AVX-512 F, BW, DQ and VL.
        crate::isa::Kind::Avx512 => return unsafe { halves_avx512(bytes) },
        // SAFETY: an `Isa` of this kind is the proof that the processor has AVX2.
        crate::isa::Kind::Avx2 => return unsafe { halves_avx2(bytes) },
        crate::isa::Kind::Scalar => {}
    }
    halves(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn halves_avx512(bytes: &[u8]) -> Values {
    halves(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn halves_avx2(bytes: &[u8]) -> Values {
    halves(bytes)
}

/// Widened to 32 bits, and reading only: 16-bit maxima beside a store became one element at a time in some builds, nine
/// times slower.
#[inline(always)]
fn halves(bytes: &[u8]) -> Values {
    let (mut most, mut any, mut infinite, mut minus_zero, mut other_nan) = (0_u32, 0, 0, 0, 0);
    for element in bytes.as_chunks::<2>().0 {
        let bits = u32::from(u16::from_le_bytes(*element));
        let size = bits & 0x7fff;
        most = most.max(size);
        any |= size;
        infinite |= u32::from(size == 0x7f80);
        minus_zero |= u32::from(bits == 0x8000);
        other_nan |= u32::from(size > 0x7f80) & u32::from(bits != u32::from(NAN));
    }
    Values {
        nan: most > 0x7f80,
        infinite: infinite != 0,
        nonzero: any != 0,
        respelled: (minus_zero | other_nan) != 0,
    }
}

/// The canonical form of a bf16.
#[inline(always)]
fn respelled(bits: u16) -> u16 {
    match bits & 0x7fff {
        0 => 0,
        size if size > 0x7f80 => NAN,
        _ => bits,
    }
}

/// Elements that `bits` turns into the bits of f32.
#[inline(always)]
fn singles<const N: usize>(
    elements: &[[u8; N]],
    out: &mut [[u8; 2]],
    bits: impl Fn(&[u8; N]) -> u32,
) -> Values {
    let (mut most, mut any) = (0_u32, 0_u32);
    let mut infinite = false;
    for (out, element) in out.iter_mut().zip(elements) {
        let bits = bits(element);
        let size = bits & 0x7fff_ffff;
        // To nearest, ties to even; the carry may reach infinity, as in every conversion.
        let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
        let kept = if size > 0x7f80_0000 { NAN } else { rounded };
        let kept = if kept << 1 == 0 { 0 } else { kept };
        most = most.max(size);
        any |= size;
        infinite |= size == 0x7f80_0000;
        *out = kept.to_le_bytes();
    }
    Values {
        nan: most > 0x7f80_0000,
        infinite,
        nonzero: any != 0,
        respelled: false,
    }
}

/// The bits of the f32 of the same value, without branches.
#[inline(always)]
fn half_bits(half: u16) -> u32 {
    let size = u32::from(half & 0x7fff) << 13;
    // The exponent's bias differs by 112; the product also makes subnormals normal.
    let scaled = (f32::from_bits(size) * f32::from_bits(0x7780_0000)).to_bits();
    let all_ones = if size >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
    (u32::from(half & 0x8000) << 16) | scaled | all_ones
}

/// The f32 towards zero, its last bit set when it is not exact: rounding it again to fewer bits gives the
/// nearest value of the original.
#[inline(always)]
fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    if back == value || value.is_nan() {
        return nearest;
    }
    let towards_zero = if back.abs() > value.abs() {
        f32::from_bits(nearest.to_bits() - 1)
    } else {
        nearest
    };
    f32::from_bits(towards_zero.to_bits() | 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use half::{bf16, f16};

    use super::*;

    /// The canonical form of all elements, on every instruction set; they must agree.
    fn of(stored: StoredAs<'_>, bytes: &[u8]) -> (Vec<u16>, Values) {
        let mut results: Vec<_> = crate::Isa::available()
            .into_iter()
            .map(|isa| {
                let mut out = vec![0xff; bytes.len() / stored.size() * 2];
                let values = isa.scope(|| canonical(stored, bytes, &mut out));
                if matches!(stored, StoredAs::Bf16) {
                    assert_eq!(isa.scope(|| bf16_values(bytes)), values);
                }
                let bits: Vec<u16> = out
                    .chunks(2)
                    .map(|b| u16::from_le_bytes([b[0], b[1]]))
                    .collect();
                (bits, values)
            })
            .collect();
        let first = results.pop().unwrap();
        assert!(results.iter().all(|other| *other == first));
        first
    }

    /// The rule in plain words: nearest bf16, one zero, one NaN.
    fn expected(value: f64) -> u16 {
        if value.is_nan() {
            return NAN;
        }
        // Candidates around the truncated value; nearest wins, then the even one.
        let low = bf16::from_bits((to_odd(value).to_bits() >> 16) as u16);
        let high = bf16::from_bits(low.to_bits().wrapping_add(1));
        // Rounding treats infinity as the power of two that comes after the largest value.
        let limit = 2.0_f64.powi(128);
        let size = |x: bf16| {
            if x.is_infinite() {
                limit
            } else {
                x.to_f64().abs()
            }
        };
        let bits = if value.is_infinite() {
            low
        } else {
            let (below, above) = (value.abs() - size(low), size(high) - value.abs());
            if below < above || below == above && low.to_bits() & 1 == 0 {
                low
            } else {
                high
            }
        }
        .to_bits();
        if bits << 1 == 0 { 0 } else { bits }
    }

    fn singles() -> Vec<f32> {
        let mut values = vec![
            0.0,
            -0.0,
            1.0,
            -1.0,
            1e-45,
            -1e-45,
            1e-40,
            9.2e-41,
            3.0e38,
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            -f32::NAN,
            1.003_906_3,
            1.011_718_8,
        ];
        let mut state = 7_u64;
        values.extend((0..5000).map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            f32::from_bits((state >> 32) as u32)
        }));
        values
    }

    #[test]
    fn singles_round_to_nearest() {
        let values = singles();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let (bits, found) = of(StoredAs::F32, &bytes);
        for (value, bits) in values.iter().zip(bits) {
            assert_eq!(bits, expected(f64::from(*value)), "{value:e}");
        }
        assert!(found.nan && found.infinite && found.nonzero);
    }

    #[test]
    fn doubles_round_once() {
        // A tie for f32 whose remainder decides for bf16.
        let odd = [
            1.003_906_25 + 1e-12,
            1.003_906_25 - 1e-12,
            1.011_718_75,
            -1e-300,
            1e300,
        ];
        let values: Vec<f64> = singles().into_iter().map(f64::from).chain(odd).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        for (value, bits) in values.iter().zip(of(StoredAs::F64, &bytes).0) {
            assert_eq!(bits, expected(*value), "{value:e}");
        }
    }

    #[test]
    fn all_halves() {
        let values: Vec<u16> = (0..=u16::MAX).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        for (half, bits) in values.iter().zip(of(StoredAs::F16, &bytes).0) {
            assert_eq!(bits, expected(f16::from_bits(*half).to_f64()), "{half:x}");
        }
    }

    #[test]
    fn bf16_keeps_its_bits_but_for_zero_and_nan() {
        let values: Vec<u16> = (0..=u16::MAX).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let (bits, found) = of(StoredAs::Bf16, &bytes);
        for (value, bits) in values.iter().zip(bits) {
            assert_eq!(
                bits,
                expected(bf16::from_bits(*value).to_f64()),
                "{value:x}"
            );
        }
        assert!(found.respelled && found.nan && found.infinite && found.nonzero);
        let plain = [0x00, 0x00, 0x80, 0x3f, 0x80, 0xbf];
        let (_, found) = of(StoredAs::Bf16, &plain);
        assert_eq!(
            found,
            Values {
                nonzero: true,
                ..Values::default()
            }
        );
        assert!(!of(StoredAs::Bf16, &[0; 8]).1.nonzero);
    }

    #[test]
    fn codes_are_scaled() {
        let values: [f32; 256] = std::array::from_fn(|code| f32::from(code as u8 as i8));
        let bytes: Vec<u8> = (0..=255).collect();
        let scale = 0.013;
        let (bits, found) = of(
            StoredAs::Codes {
                values: &values,
                scale,
            },
            &bytes,
        );
        for (value, bits) in values.iter().zip(bits) {
            assert_eq!(bits, expected(f64::from(value * scale)));
        }
        assert_eq!(
            found,
            Values {
                nonzero: true,
                ..Values::default()
            }
        );
    }
}
