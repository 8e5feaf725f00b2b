//! One generation, from request to MP4: shared by the command line and the endpoint.

mod dump;
mod preset;
mod run;
mod settings;

pub use dump::Dump;
pub use preset::{DEFAULT_SEED, Preset, PresetValues};
pub use run::{Generator, Output, Report, Resolver, StageSeconds};
pub use settings::{
    Effective, GenerationRequest, ModelDefaults, Origin, Settings, noise_source, resolve,
};
