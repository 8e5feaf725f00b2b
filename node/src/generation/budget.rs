//! Whether a generation fits: its memory plan against what there is, and the offload mode that `auto` takes.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use leoma_models::Error;
use leoma_models::wan::pipeline::Offload;
use leoma_models::wan::plan::{Memory, MemoryPlan, ModelSizes, PlanOptions, PlanRequest};

use crate::memory::{device_available, host_available};

/// `--offload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OffloadChoice {
    /// The fastest mode that fits.
    #[default]
    Auto,
    /// This mode.
    Fixed(Offload),
}

impl FromStr for OffloadChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        if name == "auto" {
            return Ok(Self::Auto);
        }
        name.parse().map(Self::Fixed).map_err(|_| {
            let message = format!("`{name}` is not one of auto, none, experts, blocks");
            Error::caller("offload", message)
        })
    }
}

impl fmt::Display for OffloadChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(mode) => mode.fmt(f),
        }
    }
}

/// `--text-encoder-device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TextEncoderDevice {
    /// Where everything else runs.
    #[default]
    Same,
    /// The processor.
    Cpu,
}

impl FromStr for TextEncoderDevice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "same" => Ok(Self::Same),
            "cpu" => Ok(Self::Cpu),
            _ => Err(Error::caller(
                "text_encoder_device",
                format!("`{name}` is not one of same, cpu"),
            )),
        }
    }
}

impl fmt::Display for TextEncoderDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "same",
            Self::Cpu => "cpu",
        })
    }
}

/// How memory is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryOptions {
    /// What stays in memory.
    pub offload: OffloadChoice,
    /// Where the text encoder runs.
    pub text_encoder: TextEncoderDevice,
    /// Most bytes that may be used of the memory the model is in.
    pub limit: Option<u64>,
}

impl From<Offload> for MemoryOptions {
    fn from(offload: Offload) -> Self {
        Self {
            offload: OffloadChoice::Fixed(offload),
            ..Self::default()
        }
    }
}

/// Memory that a generation may use; `None` where nobody can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Of the accelerator.
    pub device: Option<u64>,
    /// Of the machine.
    pub host: Option<u64>,
}

impl Budget {
    /// What is free now, and at most `limit` of the memory that the model is in.
    pub fn measure(device: &Device, limit: Option<u64>) -> Self {
        let cap = |free: Option<u64>| match (free, limit) {
            (Some(free), Some(limit)) => Some(free.min(limit)),
            (free, limit) => free.or(limit),
        };
        if device.is_cpu() {
            return Self {
                device: None,
                host: cap(host_available()),
            };
        }
        Self {
            device: cap(device_available(device)),
            host: host_available(),
        }
    }

    fn of(self, memory: Memory) -> Option<u64> {
        match memory {
            Memory::Device => self.device,
            Memory::Host => self.host,
        }
    }
}

/// Too little memory for a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Which memory.
    pub memory: Memory,
    /// Bytes needed, the plan's tolerance included.
    pub needed: u64,
    /// Bytes there are.
    pub available: u64,
    /// What would help.
    pub remedy: String,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = match self.memory {
            Memory::Device => "device memory",
            Memory::Host => "memory",
        };
        let [needed, available] = [self.needed, self.available].map(|bytes| bytes as f64 / 1e9);
        write!(
            f,
            "{needed:.2} GB of {memory} are needed and {available:.2} GB are available; {}",
            self.remedy
        )
    }
}

/// Plans and decides for one model on one machine.
#[derive(Debug, Clone)]
pub struct Planning {
    sizes: ModelSizes,
    options: PlanOptions,
    budget: Budget,
    /// Whether one clip is decoded while the next is worked on.
    serving: bool,
}

impl Planning {
    /// For a model that runs as `options` say with what `budget` leaves.
    pub fn new(sizes: ModelSizes, options: PlanOptions, budget: Budget) -> Self {
        Self {
            sizes,
            options,
            budget,
            serving: false,
        }
    }

    /// For a node that decodes one clip while it works on the next.
    #[must_use]
    pub fn serving(self) -> Self {
        Self {
            serving: true,
            ..self
        }
    }

    /// What may be used.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// The mode that plans are made for.
    pub fn offload(&self) -> Offload {
        self.options.offload
    }

    /// Plans for another mode from now on.
    pub fn set_offload(&mut self, offload: Offload) {
        self.options.offload = offload;
    }

    /// Plans for another way of computing from now on; the offload mode stays.
    pub fn set_options(&mut self, options: PlanOptions) {
        self.options = PlanOptions {
            offload: self.options.offload,
            ..options
        };
    }

    /// The plan of a generation.
    pub fn plan(&self, request: PlanRequest) -> MemoryPlan {
        MemoryPlan::new(&self.sizes, request, self.options)
    }

    /// The fastest mode in which the generation fits; the most sparing one where none does.
    pub fn choose(&self, request: PlanRequest) -> Offload {
        let fits = |mode: &Offload| {
            let options = PlanOptions {
                offload: *mode,
                ..self.options
            };
            self.lacks(&MemoryPlan::new(&self.sizes, request, options))
                .is_none()
        };
        Offload::ALL
            .into_iter()
            .find(fits)
            .unwrap_or(Offload::Blocks)
    }

