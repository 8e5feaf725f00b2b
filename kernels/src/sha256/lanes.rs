//! One message per lane: the rounds as the standard writes them, on vectors of 16 or 8 words.
#![allow(unsafe_op_in_unsafe_fn)] // kernels run under `#[target_feature]` as a whole

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_add_epi32, _mm256_and_si256, _mm256_andnot_si256, _mm256_loadu_si256,
    _mm256_or_si256, _mm256_permute2x128_si256, _mm256_ror_epi32, _mm256_set_epi64x,
    _mm256_set1_epi32, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32,
    _mm256_srli_epi32, _mm256_storeu_si256, _mm256_ternarylogic_epi32, _mm256_unpackhi_epi32,
    _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
    _mm512_add_epi32, _mm512_loadu_si512, _mm512_ror_epi32, _mm512_set1_epi32, _mm512_set4_epi32,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_shuffle_i32x4, _mm512_srli_epi32,
    _mm512_storeu_si512, _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::{BLOCK, K};

/// One word of each of several messages.
///
/// # Safety
/// Methods may only run on a processor that has the implementor's instruction set.
trait Words: Copy {
    unsafe fn splat(word: u32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    /// `(self & b) ^ (!self & c)`
    unsafe fn choose(self, b: Self, c: Self) -> Self;
    /// `(self & b) ^ (self & c) ^ (b & c)`
    unsafe fn majority(self, b: Self, c: Self) -> Self;
    /// Rotations to the right by `A`, `B` and `C`, xored.
    unsafe fn sum<const A: i32, const B: i32, const C: i32>(self) -> Self;
    /// Rotations to the right by `A` and `B` and a shift by `C`, xored.
    unsafe fn sigma<const A: i32, const B: i32, const C: i32>(self) -> Self;
}

impl Words for __m512i {
    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        _mm512_set1_epi32(word.cast_signed())
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        _mm512_add_epi32(self, other)
    }
    #[inline(always)]
    unsafe fn choose(self, b: Self, c: Self) -> Self {
        _mm512_ternarylogic_epi32(self, b, c, 0xca)
    }
    #[inline(always)]
    unsafe fn majority(self, b: Self, c: Self) -> Self {
        _mm512_ternarylogic_epi32(self, b, c, 0xe8)
    }
    #[inline(always)]
    unsafe fn sum<const A: i32, const B: i32, const C: i32>(self) -> Self {
        let (a, b) = (_mm512_ror_epi32(self, A), _mm512_ror_epi32(self, B));
        _mm512_ternarylogic_epi32(a, b, _mm512_ror_epi32(self, C), 0x96)
    }
    #[inline(always)]
    unsafe fn sigma<const A: i32, const B: i32, const C: i32>(self) -> Self {
        let (a, b) = (_mm512_ror_epi32(self, A), _mm512_ror_epi32(self, B));
        // A const argument of another type than the intrinsic's cannot be converted.
        let c = match C {
            3 => _mm512_srli_epi32(self, 3),
            10 => _mm512_srli_epi32(self, 10),
            _ => unreachable!("SHA-256 shifts by no other number"),
        };
        _mm512_ternarylogic_epi32(a, b, c, 0x96)
    }
}

/// Eight words with the instructions that AVX-512 VL adds: half as wide as sixteen, and on processors that
/// work in halves as fast per message.
#[derive(Clone, Copy)]
struct Half(__m256i);

impl From<__m256i> for Half {
    #[inline(always)]
    fn from(words: __m256i) -> Self {
        Self(words)
    }
}

impl From<Half> for __m256i {
    #[inline(always)]
    fn from(words: Half) -> Self {
        words.0
    }
}

