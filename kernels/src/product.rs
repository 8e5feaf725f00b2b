//! How a matrix product `y = x W^T` is put to cuBLASLt: every decision, none of the calls
//! (`cublaslt.rs`).
//!
//! x [M, K] with rows `x_stride` apart, W [N, K], y [M, N] with rows `y_stride` apart, all row-major. The
//! library counts in columns, so it is told of the transposes, which lie in memory the same way: W as
//! K x N and transposed, x as K x M, y as N x M; the bias then runs along y's columns, as its epilogue
//! wants, and both operands have K innermost, the only order that 8-bit products have.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Result, Tensor, bail};

use crate::Activation;

/// Most elements that an operand of one call may span: the library's kernels index with 32 bits.
const SPAN: usize = 1 << 31;
/// Calls of a chunked product begin at multiples of this, a tile of every kernel.
const TILE: usize = 256;
/// Alignment that tells the library no more.
const FULL_ALIGNMENT: u32 = 256;
/// 8-bit operands: K and N are multiples of this.
const E4M3_MULTIPLE: usize = 16;
/// First library version with a scale per row and column.
const OUTER_VECTORS_SINCE: usize = 120_900;

static TF32: AtomicBool = AtomicBool::new(false);

/// Whether products of f32 on a card may round their operands to TF32 (10 bits of mantissa instead of
/// 23). Off at the start; holds for the whole process.
pub fn allow_tf32(allow: bool) {
    TF32.store(allow, Ordering::Relaxed);
}

/// An element type of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Element {
    F32,
    Bf16,
    F16,
    E4m3,
}

impl Element {
    pub(crate) fn of(dtype: DType) -> Result<Self> {
        Ok(match dtype {
            DType::F32 => Self::F32,
            DType::BF16 => Self::Bf16,
            DType::F16 => Self::F16,
            DType::U8 | DType::F8E4M3 => Self::E4m3,
            other => bail!("no matrix product for {other:?}"),
        })
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::E4m3 => 1,
        }
    }
}

/// What happens to a sum before it is rounded and stored. The library's GELU is the tanh form: PyTorch
/// follows its epilogue with `gelu(.., "tanh")` where the epilogue is not to be had (aten, Blas.cpp), XLA
/// uses it for the approximate GELU only (openxla/xla pull request 7751).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Epilogue {
    None,
    Bias,
    Gelu,
    GeluBias,
}

impl Epilogue {
    /// What may be asked of the library for a layer with or without bias, the most first, each with what
    /// is left to do: whether the bias, and which activation.
    pub(crate) fn choices(bias: bool, act: Activation) -> Vec<(Self, bool, Activation)> {
        let none = (Self::None, bias, act);
        match (bias, act) {
            (false, Activation::GeluTanh) => vec![(Self::Gelu, false, Activation::None), none],
            (true, Activation::GeluTanh) => vec![
                (Self::GeluBias, false, Activation::None),
                (Self::Bias, false, act),
                none,
            ],
            (true, _) => vec![(Self::Bias, false, act), none],
            (false, _) => vec![none],
        }
    }

    pub(crate) fn has_bias(self) -> bool {
        matches!(self, Self::Bias | Self::GeluBias)
    }
}

/// How the sums of 8-bit operands are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scales {
    /// They are not.
    None,
    /// One factor for W, one for x.
    Scalars,
    /// One factor per row of W and per row of x.
    OuterVectors,
}

/// One product, up to its addresses: the key of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Problem {
    pub(crate) rows: usize,
    pub(crate) inner: usize,
    pub(crate) columns: usize,
    pub(crate) x_stride: usize,
    pub(crate) y_stride: usize,
    pub(crate) operands: Element,
    pub(crate) result: Element,
    pub(crate) epilogue: Epilogue,
    pub(crate) scales: Scales,
    /// Of the addresses of W, x, y in bytes.
    pub(crate) alignments: [u32; 3],
    pub(crate) tf32: bool,
}

/// A matrix as the library counts it: rows, columns, elements from column to column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) leading: usize,
}

impl Problem {
    /// Contiguous operands of one type, aligned as an allocation is.
    pub(crate) fn new(rows: usize, inner: usize, columns: usize, operands: Element) -> Self {
        Self {
            rows,
            inner,
            columns,
            x_stride: inner,
            y_stride: columns,
            operands,
            result: operands,
            epilogue: Epilogue::None,
            scales: Scales::None,
            alignments: [FULL_ALIGNMENT; 3],
            tf32: operands == Element::F32 && TF32.load(Ordering::Relaxed),
        }
    }

