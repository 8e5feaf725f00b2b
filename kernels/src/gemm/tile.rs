//! The micro-kernel: `C[r][c] (+)= sum_k A[r][k] B[k][c]` for a tile of a few rows
//! (12 with AVX-512, 6 with AVX2) and one panel of columns, all sums held in registers.
//!
//! A is row-major with the constant stride [`LDA`], so that every row is reached from one base
//! register and each value is broadcast from memory; B is a panel [depth][2 * LANES] of contiguous
//! vectors. Every smaller number of rows has its own instance: a product with one row costs one row.
#![allow(unsafe_op_in_unsafe_fn)] // kernels run under `#[target_feature]` as a whole

use super::{Finish, LDA};
use crate::isa::{Isa, Kind};
use crate::simd::{Element, Lanes4, MAX_LANES, Vector, activate, dispatch, load_n, store_n};

/// Columns of the widest panel.
const MAX_PANEL: usize = 2 * MAX_LANES;

/// `(depth, a, b, c, ldc, accumulate)`: see the file header; without `accumulate` C is overwritten.
pub(super) type Tile<B> = unsafe fn(usize, *const f32, *const B, *mut f32, usize, bool);

/// The micro-kernels of one instruction set for panels of `B`.
pub(super) struct Tiles<B: 'static> {
    /// Columns of a panel.
    pub(super) panel: usize,
    /// By rows - 1, all columns of the panel.
    pub(super) full: &'static [Tile<B>],
    /// By rows - 1, the first half of the panel's columns.
    pub(super) half: &'static [Tile<B>],
}

/// Columns of a panel for `isa`.
pub(crate) fn panel_width(isa: Isa) -> usize {
    tiles::<f32>(isa).panel
}

