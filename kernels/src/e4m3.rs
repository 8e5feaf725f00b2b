//! The 8-bit float e4m3 in its finite form (`float8_e4m3fn`): sign, 4 exponent bits with bias 7, 3
//! mantissa bits.
//!
//! Largest value 448, smallest normal 2^-6, subnormals in steps of 2^-9. There is no infinity; 0x7f
//! and 0xff are NaN. Every value is exact in bf16 and in f16.

/// Largest finite value.
pub const MAX: f32 = 448.0;

/// Code of the largest value.
const MAX_CODE: u8 = 0x7e;
/// Code of NaN, whatever its sign.
const NAN: u8 = 0x7f;
/// Mantissa bits that an f32 has more.
const SHIFT: u32 = 23 - 3;
/// Difference of the exponent biases.
const REBIAS: u32 = 127 - 7;
/// Smallest normal value, 2^-6, as bits.
const MIN_NORMAL: u32 = (127 - 6) << 23;

/// The nearest code, ties to even. Values beyond [`MAX`] and infinities saturate; NaN stays NaN.
#[inline]
pub fn encode(value: f32) -> u8 {
    let bits = value.to_bits();
    let sign = (bits >> 24) as u8 & 0x80;
    let magnitude = bits & 0x7fff_ffff;
    let code = if magnitude > f32::INFINITY.to_bits() {
        NAN
    } else if magnitude >= MAX.to_bits() {
        MAX_CODE
    } else if magnitude < MIN_NORMAL {
        // Floats from 2^14 on step by 2^-9, as subnormals do: the addition rounds, the low bits are
        // the code. The largest sum gives 8, the code of the smallest normal.
        const STEP: f32 = 16384.0;
        (f32::from_bits(magnitude) + STEP)
            .to_bits()
            .wrapping_sub(STEP.to_bits()) as u8
    } else {
        let half = (1 << (SHIFT - 1)) - 1 + ((magnitude >> SHIFT) & 1);
        (((magnitude + half) >> SHIFT) - (REBIAS << 3)) as u8
    };
    sign | code
}

/// The value of a code.
#[inline]
pub fn decode(code: u8) -> f32 {
    VALUES[code as usize]
}

/// The values of all codes.
pub const VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = value(code as u8);
        code += 1;
    }
    values
};

const fn value(code: u8) -> f32 {
    let sign = (code as u32 & 0x80) << 24;
    let magnitude = code as u32 & 0x7f;
    if magnitude == NAN as u32 {
        return f32::from_bits(sign | f32::NAN.to_bits());
    }
    if magnitude < 8 {
        // magnitude * 2^-9
        let value = magnitude as f32 * f32::from_bits((127 - 9) << 23);
        return f32::from_bits(sign | value.to_bits());
    }
    f32::from_bits(sign | ((magnitude + (REBIAS << 3)) << SHIFT))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the definition, in f64: sign * 2^(e - 7) * (1 + m / 8), or sign * 2^-6 * m / 8 for e = 0.
    fn by_definition(code: u8) -> f64 {
        let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
        let (e, m) = (i32::from(code >> 3 & 15), f64::from(code & 7));
        match (e, code & 7) {
            (15, 7) => f64::NAN,
            (0, _) => sign * 2f64.powi(-6) * m / 8.0,
            _ => sign * 2f64.powi(e - 7) * (1.0 + m / 8.0),
        }
    }

    /// The nearest code by search, ties to the even one.
    fn by_search(value: f32) -> u8 {
        let sign = if value.is_sign_negative() { 0x80 } else { 0 };
        let target = f64::from(value.abs()).min(448.0);
        let distance = |code: u8| (by_definition(code) - target).abs();
        let nearest = (0..=0x7e_u8)
            .min_by(|&a, &b| {
                distance(a)
                    .total_cmp(&distance(b))
                    .then((a & 1).cmp(&(b & 1)))
            })
            .unwrap_or_default();
        sign | nearest
    }

    #[test]
    fn all_codes_have_their_value_and_come_back() {
        for code in 0..=255_u8 {
            let (value, expected) = (decode(code), by_definition(code));
            if expected.is_nan() {
                assert!(value.is_nan());
                assert_eq!(encode(value) & 0x7f, 0x7f);
                assert_eq!(encode(value) & 0x80, code & 0x80);
            } else {
                assert_eq!(
                    f64::from(value).to_bits(),
                    expected.to_bits(),
                    "{code:#04x}"
                );
                assert_eq!(encode(value), code, "{code:#04x}");
                // Exact in both 16-bit floats.
                assert_eq!(half::bf16::from_f32(value).to_f32(), value);
                assert_eq!(half::f16::from_f32(value).to_f32(), value);
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_everywhere() {
        // Around every value and every midpoint: the value, and the floats on either side.
        for code in 0..0x7e_u8 {
            let (low, high) = (decode(code), decode(code + 1));
            let middle = f32::midpoint(low, high);
            for value in [low, middle, high] {
                for bits in [
                    value.to_bits(),
                    value.to_bits() + 1,
                    value.to_bits().saturating_sub(1),
                ] {
                    for value in [f32::from_bits(bits), -f32::from_bits(bits)] {
                        assert_eq!(encode(value), by_search(value), "{value:e}");
                    }
                }
            }
        }
        for value in [
            0.0,
            -0.0,
            1e-30,
            -1e-45,
            447.9,
            463.9,
            464.0,
            465.0,
            1e30,
            f32::INFINITY,
        ] {
            assert_eq!(encode(value), by_search(value), "{value:e}");
            assert_eq!(encode(-value), by_search(-value), "{value:e}");
        }
        assert_eq!(decode(encode(f32::INFINITY)), 448.0);
        assert_eq!(decode(encode(-1e9)), -448.0);
    }

    #[test]
    fn random_bits_round_as_the_definition_says() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let value = f32::from_bits((state >> 32) as u32);
            if value.is_nan() {
                assert_eq!(encode(value) & 0x7f, 0x7f);
            } else {
                assert_eq!(encode(value), by_search(value), "{value:e}");
            }
        }
    }
}