    /// W, x and y. The first is to be transposed.
    pub(crate) fn matrices(&self) -> [Matrix; 3] {
        let matrix = |rows, columns, leading| Matrix {
            rows,
            columns,
            leading,
        };
        [
            matrix(self.inner, self.columns, self.inner),
            matrix(self.inner, self.rows, self.x_stride),
            matrix(self.columns, self.rows, self.y_stride),
        ]
    }

    /// Rows that one call may take, so that no operand spans more than the library's kernels can index.
    pub(crate) fn rows_per_call(&self) -> usize {
        let most = (SPAN - 1) / self.x_stride.max(self.y_stride).max(1);
        if self.rows <= most {
            self.rows
        } else {
            (most / TILE * TILE).max(1)
        }
    }
}

/// What an address is a multiple of, as far as it matters.
pub(crate) fn alignment(address: usize) -> u32 {
    1 << address
        .trailing_zeros()
        .min(FULL_ALIGNMENT.trailing_zeros())
}

/// Rows of `x` [.., K] and the elements from one to the next, if they lie at equal distances and are
/// contiguous inside: no copy is needed then.
pub(crate) fn rows_of(x: &Tensor) -> Option<(usize, usize)> {
    let (dims, strides) = (x.dims(), x.stride());
    let (&inner, leading) = dims.split_last()?;
    let (&step, strides) = strides.split_last()?;
    if inner > 1 && step != 1 {
        return None;
    }
    let mut rows = 1;
    // Axes of one element have no distance.
    let mut stride = None;
    for (&dim, &step) in leading.iter().zip(strides).rev() {
        if dim == 1 {
            continue;
        }
        match stride {
            None => stride = Some(step),
            Some(stride) if step == stride * rows => {}
            Some(_) => return None,
        }
        rows *= dim;
    }
    let stride = stride.unwrap_or(inner);
    // Rows that overlap (an expanded axis) have no leading dimension.
    (stride >= inner).then_some((rows, stride))
}

/// How a layer with a weight in e4m3 is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Path8 {
    /// 8-bit product; the library scales.
    Library(Scales),
    /// 8-bit product with plain sums in f32; a kernel scales.
    ScaleAfter,
    /// The weight is made wide, x stays as it is; why.
    Wide(&'static str),
}

/// What decides about an 8-bit product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts8 {
    /// Of the card; `None` in the host shim, whose product takes anything.
    pub(crate) capability: Option<(i32, i32)>,
    /// Of the library.
    pub(crate) version: usize,
    pub(crate) inner: usize,
    pub(crate) columns: usize,
    pub(crate) weight_only: bool,
    /// One scale for the whole weight.
    pub(crate) scalar_weight: bool,
    /// One scale for all of x, known before.
    pub(crate) scalar_x: bool,
    /// Of the result: sums that stay f32 gain nothing from the library's scaling.
    pub(crate) result: Element,
}

