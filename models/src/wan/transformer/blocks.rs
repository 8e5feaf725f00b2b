//! Where the blocks of an expert are: all in memory, or brought in one after the other.

use super::block::WanTransformerBlock;
use super::streaming::{FileMover, pass};
use crate::error::Result;
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

/// The blocks of one expert.
#[derive(Debug)]
pub(super) enum Blocks {
    Resident(Vec<WanTransformerBlock>),
    /// Read from the checkpoint in every pass.
    File {
        mover: FileMover,
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
                let blocks = (0..cfg.num_layers)
                    .map(|index| WanTransformerBlock::new(cfg, &vb.pp(index)))
                    .collect::<Result<_>>()?;
                Self::Resident(blocks)
            }
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
        }
    }
}
