//! The committed checkpoints and reference tensors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use leoma_models::scheduler::SchedulerKind;
use leoma_models::weights::{Checkpoint, Component, VarBuilder};
use serde::Deserialize;

pub(crate) const KINDS: [&str; 3] = ["ti2v-5b", "i2v-a14b", "t2v-a14b"];

/// Every recorded run: kind and file stem.
pub(crate) const RUNS: [(&str, &str); 6] = [
    ("ti2v-5b", "i2v"),
    ("ti2v-5b", "t2v"),
    ("ti2v-5b", "euler"),
    ("i2v-a14b", "i2v"),
    ("i2v-a14b", "dpmpp"),
    ("t2v-a14b", "t2v"),
];

/// Settings of a recorded run, as written by `scripts/golden/fixtures.py`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Run {
    pub(crate) prompt: String,
    pub(crate) negative_prompt: String,
    pub(crate) image: bool,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) num_frames: usize,
    pub(crate) steps: usize,
    pub(crate) guidance_scale: f64,
    pub(crate) guidance_scale_2: Option<f64>,
    pub(crate) flow_shift: Option<f64>,
    pub(crate) seed: u64,
    pub(crate) scheduler: String,
}

impl Run {
    pub(crate) fn scheduler(&self) -> SchedulerKind {
        self.scheduler.parse().unwrap()
    }
}

/// Named tensors of one file.
pub(crate) struct Tensors(HashMap<String, Tensor>);

impl Tensors {
    pub(crate) fn read(path: &Path) -> Self {
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    pub(crate) fn get(&self, name: &str) -> &Tensor {
        self.find(name)
            .unwrap_or_else(|| panic!("the fixture has no tensor {name}"))
    }

    /// Without the batch dimension: `[1, ..] → [..]`.
    pub(crate) fn single(&self, name: &str) -> Tensor {
        self.get(name).squeeze(0).unwrap()
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.0.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Rows of `text.<which>` that belong to real tokens, `[n, d]`; the reference's padding id is 0.
    pub(crate) fn text_rows(&self, which: &str) -> Tensor {
        let tokens = super::gate::values(self.get(&format!("tokens.{which}")));
        let n = tokens.iter().filter(|&&id| id != 0.0).count();
        self.single(&format!("text.{which}"))
            .narrow(0, 0, n)
            .unwrap()
    }
}

pub(crate) fn folder(kind: &str) -> PathBuf {
    root().join(kind)
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join("fixtures")
}

pub(crate) fn run(kind: &str, name: &str) -> (Run, Tensors) {
    let path = folder(kind).join(format!("{name}.safetensors"));
    let bytes = std::fs::read(&path).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let settings = metadata.metadata().as_ref().unwrap().get("run").unwrap();
    (
        serde_json::from_str(settings).unwrap(),
        Tensors::read(&path),
    )
}

/// A float32 builder for one component.
pub(crate) fn builder(checkpoint: &Checkpoint, component: Component) -> VarBuilder {
    VarBuilder::new(
        checkpoint.source(component).unwrap(),
        DType::F32,
        &Device::Cpu,
    )
}