impl Words for Half {
    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        Self(_mm256_set1_epi32(word.cast_signed()))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(_mm256_add_epi32(self.0, other.0))
    }
    #[inline(always)]
    unsafe fn choose(self, b: Self, c: Self) -> Self {
        Self(_mm256_ternarylogic_epi32(self.0, b.0, c.0, 0xca))
    }
    #[inline(always)]
    unsafe fn majority(self, b: Self, c: Self) -> Self {
        Self(_mm256_ternarylogic_epi32(self.0, b.0, c.0, 0xe8))
    }
    #[inline(always)]
    unsafe fn sum<const A: i32, const B: i32, const C: i32>(self) -> Self {
        let (a, b) = (_mm256_ror_epi32(self.0, A), _mm256_ror_epi32(self.0, B));
        Self(_mm256_ternarylogic_epi32(
            a,
            b,
            _mm256_ror_epi32(self.0, C),
            0x96,
        ))
    }
    #[inline(always)]
    unsafe fn sigma<const A: i32, const B: i32, const C: i32>(self) -> Self {
        let (a, b) = (_mm256_ror_epi32(self.0, A), _mm256_ror_epi32(self.0, B));
        Self(_mm256_ternarylogic_epi32(
            a,
            b,
            _mm256_srli_epi32(self.0, C),
            0x96,
        ))
    }
}

#[inline(always)]
unsafe fn rotate<const A: i32, const REST: i32>(x: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_srli_epi32(x, A), _mm256_slli_epi32(x, REST))
}

/// A rotation by any constant: the left shift cannot be written as `32 - A` in a const argument.
#[inline(always)]
unsafe fn rotate_by<const A: i32>(x: __m256i) -> __m256i {
    match A {
        2 => rotate::<2, 30>(x),
        6 => rotate::<6, 26>(x),
        7 => rotate::<7, 25>(x),
        11 => rotate::<11, 21>(x),
        13 => rotate::<13, 19>(x),
        17 => rotate::<17, 15>(x),
        18 => rotate::<18, 14>(x),
        19 => rotate::<19, 13>(x),
        22 => rotate::<22, 10>(x),
        25 => rotate::<25, 7>(x),
        _ => unreachable!("SHA-256 rotates by no other number"),
    }
}

impl Words for __m256i {
    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        _mm256_set1_epi32(word.cast_signed())
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        _mm256_add_epi32(self, other)
    }
    #[inline(always)]
    unsafe fn choose(self, b: Self, c: Self) -> Self {
        _mm256_xor_si256(_mm256_and_si256(self, b), _mm256_andnot_si256(self, c))
    }
    #[inline(always)]
    unsafe fn majority(self, b: Self, c: Self) -> Self {
        let either = _mm256_and_si256(_mm256_or_si256(self, b), c);
        _mm256_or_si256(_mm256_and_si256(self, b), either)
    }
    #[inline(always)]
    unsafe fn sum<const A: i32, const B: i32, const C: i32>(self) -> Self {
        let two = _mm256_xor_si256(rotate_by::<A>(self), rotate_by::<B>(self));
        _mm256_xor_si256(two, rotate_by::<C>(self))
    }
    #[inline(always)]
    unsafe fn sigma<const A: i32, const B: i32, const C: i32>(self) -> Self {
        let two = _mm256_xor_si256(rotate_by::<A>(self), rotate_by::<B>(self));
        _mm256_xor_si256(two, _mm256_srli_epi32(self, C))
    }
}

/// A loop that the compiler cannot roll up again: the words have to stay in registers.
macro_rules! unrolled {
    ($i:ident in $($n:literal)* $body:block) => {
        $({
            const $i: usize = $n;
            $body
        })*
    };
}

