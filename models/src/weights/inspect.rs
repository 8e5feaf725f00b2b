//! What a checkpoint is, what it needs, and what would keep it from loading.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::checkpoint::{Component, Layout, ModelKind, Scan, Sizes};
use super::files::ModelFiles;
use super::quant::is_fp8_layer;
use super::stream::StoredDType;
use super::validate::Differences;
use crate::error::Error;

/// Everything that headers and configurations tell about a folder. Values of weights are not read, so NaN
/// only shows when the checkpoint is loaded.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The folder.
    pub path: PathBuf,
    /// The model, when it can be told.
    pub kind: Option<ModelKind>,
    /// The layout, when it can be told.
    pub layout: Option<Layout>,
    /// The networks found.
    pub components: Vec<ComponentReport>,
    /// Bytes that the weights take, per compute type.
    pub memory: Vec<MemoryPlan>,
    /// Flow shift of the checkpoint's scheduler configuration.
    pub flow_shift: Option<f64>,
    /// Where the low-noise expert takes over, as a fraction.
    pub boundary_ratio: Option<f64>,
    /// Folder with `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// What is ignored.
    pub warnings: Vec<String>,
    /// What would make loading fail; empty for a checkpoint that loads.
    pub problems: Vec<Problem>,
}

/// One network of a checkpoint.
#[derive(Debug, Serialize)]
pub struct ComponentReport {
    /// Which network.
    pub component: Component,
    /// Its weight files.
    pub files: Vec<PathBuf>,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes per stored type.
    pub stored: BTreeMap<StoredDType, u64>,
    /// Its configuration, read or inferred.
    pub config: Option<serde_json::Value>,
}

/// Bytes of weights in memory for one compute type; activations come on top.
#[derive(Debug, Serialize)]
pub struct MemoryPlan {
    /// `f32`, `bf16`, `f16` or `fp8`.
    pub dtype: &'static str,
    /// Weights of each network.
    pub components: BTreeMap<Component, u64>,
    /// All networks resident (`--offload none`).
    pub offload_none: u64,
    /// Text encoder, then one expert at a time, the VAE always (`--offload experts`): the largest stage.
    pub offload_experts: u64,
}

/// Something that would make loading fail.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// The file or folder it is about.
    pub path: PathBuf,
    /// What is wrong and what to do.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

impl Problem {
    pub(super) fn new(root: &Path, error: Error) -> Self {
        match error {
            Error::Artifact { path, message } => Self { path, message },
            Error::Io { path, source } => Self {
                path,
                message: source.to_string(),
            },
            other => Self {
                path: root.to_owned(),
                message: other.to_string(),
            },
        }
    }
}

/// Inspects a folder; whatever is wrong with it becomes a [`Problem`].
pub fn inspect(root: impl AsRef<Path>) -> Inspection {
    inspect_files(&ModelFiles::new(root))
}

/// Inspects a folder with files in place of some of its networks; LoRAs are not looked at.
pub fn inspect_files(files: &ModelFiles) -> Inspection {
    let root = files.root.as_path();
    let mut report = Inspection {
        path: root.to_owned(),
        kind: None,
        layout: None,
        components: Vec::new(),
        memory: Vec::new(),
        flow_shift: None,
        boundary_ratio: None,
        tokenizer: None,
        warnings: Vec::new(),
        problems: Vec::new(),
    };
    let scan = match Scan::run(files) {
        Ok(scan) => scan,
        Err(error) => {
            report.problems.push(Problem::new(root, error));
            return report;
        }
    };
    for (&component, source) in &scan.sources {
        let sizes = match component {
            Component::Transformer => scan.transformer.as_ref().map(Sizes::Transformer),
            Component::Transformer2 => scan.transformer_2.as_ref().map(Sizes::Transformer),
            Component::Vae => scan.vae.as_ref().map(Sizes::Vae),
            Component::TextEncoder => scan.text.as_ref().map(Sizes::Text),
        };
        let files: Vec<_> = source
            .files()
            .iter()
            .map(|file| file.path.clone())
            .collect();
        if let Some(sizes) = sizes {
            let mut differences = Differences::default();
            differences.compare(component, sizes, source);
            if let Some(message) = differences.message() {
                let folder = files.first().and_then(|file| file.parent()).unwrap_or(root);
                report.problems.push(Problem {
                    path: folder.to_owned(),
                    message,
                });
            }
        }
        report.components.push(ComponentReport {
            component,
            tensors: source.entries().count(),
            parameters: source
                .entries()
                .map(|(_, entry)| entry.elements() as u64)
                .sum(),
            stored: source.stored_bytes(),
            config: sizes.and_then(|sizes| serde_json::to_value(sizes).ok()),
            files,
        });
    }
    // Layers in 8 bits, and a scale per row of theirs.
    let saved = |component| -> u64 {
        let source = scan.sources.get(&component);
        let layers = source.into_iter().flat_map(|source| source.entries());
        layers
            .filter(|(name, _)| is_fp8_layer(name))
            .map(|(_, entry)| {
                let rows = entry.shape.first().copied().unwrap_or(0);
                (entry.elements() as u64).saturating_sub(4 * rows as u64)
            })
            .sum()
    };
    report.memory = [("f32", 4), ("bf16", 2), ("f16", 2), ("fp8", 2)]
        .map(|(dtype, bytes)| {
            MemoryPlan::new(dtype, &report.components, |report| {
                let saved = if dtype == "fp8" {
                    saved(report.component)
                } else {
                    0
                };
                report.parameters * bytes - saved
            })
        })
        .into();
    report.kind = scan.kind;
    report.layout = scan.layout;
    report.flow_shift = scan
        .scheduler
        .as_ref()
        .and_then(super::SchedulerConfig::shift);
    report.boundary_ratio = scan.boundary_ratio;
    report.tokenizer = scan.tokenizer;
    report.warnings = scan.warnings;
    report.problems.splice(
        0..0,
        scan.problems
            .into_iter()
            .map(|error| Problem::new(root, error)),
    );
    report
}

