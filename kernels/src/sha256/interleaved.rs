//! Two messages through the SHA instructions in turn: while a round of one waits for its result, a round
//! of the other begins. Two keep the processor's SHA unit busy; more would only spill registers.
#![allow(unsafe_op_in_unsafe_fn)] // the whole function runs under `#[target_feature]`

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_loadu_si128, _mm_set_epi64x,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8,
    _mm_shuffle_epi32, _mm_storeu_si128,
};

use super::{BLOCK, K};

/// The eight words as the instructions keep them, the first one highest.
#[derive(Clone, Copy)]
struct State {
    abef: __m128i,
    cdgh: __m128i,
}

#[inline(always)]
unsafe fn load(words: &[u32; 8]) -> State {
    let dcba = _mm_loadu_si128(words.as_ptr().cast());
    let hgfe = _mm_loadu_si128(words.as_ptr().add(4).cast());
    let cdab = _mm_shuffle_epi32(dcba, 0xb1);
    let efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    State {
        abef: _mm_alignr_epi8(cdab, efgh, 8),
        cdgh: _mm_blend_epi16(efgh, cdab, 0xf0),
    }
}

#[inline(always)]
unsafe fn store(state: State, words: &mut [u32; 8]) {
    let feba = _mm_shuffle_epi32(state.abef, 0x1b);
    let dchg = _mm_shuffle_epi32(state.cdgh, 0xb1);
    let out = words.as_mut_ptr();
    _mm_storeu_si128(out.cast(), _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128(out.add(4).cast(), _mm_alignr_epi8(dchg, feba, 8));
}

/// Adds `count` blocks from each of `blocks` to the state of the same index.
///
/// # Safety
/// The processor has the SHA instructions, SSSE3 and SSE4.1; both pointers are valid for reading `count`
/// blocks.
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
pub(super) unsafe fn compress2(states: &mut [[u32; 8]; 2], blocks: [*const u8; 2], count: usize) {
    // Words are big-endian.
    let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let [mut p, mut q] = blocks;
    let (mut x, mut y) = (load(&states[0]), load(&states[1]));
    macro_rules! words {
        ($pointer:expr, $quarter:literal) => {
            _mm_shuffle_epi8(_mm_loadu_si128($pointer.add(16 * $quarter).cast()), order)
        };
    }
    // Four rounds of both messages.
    macro_rules! rounds {
        ($i:literal, $a:ident, $r:ident) => {
            let k = _mm_loadu_si128(K.as_ptr().add(4 * $i).cast());
            let (wk_x, wk_y) = (_mm_add_epi32($a, k), _mm_add_epi32($r, k));
            x.cdgh = _mm_sha256rnds2_epu32(x.cdgh, x.abef, wk_x);
            y.cdgh = _mm_sha256rnds2_epu32(y.cdgh, y.abef, wk_y);
            x.abef = _mm_sha256rnds2_epu32(x.abef, x.cdgh, _mm_shuffle_epi32(wk_x, 0x0e));
            y.abef = _mm_sha256rnds2_epu32(y.abef, y.cdgh, _mm_shuffle_epi32(wk_y, 0x0e));
        };
    }
    // The words sixteen rounds after `$a`, in its place.
    macro_rules! schedule {
        ($a:ident, $b:ident, $c:ident, $d:ident) => {
            let seven_back = _mm_alignr_epi8($d, $c, 4);
            let partial = _mm_add_epi32(_mm_sha256msg1_epu32($a, $b), seven_back);
            $a = _mm_sha256msg2_epu32(partial, $d);
        };
    }
    macro_rules! step {
        ($i:literal, $a:ident $b:ident $c:ident $d:ident, $r:ident $s:ident $t:ident $u:ident) => {
            rounds!($i, $a, $r);
            schedule!($a, $b, $c, $d);
            schedule!($r, $s, $t, $u);
        };
    }
    for _ in 0..count {
        let (saved_x, saved_y) = (x, y);
        let (mut a, mut b, mut c, mut d) = (words!(p, 0), words!(p, 1), words!(p, 2), words!(p, 3));
        let (mut r, mut s, mut t, mut u) = (words!(q, 0), words!(q, 1), words!(q, 2), words!(q, 3));
        step!(0, a b c d, r s t u);
        step!(1, b c d a, s t u r);
        step!(2, c d a b, t u r s);
        step!(3, d a b c, u r s t);
        step!(4, a b c d, r s t u);
        step!(5, b c d a, s t u r);
        step!(6, c d a b, t u r s);
        step!(7, d a b c, u r s t);
        step!(8, a b c d, r s t u);
        step!(9, b c d a, s t u r);
        step!(10, c d a b, t u r s);
        step!(11, d a b c, u r s t);
        rounds!(12, a, r);
        rounds!(13, b, s);
        rounds!(14, c, t);
        rounds!(15, d, u);
        x.abef = _mm_add_epi32(x.abef, saved_x.abef);
        x.cdgh = _mm_add_epi32(x.cdgh, saved_x.cdgh);
        y.abef = _mm_add_epi32(y.abef, saved_y.abef);
        y.cdgh = _mm_add_epi32(y.cdgh, saved_y.cdgh);
        p = p.wrapping_add(BLOCK);
        q = q.wrapping_add(BLOCK);
    }
    let [first, second] = states;
    store(x, first);
    store(y, second);
}
