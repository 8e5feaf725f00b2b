//! B operands in panels: [ceil(N / panel)][K][panel], zero padded, each panel contiguous in memory.

use super::tile::panel_width;
use crate::data::{Slice, View};
use crate::isa::Isa;
use crate::pages::prefer_huge;
use crate::simd::Element;
use candle_core::{Result, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use std::marker::PhantomData;

/// A buffer whose first element sits on a cache line: loads of whole vectors never cross one.
pub(crate) struct Aligned<T> {
    /// Words, whatever `T` is: zeroed words come from the system without being written.
    words: Vec<u32>,
    offset: usize,
    len: usize,
    element: PhantomData<T>,
}

const LINE: usize = 64;

impl<T: Element> Aligned<T> {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let needed = (len * size_of::<T>()).div_ceil(size_of::<u32>());
        let mut words = vec![0u32; needed + LINE / size_of::<u32>()];
        prefer_huge(words.as_mut_ptr(), words.len());
        let offset = words.as_ptr().align_offset(LINE).min(words.len() - needed);
        Self {
            words,
            offset,
            len,
            element: PhantomData,
        }
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        let words = &self.words[self.offset..];
        // SAFETY: the words cover `len` elements, are aligned for them, and every bit pattern is a
        // float.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        let words = &mut self.words[self.offset..];
        // SAFETY: as above; every float is a bit pattern of words.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), self.len) }
    }
}

enum Panels {
    F32(Aligned<f32>),
    Bf16(Aligned<bf16>),
    F16(Aligned<f16>),
}

/// A weight matrix [N, K] in panels, in its own dtype: the transposed right-hand side of a product.
pub(crate) struct Packed {
    panels: Panels,
    isa: Isa,
    n: usize,
    k: usize,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed")
            .field("isa", &self.isa.name())
            .field("n", &self.n)
            .field("k", &self.k)
            .finish_non_exhaustive()
    }
}

impl Packed {
    /// Packs a contiguous CPU tensor of `n` rows; column `k` of a row is its element `column(k)`.
    pub(crate) fn new(
        weight: &Tensor,
        n: usize,
        column: impl Fn(usize) -> usize + Sync,
    ) -> Result<Self> {
        let isa = Isa::current();
        let k = weight.elem_count() / n;
        let view = View::new(weight)?;
        let panels = match view.slice() {
            Slice::F32(w) => Panels::F32(pack(isa, w, n, k, column)),
            Slice::Bf16(w) => Panels::Bf16(pack(isa, w, n, k, column)),
            Slice::F16(w) => Panels::F16(pack(isa, w, n, k, column)),
        };
        Ok(Self { panels, isa, n, k })
    }

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// Rows of the weight: columns of the product.
    pub(crate) fn n(&self) -> usize {
        self.n
    }

    /// Columns of the weight: depth of the product.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Elements of one panel.
    pub(crate) fn panel_stride(&self) -> usize {
        self.k * panel_width(self.isa)
    }

    pub(super) fn slice(&self) -> Slice<'_> {
        match &self.panels {
            Panels::F32(p) => Slice::F32(p.as_slice()),
            Panels::Bf16(p) => Slice::Bf16(p.as_slice()),
            Panels::F16(p) => Slice::F16(p.as_slice()),
        }
    }
}

fn pack<T: Element>(
    isa: Isa,
    w: &[T],
    n: usize,
    k: usize,
    column: impl Fn(usize) -> usize + Sync,
) -> Aligned<T> {
    /// Columns moved at once: long enough a run of each row for the prefetcher, and the part of the
    /// panel written stays in the first-level cache.
    const STEP: usize = 64;
    let width = panel_width(isa);
    let mut packed = Aligned::zeros(n.div_ceil(width) * width * k);
    packed
        .as_mut_slice()
        .par_chunks_mut(k * width)
        .enumerate()
        .for_each(|(index, panel)| {
            let first = index * width;
            for k0 in (0..k).step_by(STEP) {
                let steps = STEP.min(k - k0);
                for j in 0..width.min(n - first) {
                    let row = &w[(first + j) * k..][..k];
                    for s in 0..steps {
                        panel[(k0 + s) * width + j] = row[column(k0 + s)];
                    }
                }
            }
        });
    packed
}
