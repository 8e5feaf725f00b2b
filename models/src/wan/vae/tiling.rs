//! Decoding in overlapping tiles, for pictures whose caches and intermediates do not fit in memory.
//!
//! Each tile is a stream of its own over the whole clip, so memory above the weights is that of one tile
//! plus the finished pixels of the clip (12 bytes per pixel and frame). The overlaps are blended
//! linearly, with the tile above first, then with the tile to the left.
//!
//! Tiling changes the picture: convolutions see zeros at the edge of a tile, and the attention at the
//! lowest resolution sees one tile instead of the frame.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// Size and distance of the tiles, in pixels of the decoded frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Height and width of a tile.
    pub size: [usize; 2],
    /// Distance between the upper left corners of neighbours; the rest of the tile overlaps.
    pub stride: [usize; 2],
}

impl Default for Tiling {
    /// 256 pixels every 192, the reference's values.
    fn default() -> Self {
        Self {
            size: [256; 2],
            stride: [192; 2],
        }
    }
}

/// A [`Tiling`] in latent cells, and in the cells of the decoder's output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    size: [usize; 2],
    stride: [usize; 2],
    scale: usize,
}

impl Grid {
    /// `scale_latent` pixels make a latent cell, `patch` pixels a cell of the decoder's output.
    pub(super) fn new(tiling: &Tiling, scale_latent: usize, patch: usize) -> Result<Self> {
        let Tiling { size, stride } = *tiling;
        for i in 0..2 {
            let whole =
                size[i].is_multiple_of(scale_latent) && stride[i].is_multiple_of(scale_latent);
            if !whole || stride[i] == 0 || stride[i] > size[i] {
                return Err(Error::caller(
                    "vae_tiling",
                    format!(
                        "tile size and stride must be multiples of {scale_latent} pixels and the \
                         stride at most the size, found size {} and stride {}",
                        size[i], stride[i]
                    ),
                ));
            }
        }
        Ok(Self {
            size: size.map(|pixels| pixels / scale_latent),
            stride: stride.map(|pixels| pixels / scale_latent),
            scale: scale_latent / patch,
        })
    }

    /// Whether a latent frame of this height and width is larger than one tile.
    pub(super) fn splits(&self, height: usize, width: usize) -> bool {
        height > self.size[0] || width > self.size[1]
    }

    /// Decodes `latents` [z, T, h, w] tile by tile. `decode` makes the frames [1, h', w', C] (float32) of
    /// one tile, in order. The result is the frames of the clip.
    pub(super) fn decode(
        &self,
        latents: &Tensor,
        mut decode: impl FnMut(&Tensor, &mut dyn FnMut(Tensor) -> Result<()>) -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        let (_, _, height, width) = latents.dims4()?;
        let keep = self.stride.map(|cells| cells * self.scale);
        let blend = [0, 1].map(|i| (self.size[i] - self.stride[i]) * self.scale);

        let mut rows: Vec<Vec<Tensor>> = Vec::new();
        // Per tile of the row above and for the tile to the left: per frame, the edge that overlaps.
        let mut above: Vec<Vec<Tensor>> = Vec::new();
        for top in (0..height).step_by(self.stride[0]) {
            let band = latents.narrow(2, top, self.size[0].min(height - top))?;
            let mut below = Vec::new();
            let mut left: Vec<Tensor> = Vec::new();
            let mut row: Vec<Vec<Tensor>> = Vec::new();
            for (j, start) in (0..width).step_by(self.stride[1]).enumerate() {
                let tile = band.narrow(3, start, self.size[1].min(width - start))?;
                let (mut bottom, mut right) = (Vec::new(), Vec::new());
                let mut n = 0;
                decode(&tile, &mut |frame| {
                    let frame = blended(above.get(j).and_then(|edges| edges.get(n)), frame, 1)?;
                    let frame = blended(left.get(n), frame, 2)?;
                    bottom.push(last(&frame, 1, blend[0])?);
                    right.push(last(&frame, 2, blend[1])?);
                    let (_, h, w, _) = frame.dims4()?;
                    let kept = frame
                        .narrow(1, 0, keep[0].min(h))?
                        .narrow(2, 0, keep[1].min(w))?;
                    if row.len() == n {
                        row.push(Vec::new());
                    }
                    row[n].push(kept.force_contiguous()?);
                    n += 1;
                    Ok(())
                })?;
                below.push(bottom);
                left = right;
            }
            above = below;
            rows.resize(row.len(), Vec::new());
            for (frame, pieces) in rows.iter_mut().zip(row) {
                // tiles x [1, h', w', C] -> [1, h', W', C]
                frame.push(Tensor::cat(&pieces, 2)?);
            }
        }
        // bands x [1, h', W', C] -> [1, H', W', C]
        rows.into_iter()
            .map(|bands| Ok(Tensor::cat(&bands, 1)?))
            .collect()
    }
}

/// The last `count` rows (`axis` 1) or columns (2) of a frame [1, h, w, C], or all if there are fewer.
fn last(frame: &Tensor, axis: usize, count: usize) -> Result<Tensor> {
    let length = frame.dim(axis)?;
    let count = count.min(length);
    Ok(frame
        .narrow(axis, length - count, count)?
        .force_contiguous()?)
}

/// Fades from the end of `edge` into the beginning of `frame` along `axis`; both [1, h, w, C].
fn blended(edge: Option<&Tensor>, frame: Tensor, axis: usize) -> Result<Tensor> {
    let Some(edge) = edge else { return Ok(frame) };
    let (held, length) = (edge.dim(axis)?, frame.dim(axis)?);
    let extent = held.min(length);
    if extent == 0 {
        return Ok(frame);
    }
    let ramp = |of: fn(f64) -> f64| {
        let values = (0..extent).map(|i| of(i as f64 / extent as f64) as f32);
        // [extent] -> [1, extent, 1, 1] or [1, 1, extent, 1]
        let mut shape = [1; 4];
        shape[axis] = extent;
        Tensor::from_iter(values, &Device::Cpu)?
            .reshape(&shape)?
            .to_device(frame.device())
    };
    let before = edge
        .narrow(axis, held - extent, extent)?
        .broadcast_mul(&ramp(|r| 1.0 - r)?)?;
    let after = frame
        .narrow(axis, 0, extent)?
        .broadcast_mul(&ramp(|r| r)?)?;
    let rest = frame.narrow(axis, extent, length - extent)?;
    Ok(Tensor::cat(&[&(before + after)?, &rest], axis)?)
}
