//! Driver of the element-wise and row-wise operations on the CPU: spreads chunks of whole rows over
//! rayon's threads and presents them as f32 whatever the dtype.

use crate::data::{Slice, View};
use crate::isa::Isa;
use crate::pages::vec_with_room;
use crate::simd::Element;
use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use std::ops::Range;

/// Elements of a chunk: large enough to hide the cost of a task, small enough for the second-level
/// cache.
const CHUNK: usize = 1 << 14;

/// A chunk of whole rows.
pub(crate) struct Chunk<'a> {
    /// Index of the first row.
    pub(crate) row: usize,
    /// The rows.
    pub(crate) x: &'a [f32],
    /// The rows of the second operand; empty if there is none.
    pub(crate) y: &'a [f32],
    /// The result, to be written completely: valid for as many elements as `x`, perhaps
    /// uninitialised.
    pub(crate) out: *mut f32,
}

/// Applies `kernel` to all rows (`width` elements each; the last may be shorter) of `x` and `y`,
/// tensors of one shape. The result has the shape and dtype of `x`.
pub(crate) fn map_rows(
    x: &Tensor,
    y: Option<&Tensor>,
    width: usize,
    kernel: impl Fn(Isa, Chunk<'_>) + Sync,
) -> Result<Tensor> {
    let isa = Isa::current();
    let (shape, dtype) = (x.shape().clone(), x.dtype());
    let x = x.contiguous()?;
    let y = y.map(Tensor::contiguous).transpose()?;
    let (x, y) = (View::new(&x)?, y.as_ref().map(View::new).transpose()?);
    let (x, y) = (x.slice(), y.as_ref().map(View::slice));
    let len = shape.elem_count();
    let step = (CHUNK / width).max(1) * width;
    let run = |index: usize, out: *mut f32, buffers: &mut [Vec<f32>; 2]| {
        let range = index * step..(index * step + step).min(len);
        let [x_buffer, y_buffer] = buffers;
        let chunk = Chunk {
            row: range.start / width,
            x: floats(x, range.clone(), x_buffer),
            y: y.map_or(&[], |y| floats(y, range, y_buffer)),
            out,
        };
        kernel(isa, chunk);
    };
    match dtype {
        DType::BF16 => Tensor::from_vec(map_half::<bf16>(len, step, run), shape, &Device::Cpu),
        DType::F16 => Tensor::from_vec(map_half::<f16>(len, step, run), shape, &Device::Cpu),
        _ => {
            let mut out: Vec<f32> = vec_with_room(len);
            for_chunks(&mut out.spare_capacity_mut()[..len], step, |index, part| {
                run(index, part.as_mut_ptr().cast(), &mut Default::default());
            });
            // SAFETY: every chunk has been written by the kernel.
            unsafe { out.set_len(len) };
            Tensor::from_vec(out, shape, &Device::Cpu)
        }
    }
}

/// The result in half precision: each chunk is computed in f32, then rounded.
fn map_half<T: Element>(
    len: usize,
    step: usize,
    run: impl Fn(usize, *mut f32, &mut [Vec<f32>; 2]) + Sync,
) -> Vec<T> {
    let mut out = vec![T::default(); len];
    for_chunks(&mut out, step, |index, part| {
        let mut values = vec![0f32; part.len()];
        run(index, values.as_mut_ptr(), &mut Default::default());
        T::narrow(&values, part);
    });
    out
}

/// Calls `work` with every chunk of `step` elements, in parallel if there are several.
fn for_chunks<T: Send>(out: &mut [T], step: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    if out.len() <= step {
        if !out.is_empty() {
            work(0, out);
        }
        return;
    }
    out.par_chunks_mut(step)
        .enumerate()
        .for_each(|(index, part)| work(index, part));
}

/// `range` of `slice` in f32, by way of `buffer` where it has another dtype.
fn floats<'a>(slice: Slice<'a>, range: Range<usize>, buffer: &'a mut Vec<f32>) -> &'a [f32] {
    buffer.resize(
        if matches!(slice, Slice::F32(_)) {
            0
        } else {
            range.len()
        },
        0.0,
    );
    match slice {
        Slice::F32(values) => return &values[range],
        Slice::Bf16(values) => bf16::widen(&values[range], buffer),
        Slice::F16(values) => f16::widen(&values[range], buffer),
    }
    buffer
}
