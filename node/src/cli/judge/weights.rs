//! Options of the local judge, shared by all who run it.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use candle_core::Device;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use leoma_models::Precision;

use crate::Error;
use crate::cli::target::DeviceArg;
use crate::judge::embeddings::EmbeddingSettings;
use crate::judge::local::{LocalProfile, LocalSettings};

/// Which models judge on this machine, and how.
#[derive(Debug, Args)]
pub(super) struct LocalArgs {
    /// Folder of a judge's model, as published; without one the local judge is the signals, which can fail a clip and
    /// never pass it.
    #[arg(
        id = "local_model",
        long = "local-model",
        value_name = "DIR",
        env = "LEOMA_NODE_JUDGE_LOCAL_MODEL",
        help_heading = "Local judge"
    )]
    pub(super) model: Option<PathBuf>,
    /// How that model is asked: rubric for Qwen3-VL-Instruct, unified for UnifiedReward-2.0.
    #[arg(
        id = "local_profile",
        long = "local-profile",
        value_name = "PROFILE",
        default_value = "rubric",
        value_parser = profiles(),
        env = "LEOMA_NODE_JUDGE_LOCAL_PROFILE",
        help_heading = "Local judge"
    )]
    pub(super) profile: LocalProfile,
    /// Type of its weights and activations.
    #[arg(
        id = "local_dtype",
        long = "local-dtype",
        value_name = "TYPE",
        default_value = "f32",
        value_parser = precisions(),
        env = "LEOMA_NODE_JUDGE_LOCAL_DTYPE",
        help_heading = "Local judge"
    )]
    precision: Precision,
    /// Most tokens of an image, and of two frames of the clip: fewer are cheaper and see less; default: what the
    /// model's files allow.
    #[arg(
        id = "local_tokens_per_picture",
        long = "local-tokens-per-picture",
        value_name = "N",
        env = "LEOMA_NODE_JUDGE_LOCAL_TOKENS_PER_PICTURE",
        help_heading = "Local judge"
    )]
    tokens_per_picture: Option<NonZeroU16>,
    /// Folder of a CLIP checkpoint, as published: how far the clip fits its prompt and stays itself goes on record.
    #[arg(
        long,
        value_name = "DIR",
        env = "LEOMA_NODE_JUDGE_CLIP",
        help_heading = "Local judge"
    )]
    clip: Option<PathBuf>,
    /// Folder of a DINOv2 checkpoint, as published: consistency goes on record, and a first frame that it takes for the
    /// given one keeps the gate of the first frame open.
    #[arg(
        long,
        value_name = "DIR",
        env = "LEOMA_NODE_JUDGE_DINOV2",
        help_heading = "Local judge"
    )]
    dinov2: Option<PathBuf>,
    /// Where these models compute: cpu, cuda, cuda:N or auto.
    #[arg(
        long,
        default_value = "auto",
        env = "LEOMA_NODE_DEVICE",
        help_heading = "Local judge"
    )]
    device: DeviceArg,
}

fn profiles() -> impl TypedValueParser<Value = LocalProfile> {
    PossibleValuesParser::new(LocalProfile::ALL.map(LocalProfile::name)).try_map(|name| {
        let found = LocalProfile::ALL
            .into_iter()
            .find(|profile| profile.name() == name);
        found.ok_or("is no profile")
    })
}

fn precisions() -> impl TypedValueParser<Value = Precision> {
    const KNOWN: [Precision; 2] = [Precision::F32, Precision::Bf16];
    PossibleValuesParser::new(KNOWN.map(Precision::as_str))
        .try_map(|name| name.parse::<Precision>())
}

impl LocalArgs {
    /// What these options say of a local judge; rules, frames and the like are left as they are by default.
    ///
    /// # Errors
    /// [`leoma_models::Error::Local`] when a CUDA device was asked for and cannot be had.
    pub(super) fn settings(&self) -> Result<LocalSettings, Error> {
        let device = self.open_device()?;
        Ok(LocalSettings {
            model: self.model.clone(),
            profile: self.profile,
            precision: self.precision,
            tokens_per_picture: self.tokens_per_picture.map(|tokens| tokens.get().into()),
            embeddings: EmbeddingSettings {
                clip: self.clip.clone(),
                dinov2: self.dinov2.clone(),
                device: device.clone(),
                ..EmbeddingSettings::default()
            },
            device,
            ..LocalSettings::default()
        })
    }

    /// Each folder of weights that is named, and the type that it computes in.
    pub(super) fn weights(&self) -> Vec<(&Path, Precision)> {
        let model = self.model.iter().map(|folder| (folder, self.precision));
        let others = [&self.clip, &self.dinov2].into_iter().flatten();
        let all = model.chain(others.map(|folder| (folder, Precision::F32)));
        all.map(|(folder, precision)| (folder.as_path(), precision))
            .collect()
    }

    /// The device of the models; signals need none.
    fn open_device(&self) -> Result<Device, Error> {
        if self.weights().is_empty() {
            Ok(Device::Cpu)
        } else {
            Ok(self.device.open()?)
        }
    }
}