/// Adds a block of each message, `w` its words, to `state`.
#[inline(always)]
unsafe fn block<V: Words>(state: &mut [V; 8], mut w: [V; 16]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    // Puts the word of sixteen rounds later in the place of one that has been used. At once, so that this arithmetic
    // fills the gaps between rounds, which wait for each other. In rising order: each uses the one two before it.
    macro_rules! next_word {
        ($i:literal) => {
            let near = w[($i + 14) % 16]
                .sigma::<17, 19, 10>()
                .add(w[($i + 9) % 16]);
            w[$i] = w[$i].add(w[($i + 1) % 16].sigma::<7, 18, 3>()).add(near);
        };
    }
    macro_rules! no_word {
        ($i:literal) => {};
    }
    macro_rules! round {
        ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident $t:expr, $i:literal, $then:ident) => {
            let t1 = $h
                .add(V::splat(K[$t + $i]).add(w[$i]))
                .add($e.choose($f, $g))
                .add($e.sum::<6, 11, 25>());
            $d = $d.add(t1);
            $h = t1.add($a.majority($b, $c)).add($a.sum::<2, 13, 22>());
            $then!($i);
        };
    }
    macro_rules! sixteen_rounds {
        ($t:expr, $then:ident) => {
            round!(a b c d e f g h $t, 0, $then);
            round!(h a b c d e f g $t, 1, $then);
            round!(g h a b c d e f $t, 2, $then);
            round!(f g h a b c d e $t, 3, $then);
            round!(e f g h a b c d $t, 4, $then);
            round!(d e f g h a b c $t, 5, $then);
            round!(c d e f g h a b $t, 6, $then);
            round!(b c d e f g h a $t, 7, $then);
            round!(a b c d e f g h $t, 8, $then);
            round!(h a b c d e f g $t, 9, $then);
            round!(g h a b c d e f $t, 10, $then);
            round!(f g h a b c d e $t, 11, $then);
            round!(e f g h a b c d $t, 12, $then);
            round!(d e f g h a b c $t, 13, $then);
            round!(c d e f g h a b $t, 14, $then);
            round!(b c d e f g h a $t, 15, $then);
        };
    }
    let mut t = 0;
    while t < 48 {
        sixteen_rounds!(t, next_word);
        t += 16;
    }
    sixteen_rounds!(48, no_word);
    for (state, word) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *state = state.add(word);
    }
}

/// Adds `count` blocks from each of `blocks` to the state of the same index.
///
/// # Safety
/// The processor has AVX-512 F and BW; every pointer is valid for reading `count` blocks.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn compress16(
    states: &mut [[u32; 8]; 16],
    mut blocks: [*const u8; 16],
    count: usize,
) {
    let mut state = [_mm512_setzero_si512(); 8];
    for (index, vector) in state.iter_mut().enumerate() {
        let words: [u32; 16] = std::array::from_fn(|lane| states[lane][index]);
        *vector = _mm512_loadu_si512(words.as_ptr().cast());
    }
    for _ in 0..count {
        let words = transposed16(&blocks);
        block(&mut state, words);
        for pointer in &mut blocks {
            *pointer = pointer.wrapping_add(BLOCK);
        }
    }
    for (index, vector) in state.into_iter().enumerate() {
        let mut words = [0_u32; 16];
        _mm512_storeu_si512(words.as_mut_ptr().cast(), vector);
        for (lane, word) in words.into_iter().enumerate() {
            states[lane][index] = word;
        }
    }
}

