//! Whole comparisons of models that are on the disk and not in memory, beside plain reading of the same files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{Advice, fadvise};

use super::super::material;
use super::super::result::{Goal, Measured};
use super::{AuditMeasurement, LEOMA, child, comparison};
use crate::clock;
use crate::measure::Sample;

/// Gigabytes of a model.
const GIGABYTES: u32 = 1;
/// Bytes of one read.
const PIECE: usize = 4 << 20;
/// One file after the other.
const ONE: &str = "one reader";
/// All files at once.
const EACH: &str = "a reader for each file";

/// The three models, and where their weights are.
#[derive(Default)]
pub(super) struct Disk {
    models: Vec<PathBuf>,
    node: PathBuf,
}

impl Disk {
    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let folders = self.models.iter();
        folders.map(|model| model.join(material::WEIGHTS))
    }

    /// Takes the weights out of the page cache.
    fn forget(&self) -> Result<()> {
        for path in self.files() {
            let file = File::open(&path)?;
            // Pages that are not on the disk yet would stay.
            file.sync_all()?;
            fadvise(&file, 0, None, Advice::DontNeed)
                .with_context(|| format!("cannot take {} out of the cache", path.display()))?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<()> {
    let (mut file, mut buffer) = (File::open(path)?, vec![0; PIECE]);
    while file.read(&mut buffer)? > 0 {
        std::hint::black_box(&buffer);
    }
    Ok(())
}

impl AuditMeasurement for Disk {
    fn name(&self) -> String {
        "compare/from disk".into()
    }

    fn what(&self) -> String {
        format!(
            "`audit compare` of two models of {GIGABYTES} GB with their base, not in the page cache, by the clock"
        )
    }

    fn prepare(&mut self, work: &Path, node: &Path) -> Result<u64> {
        node.clone_into(&mut self.node);
        let (models, bytes) = material::fine_tunes(work, GIGABYTES)?;
        self.models = models.to_vec();
        Ok(bytes)
    }

    fn subjects(&self) -> Vec<String> {
        [LEOMA, ONE, EACH].map(str::to_owned).to_vec()
    }

    fn run(&mut self, subject: &str) -> Result<(Sample, Option<u64>)> {
        self.forget()?;
        let (done, sample) = match subject {
            LEOMA => {
                let [a, b, base] = self.models.as_slice() else {
                    bail!("there are no three models");
                };
                let (sample, _) = child(&mut comparison(&self.node, [a, b, base]), &[0, 1])?;
                (Ok(()), sample)
            }
            ONE => clock::timed(|| self.files().try_for_each(|path| read(&path))),
            _ => clock::timed(|| {
                std::thread::scope(|scope| {
                    let readers: Vec<_> = self
                        .files()
                        .map(|path| scope.spawn(move || read(&path)))
                        .collect();
                    readers
                        .into_iter()
                        .try_for_each(|reader| reader.join().unwrap_or_else(|_| bail!("a reader")))
                })
            }),
        };
        done?;
        Ok((sample, None))
    }

    fn finish(&mut self, measured: &mut Measured) -> Result<()> {
        let rate = |subject| measured.clock_rate(subject);
        if let (Some(ours), Some(one), Some(each)) = (rate(LEOMA), rate(ONE), rate(EACH)) {
            let best = one.max(each);
            measured.goals.push(Goal {
                text: format!(
                    "{ours:.2} GB/s by the clock, {:.2} times the {best:.2} GB/s that the disk gives (at least 0.9)",
                    ours / best
                ),
                reached: ours >= 0.9 * best,
            });
        }
        Ok(())
    }
}
