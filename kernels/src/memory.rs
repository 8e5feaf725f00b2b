//! Bytes that the CPU paths hold and need in passing, by formula: what memory plans count with.
//!
//! Beside its result a CPU path needs:
//! - a weight held in panels: rows rounded up to whole panels, in the weight's own type; a convolution
//!   over a doubled input holds four sets of summed weights in f32 instead ([`conv3d_weight`]);
//! - one block of scratch memory per thread, which the thread keeps ([`gemm_scratch`],
//!   [`attention_scratch`]);
//! - for attention the packed keys and values of the heads in turn ([`attention_packed`]).
//!
//! Layers on other devices hold their weights as they are; see the memory plan for their workspaces.

use crate::conv3d::{Conv3dConfig, Geometry};
use crate::doubled::Doubled;
use crate::flash::{PACKED_BYTES, QUERIES};
use crate::gemm::{KC, LDA, block_rows, panel_width};
use crate::isa::Isa;

/// Bytes of an element of f32.
const F32: usize = size_of::<f32>();
/// Start of an aligned buffer may be moved by up to a cache line.
const LINE: usize = 64;

/// A weight `[rows, columns]` of [`crate::Linear`], its elements of `element` bytes; bias not included.
pub fn linear_weight(rows: usize, columns: usize, element: usize) -> usize {
    let panel = panel_width(Isa::current());
    rows.div_ceil(panel) * panel * columns * element + LINE
}

/// A weight `[C', C, kt, kh, kw]` of [`crate::Conv3d`]; bias not included.
pub fn conv3d_weight(shape: [usize; 5], cfg: Conv3dConfig, element: usize) -> usize {
    let [cout, cin, kt, kh, kw] = shape;
    if is_doubled(shape, cfg) {
        4 * linear_weight(cout, cin * kt * 4, F32)
    } else {
        linear_weight(cout, cin * kt * kh * kw, element)
    }
}

/// Whether such a convolution is taken apart into four smaller ones, each of which makes a quarter of the
/// result apart before it is spread out.
pub fn is_doubled(shape: [usize; 5], cfg: Conv3dConfig) -> bool {
    let [cout, cin, kt, kh, kw] = shape;
    let geometry = Geometry {
        cout,
        cin,
        kernel: [kt, kh, kw],
    };
    Doubled::applies(geometry, cfg)
}

/// Scratch of each thread for a product with `rows` rows.
pub fn gemm_scratch(rows: usize) -> usize {
    block_rows(rows).min(rows) * LDA * F32 + LINE
}

/// Scratch of each thread for attention with `queries` queries of heads `width` wide.
pub fn attention_scratch(queries: usize, width: usize) -> usize {
    let rows = queries.div_ceil(queries.div_ceil(QUERIES).max(1));
    (rows * LDA * (width.div_ceil(KC) + 1) + rows * width) * F32 + LINE
}

/// Keys and values in panels, of as many of `heads` heads (all batches together) as are done in one turn
/// by `threads` threads.
pub fn attention_packed(keys: usize, heads: usize, width: usize, threads: usize) -> usize {
    let panel = panel_width(Isa::current());
    let fitting = PACKED_BYTES / (2 * F32 * keys * width).max(1);
    let turn = fitting.max(threads).min(heads);
    let head = keys.div_ceil(panel) * panel * width + width.div_ceil(panel) * panel * keys;
    turn * (head * F32 + 2 * LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_weight_is_rounded_up_to_panels() {
        let panel = panel_width(Isa::current());
        assert_eq!(linear_weight(panel, 10, 2), panel * 20 + LINE);
        assert_eq!(linear_weight(panel + 1, 10, 4), 2 * panel * 40 + LINE);
    }

    #[test]
    fn a_doubled_convolution_is_held_in_f32() {
        let cfg = Conv3dConfig {
            pad: [1; 4],
            upsample2x: true,
            ..Conv3dConfig::default()
        };
        let held = conv3d_weight([64, 32, 1, 3, 3], cfg, 2);
        assert_eq!(held, 4 * (64 * 32 * 4 * 4 + LINE));
        assert!(conv3d_weight([64, 32, 1, 3, 3], Conv3dConfig::default(), 2) < held);
    }

    #[test]
    fn attention_takes_heads_in_turns() {
        // 32,760 keys of 128: 33.5 MB per head, eight of which fit.
        let one = attention_packed(32_760, 1, 128, 2);
        assert!(one > 33_500_000 && one < 33_700_000);
        assert_eq!(attention_packed(32_760, 40, 128, 2) / one, 8);
        assert_eq!(attention_packed(32_760, 40, 128, 16) / one, 16);
    }
}
