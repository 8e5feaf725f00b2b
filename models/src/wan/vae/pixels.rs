//! Pixels [3, f, H, W] and frames of patches [f, H/p, W/p, 3*p*p], channels last.
//!
//! Within a patch the channel index is `(c*p + column)*p + row`: the column comes before the row.

use candle_core::{Result, Tensor};

/// [3, f, H, W] -> [f, H/p, W/p, 3*p*p]
pub(super) fn patchify(x: &Tensor, p: usize) -> Result<Tensor> {
    let (c, f, height, width) = x.dims4()?;
    let (h, w) = (height / p, width / p);
    // [c, f, h, row, w, column] -> [f, h, w, c, column, row] -> [f, h, w, c*p*p]
    let x = x.reshape((c, f, h, p, w, p))?.permute((1, 2, 4, 0, 5, 3))?;
    x.reshape((f, h, w, c * p * p))
}

/// [f, h, w, 3*p*p] -> [3, f, h*p, w*p]
pub(super) fn unpatchify(x: &Tensor, p: usize) -> Result<Tensor> {
    let (f, h, w, channels) = x.dims4()?;
    let c = channels / (p * p);
    // [f, h, w, c, column, row] -> [c, f, h, row, w, column] -> [c, f, h*p, w*p]
    let x = x.reshape((f, h, w, c, p, p))?.permute((3, 0, 1, 5, 2, 4))?;
    x.reshape((c, f, h * p, w * p))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use super::*;
    use candle_core::Device;

    #[test]
    fn columns_come_before_rows_in_a_patch() {
        // Value 100*c + 10*y + x at pixel (y, x).
        let values = (0..3 * 4 * 6).map(|i| (100 * (i / 24) + 10 * (i / 6 % 4) + i % 6) as f32);
        let x = Tensor::from_iter(values, &Device::Cpu)
            .unwrap()
            .reshape((3, 1, 4, 6))
            .unwrap();
        let patches = patchify(&x, 2).unwrap();
        assert_eq!(patches.dims(), [1, 2, 3, 12]);
        let found = patches
            .get(0)
            .unwrap()
            .get(1)
            .unwrap()
            .get(2)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        // Patch in row 1, column 2: pixels (2..4, 4..6).
        assert_eq!(found[..4], [24.0, 34.0, 25.0, 35.0]);
        assert_eq!(found[8..], [224.0, 234.0, 225.0, 235.0]);
        let back = unpatchify(&patches, 2).unwrap();
        assert_eq!(
            back.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            x.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        );
    }
}