impl Path8 {
    pub(crate) fn choose(facts: &Facts8) -> Self {
        if facts.weight_only {
            return Self::Wide("the checkpoint asks for it");
        }
        if !facts.inner.is_multiple_of(E4M3_MULTIPLE)
            || !facts.columns.is_multiple_of(E4M3_MULTIPLE)
        {
            return Self::Wide("8-bit products need widths that are multiples of 16");
        }
        let Some(capability) = facts.capability else {
            return Self::ScaleAfter;
        };
        if capability < (8, 9) {
            return Self::Wide("the card has no 8-bit products (compute capability 8.9 has them)");
        }
        if facts.result == Element::F32 {
            Self::ScaleAfter
        } else if facts.scalar_weight && facts.scalar_x {
            Self::Library(Scales::Scalars)
        } else if capability == (9, 0) && facts.version >= OUTER_VECTORS_SINCE {
            Self::Library(Scales::OuterVectors)
        } else {
            Self::ScaleAfter
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn matrices_are_the_transposes() {
        let problem = Problem {
            x_stride: 96,
            y_stride: 70,
            ..Problem::new(10, 32, 64, Element::Bf16)
        };
        let [w, x, y] = problem.matrices();
        let of = |m: Matrix| (m.rows, m.columns, m.leading);
        assert_eq!(of(w), (32, 64, 32));
        assert_eq!(of(x), (32, 10, 96));
        assert_eq!(of(y), (64, 10, 70));
    }

    #[test]
    fn what_the_library_does_not_do_is_left_over() {
        use Activation::{GeluTanh, Silu};
        let first = |bias, act| Epilogue::choices(bias, act)[0];
        assert_eq!(
            first(true, GeluTanh),
            (Epilogue::GeluBias, false, Activation::None)
        );
        assert_eq!(
            first(false, GeluTanh),
            (Epilogue::Gelu, false, Activation::None)
        );
        assert_eq!(first(true, Silu), (Epilogue::Bias, false, Silu));
        assert_eq!(first(false, Silu), (Epilogue::None, false, Silu));
        // The last resort does nothing itself and forgets nothing.
        for bias in [false, true] {
            for act in [Activation::None, GeluTanh, Silu] {
                let choices = Epilogue::choices(bias, act);
                assert_eq!(choices.last(), Some(&(Epilogue::None, bias, act)));
                for (epilogue, left, _) in choices {
                    assert_eq!(epilogue.has_bias() || left, bias);
                }
            }
        }
    }

    #[test]
    fn long_inputs_are_cut_where_tiles_begin() {
        let rows = |rows, inner, columns| {
            Problem::new(rows, inner, columns, Element::Bf16).rows_per_call()
        };
        assert_eq!(rows(75_600, 5120, 13_824), 75_600);
        let cut = rows(1 << 20, 5120, 15_360);
        assert_eq!(cut % TILE, 0);
        assert!(cut * 15_360 < SPAN && (cut + TILE) * 15_360 >= SPAN);
        assert_eq!(rows(3, 1, (1 << 31) - 1), 1);
    }

    #[test]
    fn alignment_is_the_largest_power_of_two() {
        for (address, want) in [
            (0x1000, 256),
            (0x1100, 256),
            (0x1080, 128),
            (0x1010, 16),
            (0x1002, 2),
        ] {
            assert_eq!(alignment(address), want);
        }
    }

    #[test]
    fn rows_at_equal_distances_need_no_copy() -> Result<()> {
        let x = Tensor::zeros((4, 6, 30), DType::F32, &Device::Cpu)?;
        assert_eq!(rows_of(&x), Some((24, 30)));
        assert_eq!(rows_of(&x.narrow(2, 10, 10)?), Some((24, 30)));
        assert_eq!(rows_of(&x.narrow(1, 2, 3)?), None);
        assert_eq!(rows_of(&x.narrow(1, 2, 1)?), Some((4, 180)));
        assert_eq!(rows_of(&x.narrow(0, 1, 1)?.narrow(1, 0, 1)?), Some((1, 30)));
        assert_eq!(rows_of(&x.transpose(1, 2)?), None);
        assert_eq!(rows_of(&x.transpose(0, 1)?), None);
        let row = Tensor::zeros((1, 30), DType::F32, &Device::Cpu)?;
        assert_eq!(rows_of(&row.expand((5, 30))?), None);
        Ok(())
    }

    #[test]
    fn the_way_of_an_8_bit_layer() {
        let hopper = Facts8 {
            capability: Some((9, 0)),
            version: 130_100,
            inner: 5120,
            columns: 5120,
            weight_only: false,
            scalar_weight: false,
            scalar_x: false,
            result: Element::Bf16,
        };
        let way = |facts: Facts8| Path8::choose(&facts);
        assert_eq!(way(hopper), Path8::Library(Scales::OuterVectors));
        let old = Facts8 {
            version: 120_800,
            ..hopper
        };
        assert_eq!(way(old), Path8::ScaleAfter);
        let ada = Facts8 {
            capability: Some((8, 9)),
            ..hopper
        };
        assert_eq!(way(ada), Path8::ScaleAfter);
        let scalars = Facts8 {
            scalar_weight: true,
            scalar_x: true,
            ..ada
        };
        assert_eq!(way(scalars), Path8::Library(Scales::Scalars));
        assert_eq!(
            way(Facts8 {
                result: Element::F32,
                ..hopper
            }),
            Path8::ScaleAfter
        );
        for wide in [
            Facts8 {
                capability: Some((8, 6)),
                ..hopper
            },
            Facts8 {
                weight_only: true,
                ..hopper
            },
            Facts8 {
                inner: 5128,
                ..hopper
            },
            Facts8 {
                columns: 8,
                ..hopper
            },
        ] {
            assert!(matches!(way(wide), Path8::Wide(_)), "{wide:?}");
        }
    }
}
