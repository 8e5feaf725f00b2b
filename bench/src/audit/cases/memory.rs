//! Peak memory of whole comparisons.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::super::args::AuditArgs;
use super::super::material;
use super::super::result::{Goal, Measured};
use super::{AuditMeasurement, comparison};
use crate::clock;
use crate::measure::Sample;

/// Peak memory of whole comparisons.
pub(super) struct Peak {
    sizes: Vec<u32>,
    models: BTreeMap<String, [PathBuf; 3]>,
    node: PathBuf,
}

impl Peak {
    /// A pair of every size of `args`.
    pub(super) fn new(args: &AuditArgs) -> Self {
        Self {
            sizes: args.gigabytes.clone(),
            models: BTreeMap::new(),
            node: PathBuf::new(),
        }
    }
}

/// Time between two looks at a process.
const LOOK: Duration = Duration::from_millis(20);

impl AuditMeasurement for Peak {
    fn name(&self) -> String {
        "memory/pairs".into()
    }

    fn what(&self) -> String {
        "`audit compare` of two sparse models with their base".into()
    }

    fn prepare(&mut self, work: &Path, node: &Path) -> Result<u64> {
        node.clone_into(&mut self.node);
        for size in &self.sizes {
            let (models, _) = material::sparse_models(work, *size)?;
            self.models.insert(format!("{size} GB each"), models);
        }
        Ok(0)
    }

    fn subjects(&self) -> Vec<String> {
        self.models.keys().cloned().collect()
    }

    fn run(&mut self, subject: &str) -> Result<(Sample, Option<u64>)> {
        let [a, b, base] = self.models.get(subject).context("no such pair")?;
        let mut command = comparison(&self.node, [a, b, base]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let (peak, sample) = clock::timed(|| -> Result<u64> {
            let mut child = command.spawn()?;
            let mut peak = 0;
            loop {
                peak = clock::peak_resident_bytes_of(child.id()).map_or(peak, |now| peak.max(now));
                if let Some(status) = child.try_wait()? {
                    if !matches!(status.code(), Some(0 | 1)) {
                        bail!("audit compare failed: {status}");
                    }
                    return Ok(peak);
                }
                std::thread::sleep(LOOK);
            }
        });
        Ok((sample, Some(peak?)))
    }

    fn finish(&mut self, measured: &mut Measured) -> Result<()> {
        let peaks: Vec<u64> = measured.peak_bytes.values().copied().collect();
        let (Some(most), Some(least)) = (peaks.iter().max(), peaks.iter().min()) else {
            return Ok(());
        };
        let mib = *most as f64 / f64::from(1 << 20);
        measured.goals.push(Goal {
            text: format!("at most {mib:.0} MiB (at most 1024)"),
            reached: mib <= 1024.0,
        });
        let apart = 100.0 * (*most as f64 / *least as f64 - 1.0);
        measured.goals.push(Goal {
            text: format!("sizes {apart:.1} % apart (at most 5)"),
            reached: apart <= 5.0,
        });
        Ok(())
    }
}
