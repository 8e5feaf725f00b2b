//! Which networks of a checkpoint are in memory.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::precision::Precision;
use crate::rounding::Rounding;
use crate::text::Umt5Encoder;
use crate::wan::WanTransformer3d;
use crate::wan::transformer::{BlockStorage, TextContext};
use crate::wan::vae::{AutoencoderKlWan, VaeParts};
use crate::weights::{Checkpoint, Component, VarBuilder};

/// What stays in memory between uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Offload {
    /// Everything, loaded once.
    #[default]
    None,
    /// The VAE only; the text encoder and one expert at a time are loaded when needed and dropped after.
    Experts,
    /// Nothing; of the VAE the half that is needed, and of the expert at most two transformer blocks at a
    /// time: the next one is brought in while one is computed.
    Blocks,
}

impl Offload {
    /// All modes, the fastest first.
    pub const ALL: [Self; 3] = [Self::None, Self::Experts, Self::Blocks];

    /// Name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Experts => "experts",
            Self::Blocks => "blocks",
        }
    }

    /// Whether networks stay in memory between clips.
    pub fn keeps(self) -> bool {
        self == Self::None
    }

    fn block_storage(self) -> BlockStorage {
        match self {
            Self::None | Self::Experts => BlockStorage::Resident,
            Self::Blocks => BlockStorage::Streamed,
        }
    }
}

impl std::str::FromStr for Offload {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str() == name)
            .ok_or_else(|| {
                Error::caller(
                    "offload",
                    format!("`{name}` is not one of none, experts, blocks"),
                )
            })
    }
}

