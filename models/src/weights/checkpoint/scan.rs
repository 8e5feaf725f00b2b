//! What can be found out about a checkpoint's files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::super::config::{self, SchedulerConfig};
use super::super::files::{self, ModelFiles};
use super::super::folder::{Folder, TensorFile};
use super::super::infer;
use super::super::source::{FileSource, LoadLog};
use super::{Checkpoint, Component, Layout, ModelKind};
use crate::error::{Error, Result};
use crate::text::Umt5Config;
use crate::wan::{TransformerConfig, VaeConfig};

/// Everything that can be found out about a folder without stopping at the first problem.
#[derive(Debug)]
pub(in crate::weights) struct Scan {
    folder: Folder,
    files: ModelFiles,
    pub(in crate::weights) layout: Option<Layout>,
    pub(in crate::weights) kind: Option<ModelKind>,
    pub(in crate::weights) transformer: Option<TransformerConfig>,
    pub(in crate::weights) transformer_2: Option<TransformerConfig>,
    pub(in crate::weights) vae: Option<VaeConfig>,
    pub(in crate::weights) text: Option<Umt5Config>,
    pub(in crate::weights) scheduler: Option<SchedulerConfig>,
    pub(in crate::weights) boundary_ratio: Option<f64>,
    pub(in crate::weights) tokenizer: Option<PathBuf>,
    pub(in crate::weights) sources: BTreeMap<Component, Arc<FileSource>>,
    log: Arc<LoadLog>,
    pub(in crate::weights) warnings: Vec<String>,
    pub(in crate::weights) problems: Vec<Error>,
}

impl Scan {
    pub(in crate::weights) fn run(files: &ModelFiles) -> Result<Self> {
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

    pub(super) fn finish(mut self) -> Result<Checkpoint> {
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
