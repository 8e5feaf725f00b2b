//! `torch.randn` with a CPU generator, bit for bit.
//!
//! torch fills a buffer with mt19937 uniforms and turns blocks of 16 into normals (Box-Muller) with
//! AVX2 code: Cephes-style float32 polynomials for the logarithm and for sine and cosine, with fused
//! multiply-adds. The same operations in the same order, written with `f32::mul_add` (one rounding on
//! every machine), give the same bits everywhere. Requests of fewer than 16 values take a float64 path.

use rayon::prelude::*;

/// Values that torch transforms together: eight radii and eight angles.
const BLOCK: usize = 16;

/// `n` standard normal values, as `torch.randn(n, generator=torch.Generator().manual_seed(seed))`.
pub(super) fn randn(seed: u64, n: usize) -> Vec<f32> {
    let mut generator = Mt19937::new(seed);
    if n < BLOCK {
        return randn_scalar(&mut generator, n);
    }
    let mut values: Vec<f32> = (0..n).map(|_| generator.uniform_f32()).collect();
    let whole = n - n % BLOCK;
    values[..whole]
        .par_chunks_mut(BLOCK * 1024)
        .for_each(|chunk| {
            for block in chunk.chunks_exact_mut(BLOCK) {
                box_muller(block);
            }
        });
    if whole < n {
        // torch redraws the last 16 positions, overwriting values that were already finished.
        let tail = &mut values[n - BLOCK..];
        for value in &mut *tail {
            *value = generator.uniform_f32();
        }
        box_muller(tail);
    }
    values
}

/// Fewer than 16 values: one pair of float64 normals from each pair of uniforms.
fn randn_scalar(generator: &mut Mt19937, n: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(n + 1);
    while values.len() < n {
        let u1 = generator.uniform_f64();
        let u2 = generator.uniform_f64();
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let (sin, cos) = (2.0 * std::f64::consts::PI * u1).sin_cos();
        values.push((radius * cos) as f32);
        // The second value stays in torch's generator for the next scalar; it dies with this draw.
        values.push((radius * sin) as f32);
    }
    values.truncate(n);
    values
}

/// Uniforms to normals in place: value `j` and `j + 8` share one radius and angle.
fn box_muller(block: &mut [f32]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (radius, angle) in radii.iter_mut().zip(angles) {
        let r = (-2.0 * ln(1.0 - *radius)).sqrt();
        let (sin, cos) = sin_cos(std::f32::consts::TAU * *angle);
        *radius = r * cos;
        *angle = r * sin;
    }
}

/// Natural logarithm of a positive normal float32.
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    // x = m * 2^e with m in [0.5, 1)
    let mut e = ((bits >> 23) as i32 - 126) as f32;
    let mut m = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    if m < std::f32::consts::FRAC_1_SQRT_2 {
        e -= 1.0;
        m = (m - 1.0) + m;
    } else {
        m -= 1.0;
    }
    let z = m * m;
    let mut y = 7.0376836292e-2_f32;
    for c in [
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ] {
        y = y.mul_add(m, c);
    }
    y *= m;
    y = y.mul_add(z, e * -2.12194440e-4);
    y = z.mul_add(-0.5, y);
    e.mul_add(0.693359375, m + y)
}

/// Sine and cosine of a float32 >= 0.
fn sin_cos(x: f32) -> (f32, f32) {
    // Octant, rounded up to even; 4/pi as the reference has it.
    let octant = ((x * 1.273_239_544_735_16) as i32 + 1) & !1;
    let q = octant as f32;
    // pi/4 in three parts, subtracted one after the other
    let x = q.mul_add(-0.78515625, x);
    let x = q.mul_add(-2.418_756_484_985_351_562_5e-4, x);
    let x = q.mul_add(-3.774_894_977_445_941_08e-8, x);
    let z = x * x;
    let even = 2.443_315_711_809_948e-5_f32
        .mul_add(z, -1.388_731_625_493_765e-3)
        .mul_add(z, 4.166_664_568_298_827e-2);
    let even = (even * z).mul_add(z, -(z * 0.5)) + 1.0;
    let odd = (-1.9515295891e-4_f32)
        .mul_add(z, 8.3321608736e-3)
        .mul_add(z, -1.6666654611e-1);
    let odd = (odd * z).mul_add(x, x);
    let (sin, cos) = if octant & 2 == 0 {
        (odd, even)
    } else {
        (even, odd)
    };
    (
        if octant & 4 == 0 { sin } else { -sin },
        if (octant - 2) & 4 == 0 { -cos } else { cos },
    )
}

