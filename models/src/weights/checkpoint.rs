//! A checkpoint folder: which layout, which model, which sizes, and a tensor source per component.

mod scan;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;

pub(super) use self::scan::Scan;
use super::config::SchedulerConfig;
use super::files::ModelFiles;
use super::lora::{LoraFile, LoraReport, MergedSource};
use super::source::{FileSource, LoadLog};
use super::var_builder::TensorSource;
use crate::error::{Error, Result};
use crate::text::Umt5Config;
use crate::wan::{TransformerConfig, VaeConfig};

/// A network of a checkpoint. [`fmt::Display`] gives its folder in the diffusers layout.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// The only transformer, or the high-noise expert (`high_noise_model`).
    Transformer,
    /// The low-noise expert (`low_noise_model`).
    #[serde(rename = "transformer_2")]
    Transformer2,
    /// The video autoencoder.
    Vae,
    /// The UMT5 encoder.
    TextEncoder,
}

impl Component {
    /// All components, in the order in which they are listed.
    pub const ALL: [Self; 4] = [
        Self::Transformer,
        Self::Transformer2,
        Self::Vae,
        Self::TextEncoder,
    ];

    /// Folder in the diffusers layout.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Transformer2 => "transformer_2",
            Self::Vae => "vae",
            Self::TextEncoder => "text_encoder",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a checkpoint is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `model_index.json` and a folder per component.
    Diffusers,
    /// As the authors release it: safetensors for the transformer, `.pth` for text encoder and VAE.
    Official,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Diffusers => "diffusers",
            Self::Official => "official",
        })
    }
}

/// Which model a checkpoint is, whatever its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ModelKind {
    /// Wan 2.2 text to video, two experts.
    #[serde(rename = "t2v-a14b")]
    T2vA14b,
    /// Wan 2.2 image to video, two experts.
    #[serde(rename = "i2v-a14b")]
    I2vA14b,
    /// Wan 2.2 text and image to video, one expert, VAE 2.2.
    #[serde(rename = "ti2v-5b")]
    Ti2v5b,
    /// Wan 2.1 text to video, one expert.
    #[serde(rename = "wan2.1-t2v")]
    Wan21T2v,
}

impl ModelKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Ti2v5b, Self::I2vA14b, Self::T2vA14b, Self::Wan21T2v];

    /// Name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::T2vA14b => "t2v-a14b",
            Self::I2vA14b => "i2v-a14b",
            Self::Ti2v5b => "ti2v-5b",
            Self::Wan21T2v => "wan2.1-t2v",
        }
    }

    /// Whether the model has a high-noise and a low-noise expert.
    pub fn has_two_experts(self) -> bool {
        matches!(self, Self::T2vA14b | Self::I2vA14b)
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ModelKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
                Error::caller(
                    "kind",
                    format!("{name:?} is not one of {}", names.join(", ")),
                )
            })
    }
}

/// An open checkpoint: configurations and headers are read, tensors are not.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    root: PathBuf,
    layout: Layout,
    kind: ModelKind,
    transformer: TransformerConfig,
    transformer_2: Option<TransformerConfig>,
    vae: VaeConfig,
    text: Umt5Config,
    scheduler: Option<SchedulerConfig>,
    boundary_ratio: Option<f64>,
    tokenizer: PathBuf,
    sources: BTreeMap<Component, Arc<FileSource>>,
    /// Sources that are no files, and experts with LoRAs; they go before the files.
    made: BTreeMap<Component, Arc<dyn TensorSource>>,
    loras: Vec<LoraReport>,
    log: Arc<LoadLog>,
    warnings: Vec<String>,
}

/// A checkpoint that is in no folder.
pub(crate) struct MadeCheckpoint {
    pub(crate) kind: ModelKind,
    /// Sizes of each expert.
    pub(crate) transformer: TransformerConfig,
    pub(crate) vae: VaeConfig,
    pub(crate) text: Umt5Config,
    pub(crate) boundary_ratio: Option<f64>,
    /// Folder with `tokenizer.json`.
    pub(crate) tokenizer: PathBuf,
    pub(crate) sources: BTreeMap<Component, Arc<dyn TensorSource>>,
}

