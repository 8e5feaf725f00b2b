//! Latents to rows of patches and back: the ends of the transformer.
//!
//! [C, T, h, w] <-> [L, C pt ph pw], L = (T/pt) (h/ph) (w/pw), tokens frame by frame, then row by row.
//! [`patchify`] orders a token (c, kt, kh, kw), as the weight of the patch embedding, a convolution whose
//! stride is its kernel; [`unpatchify`] takes (kt, kh, kw, c), as the output head gives it.
//!
//! Only moves elements (and casts, on the way in): 2 to 8 bytes per element.

use candle_core::{DType, Result, Tensor, bail};

use crate::check;
use crate::device::{Call, Grid, Target, target};

const THREADS: u32 = 256;

/// `x` [C, T, h, w] -> [L, C pt ph pw] in `dtype`, which is that of `x`, or `x` is f32. Errors if the grid
/// does not divide by the patch.
pub fn patchify(x: &Tensor, patch: [usize; 3], dtype: DType) -> Result<Tensor> {
    const OP: &str = "patchify";
    check::float(OP, "x", x)?;
    check::narrowing(OP, x.dtype(), dtype)?;
    let [c, t, h, w] = *x.dims() else {
        bail!("{OP}: x must have shape [C, T, h, w], found {:?}", x.dims());
    };
    let [pt, ph, pw] = patch;
    if patch.contains(&0) || t % pt != 0 || h % ph != 0 || w % pw != 0 {
        bail!("{OP}: a grid of {t}x{h}x{w} does not divide into patches of {pt}x{ph}x{pw}");
    }
    let grid = [t / pt, h / ph, w / pw];
    match target(x) {
        Some(target) => {
            let shape = [grid.iter().product(), c * pt * ph * pw];
            on_device(&target, OP, x, &shape, dtype, c, grid, patch)
        }
        None => patchify_reference(x, patch, dtype),
    }
}

/// `x` [L, pt ph pw C] -> [C, T, h, w] for `grid` tokens along T, h, w. Errors if the shapes disagree.
pub fn unpatchify(x: &Tensor, grid: [usize; 3], patch: [usize; 3]) -> Result<Tensor> {
    const OP: &str = "unpatchify";
    check::float(OP, "x", x)?;
    let ([f, y, z], [pt, ph, pw]) = (grid, patch);
    let cells = pt * ph * pw;
    let [len, width] = *x.dims() else {
        bail!("{OP}: x must have shape [L, n], found {:?}", x.dims());
    };
    if cells == 0 || width % cells != 0 || len != f * y * z {
        bail!(
            "{OP}: {:?} is no {f}x{y}x{z} grid of patches of {pt}x{ph}x{pw}",
            x.dims()
        );
    }
    let c = width / cells;
    match target(x) {
        Some(target) => {
            let shape = [c, f * pt, y * ph, z * pw];
            on_device(&target, OP, x, &shape, x.dtype(), c, grid, patch)
        }
        None => unpatchify_reference(x, grid, patch),
    }
}

/// The kernels of `cuda/patch.cu`, one thread per element.
#[allow(clippy::too_many_arguments)] // two kernels, one list
fn on_device(
    target: &Target,
    kernel: &'static str,
    x: &Tensor,
    shape: &[usize],
    dtype: DType,
    c: usize,
    grid: [usize; 3],
    patch: [usize; 3],
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let mut call = Call::mixed(target, "patch", kernel, x.dtype(), dtype)?;
    call.input(&x)?;
    let out = call.output(shape, dtype)?;
    call.i32(c)?;
    for size in grid.into_iter().chain(patch) {
        call.i32(size)?;
    }
    call.launch(Grid::cover(out.elem_count(), THREADS), THREADS, 0)?;
    Ok(out)
}

/// Reference of [`patchify`].
pub fn patchify_reference(x: &Tensor, patch: [usize; 3], dtype: DType) -> Result<Tensor> {
    let (c, t, h, w) = x.dims4()?;
    let [pt, ph, pw] = patch;
    let (f, y, z) = (t / pt, h / ph, w / pw);
    x.to_dtype(dtype)?
        .reshape(&[c, f, pt, y, ph, z, pw])? // split each axis into grid and patch
        .permute(vec![1, 3, 5, 0, 2, 4, 6])? // (f, y, z, c, kt, kh, kw)
        .reshape((f * y * z, c * pt * ph * pw))
}

/// Reference of [`unpatchify`].
pub fn unpatchify_reference(x: &Tensor, grid: [usize; 3], patch: [usize; 3]) -> Result<Tensor> {
    let ([f, y, z], [pt, ph, pw]) = (grid, patch);
    let c = x.dim(1)? / (pt * ph * pw);
    x.reshape(&[f, y, z, pt, ph, pw, c])?
        .permute(vec![6, 0, 3, 1, 4, 2, 5])? // (c, f, kt, y, kh, z, kw)
        .reshape((c, f * pt, y * ph, z * pw))
}
