//! The cases: what is run, by whom, and what must hold.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use leoma_kernels::delta::{Floats, moments};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::args::{AuditArgs, AuditCase};
use super::material;
use super::result::{Goal, Measured};
use crate::clock;
use crate::measure::Sample;

/// Files that the weights are in.
const COUNTS: [usize; 5] = [1, 4, 8, 16, 32];

/// A measurement: who takes part, and how each is run once.
pub(super) trait AuditMeasurement {
    fn name(&self) -> String;
    fn what(&self) -> String;
    /// Makes what is worked on; its bytes.
    fn prepare(&mut self, work: &Path, node: &Path) -> Result<u64>;
    /// Who takes part.
    fn subjects(&self) -> Vec<String>;
    /// Who does not, and why.
    fn absent(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
    /// One run, and the most memory of its process where that is watched.
    fn run(&mut self, subject: &str) -> Result<(Sample, Option<u64>)>;
    /// Whether the results agree, and what must hold.
    fn finish(&mut self, measured: &mut Measured) -> Result<()>;
}

/// Every measurement that was asked for.
pub(super) fn list(args: &AuditArgs) -> Vec<Box<dyn AuditMeasurement>> {
    let mut list: Vec<Box<dyn AuditMeasurement>> = Vec::new();
    if args.wants(AuditCase::Hash) {
        for count in COUNTS {
            list.push(Box::new(Hash {
                count,
                bytes: u64::from(args.mebibytes) << 20,
                python: args.python.clone(),
                signing: args.signing_python.clone(),
                folder: PathBuf::new(),
                node: PathBuf::new(),
            }));
        }
    }
    if args.wants(AuditCase::Compare) {
        list.push(Box::new(Compare {
            bytes: (args.mebibytes as usize) << 18,
            python: args.python.clone(),
            models: Vec::new(),
        }));
    }
    if args.wants(AuditCase::Registry) {
        list.push(Box::new(Search {
            count: args.models,
            registry: PathBuf::new(),
            node: PathBuf::new(),
        }));
    }
    if args.wants(AuditCase::Memory) {
        list.push(Box::new(Peak {
            sizes: args.gigabytes.clone(),
            models: BTreeMap::new(),
            node: PathBuf::new(),
        }));
    }
    list
}

/// Runs a measurement: warm-ups, then rounds in which the subjects take turns, every other one backwards.
pub(super) fn measure(
    mut case: Box<dyn AuditMeasurement>,
    args: &AuditArgs,
    node: &Path,
    work: &Path,
) -> Result<Measured> {
    let folder = work.join(case.name().replace('/', "-"));
    std::fs::create_dir(&folder)?;
    let mut measured = Measured {
        name: case.name(),
        what: case.what(),
        bytes: case.prepare(&folder, node)?,
        samples: BTreeMap::new(),
        peak_bytes: BTreeMap::new(),
        absent: case.absent(),
        goals: Vec::new(),
    };
    let plan = args.plan();
    for round in 0..plan.warmups + plan.pairs {
        let mut order = case.subjects();
        if round % 2 == 1 {
            order.reverse();
        }
        for subject in order {
            let (sample, peak) = case.run(&subject)?;
            if let Some(peak) = peak {
                let most = measured.peak_bytes.entry(subject.clone()).or_default();
                *most = peak.max(*most);
            }
            if round >= plan.warmups {
                crate::run::note(&format!("  {subject}: {:.3} s CPU", sample.cpu_s));
                measured.samples.entry(subject).or_default().push(sample);
            }
        }
    }
    case.finish(&mut measured)?;
    std::fs::remove_dir_all(&folder)?;
    Ok(measured)
}

/// Versions of the tools that take part.
pub(super) fn versions(args: &AuditArgs) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut ask = |name: &str, program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        if let Some(output) = output.ok().filter(|output| output.status.success()) {
            let text = String::from_utf8_lossy(&output.stdout);
            versions.insert(
                name.to_owned(),
                text.lines().next().unwrap_or_default().to_owned(),
            );
        }
    };
    ask("sha256sum", Path::new("sha256sum"), &["--version"]);
    let numpy = "import numpy, torch, sys; print(sys.version.split()[0], numpy.__version__, torch.__version__)";
    ask("python, numpy, torch", &args.python, &["-c", numpy]);
    if let Some(python) = &args.signing_python {
        let signing = "import importlib.metadata as m; print(m.version('model-signing'))";
        ask("model-signing", python, &["-c", signing]);
    }
    versions
}

