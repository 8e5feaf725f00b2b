//! Driver of the element-wise and row-wise operations on the CPU: spreads chunks of whole rows over
//! rayon's threads and presents them as f32 whatever the dtype.

use crate::data::{Shared, Slice, View};
use crate::isa::Isa;
use crate::pages::vec_with_room;
use crate::simd::Element;
use candle_core::{DType, Device, Result, Shape, Tensor};
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
    map_rows_to(x, y, width, x.dtype(), kernel)
}

/// [`map_rows`] with a result of `dtype`.
pub(crate) fn map_rows_to(
    x: &Tensor,
    y: Option<&Tensor>,
    width: usize,
    dtype: DType,
    kernel: impl Fn(Isa, Chunk<'_>) + Sync,
) -> Result<Tensor> {
    let isa = Isa::current();
    let shape = x.shape().clone();
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

/// Two operations on rows while they are in cache: `first` makes the middle from x and y, which is rounded
/// to `middle`; `second` makes the result, of `dtype`, from the middle alone. Gives the middle too if it is
/// to be kept. Both have the shape of `x`.
pub(crate) fn map_rows_twice(
    x: &Tensor,
    y: Option<&Tensor>,
    width: usize,
    (middle, keep): (DType, bool),
    dtype: DType,
    first: impl Fn(Isa, Chunk<'_>) + Sync,
    second: impl Fn(Isa, Chunk<'_>) + Sync,
) -> Result<(Option<Tensor>, Tensor)> {
    let isa = Isa::current();
    let shape = x.shape().clone();
    let x = x.contiguous()?;
    let y = y.map(Tensor::contiguous).transpose()?;
    let (x, y) = (View::new(&x)?, y.as_ref().map(View::new).transpose()?);
    let (x, y) = (x.slice(), y.as_ref().map(View::slice));
    let len = shape.elem_count();
    let step = (CHUNK / width).max(1) * width;
    let mut kept = keep.then(|| Output::new(middle, len));
    let mut out = Output::new(dtype, len);
    let (kept_place, out_place) = (kept.as_mut().map(Output::place), out.place());
    (0..len.div_ceil(step)).into_par_iter().for_each(|index| {
        let range = index * step..(index * step + step).min(len);
        let [mut x_buffer, mut y_buffer] = <[Vec<f32>; 2]>::default();
        let mut values = vec![0f32; range.len()];
        first(
            isa,
            Chunk {
                row: range.start / width,
                x: floats(x, range.clone(), &mut x_buffer),
                y: y.map_or(&[], |y| floats(y, range.clone(), &mut y_buffer)),
                out: values.as_mut_ptr(),
            },
        );
        round(middle, &mut values);
        if let Some(place) = kept_place {
            // SAFETY: the chunks are disjoint parts of the allocation.
            unsafe { place.write(range.start, &values) };
        }
        let chunk = |out| Chunk {
            row: range.start / width,
            x: &values,
            y: &[],
            out,
        };
        if let Place::F32(place) = out_place {
            // SAFETY: the chunks are disjoint parts of the allocation.
            second(isa, chunk(unsafe { place.at(range.start) }));
        } else {
            let mut result = vec![0f32; range.len()];
            second(isa, chunk(result.as_mut_ptr()));
            // SAFETY: as above.
            unsafe { out_place.write(range.start, &result) };
        }
    });
    // SAFETY: every chunk of both has been written.
    unsafe {
        let kept = kept.map(|kept| kept.into_tensor(len, &shape)).transpose()?;
        Ok((kept, out.into_tensor(len, &shape)?))
    }
}

/// Rounds to a 16-bit type and back.
fn round(dtype: DType, values: &mut [f32]) {
    fn through<T: Element>(values: &mut [f32]) {
        let mut narrow = vec![T::default(); values.len()];
        T::narrow(values, &mut narrow);
        T::widen(&narrow, values);
    }
    match dtype {
        DType::BF16 => through::<bf16>(values),
        DType::F16 => through::<f16>(values),
        _ => {}
    }
}

/// A result that tasks write in parts; f32 starts uninitialised.
enum Output {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

/// Where an [`Output`] lies.
#[derive(Clone, Copy)]
enum Place {
    F32(Shared<f32>),
    Bf16(Shared<bf16>),
    F16(Shared<f16>),
}

impl Output {
    fn new(dtype: DType, len: usize) -> Self {
        match dtype {
            DType::BF16 => Self::Bf16(vec![bf16::ZERO; len]),
            DType::F16 => Self::F16(vec![f16::ZERO; len]),
            _ => Self::F32(vec_with_room(len)),
        }
    }

    fn place(&mut self) -> Place {
        match self {
            Self::F32(values) => Place::F32(Shared::new(values.as_mut_ptr())),
            Self::Bf16(values) => Place::Bf16(Shared::new(values.as_mut_ptr())),
            Self::F16(values) => Place::F16(Shared::new(values.as_mut_ptr())),
        }
    }

    /// # Safety
    /// All `len` elements must have been written.
    unsafe fn into_tensor(self, len: usize, shape: &Shape) -> Result<Tensor> {
        match self {
            Self::F32(mut values) => {
                // SAFETY: the caller's promise.
                unsafe { values.set_len(len) };
                Tensor::from_vec(values, shape, &Device::Cpu)
            }
            Self::Bf16(values) => Tensor::from_vec(values, shape, &Device::Cpu),
            Self::F16(values) => Tensor::from_vec(values, shape, &Device::Cpu),
        }
    }
}

impl Place {
    /// Writes `values` from element `start` on, rounded to the output's type.
    ///
    /// # Safety
    /// The elements must lie within the allocation, and no other task may use them.
    unsafe fn write(self, start: usize, values: &[f32]) {
        unsafe fn narrow<T: Element>(place: Shared<T>, start: usize, values: &[f32]) {
            // SAFETY: the caller's promise; 16-bit outputs start initialised.
            T::narrow(values, unsafe {
                std::slice::from_raw_parts_mut(place.at(start), values.len())
            });
        }
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::F32(place) => {
                    std::ptr::copy_nonoverlapping(values.as_ptr(), place.at(start), values.len());
                }
                Self::Bf16(place) => narrow(place, start, values),
                Self::F16(place) => narrow(place, start, values),
            }
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
