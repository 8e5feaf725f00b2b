//! A search among registered models.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use serde_json::Value;

use super::super::args::AuditArgs;
use super::super::material;
use super::super::result::{Goal, Measured};
use super::{AuditMeasurement, LEOMA, child};
use crate::measure::Sample;

/// The program without a search: what loading it and its libraries takes.
const START: &str = "leoma, start alone";

/// A search among registered models.
pub(super) struct Search {
    count: u32,
    registry: PathBuf,
    node: PathBuf,
}

impl Search {
    /// Among as many models as `args` says.
    pub(super) fn new(args: &AuditArgs) -> Self {
        Self {
            count: args.models,
            registry: PathBuf::new(),
            node: PathBuf::new(),
        }
    }
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
        [LEOMA, START].map(str::to_owned).to_vec()
    }

    fn run(&mut self, subject: &str) -> Result<(Sample, Option<u64>)> {
        if subject == START {
            let (sample, _) = child(Command::new(&self.node).arg("--version"), &[0])?;
            return Ok((sample, None));
        }
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
        if let (Some(whole), Some(start)) = (measured.cpu(LEOMA), measured.cpu(START)) {
            let [whole, start] = [whole, start].map(|seconds| 1000.0 * seconds);
            let search = whole - start;
            measured.goals.push(Goal {
                text: format!(
                    "the search takes {search:.0} ms (less than 50), {whole:.0} ms with the program's start"
                ),
                reached: search < 50.0,
            });
        }
        Ok(())
    }
}
