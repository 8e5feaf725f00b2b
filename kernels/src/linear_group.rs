//! Linear layers that share their input, such as the projections to query, key and value.
//!
//! x [.., in]; layer i has W_i [out_i, in] and b_i [out_i] and gives [.., out_i].
//!
//! On an accelerator the weights stand one below the other, [sum of out, in], and one product computes
//! all of them: x is read once and the product is wide enough to fill the card. The results are column
//! ranges of one tensor: their rows are sum of out apart, their last axis is contiguous. On the CPU every
//! layer is a product of its own, since there nothing is gained and contiguous results are easier on the
//! caches; inside the host shim the results are laid out as on an accelerator, so that what
//! follows meets the strides it gets there.

use candle_core::{D, Result, Tensor, bail};

use crate::{Linear, device};

/// Linear layers over one input, see the module.
#[derive(Debug, Clone)]
pub struct LinearGroup {
    layers: Layers,
    widths: Vec<usize>,
    in_features: usize,
}

#[derive(Debug, Clone)]
enum Layers {
    /// One layer for all.
    Joined(Linear),
    /// As they came.
    Apart(Vec<Linear>),
}

impl LinearGroup {
    /// Of layers with one width of input. On an accelerator their weights are copied side by side, so hand
    /// over the only references if the memory matters; layers that cannot be joined (another type of
    /// weight, a bias here and none there) stay apart. Errors if there are none or the widths differ.
    pub fn new(layers: Vec<Linear>) -> Result<Self> {
        let Some(first) = layers.first() else {
            bail!("linear group: at least one layer is needed");
        };
        let in_features = first.in_features();
        if let Some(other) = layers.iter().find(|l| l.in_features() != in_features) {
            bail!(
                "linear group: all layers must have one width of input, found {in_features} and {}",
                other.in_features()
            );
        }
        let widths = layers.iter().map(Linear::out_features).collect();
        let layers = match Linear::join(&layers)? {
            Some(joined) => Layers::Joined(joined),
            None => Layers::Apart(layers),
        };
        Ok(Self {
            layers,
            widths,
            in_features,
        })
    }

    /// `x W_i^T + b_i` of every layer for `x` [.., in]: [.., out_i] each, in the dtype of `x`. On an
    /// accelerator only the last axis is contiguous.
    pub fn forward(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        match self.together(x)? {
            Parts::Whole(whole) => ranges(&whole, D::Minus1, &self.widths),
            Parts::Each(parts) => Ok(parts),
        }
    }

    /// As [`Self::forward`], every result cut into heads of `head_dim`: [.., out_i / head_dim, head_dim],
    /// without a copy. Errors unless all widths are multiples of it.
    pub fn forward_heads(&self, x: &Tensor, head_dim: usize) -> Result<Vec<Tensor>> {
        if head_dim == 0 || self.widths.iter().any(|width| width % head_dim != 0) {
            bail!(
                "linear group: widths {:?} are not multiples of the head's {head_dim}",
                self.widths
            );
        }
        // [.., out] -> [.., out / head_dim, head_dim]
        let heads = |y: &Tensor| {
            let mut shape = y.dims().to_vec();
            let width = shape.pop().unwrap_or_default();
            shape.extend([width / head_dim, head_dim]);
            y.reshape(shape)
        };
        match self.together(x)? {
            Parts::Whole(whole) => {
                let counts: Vec<_> = self.widths.iter().map(|width| width / head_dim).collect();
                ranges(&heads(&whole)?, D::Minus2, &counts)
            }
            Parts::Each(parts) => parts.iter().map(heads).collect(),
        }
    }

    /// Width of the input.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Widths of the results.
    pub fn out_features(&self) -> &[usize] {
        &self.widths
    }

    fn together(&self, x: &Tensor) -> Result<Parts> {
        match &self.layers {
            Layers::Joined(layer) => Ok(Parts::Whole(layer.forward(x)?)),
            Layers::Apart(layers) => {
                let parts = layers
                    .iter()
                    .map(|layer| layer.forward(x))
                    .collect::<Result<Vec<_>>>()?;
                if x.device().is_cpu() && device::target(x).is_some() {
                    return Ok(Parts::Whole(Tensor::cat(&parts, D::Minus1)?));
                }
                Ok(Parts::Each(parts))
            }
        }
    }
}

/// Results as one contiguous tensor [.., sum of out] or one by one.
enum Parts {
    Whole(Tensor),
    Each(Vec<Tensor>),
}

/// Consecutive ranges of an axis, without a copy.
fn ranges(whole: &Tensor, axis: D, lengths: &[usize]) -> Result<Vec<Tensor>> {
    let mut start = 0;
    lengths
        .iter()
        .map(|&length| {
            let part = whole.narrow(axis, start, length)?;
            start += length;
            Ok(part)
        })
        .collect()
}