/// Word `i` of each message in vector `i`.
#[inline(always)]
unsafe fn transposed16(blocks: &[*const u8; 16]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    // Words are big-endian.
    let order = _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
    let mut rows = [zero; 16];
    unrolled!(I in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 {
        rows[I] = _mm512_shuffle_epi8(_mm512_loadu_si512(blocks[I].cast()), order);
    });
    // Within every four rows and every four words: word j of rows 4i..4i+4 comes to quad[4i + j].
    let mut quad = [zero; 16];
    for i in 0..4 {
        let [a, b, c, d] = [
            rows[4 * i],
            rows[4 * i + 1],
            rows[4 * i + 2],
            rows[4 * i + 3],
        ];
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        quad[4 * i] = _mm512_unpacklo_epi64(ab_low, cd_low);
        quad[4 * i + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
        quad[4 * i + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        quad[4 * i + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    // Then the four quarters of the vectors against the four groups of rows.
    let mut words = [zero; 16];
    for j in 0..4 {
        let [a, b, c, d] = [quad[j], quad[4 + j], quad[8 + j], quad[12 + j]];
        let (ab_even, ab_odd) = (
            _mm512_shuffle_i32x4(a, b, 0x88),
            _mm512_shuffle_i32x4(a, b, 0xdd),
        );
        let (cd_even, cd_odd) = (
            _mm512_shuffle_i32x4(c, d, 0x88),
            _mm512_shuffle_i32x4(c, d, 0xdd),
        );
        words[j] = _mm512_shuffle_i32x4(ab_even, cd_even, 0x88);
        words[8 + j] = _mm512_shuffle_i32x4(ab_even, cd_even, 0xdd);
        words[4 + j] = _mm512_shuffle_i32x4(ab_odd, cd_odd, 0x88);
        words[12 + j] = _mm512_shuffle_i32x4(ab_odd, cd_odd, 0xdd);
    }
    words
}

/// Adds `count` blocks from each of `blocks` to the state of the same index.
///
/// # Safety
/// The processor has AVX2; every pointer is valid for reading `count` blocks.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn compress8(states: &mut [[u32; 8]; 8], blocks: [*const u8; 8], count: usize) {
    eight::<__m256i>(states, blocks, count);
}

/// As [`compress8`].
///
/// # Safety
/// As [`compress8`], and the processor has AVX-512 F and VL.
#[target_feature(enable = "avx2,avx512f,avx512vl")]
pub(super) unsafe fn compress8_avx512(
    states: &mut [[u32; 8]; 8],
    blocks: [*const u8; 8],
    count: usize,
) {
    eight::<Half>(states, blocks, count);
}

#[inline(always)]
unsafe fn eight<V: Words + From<__m256i> + Into<__m256i>>(
    states: &mut [[u32; 8]; 8],
    mut blocks: [*const u8; 8],
    count: usize,
) {
    let zero = V::from(_mm256_setzero_si256());
    let mut state = [zero; 8];
    for (index, vector) in state.iter_mut().enumerate() {
        let words: [u32; 8] = std::array::from_fn(|lane| states[lane][index]);
        *vector = V::from(_mm256_loadu_si256(words.as_ptr().cast()));
    }
    for _ in 0..count {
        let mut words = [zero; 16];
        let (low, high) = (transposed8(&blocks, 0), transposed8(&blocks, BLOCK / 2));
        unrolled!(I in 0 1 2 3 4 5 6 7 {
            words[I] = V::from(low[I]);
            words[8 + I] = V::from(high[I]);
        });
        block(&mut state, words);
        for pointer in &mut blocks {
            *pointer = pointer.wrapping_add(BLOCK);
        }
    }
    for (index, vector) in state.into_iter().enumerate() {
        let mut words = [0_u32; 8];
        _mm256_storeu_si256(words.as_mut_ptr().cast(), vector.into());
        for (lane, word) in words.into_iter().enumerate() {
            states[lane][index] = word;
        }
    }
}

/// Of the eight words from byte `at` on, word `i` of each message in vector `i`.
#[inline(always)]
unsafe fn transposed8(blocks: &[*const u8; 8], at: usize) -> [__m256i; 8] {
    let zero = _mm256_setzero_si256();
    // Words are big-endian.
    let (high, low) = (0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let order = _mm256_set_epi64x(high, low, high, low);
    let mut rows = [zero; 8];
    unrolled!(I in 0 1 2 3 4 5 6 7 {
        rows[I] = _mm256_shuffle_epi8(_mm256_loadu_si256(blocks[I].add(at).cast()), order);
    });
    let mut quad = [zero; 8];
    for i in 0..2 {
        let [a, b, c, d] = [
            rows[4 * i],
            rows[4 * i + 1],
            rows[4 * i + 2],
            rows[4 * i + 3],
        ];
        let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        quad[4 * i] = _mm256_unpacklo_epi64(ab_low, cd_low);
        quad[4 * i + 1] = _mm256_unpackhi_epi64(ab_low, cd_low);
        quad[4 * i + 2] = _mm256_unpacklo_epi64(ab_high, cd_high);
        quad[4 * i + 3] = _mm256_unpackhi_epi64(ab_high, cd_high);
    }
    let mut words = [zero; 8];
    for j in 0..4 {
        words[j] = _mm256_permute2x128_si256(quad[j], quad[4 + j], 0x20);
        words[4 + j] = _mm256_permute2x128_si256(quad[j], quad[4 + j], 0x31);
    }
    words
}