/// Runs a command to its end; its time, and what it wrote. `codes` are those that mean that it did its work.
fn child(command: &mut Command, codes: &[i32]) -> Result<(Sample, Vec<u8>)> {
    let (output, sample) = clock::timed(|| command.stdin(Stdio::null()).output());
    let output =
        output.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !output
        .status
        .code()
        .is_some_and(|code| codes.contains(&code))
    {
        bail!(
            "{} failed: {}",
            command.get_program().display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok((sample, output.stdout))
}

/// Digests of files.
struct Hash {
    count: usize,
    bytes: u64,
    python: PathBuf,
    signing: Option<PathBuf>,
    folder: PathBuf,
    node: PathBuf,
}

const FILES: &str = "leoma, files";
const TENSORS: &str = "leoma, files and tensors";
const SUM: &str = "sha256sum";
const CRATE: &str = "sha2 crate";
const HASHLIB: &str = "Python hashlib";
const SIGNING: &str = "model-signing";

impl Hash {
    fn node(&self, more: &[&str]) -> Command {
        let mut command = Command::new(&self.node);
        command
            .args(["audit", "hash"])
            .arg(&self.folder)
            .args(["--format", "json", "--no-progress"])
            .args(more);
        command
    }

    fn sums(&self) -> Result<(Sample, BTreeMap<String, String>)> {
        let mut command = Command::new("sha256sum");
        for entry in std::fs::read_dir(&self.folder)? {
            command.arg(entry?.file_name());
        }
        let (sample, out) = child(command.current_dir(&self.folder), &[0])?;
        let text = String::from_utf8_lossy(&out).into_owned();
        let lines = text.lines().filter_map(|line| line.split_once("  "));
        Ok((
            sample,
            lines
                .map(|(sum, name)| (name.to_owned(), sum.to_owned()))
                .collect(),
        ))
    }
}

impl AuditMeasurement for Hash {
    fn name(&self) -> String {
        format!("hash/{} files", self.count)
    }

    fn what(&self) -> String {
        format!(
            "{} MiB of bf16 weights in {} files",
            self.bytes >> 20,
            self.count
        )
    }

    fn prepare(&mut self, work: &Path, node: &Path) -> Result<u64> {
        self.folder = work.join("model");
        node.clone_into(&mut self.node);
        material::files(&self.folder, self.count, self.bytes)
    }

    fn subjects(&self) -> Vec<String> {
        let mut subjects = vec![FILES, TENSORS, SUM, CRATE, HASHLIB];
        if self.signing.is_some() {
            subjects.push(SIGNING);
        }
        subjects.into_iter().map(str::to_owned).collect()
    }

    fn absent(&self) -> BTreeMap<String, String> {
        let why = "no --signing-python was given";
        let absent = self
            .signing
            .is_none()
            .then(|| (SIGNING.to_owned(), why.to_owned()));
        absent.into_iter().collect()
    }

    fn run(&mut self, subject: &str) -> Result<(Sample, Option<u64>)> {
        // Findings are the rule with weights of no model.
        let found = [0, 1];
        let sample = match subject {
            FILES => child(&mut self.node(&["--files-only"]), &found)?.0,
            TENSORS => child(&mut self.node(&[]), &found)?.0,
            SUM => self.sums()?.0,
            CRATE => {
                let mut buffer = vec![0; 1 << 20];
                let (hashed, sample) = clock::timed(|| -> Result<()> {
                    for entry in std::fs::read_dir(&self.folder)? {
                        let mut file = std::fs::File::open(entry?.path())?;
                        let mut hash = Sha256::new();
                        loop {
                            let count = file.read(&mut buffer)?;
                            if count == 0 {
                                break;
                            }
                            hash.update(&buffer[..count]);
                        }
                        std::hint::black_box(hash.finalize());
                    }
                    Ok(())
                });
                hashed?;
                sample
            }
            HASHLIB => {
                let script = "import hashlib, pathlib, sys\nfor p in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n \
                              print(hashlib.file_digest(p.open('rb'), 'sha256').hexdigest())";
                child(
                    Command::new(&self.python)
                        .args(["-c", script])
                        .arg(&self.folder),
                    &[0],
                )?
                .0
            }
            SIGNING => {
                let python = self.signing.as_ref().context("no model-signing")?;
                let script = "import sys, pathlib, model_signing.hashing as h; h.hash(pathlib.Path(sys.argv[1]))";
                child(
                    Command::new(python).args(["-c", script]).arg(&self.folder),
                    &[0],
                )?
                .0
            }
            other => bail!("nobody is called {other}"),
        };
        Ok((sample, None))
    }

    fn finish(&mut self, measured: &mut Measured) -> Result<()> {
        let (_, sums) = self.sums()?;
        for more in [&["--files-only"][..], &[]] {
            let (_, out) = child(&mut self.node(more), &[0, 1])?;
            let report: Value = serde_json::from_slice(&out)?;
            let files = report["files"]
                .as_array()
                .context("the report has no files")?;
            for file in files {
                let name = file["path"].as_str().unwrap_or_default();
                if file["sha256"].as_str() != sums.get(name).map(String::as_str) {
                    bail!("{name}: the node's digest is not that of sha256sum");
                }
            }
            if files.len() != sums.len() {
                bail!("the node hashed {} of {} files", files.len(), sums.len());
            }
        }
        match self.count {
            16.. => measured.goal_faster(FILES, SUM, 6.0),
            8 => measured.goal_faster(FILES, SUM, 5.0),
            _ => {}
        }
        if self.count >= 4 {
            measured.goal_faster(TENSORS, SUM, 3.0);
        }
        if self.count >= 16 {
            measured.goal_faster(FILES, CRATE, 2.0);
        }
        Ok(())
    }
}

/// Differences from a base, in memory, one thread.
struct Compare {
    /// Of one model.
    bytes: usize,
    python: PathBuf,
    models: Vec<Vec<u8>>,
}

const LEOMA: &str = "leoma";
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

/// A search among registered models.
struct Search {
    count: u32,
    registry: PathBuf,
    node: PathBuf,
}

impl AuditMeasurement for Search {
    fn name(&self) -> String {
        format!("registry/{} models", self.count)
    }

    fn what(&self) -> String {
        format!(
            "`audit registry near` among {} models of the 5B's layout, the program's start included",
            self.count
        )
    }

    fn prepare(&mut self, work: &Path, node: &Path) -> Result<u64> {
        self.registry = work.join("registry.sqlite");
        node.clone_into(&mut self.node);
        let list = work.join("list.jsonl");
        material::registry_list(&list, self.count)?;
        let mut import = Command::new(node);
        import
            .args(["audit", "registry", "import"])
            .arg(&list)
            .arg("--registry")
            .arg(&self.registry);
        child(&mut import, &[0])?;
        std::fs::remove_file(&list)?;
        Ok(0)
    }

    fn subjects(&self) -> Vec<String> {
        vec![LEOMA.to_owned()]
    }

    fn run(&mut self, _: &str) -> Result<(Sample, Option<u64>)> {
        let mut near = Command::new(&self.node);
        near.args([
            "audit",
            "registry",
            "near",
            "user/model-1",
            "--base",
            "user/model-0",
            "--format",
            "json",
        ]);
        let (sample, out) = child(near.arg("--registry").arg(&self.registry), &[0])?;
        let found: Value = serde_json::from_slice(&out)?;
        if found["candidates"]
            .as_array()
            .is_none_or(|found| !found.is_empty())
        {
            bail!("independent models are called alike: {found}");
        }
        Ok((sample, None))
    }

    fn finish(&mut self, measured: &mut Measured) -> Result<()> {
        if let Some(time) = measured.cpu(LEOMA) {
            measured.goals.push(Goal {
                text: format!("{:.0} ms (less than 50)", 1000.0 * time),
                reached: time < 0.05,
            });
        }
        Ok(())
    }
}

/// Peak memory of whole comparisons.
struct Peak {
    sizes: Vec<u32>,
    models: BTreeMap<String, [PathBuf; 3]>,
    node: PathBuf,
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
        let mut command = Command::new(&self.node);
        command
            .args(["audit", "compare"])
            .args([a, b])
            .arg("--base")
            .arg(base);
        command
            .args(["--no-progress", "--format", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
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
