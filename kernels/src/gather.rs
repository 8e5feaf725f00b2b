//! The left-hand side of a convolution as a matrix product, gathered piecewise and never stored
//! whole: row = output pixel (t, i, j), column = (dt, di, dj, c).

use crate::conv3d::{Conv3dConfig, Geometry};
use crate::gemm::{LDA, Source};
use crate::simd::Element;

/// The windows of a convolution over `x` [T, H, W, C] with `history` [h, H, W, C] in front of it.
pub(crate) struct Windows<'a, T> {
    pub(crate) x: &'a [T],
    /// The frames right before `x`, empty if none.
    pub(crate) history: &'a [T],
    /// H, W of `x`.
    pub(crate) size: [usize; 2],
    /// T', H', W'.
    pub(crate) out: [usize; 3],
    pub(crate) geometry: Geometry,
    pub(crate) cfg: Conv3dConfig,
}

impl<T: Element> Windows<'_, T> {
    /// Frame `index` of the sequence padded in front; `None` where it is zero.
    fn frame(&self, index: usize) -> Option<&[T]> {
        let len = self.size[0] * self.size[1] * self.geometry.cin;
        let given = self.history.len() / len;
        if index >= self.cfg.pad_front {
            self.x.get((index - self.cfg.pad_front) * len..)?.get(..len)
        } else {
            let index = (index + given).checked_sub(self.cfg.pad_front)?;
            Some(&self.history[index * len..][..len])
        }
    }

    /// Where position `p` of the padded axis lies in the stored one; `None` in the padding.
    fn source(&self, p: usize, pad: usize, len: usize) -> Option<usize> {
        let p = p.checked_sub(pad)?;
        let p = if self.cfg.upsample2x { p / 2 } else { p };
        (p < len).then_some(p)
    }
}

impl<T: Element> Source for Windows<'_, T> {
    fn rows(&self) -> usize {
        self.out.iter().product()
    }

    fn fill(&self, row0: usize, rows: usize, k0: usize, depth: usize, dst: &mut [f32]) {
        let Geometry {
            cin,
            kernel: [_, kh, kw],
            ..
        } = self.geometry;
        let [st, sh, sw] = self.cfg.stride;
        let [top, _, left, _] = self.cfg.pad;
        let [h, w] = self.size;
        let [_, out_h, out_w] = self.out;
        // The columns asked for cut into runs of channels of one tap (dt, di, dj).
        let mut k = k0;
        while k < k0 + depth {
            let (tap, c) = (k / cin, k % cin);
            let run = (cin - c).min(k0 + depth - k);
            let (dt, di, dj) = (tap / (kh * kw), tap / kw % kh, tap % kw);
            let mut j = row0 % out_w;
            let mut i = row0 / out_w % out_h;
            let mut t = row0 / (out_w * out_h);
            let mut row = 0;
            // The rows asked for cut into output lines.
            while row < rows {
                let count = (out_w - j).min(rows - row);
                let line = self.source(i * sh + di, top, h).and_then(|y| {
                    self.frame(t * st + dt)
                        .map(|frame| &frame[y * w * cin..][..w * cin])
                });
                for (step, dst) in dst[row * LDA..].chunks_mut(LDA).take(count).enumerate() {
                    let dst = &mut dst[k - k0..][..run];
                    let x = self.source((j + step) * sw + dj, left, w);
                    match (line, x) {
                        (Some(line), Some(x)) => T::widen(&line[x * cin + c..][..run], dst),
                        _ => dst.fill(0.0),
                    }
                }
                row += count;
                j = 0;
                i += 1;
                if i == out_h {
                    (i, t) = (0, t + 1);
                }
            }
            k += run;
        }
    }
}
