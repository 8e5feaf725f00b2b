//! Digests of messages that are in memory: what is left of a case with files when nothing has to be read.

use std::path::Path;

use anyhow::{Result, bail};
use leoma_kernels::sha256::digest_many;
use sha2::{Digest, Sha256};

use super::super::args::AuditArgs;
use super::super::material;
use super::super::result::Measured;
use super::{AuditMeasurement, LEOMA};
use crate::clock;
use crate::measure::Sample;

/// Messages side by side.
const MESSAGES: usize = 16;
/// Bytes of each: what a worker of the audit has in hand of a file.
const PIECE: usize = 64 << 10;
/// Between the beginnings of messages: not a power of two.
const APART: usize = PIECE + 320;
const CRATE: &str = "sha2 crate";

/// Digests in memory, one thread.
pub(super) struct Digests {
    /// How often all messages are hashed.
    times: usize,
    data: Vec<u8>,
}

impl Digests {
    /// As many bytes as `args` has in files.
    pub(super) fn new(args: &AuditArgs) -> Self {
        Self {
            times: ((args.mebibytes as usize) << 20).div_ceil(MESSAGES * PIECE),
            data: Vec::new(),
        }
    }

    fn messages(&self) -> Vec<&[u8]> {
        let starts = (0..MESSAGES).map(|i| i * APART);
        starts.map(|start| &self.data[start..][..PIECE]).collect()
    }
}

impl AuditMeasurement for Digests {
    fn name(&self) -> String {
        "hash/in memory".into()
    }

    fn what(&self) -> String {
        format!(
            "{MESSAGES} messages of {} KiB that stay in the cache, again and again, one thread",
            PIECE >> 10
        )
    }

    fn prepare(&mut self, _: &Path, _: &Path) -> Result<u64> {
        self.data = material::values(MESSAGES * APART, 60);
        Ok((self.times * MESSAGES * PIECE) as u64)
    }

    fn subjects(&self) -> Vec<String> {
        [LEOMA, CRATE].map(str::to_owned).to_vec()
    }

    fn run(&mut self, subject: &str) -> Result<(Sample, Option<u64>)> {
        let messages = self.messages();
        let ours = subject == LEOMA;
        let ((), sample) = clock::timed(|| {
            for _ in 0..self.times {
                if ours {
                    std::hint::black_box(digest_many(&messages));
                } else {
                    for message in &messages {
                        std::hint::black_box(Sha256::digest(message));
                    }
                }
            }
        });
        Ok((sample, None))
    }

    fn finish(&mut self, measured: &mut Measured) -> Result<()> {
        for (message, digest) in self.messages().iter().zip(digest_many(&self.messages())) {
            if digest[..] != Sha256::digest(message)[..] {
                bail!("the digests are not those of the crate");
            }
        }
        measured.goal_faster(LEOMA, CRATE, 2.0);
        Ok(())
    }
}
