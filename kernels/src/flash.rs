//! Blocked attention on the CPU, with the softmax taken block by block (running maximum and sum per
//! query), so that scores are never stored beyond one block.
//!
//! Per head K is packed as the right-hand side of q k^T and V as that of p v, once. Then each task
//! takes one head and [`QUERIES`] queries through all blocks of [`KC`] keys: scores by the
//! micro-kernel, softmax, product with V by the micro-kernel into the running result.
#![allow(unsafe_op_in_unsafe_fn)] // kernels run under `#[target_feature]` as a whole

use crate::data::Shared;
use crate::gemm::{Aligned, Block, KC, LDA, multiply, panel_width, with_scratch};
use crate::isa::Isa;
use crate::pages::vec_with_room;
use crate::simd::{Element, Vector, dispatch, load_n, math, max_lane, store_n, sum_lanes};
use rayon::prelude::*;

/// Queries of a task: their scores, 96 x KC, and results stay in the second-level cache.
pub(crate) const QUERIES: usize = 96;
/// Keys whose weighted values are added one by one; sums of so many keys are then added to the result.
/// Equal keys (the padding of a prompt) make rounding errors of equal sign, which grow with this depth:
/// at 512 the output of a transformer is 7e-6 off the exact one, at 256 3e-6, and only 1e-6 off torch's,
/// whose sums seem to be of that depth.
const SUM_DEPTH: usize = 256;
/// Packed keys and values held at once; more heads than fit are done in turns.
pub(crate) const PACKED_BYTES: usize = 256 << 20;

/// Sizes of one call.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) heads: usize,
    /// Heads G of k and v, each for N / G consecutive heads of q.
    pub(crate) kv_heads: usize,
    pub(crate) width: usize,
    /// Query i sees the keys up to Lk - Lq + i: the queries are the last of the positions. Needs Lq <= Lk.
    pub(crate) causal: bool,
}

impl Sizes {
    /// How many keys query `i` sees.
    fn seen(&self, i: usize) -> usize {
        if self.causal {
            self.keys - self.queries + i + 1
        } else {
            self.keys
        }
    }
}

/// Contiguous inputs: q [B, Lq, N, D], k and v [B, Lk, G, D], bias [N, Lq, Lk].
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a, T> {
    pub(crate) q: &'a [T],
    pub(crate) k: &'a [T],
    pub(crate) v: &'a [T],
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) scale: f32,
}

/// K and V of one head in panels.
struct Head {
    /// [ceil(Lk / panel)][D][panel]
    keys: Aligned<f32>,
    /// [ceil(D / panel)][Lk][panel]
    values: Aligned<f32>,
}

/// Attention [B, Lq, N, D] in f32; `sizes` has no zero.
pub(crate) fn flash<T: Element>(isa: Isa, inputs: &Inputs<'_, T>, sizes: Sizes) -> Vec<f32> {
    let Sizes {
        batch,
        queries,
        keys,
        heads,
        kv_heads,
        width,
        ..
    } = sizes;
    let group = heads / kv_heads;
    let mut out: Vec<f32> = vec_with_room(batch * queries * heads * width);
    let shared = Shared::new(out.as_mut_ptr());
    let total = batch * kv_heads;
    let fitting = PACKED_BYTES / (2 * size_of::<f32>() * keys * width);
    let turn = fitting.max(rayon::current_num_threads()).min(total);
    let blocks = queries.div_ceil(QUERIES);
    let block = queries.div_ceil(blocks);
    for first in (0..total).step_by(turn) {
        let count = turn.min(total - first);
        let packed: Vec<Head> = (first..first + count)
            .into_par_iter()
            .with_max_len(1)
            .map(|index| pack(isa, inputs, sizes, index))
            .collect();
        (0..count * group * blocks)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| {
                let (head, start) = (task / blocks, task % blocks * block);
                let rows = block.min(queries - start);
                // SAFETY: each task writes its own queries of its own head.
                unsafe {
                    attend(
                        isa,
                        inputs,
                        sizes,
                        &packed[head / group],
                        first * group + head,
                        start,
                        rows,
                        shared,
                    );
                }
            });
    }
    // SAFETY: the tasks cover all heads and queries, so every element has been written.
    unsafe { out.set_len(batch * queries * heads * width) };
    out
}

/// Packs K and V of head `index` (of B x G).
fn pack<T: Element>(isa: Isa, inputs: &Inputs<'_, T>, sizes: Sizes, index: usize) -> Head {
    let Sizes {
        keys,
        kv_heads,
        width,
        ..
    } = sizes;
    let panel = panel_width(isa);
    let (b, n) = (index / kv_heads, index % kv_heads);
    let at = |key: usize| ((b * keys + key) * kv_heads + n) * width;
    let mut packed = Head {
        keys: Aligned::zeros(keys.div_ceil(panel) * panel * width),
        values: Aligned::zeros(width.div_ceil(panel) * panel * keys),
    };
    let mut line = vec![0f32; width];
    for (p, out) in packed
        .keys
        .as_mut_slice()
        .chunks_mut(panel * width)
        .enumerate()
    {
        for j in 0..panel.min(keys - p * panel) {
            T::widen(&inputs.k[at(p * panel + j)..][..width], &mut line);
            for (d, &x) in line.iter().enumerate() {
                out[d * panel + j] = x;
            }
        }
    }
    for key in 0..keys {
        T::widen(&inputs.v[at(key)..][..width], &mut line);
        let out = packed.values.as_mut_slice();
        for (p, part) in line.chunks(panel).enumerate() {
            out[(p * keys + key) * panel..][..part.len()].copy_from_slice(part);
        }
    }
    packed
}

