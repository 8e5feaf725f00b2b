//! Which messages run side by side, and how.

use super::BLOCK;

/// Whole blocks to be added to a state.
#[derive(Debug)]
pub(super) struct Job<'a> {
    state: &'a mut [u32; 8],
    /// A whole number of blocks.
    blocks: &'a [u8],
}

impl<'a> Job<'a> {
    pub(super) fn new(state: &'a mut [u32; 8], blocks: &'a [u8]) -> Self {
        debug_assert!(blocks.len().is_multiple_of(BLOCK));
        Self { state, blocks }
    }

    fn count(&self) -> usize {
        self.blocks.len() / BLOCK
    }

    /// One message alone, by the `sha2` crate.
    fn alone(&mut self) {
        let (blocks, _) = self.blocks.as_chunks::<BLOCK>();
        sha2::block_api::compress256(self.state, blocks);
        self.blocks = &[];
    }
}

/// What a processor has for several messages at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Means {
    /// 16 or 8 messages in the lanes of AVX-512.
    pub(super) avx512: bool,
    /// Interleaved SHA instructions.
    pub(super) sha: bool,
    /// 8 messages in the lanes of AVX2.
    pub(super) avx2: bool,
}

impl Means {
    /// What this processor has and `LEOMA_KERNELS_ISA` allows.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn current() -> Self {
        use crate::isa::{Isa, Kind};
        let kind = Isa::current().kind();
        Self {
            avx512: kind == Kind::Avx512,
            sha: kind != Kind::Scalar
                && is_x86_feature_detected!("sha")
                && is_x86_feature_detected!("ssse3")
                && is_x86_feature_detected!("sse4.1"),
            avx2: kind != Kind::Scalar,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn current() -> Self {
        Self {
            avx512: false,
            sha: false,
            avx2: false,
        }
    }
}

/// Works all jobs off with what the processor has.
pub(super) fn compress(jobs: &mut [Job<'_>]) {
    compress_with(jobs, Means::current());
}

/// Works all jobs off.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub(super) fn compress_with(jobs: &mut [Job<'_>], means: Means) {
    // The longest first: then those that are left over at the end are short.
    jobs.sort_by_key(|job| std::cmp::Reverse(job.blocks.len()));
    let mut waiting: Vec<&mut Job<'_>> = jobs.iter_mut().rev().collect();
    #[cfg(target_arch = "x86_64")]
    {
        use super::{interleaved, lanes};
        // Fewest messages for which a step of all lanes costs less than what would run instead. Of the time per
        // byte that one message takes, two interleaved ones take 0.56 and 16 lanes 0.50 (Zen 4).
        const MIN_16: usize = 15;
        const MIN_16_WITHOUT_SHA: usize = 9;
        const MIN_8: usize = 3;
        if means.avx512 {
            let least = if means.sha {
                MIN_16
            } else {
                MIN_16_WITHOUT_SHA
            };
            // SAFETY: `means` says that the processor has AVX-512 F and BW.
            side_by_side::<16>(&mut waiting, least, &|states, blocks, n| unsafe {
                lanes::compress16(states, blocks, n);
            });
        }
        if means.sha {
            // SAFETY: `means` says that the processor has the SHA instructions, SSSE3 and SSE4.1.
            side_by_side::<2>(&mut waiting, 2, &|states, blocks, n| unsafe {
                interleaved::compress2(states, blocks, n);
            });
        } else if means.avx512 {
            // SAFETY: `means` says that the processor has AVX-512 F and VL, and AVX2 with them.
            side_by_side::<8>(&mut waiting, MIN_8, &|states, blocks, n| unsafe {
                lanes::compress8_avx512(states, blocks, n);
            });
        } else if means.avx2 {
            // SAFETY: `means` says that the processor has AVX2.
            side_by_side::<8>(&mut waiting, MIN_8, &|states, blocks, n| unsafe {
                lanes::compress8(states, blocks, n);
            });
        }
    }
    for job in waiting {
        job.alone();
    }
}

/// Runs the jobs `N` at a time while at least `least` are left; a finished one gives its place to the
/// next. What is left unfinished stays in `waiting`.
///
/// `step` adds `n` blocks from each pointer to the state of the same index.
#[cfg(target_arch = "x86_64")]
fn side_by_side<const N: usize>(
    waiting: &mut Vec<&mut Job<'_>>,
    least: usize,
    step: &dyn Fn(&mut [[u32; 8]; N], [*const u8; N], usize),
) {
    loop {
        let count = waiting.len().min(N);
        if count < least {
            return;
        }
        let first = waiting.len() - count;
        let active = &mut waiting[first..];
        // Blocks that all of them have.
        let n = active.iter().map(|job| job.count()).min().unwrap_or(0);
        let mut states = [[0_u32; 8]; N];
        // Lanes without a message repeat the first one; what they compute is dropped.
        let mut blocks = [active[0].blocks.as_ptr(); N];
        for (lane, job) in active.iter().enumerate() {
            states[lane] = *job.state;
            blocks[lane] = job.blocks.as_ptr();
        }
        step(&mut states, blocks, n);
        for (lane, job) in active.iter_mut().enumerate() {
            *job.state = states[lane];
            job.blocks = &job.blocks[n * BLOCK..];
        }
        waiting.retain(|job| !job.blocks.is_empty());
    }
}
