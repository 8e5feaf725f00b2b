//! One generation, from request to MP4: shared by the command line and the endpoint.

mod budget;
mod dump;
mod guard;
mod preset;
mod run;
mod settings;
mod sink;

pub use budget::{Budget, MemoryOptions, OffloadChoice, Planning, Shortage, TextEncoderDevice};
pub use dump::Dump;
pub use guard::{OutputFault, OutputGuard};
pub use preset::{DEFAULT_SEED, Preset, PresetValues};
pub use run::{Denoised, Generator, Output, Report, Resolver, StageSeconds};
pub use settings::{
    Effective, GenerationRequest, ModelDefaults, Origin, OutputFormat, Settings, noise_source,
    resolve,
};
pub use sink::Media;
