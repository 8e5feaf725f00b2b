//! Keys and values of the tokens read so far.
//!
//! One buffer per layer for keys and one for values, `[capacity, G, D]`, of exactly as many positions as the
//! caller will need: at 8B's sizes a position takes 147 456 bytes in bf16, so room for the longest sequence
//! (262 144) would be 36 GiB. Nothing grows: what does not fit is an error. Cutting back keeps the buffers.

use candle_core::{DType, Device, Tensor, bail};

use super::config::TextConfig;
use crate::error::{Context, Error, Result};

/// Keys and values of all layers.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    capacity: usize,
    len: usize,
}

impl KvCache {
    /// Room for `capacity` positions.
    ///
    /// # Errors
    /// [`Error::Caller`] when the model does not take as many, or none are asked for; [`Error::Tensor`] when
    /// there is no memory for them.
    pub fn new(
        config: &TextConfig,
        capacity: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        if capacity == 0 || capacity > config.max_position_embeddings {
            return Err(Error::caller(
                "tokens",
                format!(
                    "{capacity} are needed; this model takes 1 to {}: show fewer or smaller frames",
                    config.max_position_embeddings
                ),
            ));
        }
        let shape = (capacity, config.num_key_value_heads, config.head_dim);
        let layers = (0..config.num_hidden_layers)
            .map(|_| {
                Ok(LayerCache {
                    k: Tensor::zeros(shape, dtype, device)?,
                    v: Tensor::zeros(shape, dtype, device)?,
                })
            })
            .collect::<candle_core::Result<Vec<_>>>()
            .context(|| format!("cache of {capacity} positions"))?;
        Ok(Self {
            layers,
            capacity,
            len: 0,
        })
    }

    /// Positions filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.len = 0;
    }

    /// Forgets all but the first `len` positions. More than there are changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes of the buffers.
    pub fn bytes(&self) -> usize {
        let tensors = self.layers.iter().flat_map(|layer| [&layer.k, &layer.v]);
        tensors
            .map(|x| x.elem_count() * x.dtype().size_in_bytes())
            .sum()
    }

    /// Fails unless `count` more positions fit.
    pub(super) fn room(&self, count: usize) -> Result<()> {
        if self.len + count > self.capacity {
            return Err(Error::local(format!(
                "{count} tokens after {} do not fit the cache of {} positions it was made for",
                self.len, self.capacity
            )));
        }
        Ok(())
    }

    /// Puts `k` and `v` [n, G, D] of `layer` after what is there; gives all of the layer, [len + n, G, D]. The
    /// length changes only by [`KvCache::advance`], when all layers have theirs.
    pub(super) fn append(
        &mut self,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let Some(buffers) = self.layers.get(layer) else {
            bail!("the cache has {} layers, not {layer}", self.layers.len());
        };
        let len = self.len + k.dim(0)?;
        buffers.k.slice_set(&k.contiguous()?, 0, self.len)?;
        buffers.v.slice_set(&v.contiguous()?, 0, self.len)?;
        Ok((buffers.k.narrow(0, 0, len)?, buffers.v.narrow(0, 0, len)?))
    }

    /// Counts `count` positions that every layer has.
    pub(super) fn advance(&mut self, count: usize) {
        self.len += count;
    }
}

/// `[capacity, G, D]` each.
#[derive(Debug)]
struct LayerCache {
    k: Tensor,
    v: Tensor,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config() -> TextConfig {
        TextConfig {
            vocab_size: 8,
            hidden_size: 8,
            intermediate_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 4,
            rms_norm_eps: 1e-6,
            rope_theta: 1e4,
            mrope_section: [2, 0, 0],
            max_position_embeddings: 64,
        }
    }

    fn rows(first: usize, count: usize) -> Tensor {
        let values: Vec<f32> = (first * 4..(first + count) * 4).map(|i| i as f32).collect();
        Tensor::from_vec(values, (count, 1, 4), &Device::Cpu).unwrap()
    }

    fn flat(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn positions_are_kept_cut_and_written_again() {
        let mut cache = KvCache::new(&config(), 5, DType::F32, &Device::Cpu).unwrap();
        assert_eq!((cache.capacity(), cache.len()), (5, 0));
        // Keys and values of two layers, five positions of four f32.
        assert_eq!(cache.bytes(), 2 * 2 * 5 * 4 * 4);
        let bytes = cache.bytes();
        for layer in 0..2 {
            let (k, _) = cache.append(layer, &rows(0, 3), &rows(9, 3)).unwrap();
            assert_eq!(flat(&k), flat(&rows(0, 3)));
        }
        cache.advance(3);
        cache.truncate(7);
        assert_eq!(cache.len(), 3);
        cache.truncate(2);
        let (k, v) = cache.append(1, &rows(5, 3), &rows(6, 3)).unwrap();
        assert_eq!(flat(&k)[..8], flat(&rows(0, 2)));
        assert_eq!(flat(&k)[8..], flat(&rows(5, 3)));
        assert_eq!(flat(&v)[8..], flat(&rows(6, 3)));
        cache.advance(3);
        assert!(cache.room(0).is_ok() && cache.room(1).is_err());
        assert!(cache.append(0, &rows(0, 1), &rows(0, 1)).is_err());
        assert!(cache.append(2, &rows(0, 1), &rows(0, 1)).is_err());
        cache.reset();
        assert!(cache.is_empty() && cache.bytes() == bytes);
    }

    #[test]
    fn more_than_the_model_takes_is_the_callers() {
        for capacity in [0, 65] {
            let error = KvCache::new(&config(), capacity, DType::F32, &Device::Cpu).unwrap_err();
            assert_eq!(error.fault(), crate::Fault::Caller);
        }
    }
}
