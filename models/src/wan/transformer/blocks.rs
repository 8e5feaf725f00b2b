//! Where the blocks of an expert are: all in memory, or brought in one after the other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::block::WanTransformerBlock;
#[cfg(feature = "cuda")]
use super::pinned::PinnedMover;
use super::streaming::{FileMover, pass};
use crate::error::{Error, Result};
use crate::wan::TransformerConfig;
use crate::weights::VarBuilder;

/// Where the blocks of an expert are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlockStorage {
    /// On the device, loaded once.
    #[default]
    Resident,
    /// At most two on the device; the next is brought in while one is computed.
    Streamed,
}

/// Blocks that are read at a time: hashing a tensor keeps one thread busy, and a disk or a bus gives more
/// than that.
pub(crate) fn loaders(threads: usize) -> usize {
    (threads / 4).clamp(1, 4)
}

/// Makes `count` things, `loaders` at a time.
fn in_parallel<T: Send>(
    count: usize,
    loaders: usize,
    make: &(dyn Fn(usize) -> Result<T> + Sync),
) -> Result<Vec<T>> {
    if loaders <= 1 {
        return (0..count).map(make).collect();
    }
    // Each thread takes the next one that nobody has begun; the first error ends the rest.
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, T)>> {
        let mut made = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(made);
            }
            match make(index) {
                Ok(one) => made.push((index, one)),
                Err(error) => {
                    next.store(count, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..loaders).map(|_| scope.spawn(work)).collect();
        let panicked = |_| Err(Error::local("reading weights ended on an internal error"));
        let joined = threads.into_iter();
        joined
            .map(|thread| thread.join().unwrap_or_else(panicked))
            .collect()
    });
    let mut made = Vec::with_capacity(count);
    for result in results {
        made.extend(result?);
    }
    made.sort_by_key(|(index, _)| *index);
    Ok(made.into_iter().map(|(_, one)| one).collect())
}

/// The blocks of one expert.
#[derive(Debug)]
pub(super) enum Blocks {
    Resident(Vec<WanTransformerBlock>),
    /// Read from the checkpoint in every pass.
    File {
        mover: FileMover,
        count: usize,
    },
    /// Copied from pinned memory in every pass.
    #[cfg(feature = "cuda")]
    Pinned {
        mover: PinnedMover,
        count: usize,
    },
}

impl Blocks {
    /// `vb` is at `blocks`.
    pub(super) fn new(
        cfg: &TransformerConfig,
        vb: VarBuilder,
        storage: BlockStorage,
    ) -> Result<Self> {
        Ok(match storage {
            BlockStorage::Resident => {
                let loaders = loaders(rayon::current_num_threads());
                let block = |index: usize| WanTransformerBlock::new(cfg, &vb.pp(index));
                Self::Resident(in_parallel(cfg.num_layers, loaders, &block)?)
            }
            #[cfg(feature = "cuda")]
            BlockStorage::Streamed if vb.device().is_cuda() => Self::Pinned {
                mover: PinnedMover::new(cfg, &vb, vb.device().as_cuda_device()?)?,
                count: cfg.num_layers,
            },
            BlockStorage::Streamed => Self::File {
                mover: FileMover::new(cfg, vb),
                count: cfg.num_layers,
            },
        })
    }

    /// Calls `visit` with every block in order.
    pub(super) fn visit(
        &self,
        visit: &mut dyn FnMut(usize, &WanTransformerBlock) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Resident(blocks) => blocks
                .iter()
                .enumerate()
                .try_for_each(|(index, block)| visit(index, block)),
            Self::File { mover, count } => pass(mover, *count, visit),
            #[cfg(feature = "cuda")]
            Self::Pinned { mover, count } => pass(mover, *count, visit),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn several_loaders_keep_the_order_and_stop_at_an_error() {
        let square = |index: usize| Ok(index * index);
        let expected: Vec<usize> = (0..37).map(|index| index * index).collect();
        for loaders in [1, 3, 50] {
            assert_eq!(in_parallel(37, loaders, &square).unwrap(), expected);
        }
        assert!(in_parallel(0, 3, &square).unwrap().is_empty());
        let fails = |index: usize| match index {
            5 => Err(Error::Cancelled),
            _ => Ok(index),
        };
        for loaders in [1, 3] {
            let result = in_parallel(37, loaders, &fails);
            assert!(matches!(result, Err(Error::Cancelled)));
        }
        assert_eq!([1, 4, 16, 256].map(super::loaders), [1, 1, 4, 4]);
    }
}