impl std::fmt::Display for Offload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The two experts of an A14B model; models with one expert only have [`Expert::HighNoise`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expert {
    /// `transformer`, for noisy latents.
    HighNoise,
    /// `transformer_2`, for the last steps.
    LowNoise,
}

impl Expert {
    fn component(self) -> Component {
        match self {
            Self::HighNoise => Component::Transformer,
            Self::LowNoise => Component::Transformer2,
        }
    }
}

/// Text contexts of one expert for the current prompts.
#[derive(Debug, Clone)]
pub(super) struct Contexts {
    pub(super) cond: TextContext,
    pub(super) uncond: Option<TextContext>,
}

/// The networks in memory.
#[derive(Debug)]
pub(super) struct Components {
    checkpoint: Checkpoint,
    precision: Precision,
    rounding: Rounding,
    device: Device,
    /// Where the text encoder runs.
    text_device: Device,
    offload: Offload,
    text: Option<Umt5Encoder>,
    /// Shared with clips that are still being decoded.
    vae: Option<(Arc<AutoencoderKlWan>, VaeParts)>,
    experts: [Option<WanTransformer3d>; 2],
    /// Seconds spent reading weights since the last [`Components::take_load_time`].
    load_s: f64,
}

impl Components {
    pub(super) fn new(
        checkpoint: Checkpoint,
        precision: Precision,
        device: Device,
        offload: Offload,
    ) -> Self {
        Self {
            checkpoint,
            precision,
            rounding: Rounding::default(),
            text_device: device.clone(),
            device,
            offload,
            text: None,
            vae: None,
            experts: [None, None],
            load_s: 0.0,
        }
    }

    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn text_device(&self) -> &Device {
        &self.text_device
    }

    /// Moves the text encoder elsewhere; what was loaded of it is dropped.
    pub(super) fn set_text_device(&mut self, device: Device) {
        self.text_device = device;
        self.text = None;
    }

    /// Changes what stays in memory; what was loaded is dropped.
    pub(super) fn set_offload(&mut self, offload: Offload) {
        if offload != self.offload {
            self.offload = offload;
            self.text = None;
            self.vae = None;
            self.experts = [None, None];
        }
    }

    pub(super) fn offload(&self) -> Offload {
        self.offload
    }

    /// Changes where the networks round; what was loaded is dropped.
    pub(super) fn set_rounding(&mut self, rounding: Rounding) -> Result<()> {
        rounding.check(self.precision.dtype())?;
        self.rounding = rounding;
        (self.text, self.vae, self.experts) = (None, None, [None, None]);
        Ok(())
    }

    /// Type of residual stream, velocity and VAE.
    pub(super) fn wide(&self) -> DType {
        self.rounding.wide(self.precision.dtype())
    }

    pub(super) fn rounding(&self) -> Option<Rounding> {
        (self.precision.dtype() == DType::BF16).then_some(self.rounding)
    }

    pub(super) fn take_load_time(&mut self) -> f64 {
        std::mem::take(&mut self.load_s)
    }

    fn builder(&self, component: Component) -> Result<VarBuilder> {
        let source = self.checkpoint.source(component)?;
        let device = match component {
            Component::TextEncoder => &self.text_device,
            _ => &self.device,
        };
        let dtype = match component {
            Component::Vae => self.wide(),
            _ => self.precision.dtype(),
        };
        let vb = VarBuilder::new(source, dtype, device);
        Ok(vb
            .with_rounding(self.rounding)
            .with_fp8(self.precision.is_fp8()))
    }

    /// The text encoder, loaded when it is not there.
    pub(super) fn text(&mut self) -> Result<&Umt5Encoder> {
        if self.text.is_none() {
            let start = Instant::now();
            let vb = self.builder(Component::TextEncoder)?;
            self.text = Some(Umt5Encoder::new(self.checkpoint.text_config(), vb)?);
            self.load_s += start.elapsed().as_secs_f64();
        }
        self.text
            .as_ref()
            .ok_or_else(|| Error::local("text encoder is gone"))
    }

    /// Drops the text encoder unless it stays.
    pub(super) fn text_done(&mut self) {
        if !self.offload.keeps() {
            self.text = None;
            release_freed_memory();
        }
    }

    /// The VAE with at least the parts asked for.
    pub(super) fn vae(&mut self, parts: VaeParts) -> Result<Arc<AutoencoderKlWan>> {
        let enough =
            matches!(&self.vae, Some((_, have)) if *have == parts || *have == VaeParts::Both);
        if !enough {
            let start = Instant::now();
            // Where the VAE stays it serves many requests: take all of it at once. A part that is there
            // already is dropped first, so that two copies are never held.
            self.vae = None;
            let parts = match self.offload {
                Offload::None | Offload::Experts => VaeParts::Both,
                Offload::Blocks => parts,
            };
            let vb = self.builder(Component::Vae)?;
            let vae = AutoencoderKlWan::new(self.checkpoint.vae_config(), vb, parts)?;
            self.vae = Some((Arc::new(vae), parts));
            self.load_s += start.elapsed().as_secs_f64();
        }
        self.vae
            .as_ref()
            .map(|(vae, _)| Arc::clone(vae))
            .ok_or_else(|| Error::local("VAE is gone"))
    }

    /// Drops the VAE where nothing stays; clips that are being decoded keep theirs.
    pub(super) fn vae_done(&mut self) {
        if self.offload == Offload::Blocks {
            self.vae = None;
            release_freed_memory();
        }
    }

    /// One expert; with offloading the other one is dropped first.
    pub(super) fn expert(&mut self, expert: Expert) -> Result<&WanTransformer3d> {
        let index = expert as usize;
        if self.experts[index].is_none() {
            let start = Instant::now();
            if !self.offload.keeps() {
                self.experts = [None, None];
                release_freed_memory();
            }
            let vb = self.builder(expert.component())?;
            let cfg = self.checkpoint.transformer_config(expert.component());
            self.experts[index] = Some(WanTransformer3d::with_blocks(
                cfg,
                &vb,
                self.offload.block_storage(),
            )?);
            self.load_s += start.elapsed().as_secs_f64();
        }
        self.experts[index]
            .as_ref()
            .ok_or_else(|| Error::local("expert is gone"))
    }

    /// Drops the experts unless they stay: decoding needs the memory more.
    pub(super) fn experts_done(&mut self) {
        if !self.offload.keeps() {
            self.experts = [None, None];
            release_freed_memory();
        }
    }
}

/// Hands freed pages back to the system: without it the allocator keeps the pieces of a dropped network,
/// and the next network comes on top of them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn release_freed_memory() {
    // SAFETY: malloc_trim has no preconditions; it only releases memory that nothing owns.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn release_freed_memory() {}