    /// Refuses what does not fit.
    ///
    /// # Errors
    /// [`Shortage`] with what is needed, what there is and what would help.
    pub fn check(&self, plan: &MemoryPlan) -> Result<(), Shortage> {
        match self.lacks(plan) {
            None => Ok(()),
            Some((memory, needed, available)) => Err(Shortage {
                memory,
                needed,
                available,
                remedy: self.remedy(plan.request),
            }),
        }
    }

    /// Bytes of one memory that the plan asks for, with the 5 % by which plans may be off.
    pub fn needed(&self, plan: &MemoryPlan, memory: Memory) -> u64 {
        let peak = if self.serving {
            plan.serving_peak(memory)
        } else {
            plan.peak(memory)
        };
        peak + peak / 20
    }

    fn lacks(&self, plan: &MemoryPlan) -> Option<(Memory, u64, u64)> {
        Memory::ALL.into_iter().find_map(|memory| {
            let needed = self.needed(plan, memory);
            let available = self.budget.of(memory)?;
            (needed > available).then_some((memory, needed, available))
        })
    }

    /// The first change of settings after which it fits.
    fn remedy(&self, request: PlanRequest) -> String {
        let tries = |options: PlanOptions| {
            let fits = |mode: &Offload| {
                let options = PlanOptions {
                    offload: *mode,
                    ..options
                };
                self.lacks(&MemoryPlan::new(&self.sizes, request, options))
                    .is_none()
            };
            Offload::ALL.into_iter().find(fits)
        };
        if let Some(mode) = tries(self.options) {
            return format!("it fits with --offload {mode}");
        }
        if self.options.accelerator && !self.options.text_on_cpu {
            let options = PlanOptions {
                text_on_cpu: true,
                ..self.options
            };
            if let Some(mode) = tries(options) {
                return format!("it fits with --offload {mode} --text-encoder-device cpu");
            }
        }
        if self.options.dtype == candle_core::DType::F32 {
            let options = PlanOptions {
                dtype: candle_core::DType::BF16,
                wide: candle_core::DType::BF16,
                ..self.options
            };
            if let Some(mode) = tries(options) {
                return format!("it fits with --dtype bf16 --offload {mode}");
            }
        }
        "ask for fewer frames or a smaller size, or use a smaller model or more memory".into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::DType;
    use leoma_models::weights::ModelKind;

    use super::*;

    const GB: u64 = 1_000_000_000;
    const GIB: u64 = 1 << 30;

    fn planning(kind: ModelKind, dtype: DType, device: u64) -> Planning {
        let options = PlanOptions {
            dtype,
            wide: dtype,
            accelerator: true,
            offload: Offload::None,
            text_on_cpu: false,
            threads: 8,
        };
        let budget = Budget {
            device: Some(device),
            host: Some(256 * GB),
        };
        Planning::new(ModelSizes::released(kind), options, budget)
    }

    fn clip(width: usize, height: usize, num_frames: usize) -> PlanRequest {
        PlanRequest {
            num_frames,
            height,
            width,
            guided: true,
            with_image: true,
            prompt_tokens: [512; 2],
        }
    }

    /// A card's memory less what the driver and the context take.
    fn card(gib: u64) -> u64 {
        gib * GIB - GIB
    }

    #[test]
    fn auto_takes_the_fastest_mode_that_fits() {
        let small = clip(832, 480, 81);
        for (gib, mode) in [
            (141, Offload::None),
            (80, Offload::None),
            (48, Offload::Experts),
            (24, Offload::Blocks),
        ] {
            let planning = planning(ModelKind::I2vA14b, DType::BF16, card(gib));
            assert_eq!(planning.choose(small), mode, "{gib}");
        }
        let large = clip(1280, 704, 121);
        let five = planning(ModelKind::Ti2v5b, DType::BF16, card(16));
        let mode = five.choose(large);
        assert_ne!(mode, Offload::None);
        let options = PlanOptions {
            offload: mode,
            ..five.options
        };
        assert!(
            five.check(&MemoryPlan::new(&five.sizes, large, options))
                .is_ok()
        );
    }

    #[test]
    fn a_refusal_says_what_is_needed_what_there_is_and_what_helps() {
        let small = clip(832, 480, 81);
        let planning = planning(ModelKind::I2vA14b, DType::BF16, card(24));
        let shortage = planning.check(&planning.plan(small)).unwrap_err();
        assert_eq!(shortage.memory, Memory::Device);
        assert!(shortage.needed > 57 * GB && shortage.available == card(24));
        assert!(
            shortage.to_string().contains("--offload blocks"),
            "{shortage}"
        );

        let large = clip(1280, 720, 81);
        let tiny = Planning {
            budget: Budget {
                device: Some(GB),
                host: Some(GB),
            },
            ..planning.clone()
        };
        let shortage = tiny.check(&tiny.plan(large)).unwrap_err();
        assert!(shortage.remedy.contains("fewer frames"), "{shortage}");

        let unknown = Planning {
            budget: Budget {
                device: None,
                host: None,
            },
            ..planning
        };
        assert!(unknown.check(&unknown.plan(large)).is_ok());
    }

    #[test]
    fn names_round_trip() {
        for name in ["auto", "none", "experts", "blocks"] {
            assert_eq!(name.parse::<OffloadChoice>().unwrap().to_string(), name);
        }
        for name in ["same", "cpu"] {
            assert_eq!(name.parse::<TextEncoderDevice>().unwrap().to_string(), name);
        }
        assert!("some".parse::<OffloadChoice>().is_err());
        assert!("gpu".parse::<TextEncoderDevice>().is_err());
    }
}
