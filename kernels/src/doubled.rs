//! Convolution 3x3 (in H and W, padding 1) of an input doubled by nearest neighbour, in 4/9 of the
//! work.
//!
//! Each result pixel (2i + p, 2j + q) sees only 2x2 input pixels, because two of three taps in a
//! row fall on the same one. So the four phases (p, q) are four 2x2 convolutions of the input as it
//! is, with summed weights: along one axis phase 0 has (w0, w1 + w2) at (i - 1, i), phase 1 has (w0
//! + w1, w2) at (i, i + 1).

use crate::conv3d::{Conv3dConfig, Geometry, column};
use crate::data::Shared;
use crate::gather::Windows;
use crate::gemm::{Finish, Packed, gemm};
use crate::pages::vec_with_room;
use crate::simd::Element;
use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

/// The four convolutions, phase (p, q) at 2p + q.
#[derive(Debug)]
pub(crate) struct Doubled {
    phases: Vec<Packed>,
}

impl Doubled {
    /// Whether a convolution can be taken apart like this.
    pub(crate) fn applies(geometry: Geometry, cfg: Conv3dConfig) -> bool {
        let [_, kh, kw] = geometry.kernel;
        let [_, sh, sw] = cfg.stride;
        cfg.upsample2x && [kh, kw] == [3, 3] && [sh, sw] == [1, 1] && cfg.pad == [1; 4]
    }

    /// From the weight [C', C, kt, 3, 3]; the sums are kept in f32.
    pub(crate) fn new(weight: &Tensor, geometry: Geometry) -> Result<Self> {
        let weight = weight.to_dtype(DType::F32)?;
        let taps = geometry.kernel[0] * 4;
        let mut phases = Vec::new();
        for p in 0..2 {
            let rows = merge(&weight, 3, p)?;
            for q in 0..2 {
                let small = merge(&rows, 4, q)?.contiguous()?;
                phases.push(Packed::new(
                    &small,
                    geometry.cout,
                    column(geometry.cin, taps),
                )?);
            }
        }
        Ok(Self { phases })
    }

    /// The result [T', 2H, 2W, C'] of the convolution described by `windows`, plus bias and
    /// residual.
    pub(crate) fn forward<T: Element>(
        &self,
        windows: &Windows<'_, T>,
        finish: &Finish<'_>,
    ) -> Vec<f32> {
        let Geometry { cout, kernel, .. } = windows.geometry;
        let [frames, out_h, out_w] = windows.out;
        let [h, w] = windows.size;
        let len = frames * out_h * out_w * cout;
        let mut out: Vec<f32> = vec_with_room(len);
        let shared = Shared::new(out.as_mut_ptr());
        for (index, packed) in self.phases.iter().enumerate() {
            let (p, q) = (index / 2, index % 2);
            let cfg = Conv3dConfig {
                // A phase 0 window begins one pixel before its own, a phase 1 window ends one after
                // it.
                pad: [1 - p, p, 1 - q, q],
                upsample2x: false,
                ..windows.cfg
            };
            let geometry = Geometry {
                kernel: [kernel[0], 2, 2],
                ..windows.geometry
            };
            let phase = Windows {
                out: [frames, h, w],
                geometry,
                cfg,
                ..*windows
            };
            let part = gemm(
                &phase,
                packed,
                &Finish {
                    residual: None,
                    ..*finish
                },
            );
            // [T', H, W, C'] -> every other row and column of [T', 2H, 2W, C']
            part.par_chunks(w * cout)
                .enumerate()
                .for_each(|(line, values)| {
                    let (t, i) = (line / h, line % h);
                    for (j, pixel) in values.chunks(cout).enumerate() {
                        let at = ((t * out_h + 2 * i + p) * out_w + 2 * j + q) * cout;
                        // SAFETY: pixel (t, 2i + p, 2j + q) lies within the result and belongs to
                        // this line alone.
                        let target = unsafe { std::slice::from_raw_parts_mut(shared.at(at), cout) };
                        match finish.residual {
                            None => target.copy_from_slice(pixel),
                            Some(residual) => {
                                for ((y, x), r) in target.iter_mut().zip(pixel).zip(&residual[at..])
                                {
                                    *y = x + r;
                                }
                            }
                        }
                    }
                });
        }
        // SAFETY: the four phases cover all pixels.
        unsafe { out.set_len(len) };
        out
    }
}

/// Three taps along `axis` made two, for one phase.
pub(crate) fn merge(weight: &Tensor, axis: usize, phase: usize) -> Result<Tensor> {
    let tap = |i| weight.narrow(axis, i, 1);
    if phase == 0 {
        Tensor::cat(&[tap(0)?, (tap(1)? + tap(2)?)?], axis)
    } else {
        Tensor::cat(&[(tap(0)? + tap(1)?)?, tap(2)?], axis)
    }
}
