//! Matrix product `C = A B` in f32 on the CPU, for a prepacked B and an A that is read through
//! [`Source`].
//!
//! Tasks are (row block of A) x (range of panels of B), spread over rayon's threads. A task walks
//! the depth in steps of [`KC`]: it gathers the block of A once into scratch memory of its thread
//! (row-major, stride [`LDA`]), then runs the micro-kernels over all panels of its range; sums of
//! earlier steps are picked up from C. Bias, residual and activation follow while the last tile is
//! hot. Every element of C is summed in one order whatever the number of threads.

mod pack;
mod tile;

pub(crate) use pack::{Aligned, Packed};
pub(crate) use tile::{Block, multiply, panel_width};

use crate::Activation;
use crate::data::{Shared, per_dtype};
use crate::pages::vec_with_room;
use crate::simd::Element;
use rayon::prelude::*;
use std::cell::Cell;

/// Depth of a block: one panel of it, 64 KB with AVX-512, stays in the second-level cache.
pub(crate) const KC: usize = 512;
/// Row stride of a block of A: not a multiple of a large power of two, so that the rows of a tile
/// do not compete for the same cache set.
pub(crate) const LDA: usize = KC + 16;
/// Most rows of a block: 192 x KC floats leave half of a 1 MB second-level cache to B and C.
const MC: usize = 192;
/// A range of panels that several row blocks read should stay in the last-level cache.
const RANGE_BYTES: usize = 8 << 20;
/// Tasks per thread that make up for uneven progress.
const TASKS_PER_THREAD: usize = 8;

/// The left-hand side: rows that can be written out piecewise as f32.
pub(crate) trait Source: Sync {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Writes columns `k0..k0 + depth` of rows `row0..row0 + rows` to `dst`, row stride [`LDA`].
    fn fill(&self, row0: usize, rows: usize, k0: usize, depth: usize, dst: &mut [f32]);
}

/// A dense matrix with rows of `stride` elements.
pub(crate) struct Dense<'a, T> {
    pub(crate) values: &'a [T],
    pub(crate) stride: usize,
}

impl<T: Element> Source for Dense<'_, T> {
    fn rows(&self) -> usize {
        self.values.len() / self.stride
    }

    fn fill(&self, row0: usize, rows: usize, k0: usize, depth: usize, dst: &mut [f32]) {
        for (r, dst) in dst.chunks_mut(LDA).enumerate().take(rows) {
            T::widen(
                &self.values[(row0 + r) * self.stride + k0..][..depth],
                &mut dst[..depth],
            );
        }
    }
}

/// What happens to the sums: `act(sum + bias + residual)`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Finish<'a> {
    /// [N]
    pub(crate) bias: Option<&'a [f32]>,
    /// [M, N]
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) act: Activation,
}

impl Finish<'_> {
    fn is_identity(&self) -> bool {
        self.bias.is_none() && self.residual.is_none() && self.act == Activation::None
    }
}

/// `finish(A W^T)` [M, N] for `source` A [M, K] and `packed` W [N, K].
pub(crate) fn gemm<S: Source>(source: &S, packed: &Packed, finish: &Finish<'_>) -> Vec<f32> {
    per_dtype!(packed.slice(), panels => run(source, packed, panels, finish))
}

fn run<S: Source, B: Element>(
    source: &S,
    packed: &Packed,
    panels: &[B],
    finish: &Finish<'_>,
) -> Vec<f32> {
    let isa = packed.isa();
    let (m, n, k) = (source.rows(), packed.n(), packed.k());
    let width = panel_width(isa);
    let mut out: Vec<f32> = vec_with_room(m * n);
    if m * n == 0 {
        return out;
    }
    let block_rows = block_rows(m);
    let row_blocks = m.div_ceil(block_rows);
    let range = panels_per_range(
        packed.panel_stride() * size_of::<B>(),
        n.div_ceil(width),
        row_blocks,
    );
    let ranges = n.div_ceil(width).div_ceil(range);
    let c = Shared::new(out.as_mut_ptr());

    (0..ranges * row_blocks)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|task| {
            // Consecutive tasks share the panels.
            let (range_index, row_block) = (task / row_blocks, task % row_blocks);
            let row0 = row_block * block_rows;
            let rows = block_rows.min(m - row0);
            let col0 = range_index * range * width;
            let cols = (range * width).min(n - col0);
            with_scratch(rows * LDA, |a| {
                for k0 in (0..k).step_by(KC) {
                    let depth = KC.min(k - k0);
                    source.fill(row0, rows, k0, depth, a);
                    let last = k0 + depth == k;
                    // SAFETY: the offsets lie within C [m, n] and the panels; each task writes its
                    // own rows and columns of C, and A has `rows` rows of LDA.
                    unsafe {
                        let block = Block {
                            rows,
                            depth,
                            a: a.as_ptr(),
                            b: panels
                                .as_ptr()
                                .add(range_index * range * packed.panel_stride() + k0 * width),
                            panel_stride: packed.panel_stride(),
                            cols,
                            c: c.at(row0 * n + col0),
                            ldc: n,
                            accumulate: k0 > 0,
                        };
                        multiply(isa, &block, last.then_some((finish, row0, col0)));
                    }
                }
            });
        });
    // SAFETY: the tasks cover all rows and columns, so every element has been written.
    unsafe { out.set_len(m * n) };
    out
}

/// Rows of a block of A with `m` rows: whole tiles of 12 rows in all blocks but the last.
pub(crate) fn block_rows(m: usize) -> usize {
    m.div_ceil(m.div_ceil(MC).max(1)).next_multiple_of(12)
}

/// Panels of one task: few enough for all threads to be busy and for the range to stay in cache,
/// many enough to repay the gathering of A.
fn panels_per_range(panel_bytes: usize, panels: usize, row_blocks: usize) -> usize {
    let tasks = rayon::current_num_threads() * TASKS_PER_THREAD;
    let mut range = panels.div_ceil(tasks.div_ceil(row_blocks));
    if row_blocks > 1 {
        range = range.min((RANGE_BYTES / panel_bytes).max(1)).max(4);
    }
    range.clamp(1, panels)
}

/// Lends `len` floats of the thread's scratch memory (contents arbitrary, start on a cache line).
pub(crate) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: Cell<Option<Aligned<f32>>> = const { Cell::new(None) };
    }
    let mut scratch = match SCRATCH.take() {
        Some(scratch) if scratch.as_slice().len() >= len => scratch,
        _ => Aligned::zeros(len),
    };
    let result = work(&mut scratch.as_mut_slice()[..len]);
    SCRATCH.set(Some(scratch));
    result
}