impl MemoryPlan {
    fn new(
        dtype: &'static str,
        reports: &[ComponentReport],
        bytes: impl Fn(&ComponentReport) -> u64,
    ) -> Self {
        let components: BTreeMap<Component, u64> = reports
            .iter()
            .map(|report| (report.component, bytes(report)))
            .collect();
        let of = |component| components.get(&component).copied().unwrap_or(0);
        let largest = of(Component::Transformer)
            .max(of(Component::Transformer2))
            .max(of(Component::TextEncoder));
        Self {
            dtype,
            offload_none: components.values().sum(),
            offload_experts: largest + of(Component::Vae),
            components,
        }
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or =
            |text: Option<String>, otherwise: &str| text.unwrap_or_else(|| otherwise.to_owned());
        writeln!(f, "{}", self.path.display())?;
        writeln!(
            f,
            "kind            {}",
            or(self.kind.map(|kind| kind.to_string()), "cannot be told")
        )?;
        writeln!(
            f,
            "layout          {}",
            or(
                self.layout.map(|layout| layout.to_string()),
                "cannot be told"
            )
        )?;
        writeln!(
            f,
            "flow shift      {}",
            or(self.flow_shift.map(|v| v.to_string()), "from the preset")
        )?;
        writeln!(
            f,
            "boundary ratio  {}",
            or(self.boundary_ratio.map(|v| v.to_string()), "none")
        )?;
        let tokenizer = self
            .tokenizer
            .as_ref()
            .map(|path| path.display().to_string());
        writeln!(f, "tokenizer       {}", or(tokenizer, "missing"))?;
        for report in &self.components {
            let stored: Vec<_> = report
                .stored
                .iter()
                .map(|(dtype, bytes)| format!("{} {}", dtype.as_str(), human(*bytes)))
                .collect();
            writeln!(
                f,
                "{:<15} {} parameters in {} tensors, {} file(s), stored as {}",
                report.component.as_str(),
                report.parameters,
                report.tensors,
                report.files.len(),
                stored.join(" + ")
            )?;
        }
        if !self.components.is_empty() {
            writeln!(f, "weights in memory (activations come on top)")?;
            writeln!(
                f,
                "  {:<6} {:>14} {:>16}",
                "dtype", "offload none", "offload experts"
            )?;
            for plan in &self.memory {
                let (none, experts) = (human(plan.offload_none), human(plan.offload_experts));
                writeln!(f, "  {:<6} {none:>14} {experts:>16}", plan.dtype)?;
            }
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        for problem in &self.problems {
            writeln!(
                f,
                "problem: {}: {}",
                problem.path.display(),
                problem.message
            )?;
        }
        if self.problems.is_empty() {
            writeln!(f, "nothing found that would keep it from loading")?;
        }
        Ok(())
    }
}

/// Bytes in the unit that keeps the number short.
fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{value:.2} {unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.2} TB")
}
