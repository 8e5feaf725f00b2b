//! A checkpoint folder: which layout, which model, which sizes, and a tensor source per component.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::config::{self, SchedulerConfig};
use super::files::{self, ModelFiles};
use super::folder::{Folder, TensorFile};
use super::infer;
use super::lora::{LoraFile, LoraReport, MergedSource};
use super::source::{FileSource, LoadLog};
use super::var_builder::TensorSource;
use crate::error::{Error, Result};
use crate::text::Umt5Config;
use crate::wan::{TransformerConfig, VaeConfig};

/// A network of a checkpoint. [`fmt::Display`] gives its folder in the diffusers layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
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

/// Everything that can be found out about a folder without stopping at the first problem.
#[derive(Debug)]
pub(super) struct Scan {
    folder: Folder,
    files: ModelFiles,
    pub(super) layout: Option<Layout>,
    pub(super) kind: Option<ModelKind>,
    pub(super) transformer: Option<TransformerConfig>,
    pub(super) transformer_2: Option<TransformerConfig>,
    pub(super) vae: Option<VaeConfig>,
    pub(super) text: Option<Umt5Config>,
    pub(super) scheduler: Option<SchedulerConfig>,
    pub(super) boundary_ratio: Option<f64>,
    pub(super) tokenizer: Option<PathBuf>,
    pub(super) sources: BTreeMap<Component, Arc<FileSource>>,
    log: Arc<LoadLog>,
    pub(super) warnings: Vec<String>,
    pub(super) problems: Vec<Error>,
}

impl Scan {
    pub(super) fn run(files: &ModelFiles) -> Result<Self> {
        let root = files.root.as_path();
        let mut scan = Self {
            folder: Folder::open(root)?,
            files: files.clone(),
            layout: None,
            kind: None,
            transformer: None,
            transformer_2: None,
            vae: None,
            text: None,
            scheduler: None,
            boundary_ratio: None,
            tokenizer: None,
            sources: BTreeMap::new(),
            log: Arc::default(),
            warnings: Vec::new(),
            problems: Vec::new(),
        };
        let two = ["high_noise_model", "low_noise_model"];
        if scan.folder.has_file("model_index.json") {
            scan.layout = Some(Layout::Diffusers);
            scan.diffusers();
        } else if two.iter().any(|name| scan.folder.has_folder(name)) {
            scan.layout = Some(Layout::Official);
            scan.official(&[
                (Component::Transformer, two[0]),
                (Component::Transformer2, two[1]),
            ]);
        } else if scan.folder.has_file("config.json") {
            scan.layout = Some(Layout::Official);
            scan.official(&[(Component::Transformer, "")]);
        } else {
            scan.problems.push(Error::artifact(
                root,
                "not a Wan checkpoint: neither model_index.json (diffusers layout) nor high_noise_model/ or \
                 config.json (official layout) is here",
            ));
            return Ok(scan);
        }
        scan.check_replaced();
        scan.decide_kind();
        Ok(scan)
    }

    /// A file in place of an expert must be one of the same sizes, and have a place.
    fn check_replaced(&mut self) {
        for (component, path) in self.files.replaced.clone() {
            let config = match component {
                Component::Transformer => self.transformer.as_ref(),
                Component::Transformer2 => self.transformer_2.as_ref(),
                Component::Vae | Component::TextEncoder => continue,
            };
            let checked = match (self.sources.get(&component), config) {
                (Some(source), Some(config)) => files::check_transformer(source, config),
                (None, None) if component == Component::Transformer2 => Err(Error::caller(
                    "transformer_2",
                    format!(
                        "{}: this model has one expert; leave it out",
                        path.display()
                    ),
                )),
                // The reason is among the problems.
                _ => Ok(()),
            };
            self.keep(checked);
        }
    }

    /// The files of a network: the one that replaces it, or those of the folder.
    fn tensor_files(
        &self,
        component: Component,
        own: impl FnOnce(&Folder) -> Result<Vec<TensorFile>>,
    ) -> Result<Vec<TensorFile>> {
        self.files
            .replacement(component)
            .unwrap_or_else(|| own(&self.folder))
    }