/// Matsumoto and Nishimura's generator as torch seeds it: with the low 32 bits of the seed.
struct Mt19937 {
    state: [u32; 624],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u64) -> Self {
        let mut state = [0; 624];
        state[0] = seed as u32;
        for j in 1..state.len() {
            let previous: u32 = state[j - 1];
            state[j] = 1_812_433_253_u32
                .wrapping_mul(previous ^ (previous >> 30))
                .wrapping_add(j as u32);
        }
        Self {
            state,
            next: state.len(),
        }
    }

    fn twist(&mut self) {
        const N: usize = 624;
        const M: usize = 397;
        for j in 0..N {
            let mixed = (self.state[j] & 0x8000_0000) | (self.state[(j + 1) % N] & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[j] = self.state[(j + M) % N] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }

    fn draw(&mut self) -> u32 {
        if self.next == self.state.len() {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// 24 bits in [0, 1).
    fn uniform_f32(&mut self) -> f32 {
        (self.draw() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
    }

    /// 53 bits in [0, 1); the first word is the high one.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.draw());
        let word = (high << 32) | u64::from(self.draw());
        (word & ((1 << 53) - 1)) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn bits(seed: u64, n: usize) -> Vec<u32> {
        randn(seed, n).into_iter().map(f32::to_bits).collect()
    }

    /// First half of the SHA-256 of the little-endian bytes, in hexadecimal.
    fn digest(seed: u64, n: usize) -> String {
        let bytes: Vec<u8> = randn(seed, n)
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect();
        let digest = Sha256::digest(bytes);
        let half = digest
            .iter()
            .take(16)
            .fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
        format!("{half:032x}")
    }

    // Bit patterns and digests were taken from torch.randn on an AVX2 machine.
    #[test]
    fn first_values_are_those_of_torch() {
        assert_eq!(
            bits(42, 16)[..4],
            [0x3ff6a529, 0x3fbe5f53, 0x3f669567, 0xc006c0db]
        );
        assert_eq!(
            bits(0, 16)[..4],
            [0xbf901b85, 0xbf93808a, 0xbe804bd6, 0xbede255d]
        );
        assert_eq!(
            bits(42, 17)[..4],
            [0x3ff6a529, 0xbe236d85, 0xbefeaae4, 0x3ee111d8]
        );
        assert_eq!(
            bits(42, 15)[..4],
            [0x3eac62ae, 0x3e03e69d, 0x3e7016e7, 0x3e6bdc6c]
        );
    }

    #[test]
    fn whole_latents_are_those_of_torch() {
        assert_eq!(
            digest(42, 16 * 21 * 60 * 104),
            "d58dda95871619b9a739a5fd138a6a45"
        );
        assert_eq!(
            digest(0, 16 * 21 * 60 * 104),
            "2ca98a1bb276e55898b13ea2112a2e19"
        );
        assert_eq!(
            digest(42, 48 * 31 * 44 * 80),
            "61b3e7ae1a06273524bdcdbc228f9224"
        );
    }

    #[test]
    fn only_the_low_half_of_the_seed_counts() {
        assert_eq!(bits(5, 33), bits(5 + (7 << 32), 33));
        assert_ne!(bits(5, 33), bits(6, 33));
        assert!(randn(1, 0).is_empty());
    }
}
