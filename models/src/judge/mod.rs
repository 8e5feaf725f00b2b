//! The local video judge: a dense Qwen3-VL of any size, read and run by this crate.
//!
//! Pictures ([`Frame`]) become patches ([`Processor`]), patches features ([`VisionFeatures`]), text and
//! pictures a token list with positions ([`Sequence`]); a [`Session`] reads it into a cache of exactly the room
//! it needs. Two profiles stand on that: six questions of a general model ([`rubric`]) and UnifiedReward-2.0
//! ([`unified`]). [`LocalJudge`] is all of it behind one door.
//!
//! Source: Qwen3-VL (arXiv 2511.21631) as in transformers 5.14.1, `models/qwen3_vl`; checkpoints in its layout.
//! `docs/judge-model.md` says which models run and what they cost.

mod cache;
mod config;
mod digits;
mod dump;
pub mod embeddings;
mod frame;
mod local;
mod model;
mod position;
mod processor;
mod resize;
pub mod rubric;
mod sequence;
mod sizes;
mod tensors;
#[cfg(test)]
mod tests;
mod text;
mod tokenizer;
pub mod unified;
mod vision;
mod vision_position;

pub use cache::KvCache;
pub use config::{Qwen3VlConfig, TextConfig, VisionConfig};
pub use digits::{DIGITS, DigitReading, LEAST_MASS, probabilities};
pub use frame::Frame;
pub use local::{LocalJudge, RubricRun, Timings, UnifiedRun, rubric_sha256, unified_sha256};
pub use model::{Mark, Qwen3Vl, Session};
pub use position::Positions;
pub use processor::{Grid, MAX_FRAMES, Patches, Processor};
pub use sequence::{Sequence, SequenceBuilder, quoted_prompt};
pub use sizes::{PixelRange, image_size, patch_times, video_size};
pub use tensors::tensor_shapes;
pub use tokenizer::{JudgeTokenizer, MAX_TEXT_BYTES, Marks};
pub use vision::VisionFeatures;