#[inline(always)]
unsafe fn tile<V: Vector, B: Element, const ROWS: usize, const VECS: usize>(
    depth: usize,
    a: *const f32,
    b: *const B,
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
) {
    let mut sums = [[V::splat(0.0); VECS]; ROWS];
    for k in 0..depth {
        let mut columns = [V::splat(0.0); VECS];
        for (j, column) in columns.iter_mut().enumerate() {
            *column = B::load::<V>(b.add(k * 2 * V::LANES + j * V::LANES));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let x = V::splat(*a.add(r * LDA + k));
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = x.fma(column, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (j, sum) in sums.iter().enumerate() {
            let p = c.add(r * ldc + j * V::LANES);
            let sum = if accumulate {
                V::load(p).add(*sum)
            } else {
                *sum
            };
            sum.store(p);
        }
    }
}

/// The tables of one instruction set: rows listed so that each instance is a function of its own.
macro_rules! tables {
    ($name:ident, $vector:ty, [$($rows:literal)*] $(, $features:literal)?) => {
        fn $name<B: Element>() -> Tiles<B> {
            $(#[target_feature(enable = $features)])?
            unsafe fn sized<B: Element, const ROWS: usize, const VECS: usize>(
                depth: usize,
                a: *const f32,
                b: *const B,
                c: *mut f32,
                ldc: usize,
                accumulate: bool,
            ) {
                tile::<$vector, B, ROWS, VECS>(depth, a, b, c, ldc, accumulate);
            }
            Tiles {
                panel: 2 * <$vector>::LANES,
                full: const { &[$(sized::<B, $rows, 2> as Tile<B>),*] },
                half: const { &[$(sized::<B, $rows, 1> as Tile<B>),*] },
            }
        }
    };
}

tables!(scalar, Lanes4, [1 2 3 4]);
#[cfg(target_arch = "x86_64")]
tables!(avx2, crate::simd::Lanes8, [1 2 3 4 5 6], "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
tables!(
    avx512,
    crate::simd::Lanes16,
    [1 2 3 4 5 6 7 8 9 10 11 12],
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
);

/// The micro-kernels of `isa`.
pub(super) fn tiles<B: Element>(isa: Isa) -> Tiles<B> {
    match isa.kind() {
        Kind::Scalar => scalar(),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => avx2(),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => avx512(),
    }
}

/// One product of a row-major block of A with consecutive panels of B.
pub(crate) struct Block<B> {
    /// Rows of A and C.
    pub(crate) rows: usize,
    /// Columns of A, rows of B: at most [`super::KC`].
    pub(crate) depth: usize,
    /// First row of A, stride [`LDA`].
    pub(crate) a: *const f32,
    /// First panel of B, at the first row wanted.
    pub(crate) b: *const B,
    /// Elements from one panel to the next.
    pub(crate) panel_stride: usize,
    /// Columns of C.
    pub(crate) cols: usize,
    /// First row of C.
    pub(crate) c: *mut f32,
    /// Elements from one row of C to the next.
    pub(crate) ldc: usize,
    /// Add to C instead of overwriting it.
    pub(crate) accumulate: bool,
}

/// Runs the micro-kernels over `block`; `finish` (with the place of the block in C) is applied to
/// each tile while it is in the first-level cache.
///
/// # Safety
/// The pointers of `block` must be valid for the extents it names.
pub(crate) unsafe fn multiply<B: Element>(
    isa: Isa,
    block: &Block<B>,
    finish: Option<(&Finish<'_>, usize, usize)>,
) {
    let tiles = tiles::<B>(isa);
    let Block {
        rows,
        depth,
        cols,
        ldc,
        accumulate,
        ..
    } = *block;
    // Tiles of even height: 20 rows are 10 + 10, not 12 + 8.
    let tile_count = rows.div_ceil(tiles.full.len());
    let mut part = [0f32; MAX_PANEL * 16];
    for (index, col) in (0..cols).step_by(tiles.panel).enumerate() {
        let width = tiles.panel.min(cols - col);
        let table = if width <= tiles.panel / 2 {
            tiles.half
        } else {
            tiles.full
        };
        let exact = width == tiles.panel || width == tiles.panel / 2;
        let b = block.b.add(index * block.panel_stride);
        let mut row = 0;
        for t in 0..tile_count {
            let height = (rows - row).div_ceil(tile_count - t);
            let kernel = table[height - 1];
            let a = block.a.add(row * LDA);
            let c = block.c.add(row * ldc + col);
            if exact {
                kernel(depth, a, b, c, ldc, accumulate);
            } else {
                // The last panel sticks out of C: work in a copy.
                kernel(depth, a, b, part.as_mut_ptr(), tiles.panel, false);
                for r in 0..height {
                    for j in 0..width {
                        let old = if accumulate { *c.add(r * ldc + j) } else { 0.0 };
                        *c.add(r * ldc + j) = old + part[r * tiles.panel + j];
                    }
                }
            }
            if let Some((finish, row0, col0)) = finish {
                finish_tile(isa, height, width, c, ldc, finish, row0 + row, col0 + col);
            }
            row += height;
        }
    }
}

dispatch! {
    /// Adds bias and residual to a tile and applies the activation.
    fn finish_tile(
        rows: usize,
        cols: usize,
        c: *mut f32,
        ldc: usize,
        finish: &Finish<'_>,
        row: usize,
        col: usize,
    ) = finish_generic
}

#[inline(always)]
unsafe fn finish_generic<V: Vector>(
    rows: usize,
    cols: usize,
    c: *mut f32,
    ldc: usize,
    finish: &Finish<'_>,
    row: usize,
    col: usize,
) {
    if finish.is_identity() {
        return;
    }
    for r in 0..rows {
        let c = c.add(r * ldc);
        let bias = finish.bias.map(|bias| bias.as_ptr().add(col));
        let residual = finish
            .residual
            .map(|res| res.as_ptr().add((row + r) * ldc + col));
        let mut j = 0;
        while j < cols {
            let n = V::LANES.min(cols - j);
            let mut y = load_n::<V>(c.add(j), n);
            if let Some(bias) = bias {
                y = y.add(load_n(bias.add(j), n));
            }
            if let Some(residual) = residual {
                y = y.add(load_n(residual.add(j), n));
            }
            store_n(activate(y, finish.act), c.add(j), n);
            j += n;
        }
    }
}
