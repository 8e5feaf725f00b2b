//! Several messages through the SHA instructions in turn: while a round of one waits for its result, a
//! round of the next begins.
#![allow(unsafe_op_in_unsafe_fn)] // the whole function runs under `#[target_feature]`

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_loadu_si128, _mm_set_epi64x,
    _mm_setzero_si128, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32,
    _mm_shuffle_epi8, _mm_shuffle_epi32, _mm_storeu_si128,
};

use super::{BLOCK, K};

/// Adds `count` blocks from each of `blocks` to the state of the same index.
///
/// # Safety
/// The processor has the SHA instructions, SSSE3 and SSE4.1; every pointer is valid for reading `count`
/// blocks.
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
pub(super) unsafe fn compress<const N: usize>(
    states: &mut [[u32; 8]; N],
    mut blocks: [*const u8; N],
    count: usize,
) {
    let zero = _mm_setzero_si128();
    // The instructions keep the eight words as (a, b, e, f) and (c, d, g, h), the first one highest.
    let (mut abef, mut cdgh) = ([zero; N], [zero; N]);
    for n in 0..N {
        let words = states[n].as_ptr();
        let dcba = _mm_loadu_si128(words.cast());
        let hgfe = _mm_loadu_si128(words.add(4).cast());
        let cdab = _mm_shuffle_epi32(dcba, 0xb1);
        let efgh = _mm_shuffle_epi32(hgfe, 0x1b);
        abef[n] = _mm_alignr_epi8(cdab, efgh, 8);
        cdgh[n] = _mm_blend_epi16(efgh, cdab, 0xf0);
    }
    // Words are big-endian.
    let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    for _ in 0..count {
        let (saved_abef, saved_cdgh) = (abef, cdgh);
        let mut w = [[zero; N]; 4];
        for (quarter, words) in w.iter_mut().enumerate() {
            for n in 0..N {
                let bytes = _mm_loadu_si128(blocks[n].add(16 * quarter).cast());
                words[n] = _mm_shuffle_epi8(bytes, order);
            }
        }
        // Four rounds, and the schedule of the words of sixteen rounds later.
        macro_rules! rounds {
            ($i:literal, $schedule:literal) => {
                let k = _mm_loadu_si128(K.as_ptr().add(4 * $i).cast::<__m128i>());
                let mut wk = [zero; N];
                for n in 0..N {
                    wk[n] = _mm_add_epi32(w[$i % 4][n], k);
                    cdgh[n] = _mm_sha256rnds2_epu32(cdgh[n], abef[n], wk[n]);
                }
                if $schedule {
                    for n in 0..N {
                        let seven_back = _mm_alignr_epi8(w[($i + 3) % 4][n], w[($i + 2) % 4][n], 4);
                        let partial = _mm_add_epi32(
                            _mm_sha256msg1_epu32(w[$i % 4][n], w[($i + 1) % 4][n]),
                            seven_back,
                        );
                        w[$i % 4][n] = _mm_sha256msg2_epu32(partial, w[($i + 3) % 4][n]);
                    }
                }
                for n in 0..N {
                    let wk = _mm_shuffle_epi32(wk[n], 0x0e);
                    abef[n] = _mm_sha256rnds2_epu32(abef[n], cdgh[n], wk);
                }
            };
        }
        rounds!(0, true);
        rounds!(1, true);
        rounds!(2, true);
        rounds!(3, true);
        rounds!(4, true);
        rounds!(5, true);
        rounds!(6, true);
        rounds!(7, true);
        rounds!(8, true);
        rounds!(9, true);
        rounds!(10, true);
        rounds!(11, true);
        rounds!(12, false);
        rounds!(13, false);
        rounds!(14, false);
        rounds!(15, false);
        for n in 0..N {
            abef[n] = _mm_add_epi32(abef[n], saved_abef[n]);
            cdgh[n] = _mm_add_epi32(cdgh[n], saved_cdgh[n]);
            blocks[n] = blocks[n].wrapping_add(BLOCK);
        }
    }
    for n in 0..N {
        let feba = _mm_shuffle_epi32(abef[n], 0x1b);
        let dchg = _mm_shuffle_epi32(cdgh[n], 0xb1);
        let words = states[n].as_mut_ptr();
        _mm_storeu_si128(words.cast(), _mm_blend_epi16(feba, dchg, 0xf0));
        _mm_storeu_si128(words.add(4).cast(), _mm_alignr_epi8(dchg, feba, 8));
    }
}
