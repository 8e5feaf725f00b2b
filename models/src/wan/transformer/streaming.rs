//! Block offload: one pass over the blocks of an expert with at most two of them where they are computed.
//!
//! While block `i` is computed, block `i + 1` is on its way. What "on its way" means is the business of a
//! [`Mover`]: on the CPU a thread reads and packs the next block from the checkpoint ([`FileMover`]).
//! The results are those of resident blocks, bit for bit: the same block code runs on the same weights.

use std::thread::{self, JoinHandle};

use super::block::WanTransformerBlock;
use crate::error::{Error, Result};
use crate::wan::TransformerConfig;
use crate::weights::VarBuilder;

/// Brings blocks to where they are computed, and takes them away.
pub(super) trait Mover {
    /// A block that can be computed with.
    type Block;
    /// A block on its way. Dropping it ends the journey before anything else is begun.
    type Ticket;

    /// Sends block `index` on its way and returns at once.
    fn begin(&self, index: usize) -> Result<Self::Ticket>;

    /// Makes the block usable for everything that is computed from now on.
    fn finish(&self, ticket: Self::Ticket) -> Result<Self::Block>;

    /// Gives the block's memory back once everything issued so far is through with it.
    fn release(&self, block: Self::Block) -> Result<()>;
}

/// Calls `visit` with the blocks `0..count` in order.
pub(super) fn pass<M: Mover>(
    mover: &M,
    count: usize,
    visit: &mut dyn FnMut(usize, &M::Block) -> Result<()>,
) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let mut ahead = mover.begin(0)?;
    for index in 0..count {
        let block = mover.finish(ahead)?;
        if index + 1 == count {
            visit(index, &block)?;
            return mover.release(block);
        }
        ahead = mover.begin(index + 1)?;
        visit(index, &block)?;
        mover.release(block)?;
    }
    Ok(())
}

/// Reads blocks from the checkpoint, each on a thread of its own.
#[derive(Debug)]
pub(super) struct FileMover {
    cfg: TransformerConfig,
    /// At `blocks`.
    vb: VarBuilder,
}

impl FileMover {
    pub(super) fn new(cfg: &TransformerConfig, vb: VarBuilder) -> Self {
        Self {
            cfg: cfg.clone(),
            vb,
        }
    }
}

/// A thread that reads a block; joined when dropped, so that an abandoned pass leaves no third block.
pub(super) struct Reading(Option<JoinHandle<Result<WanTransformerBlock>>>);

impl Reading {
    fn join(mut self) -> Result<WanTransformerBlock> {
        let panicked = || Error::local("reading a transformer block ended on an internal error");
        match self.0.take() {
            Some(thread) => thread.join().unwrap_or_else(|_| Err(panicked())),
            None => Err(panicked()),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // The pass has failed or was cancelled for a reason of its own; what was read is not wanted.
            drop(thread.join());
        }
    }
}

impl Mover for FileMover {
    type Block = WanTransformerBlock;
    type Ticket = Reading;

    fn begin(&self, index: usize) -> Result<Reading> {
        let (cfg, vb) = (self.cfg.clone(), self.vb.pp(index));
        thread::Builder::new()
            .name(format!("block {index}"))
            .spawn(move || WanTransformerBlock::new(&cfg, &vb))
            .map(|thread| Reading(Some(thread)))
            .map_err(|error| Error::local(format!("cannot start a thread: {error}")))
    }

    fn finish(&self, ticket: Reading) -> Result<WanTransformerBlock> {
        ticket.join()
    }

    fn release(&self, block: WanTransformerBlock) -> Result<()> {
        drop(block);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::{Cell, RefCell};

    use super::*;

    /// Two slots and a log of everything that happens to them.
    #[derive(Default)]
    struct Fake {
        log: RefCell<Vec<String>>,
        resident: Cell<usize>,
        most: Cell<usize>,
        fail_at: Option<usize>,
    }

    struct Ticket<'a>(usize, &'a Fake);

    impl Drop for Ticket<'_> {
        fn drop(&mut self) {
            self.1.log.borrow_mut().push(format!("landed {}", self.0));
            self.1.resident.set(self.1.resident.get() - 1);
        }
    }

    impl<'a> Mover for &'a Fake {
        type Block = Ticket<'a>;
        type Ticket = Ticket<'a>;

        fn begin(&self, index: usize) -> Result<Ticket<'a>> {
            self.log.borrow_mut().push(format!("begin {index}"));
            if self.fail_at == Some(index) {
                return Err(Error::local("no"));
            }
            self.resident.set(self.resident.get() + 1);
            self.most.set(self.most.get().max(self.resident.get()));
            Ok(Ticket(index, self))
        }

        fn finish(&self, ticket: Ticket<'a>) -> Result<Ticket<'a>> {
            self.log.borrow_mut().push(format!("finish {}", ticket.0));
            Ok(ticket)
        }

        fn release(&self, block: Ticket<'a>) -> Result<()> {
            drop(block);
            Ok(())
        }
    }

    #[test]
    fn the_next_block_is_on_its_way_while_one_is_computed() {
        let fake = Fake::default();
        let visit = &mut |index: usize, block: &Ticket<'_>| {
            assert_eq!(index, block.0);
            fake.log.borrow_mut().push(format!("compute {index}"));
            Ok(())
        };
        pass(&&fake, 3, visit).unwrap();
        let expected = [
            "begin 0",
            "finish 0",
            "begin 1",
            "compute 0",
            "landed 0",
            "finish 1",
            "begin 2",
            "compute 1",
            "landed 1",
            "finish 2",
            "compute 2",
            "landed 2",
        ];
        assert_eq!(*fake.log.borrow(), expected);
        assert_eq!((fake.resident.get(), fake.most.get()), (0, 2));
        pass(&&fake, 0, &mut |_, _: &Ticket<'_>| Ok(())).unwrap();
    }

    #[test]
    fn a_pass_that_fails_leaves_nothing_behind() {
        for (fail_at, stop_at) in [(Some(1), None), (None, Some(1)), (Some(0), None)] {
            let fake = Fake {
                fail_at,
                ..Fake::default()
            };
            let result = pass(&&fake, 4, &mut |index, _: &Ticket<'_>| {
                if stop_at == Some(index) {
                    return Err(Error::Cancelled);
                }
                Ok(())
            });
            assert!(result.is_err());
            assert_eq!(fake.resident.get(), 0);
            assert!(fake.most.get() <= 2);
        }
    }
}
