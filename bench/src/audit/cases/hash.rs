//! Digests of files and tensors.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::super::args::AuditArgs;
use super::super::material;
use super::super::result::Measured;
use super::{AuditMeasurement, child};
use crate::clock;
use crate::measure::Sample;

/// Files that the weights are in.
pub(super) const COUNTS: [usize; 5] = [1, 4, 8, 16, 32];

/// Digests of files.
pub(super) struct Hash {
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
    /// The weights of `args` in `count` files.
    pub(super) fn new(count: usize, args: &AuditArgs) -> Self {
        Self {
            count,
            bytes: u64::from(args.mebibytes) << 20,
            python: args.python.clone(),
            signing: args.signing_python.clone(),
            folder: PathBuf::new(),
            node: PathBuf::new(),
        }
    }

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
