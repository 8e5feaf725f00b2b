//! Our own fused attention kernels, `cuda/attention.cu`: which one serves, and its launch.

use candle_core::{DType, Result, Tensor};

use crate::device::{Call, Grid, Target, suffix};

/// Widest head of the kernels.
pub(super) const WIDEST: usize = 128;
/// First compute capability with bf16 products and asynchronous copies.
const TENSOR_CORES: (i32, i32) = (8, 0);
/// What the tensor-core kernels load at once.
const ALIGNMENT_BYTES: usize = 16;

/// One instantiation of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// On tensor cores, for heads of up to `width` and `keys` per tile.
    Mma { width: usize, keys: usize },
    /// In f32 arithmetic, for everything up to [`WIDEST`].
    Plain,
}

impl Variant {
    /// The kernel for a card of this compute capability; none for heads that are too wide.
    pub(super) fn new(capability: (i32, i32), dtype: DType, width: usize) -> Option<Self> {
        if width == 0 || width > WIDEST {
            return None;
        }
        if !matches!(dtype, DType::BF16 | DType::F16)
            || !width.is_multiple_of(8)
            || capability < TENSOR_CORES
        {
            return Some(Self::Plain);
        }
        if width <= 64 {
            return Some(Self::Mma {
                width: 64,
                keys: 64,
            });
        }
        // Two blocks per processor in 100 KB of shared memory (8.6, 8.9, 12.x) need small tiles, and in
        // f16 the registers do.
        let large = matches!(capability, (8, 0 | 7) | (9..=11, _));
        let keys = if large && dtype == DType::BF16 {
            64
        } else {
            32
        };
        Some(Self::Mma { width: 128, keys })
    }

    fn kernel(self, dtype: DType) -> Result<String> {
        let suffix = suffix(dtype)?;
        Ok(match self {
            Self::Mma { width, keys } => format!("attention_mma_d{width}_k{keys}_{suffix}"),
            Self::Plain => format!("attention_plain_{suffix}"),
        })
    }

    /// Queries per block.
    fn queries(self) -> usize {
        match self {
            Self::Mma { .. } => 128,
            Self::Plain => 64,
        }
    }

    fn threads(self) -> u32 {
        match self {
            Self::Mma { .. } => 128,
            Self::Plain => 256,
        }
    }

    /// Dynamic shared memory of a block.
    pub(super) fn shared_bytes(self) -> usize {
        match self {
            // Q, K and V.
            Self::Mma { width, keys } => (self.queries() + 2 * keys) * width * 2,
            // Q, K or V, weights, rows 16 bytes longer than they need to be.
            Self::Plain => ((64 + 32) * (WIDEST + 4) + 64 * (32 + 4)) * size_of::<f32>(),
        }
    }
}

/// Attention of `q` [B, Lq, N, D] over `k`, `v` [B, Lk, N, D], of one dtype and not empty; `scale` > 0.
pub(super) fn attention(
    target: &Target,
    variant: Variant,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    let (batch, queries, heads, width) = q.dims4()?;
    let keys = k.dim(1)?;
    let dtype = q.dtype();
    let aligned = matches!(variant, Variant::Mma { .. });
    let [q, k, v] = [q, k, v].map(|x| readable(target, x, aligned));
    let (q, k, v) = (q?, k?, v?);
    let mut call = Call::named(target, "attention", variant.kernel(dtype)?);
    call.strided(&q)?.strided(&k)?.strided(&v)?;
    let out = call.output(&[batch, queries, heads, width], dtype)?;
    call.i32(queries)?.i32(keys)?.i32(width)?;
    for x in [&q, &k, &v] {
        let stride = x.stride();
        call.i64(stride[0]).i64(stride[1]).i64(stride[2]);
    }
    call.f32(scale);
    let grid = Grid::new(queries.div_ceil(variant.queries()), heads, batch);
    call.launch(grid, variant.threads(), variant.shared_bytes())?;
    Ok(out)
}

/// `x` [B, L, N, D] itself if the kernel can read it in place, else a copy.
fn readable(target: &Target, x: &Tensor, aligned: bool) -> Result<Tensor> {
    let (stride, dims) = (x.stride(), x.dims());
    let lanes = ALIGNMENT_BYTES / x.dtype().size_in_bytes();
    let whole = || {
        let steps = (0..3).all(|axis| dims[axis] == 1 || stride[axis].is_multiple_of(lanes));
        steps
            && target
                .address(x)
                .is_ok_and(|address| address.is_multiple_of(ALIGNMENT_BYTES as u64))
    };
    if (stride[3] == 1 || dims[3] == 1) && (!aligned || whole()) {
        Ok(x.clone())
    } else {
        x.force_contiguous()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_kernel_fits_card_type_and_width() {
        let mma = |width, keys| Some(Variant::Mma { width, keys });
        let (bf16, f16) = (DType::BF16, DType::F16);
        for (capability, dtype, width, expected) in [
            ((9, 0), bf16, 128, mma(128, 64)),
            ((8, 0), bf16, 128, mma(128, 64)),
            ((10, 0), bf16, 104, mma(128, 64)),
            ((8, 6), bf16, 128, mma(128, 32)),
            ((8, 9), bf16, 72, mma(128, 32)),
            ((12, 0), bf16, 128, mma(128, 32)),
            ((9, 0), f16, 128, mma(128, 32)),
            ((8, 9), f16, 64, mma(64, 64)),
            ((9, 0), bf16, 8, mma(64, 64)),
            ((9, 0), bf16, 12, Some(Variant::Plain)),
            ((7, 5), bf16, 128, Some(Variant::Plain)),
            ((9, 0), DType::F32, 128, Some(Variant::Plain)),
            ((9, 0), bf16, 136, None),
            ((9, 0), DType::F32, 384, None),
            ((9, 0), bf16, 0, None),
        ] {
            let found = Variant::new(capability, dtype, width);
            assert_eq!(found, expected, "{capability:?} {dtype:?} {width}");
        }
    }

    #[test]
    fn two_blocks_fit_into_the_shared_memory_of_their_cards() {
        // Per processor, and what each block takes beside its own.
        for (capability, bytes) in [
            ((8, 0), 164 << 10),
            ((8, 9), 100 << 10),
            ((9, 0), 228 << 10),
        ] {
            for dtype in [DType::BF16, DType::F16] {
                let variant = Variant::new(capability, dtype, 128).unwrap();
                assert!(
                    2 * (variant.shared_bytes() + 1024) <= bytes,
                    "{capability:?}"
                );
            }
        }
    }
}
