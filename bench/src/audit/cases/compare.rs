//! Differences from a base, in memory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use leoma_kernels::delta::{Floats, moments};

use super::super::args::AuditArgs;
use super::super::material;
use super::super::result::{Goal, Measured};
use super::{AuditMeasurement, LEOMA, child};
use crate::clock;
use crate::measure::Sample;

/// Differences from a base, in memory, one thread.
pub(super) struct Compare {
    /// Of one model.
    bytes: usize,
    python: PathBuf,
    models: Vec<Vec<u8>>,
}

impl Compare {
    /// A quarter of the weights of `args` for each model.
    pub(super) fn new(args: &AuditArgs) -> Self {
        Self {
            bytes: (args.mebibytes as usize) << 18,
            python: args.python.clone(),
            models: Vec::new(),
        }
    }
}

const NUMPY: &str = "NumPy";
const TORCH: &str = "PyTorch";

/// Cosine of the differences by NumPy and PyTorch, in pieces that stay in the cache; times itself, as making the
/// values is not part of it.
const PYTHON: &str = "
import sys, time, json
kind, count = sys.argv[1], int(sys.argv[2])
import numpy as np
g = np.random.default_rng(1)
piece = 1 << 16
if kind == 'NumPy':
    # NumPy has no bfloat16: the upper halves of float32, as its users do it.
    a, b, c = (g.integers(0x3f00, 0x3f80, count, dtype=np.uint16) for _ in range(3))
    def wide(x): return (x.astype(np.uint32) << 16).view(np.float32)
    dot = np.dot
else:
    import torch
    torch.set_num_threads(1)
    a, b, c = (torch.rand(count).bfloat16() for _ in range(3))
    def wide(x): return x.float()
    dot = torch.dot
wall, cpu = time.perf_counter(), time.process_time()
aa = bb = ab = 0.0
for i in range(0, count, piece):
    base = wide(c[i:i + piece])
    x, y = wide(a[i:i + piece]) - base, wide(b[i:i + piece]) - base
    aa += float(dot(x, x)); bb += float(dot(y, y)); ab += float(dot(x, y))
print(json.dumps({'wall_s': time.perf_counter() - wall, 'cpu_s': time.process_time() - cpu,
                  'cosine': ab / (aa * bb) ** 0.5}))
";

impl AuditMeasurement for Compare {
    fn name(&self) -> String {
        "compare/in memory".into()
    }

    fn what(&self) -> String {
        format!(
            "cosine of two differences from a base, three times {} MiB of bf16, one thread",
            self.bytes >> 20
        )
    }

    fn prepare(&mut self, _: &Path, _: &Path) -> Result<u64> {
        self.models = (0..3)
            .map(|seed| material::values(self.bytes, 70 + seed))
            .collect();
        Ok(3 * self.bytes as u64)
    }

    fn subjects(&self) -> Vec<String> {
        [LEOMA, NUMPY, TORCH].map(str::to_owned).to_vec()
    }

    fn run(&mut self, subject: &str) -> Result<(Sample, Option<u64>)> {
        if subject == LEOMA {
            let [a, b, c] = [0, 1, 2].map(|i| Floats::Bf16(&self.models[i]));
            let (moments, sample) = clock::timed(|| moments(a, b, c));
            if moments.cosine().is_none() {
                bail!("the models do not differ from their base");
            }
            return Ok((sample, None));
        }
        let count = (self.bytes / 2).to_string();
        let mut command = Command::new(&self.python);
        command
            .args(["-c", PYTHON, subject, &count])
            .env("OMP_NUM_THREADS", "1")
            .env("OPENBLAS_NUM_THREADS", "1");
        let (_, out) = child(&mut command, &[0])?;
        Ok((serde_json::from_slice(&out)?, None))
    }

    fn finish(&mut self, measured: &mut Measured) -> Result<()> {
        if let Some(rate) = measured.rate(LEOMA) {
            measured.goals.push(Goal {
                text: format!("{rate:.1} GB/s per core over A, B and base (at least 25)"),
                reached: rate >= 25.0,
            });
        }
        Ok(())
    }
}