/// Queries `start..start + rows` of head `index` (of B x N).
///
/// # Safety
/// No other task may write the same queries of the same head to `out`.
unsafe fn attend<T: Element>(
    isa: Isa,
    inputs: &Inputs<'_, T>,
    sizes: Sizes,
    head: &Head,
    index: usize,
    start: usize,
    rows: usize,
    out: Shared,
) {
    let Sizes {
        queries,
        keys,
        heads,
        width,
        ..
    } = sizes;
    let panel = panel_width(isa);
    let (b, n) = (index / heads, index % heads);
    let slabs = width.div_ceil(KC);
    let slab = rows * LDA;
    with_scratch(slab * (slabs + 1) + rows * width, |scratch| {
        // Scores [rows][LDA], queries [slabs][rows][LDA], running result [rows][D].
        let (scores, rest) = scratch.split_at_mut(slab);
        let (q, result) = rest.split_at_mut(slab * slabs);
        for r in 0..rows {
            let x = &inputs.q[((b * queries + start + r) * heads + n) * width..][..width];
            for (s, part) in x.chunks(KC).enumerate() {
                let dst = &mut q[s * slab + r * LDA..][..part.len()];
                T::widen(part, dst);
                for x in dst {
                    *x *= inputs.scale;
                }
            }
        }
        let mut running = [Running::default(); QUERIES];
        // What the last query of the task does not see, none does.
        let last = sizes.seen(start + rows - 1);
        for k0 in (0..last).step_by(KC) {
            let count = KC.min(last - k0);
            for s in 0..slabs {
                let block = Block {
                    rows,
                    depth: KC.min(width - s * KC),
                    a: q.as_ptr().add(s * slab),
                    b: head
                        .keys
                        .as_slice()
                        .as_ptr()
                        .add(k0 * width + s * KC * panel),
                    panel_stride: width * panel,
                    cols: count,
                    c: scores.as_mut_ptr(),
                    ldc: LDA,
                    accumulate: s > 0,
                };
                multiply(isa, &block, None);
            }
            for r in 0..rows {
                let seen = sizes.seen(start + r).saturating_sub(k0).min(count);
                let bias = inputs
                    .bias
                    .map(|bias| &bias[(n * queries + start + r) * keys + k0..][..seen]);
                let (scores, unseen) = scores[r * LDA..][..count].split_at_mut(seen);
                let result = &mut result[r * width..][..width];
                softmax_row(isa, scores, bias, result, k0 > 0, &mut running[r]);
                unseen.fill(0.0);
            }
            for d0 in (0..count).step_by(SUM_DEPTH) {
                let block = Block {
                    rows,
                    depth: SUM_DEPTH.min(count - d0),
                    a: scores.as_ptr().add(d0),
                    b: head.values.as_slice().as_ptr().add((k0 + d0) * panel),
                    panel_stride: keys * panel,
                    cols: width,
                    c: result.as_mut_ptr(),
                    ldc: width,
                    accumulate: k0 + d0 > 0,
                };
                multiply(isa, &block, None);
            }
        }
        for r in 0..rows {
            let factor = running[r].sum.recip();
            let dst = out.at(((b * queries + start + r) * heads + n) * width);
            for (d, &x) in result[r * width..][..width].iter().enumerate() {
                *dst.add(d) = x * factor;
            }
        }
    });
}

/// Maximum and sum of exponentials of one query so far.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
}

impl Default for Running {
    fn default() -> Self {
        // Not -inf: a block that is masked throughout must not give inf - inf.
        Self {
            max: f32::MIN,
            sum: 0.0,
        }
    }
}

dispatch! {
    /// Turns scores into weights relative to the running maximum; scales `result` to a new maximum
    /// if it already holds something.
    fn softmax_row(
        scores: &mut [f32],
        bias: Option<&[f32]>,
        result: &mut [f32],
        started: bool,
        running: &mut Running,
    ) = softmax_generic
}

#[inline(always)]
unsafe fn softmax_generic<V: Vector>(
    scores: &mut [f32],
    bias: Option<&[f32]>,
    result: &mut [f32],
    started: bool,
    running: &mut Running,
) {
    let len = scores.len();
    let p = scores.as_mut_ptr();
    let whole = len - len % V::LANES;
    let mut max = V::splat(running.max);
    let mut tail_max = running.max;
    if let Some(bias) = bias {
        for i in (0..len).step_by(V::LANES) {
            let n = V::LANES.min(len - i);
            let s = load_n::<V>(p.add(i), n).add(load_n(bias.as_ptr().add(i), n));
            store_n(s, p.add(i), n);
        }
    }
    for i in (0..whole).step_by(V::LANES) {
        max = max.max(V::load(p.add(i)));
    }
    for i in whole..len {
        tail_max = tail_max.max(*p.add(i));
    }
    let new_max = max_lane(max).max(tail_max);
    let shift = V::splat(new_max);
    let mut sums = V::splat(0.0);
    for i in (0..whole).step_by(V::LANES) {
        let e = math::exp(V::load(p.add(i)).sub(shift));
        e.store(p.add(i));
        sums = sums.add(e);
    }
    let mut sum = sum_lanes(sums);
    if whole < len {
        let e = math::exp(load_n::<V>(p.add(whole), len - whole).sub(shift));
        store_n(e, p.add(whole), len - whole);
        sum += scores[whole..].iter().map(|&e| f64::from(e)).sum::<f64>();
    }
    if started && new_max > running.max {
        let factor = (running.max - new_max).exp();
        running.sum *= factor;
        let factor = V::splat(factor);
        for i in (0..result.len()).step_by(V::LANES) {
            let n = V::LANES.min(result.len() - i);
            let p = result.as_mut_ptr().add(i);
            store_n(load_n::<V>(p, n).mul(factor), p, n);
        }
    }
    running.max = new_max;
    running.sum += sum as f32;
}