impl Checkpoint {
    /// Opens a checkpoint folder of either layout. [`super::validate`] then compares its tensors with what
    /// its configuration asks for.
    ///
    /// # Errors
    /// [`Error::Artifact`] naming the first file that cannot be used; [`super::inspect`] lists all.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::open_files(&ModelFiles::new(root))
    }

    /// Opens a checkpoint folder with single files in place of some of its networks, and LoRAs.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; [`Error::Caller`] for a file or LoRA that this kind of model has no place
    /// for.
    pub fn open_files(files: &ModelFiles) -> Result<Self> {
        let mut checkpoint = Scan::run(files)?.finish()?;
        checkpoint.add_loras(files)?;
        Ok(checkpoint)
    }

    fn add_loras(&mut self, files: &ModelFiles) -> Result<()> {
        let experts: BTreeMap<_, _> = self
            .sources
            .iter()
            .filter(|(component, _)| {
                matches!(component, Component::Transformer | Component::Transformer2)
            })
            .map(|(&component, source)| (component, Arc::clone(source)))
            .collect();
        let mut merged: BTreeMap<Component, MergedSource> = BTreeMap::new();
        for (number, spec) in files.loras.iter().enumerate() {
            let lora = LoraFile::open(spec, &experts)?;
            for (component, patches) in lora.patches {
                if let Some(base) = experts.get(&component) {
                    merged
                        .entry(component)
                        .or_insert_with(|| MergedSource::new(Arc::clone(base)))
                        .add(patches);
                }
            }
            let LoraReport {
                sha256,
                strength,
                experts,
                ..
            } = &lora.report;
            let names: Vec<_> = experts.iter().map(|expert| expert.as_str()).collect();
            let line = format!("lora/{number} {} {strength} {sha256}\n", names.join("+"));
            self.log.insert(format!("lora/{number:04}"), line);
            self.warnings.extend(lora.warnings);
            self.loras.push(lora.report);
        }
        for (component, source) in merged {
            self.made.insert(component, Arc::new(source));
        }
        Ok(())
    }

    /// The LoRAs that are merged into the experts.
    pub fn loras(&self) -> &[LoraReport] {
        &self.loras
    }

    /// A checkpoint whose tensors are made rather than read.
    pub(crate) fn made(parts: MadeCheckpoint) -> Self {
        let two = parts.kind.has_two_experts();
        Self {
            root: PathBuf::from("made in memory"),
            layout: Layout::Diffusers,
            kind: parts.kind,
            transformer_2: two.then(|| parts.transformer.clone()),
            transformer: parts.transformer,
            vae: parts.vae,
            text: parts.text,
            scheduler: None,
            boundary_ratio: parts.boundary_ratio,
            tokenizer: parts.tokenizer,
            sources: BTreeMap::new(),
            made: parts.sources,
            loras: Vec::new(),
            log: Arc::default(),
            warnings: Vec::new(),
        }
    }

    /// The folder, as given to [`Checkpoint::open`].
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The layout of the folder.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The model.
    pub fn kind(&self) -> ModelKind {
        self.kind
    }

    /// Whether there is a low-noise expert, [`Component::Transformer2`].
    pub fn has_second_expert(&self) -> bool {
        self.transformer_2.is_some()
    }

    /// Sizes of an expert: the low-noise one for [`Component::Transformer2`] where there is one, else the
    /// only or high-noise one.
    pub fn transformer_config(&self, component: Component) -> &TransformerConfig {
        match (component, &self.transformer_2) {
            (Component::Transformer2, Some(config)) => config,
            _ => &self.transformer,
        }
    }

    /// Sizes of the VAE.
    pub fn vae_config(&self) -> &VaeConfig {
        &self.vae
    }

    /// Sizes of the text encoder.
    pub fn text_config(&self) -> &Umt5Config {
        &self.text
    }

    /// The checkpoint's sampler settings; the official layout has none.
    pub fn scheduler_config(&self) -> Option<&SchedulerConfig> {
        self.scheduler.as_ref()
    }

    /// Where the low-noise expert takes over, as a fraction of the training timesteps.
    pub fn boundary_ratio(&self) -> Option<f64> {
        self.boundary_ratio
    }

    /// Folder with `tokenizer.json`.
    pub fn tokenizer_dir(&self) -> &Path {
        &self.tokenizer
    }

    /// What was ignored, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The tensors of a component, under diffusers names.
    ///
    /// # Errors
    /// [`Error::Artifact`] when the checkpoint has no such component.
    pub fn source(&self, component: Component) -> Result<Arc<dyn TensorSource>> {
        if let Some(source) = self.made.get(&component) {
            return Ok(Arc::clone(source));
        }
        self.sources
            .get(&component)
            .map(|source| Arc::clone(source) as Arc<dyn TensorSource>)
            .ok_or_else(|| {
                Error::artifact(
                    &self.root,
                    format!("a {} checkpoint has no {component}", self.kind),
                )
            })
    }

    /// Digest of everything loaded so far: hexadecimal SHA-256 over the sorted lines
    /// `component/name dtype shape sha256`, where `sha256` is over the stored bytes of the tensor, and one
    /// line `lora/number experts strength sha256` per LoRA. It does not depend on layout, sharding or the
    /// type that tensors are cast to.
    pub fn digest(&self) -> String {
        self.log.digest()
    }

    /// The sizes that each component is validated against.
    pub(super) fn parts(&self) -> impl Iterator<Item = (Component, Sizes<'_>, &FileSource)> {
        self.sources.iter().map(|(&component, source)| {
            let sizes = match component {
                Component::Transformer | Component::Transformer2 => {
                    Sizes::Transformer(self.transformer_config(component))
                }
                Component::Vae => Sizes::Vae(&self.vae),
                Component::TextEncoder => Sizes::Text(&self.text),
            };
            (component, sizes, source.as_ref())
        })
    }
}

/// The configuration of one component.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub(crate) enum Sizes<'a> {
    Transformer(&'a TransformerConfig),
    Vae(&'a VaeConfig),
    Text(&'a Umt5Config),
}