    fn finish(mut self) -> Result<Checkpoint> {
        if !self.problems.is_empty() {
            return Err(self.problems.swap_remove(0));
        }
        let incomplete = || Error::artifact(self.folder.root(), "the checkpoint is incomplete");
        Ok(Checkpoint {
            layout: self.layout.ok_or_else(incomplete)?,
            kind: self.kind.ok_or_else(incomplete)?,
            transformer: self.transformer.ok_or_else(incomplete)?,
            transformer_2: self.transformer_2,
            vae: self.vae.ok_or_else(incomplete)?,
            text: self.text.ok_or_else(incomplete)?,
            scheduler: self.scheduler,
            boundary_ratio: self.boundary_ratio,
            tokenizer: self.tokenizer.ok_or_else(incomplete)?,
            sources: self.sources,
            made: BTreeMap::new(),
            loras: Vec::new(),
            log: self.log,
            warnings: self.warnings,
            root: self.folder.root().to_owned(),
        })
    }

    /// Notes an error and goes on.
    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.problems.push(error)).ok()
    }

    fn problem(&mut self, relative: &str, message: impl Into<String>) {
        let path = self.folder.path(relative);
        self.problems.push(Error::artifact(path, message));
    }

    fn add_source(&mut self, component: Component, files: Result<Vec<TensorFile>>) {
        let log = Arc::clone(&self.log);
        let source = files.and_then(|files| FileSource::new(component, files, log));
        if let Some(source) = self.keep(source) {
            if let Some(variant) = unsupported_variant(&source) {
                let path = source
                    .files()
                    .first()
                    .map_or_else(PathBuf::new, |file| file.path.clone());
                self.problems.push(Error::artifact(
                    path,
                    format!("holds tensors of {variant}, which is not supported; use a text-to-video or \
                             image-to-video checkpoint of Wan 2.2"),
                ));
            }
            self.warnings.extend_from_slice(source.warnings());
            self.sources.insert(component, Arc::new(source));
        }
    }

    fn diffusers(&mut self) {
        let index = self.folder.json("model_index.json");
        let index = self.keep(index).unwrap_or_default();
        if let Some(class) = index.get("_class_name").and_then(Value::as_str)
            && !["WanPipeline", "WanImageToVideoPipeline"].contains(&class)
        {
            self.problem(
                "model_index.json",
                format!(
                    "describes a {class}, which is not supported; WanPipeline and \
                         WanImageToVideoPipeline are"
                ),
            );
        }
        match index.get("boundary_ratio") {
            None | Some(Value::Null) => {}
            Some(value) => match value.as_f64().filter(|ratio| (0.0..=1.0).contains(ratio)) {
                None => self.problem(
                    "model_index.json",
                    format!("`boundary_ratio` is {value}; a number from 0 to 1 is expected"),
                ),
                ratio => self.boundary_ratio = ratio,
            },
        }
        // A component is `[library, class]`, or `[null, null]` where there is none.
        let listed = match index.get("transformer_2") {
            Some(entry) => entry.get(0).is_some_and(|library| !library.is_null()),
            None => self.folder.has_folder("transformer_2"),
        };
        for component in Component::ALL {
            if component == Component::Transformer2 && !listed {
                continue;
            }
            let config_path = format!("{component}/config.json");
            let path = self.folder.path(&config_path);
            let object = self.folder.json(&config_path);
            if let Some(object) = self.keep(object) {
                let warnings = &mut self.warnings;
                match component {
                    Component::Transformer | Component::Transformer2 => {
                        let parsed = config::transformer(&path, &object, warnings);
                        let parsed = self.keep(parsed);
                        *self.expert(component) = parsed;
                    }
                    Component::Vae => {
                        let parsed = config::vae(&path, &object, warnings);
                        self.vae = self.keep(parsed);
                    }
                    Component::TextEncoder => {
                        let parsed = config::text(&path, &object, warnings);
                        self.text = self.keep(parsed);
                    }
                }
            }
            let files = self.tensor_files(component, |folder| {
                folder.safetensors(Path::new(component.as_str()))
            });
            self.add_source(component, files);
        }
        if listed && self.boundary_ratio.is_none() {
            self.warnings.push(
                "model_index.json gives no boundary_ratio: the low-noise expert is only used when one is \
                 asked for"
                    .into(),
            );
        }
        let scheduler = "scheduler/scheduler_config.json";
        if self.folder.has_file(scheduler) {
            let path = self.folder.path(scheduler);
            let parsed = self
                .folder
                .json(scheduler)
                .and_then(|object| config::scheduler(&path, &object));
            self.scheduler = self.keep(parsed);
        } else {
            self.warnings.push(format!(
                "{scheduler} is missing: the flow shift comes from the preset"
            ));
        }
        self.find_tokenizer(&["tokenizer"]);
    }

    fn expert(&mut self, component: Component) -> &mut Option<TransformerConfig> {
        match component {
            Component::Transformer2 => &mut self.transformer_2,
            _ => &mut self.transformer,
        }
    }

    fn official(&mut self, experts: &[(Component, &str)]) {
        for &(component, folder) in experts {
            let files = self.tensor_files(component, |root| root.safetensors(Path::new(folder)));
            self.add_source(component, files);
            let relative = Path::new(folder).join("config.json");
            let path = self.folder.path(&relative);
            let object = self.folder.json(&relative);
            let Some(object) = self.keep(object) else {
                continue;
            };
            let Some(source) = self.sources.get(&component).map(Arc::clone) else {
                continue;
            };
            let warnings = &mut self.warnings;
            let parsed = infer::transformer(&source).and_then(|(patch, text)| {
                config::official_transformer(&path, &object, patch, text, warnings)
            });
            let parsed = self.keep(parsed);
            *self.expert(component) = parsed;
        }

        let names = self.folder.list("");
        let names = self.keep(names).unwrap_or_default();
        let tensors = |name: &String| name.ends_with(".pth") || name.ends_with(".safetensors");
        let pick = |fits: &dyn Fn(&str) -> bool| {
            names
                .iter()
                .find(|name| tensors(name) && fits(name))
                .cloned()
        };
        let text = pick(&|name| name.starts_with("models_t5"));
        let vae = pick(&|name| name.contains("VAE"));
        for (component, file, usual) in [
            (
                Component::TextEncoder,
                text,
                "models_t5_umt5-xxl-enc-bf16.pth",
            ),
            (Component::Vae, vae, "Wan2.1_VAE.pth or Wan2.2_VAE.pth"),
        ] {
            match file {
                _ if self.files.replaced.contains_key(&component) => {
                    let opened = self.tensor_files(component, |_| Ok(Vec::new()));
                    self.add_source(component, opened);
                }
                Some(file) => {
                    let opened = self
                        .folder
                        .tensor_file(&self.folder.path(file))
                        .map(|file| vec![file]);
                    self.add_source(component, opened);
                }
                None => self.problem(
                    "",
                    format!("no {component} is here, which is usually {usual}"),
                ),
            }
        }
        if let Some(source) = self.sources.get(&Component::TextEncoder).map(Arc::clone) {
            let path = source.files()[0].path.clone();
            let sizes =
                infer::text(&source).and_then(|cfg| config::check_text(&path, &cfg).map(|()| cfg));
            self.text = self.keep(sizes);
        }
        if let Some(source) = self.sources.get(&Component::Vae).map(Arc::clone) {
            let path = source.files()[0].path.clone();
            let sizes =
                infer::vae(&source).and_then(|cfg| config::check_vae(&path, &cfg).map(|()| cfg));
            self.vae = self.keep(sizes);
        }
        self.find_tokenizer(&["google/umt5-xxl", "tokenizer"]);
    }

    fn find_tokenizer(&mut self, folders: &[&str]) {
        match folders.iter().find(|folder| self.folder.has_file(Path::new(folder).join("tokenizer.json"))) {
            Some(folder) => self.tokenizer = Some(self.folder.path(folder)),
            None => self.problem(
                folders[0],
                "tokenizer.json is missing; fetch it from the same checkpoint (a SentencePiece model alone \
                 is not read)",
            ),
        }
    }

    /// The model follows from channels, experts and the VAE, never from sizes.
    fn decide_kind(&mut self) {
        let (Some(transformer), Some(vae)) = (&self.transformer, &self.vae) else {
            return;
        };
        let two =
            self.sources.contains_key(&Component::Transformer2) || self.transformer_2.is_some();
        let (inputs, z) = (transformer.in_channels, vae.z_dim);
        // Mask channels (one per frame of a latent frame) and the latents of the first frame.
        let conditioned = z + vae.scale_factor_temporal + z;
        let kind = if transformer.out_channels != z {
            Err(format!(
                "the transformer predicts {} channels, the VAE has {z}",
                transformer.out_channels
            ))
        } else if inputs == z {
            match (two, vae.is_residual) {
                (true, false) => Ok(ModelKind::T2vA14b),
                (false, true) => Ok(ModelKind::Ti2v5b),
                (false, false) => Ok(ModelKind::Wan21T2v),
                (true, true) => Err("two experts with VAE 2.2 are no released model".to_owned()),
            }
        } else if inputs == conditioned {
            if two {
                Ok(ModelKind::I2vA14b)
            } else {
                Err("a single expert with image condition (Wan 2.1 image-to-video) is not supported; use \
                     Wan 2.2 I2V-A14B"
                    .to_owned())
            }
        } else {
            Err(format!(
                "the transformer takes {inputs} channels; {z} (text to video) or {conditioned} (image to \
                 video) go with this VAE, other variants are not supported"
            ))
        };
        let same = self.transformer_2.as_ref().is_none_or(|second| {
            (
                second.in_channels,
                second.out_channels,
                second.text_dim,
                second.patch_size,
            ) == (
                inputs,
                transformer.out_channels,
                transformer.text_dim,
                transformer.patch_size,
            )
        });
        let text_dim = transformer.text_dim;
        match kind {
            Ok(kind) => self.kind = Some(kind),
            Err(message) => self.problem("", message),
        }
        if !same {
            self.problem(
                "",
                "the two experts differ in channels, text width or patch; they are not a pair",
            );
        }
        if let Some(text) = &self.text
            && text.d_model != text_dim
        {
            let message = format!(
                "the text encoder gives rows of {}, the transformer takes {text_dim}",
                text.d_model
            );
            self.problem("", message);
        }
        if self.layout == Some(Layout::Official) {
            self.boundary_ratio = match self.kind {
                Some(ModelKind::T2vA14b) => Some(0.875),
                Some(ModelKind::I2vA14b) => Some(0.900),
                _ => None,
            };
        }
    }
}

/// Networks that share names with Wan's transformer and are something else.
fn unsupported_variant(source: &FileSource) -> Option<&'static str> {
    const VARIANTS: [(&str, &str); 9] = [
        ("img_emb.", "Wan 2.1 image-to-video (CLIP branch)"),
        (
            "condition_embedder.image_embedder.",
            "Wan 2.1 image-to-video (CLIP branch)",
        ),
        ("vace_", "VACE"),
        ("motion_encoder.", "Animate"),
        ("face_adapter.", "Animate"),
        ("casual_audio_encoder.", "speech-to-video"),
        ("audio_injector.", "speech-to-video"),
        ("control_adapter.", "camera control"),
        ("ref_conv.", "reference control"),
    ];
    source.entries().find_map(|(name, _)| {
        VARIANTS
            .iter()
            .find(|(prefix, _)| name.starts_with(prefix))
            .map(|(_, variant)| *variant)
    })
}
